"""The doors through which data come in from outside: each takes any bytes, and raises nothing but what it names.

Hypothesis (`test_fuzz.py`) and a coverage-guided fuzzer (`guided.py`) push against the same doors. It knows every
parser of the library that reads what others wrote. Invariant: a door calls the library as its users do, or as the
library itself does with what a server or a file holds.
"""

import io
import json
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from functools import reduce
from operator import xor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from shareddata.apps import bridge_mqtt, hdl_battery, hdl_gps

from shareddata import archive, cbor, cells, codec, deadletters, descfile, eras, large, lease, login, snapshots
from shareddata.acl import password_hashes, programs_from, rights
from shareddata.address import Address
from shareddata.connection import Connection
from shareddata.datadesc import parse_record
from shareddata.described import Descriptions
from shareddata.errors import (
    DecodeError,
    DescriptionError,
    LogFormatError,
    ServerError,
    ServerSetupError,
    SharedDataError,
    TemplateError,
)
from shareddata.eventstream import entry_of
from shareddata.fifo import Fifo
from shareddata.formats import Format
from shareddata.frameattrs import Attributes
from shareddata.framestore import Description
from shareddata.logwriter import newer, parted
from shareddata.names import Names
from shareddata.recording import Recording
from shareddata.sensorvalues import packed_of
from shareddata.serialline import NMEA, VEDirect
from shareddata.uniform import Uniform
from shareddata.wire import Layout

NOWHERE = Connection(Address("unix:///nowhere"), 1.0, "epoch")
HEAD = [["ts", 0.0], ["sender", ""]]
ALL_TYPES = parse_record(
    "R",
    [*HEAD, ["f", 0.0], ["i", 0], ["b", False], ["t", ""], ["l", []], ["o", {}], ["a", None]]
    + [["v", 0.0, {"dtype": "<f4", "shape": [2]}]],
)
LAYOUT = Layout(ALL_TYPES, Names(""))


class Door(NamedTuple):
    """A parser: what it is given, what it may raise, and bytes that it takes."""

    enter: Callable[[bytes], object]
    raises: tuple[type[BaseException], ...]
    examples: Sequence[bytes]


_folder = tempfile.TemporaryDirectory(prefix="shareddata-doors-")


def as_file(data: bytes, name: str) -> Path:
    """Write bytes into a file of this process's own."""
    path = Path(_folder.name) / f"{os.getpid()}_{name}"
    path.write_bytes(data)
    return path


def pieces(data: bytes) -> list[bytes]:
    """Return bytes in pieces, as fields and values stand in an answer."""
    return data.split(b"\xff")


def described_in_a_file(data: bytes) -> None:
    for record in descfile.load(as_file(data, "d.json")).values():
        Layout(record, Names("")).defaults()


def described_in_a_server(data: bytes) -> None:
    Descriptions(NOWHERE, Names(""), lambda: 0.0).parsed("R", data)


def described_earlier(data: bytes) -> None:
    eras.answered(Names(""), "R", [(b"1-0", pieces(data))])


def values_of_a_record(data: bytes) -> None:
    LAYOUT.decode((pieces(data) + [b""] * 10)[:10])


def entry_of_a_history(data: bytes) -> None:
    LAYOUT.decode_entry(pieces(data), "1-0")


def event(data: bytes) -> None:
    entry_of(b"1-0", pieces(data))


def writers_of_a_log(data: bytes) -> None:
    newer(None, data)
    parted(b'{"writers": [["a", 1]]}', data)


def element_of_a_queue(data: bytes) -> None:
    fifo = Fifo.__new__(Fifo)
    fifo.name, fifo._key = "q", "fifo:q"
    fifo._decode(data)


def reference(data: bytes) -> None:
    large.size(b"@file:" + data)
    large.read(b"@file:" + data)
    large.read(data)


def frame_file(data: bytes) -> None:
    found = Description()
    parts = pieces(data)
    found.take(dict(zip(parts[::2], parts[1::2])), "here")
    for layout in found.layouts.values():
        assert layout.chunk_bytes >= 0
    for path in found.attrs:
        store = SimpleNamespace(description=found, subject="here")
        dict(Attributes(SimpleNamespace(store=store), path))  # type: ignore[arg-type]


def lease_of_a_record(data: bytes) -> None:
    lease.who(lease._holder(data))


def snapshot(data: bytes) -> None:
    snapshots.read(as_file(data, "s.zip"))


def file_of_cbor(data: bytes) -> None:
    snapshots.read(as_file(data, "s.cbor"))


def dead_letter(data: bytes) -> None:
    deadletters.read(as_file(data, "l.letter"))


