"""The bytes that are sent are what an ordinary client would send, and replies become values or say what is wrong."""

import json
import math
import re
import sys
from typing import Any

import hiredis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shareddata import codec
from shareddata.datadesc import DTYPES, Record, parse_record
from shareddata.errors import DecodeError, DescriptionError, FieldError
from shareddata.names import Names
from shareddata.wire import Group, Layout, pack, queued, transaction

START: list[list[Any]] = [["ts", 0.0], ["sender", ""]]
EVERY: list[list[Any]] = [
    ["f", 0.0, {"unit": "V"}], ["i", 0], ["b", False], ["s", ""], ["l", []], ["o", {}], ["a", None], ["é", 0],
    ["x", 0, {"dtype": "<f4", "shape": [2], "unit": "50 % of m"}],
]  # fmt: skip
TEXTS = st.text(max_size=40)
FLOATS, INTS = st.floats(), st.integers() | st.sampled_from([2**64, -(10**40), 10**100, 10**4299])
JSON = st.recursive(
    st.none() | st.booleans() | INTS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
ARRAYS = st.lists(st.floats(width=32), min_size=2, max_size=2).map(lambda pair: np.array(pair, "<f4"))
ROWS = st.tuples(
    FLOATS, TEXTS, FLOATS | INTS.filter(lambda i: abs(i) < 10**300), INTS, st.booleans(), TEXTS,
    st.lists(JSON, max_size=3), st.dictionaries(TEXTS, JSON, max_size=3), JSON, INTS, ARRAYS,
)  # fmt: skip
PLAIN_ROWS = st.tuples(FLOATS, TEXTS, FLOATS, INTS, st.booleans(), TEXTS)


def layout(*fields: list[Any], namespace: str = "", **options: Any) -> Layout:
    return Layout(parse_record("R", {**options, "fields": [*START, *fields]}), Names(namespace))


def parsed(request: bytes) -> list[Any]:
    """Return the commands that a server would read."""
    reader = hiredis.Reader()
    reader.feed(request)
    commands: list[Any] = []
    while (command := reader.gets()) is not False:
        commands.append(command)
    assert reader.has_data() is False, "no rest"
    return commands


def pairs(record: Record, row: tuple[Any, ...]) -> list[str | bytes]:
    """Return names and encoded values, one after the other."""
    return [part for f, value in zip(record.fields, row) for part in (f.name, codec.encoder(*f.kind)(value))]


# -- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["", "usv1"])
@given(row=ROWS)
def test_a_flush_is_what_an_ordinary_client_sends(namespace: str, row: tuple[Any, ...]) -> None:
    every = layout(*EVERY, namespace=namespace, history=100)
    key, values = Names(namespace).record("R"), pairs(every.record, row)
    for _ in range(2):  # the first time prepares the usual case
        body = every.pack(row)
        assert every.hset + body == hiredis.pack_command(("HSET", key, *values))
        assert every.xadd + body == hiredis.pack_command(("XADD", f"{key}:history", "MAXLEN", "~", "100", "*", *values))


USUAL = layout(["f", 0.0], ["i", 0], ["b", False], ["s", ""])
USUAL.pack((0.0, "", 0.0, 0, False, ""))


@given(row=PLAIN_ROWS)
def test_the_usual_case_is_no_different(row: tuple[Any, ...]) -> None:
    assert USUAL.hset + USUAL.pack(row) == hiredis.pack_command(("HSET", "R", *pairs(USUAL.record, row)))


@pytest.mark.parametrize("length", [0, 1, 30, 31, 32, 33, 100_000])
@pytest.mark.parametrize("character", ["a", "é", "%", "\r", "\0"])
def test_texts_of_every_length(character: str, length: int) -> None:
    row = (1.5, "me", 0.5, 10**30, True, character * length)
    assert USUAL.hset + USUAL.pack(row) == hiredis.pack_command(("HSET", "R", *pairs(USUAL.record, row)))


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "somebody else's"


@pytest.mark.parametrize(
    "row",
    [
        (1, "me", 2, 3, True, "s"),
        (np.float64(1.5), "me", np.float32(0.5), np.int64(3), np.bool_(True), np.str_("s")),
        (1.5, Text("me"), 0.5, 3, False, Text("s")),
        (math.nan, "me", -0.0, 0, False, ""),
        (-math.inf, "\U0001f6a4", 5e-324, 10**4299, True, "\x7f\x80"),
    ],
    ids=lambda row: str(row)[:20],
)
def test_values_that_are_not_of_the_usual_types(row: tuple[Any, ...]) -> None:
    assert USUAL.hset + USUAL.pack(row) == hiredis.pack_command(("HSET", "R", *pairs(USUAL.record, row)))


@settings(max_examples=50)
@given(row=ROWS)
def test_there_and_back(row: tuple[Any, ...]) -> None:
    every = layout(*EVERY)
    command = parsed(every.hset + every.pack(row))[0]
    trame = every.decode(command[3::2])
    if not row[1]:
        assert trame is None, "an empty sender says: never written"
        return
    assert trame._fields == tuple(f.name for f in every.record.fields)
    assert [*map(repr, trame[:-1])] == [repr(float(row[0])), repr(row[1]), repr(float(row[2])), *map(repr, row[3:-1])]
    assert trame[-1].tobytes() == row[-1].tobytes()
    assert repr(every.decode_entry(command[2:], "1-0")) == repr(trame)
    assert repr(every.decode([bytes(value) for value in every.encode(row)])) == repr(trame)


def test_a_history_bounded_by_time() -> None:
    hours = layout(["a", 0], history="2h", namespace="usv1")
    body = hours.pack((1.5, "me", 3))
    now = 1_700_000_000_000
    head = ("XADD", "{usv1}:R:history", "MINID", "~", str(now - 7_200_000), "*")
    assert hours.xadd_since(now) + body == hiredis.pack_command((*head, "ts", "1.5", "sender", "me", "a", "3"))
    assert parsed(hours.xadd_since(5) + body)[0][4] == b"0", "not before 1970"


@pytest.mark.parametrize(
    ("options", "has_history", "span"),
    [({}, True, None), ({"history": 0}, False, None), ({"history": 1}, True, None), ({"history": "1s"}, True, 1.0)],
    ids=["usual", "none", "count", "time"],
)
def test_history_or_none(options: dict[str, Any], has_history: bool, span: float | None) -> None:
    made = layout(["a", 0], **options)
    assert (made.has_history, bool(made.xadd), made.span) == (has_history, has_history, span)


def test_units_and_texts_may_hold_anything() -> None:
    odd = layout(["a", 0.0, {"unit": "% $b %s", "doc": "100 % \r\n"}], doc="%(a)s", owner="%d", history="1h")
    assert parsed(odd.hset + odd.pack((0.0, "%s %b %", 1.5))) == [
        [b"HSET", b"R", b"ts", b"0.0", b"sender", b"%s %b %", b"a", b"1.5"]
    ]


@given(FLOATS | INTS.filter(lambda i: abs(i) < 10**300), ROWS)
def test_another_time_changes_only_the_time(ts: float, row: tuple[Any, ...]) -> None:
    every = layout(*EVERY)
    assert every.restamp(every.pack(row), ts) == every.pack((ts, *row[1:]))


@pytest.mark.parametrize("ts", ["now", None, True, [], 10**400])
def test_another_time_that_is_none(ts: Any) -> None:
    with pytest.raises(FieldError, match="^record R, field 'ts': .* expected float"):
        USUAL.restamp(USUAL.pack((0.0, "me", 0.0, 0, False, "")), ts)


@pytest.mark.parametrize(
    ("seconds", "command"),
    [
        (None, ["PERSIST", "{n}:R"]),
        (2, ["PEXPIRE", "{n}:R", "2000"]),
        (0.0015, ["PEXPIRE", "{n}:R", "2"]),
        (1e-9, ["PEXPIRE", "{n}:R", "1"]),
        (1e9, ["PEXPIRE", "{n}:R", "1000000000000"]),
    ],
)
def test_expiry(seconds: float | None, command: list[str]) -> None:
    assert layout(namespace="n").expiry(seconds) == hiredis.pack_command(tuple(command))


@given(st.lists(st.lists(st.binary() | st.text(), min_size=1, max_size=4), max_size=5))
def test_transactions(commands: list[list[str | bytes]]) -> None:
    sent = transaction([pack(*command) for command in commands])
    plain = [[part.encode() if isinstance(part, str) else part for part in command] for command in commands]
    assert parsed(sent) == [[b"MULTI"], *plain, [b"EXEC"]]
    answers = parsed(queued(len(commands)))
    assert answers == [b"OK"] + [b"QUEUED"] * len(commands)


def test_a_group_is_one_transaction_of_named_fields() -> None:
    first, second = layout(["é", 0], namespace="n"), Layout(parse_record("S", START), Names("n"))
    group = Group([first, second])
    assert parsed(group.request) == [
        [b"MULTI"],
        [b"HMGET", b"{n}:R", b"ts", b"sender", "é".encode()],
        [b"HMGET", b"{n}:S", b"ts", b"sender"],
        [b"EXEC"],
    ]
    replies = [[b"1.5", b"me", b"7"], [None, None]]
    assert group.decode(replies) == [(1.5, "me", 7), None]
    assert type(group.decode(replies)[0]).__name__ == "R"
    assert group.layouts == (first, second)


@pytest.mark.parametrize(("default", "mutable"), [(0.0, False), ("", False), ([], True), ({}, True), (None, True)])
def test_a_group_knows_whether_its_values_can_be_changed(default: Any, mutable: bool) -> None:
    assert Group([layout(["a", 0]), layout(["a", default])]).mutable is mutable


# -- what is refused --------------------------------------------------------------------------------------------------


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]

