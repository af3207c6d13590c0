"""The data description: which records there are, and what their fields are.

It knows what a declaration may hold and makes `Record` and `Field` of it. It must not know files (`descfile`), sockets,
keys or how values are written. Invariants:

1. A declaration is taken whole or not at all: the first mistake is a DescriptionError that names record, field, what
   was found, what was expected and the remedy.
2. `ts` (float) and `sender` (str) are the first fields of every record, in that order.
3. A Record is immutable; `parse_record(record.name, record.as_json()) == record`.

The short form of a record is a list of `[name, default]`; a third element holds options. The long form is an object
`{"doc": ..., "owner": ..., "history": ..., "max_age": ..., "fields": [...]}`. The type of a field is its default's:
`0.0` float, `0` int, `false` bool, `""` str, `[]` list, `{}` object, `null` any JSON value; `dtype` and `shape` make
it an array. `datadesc.schema.json` says the same as a JSON Schema.
"""

import difflib
import json
import keyword
import math
import re
import time
import unicodedata
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import Any

from shareddata.errors import DescriptionError
from shareddata.htmltable import table
from shareddata.names import check_name

DEFAULT_HISTORY = 256
"""Trames that a record's history keeps when its description does not say."""

_TYPE_NAMES = {"null": "any"}  # a null default: any JSON value
_FLOAT_MAX = {"<f2": 65504.0, "<f4": 3.4028235e38, "<f8": 1.7e308, "<c8": 3.4028235e38, "<c16": 1.7e308}
_SPAN_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_LONGEST_SPAN = 100 * 366 * 86400
_MOST_HISTORY = 2**53
_MOST_BYTES, _MOST_DIMENSIONS = 1 << 29, 64  # of an array: what Redis holds in a value, and numpy in an array
_FIELD_OPTIONS = ("unit", "min", "max", "on_limit", "doc", "dtype", "shape")
_RECORD_OPTIONS = ("doc", "owner", "history", "max_age", "fields")

DTYPES = (
    *("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"),
    *("<f2", "<f4", "<f8", "<c8", "<c16"),
)
"""The element types of arrays, as numpy writes them (`numpy.dtype(...).str`); single bytes also as `<u1`."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    Attributes:
        name: an identifier.
        type: `float`, `int`, `bool`, `str`, `list`, `object`, `any` or `array`.
        default: the value of a record that was never written.
        unit: the unit of the value (`"V"`, `"m/s"`), `""` for none.
        min: the lowest value that is within limits, None for no limit.
        max: the highest one.
        on_limit: `"flag"` stores a value out of limits and lets readers tell, `"refuse"` makes it a FieldError.
        doc: what the field means.
        dtype: an array's element type, as numpy writes it.
        shape: an array's number of elements in each dimension.
    """

    name: str
    type: str
    default: Any
    unit: str = ""
    min: float | None = None
    max: float | None = None
    on_limit: str = "flag"
    doc: str = ""
    dtype: str | None = None
    shape: tuple[int, ...] = ()

    def outside(self, value: Any) -> bool:
        """Tell whether a number is out of this field's limits; NaN is outside of any limit.

        A value of another type, from a time when the field was described otherwise, is not.
        """
        try:
            if self.min is not None and not value >= self.min:
                return True
            return self.max is not None and not value <= self.max
        except TypeError:
            return False

    @property
    def kind(self) -> tuple[str, str | None, tuple[int, ...]]:
        """What `codec.encoder` and `codec.decoder` take: type, dtype, shape."""
        return self.type, self.dtype, self.shape

    def type_text(self) -> str:
        """Return the type and unit for messages and tables: `float [V]`, `array <f4 (3,)`."""
        text = f"array {self.dtype} {self.shape}" if self.dtype else "JSON value" if self.type == "any" else self.type
        return f"{text} [{self.unit}]" if self.unit else text


