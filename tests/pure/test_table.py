"""Records as text: what a line and a table hold, and what they never do."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata import descfile
from shareddata.datadesc import Field, same
from shareddata.table import (
    View,
    age_text,
    ages,
    as_json,
    clip,
    fields_text,
    grid,
    lay_out,
    limit_text,
    line,
    pad,
    range_text,
    rate_text,
    time_text,
    value_text,
    width_of,
)

TANK = descfile.parse_record(
    "TANK__measures",
    {
        "max_age": 2.0,
        "fields": [
            ["ts", 0.0], ["sender", ""], ["level", 0.0, {"unit": "m", "min": 0, "max": 1.9}],
            ["share", 0.0, {"unit": "1"}], ["note", ""], ["list", []], ["any", None],
        ],
    },
)  # fmt: skip
WAVE = descfile.parse_record(
    "WAVE",
    [
        ["ts", 0.0],
        ["sender", ""],
        ["a", 0, {"dtype": "<f4", "shape": [3]}],
        ["b", 0, {"dtype": "|u1", "shape": [4, 5]}],
    ],
)


def view(record: descfile.Record = TANK, rate: float | None = None, **values: Any) -> View:
    return View(record, record.trame._make(record.defaults())._replace(**{"sender": "ME"} | values), rate=rate)


def test_values() -> None:
    level = TANK.field("level")
    assert value_text(level, 0.1 + 0.2) == "0.3"
    assert value_text(level, 0.1 + 0.2, exact=True) == "0.30000000000000004"
    assert value_text(level, math.inf) == "inf"
    assert value_text(TANK.field("note"), "é\x1b[2J\n") == "é\\x1b[2J\\n"
    assert value_text(TANK.field("list"), ["é", None]) == '["é", null]'
    assert value_text(TANK.field("any"), "text") == '"text"'
    assert value_text(Field("x", "bool", False), True) == "true"


def test_arrays() -> None:
    np = pytest.importorskip("numpy")
    assert value_text(WAVE.field("a"), np.array([1, 2, 3], "<f4")) == "[1.0, 2.0, 3.0]"
    assert value_text(WAVE.field("b"), np.arange(20, dtype="|u1").reshape(4, 5)) == "4x5: 0 .. 19"
    shown = json.loads(as_json(view(WAVE, a=np.array([1, math.nan, 3], "<f4"), b=np.zeros((4, 5), "|u1"))))
    assert shown["values"]["a"] == [1.0, "NaN", 3.0]


@pytest.mark.parametrize(
    ("value", "says"),
    [(1.0, ""), (2, "above 1.9"), (-0.5, "below 0"), (math.nan, "not a number"), (math.inf, "above 1.9")],
)
def test_limits(value: float, says: str) -> None:
    assert limit_text(TANK.field("level"), value) == says
    assert (says in line(view(level=value))) and ("!" in lay_out([view(level=value)], 80, 9, 1.0)[2].text) == bool(says)


def test_ages_and_rates() -> None:
    assert [age_text(each) for each in (None, -0.25, 9.95, 61, 6000)] == ["-", "-0.2 s", "9.9 s", "61 s", "1.7 h"]
    assert [rate_text(each) for each in (None, 0, 9.84, 250.4)] == ["", "0.0/s", "9.8/s", "250/s"]
    assert time_text(1e300) == "1e+300"


def test_notes() -> None:
    assert view(ts=10.0).notes(11.0) == ""
    assert view(ts=10.0).notes(13.0) == "old: over 2.0 s"
    assert view().notes(13.0) == "never written"
    assert (view(ts=10.0).stale(11.0), view(ts=10.0).stale(13.0), view().stale(13.0)) == (False, True, False)
    assert View(TANK).notes(13.0) == "no value"
    assert View(TANK, damage="broken\n").notes(13.0) == "broken\\n"


def test_notes_tell_a_writer_whose_clock_is_wrong() -> None:
    ahead = view(ts=100.0)
    assert ahead.notes(10.0) == "old: over 2.0 s, the writer's clock is 90 s ahead"
    ahead.received = 10.0
    assert (ahead.notes(10.5), ahead.age(10.5)) == ("the writer's clock is 90 s ahead", 0.5)
    assert (ahead.notes(13.0), ahead.age(13.0)) == ("old: over 2.0 s, the writer's clock is 90 s ahead", 3.0)
    behind = view(ts=10.0)
    behind.received = 100.0
    assert behind.notes(101.0) == "old: over 2.0 s, received 1.0 s ago: late, or the writer's clock is behind"
    assert behind.notes(103.0) == "old: over 2.0 s"
    assert ages(behind, 101.0) == {"age": 91.0, "stale": True, "received": 100.0}


def test_what_is_old_is_told_in_words() -> None:
    lines = [each.text for each in lay_out([view(ts=10.0)], 80, 9, 13.0)]
    assert lines[1].startswith("! TANK__measures") and lines[1].endswith("(old: over 2.0 s)")
    assert line(view(ts=10.0), 13.0).endswith("(old: over 2.0 s)")


def test_line() -> None:
    assert line(view(ts=1.25, level=2.5, share=0.5, note="hi")) == (
        '1970-01-01T00:00:01.250Z  TANK__measures  ME  level=2.5 m (above 1.9)  share=0.5  note=hi  list=[]  any=null'
    )  # fmt: skip
    assert line(View(TANK)) == "-  TANK__measures  (no value)"
    assert fields_text(View(TANK)) == ""


def test_what_is_nested_deeply_is_shown_as_far_as_anybody_reads() -> None:
    """What can be read cannot always be written again: at the stack's end a value took the whole table with it."""
    field = TANK.field("any")
    for depth in (*range(5, 100, 5), 300, 900, *range(930, 1000)):
        try:
            value = json.loads("[" * depth + "]" * depth)
        except RecursionError:
            break
        shown = view(any=value)
        assert value_text(field, value) in (json.dumps(value), "nested too deeply to be shown")
        assert lay_out([shown], 80, 24, 1.0)
        assert same(shown.trame, view(any=json.loads("[" * depth + "]" * depth)).trame) in (depth < 900, True)
        told = json.loads(as_json(shown))["values"]["any"]
        assert depth > 95 or told == value
    else:
        raise AssertionError("the stack is larger than thought")