VOLTS = ["a", 0.0, {"unit": "V"}]
PIXELS = ["a", 0, {"dtype": "|u1", "shape": [2], "unit": "lx"}]
REFUSED: list[tuple[list[Any], Any, str]] = [
    (VOLTS, "12", "'12' is str, expected float [V]"),
    (VOLTS, True, "True is bool, expected float [V]"),
    (VOLTS, None, "None is NoneType, expected float [V]"),
    (VOLTS, 10**400, f"{str(10**400)[:57]}... is int, expected float [V] (the integer is too large for a float)"),
    (["a", 0], 1.0, "1.0 is float, expected int"),
    (["a", 0], False, "False is bool, expected int"),
    (["a", 0], 10**5000, "a value that cannot be shown is int, expected int (Exceeds the limit (4300 digits)"),
    (["a", False], 1, "1 is int, expected bool"),
    (["a", ""], b"x", "b'x' is bytes, expected str"),
    (["a", ""], "a\ud800", r"'a\ud800' is str, expected str ('utf-8' codec can't encode character '\ud800'"),
    (["a", ""], 5, "5 is int, expected str"),
    (["a", []], {"b": 1}, "{'b': 1} is dict, expected list"),
    (["a", []], "ab", "'ab' is str, expected list"),
    (["a", []], [object], "[<class 'object'>] is list, expected list (JSON has no type)"),
    (["a", []], DEEP, "a value that cannot be shown is list, expected list (the value is nested too deeply)"),
    (["a", {}], [], "[] is list, expected object"),
    (["a", {}], {1: 2}, "{1: 2} is dict, expected object (the key 1 of an object must be a str)"),
    (["a", None], {1}, "{1} is set, expected JSON value (JSON has no set)"),
    (["a", None], Rude(), "a value that cannot be shown is Rude, expected JSON value (JSON has no Rude)"),
    (PIXELS, [1, 256], "[1, 256] is list, expected array |u1 (2,) [lx] (an element is too large for the type)"),
    (PIXELS, [1], "[1] is list, expected array |u1 (2,) [lx] (its shape is (1,))"),
    (PIXELS, [1.0, 2.0], "[1.0, 2.0] is list, expected array |u1 (2,) [lx] (its elements are float64)"),
    (PIXELS, None, "None is NoneType, expected array |u1 (2,) [lx] (its "),
]