@dataclass(frozen=True)
class Record:
    """A named, ordered set of fields.

    Attributes:
        name: letters, digits and `_.-`.
        fields: the fields in order; the first two are `ts` and `sender`.
        doc: what the record is.
        owner: the name of the program that writes it.
        history: how many trames the history keeps (0: none), or for how long, as text like `"2h"`.
        max_age: seconds after which a trame is old, None for never.
        clock: what tells the time now, for `age` and `stale`: of a record that `SharedMemory.describe` returned the
            server's time, else this machine's. It is no part of the description.
    """

    name: str
    fields: tuple[Field, ...]
    doc: str = ""
    owner: str = ""
    history: int | str = DEFAULT_HISTORY
    max_age: float | None = None
    clock: Callable[[], float] = dataclass_field(default=time.time, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return parse_record, (self.name, self.as_json())

    @cached_property
    def trame(self) -> Any:
        """The named tuple class of this record's values."""
        name = re.sub(r"\W|^(?=\d)", "_", self.name)
        make: Any = namedtuple
        made = make(name + "_" * keyword.iskeyword(name), [f.name for f in self.fields])
        made._repr_html_ = lambda trame: self._show(trame)
        return made

    def _show(self, trame: tuple[Any, ...]) -> str:
        """Return a trame as notebooks show it."""
        outside = self.out_of_limits(trame)
        units = [", ".join(filter(None, (f.unit, "out of limits" * (f.name in outside)))) for f in self.fields]
        rows = [(f.name, value, unit) for f, value, unit in zip(self.fields, trame, units)]
        return table(self.name, ["field", "value", "unit"], rows)

    def _repr_html_(self) -> str:
        rows = [(f.name, f.type_text(), f.default, f.min, f.max, f.doc) for f in self.fields]
        shown = [["" if cell is None else cell for cell in row] for row in rows]
        title = f"{self.name}: {self.doc}" if self.doc else self.name
        return table(title, ["field", "type", "default", "min", "max", "meaning"], shown)

    @cached_property
    def limited(self) -> tuple[tuple[int, Field], ...]:
        """The fields with limits, each with its position."""
        return tuple((i, f) for i, f in enumerate(self.fields) if f.min is not None or f.max is not None)

    @property
    def history_span(self) -> float | None:
        """For how many seconds the history is kept, None when it is bounded by a count."""
        return parse_span(self.history) if isinstance(self.history, str) else None

    def field(self, name: str) -> Field:
        """Return a field by its name.

        Raises:
            KeyError: when the record has no such field.
        """
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    def out_of_limits(self, trame: tuple[Any, ...]) -> tuple[str, ...]:
        """Return the names of the fields whose values are out of the described limits.

        Args:
            trame: one value of this record.

        Redis: none.
        """
        return tuple(f.name for i, f in self.limited if f.outside(trame[i]))

    def age(self, trame: tuple[Any, ...] | None, now: float | None = None, received: float | None = None) -> float:
        """Return how many seconds ago a trame was measured, by the writer's time stamp.

        Args:
            trame: one value of this record; one that is missing, or was never written, is infinitely old.
            now: seconds since 1970; what the record's `clock` tells if None.
            received: when the server got the trame, by its own clock, where that is known (`SharedMemory.received`):
                the age is then the greater of both, so that a writer whose clock is ahead does not look alive.

        Redis: none; the server's clock is asked once a minute where `now` is None.
        """
        if trame is None or trame[0] <= 0:
            return math.inf
        now = self.clock() if now is None else now
        age: float = now - trame[0]
        return age if received is None or age != age else max(age, now - received)

    def stale(
        self, trame: tuple[Any, ...] | None, now: float | None = None, received: float | None = None
    ) -> bool:
        """Tell whether a trame is too old to be used: older than `max_age`, or missing.

        A time stamp that is further ahead than `max_age` tells nothing: such a trame is stale too, unless it is known
        when the server received it.

        Args:
            trame: as for `age`.
            now: as for `age`.
            received: as for `age`.

        Returns:
            Without a `max_age` only whether it is missing.

            >>> battery = parse_record("B", {"max_age": 3, "fields": [["ts", 0.0], ["sender", ""], ["voltage", 0.0]]})
            >>> measured = battery.trame(1000.0, "HDL_BATTERY", 12.6)
            >>> battery.stale(measured, now=1002.0), battery.stale(measured, now=1004.0), battery.stale(None)
            (False, True, True)

        Redis: as `age`.
        """
        if trame is None or self.max_age is None:
            return trame is None
        age = self.age(trame, now, received)
        return not age <= self.max_age or (received is None and age < -self.max_age)

    def defaults(self) -> list[Any]:
        """Return the value of each field of a record that was never written."""
        return [f.default for f in self.fields]

    def as_json(self) -> dict[str, Any]:
        """Return the long form of the description, with only what differs from what is usual."""
        result: dict[str, Any] = {"doc": self.doc} if self.doc else {}
        if self.owner:
            result["owner"] = self.owner
        if self.history != DEFAULT_HISTORY or any(f.dtype for f in self.fields):
            result["history"] = self.history
        if self.max_age is not None:
            result["max_age"] = self.max_age
        result["fields"] = [_field_as_json(f) for f in self.fields]
        return result

    def declaration(self) -> str:
        """Return the description as it stands in Redis."""
        return json.dumps(self.as_json(), ensure_ascii=False)


def same(one: tuple[Any, ...] | None, other: tuple[Any, ...] | None) -> bool:
    """Tell whether two trames of a record hold the same values: arrays too, and NaN is as NaN was.

    >>> same((1.0, "HDL", float("nan")), (1.0, "HDL", float("nan"))), same((1.0,), None)
    (True, False)
    """
    if one is other or one is None or other is None:
        return one is other
    try:
        return len(one) == len(other) and all(map(_alike, one, other))
    except RecursionError:  # nested so deeply that it cannot be compared
        return False


def _alike(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if hasattr(one, "tobytes"):
        return bool(type(one) is type(other) and one.shape == other.shape and one.tobytes() == other.tobytes())
    return bool(one == other or (one != one and other != other))


def _field_as_json(f: Field) -> list[Any]:
    options = {
        option: list(value) if option == "shape" else value
        for option in _FIELD_OPTIONS
        if (value := getattr(f, option)) not in (None, "", ())
        and (option != "on_limit" or value != "flag")
        and (option != "shape" or f.dtype)
    }
    return [f.name, f.default, options] if options else [f.name, f.default]


def parse_span(text: str) -> float:
    """Return a time like `"2h"`, `"90 s"`, `"30min"` or `"1.5d"` in seconds.

    Raises:
        ValueError: when it is not a positive number with one of the units s, m, min, h, d.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|m|min|h|d)\s*", text)
    seconds = float(match[1]) * _SPAN_UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= _LONGEST_SPAN:
        raise ValueError(f"{text[:40]!r} is no time: write a number and s, m, h or d, like '2h'")
    return seconds


def check_compatible(running: Record, described: Record) -> None:
    """Check that a program that knows one description of a record can go on under a newer one.

    It can when every field it knows is still there with the same type; new fields, units, limits and texts don't
    disturb it.

    Raises:
        DescriptionError: naming the field that went or changed its type.
    """
    new = {f.name: f for f in described.fields}
    for f in running.fields:
        if f.name not in new:
            raise DescriptionError(
                f"record {running.name} was described anew without the field {f.name!r} that this program uses: "
                "start this program again with the new description"
            )
        if new[f.name].kind != f.kind:
            raise DescriptionError(
                f"record {running.name} was described anew: the field {f.name!r} is now {new[f.name].type_text()}, "
                f"this program uses {f.type_text()}: start this program again with the new description"
            )


def parse_record(name: str, declaration: Any) -> Record:
    """Read one record's declaration, in the short or the long form.

    Raises:
        DescriptionError: naming record, field, what was found and what was expected.
    """
    check_name(name)
    where = f"record {name}"
    options: Mapping[str, Any] = {}
    if isinstance(declaration, Mapping):
        options, declaration = declaration, declaration.get("fields")
        _check_options(options, _RECORD_OPTIONS, where)
    if not isinstance(declaration, list | tuple):
        raise DescriptionError(
            f'{where}: found {json_type(declaration)}, expected a list of fields like [["ts", 0.0], ["sender", ""]]'
        )
    fields = tuple(_parse_field(entry, i, where) for i, entry in enumerate(declaration))
    _check_fields(fields, where)
    history = options.get("history", 0 if any(f.dtype for f in fields) else DEFAULT_HISTORY)
    return Record(
        name,
        fields,
        doc=_text(options, "doc", where),
        owner=_text(options, "owner", where),
        history=_parse_history(history, where),
        max_age=_number(options, "max_age", where, positive=True),
    )


def _check_fields(fields: tuple[Field, ...], where: str) -> None:
    names = [f.name for f in fields]
    if names[:2] != ["ts", "sender"]:
        raise DescriptionError(
            f"{where}: the first fields are {names[:2]}, expected ['ts', 'sender']: "
            'begin the record with ["ts", 0.0], ["sender", ""]'
        )
    if fields[0].type != "float" or fields[1].type != "str":
        raise DescriptionError(f'{where}: ts must be a number and sender a text: write ["ts", 0.0], ["sender", ""]')
    for i, name in enumerate(names):
        if name in names[:i]:
            raise DescriptionError(f"{where}: field {name!r} is given twice: rename or delete one of them")


def _parse_field(entry: Any, position: int, where: str) -> Field:
    if not isinstance(entry, list | tuple) or len(entry) not in (2, 3) or not isinstance(entry[0], str):
        raise DescriptionError(
            f"{where}: field {position + 1} is {json.dumps(entry, default=str)[:80]}, "
            'expected ["name", default] or ["name", default, {options}]'
        )
    name, default, options = entry[0], entry[1], entry[2] if len(entry) == 3 else {}
    normal = unicodedata.normalize("NFKC", name)
    where = f"{where}, field {name!r}"
    if not name.isidentifier() or normal != name or keyword.iskeyword(name) or name[0] == "_" or name == "expire":
        raise DescriptionError(
            f"{where}: a field's name is an identifier, no Python keyword, not 'expire', and begins with no underscore"
        )
    if not isinstance(options, Mapping):
        raise DescriptionError(f'{where}: options are {json_type(options)}, expected an object like {{"unit": "V"}}')
    _check_options(options, _FIELD_OPTIONS, where)
    _check_default(default, where)
    if name == "ts" and json_type(default) == "int" and abs(default) < 2**53:
        default = float(default)
    kind = _TYPE_NAMES.get(json_type(default), json_type(default))
    dtype, shape = _parse_array(options, where)
    if dtype:
        _check_array_default(default, dtype, shape, where)
    return Field(
        name,
        "array" if dtype else kind,
        default,
        unit=_text(options, "unit", where),
        doc=_text(options, "doc", where),
        dtype=dtype,
        shape=shape,
        **_parse_limits(options, "array" if dtype else kind, where),
    )


def json_type(value: Any) -> str:
    """Return the type of a JSON value, as descriptions call it."""
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"), (type(None), "null")):
        if isinstance(value, kind):
            return name
    if isinstance(value, list | tuple):
        return "list"
    return "object" if isinstance(value, Mapping) else type(value).__name__


def _check_options(options: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(str(option), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise DescriptionError(f"{where}: unknown option {option!r}: {hint}")


def _check_default(value: Any, where: str) -> None:
    """Check that a value can be written: JSON, and text without lone surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
        _check_keys(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise DescriptionError(f"{where}: {json_type(value)} cannot be written: {error}") from None


def _check_keys(value: Any) -> None:
    """Check that objects have text keys only; json would make text of others."""
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {wrong[0]!r} of an object must be a str")
        value = list(value.values())
    for item in value if isinstance(value, list | tuple) else ():
        _check_keys(item)


def _text(options: Mapping[str, Any], option: str, where: str) -> str:
    value = options.get(option, "")
    if not isinstance(value, str):
        raise DescriptionError(f"{where}: {option} is {value!r}, expected a text")
    _check_default(value, where)
    return value


def _number(options: Mapping[str, Any], option: str, where: str, positive: bool = False) -> float | None:
    value = options.get(option)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e308:
        raise DescriptionError(f"{where}: {option} is {value!r}, expected a number")
    if positive and value <= 0:
        raise DescriptionError(f"{where}: {option} is {value!r}, expected a number above 0")
    return value


def _parse_limits(options: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    low, high = _number(options, "min", where), _number(options, "max", where)
    on_limit = options.get("on_limit", "flag")
    if on_limit not in ("flag", "refuse"):
        raise DescriptionError(f"{where}: on_limit is {on_limit!r}, expected 'flag' or 'refuse'")
    if (low is not None or high is not None) and kind not in ("float", "int"):
        raise DescriptionError(f"{where}: min and max are for numbers, and this field is {kind}: delete them")
    if low is not None and high is not None and low > high:
        raise DescriptionError(f"{where}: min {low} is above max {high}: exchange them")
    return {"min": low, "max": high, "on_limit": on_limit}


def _parse_array(options: Mapping[str, Any], where: str) -> tuple[str | None, tuple[int, ...]]:
    if "dtype" not in options and "shape" not in options:
        return None, ()
    dtype, shape = options.get("dtype"), options.get("shape")
    if isinstance(dtype, str) and dtype in ("<b1", "<i1", "<u1", "b1", "i1", "u1"):
        dtype = "|" + dtype[-2:]
    if dtype not in DTYPES:
        raise DescriptionError(f"{where}: dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not isinstance(shape, list | tuple) or not shape or not all(type(n) is int and n > 0 for n in shape):
        raise DescriptionError(f"{where}: shape is {shape!r}, expected a list of numbers above 0 like [480, 640]")
    size = math.prod(shape) * int(dtype[2:])
    if size > _MOST_BYTES or len(shape) > _MOST_DIMENSIONS:
        raise DescriptionError(
            f"{where}: an array of shape {str(list(shape))[:60]} has {str(size)[:20]} bytes: Redis holds {_MOST_BYTES} "
            f"in a value, and numpy {_MOST_DIMENSIONS} dimensions: use a frame file"
        )
    return dtype, tuple(shape)


def _check_array_default(default: Any, dtype: str, shape: tuple[int, ...], where: str) -> None:
    """Check a nested list, or one number that fills the array, without numpy: a description is read without it."""
    if isinstance(default, list | tuple):
        if not shape or len(default) != shape[0]:
            raise DescriptionError(f"{where}: the default has {len(default)} elements, shape says {list(shape)}")
        for item in default:
            if len(shape) > 1 and not isinstance(item, list | tuple):
                raise DescriptionError(f"{where}: the default has fewer dimensions than shape says: {list(shape)}")
            _check_array_default(item, dtype, shape[1:], where)
    elif (json_type(default) == "bool") != (dtype == "|b1") or not isinstance(default, int | float):
        raise DescriptionError(f"{where}: the default {default!r} is no element of an array of {dtype}")
    elif dtype[1] in "iu" and not isinstance(default, int):
        raise DescriptionError(f"{where}: the default {default!r} is no whole number, as {dtype} wants")
    elif dtype[1] != "b" and not _fits(default, dtype):
        raise DescriptionError(f"{where}: the default {default!r} does not fit {dtype}")


def _fits(value: float, dtype: str) -> bool:
    """Tell whether a number is in the range of an element type; NaN and infinities are in every float's."""
    if dtype[1] in "fc":
        return isinstance(value, float) and not math.isfinite(value) or abs(value) <= _FLOAT_MAX[dtype]
    bits = 8 * int(dtype[2:])
    if dtype[1] == "i":
        return -(1 << bits - 1) <= value < 1 << bits - 1
    return 0 <= value < 1 << bits


def _parse_history(value: Any, where: str) -> int | str:
    if isinstance(value, str):
        try:
            parse_span(value)
        except ValueError as error:
            raise DescriptionError(f"{where}: history {error}") from None
        return value
    if type(value) is not int or not 0 <= value <= _MOST_HISTORY:
        raise DescriptionError(f'{where}: history is {value!r}, expected a count (0 for none) or a time like "2h"')
    return value