def recording(data: bytes) -> None:
    text, _, beside = data.partition(b"\xff")
    path = as_file(text, "GPS__fix_2026-07-20_12h00m00.123sZ.csv")
    path.with_suffix(".json").write_bytes(beside)
    found = Recording(path)
    list(found.entries())
    found.at(found.last)


def literal(data: bytes) -> None:
    cells.literal(data)


def archivers(data: bytes) -> None:
    archive.configured(as_file(data, "archivers.json"))


def programs(data: bytes) -> None:
    rights({"R": ALL_TYPES}, programs_from(as_file(data, "programs.json")))


def password(data: bytes) -> None:
    path = as_file(data, "password")
    os.environ["FUZZ_PASSWORD_FILE"] = str(path)
    login.login("FUZZ", "user")
    password_hashes(path.parent, [path.name])


def battery(data: bytes) -> None:
    framer, battery = VEDirect(), hdl_battery.Battery()
    for start in range(0, len(data), 7):
        for block in framer.feed(data[start : start + 7]):
            try:
                battery.decode(block)
            except (LookupError, ValueError):
                pass  # what a handler drops, and says so
        assert len(framer._pending) <= framer.LONGEST


def receiver(data: bytes) -> None:
    framer = NMEA()
    sentences = []
    for start in range(0, len(data), 7):
        sentences += framer.feed(data[start : start + 7])
        assert len(framer._pending) <= framer.LONGEST
    body = data.translate(None, bytes([*range(32), *range(127, 256), *b"$!*"]))
    checked = b"$%s*%02X\r\n" % (body, reduce(xor, body, 0))
    for sentence in sentences + framer.feed(b"\n" + checked):
        try:
            hdl_gps.decode(sentence)
        except (LookupError, ValueError):
            pass  # what a handler drops, and says so


def address(data: bytes) -> None:
    text = data.decode(errors="replace")
    if not text.startswith("embedded"):
        Address(text)
    login.holds_password(text)


def log_format(data: bytes) -> None:
    found = Format(data.decode(errors="replace"))
    found.dtype()


def page_of_a_log(data: bytes) -> None:
    Uniform(7, 100, b"0", 4)(data)


def answer(data: bytes) -> None:
    """Let a connection take bytes for the answer to a transaction, and to a single question."""
    for ask in (lambda c: c.transact(b"x", ["a", "b"]), lambda c: c.single(b"x", ["a"]), lambda c: c.command(b"x")):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data[:60_000])
            theirs.shutdown(socket.SHUT_WR)
            connection = Connection(Address("unix:///nowhere"), 1.0, "epoch")
            connection.listening = True
            connection._use(ours)
            try:
                ask(connection)
            except ServerError:
                pass
            connection.close()


def pack_of_a_sensor(data: bytes) -> None:
    packed_of(b"1-0", pieces(data))


def decode_cbor(data: bytes) -> Any:
    return cbor.decode(data)


def j(value: Any) -> bytes:
    return json.dumps(value).encode()


_CONFIG = {
    "_id": "one",
    "classname": "herostools.actor.ArrayArchiver",
    "arguments": {"object_selector": "cam", "event_name": "x", "save_template": "a/{{ n }}.npy"},
}
_OPTIONS = {"history": "2h", "doc": "d", "owner": "O", "max_age": 2.0}
_DESCRIBED = {"R": _OPTIONS | {"fields": [*HEAD, ["v", 0.0, {"unit": "V"}]]}}
_ENTRY = b"ts\xff1.5\xffsender\xffme\xfff\xff2.5\xffi\xff7\xffb\xfftrue\xfft\xffx\xffl\xff[1]"
_VALUES = b"\xff".join([b"1.5", b"me", b"2.5", b"7", b"true", b"x", b"[1]", b"{}", b"null", bytes(8)])
_CBOR = [b"".join(map(bytes, cbor.encode(value))) for value in ({"a": [1, 2.5, None, "x"]}, codec.numpy().ones((2, 3)))]
_EVENT = b"\xff".join([b"token", b"abc", b"size", b"12", b"metadata", b"\xa0", b"place", b"values"])
_WRITERS = j({"program": "p", "host": "h", "pid": 1, "since": "s", "writers": [["a", 1], ["b", 7]]})
_DATASET = {"dtype": "<u2", "maxshape": [None, 2], "chunks": [1, 2], "keep": 4}
_ATTRS = {"a": 1, "b": {"__array__": ["<f8", [1], "AAAAAAAAAAA="]}}
_FRAMES = b"\xff".join(
    [b"state", b"writing", b"created", b"1.5", b"dataset:/d", j(_DATASET), b"extent:/d", b"[[3, 2], null]"]
    + [b"attrs:/", j(_ATTRS)]
)
_BLOCK = b"\r\nPID\t0x203\r\nV\t26201\r\nI\t0\r\nChecksum\t\xd8"
_CSV = b'id,ts,sender,a,b\n1784540000000-0,1.5,"me",2.5,[1]\n1784540001000-0,2.5,me,3,"x"\n\xff' + j({"record": "R"})
_ANSWERS = [
    b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n$3\r\nabc\r\n",
    b"+OK\r\n-ERR no\r\n+QUEUED\r\n-EXECABORT x\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n:1\r\n",
]
_PAGE = b"*2\r\n*1\r\n*2\r\n$3\r\n7-0\r\n*2\r\n$1\r\n0\r\n$4\r\nabcd\r\n$2\r\nme\r\n"