def test_json_is_strict() -> None:
    text = as_json(view(ts=1.0, level=math.nan, share=-math.inf, any={"x": [math.inf]}))
    shown = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert shown["values"] == {
        "ts": 1.0, "sender": "ME", "level": "NaN", "share": "-Infinity", "note": "", "list": [],
        "any": {"x": ["Infinity"]},
    }  # fmt: skip
    assert shown["out_of_limits"] == ["level"]
    assert json.loads(as_json(view(level=5.0), ["share"])) == {
        "record": "TANK__measures", "values": {"share": 0.0}, "out_of_limits": [],
    }  # fmt: skip
    assert json.loads(as_json(View(TANK, damage="broken"))) == {
        "record": "TANK__measures", "values": None, "out_of_limits": [], "damage": "broken",
    }  # fmt: skip


def test_grid() -> None:
    assert grid([["a", "1"], ["long", "22"]], right=[1]) == ["a      1", "long  22"]


def test_first_records_keep_their_fields() -> None:
    views = [view(ts=1.0), view(WAVE, ts=1.0, a=_zeros(3), b=_zeros(4))]
    shown = [each.text.split()[0] for each in lay_out(views, 80, 9, 1.0)]
    assert shown == ["RECORD", "TANK__measures", "level", "share", "note", "list", "any", "WAVE"]
    short = [each.text for each in lay_out(views, 80, 5, 1.0)]
    assert [text.split()[0] for text in short] == ["RECORD", "TANK__measures", "WAVE", "a", "b"]
    assert "level=0 m" in short[1]
    views[0] = view(ts=1.0, level=5.0)
    assert lay_out(views, 20, 5, 1.0)[1].text.startswith("! TANK__measures")
    views[0] = view(ts=1.0, share=math.nan, level=math.nan)
    assert "level=nan m (not a number)  share=nan" in lay_out(views, 120, 5, 1.0)[1].text
    assert lay_out(views, 80, 2, 1.0)[-1].text == "... and 2 records more: name those to be shown"


def _zeros(count: int) -> Any:
    return pytest.importorskip("numpy").zeros(count)


texts = st.text(max_size=30)


@given(texts, st.integers(0, 20))
def test_clip_and_pad(text: str, width: int) -> None:
    assert width_of(clip(text, width)) <= width
    assert width_of(pad(text, width)) == width
    assert clip(text, 1000) == text


def test_a_long_text_is_clipped_at_once() -> None:
    """A character that is not ASCII in a text of a megabyte took minutes."""
    begin = time.process_time()
    assert clip("ü" * 1_000_000, 5) == "üüüü~"
    assert clip("\u6e29" * 1_000_000, 6) == "\u6e29\u6e29~"
    assert clip("x" * 1_000_000, 5) == "xxxx~"
    assert time.process_time() - begin < 1


def test_limits_are_told_as_exactly_as_values() -> None:
    field = Field("pressure", "float", 0.0, min=986.25, max=1013.255)
    assert range_text(field) == "986.25 to 1013.255"
    assert limit_text(field, 1013.26) == "above 1013.255"


@given(
    st.lists(st.tuples(texts, texts, st.floats(), st.floats(), st.lists(texts, max_size=2)), max_size=8),
    st.integers(1, 120),
    st.integers(1, 40),
)
def test_a_table_fits(rows: list[Any], width: int, height: int) -> None:
    views = [view(ts=ts, sender=sender, note=note, level=level, list=items) for sender, note, ts, level, items in rows]
    lines = lay_out(views, width, height, 5.0)
    assert len(lines) <= height
    assert all(width_of(each.text) <= width and (each.text.isprintable() or each.text == "") for each in lines)
