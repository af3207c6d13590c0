"""Differences of descriptions: each is told, with what it means for programs that run."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata.datadesc import Record, check_compatible, parse_record
from shareddata.descdiff import BEWARE, FINE, STOPS, Difference, compatible, differences
from shareddata.errors import DescriptionError

HEAD: list[list[Any]] = [["ts", 0.0], ["sender", ""]]


def record(*fields: list[Any], **options: Any) -> Record:
    return parse_record("R", {**options, "fields": [*HEAD, *fields]})


def found(old: Record, new: Record) -> list[Difference]:
    return differences({"R": old}, {"R": new})


@pytest.mark.parametrize(
    ("old", "new", "verdict", "says"),
    [
        (record(["x", 0.0]), record(), STOPS, "R: field 'x' is gone: running programs that use the record stop"),
        (record(), record(["x", 0.0]), FINE, "R: field 'x' is new: running programs go on"),
        (record(["x", 0.0]), record(["x", 0]), STOPS, "R: field 'x' is int, was float: "),
        (record(["x", 0.0]), record(["x", None]), STOPS, "R: field 'x' is any, was float: "),
        (record(["x", 0, {"dtype": "<f4", "shape": [2]}]), record(["x", 0, {"dtype": "<f4", "shape": [3]}]), STOPS,
         "R: field 'x' is array <f4 [3], was array <f4 [2]: "),
        (record(["x", 0.0, {"unit": "m"}]), record(["x", 0.0, {"unit": "mm"}]), BEWARE,
         "R: field 'x' has the unit 'mm', had 'm': running programs go on, and take the numbers for what they were"),
        (record(["x", 0.0, {"max": 5}]), record(["x", 0.0, {"min": -1.5, "max": 6}]), FINE,
         "R: field 'x' has the limits -1.5..6, had ..5: running programs go on"),
        (record(["x", 0.0, {"max": 5}]), record(["x", 0.0, {"max": 5, "on_limit": "refuse"}]), BEWARE,
         "R: field 'x' has the limits ..5 (refused), had ..5: writers get a FieldError"),
        (record(["x", 0.0, {"max": 5, "on_limit": "refuse"}]), record(["x", 0.0]), FINE, "limits none, had ..5"),
        (record(["x", 0.0]), record(["x", 1.0]), FINE, "R: field 'x' has the default 1.0, had 0.0: running programs"),
        (record(["x", 0.0]), record(["x", -0.0]), FINE, "has the default -0.0, had 0.0"),
        (record(["x", 0.0]), record(["x", 0.0, {"doc": "d"}]), FINE, "R: field 'x' has another text"),
        (record(["x", 0], ["y", 0]), record(["y", 0], ["x", 0]), BEWARE, "R: has its fields in another order"),
        (record(), record(doc="d"), FINE, "R: has another text: running programs go on"),
        (record(), record(max_age=2), FINE, "R: has the max_age 2, had None"),
        (record(), record(owner="HDL"), BEWARE, "R: belongs to HDL, belonged to nobody: it has one writer at a time"),
        (record(owner="HDL"), record(), BEWARE, "R: belongs to nobody, belonged to HDL: several programs may write it"),
        (record(owner="A"), record(owner="B"), BEWARE, "belongs to B, belonged to A: running programs go on; make"),
        (record(history=5), record(history=9), FINE, "R: has a history of 9 trames, had 5 trames"),
        (record(history=9), record(history=5), BEWARE, "and trim it with their next flush"),
        (record(history="1h"), record(history="2h"), FINE, "R: has a history of 2h, had 1h"),
        (record(history="2h"), record(history="1h"), BEWARE, "R: has a history of 1h, had 2h"),
        (record(history=5), record(history="1h"), BEWARE, "R: has a history of 1h, had 5 trames"),
        (record(history=5), record(history=0), BEWARE, "whoever follows or records the record hears nothing"),
        (record(history=0), record(history=5), FINE, "has a history of 5 trames, had 0 trames: running programs"),
    ],
)  # fmt: skip
def test_one_difference(old: Record, new: Record, verdict: str, says: str) -> None:
    (only,) = found(old, new)
    assert (only.verdict, compatible([only])) == (verdict, verdict != STOPS)
    assert says in str(only)
    assert found(old, old) == found(new, new) == []


def test_records_that_come_and_go() -> None:
    one = record()
    assert [(each.record, each.verdict) for each in differences({"A": one}, {"B": one})] == [("A", STOPS), ("B", FINE)]


NAMES = st.sampled_from(["a", "b", "c"])
OPTIONS = st.fixed_dictionaries({}, optional={"unit": st.sampled_from(["m", "s"]), "doc": st.sampled_from(["", "d"])})
FIELDS = st.dictionaries(
    NAMES, st.tuples(st.sampled_from([0, 0.0, False, "", [], {}, None, 5]), OPTIONS), max_size=3
).map(lambda named: [[name, default, options] for name, (default, options) in named.items()])
RECORDS = st.builds(
    lambda fields, options: record(*fields, **options),
    FIELDS,
    st.fixed_dictionaries(
        {},
        optional={
            "doc": st.sampled_from(["", "d"]), "owner": st.sampled_from(["", "A", "B"]),
            "history": st.sampled_from([0, 5, 256, "1h", "2h"]), "max_age": st.sampled_from([None, 1.0, 2.0]),
        },
    ),
)  # fmt: skip


@given(RECORDS, RECORDS)
def test_it_stops_where_a_running_program_stops(old: Record, new: Record) -> None:
    try:
        check_compatible(old, new)
        stops = False
    except DescriptionError:
        stops = True
    told = found(old, new)
    assert compatible(told) != stops
    assert bool(told) == (repr(old) != repr(new)), "every difference is told"
    assert len({(each.field, each.what) for each in told}) == len(told)
