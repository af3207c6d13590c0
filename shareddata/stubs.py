"""Typed names for programs: a Python class a record, and a C header, made of descriptions.

It knows descriptions, and what identifiers Python and C allow. It must not know sockets or files. Invariants:

1. What is made passes `mypy --strict`, and compiles without a warning.
2. Two names of the description never become one name in a program.
3. Texts from descriptions stay in comments and strings.
"""

import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from shareddata import table
from shareddata.datadesc import Field, Record
from shareddata.names import Names

_TYPES = {"float": "float", "int": "int", "bool": "bool", "str": "str", "list": "list[Any]", "object": "dict[str, Any]"}
_ELEMENTS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
_C_TYPES = {"float": "double", "int": "long long", "bool": "bool"}
_C_WORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t "
    "char32_t class compl concept const consteval constexpr constinit const_cast continue co_await "
    "co_return co_yield decltype default delete do double dynamic_cast else enum explicit export extern "
    "false float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr "
    "operator or or_eq private protected public register reinterpret_cast requires restrict return short "
    "signed sizeof static static_assert static_cast struct switch template this thread_local throw true "
    "try typedef typeid typename typeof typeof_unqual union unsigned using virtual void volatile wchar_t "
    "while xor xor_eq "
)
_C_MACROS = "NULL EOF errno i386 linux stderr stdin stdout unix"  # some of them the compiler's own
_C_SIZES = ("int{}_t", "uint{}_t", "INT{}_MIN", "INT{}_MAX", "UINT{}_MAX")
_C_SIZED = [name.format(size) for size in (8, 16, 32, 64) for name in _C_SIZES]
_C_KEPT = frozenset((*_C_WORDS.split(), *_C_MACROS.split(), *_C_SIZED))
_C_FUNCTIONS = (
    "abs access acos asin atan atof atoi bind ceil clock close connect cos div exit exp floor fmod free gamma gets "
    "index j0 j1 jn link listen log log10 main malloc open pause pipe pow printf puts raise rand random read recv "
    "remove rename round select send signal sin sleep socket sqrt stat sync system tan time times trunc truncate wait "
    "write y0 y1 yn"
)
_C_TAKEN = frozenset(_C_FUNCTIONS.split())  # what a record's struct must not be called, but a field may
_C_GUARD = "SHAREDDATA_RECORDS_H"
_TUPLE = ("count", "index")  # what every tuple has: a field of this name hides it, and mypy is told so
_TOOLS = r"(type|mypy|(based)?pyright|noqa|fmt|yapf|isort|ruff|flake8|pylint|nosec|pragma)\b"  # that read comments


class _Unique:
    """Gives each name once: what was given before gets underscores behind."""

    def __init__(self, kept: Iterable[str] = ()) -> None:
        self._given = set(kept)

    def __call__(self, name: str, endings: Iterable[str] = ("",)) -> str:
        """Return a name with which also those with these endings are given once."""
        while not self._given.isdisjoint(taken := {name + ending for ending in endings}):
            name += "_"
        self._given |= taken
        return name


def _identifier(name: str) -> str:
    """Return what programs can call it; two underscores at the beginning mean something to each of the languages."""
    return re.sub(r"^__+", "_", re.sub(r"[^A-Za-z0-9_]|^(?=\d)", "_", name))


def _line(text: str) -> str:
    """Return a text that fits into one line of a comment or a docstring."""
    return " ".join(table.clean(text).split())


def _told(field: Field) -> str:
    """Return what a comment says of a field: unit, limits, meaning."""
    unit = "" if field.unit in ("", "1") else field.unit
    return _line(", ".join(part for part in (unit, table.range_text(field), field.doc) if part))


# -- Python -----------------------------------------------------------------------------------------------------------

_WORDS = {
    "np": "import numpy as _np\n",
    **dict.fromkeys(("bool", "dict", "float", "int", "list", "str"), "from builtins import {0} as _{0}\n"),
    "NDArray": "from numpy.typing import {0} as _{0}\n",
    "Any": "from typing import {0} as _{0}\n",
}
"""What fields' types are made of, and how it is imported where a field hides it."""
_TAKEN = (
    *("NamedTuple", "Protocol", "property", "ts", "sender", "name", "values", "set"),
    *(*_WORDS, *(f"_{word}" for word in _WORDS)),
)
"""What a class must not be called."""