@pytest.mark.parametrize(("field", "value", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_a_refusal_names_record_field_value_type_and_unit(field: list[Any], value: Any, message: str) -> None:
    made = layout(["other", ""], field)
    for _ in range(2):
        with pytest.raises(FieldError, match="^" + re.escape(f"record R, field 'a': {message}")):
            made.pack((0.0, "me", "x", value))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("now", "me", 0.0, 0, False, ""), "field 'ts': 'now' is str, expected float"),
        ((0.0, 5, 0.0, 0, False, ""), "field 'sender': 5 is int, expected str"),
        ((0.0, "me", 0.0, 0, 0, ""), "field 'b': 0 is int, expected bool"),
        ((0.0, "me", "", 0, 0, ""), "field 'f': '' is str, expected float"),
    ],
)
def test_the_first_wrong_field_is_named(row: tuple[Any, ...], message: str) -> None:
    with pytest.raises(FieldError, match=f"^record R, {message}$"):
        USUAL.pack(row)


def test_a_long_value_is_shown_short() -> None:
    with pytest.raises(FieldError, match=r"^record R, field 'f': 'x{56}\.\.\. is str, expected float$"):
        USUAL.pack((0.0, "me", "x" * 10_000, 0, False, ""))


def test_arrays_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(
        DescriptionError, match=r"^record R: array fields need numpy.*pip install 'shareddata\[arrays\]'$"
    ):
        layout(PIXELS)
    assert layout(VOLTS).key == "R"


