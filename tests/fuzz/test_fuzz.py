"""Any bytes at every door: an error that the parser names, or a frame that is dropped; nothing else, ever."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doors import DOORS, Door, push

WORDS = sorted(
    {"ts", "sender", "fields", "history", "shape", "dtype", "<f4", "min", "max", "unit", "owner", "max_age", "on_limit"}
    | {"_id", "classname", "arguments", "object_selector", "event_name", "save_template", "follow", "records", "logs"}
    | {"writers", "id", "recording", "record", "description", "last", "maxshape", "chunks", "keep", "__array__"}
    | {"shareddata.archive.JsonArchiver", "ArrayArchiver", "{{ n }}.npy", "..", "", "R", "1-0", "\x00", "\ud800", "é"}
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=5),
    st.sampled_from([2**31, 2**60, 2**63, 2**64, -1, 10**400, 1e308, 1e-320]),
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


def changed(value: Any, draw: st.DrawFn) -> Any:
    """Return a JSON value of which some part is another one."""
    if draw(st.integers(0, 5)) == 0:
        return draw(trees)
    if isinstance(value, list) and value:
        i = draw(st.integers(0, len(value) - 1))
        return [*value[:i], changed(value[i], draw), *value[i + 1 :]]
    if isinstance(value, dict) and value:
        name = draw(st.sampled_from(sorted(value)))
        return value | {draw(st.sampled_from([name, *WORDS])): changed(value[name], draw)}
    return draw(scalars)


@st.composite
def data_for(draw: st.DrawFn, door: Door) -> bytes:
    """Draw bytes: of any kind, nearly right ones, JSON of any shape, nearly right JSON."""
    kind = draw(st.sampled_from(["bytes", "cut", "mixed", "json", "json"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    example = draw(st.sampled_from(list(door.examples)))
    if kind == "json":
        try:
            value = json.loads(example)
        except ValueError:
            kind = "mixed"
        else:
            whole = draw(st.booleans())
            return json.dumps(changed(value, draw) if whole else draw(trees)).encode()
    start, end = sorted(draw(st.tuples(st.integers(0, len(example)), st.integers(0, len(example)))))
    if kind == "cut":
        return example[:start] + example[end:]
    between = draw(st.binary(max_size=12) | st.sampled_from([b"\xff", b"nan", b"1e999", b"-1", b"9" * 30, b"\xfb\xff"]))
    return example[:start] + between + example[draw(st.sampled_from([start, end])) :]


@pytest.mark.parametrize("name", DOORS)
@given(data=st.data())
def test_door(name: str, data: st.DataObject) -> None:
    push(DOORS[name], data.draw(data_for(DOORS[name])))


@pytest.mark.parametrize("name", DOORS)
def test_what_is_right_gets_in(name: str) -> None:
    """The examples are taken: the doors are real ones."""
    taken = [push(DOORS[name], example) for example in DOORS[name].examples]
    assert all(taken) or name == "reference"  # its file is not there


DEEP = {
    "lists": b"[" * 100_000,
    "closed lists": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"a":' * 100_000,
    "CBOR lists": b"\x81" * 100_000 + b"\x00",
    "CBOR endless lists": b"\x9f" * 100_000,
    "CBOR tags": b"\xc1" * 100_000 + b"\x00",
    "brackets": b"(" * 100_000,
    "minus": b"-" * 100_000 + b"1",
    "a long number": b"9" * 100_000,
}


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("deep", DEEP)
def test_deep(name: str, deep: str) -> None:
    push(DOORS[name], DEEP[deep])
    push(DOORS[name], b"ts\xff1\xffsender\xffme\xffl\xff" + DEEP[deep])


FOUND = [
    ("answer", b"+OK\r\n+QUEUED\r\n+QUEUED\r\n:1\r\n"),
    ("answer", b">0\r\n+OK\r\n"),
    ("answer", b">1\r\n$10\r\ninvalidate\r\n+OK\r\n"),
    ("answer", b">2\r\n$10\r\ninvalidate\r\n:1\r\n+OK\r\n"),
    ("answer", b">1\r\n*0\r\n+OK\r\n"),
    ("address", b"unix:///a%00b"),
    ("archivers", b'{"classname": ".actor.ArrayArchiver", "arguments": {}}'),
    ("archivers", b'{"classname": "a..b.ArrayArchiver", "arguments": {}}'),
    ("event", b"size\xffmany\xffplace\xfe"),
    ("frame file", b'attrs:/\xff{"a": {"__array__": ["(1 2", [1], "AAAA"]}}'),
    ("frame file", b'attrs:/\xff{"a": {"__array__": ["<f8", [1], "A"]}}'),
    ("frame file", b"attrs:/\xff[1]"),
    ("recording", b"id,ts,sender,a\n741854000000-\xcb,1.5,me,2.5\n"),
    ("snapshot", b"PK\x05\x06\0\0\0\0\x01\0\x01\0/\0/\0/\0\0\0/\0\0\0\0\0"),
    ("writers of a log", b'{"writers": 5}'),
    ("writers of a log", b'{"writers": [["a"]]}'),
]
"""What was found once, by hypothesis or guided by coverage."""


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_found(name: str, data: bytes) -> None:
    push(DOORS[name], data)