_PYTHON_HEAD = '''"""The records' types. Made by `shareddata stubs`: change the data description, not this file.

    measures: {example} | None = dd.next()[0]     # an editor completes its fields, mypy finds a wrong one
    data: {example}Data = dd.set_datas_to_write(["{record}"])[0]
"""

from typing import {typing}
'''


def python(records: Mapping[str, Record]) -> str:
    """Return a Python module: for each record the class of its trames, and what its `set` takes.

    Redis: none.
    """
    unique = _Unique((*keyword.kwlist, *keyword.softkwlist, *_TAKEN))
    chosen = sorted(records.values(), key=lambda record: record.name)
    names = {record.name: unique(_identifier(record.name)) for record in chosen}
    parts = [_python_class(record, names[record.name]) for record in chosen]
    parts += [_python_data(record, names[record.name], unique(f"{names[record.name]}Data")) for record in chosen]
    body = "\n\n".join(parts)
    typing = ", ".join(
        name for name, used in (("Any", "Any" in body), ("NamedTuple", chosen), ("Protocol", chosen)) if used
    )
    example = names[chosen[0].name] if chosen else ""
    head = _PYTHON_HEAD.format(example=example, record=chosen[0].name if chosen else "", typing=typing or "Any")
    if "NDArray[" in body:
        head += "\nimport numpy as np\nfrom numpy.typing import NDArray\n"
    head += "".join(line.format(word) for word, line in _WORDS.items() if re.search(rf"\b_{word}\b", body))
    return f"{head}\n\n{body}"


def _python_type(field: Field) -> str:
    if field.dtype:
        kind, bits = field.dtype[1], 8 * int(field.dtype[2:])
        return f"NDArray[np.{'bool_' if kind == 'b' else f'{_ELEMENTS[kind]}{bits}'}]"
    return _TYPES.get(field.type, "Any")


def _field_type(record: Record, field: Field) -> str:
    """Return a field's type in the class of its record, where other fields may hide the words that it is made of."""
    hidden = {each.name for each in record.fields}
    words = re.findall(r"\w+|\W+", _python_type(field))
    return "".join(f"_{word}" if word in hidden and word in _WORDS else word for word in words)


def _comment(text: str) -> str:
    """Return a comment, which no tool takes for an order."""
    return f"  # {f'({text})' if re.match(_TOOLS, text) else text}" if text else ""


def _docstring(text: str) -> str:
    return '"""' + _line(text).replace("\\", "\\\\").replace('"""', "'''").rstrip('"') + '"""'


def _python_class(record: Record, name: str) -> str:
    lines = [f"class {name}(NamedTuple):", f"    {_docstring(record.doc or record.name)}", ""]
    for field in record.fields:
        ignored = "  # type: ignore[assignment]" if field.name in _TUPLE else ""
        lines.append(f"    {field.name}: {_field_type(record, field)}{ignored}{_comment(_told(field))}")
    return "\n".join(lines) + "\n"


def _python_data(record: Record, name: str, own: str) -> str:
    unset = [f"        {field.name}: {_python_type(field)} = ...," for field in record.fields[2:]]
    itself = "_self" if any(field.name == "self" for field in record.fields) else "self"
    head = [f"        {itself},", *([*unset] if unset else []), "        *,"]
    named = ["        ts: float = ...,", "        sender: str = ...,", "        expire: float | None = ...,"]
    return "\n".join(
        [
            *(f"class {own}(Protocol):", f'    """What writes `{record.name}`: a `Data`."""', ""),
            *("    ts: float | None", "    sender: str", ""),
            *("    @property", "    def name(self) -> str: ...", ""),
            *("    @property", f"    def values(self) -> {name}: ...", ""),
            *("    def set(", *head, *named, "    ) -> None: ...", ""),
        ]
    )


# -- C ----------------------------------------------------------------------------------------------------------------

_C_HEAD = """/* The records' names, fields and units.
 * Made by `shareddata stubs`: change the data description, not this file.
 *
 * A record is a hash at its key. Its values are text, as the page "wire format" tells; arrays are raw bytes.
 *
 *     redisCommand(redis, "HGET %s %s", {record}_KEY, {record}_field.{field})
 *
 * or all of them at once, in their order:
 *
 *     const char *words[] = {record}_HMGET;
 *     redisReply *reply = redisCommandArgv(redis, {record}_COUNT + 2, words, NULL);
 *     reply->element[{at}]
 */
#ifndef {guard}
#define {guard}

#include <stdbool.h>
#include <stdint.h>
"""