# -- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", EVERY, ids=lambda field: field[0])
def test_none_or_a_word_about_what_is_missing(field: list[Any]) -> None:
    made = layout(field, namespace="n")
    good = [bytes(value) for value in made.encode([0.0, "me", *made.defaults()[2:]])]
    assert made.decode(good) is not None
    assert made.decode([None] * 3) is None, "deleted, expired"
    assert made.decode([good[0], b"", good[2]]) is None, "never written"
    for position, name in enumerate(("ts", "sender", field[0])):
        damaged: list[bytes | None] = [*good]
        damaged[position] = None
        message = rf"^record R, field '{name}': found nothing in the key \{{n\}}:R, expected .*: another program wrote"
        with pytest.raises(DecodeError, match=message):
            made.decode(damaged)


DAMAGED = [
    ("f", b"1,5", "found b'1,5' in the key R, expected float [V]"),
    ("f", b"", "found b'' in the key R, expected float [V]"),
    ("i", b"1.5", "found b'1.5' in the key R, expected int"),
    ("i", b"9" * 5000, f"found b'{'9' * 57}...' in the key R, expected int"),
    ("b", b"1", "found b'1' in the key R, expected bool"),
    ("s", b"\xff", r"found b'\xff' in the key R, expected str"),
    ("l", b"{}", "found b'{}' in the key R, expected list"),
    ("l", b"[" * 100_000, f"found b'{'[' * 57}...' in the key R, expected list"),
    ("o", b"[]", "found b'[]' in the key R, expected object"),
    ("a", b"x", "found b'x' in the key R, expected JSON value"),
    ("x", b"1234567", "found b'1234567' in the key R, expected array <f4 (2,) [50 % of m]"),
    ("x", b"1" * 12, "found b'111111111111' in the key R, expected array"),
    ("ts", b"now", "found b'now' in the key R, expected float"),
    ("sender", b"\xed\xa0\x80", r"found b'\xed\xa0\x80' in the key R, expected str"),
]


