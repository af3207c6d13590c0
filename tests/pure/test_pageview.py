"""What a page's scripts are given: states, points, events."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata import pageview
from shareddata.datadesc import parse_record
from shareddata.logs import State
from shareddata.table import View

HEAD = [["ts", 0.0], ["sender", ""]]
RECORD = parse_record(
    "TANK",
    [*HEAD, ["level", 0.0, {"unit": "m", "max": 1.9}], ["count", 0], ["open", False], ["note", ""], ["list", []]],
)
TEXT = parse_record("TEXT", [*HEAD, ["text", ""]])


def trame(*values: Any, ts: float = 5.0) -> Any:
    return RECORD.trame(ts, "HDL", *values)


def test_state() -> None:
    state = pageview.state(View(RECORD, trame(2.5, 7, True, "a\x1b[2J", ["<b>"]), rate=9.87), 6.0)
    assert state == {
        **{"name": "TANK", "ts": 5.0, "received": None, "sender": "HDL", "rate": "9.9/s", "note": ""},
        "limits": {0: "above 1.9"},
        "texts": ["2.5", "7", "true", "a\\x1b[2J", '["<b>"]'],
    }


@pytest.mark.parametrize(
    ("view", "note"),
    [(View(RECORD), "no value"), (View(RECORD, damage="broken\n"), "broken\\n")],
    ids=["none", "damaged"],
)
def test_state_without_values(view: View, note: str) -> None:
    state = pageview.state(view, 6.0)
    assert (state["ts"], state["texts"], state["note"]) == (None, [], note)


def test_state_says_what_the_library_says_of_age() -> None:
    """The writer's clock is ahead, and still its record is old: the server has not heard of it for long."""
    tank = parse_record("TANK", {"max_age": 3.0, "fields": [*HEAD, ["level", 0.0]]})
    ahead = View(tank, tank.trame(1000.0, "HDL", 1.0), received=900.0)
    assert ahead.stale(905.0)
    assert pageview.state(ahead, 905.0)["note"] == ahead.notes(905.0) != ""
    assert pageview.state(ahead, 905.0)["received"] == 900.0
    fresh = View(tank, tank.trame(900.0, "HDL", 1.0), received=900.0)
    assert pageview.state(fresh, 901.0)["note"] == ""
    assert pageview.state(fresh, 904.0)["note"] == "old: over 3.0 s"


def test_state_is_strict_json_also_of_times_that_are_none() -> None:
    state = pageview.state(View(RECORD, trame(math.nan, 1, True, "", [], ts=math.inf)), 6.0)
    assert json.loads(pageview.text(state))["ts"] == "Infinity"


def test_state_holds_the_beginning_of_a_long_text() -> None:
    (text,) = pageview.state(View(TEXT, TEXT.trame(1.0, "HDL", "ü" * 1_000_000)), 2.0)["texts"]
    assert len(text) == 2000 and text.endswith("ü~")


def test_half_of_a_surrogate_pair_is_escaped() -> None:
    assert pageview.text({"a": "\ud800ü"}) == '{"a":"\\ud800ü"}'.encode()
    assert json.loads(pageview.text({"a": "\ud800"})) == {"a": "\ud800"}


@pytest.mark.parametrize("ts", [math.nan, math.inf, -1.0, 1784540000e6, 1784540000e9])
def test_a_time_that_no_calendar_holds_is_no_point(ts: float) -> None:
    """Writers that count microseconds or nanoseconds: a browser cannot write such a time."""
    assert pageview.point(RECORD, trame(1.0, 2, True, "", [], ts=ts))[0] is None
    assert pageview.point(RECORD, trame(1.0, 2, True, "", [], ts=1784540000.5))[0] == 1784540000.5


def test_a_log_in_the_page_s_words() -> None:
    state = State("a", (), 16, 64, True, 5, 20, 16, {"read\rer": 2}, None, {"program": "p\x1b"}, "memory")
    assert pageview.log(state)["readers"] == [["read\\rer", 2, 18, 2]]
    assert (pageview.log(state)["writer"], pageview.log(state)["shape"]) == ("p\\x1b", "bytes")


def test_points_hold_what_can_be_drawn() -> None:
    assert [name for _, name in pageview.drawn(RECORD)] == ["level", "count", "open"]
    assert pageview.point(RECORD, trame(math.nan, 10**400, True, "", [])) == [5.0, None, None, 1.0]
    columns = pageview.columns(RECORD, [[1.0, 2.0, 3.0, 0.0], [2.0, None, 4.0, 1.0]])
    assert columns == {"ts": [1.0, 2.0], "level": [2.0, None], "count": [3.0, 4.0], "open": [0.0, 1.0]}
    assert pageview.columns(RECORD, []) == {"ts": [], "level": [], "count": [], "open": []}


def test_same_is_told_cheaply() -> None:
    one = View(RECORD, trame(1.0, 1, True, "", []))
    assert pageview.same(one, View(RECORD, trame(1.0, 1, True, "", [])))
    assert not pageview.same(one, View(RECORD, trame(2.0, 1, True, "", [])))
    assert not pageview.same(None, one)
    assert not pageview.same(one, View(RECORD, one.trame, rate=1.0))


def test_same_with_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    record = parse_record("A", [*HEAD, ["x", 0.0, {"dtype": "<f4", "shape": [2]}]])
    one, same, other = (record.trame(1.0, "HDL", numpy.array([0, x])) for x in (numpy.nan, numpy.nan, 1))
    assert pageview.same(View(record, one), View(record, same))
    assert not pageview.same(View(record, one), View(record, other))


@given(st.text())
def test_events_are_one_line_of_data(text: str) -> None:
    event = pageview.event(pageview.text({"a": text}), "state", "1-2")
    assert event.endswith(b"\n\n") and event.count(b"\n") == 4
    assert json.loads(event.split(b"data: ", 1)[1]) == {"a": text}


def test_joined() -> None:
    told = pageview.joined([b'{"a":1}', b'{"b":2}'], trouble="")
    assert json.loads(told) == {"trouble": "", "records": [{"a": 1}, {"b": 2}]}


def test_fingerprint_knows_every_change() -> None:
    other = parse_record("TANK", [*HEAD, ["level", 0.0, {"unit": "mm"}]])
    assert len({pageview.fingerprint(records) for records in ([RECORD], [other], [], [RECORD, other])}) == 4