def header(records: Mapping[str, Record], namespace: str = "") -> str:
    """Return a C header, which C++ reads too: for each record its key, its fields' names, units and places, a struct.

    Args:
        records: the descriptions.
        namespace: of the records; it is part of the keys.

    Redis: none.
    """
    unique, parts, example = _Unique((*_C_KEPT, *_C_TAKEN, _C_GUARD)), [], ("", "", "")
    for record in sorted(records.values(), key=lambda record: record.name):
        members = _members(record)
        at = [f"_at_{member}" for member in members.values()]
        name = unique(_identifier(record.name), ("", "_KEY", "_COUNT", "_HMGET", "_field", "_unit", *at))
        places = {field: f"{name}_at_{member}" for field, member in members.items()}
        parts.append(_c_record(record, name, members, places, Names(namespace)))
        last = record.fields[-1].name
        example = example if example[0] else (name, members[last], places[last])
    head = _C_HEAD.format(record=example[0], field=example[1], at=example[2], guard=_C_GUARD)
    return "\n".join([head, *parts, "#endif\n"])


def _members(record: Record) -> dict[str, str]:
    """Return a C identifier for each field."""
    unique = _Unique(_C_KEPT)
    return {field.name: unique(_identifier(field.name)) for field in record.fields}


def _c_record(record: Record, name: str, members: Mapping[str, str], places: Mapping[str, str], keys: Names) -> str:
    fields = record.fields

    declared = ", ".join(f"*{members[field.name]}" for field in fields)
    hmget = ", ".join(['"HMGET"', f"{name}_KEY", *(_c_string(field.name) for field in fields)])
    return "\n".join(
        [
            f"/* {_c_comment(f'{record.name}: {record.doc}' if record.doc else record.name)} */",
            f"#define {name}_KEY {_c_string(keys.record(record.name))}",
            f"#define {name}_COUNT {len(fields)}",
            f"#define {name}_HMGET {{{hmget}}}",
            *("enum {", ",\n".join(f"    {places[field.name]} = {i}" for i, field in enumerate(fields)), "};"),
            *_c_texts(declared, f"{name}_field", [field.name for field in fields]),
            *_c_texts(declared, f"{name}_unit", [field.unit for field in fields]),
            *("typedef struct {", *(_c_member(field, members[field.name]) for field in fields), f"}} {name};", ""),
        ]
    )


def _c_texts(declared: str, name: str, texts: Iterable[str]) -> list[str]:
    """Return a struct of texts, one for each field."""
    values = ", ".join(map(_c_string, texts))
    return [f"static const struct {{ const char {declared}; }}", f"    {name} = {{{values}}};"]


def _c_member(field: Field, member: str) -> str:
    told = _c_comment(_told(field))
    comment = f" /* {told} */" if told else ""
    if field.dtype:
        kind, size = field.dtype[1], int(field.dtype[2:])
        element = {
            "b": "bool",
            "i": f"int{8 * size}_t",
            "u": f"uint{8 * size}_t",
            "f": "double" if size == 8 else "float",
        }
        count = "".join(f"[{n}]" for n in field.shape)
        if kind == "c" or (kind, size) == ("f", 2):
            return f"    unsigned char {member}{count}[{size}];{comment}"
        return f"    {element[kind]} {member}{count};{comment}"
    kind = _C_TYPES.get(field.type, "const char *")
    return f"    {kind}{'' if kind.endswith('*') else ' '}{member};{comment}"


def _c_string(text: str) -> str:
    """Return a string literal, of bytes in UTF-8; what is not printable as their numbers."""
    parts = re.sub(r'["\\?]', r"\\\g<0>", text)
    return '"' + "".join(c if c.isprintable() else _c_bytes(c.encode()) for c in parts) + '"'


def _c_bytes(data: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in data)


def _c_comment(text: str) -> str:
    """Return a text that does not end a comment, nor begin another one."""
    return _line(text).replace("*/", "* /").replace("/*", "/ *").replace("??/", "? ?/").rstrip("\\")


def text_of(records: Mapping[str, Record], extension: str, namespace: str = "") -> str:
    """Return what a file of this extension holds: `.py` or `.h`.

    Redis: none.
    """
    made: dict[str, Callable[[], Any]] = {".py": lambda: python(records), ".h": lambda: header(records, namespace)}
    return str(made[extension]())