def zipped(**members: bytes) -> bytes:
    """Return a snapshot."""
    file = io.BytesIO()
    snapshots.write_zip(file, members, 1784540000000, 3)
    return file.getvalue()


DOORS: dict[str, Door] = {
    "address": Door(address, (ServerSetupError,), [b"redis://me:pw@host:6379/3?client_name=x", b"unix:///a/b?db=2"]),
    "answer": Door(answer, (), _ANSWERS),
    "archivers": Door(archivers, (DescriptionError, TemplateError), [j(_CONFIG), j([_CONFIG])]),
    "message of a broker": Door(
        lambda data: bridge_mqtt.understood(data, False), (ValueError,), [j({"values": {"speed": 1.5}, "ts": 1000.5})]
    ),
    "battery": Door(battery, (), [_BLOCK, _BLOCK + b":A0102\n" + _BLOCK]),
    "cbor": Door(decode_cbor, (ValueError,), _CBOR),
    "dead letter": Door(
        dead_letter,
        (DecodeError,),
        [b"".join(map(bytes, cbor.encode(vars(deadletters.Letter("a", "s:e:1", "s", {"n": 1}, [1, 2], "why")))))],
    ),
    "described earlier": Door(described_earlier, (), [b"description\xff" + j(_DESCRIBED["R"])]),
    "described in a file": Door(described_in_a_file, (DescriptionError,), [j(_DESCRIBED), j({"R": [*HEAD, ["a", 1]]})]),
    "described in a server": Door(described_in_a_server, (DecodeError,), [j(_DESCRIBED["R"]), j([*HEAD, ["a", 1]])]),
    "element of a queue": Door(element_of_a_queue, (DecodeError,), [b'["go", 1.5]']),
    "entry of a history": Door(entry_of_a_history, (DecodeError,), [_ENTRY]),
    "event": Door(event, (DecodeError,), [_EVENT]),
    "file of CBOR": Door(file_of_cbor, (DecodeError,), _CBOR),
    "frame file": Door(frame_file, (DecodeError,), [_FRAMES]),
    "lease": Door(lease_of_a_record, (), [j({"id": "x", "app": "A", "program": "p", "pid": 1, "host": "h"})]),
    "literal": Door(literal, (ValueError,), [b"[1, nan, -inf]", b"{'a': (1, 2)}", b'{"a": null}']),
    "log format": Door(log_format, (LogFormatError,), [b"<QQd", b"Q8s", b"3H"]),
    "pack of a sensor": Door(pack_of_a_sensor, (), [b"a\xff\x01"]),
    "page of a log": Door(page_of_a_log, (), [_PAGE, _PAGE[:30]]),
    "password": Door(password, (DescriptionError, ServerSetupError), [b"secret\n"]),
    "programs": Door(programs, (DescriptionError,), [j({"P": {"logs": ["trip*"], "records": ["R"]}})]),
    "receiver": Door(receiver, (), [b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n"]),
    "recording": Door(recording, (SharedDataError,), [_CSV]),
    "reference": Door(reference, (SharedDataError, large.Gone), [b"host/0/server/key/file/12"]),
    "snapshot": Door(snapshot, (DecodeError,), [zipped(a=_CBOR[0]), zipped(**{"a/b": _CBOR[1], "c": b"\x01"})]),
    "values of a record": Door(values_of_a_record, (DecodeError,), [_VALUES]),
    "writers of a log": Door(writers_of_a_log, (DecodeError,), [_WRITERS]),
}


def push(door: Door, data: bytes) -> bool:
    """Give a door bytes; return whether it took them.

    Raises:
        Exception: it raised what it does not name: a bug.
    """
    try:
        door.enter(data)
    except door.raises:
        return False
    return True
