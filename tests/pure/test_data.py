"""`set`: what is staged, under which time and sender, what is refused, and that a refusal changes nothing."""

import math
import time
from typing import Any

import hiredis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata.csvlog import CsvLog
from shareddata.data import LONGEST_EXPIRE, Data
from shareddata.datadesc import parse_record
from shareddata.errors import FieldError
from shareddata.names import Names
from shareddata.wire import Layout

START: list[list[Any]] = [["ts", 0.0], ["sender", ""]]
MEASURES: list[list[Any]] = [
    ["voltage", 0.0, {"unit": "V", "min": 0, "max": 60}],
    ["count", 0],
    ["on", False],
    ["reasons", []],
]
NOW = 1_700_000_000.25
OLD = (5.0, "before", 12.5, 3, True, ["old"])


class Log:
    """Stands where a record's CSV file does, and keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def row(self, values: Any) -> None:
        self.rows.append(tuple(values))


def made(*fields: list[Any], values: Any = None, csv: Any = None, **options: Any) -> Data:
    layout = Layout(parse_record("BATTERY", {**options, "fields": [*START, *(fields or MEASURES)]}), Names())
    return Data(layout, "APP", OLD if values is None and not fields else values or layout.defaults(), {}, csv)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shareddata.data.time", lambda: NOW)


def staged(data: Data) -> list[Data]:
    return list(data._staged)


def sent(data: Data) -> dict[str, str]:
    """Return what a flush would write."""
    reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
    reader.feed(data.layout.hset + data.body)
    words = reader.gets()
    assert words[:2] == ["HSET", data.name]
    return dict(zip(words[2::2], words[3::2]))


# -- values -----------------------------------------------------------------------------------------------------------

CALLS: list[tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...]]] = [
    ((1.5, 7, False, ["new"]), {}, (1.5, 7, False, ["new"])),
    ((1.5, 7), {"on": False, "reasons": []}, (1.5, 7, False, [])),
    ((), {"reasons": [], "on": False, "count": 7, "voltage": 1.5}, (1.5, 7, False, [])),
    ((1.5,), {"count": 7}, (1.5, 7, True, ["old"])),
    ((), {"count": 7}, (12.5, 7, True, ["old"])),
    ((1.5,), {"reasons": []}, (1.5, 3, True, [])),
    ((), {"ts": NOW}, (12.5, 3, True, ["old"])),
    ((), {"sender": "APP"}, (12.5, 3, True, ["old"])),
    ((), {"expire": 5}, (12.5, 3, True, ["old"])),
    ((1.5, 7, False, []), {"ts": NOW, "sender": "APP", "expire": 5}, (1.5, 7, False, [])),
]


@pytest.mark.parametrize(("positional", "named", "expected"), CALLS, ids=lambda value: str(value)[:40])
def test_positions_and_names(positional: tuple[Any, ...], named: dict[str, Any], expected: tuple[Any, ...]) -> None:
    data = made()
    data.set(*positional, **named)
    assert data.values == (NOW, "APP", *expected)
    assert data.values._fields == ("ts", "sender", "voltage", "count", "on", "reasons")
    assert staged(data) == [data]


def test_what_is_not_named_keeps_what_was_set_last() -> None:
    data = made()
    data.set(count=1)
    data.set(voltage=2.0)
    assert data.values[2:] == (2.0, 1, True, ["old"])


def test_what_a_flush_writes() -> None:
    data = made()
    data.set(1, np.int16(7), np.bool_(False), (1, "é"))
    assert sent(data) == {
        "ts": "1700000000.25", "sender": "APP", "voltage": "1.0", "count": "7", "on": "false", "reasons": '[1,"é"]',
    }  # fmt: skip


@given(st.lists(st.sampled_from(["voltage", "count", "on", "reasons"]), unique=True), st.integers(0, 4))
def test_every_mixture_of_positions_and_names(names: list[str], positions: int) -> None:
    new = {"voltage": 1.5, "count": 7, "on": False, "reasons": ["new"]}
    data = made()
    first = list(new)[:positions]
    rest = {name: new[name] for name in names if name not in first}
    if not rest and positions < 4:
        return  # a wrong count
    data.set(*(new[name] for name in first), **rest)
    expected = [new[name] if name in first or name in rest else old for name, old in zip(new, OLD[2:])]
    assert list(data.values[2:]) == expected
    assert data.body == data.layout.pack(data.values)


def test_fields_may_have_any_name_that_python_allows() -> None:
    data = made(["self", 0], ["values", 0], ["name", 0], ["args", 0], ["é", 0])
    data.set(1, values=3, name=4, args=5, é=6)
    assert data.values[2:] == (1, 3, 4, 5, 6)
    data.set(self=7)
    assert data.values.self == 7


def test_a_record_of_ts_and_sender_only() -> None:
    data = Data(Layout(parse_record("TICK", START), Names()), "APP", (0.0, ""), {}, None)
    data.set()
    assert data.values == (NOW, "APP")
    data.set(ts=1.5)
    assert sent(data) == {"ts": "1.5", "sender": "APP"}
    with pytest.raises(FieldError, match=r"^record TICK: 1 values, expected 0"):
        data.set(1)


def test_arrays() -> None:
    data = made(["image", 0, {"dtype": "|u1", "shape": [2, 2]}], ["gain", 0.0])
    data.set([[1, 2], [3, 4]], 0.5)
    assert sent(data)["image"] == "\1\2\3\4"
    data.set(np.array([[5, 6], [7, 8]], ">i8").T, gain=1.5)
    assert sent(data)["image"] == "\5\7\6\10"
    data.set(gain=2.5)
    assert sent(data)["image"] == "\5\7\6\10"


NUMPY = [
    (["a", 0.0], np.float32(0.5), "0.5"),
    (["a", 0.0], np.int8(-3), "-3.0"),
    (["a", 0], np.uint64(2**64 - 1), str(2**64 - 1)),
    (["a", False], np.bool_(True), "true"),
    (["a", ""], np.str_("é"), "é"),
    (["a", None], np.float64(0.5), "0.5"),
    (["a", []], [np.int64(1), (np.bool_(False),)], "[1,[false]]"),
    (["a", {}], {"b": np.float32(0.5)}, '{"b":0.5}'),
]


@pytest.mark.parametrize(("field", "value", "written"), NUMPY, ids=lambda value: str(value)[:20])
def test_numpy_scalars_count_as_their_python_type(field: list[Any], value: Any, written: str) -> None:
    data = made(field)
    data.set(value)
    assert sent(data)["a"] == written


@pytest.mark.parametrize(
    ("field", "value"),
    [(["a", 0.0], np.bool_(True)), (["a", 0], np.float64(1)), (["a", False], np.int8(1)), (["a", ""], np.bytes_(b"a"))],
    ids=str,
)
def test_numpy_scalars_are_refused_as_their_python_type(field: list[Any], value: Any) -> None:
    with pytest.raises(FieldError, match="^record BATTERY, field 'a': np.* is .*, expected"):
        made(field).set(value)


# -- ts, sender, expire -----------------------------------------------------------------------------------------------


def test_the_time_is_the_keyword_else_the_assigned_else_now() -> None:
    data = made(["a", 0])
    data.ts = 2.0
    data.set(1, ts=1.0)
    assert data.values.ts == 1.0
    data.set(1)
    assert data.values.ts == NOW, "what was assigned before a set does not count for the next"
    data.ts = 2.0
    data.set(a=1)
    assert (data.values.ts, data.ts) == (2.0, None)
    data.set(a=1)
    assert data.values.ts == NOW


def test_the_sender_is_the_keyword_for_this_set_else_the_assigned_else_the_application() -> None:
    data = made(["a", 0])
    data.set(1)
    assert data.values.sender == "APP"
    data.set(1, sender="other")
    assert data.values.sender == "other"
    data.set(1)
    assert data.values.sender == "APP"
    data.sender = "assigned"
    data.set(1, sender="other")
    data.set(1)
    data.set(a=1)
    assert data.values.sender == "assigned"


@pytest.mark.parametrize("ts", [0, 1, 1.5, -1.5, np.float64(1.5), np.int32(7), math.nan, math.inf], ids=repr)
def test_any_number_is_a_time(ts: float) -> None:
    data = made(["a", 0])
    data.set(1, ts=ts)
    assert sent(data)["ts"] == repr(float(ts))


@pytest.mark.parametrize("ts", ["now", True, [], 10**400], ids=lambda value: str(value)[:10])
def test_what_is_no_time(ts: Any) -> None:
    data = made(["a", 0])
    with pytest.raises(FieldError, match="^record BATTERY, field 'ts': .* expected float"):
        data.set(1, ts=ts)
    data.ts = ts
    with pytest.raises(FieldError, match="^record BATTERY, field 'ts': .* expected float"):
        data.set(1)
    assert data.ts is ts, "it is not forgotten by a set that failed"


@pytest.mark.parametrize("sender", [5, None, b"me", ["me"]], ids=repr)
def test_what_is_no_sender(sender: Any) -> None:
    with pytest.raises(FieldError, match="^record BATTERY, field 'sender': .* is .*, expected str$"):
        made(["a", 0]).set(1, sender=sender)


def test_an_empty_sender_would_read_as_never_written() -> None:
    data = made(["a", 0])
    with pytest.raises(FieldError, match="^record BATTERY: the sender is empty, expected the name of the program"):
        data.set(1, sender="")
    data.sender = ""
    with pytest.raises(FieldError, match="^record BATTERY: the sender is empty"):
        data.set(1)
    assert staged(data) == []


@pytest.mark.parametrize("expire", [1, 0.5, 1e-9, LONGEST_EXPIRE, np.float32(2), np.int64(3)], ids=repr)
def test_expire(expire: float) -> None:
    data = made(["a", 0])
    data.set(1, expire=expire)
    assert data.expire == expire
    data.layout.expiry(data.expire)
    data.set(1)
    assert data.expire is None


@pytest.mark.parametrize(
    "expire", [0, -1, -0.5, math.nan, math.inf, 1e300, 10**400, True, "5", [5], np.bool_(True)], ids=repr
)
def test_what_is_no_time_to_expire(expire: Any) -> None:
    data = made(["a", 0])
    with pytest.raises(FieldError, match=r"^record BATTERY: expire is .*, expected seconds, up to 1e\+09$"):
        data.set(1, expire=expire)
    assert staged(data) == []


# -- what is refused --------------------------------------------------------------------------------------------------

NAMES = "voltage, count, on, reasons"
COUNTS = rf"expected 4: {NAMES} \(ts and sender are given by name\)$"
WRONG: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, rf"^record BATTERY: 0 values, {COUNTS}"),
    ((1.5,), {}, rf"^record BATTERY: 1 values, {COUNTS}"),
    ((1.5, 7, True, [], 1), {}, rf"^record BATTERY: 5 values, {COUNTS}"),
    ((1.5, 7, True, [], 1), {"ts": 1.0}, rf"^record BATTERY: 5 values, {COUNTS}"),
    ((), {"volts": 1.5}, f"^record BATTERY has no field 'volts'; it has {NAMES}$"),
    ((1.5, 7, True, []), {"timeout": 5}, f"^record BATTERY has no field 'timeout'; it has {NAMES}$"),
    ((1.5,), {"voltage": 2.5}, "^record BATTERY, field 'voltage': given twice, by position and by name$"),
    ((1.5, 7, True, []), {"reasons": []}, "^record BATTERY, field 'reasons': given twice"),
    (("12", 7, True, []), {}, r"^record BATTERY, field 'voltage': '12' is str, expected float \[V\]$"),
    ((True, 7, True, []), {}, r"^record BATTERY, field 'voltage': True is bool, expected float \[V\]$"),
    ((1.5, 7.0, True, []), {}, "^record BATTERY, field 'count': 7.0 is float, expected int$"),
    ((1.5, True, True, []), {}, "^record BATTERY, field 'count': True is bool, expected int$"),
    ((1.5, 7, 1, []), {}, "^record BATTERY, field 'on': 1 is int, expected bool$"),
    ((), {"reasons": "why"}, "^record BATTERY, field 'reasons': 'why' is str, expected list$"),
    ((), {"reasons": [object]}, r"^record BATTERY, field 'reasons': .* is list, expected list \(JSON has no type\)$"),
    ((), {"count": None}, "^record BATTERY, field 'count': None is NoneType, expected int$"),
    ((), {"count": 10**5000}, "^record BATTERY, field 'count': a value that cannot be shown is int, expected int"),
    ((1.5, 7, True, []), {"expire": 0}, "^record BATTERY: expire is 0, expected seconds"),
    ((1.5, 7, True, []), {"sender": 5}, "^record BATTERY, field 'sender': 5 is int, expected str$"),
]


@pytest.mark.parametrize("before", [False, True], ids=["nothing staged", "something staged"])
@pytest.mark.parametrize(("positional", "named", "message"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_a_refusal_changes_nothing(positional: Any, named: dict[str, Any], message: str, before: bool) -> None:
    log = Log()
    data = made(csv=log)
    if before:
        data.set(1.5, 7, False, ["staged"], expire=5)
    data.ts, data.sender = 3.0, "me"
    state = (data.values, data.body, data.expire, data.ts, data.sender, staged(data), list(log.rows))
    with pytest.raises(FieldError, match=message):
        data.set(*positional, **named)
    assert state == (data.values, data.body, data.expire, data.ts, data.sender, staged(data), log.rows)
    data.set(count=9)
    assert data.values.ts == 3.0, "the assigned time waits for the set that succeeds"


# -- limits -----------------------------------------------------------------------------------------------------------

OUTSIDE = [60.5, -0.1, math.nan, math.inf, -math.inf, np.float32(61), np.float64("nan"), 61]


@pytest.mark.parametrize("value", OUTSIDE, ids=repr)
def test_out_of_limits_is_stored_and_can_be_told(value: float) -> None:
    log = Log()
    data = made(csv=log)
    data.set(voltage=value)
    assert staged(data) == [data] and len(log.rows) == 1
    assert data.layout.record.out_of_limits(data.values) == ("voltage",)
    assert sent(data)["voltage"] == repr(float(value))


SETPOINT = ["angle", 0.0, {"unit": "deg", "min": 0, "max": 60, "on_limit": "refuse"}]


@pytest.mark.parametrize("value", OUTSIDE, ids=repr)
def test_a_set_point_out_of_limits_is_refused(value: float) -> None:
    log = Log()
    data = made(SETPOINT, ["other", 0], csv=log)
    data.set(30.0, 1)
    message = r"^record BATTERY, field 'angle': .* is out of limits, expected 0 <= float \[deg\] <= 60$"
    for positional, named in [((value, 2), {}), ((), {"angle": value})]:
        with pytest.raises(FieldError, match=message):
            data.set(*positional, **named)
    assert data.values[2:] == (30.0, 1)
    assert len(log.rows) == 1


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 60, 60.0, np.int8(60), 1e-300], ids=repr)
def test_limits_are_within(value: float) -> None:
    data = made(SETPOINT)
    data.set(value)
    assert data.layout.record.out_of_limits(data.values) == ()


@pytest.mark.parametrize(
    ("limits", "value", "expected"),
    [
        ({"min": 1}, 0, r"expected 1 <= int$"),
        ({"max": 1}, 2, r"expected int <= 1$"),
        ({"min": 0.5, "max": 1}, 0, "0.5 <= int <= 1$"),
    ],
)
def test_one_limit(limits: dict[str, Any], value: int, expected: str) -> None:
    data = made(["a", 1, {**limits, "on_limit": "refuse"}])
    data.set(1)
    with pytest.raises(FieldError, match=f"^record BATTERY, field 'a': {value} is out of limits, .*{expected}"):
        data.set(value)


def test_a_wrong_type_comes_before_limits() -> None:
    with pytest.raises(FieldError, match=r"^record BATTERY, field 'angle': 'x' is str, expected float \[deg\]$"):
        made(SETPOINT).set("x")


# -- what goes on beside ----------------------------------------------------------------------------------------------


def test_each_set_is_a_row() -> None:
    log = Log()
    data = made(csv=log)
    data.set(1.5, 7, False, ["new"], ts=1.0)
    data.set(count=8, ts=2.0, sender="other")
    assert log.rows == [(1.0, "APP", 1.5, 7, False, ["new"]), (2.0, "other", 1.5, 8, False, ["new"])]


def test_a_file_that_cannot_be_written_does_not_matter(tmp_path: Any) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    log = CsvLog(blocked / "folder", "APP", "BATTERY", ["ts"], {})
    data = made(["a", 0], csv=log)
    data.set(1)
    assert (staged(data), log.rows, log.lost) == ([data], 0, 1)


def test_the_order_of_the_first_set_is_the_order_of_the_flush() -> None:
    together: dict[Data, None] = {}
    layouts = [Layout(parse_record(name, [*START, ["a", 0]]), Names()) for name in "ABC"]
    a, b, c = (Data(layout, "APP", (0.0, "", 0), together, None) for layout in layouts)
    for data, value in [(c, 1), (a, 2), (c, 3), (b, 4)]:
        data.set(value)
    assert [data.name for data in together] == ["C", "A", "B"]
    assert c.values.a == 3
    assert repr(a) == "<Data A, staged: A(ts=1700000000.25, sender='APP', a=2)>"
    together.clear()
    assert repr(a).startswith("<Data A, flushed or unset: ")


def test_another_time_for_what_is_staged() -> None:
    image = np.array([1, 2], "u1")
    data = made(["image", 0, {"dtype": "|u1", "shape": [2]}], ["notes", []])
    notes = ["a"]
    data.set(image, notes, ts=1.0)
    image[:] = 9
    notes.append(object())  # type: ignore[arg-type]
    data.restamp(2.5)
    assert (data.values.ts, data.values.sender) == (2.5, "APP")
    assert sent(data) == {"ts": "2.5", "sender": "APP", "image": "\1\2", "notes": '["a"]'}
    with pytest.raises(FieldError, match="^record BATTERY, field 'ts': 'now' is str, expected float$"):
        data.restamp("now")  # type: ignore[arg-type]
    assert sent(data)["ts"] == "2.5"


def test_a_newer_description_of_the_same_fields() -> None:
    data = made(["a", 0])
    data.set(5)
    fields = [*START, ["b", "new"], ["a", 0, {"max": 1, "on_limit": "refuse"}]]
    for _ in range(2):
        data.adopt(data.layout.described_as(parse_record("BATTERY", fields), Names()))
        assert sent(data) == {"ts": repr(NOW), "sender": "APP", "a": "5", "b": "new"}, "staged values stay"
    with pytest.raises(FieldError, match="^record BATTERY, field 'a': 5 is out of limits, expected int <= 1$"):
        data.set(5)
    data.set(1)
    assert sent(data) == {"ts": repr(NOW), "sender": "APP", "a": "1", "b": "new"}
    data.restamp(1.0)
    assert sent(data)["ts"] == "1.0"
    data.adopt(data.layout.described_as(parse_record("BATTERY", [*START, ["a", 0]]), Names()))
    assert sent(data) == {"ts": "1.0", "sender": "APP", "a": "1"}


def test_now_is_the_time_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    data = made(["a", 0])
    before = time.time()
    data.set(1)
    assert before <= data.values.ts <= time.time()
