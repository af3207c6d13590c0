"""The JSON Schema of descriptions and the parser agree, but for what a schema cannot say."""

import json
import keyword
from importlib.resources import files
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shareddata import datadesc, descfile
from shareddata.errors import DescriptionError

SCHEMA = json.loads(files("shareddata").joinpath("datadesc.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
HEAD: list[Any] = [["ts", 0.0], ["sender", ""]]


def of(*fields: Any) -> dict[str, Any]:
    """A description with one record in the short form."""
    return {"A__b": [*HEAD, *fields]}


def long(**options: Any) -> dict[str, Any]:
    """A description with one record in the long form."""
    return {"A__b": {"fields": HEAD, **options}}


def parses(description: Any) -> bool:
    with NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(description, file)
        file.flush()
        try:
            descfile.load(file.name)
        except DescriptionError:
            return False
        return True


GOOD = [
    {},
    {"a": HEAD, "A.b-c_1": HEAD, "1": HEAD},
    {"A": [["ts", 0], ["sender", "blip"], ["axe", 0], ["bouton", False]]},
    {"A": [["ts", 5.5, {"unit": "s", "doc": "when"}], ["sender", "", {"doc": "who"}]]},
    of(["f", 0.0], ["i", 0], ["b", True], ["s", "x"], ["l", [1, {}]], ["o", {"a": None}], ["n", None]),
    of(["voltage", 0.0, {"unit": "V", "min": 0, "max": 60, "on_limit": "refuse", "doc": "d"}]),
    of(["x", 0, {"min": -5}], ["y", 0.5, {"max": 1.5}], ["z", "", {"min": None, "max": None}], ["w", 1, {}]),
    of(["température", 0.0], ["a1_b", 0], ["Ξ", 0], ["self", 0], ["match", 0], ["ts2", 0]),
    of(["a", 0.0, {"dtype": "<f4", "shape": [3]}], ["b", [[0, 0], [0, 0]], {"dtype": "u1", "shape": [2, 2]}]),
    of(["a", False, {"dtype": "|b1", "shape": [1]}], ["c", 0, {"dtype": "<c16", "shape": [2, 3, 4], "unit": "V"}]),
    long(),
    long(doc="d", owner="HDL_BATTERY", history=0, max_age=0.5),
    *(long(history=history) for history in (1, 256, "2h", "90 s", "1.5d", " 30min ", "7m", "0.5s", "10s")),
    long(max_age=None),
]
BAD = [
    *([], "A", None, 3, [HEAD]),
    *({name: HEAD} for name in ("", "a b", "a:b", "{a}", "é", "a/b")),
    *({"A": declaration} for declaration in (None, 1, "x", True, {}, {"doc": "no fields"}, {"fields": None})),
    *({"A": fields} for fields in ([], HEAD[:1], HEAD[::-1], [["x", 0], *HEAD], [HEAD[0], ["x", 0], HEAD[1]])),
    *({"A": [["ts", ts], ["sender", ""]]} for ts in ("0", None, False, [], {})),
    *({"A": [["ts", 0.0], ["sender", sender]]} for sender in (0, None, False, [])),
    {"A": [["ts", 0.0, {"dtype": "<f8", "shape": [1]}], ["sender", ""]]},
    *(of(field) for field in ("x", ["x"], [], ["x", 0, {}, 1], [1, 0], [None, 0], {"x": 0}, None)),
    *(of([name, 0]) for name in ("", "a b", "1a", "_a", "a-b", "class", "None", "expire", "a.b")),
    *(of(["x", 0, options]) for options in (None, [], "V", 1)),
    *(of(["x", 0, {option: value}]) for option, value in (
        ("units", "V"), ("unit", 1), ("doc", None), ("min", "0"), ("max", True), ("on_limit", "ignore"),
        ("on_limit", None), ("dtype", "<f4"), ("shape", [3]), ("default", 1),
    )),
    *(of(["x", default, {"min": 0}]) for default in ("", False, [], {}, None)),
    of(["x", 0.0, {"dtype": "<f4", "shape": [3], "max": 1}]),
    *(of(["x", 0, {"dtype": dtype, "shape": [1]}]) for dtype in ("f4", ">f4", "float", "<f16", 4, None, "<M8")),
    *(of(["x", 0.0, {"dtype": "<f8", "shape": shape}]) for shape in ([], [0], [-1], 3, ["3"], None, [1.5], [True])),
    *(of(["x", default, {"dtype": "<f8", "shape": [1]}]) for default in ("", None, {})),
    *(long(history=history) for history in (-1, 1.5, True, None, "2", "h", "2 weeks", "0s", "0.0h", "-2h", "2h3", "")),
    *(long(max_age=age) for age in (0, -1, "2", True)),
    *(long(**{option: value}) for option, value in (("doc", 1), ("owner", None), ("unit", "V"), ("name", "x"))),
]  # fmt: skip
ONLY_PARSED = [
    of(["x", 0], ["x", 1]),
    of(["ts", 0]),
    of(["x", 0, {"min": 2, "max": 1}]),
    of(["x", [0, 0], {"dtype": "<f8", "shape": [3]}]),
    of(["x", [[0]], {"dtype": "<f8", "shape": [1]}]),
    of(["x", 0.5, {"dtype": "<i4", "shape": [1]}]),
    of(["x", 256, {"dtype": "|u1", "shape": [1]}]),
    of(["x", 1, {"dtype": "|b1", "shape": [1]}]),
    long(history=256.0),
    long(history="900000d"),
]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("description", GOOD, ids=str)
def test_both_take(description: Any) -> None:
    assert parses(description)
    assert [error.message for error in VALIDATOR.iter_errors(description)] == []


@pytest.mark.parametrize("description", BAD, ids=str)
def test_both_refuse(description: Any) -> None:
    assert not parses(description)
    assert not VALIDATOR.is_valid(description)


@pytest.mark.parametrize("description", ONLY_PARSED, ids=str)
def test_what_a_schema_cannot_say(description: Any) -> None:
    assert not parses(description)
    assert VALIDATOR.is_valid(description), "say so in the schema's description no more"


def test_what_is_shipped_is_taken() -> None:
    for file in files("shareddata.descriptions").iterdir():
        if file.name.endswith(".json"):
            description = json.loads(file.read_text("utf-8"))
            VALIDATOR.validate(description)
            long_forms = {record.name: record.as_json() for record in descfile.load(description).values()}
            VALIDATOR.validate(json.loads(json.dumps(long_forms)))


def test_options_and_words_are_the_same() -> None:
    options = SCHEMA["$defs"]["options"]["properties"]
    assert set(options) == set(datadesc._FIELD_OPTIONS)
    assert set(SCHEMA["additionalProperties"]["anyOf"][1]["properties"]) == set(datadesc._RECORD_OPTIONS)
    assert set(datadesc.DTYPES) <= set(options["dtype"]["enum"])
    assert {*keyword.kwlist, "expire"} == set(SCHEMA["$defs"]["name"]["not"]["enum"])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-300, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "unit": st.sampled_from(["V", "", 1]),
        "min": st.sampled_from([0, -1.5, None, "0", 1e308]),
        "max": st.sampled_from([1, 0.5, None, True]),
        "on_limit": st.sampled_from(["flag", "refuse", ""]),
        "dtype": st.sampled_from([*datadesc.DTYPES, "u1", "f4"]),
        "shape": st.lists(st.integers(0, 3), max_size=2),
        "doc": st.text(max_size=3),
    },
)
names = st.sampled_from(["a", "b", "voltage", "_x", "if", "expire", "ü", "1", ""]) | st.text(max_size=3)
fields = st.tuples(names, json_values).map(list) | st.tuples(names, json_values, options).map(list)
records = st.lists(fields | json_values, max_size=4).map(lambda rest: [*HEAD, *rest])
long_records = st.fixed_dictionaries(
    {"fields": records},
    optional={
        "history": st.integers(-1, 9) | st.sampled_from(["1h", "0s", "x"]),
        "max_age": st.sampled_from([1, 0, None]),
    },
)


@given(st.dictionaries(st.sampled_from(["A", "B__c", "a b"]), records | long_records | json_values, max_size=2))
def test_the_schema_refuses_nothing_good(description: dict[str, Any]) -> None:
    if parses(description):
        assert [error.message for error in VALIDATOR.iter_errors(description)] == []