@pytest.mark.parametrize(("name", "value", "message"), DAMAGED, ids=lambda value: repr(value)[:20])
def test_damage_is_named(name: str, value: bytes, message: str) -> None:
    every = layout(*EVERY)
    names = [f.name for f in every.record.fields]
    reply = [bytes(v) for v in every.encode([0.0, "me", *every.defaults()[2:]])]
    reply[names.index(name)] = value
    expected = f"record R, field {name!r}: {message}"
    remedy = ": another program wrote it; see who with `redis-cli hgetall 'R'`"
    with pytest.raises(DecodeError, match=f"^{re.escape(expected)}.*{re.escape(remedy)}$"):
        every.decode(reply)
    entry = [part for pair in zip([n.encode() for n in names], reply) for part in pair]
    of_history = expected.replace("R, field", "R, entry 1-0, field").replace("the key R", "the key R:history")
    with pytest.raises(DecodeError, match=f"^{re.escape(of_history)}.*redis-cli xrange 'R:history' 1-0 1-0`$"):
        every.decode_entry(entry, "1-0")


ARRAYS_OF_ALL = [[f"x{i}", dtype == "|b1" or 0, {"dtype": dtype, "shape": [2]}] for i, dtype in enumerate(DTYPES)]
ALL_KINDS = layout(*EVERY, *ARRAYS_OF_ALL)
BYTES = st.none() | st.binary(max_size=33) | st.text('0123456789.-+eEnai_ \n[]{}",:true', max_size=12).map(str.encode)


@given(st.lists(BYTES, min_size=len(ALL_KINDS.record.fields), max_size=len(ALL_KINDS.record.fields)))
def test_any_reply_is_a_trame_or_none_or_a_decode_error(reply: list[bytes | None]) -> None:
    try:
        ALL_KINDS.decode(reply)
    except DecodeError as error:
        assert re.match("record R, field '.*': found .* in the key R, expected ", str(error), re.DOTALL)  # noqa: PT017


@pytest.mark.parametrize("position", range(len(ALL_KINDS.record.fields)))
@given(value=BYTES)
def test_any_bytes_in_one_field(position: int, value: bytes | None) -> None:
    reply: list[bytes | None] = list(ALL_KINDS.encode([0.0, "me", *ALL_KINDS.defaults()[2:]]))
    reply[position] = value
    try:
        trame = ALL_KINDS.decode(reply)
    except DecodeError as error:
        assert f"field {ALL_KINDS.record.fields[position].name!r}" in str(error)  # noqa: PT017
    else:
        assert trame is None or len(trame) == len(reply)


# -- histories --------------------------------------------------------------------------------------------------------


def test_an_entry_from_before_a_field_was_described_has_its_default() -> None:
    now = layout(["a", 1.5], ["b", [1]], ["c", 7, {"dtype": "<f4", "shape": [2]}])
    trame = now.decode_entry([b"ts", b"2.5", b"sender", b"me", b"old", b"x"], "1-0")
    assert (trame.ts, trame.sender, trame.a, trame.b, trame.c.tolist()) == (2.5, "me", 1.5, [1], [7.0, 7.0])


def test_an_entrys_order_is_its_own() -> None:
    assert layout(["a", 0]).decode_entry([b"a", b"5", b"sender", b"me", b"ts", b"1"], "1-0") == (1.0, "me", 5)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"x", b"y"],
        [b"ts", b"1.0", b"a", b"5"],
        [b"sender", b"me", b"a", b"5"],
        [b"ts", b"1.0", b"sender", b"", b"a", b"5"],
        [b"ts", b"1.0", b"sender"],
    ],
    ids=str,
)
def test_an_entry_that_is_no_trame(fields: list[bytes]) -> None:
    message = r"^record R, entry 17-3 of the key \{n\}:R:history: found \{.*, expected a trame with ts and sender"
    with pytest.raises(DecodeError, match=message):
        layout(["a", 0], namespace="n").decode_entry(fields, "17-3")


