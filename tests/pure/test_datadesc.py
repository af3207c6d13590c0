"""Descriptions: both forms, what they mean, the way back to JSON, and one message for each mistake that can be made."""

import json
import keyword
import math
import pickle
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shareddata import datadesc
from shareddata.datadesc import DEFAULT_HISTORY, DTYPES, Field, Record, parse_record, parse_span
from shareddata.descfile import load
from shareddata.errors import DescriptionError

ROOT = Path(__file__).parents[2]
START: list[list[Any]] = [["ts", 0.0], ["sender", ""]]
DOCUMENT = """
{
    "PUPITRE__joyleft": [
        [ "ts", 0.0 ],
        [ "sender", "blip" ],
        [ "axe_horizontal", 0 ],
        [ "axe_vertical", 0 ],
        [ "rotation", 0 ],
        [ "bouton", false ]
    ]
}
"""


def record(*fields: list[Any], **options: Any) -> Record:
    return parse_record("R", {**options, "fields": [*START, *fields]})


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Write a description file and return its path."""

    def write(content: str | bytes, name: str = "desc.json") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# -- what a description means -----------------------------------------------------------------------------------------


def test_the_documents_example(write: Callable[[str | bytes], Path]) -> None:
    joystick = load(write(DOCUMENT))["PUPITRE__joyleft"]
    assert [(f.name, f.type, f.default) for f in joystick.fields] == [
        ("ts", "float", 0.0),
        ("sender", "str", "blip"),
        ("axe_horizontal", "int", 0),
        ("axe_vertical", "int", 0),
        ("rotation", "int", 0),
        ("bouton", "bool", False),
    ]
    assert (joystick.history, joystick.owner, joystick.doc, joystick.max_age) == (DEFAULT_HISTORY, "", "", None)
    assert joystick.defaults() == [0.0, "blip", 0, 0, 0, False]
    assert joystick.limited == ()


def test_the_long_form() -> None:
    declaration = {
        "doc": "What it measures.",
        "owner": "HDL_BATTERY",
        "history": "2h",
        "max_age": 2.0,
        "fields": [*START, ["voltage", 0.0, {"unit": "V", "min": 0, "max": 60, "on_limit": "refuse", "doc": "main"}]],
    }
    measures = load({"BATTERY__measures": declaration})["BATTERY__measures"]
    assert (measures.doc, measures.owner, measures.history) == ("What it measures.", "HDL_BATTERY", "2h")
    assert (measures.max_age, measures.history_span) == (2.0, 7200.0)
    voltage = Field("voltage", "float", 0.0, unit="V", min=0, max=60, on_limit="refuse", doc="main")
    assert measures.fields[2] == measures.field("voltage") == voltage
    assert measures.limited == ((2, voltage),)
    with pytest.raises(KeyError, match="amperes"):
        measures.field("amperes")


def test_short_and_long_form_are_the_same_record() -> None:
    fields = [*START, ["a", 0.0, {"unit": "V"}]]
    assert parse_record("R", fields) == parse_record("R", {"fields": fields}) == parse_record("R", tuple(fields))


@pytest.mark.parametrize(
    ("default", "kind"),
    [
        (0.0, "float"), (0, "int"), (False, "bool"), ("", "str"), ([], "list"), ({}, "object"), (None, "any"),
        (math.nan, "float"), (10**30, "int"), (True, "bool"), ([1, "a", None], "list"), ({"a": {}}, "object"),
    ],
)  # fmt: skip
def test_the_defaults_type_is_the_fields(default: object, kind: str) -> None:
    field = record(["a", default]).fields[2]
    assert (field.type, field.kind, field.dtype) == (kind, (kind, None, ()), None)
    assert field.default is default


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("default", ["one", "all"])
def test_array(dtype: str, default: str) -> None:
    one: Any = {"b": True, "f": 0.5}.get(dtype[1], 1)
    array = record(["a", one if default == "one" else [[one] * 3] * 2, {"dtype": dtype, "shape": [2, 3]}])
    assert array.fields[2].kind == ("array", dtype, (2, 3))
    assert np.dtype(dtype).str == dtype
    assert array.history == 0, "arrays have no history unless asked for"
    asked = record(["a", one, {"dtype": dtype, "shape": [2]}], history=5)
    assert asked.history == 5


@pytest.mark.parametrize(("text", "dtype"), [("u1", "|u1"), ("<u1", "|u1"), ("|i1", "|i1"), ("b1", "|b1")])
def test_single_bytes_have_no_order(text: str, dtype: str) -> None:
    assert record(["a", dtype == "|b1" or 1, {"dtype": text, "shape": [1]}]).fields[2].dtype == dtype


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (["a", 0.0], "float"),
        (["a", 0.0, {"unit": "m/s"}], "float [m/s]"),
        (["a", None], "JSON value"),
        (["a", 0, {"dtype": "<f4", "shape": [3]}], "array <f4 (3,)"),
        (["a", 0, {"dtype": "<f4", "shape": [3], "unit": "m"}], "array <f4 (3,) [m]"),
    ],
)
def test_type_text(field: list[Any], text: str) -> None:
    assert record(field).fields[2].type_text() == text


def test_ts_may_be_written_as_a_whole_number() -> None:
    ts = parse_record("R", [["ts", 0], ["sender", ""]]).fields[0]
    assert (ts.type, ts.default, type(ts.default)) == ("float", 0.0, float)


@pytest.mark.parametrize("name", ["R", "GPS__fix", "1a", ".-", "class", "None", "if.x", "_", "a.b-c", "match"])
def test_trame(name: str) -> None:
    trame = parse_record(name, [*START, ["count", 0], ["index", 1], ["é", 2]]).trame(1.0, "me", 2, 3, 4)
    assert (trame.ts, trame.sender, trame.count, trame.index, trame.é) == trame == (1.0, "me", 2, 3, 4)


def test_a_record_does_not_change() -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        record().history = 5  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot assign"):
        record().fields[0].unit = "s"  # type: ignore[misc]


LIMITS = [
    (
        {"min": 0, "max": 60},
        [(0, False), (60, False), (60.001, True), (-1e-300, True), (math.inf, True), (math.nan, True)],
    ),
    ({"min": 0}, [(0, False), (1e300, False), (math.inf, False), (-0.1, True), (math.nan, True)]),
    ({"max": -1.5}, [(-2, False), (-math.inf, False), (0, True), (math.nan, True), (np.float32(0), True)]),
    ({}, [(math.nan, False), (math.inf, False)]),
    ({"min": 5, "max": 5}, [(5, False), (5.0, False), (4, True), (6, True), (10**400, True), (-(10**400), True)]),
]


@pytest.mark.parametrize(("options", "cases"), LIMITS, ids=lambda value: str(value)[:25])
def test_limits(options: dict[str, Any], cases: list[tuple[float, bool]]) -> None:
    limited = record(["other", 0.0], ["a", 0.0, options])
    for value, outside in cases:
        assert limited.fields[3].outside(value) is outside
        assert limited.out_of_limits((0.0, "me", 1e9, value)) == (("a",) if outside else ())


# -- the way back to JSON ---------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True)
FIELD_NAMES = st.from_regex(r"[A-Za-zé][A-Za-z0-9_é]{0,10}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name) and name not in ("expire", "ts", "sender")
)
TEXTS = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
LIMIT = st.none() | st.integers(-(10**6), 0) | st.floats(-1e6, 0)


@st.composite
def field_declarations(draw: st.DrawFn, name: str) -> list[Any]:
    options: dict[str, Any] = draw(st.fixed_dictionaries({}, optional={"unit": TEXTS, "doc": TEXTS}))
    if draw(st.booleans()):
        dtype = draw(st.sampled_from(DTYPES))
        options |= {"dtype": dtype, "shape": draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))}
        return [name, {"b": False, "f": 0.25}.get(dtype[1], 7), options]
    default = draw(JSON)
    if type(default) in (int, float):
        high = draw(st.none() | st.integers(0, 10**6) | st.floats(0, 1e6))
        options |= {"min": draw(LIMIT), "max": high, "on_limit": draw(st.sampled_from(["flag", "refuse"]))}
    return [name, default, options] if options or draw(st.booleans()) else [name, default]


@st.composite
def declarations(draw: st.DrawFn) -> Any:
    names = draw(st.lists(FIELD_NAMES, max_size=4, unique=True))
    fields = [["ts", draw(st.floats())], ["sender", draw(TEXTS)], *(draw(field_declarations(name)) for name in names)]
    if draw(st.booleans()):
        return fields
    options = {
        "doc": TEXTS,
        "owner": TEXTS,
        "history": st.integers(0, 10**6) | st.sampled_from(["2h", "90 s", "1.5d", "30min"]),
        "max_age": st.none() | st.floats(1e-3, 1e6) | st.integers(1, 100),
    }
    return {**draw(st.fixed_dictionaries({}, optional=options)), "fields": fields}


@given(NAMES, declarations())
def test_there_and_back(name: str, declaration: Any) -> None:
    parsed = parse_record(name, declaration)
    text = json.dumps(parsed.as_json(), ensure_ascii=False)
    again = parse_record(name, json.loads(text.encode()))
    assert repr(again) == repr(parsed), "repr compares NaN, the sign of zero and types too"
    assert again.as_json().keys() == parsed.as_json().keys()
    assert repr(load({name: json.loads(text)})) == repr({name: parsed})


@settings(max_examples=100)
@given(st.dictionaries(NAMES, declarations(), max_size=4))
def test_a_file_says_the_same_as_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "desc.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    assert repr(load(path)) == repr(load(str(path))) == repr(load(content))


ANYTHING = JSON | st.binary() | st.builds(object) | st.just({1}) | st.just(np.int64(3)) | st.just("\ud800")


@given(st.sampled_from(["R", "", "a b", 5, None]), ANYTHING | st.lists(ANYTHING) | st.lists(st.lists(ANYTHING)))
def test_whatever_is_no_description_is_a_description_error(name: Any, declaration: Any) -> None:
    try:
        parse_record(name, declaration)
    except DescriptionError:
        return
    raise AssertionError("random values do not begin with ts and sender")


@given(
    ANYTHING, st.dictionaries(st.sampled_from(["unit", "min", "max", "dtype", "shape", "doc", "on_limit"]), ANYTHING)
)
def test_whatever_a_field_is_it_can_be_written_or_is_a_description_error(default: Any, options: dict[str, Any]) -> None:
    try:
        parsed = record(["a", default, options])
    except DescriptionError:
        return
    assert repr(parse_record("R", json.loads(json.dumps(parsed.as_json())))) == repr(parsed)


def test_as_json_says_only_what_is_unusual() -> None:
    assert record(["a", 0.0, {"min": 0, "max": None, "unit": ""}]).as_json() == {
        "fields": [["ts", 0.0], ["sender", ""], ["a", 0.0, {"min": 0}]]
    }
    array = ["a", 0, {"dtype": "|u1", "shape": [2]}]
    assert record(array).as_json() == {"history": 0, "fields": [*START, array]}
    assert record(array, history=256).as_json()["history"] == 256


@pytest.mark.parametrize("path", sorted((ROOT / "datadesc").glob("*.json")), ids=lambda path: path.stem)
def test_the_shipped_descriptions(path: Path) -> None:
    for name, parsed in load(path).items():
        assert parse_record(name, parsed.as_json()) == parsed


def test_all_shipped_descriptions_go_together() -> None:
    paths = sorted((ROOT / "datadesc").glob("*.json"))
    assert len(load(*paths)) == sum(len(json.loads(path.read_text())) for path in paths)


def test_order_and_sources() -> None:
    assert list(load({"B": START, "A": START}, MappingProxyType({"C": START}))) == ["B", "A", "C"]
    assert load() == load({}) == {}


def test_a_byte_order_mark_is_nothing(write: Callable[[str | bytes], Path]) -> None:
    assert list(load(write(b"\xef\xbb\xbf" + DOCUMENT.encode()))) == ["PUPITRE__joyleft"]


# -- mistakes in a file -----------------------------------------------------------------------------------------------

S = '["ts", 0.0], ["sender", ""]'
FILES = [
    ("empty", "", ":1: no valid JSON, column 1: Expecting value"),
    ("blank", "\n\n  ", ":3: no valid JSON, column 3: Expecting value"),
    ("comma", '{\n"A": [%s],\n}', ":[23]: no valid JSON, column [0-9]+: "),  # 3.13 names the comma
    (
        "quote",
        '{\n"A": [["ts, 0.0]]}',
        ":2: no valid JSON, column 8: Invalid control character|:2: .*Unterminated string",
    ),
    ("comment", '{\n// A\n"A": []}', ":2: no valid JSON, column 1: "),
    ("cut off", '{"A": [%s]\n', ":2: no valid JSON, column 1: "),
    ("rest", '{"A": [%s]}\n{}', ":2: no valid JSON, column 1: Extra data"),
    ("list", "[]", ": found list, expected an object of records: .*NAME"),
    ("null", "null", ": found null, expected an object of records"),
    ("number", "5", ": found int, expected an object of records"),
    ("text", '"A"', ": found str, expected an object of records"),
    ("latin-1", '{"A": [%s, ["é", 0]]}'.encode("latin-1"), ": byte 38 is no UTF-8 text: save the file as UTF-8"),
    ("utf-16", DOCUMENT.encode("utf-16"), ": byte 0 is no UTF-8 text: save the file as UTF-8"),
    ("deep", "[" * 100_000, ": nested too deeply to be a description"),
    ("deep default", '{"A": [%s, ["a", ' + "[" * 100_000, ": nested too deeply to be a description"),
    ("long number", '{"A": [%s, ["a", ' + "9" * 5000 + "]]}", ": Exceeds the limit .* a number is too long"),
    (
        "doubled record",
        '{\n"A": [%s],\n"B": [%s],\n"A": [%s]}',
        ":4: record A is given twice: rename or delete one of them",
    ),
    ("tripled record", '{\n"A": [%s],\n"A": [%s],\n"A": [%s]}', ":3: record A is given twice"),
    (
        "doubled option",
        '{"A": [%s,\n["a", 0.0, {"unit": "V",\n"unit": "A"}],\n["b", 0.0, {"unit": "V"}]]}',
        ":3: record A: 'unit' is given twice: rename or delete one of them",
    ),
    ("doubled record option", '{"A": {"doc": "",\n"doc": "",\n"fields": [%s]}}', ":2: record A: 'doc' is given twice"),
    ("doubled in a default", '{"A": [%s,\n["o", {"B": 1, "B": 2}]], "B": [%s]}', ":2: record A: 'B' is given twice"),
    ("doubled by escape", '{"A": [%s],\n"\\u0041": [%s]}', ":2: record A is given twice"),
    ("second record", '{"A": [%s],\n\n"B": [["ts", 0.0]]}', ":3: record B: the first fields are \\['ts'\\]"),
    (
        "name inside another",
        '{"A": [%s, ["o", {"B": 1}]],\n"B": 5}',
        ":2: record B: found int, expected a list of fields",
    ),
    ("name in a text", '{"A": [%s, ["o", "\\"B\\": "]],\n"B": 5}', ":2: record B: found int"),
    ("name by escape", '{"A": [%s],\n"\\u0042": 5}', ":2: record B: found int"),
    ("windows lines", '{"A": [%s],\r\n"B": 5}', ":2: record B: found int"),
    ("lone surrogate", '{"A": [%s, ["a", "\\ud800"]]}', ":1: record A, field 'a': str cannot be written: .*surrogates"),
]


@pytest.mark.parametrize(("content", "message"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_mistake_in_a_file(write: Callable[[str | bytes], Path], content: str | bytes, message: str) -> None:
    path = write(content.replace("%s", S) if isinstance(content, str) else content.replace(b"%s", S.encode()))
    with pytest.raises(DescriptionError, match=f"^{re.escape(str(path))}(?:{message})"):
        load(path)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in [(tmp_path / "gone.json", "No such file or directory"), (tmp_path, "Is a directory")]:
        with pytest.raises(DescriptionError, match=f"^{re.escape(str(path))}: cannot be read: {reason}$"):
            load(path)
    with pytest.raises(DescriptionError, match="is no path: embedded null byte"):
        load("a\0b")
    with pytest.raises(DescriptionError, match="cannot be read: File name too long"):
        load("a" * 5000)


def test_the_same_record_in_two_files(write: Callable[..., Path]) -> None:
    one, other = write(DOCUMENT), write(DOCUMENT, "other.json")
    message = (
        f"^{re.escape(str(other))}: record PUPITRE__joyleft is described in {re.escape(str(one))} already: keep one"
    )
    with pytest.raises(DescriptionError, match=message):
        load(one, other)
    with pytest.raises(DescriptionError, match="is described in .*desc.json already"):
        load(one, one)
    with pytest.raises(DescriptionError, match="^description: record A is described in description already"):
        load({"A": START}, {"A": START})


# -- mistakes in a record ---------------------------------------------------------------------------------------------

LIST = r"record R: found {}, expected a list of fields like \[\[\"ts\", 0.0\], \[\"sender\", \"\"\]\]"
PAIR = r'record R: field {} is {}, expected \["name", default\] or \["name", default, {{options}}\]'
RECORDS: list[tuple[Any, str]] = [
    (5, LIST.format("int")),
    (None, LIST.format("null")),
    ("ts", LIST.format("str")),
    ({}, LIST.format("null")),
    ({"fields": {}}, LIST.format("object")),
    ({"field": START}, "record R: unknown option 'field': did you mean 'fields'\\?"),
    ({"fields": START, "histroy": 5}, "record R: unknown option 'histroy': did you mean 'history'\\?"),
    ({"fields": START, "zzz": 5}, "record R: unknown option 'zzz': known are doc, owner, history, max_age, fields"),
    ({"fields": START, 5: 5}, "record R: unknown option 5: known are"),
    ({"fields": START, "doc": 5}, "record R: doc is 5, expected a text"),
    ({"fields": START, "owner": None}, "record R: owner is None, expected a text"),
    ({"fields": START, "owner": "\ud800"}, "record R: .*cannot be written: .*surrogates"),
    ({"fields": START, "max_age": 0}, "record R: max_age is 0, expected a number above 0"),
    ({"fields": START, "max_age": -1.5}, "record R: max_age is -1.5, expected a number above 0"),
    ({"fields": START, "max_age": math.inf}, "record R: max_age is inf, expected a number"),
    ({"fields": START, "max_age": True}, "record R: max_age is True, expected a number"),
    ({"fields": START, "max_age": "2s"}, "record R: max_age is '2s', expected a number"),
    *(
        (
            {"fields": START, "history": history},
            f"record R: history is {history!r}, expected a count .0 for none. or a time",
        )
        for history in (-1, 1.0, True, None, 10**30)
    ),
    *(
        (
            {"fields": START, "history": history},
            f"record R: history {re.escape(repr(history))} is no time: write a number",
        )
        for history in ("", "2", "h", "-2h", "0s", "2 weeks", "1e3s", "2h2", "٢h", "2H")
    ),
    ({"fields": START, "history": "9" * 400 + "h"}, "record R: history '9+' is no time"),
    ([], r"record R: the first fields are \[\], expected \['ts', 'sender'\]: begin the record with \[\"ts\", 0.0\]"),
    ([["ts", 0.0]], r"record R: the first fields are \['ts'\], expected"),
    ([["sender", ""], ["ts", 0.0]], r"record R: the first fields are \['sender', 'ts'\], expected"),
    ([["ts", 0.0], ["a", 0], ["sender", ""]], r"record R: the first fields are \['ts', 'a'\], expected"),
    ([["TS", 0.0], ["sender", ""]], r"record R: the first fields are \['TS', 'sender'\]"),
    *(
        ([["ts", bad], ["sender", ""]], "record R: ts must be a number and sender a text: write")
        for bad in ("", None, False, [], {}, 10**400)
    ),
    *(
        ([["ts", 0.0], ["sender", bad]], "record R: ts must be a number and sender a text")
        for bad in (0, None, [], False)
    ),
    ([["ts", 0.0, {"dtype": "<f8", "shape": [1]}], ["sender", ""]], "record R: ts must be a number and sender a text"),
    ([*START, ["a", 0], ["b", 0], ["a", 0.0]], "record R: field 'a' is given twice: rename or delete one of them"),
    ([*START, ["ts", 0.0]], "record R: field 'ts' is given twice"),
    ([*START, "a"], PAIR.format(3, '"a"')),
    ([*START, ["a"]], PAIR.format(3, r'\["a"\]')),
    ([*START, []], PAIR.format(3, r"\[\]")),
    ([*START, ["a", 0], ["b", 0, {}, 0]], PAIR.format(4, r'\["b", 0, \{\}, 0\]')),
    ([*START, [5, 0]], PAIR.format(3, r"\[5, 0\]")),
    ([*START, {"a": 0}], PAIR.format(3, r'\{"a": 0\}')),
    ([*START, None], PAIR.format(3, "null")),
]


@pytest.mark.parametrize(("declaration", "message"), RECORDS, ids=lambda value: ascii(value)[:40])
def test_mistake_in_a_record(declaration: Any, message: str) -> None:
    with pytest.raises(DescriptionError, match=f"^description: {message}"):
        load({"R": declaration})


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "a\n", "{a}", "a/b", 5, None], ids=ascii)
def test_bad_record_name(name: Any) -> None:
    with pytest.raises(
        DescriptionError, match=rf"^description: record name {re.escape(repr(name))}: use letters, digits"
    ):
        load({name: START})


@pytest.mark.parametrize(
    "name",
    [
        *keyword.kwlist, "expire", "_a", "__a__", "_", "", "1a", "a b", "a-b", "a.b", "a%", "é ", "ﬁ", "𝐢f", "a\n",
        "\ud800", "٣",
    ],
    ids=ascii,
)  # fmt: skip
def test_bad_field_name(name: str) -> None:
    message = (
        "^description: record R, field .*: a field's name is an identifier, no Python keyword, not 'expire', and begins"
    )
    with pytest.raises(DescriptionError, match=message):
        load({"R": [*START, [name, 0.0]]})


@pytest.mark.parametrize("name", ["a", "A1_", "é", "match", "type", "self", "count", "index", "print", "values", "set"])
def test_good_field_name(name: str) -> None:
    assert record([name, 0.0]).trame._fields == ("ts", "sender", name)


ARRAY_OF = "the default {} "
FIELDS: list[tuple[Any, Any, str]] = [
    (0.0, 5, 'options are int, expected an object like {"unit": "V"}'),
    (0.0, None, "options are null, expected an object"),
    (0.0, [], "options are list, expected an object"),
    (0.0, {"units": "V"}, "unknown option 'units': did you mean 'unit'\\?"),
    (0.0, {"dimension": "V"}, "unknown option 'dimension': .*"),
    (0.0, {"zzz": 1}, "unknown option 'zzz': known are unit, min, max, on_limit, doc, dtype, shape"),
    (0.0, {"unit": 5}, "unit is 5, expected a text"),
    (0.0, {"unit": "\ud800"}, ".*cannot be written: .*surrogates"),
    (0.0, {"doc": ["a"]}, r"doc is \['a'\], expected a text"),
    (0.0, {"doc": "\ud800"}, ".*cannot be written: .*surrogates"),
    (0.0, {"min": "0"}, "min is '0', expected a number"),
    (0.0, {"min": True}, "min is True, expected a number"),
    (0.0, {"max": math.nan}, "max is nan, expected a number"),
    (0.0, {"max": math.inf}, "max is inf, expected a number"),
    (0.0, {"min": 2, "max": 1}, "min 2 is above max 1: exchange them"),
    (0.0, {"on_limit": "error"}, "on_limit is 'error', expected 'flag' or 'refuse'"),
    (0.0, {"on_limit": ["flag"]}, r"on_limit is \['flag'\], expected"),
    *(
        (bad, {"min": 0}, f"min and max are for numbers, and this field is {kind}: delete them")
        for bad, kind in [("", "str"), (False, "bool"), ([], "list"), ({}, "object"), (None, "any")]
    ),
    (
        [0.0],
        {"min": 0, "dtype": "<f4", "shape": [1]},
        "min and max are for numbers, and this field is array: delete them",
    ),
    *(
        (0, {"dtype": bad, "shape": [1]}, f"dtype is {re.escape(repr(bad))}, expected one of |b1,".replace("|", r"\|"))
        for bad in ["float", ">f4", "f4", "xu1", ">u1", "O", "", None, 5, ["<f4"], "<f16", "<M8[s]"]
    ),
    (0, {"dtype": "<f4"}, r"shape is None, expected a list of numbers above 0 like \[480, 640\]"),
    (0, {"shape": [2]}, "dtype is None, expected one of"),
    *(
        (0, {"dtype": "<f4", "shape": bad}, f"shape is {re.escape(repr(bad))}, expected a list of numbers above 0")
        for bad in [[], 3, [0], [-1], [1.0], [True], ["3"], None, {}]
    ),
    ([1, 2], {"dtype": "<f4", "shape": [3]}, r"the default has 2 elements, shape says \[3\]"),
    ([], {"dtype": "<f4", "shape": [3]}, r"the default has 0 elements, shape says \[3\]"),
    ([[1], [2, 3]], {"dtype": "<f4", "shape": [2, 1]}, r"the default has 2 elements, shape says \[1\]"),
    ([1, 2], {"dtype": "<f4", "shape": [2, 1]}, r"the default has fewer dimensions than shape says: \[2, 1\]"),
    ([[1]], {"dtype": "<f4", "shape": [1]}, r"the default has 1 elements, shape says \[\]"),
    ("a", {"dtype": "<f4", "shape": [1]}, "the default 'a' is no element of an array of <f4"),
    (None, {"dtype": "<f4", "shape": [1]}, "the default None is no element of an array of <f4"),
    ([None], {"dtype": "<f4", "shape": [1]}, "the default None is no element of an array of <f4"),
    (True, {"dtype": "<f4", "shape": [1]}, "the default True is no element of an array of <f4"),
    (0, {"dtype": "|b1", "shape": [1]}, r"the default 0 is no element of an array of \|b1"),
    (1.0, {"dtype": "<i4", "shape": [1]}, "the default 1.0 is no whole number, as <i4 wants"),
    (math.nan, {"dtype": "<i4", "shape": [1]}, "the default nan is no whole number, as <i4 wants"),
    (256, {"dtype": "|u1", "shape": [1]}, r"the default 256 does not fit \|u1"),
    (-1, {"dtype": "<u8", "shape": [1]}, "the default -1 does not fit <u8"),
    (2**63, {"dtype": "<i8", "shape": [1]}, "the default 9223372036854775808 does not fit <i8"),
    ([0, 2**31], {"dtype": "<i4", "shape": [2]}, "the default 2147483648 does not fit <i4"),
    (1e30, {"dtype": "<f2", "shape": [1]}, "the default 1e\\+30 does not fit <f2"),
    (1e39, {"dtype": "<c8", "shape": [1]}, "the default 1e\\+39 does not fit <c8"),
    (10**400, {"dtype": "<f8", "shape": [1]}, "the default 10+ does not fit <f8"),
    ({1}, {}, "set cannot be written: .*not JSON serializable"),
    (b"", {}, "bytes cannot be written"),
    (np.int64(3), {}, "int64 cannot be written"),
    ([object()], {}, "list cannot be written"),
    ({1: 2}, {}, "object cannot be written: .*must be a str|.* key .*"),
    ("\ud800", {}, "str cannot be written: .*surrogates"),
    (10**5000, {}, "int cannot be written: Exceeds the limit"),
]


@pytest.mark.parametrize(("default", "options", "message"), FIELDS, ids=[str(i) for i in range(len(FIELDS))])
def test_mistake_in_a_field(default: Any, options: Any, message: str) -> None:
    with pytest.raises(DescriptionError, match=f"^description: record R, field 'a': (?:{message})"):
        load({"R": [*START, ["a", default, options]]})


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90 s", 90), ("30min", 1800), ("30m", 1800), ("1.5d", 129600), (" 1 s ", 1), ("0.001s", 0.001)],
)
def test_span(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@given(st.text() | st.text("0123456789.smhdin -", max_size=6))
def test_any_text_is_a_positive_time_or_none(text: str) -> None:
    try:
        seconds = parse_span(text)
    except ValueError:
        return
    assert 0 < seconds < math.inf


# -- a description that changes under a running program ---------------------------------------------------------------

RUNNING = record(["a", 0.0, {"unit": "V"}], ["b", 0])
NEWER = [
    (record(["b", 5], ["a", 1.0, {"unit": "mV", "max": 1}], ["c", ""], history=0, doc="new"), None),
    (
        record(["a", 0.0]),
        "record R was described anew without the field 'b' that this program uses: start this program again",
    ),
    (
        record(["a", 0.0], ["b", 0.0, {"unit": "m"}]),
        r"record R was described anew: the field 'b' is now float \[m\], this program uses int: start",
    ),
    (record(["a", ""], ["b", 0]), r"the field 'a' is now str, this program uses float \[V\]"),
    (
        record(["a", 0, {"dtype": "<f8", "shape": [1]}], ["b", 0]),
        r"the field 'a' is now array <f8 \(1,\), this program uses",
    ),
]


@pytest.mark.parametrize(("newer", "message"), NEWER, ids=lambda value: None)
def test_check_compatible(newer: Record, message: str | None) -> None:
    if message is None:
        datadesc.check_compatible(RUNNING, newer)
        return
    with pytest.raises(DescriptionError, match=message):
        datadesc.check_compatible(RUNNING, newer)


@pytest.mark.parametrize("other", [{"dtype": "<f8", "shape": [2]}, {"dtype": "<f4", "shape": [3]}])
def test_arrays_of_another_kind_are_incompatible(other: dict[str, Any]) -> None:
    running = record(["a", 0, {"dtype": "<f4", "shape": [2]}])
    datadesc.check_compatible(running, running)
    with pytest.raises(DescriptionError, match=r"the field 'a' is now array .*, this program uses array <f4 \(2,\)"):
        datadesc.check_compatible(running, record(["a", 0, other]))


# -- age --------------------------------------------------------------------------------------------------------------

AGING = parse_record("R", {"max_age": 2.0, "fields": [["ts", 0.0], ["sender", ""], ["x", 0]]})
TIMELESS = parse_record("R", [["ts", 0.0], ["sender", ""], ["x", 0]])


def measured(ts: float) -> Any:
    return AGING.trame(ts, "ME", 1)


@pytest.mark.parametrize(
    ("now", "received", "age", "stale"),
    [
        (100.0, None, 0.0, False),
        (102.0, None, 2.0, False),
        (102.1, None, 2.1, True),
        (99.0, None, -1.0, False),
        (97.0, None, -3.0, True),  # a time stamp in the future tells nothing
        (101.0, 100.5, 1.0, False),
        (97.0, 96.5, 0.5, False),  # a clock that is ahead, and a writer that lives
        (97.0, 94.0, 3.0, True),  # and one that does not
        (103.0, 103.0, 3.0, True),
    ],
)
def test_age(now: float, received: float | None, age: float, stale: bool) -> None:
    assert AGING.age(measured(100.0), now, received) == pytest.approx(age)
    assert AGING.stale(measured(100.0), now, received) is stale
    assert not TIMELESS.stale(measured(100.0), now, received)


def test_what_is_missing_is_infinitely_old() -> None:
    assert AGING.age(None) == AGING.age(measured(0.0)) == math.inf
    assert AGING.stale(None) and AGING.stale(measured(0.0)) and AGING.stale(measured(math.nan), 100.0)
    assert AGING.stale(measured(math.nan), 100.0, 100.0)
    assert TIMELESS.stale(None) and not TIMELESS.stale(measured(0.0))


def test_without_a_time_it_is_now() -> None:
    assert 5 <= AGING.age(measured(time.time() - 5)) < 60
    assert AGING.stale(measured(time.time() - 5)) and not AGING.stale(measured(time.time()))


def test_a_clock_is_no_part_of_a_description() -> None:
    other = replace(AGING, clock=lambda: 101.0)
    assert (other, repr(other)) == (AGING, repr(AGING))
    assert (other.age(measured(100.0)), other.stale(measured(100.0))) == (1.0, False)
    assert other.trame(1.0, "ME", 2).x == 2
    assert pickle.loads(pickle.dumps(other)) == AGING