def test_a_damaged_entry_is_named() -> None:
    with pytest.raises(DecodeError, match="^record R, entry 17-3, field 'a': found b'x' in the key R:history"):
        layout(["a", 0]).decode_entry([b"ts", b"1", b"sender", b"me", b"a", b"x"], "17-3")


@given(st.lists(st.sampled_from([b"ts", b"sender", b"a", b"5", b"x", b""]) | st.binary(), max_size=8))
def test_any_entry_is_a_trame_or_a_decode_error(fields: list[bytes]) -> None:
    try:
        assert layout(["a", 0]).decode_entry(fields, "1-0") is not None
    except DecodeError as error:
        assert str(error).startswith("record R, ")  # noqa: PT017


# -- defaults and newer descriptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_number_fills_an_array(dtype: str) -> None:
    one: Any = True if dtype == "|b1" else 3
    made = layout(["a", one, {"dtype": dtype, "shape": [2, 2]}], ["b", [one, one], {"dtype": dtype, "shape": [2]}])
    filled, listed = made.defaults()[2:]
    assert (filled.dtype.str, filled.tolist(), listed) == (dtype, [[one, one], [one, one]], [one, one])
    back = made.decode([b"1", b"me", *made.encode(made.defaults())[2:]])
    assert (back.a.tolist(), back.b.tolist()) == ([[one, one], [one, one]], [one, one])


def test_defaults_of_every_type_can_be_written() -> None:
    every = layout(*EVERY)
    assert parsed(every.hset + every.pack(every.defaults()))[0][2:][1::2] == [
        *(b"0.0", b"", b"0.0", b"0", b"false", b"", b"[]", b"{}", b"null", b"0", bytes(8))
    ]


def test_described_as_keeps_the_programs_fields_and_fills_in_new_ones() -> None:
    old = layout(["a", 0], ["b", ""], namespace="n")
    fields = [*START, ["c", 0.5], ["b", ""], ["a", 0, {"max": 1}], ["d", 7, {"dtype": "|u1", "shape": [2]}]]
    newer = parse_record("R", {"history": 5, "fields": fields})
    made = old.described_as(newer, Names("n"))
    assert [f.name for f in made.record.fields] == ["ts", "sender", "a", "b"]
    assert (made.record.fields[2].max, made.record.history, made.key) == (1, 5, "{n}:R")
    new = ["c", "0.5", "d", b"\7\7"]
    for text in ("x", "é"):  # the usual case, and the other
        body = made.pack((0.0, "me", 1, text))
        assert body == old.pack((0.0, "me", 1, text)) + made.tail
        values = ["ts", "0.0", "sender", "me", "a", "1", "b", text, *new]
        assert made.hset + body == hiredis.pack_command(("HSET", "{n}:R", *values))
        history = ("XADD", "{n}:R:history", "MAXLEN", "~", "5", "*", *values)
        assert made.xadd + body == hiredis.pack_command(history)
        assert made.restamp(body, 2.5) == made.pack((2.5, "me", 1, text))
    assert made.described_as(old.record, Names("n")).tail == b""


def test_refused_are_the_fields_that_refuse() -> None:
    made = layout(["a", 0, {"max": 1}], ["b", 0, {"max": 1, "on_limit": "refuse"}], ["c", 0, {"on_limit": "refuse"}])
    assert [(position, field.name) for position, field in made.refused] == [(3, "b")]
    assert str(made) == "record R"


def test_bodies_are_json_for_other_languages() -> None:
    made = layout(["a", None])
    text = parsed(made.hset + made.pack((0.0, "me", {"b": [1, None, "é", 0.5]})))[0][-1]
    assert json.loads(text) == {"b": [1, None, "é", 0.5]}
