"""Emitting events: bounds, what is kept for whom, outcomes that are not known."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archiving import NOTHING, waiting
from programs import Program
from proxy import Proxy
from servers import OwnServer, free_port
from shareddata import (
    EventsFull,
    FieldError,
    ServerError,
    ServerTimeout,
    SharedMemory,
    UnknownData,
    archive,
    backlog,
    large,
)
from shareddata.errors import DescriptionError
from shareddata.events import Emitter
from shareddata.eventstream import EventStream
from shareddata.ledger import Ledger
from shareddata.subscription import Event, Subscription
from waiting import eventually


def folder_of(shm: SharedMemory) -> Path:
    """Return where this server's large values are."""
    found = large.folder(shm.address)
    assert found
    return found


class Reader:
    """What an archiver does, without files."""

    def __init__(self, shm: SharedMemory, name: str = "reader", selector: str = "cam", **options: Any) -> None:
        self.subscription = Subscription(shm, name, selector, "frame", **options)
        self.subscription.begin()
        self.ledger = Ledger(shm, name)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.subscription.close()
        self.ledger.close()

    def take(self, count: int = 100) -> list[Event]:
        return eventually(lambda: self.subscription.take(count, 0.05), message="events")

    def payloads(self, count: int = 100) -> list[Any]:
        """Take, acknowledge, return the payloads."""
        found = []
        for event in self.take(count):
            found.append(self.ledger.payload(event))
            self.ledger.acknowledge(event, {})
            self.subscription.done(event)
        self.ledger.trim(idle=True)
        return found


def test_payloads_come_back(shm: SharedMemory) -> None:
    payloads = [None, True, 7, 2.5, "text", b"bytes", [1, [2]], {"a": {"b": []}}, {"picture": np.arange(3)}, []]
    array = np.arange(100_000, dtype="<u2").reshape(10, 100, 100)
    metadata = {"frame": 1, "gain": np.float64(0.5), "text": "µ", "list": [1], "none": None}
    with Reader(shm) as reader:
        for payload in payloads:
            archive.emit("cam", "frame", payload, metadata, shm)
        archive.emit("cam", "frame", array, shm=shm)
        events = reader.take()
        assert [event.metadata for event in events] == [metadata] * len(payloads) + [{}]
        found = [reader.ledger.payload(event) for event in events]
        assert str(found[:-1]) == str(payloads)
        np.testing.assert_array_equal(found[-1], array)
        assert found[-1].dtype == array.dtype and not found[-1].flags.writeable


def test_over_tcp_and_in_a_namespace(own_server: Callable[..., OwnServer], kind: str) -> None:
    """Payloads go through the server; other namespaces don't hear them."""
    server = own_server(kind, port=free_port())
    array = np.arange(1_000_000, dtype="<u4")
    with SharedMemory(url=server.tcp_url, namespace="usv1") as shm, SharedMemory(url=server.tcp_url) as other:
        with Reader(shm) as reader, Reader(other) as deaf:
            archive.emit("cam", "frame", array, {"n": 1}, shm)
            (found,) = reader.payloads()
            np.testing.assert_array_equal(found, array)
            assert deaf.subscription.take(10, 0.01) == []
        assert waiting(shm, "cam", "frame") == NOTHING
        connection = shm.connect()
        assert all(key.startswith(b"{usv1}:") for key in connection.ask("KEYS", "*event*usv1*"))
        connection.close()


def test_payloads_may_go_through_the_server_always(shm: SharedMemory) -> None:
    with Emitter("cam", "frame", shm, by_reference=False) as emitter, Reader(shm) as reader:
        for payload in (b"", b"@file:", bytes(100_000)):
            emitter.emit(payload)
        assert waiting(shm, "cam", "frame")["values"] == 3
        assert reader.payloads() == [b"", b"@file:", bytes(100_000)]


def test_a_forked_child_emits_for_itself(own_server: Callable[..., OwnServer], program: Callable[..., Program]) -> None:
    code = """
        from shareddata import archive
        shm = SharedMemory(url=sys.argv[1])
        with archive.Emitter("cam", "frame", shm) as emitter:
            emitter.emit(0)
            archive.emit("cam", "frame", 1, {}, shm)
            if (child := os.fork()) == 0:
                emitter.emit(2)
                archive.emit("cam", "frame", 3, {}, shm)
                os._exit(0)
            say(os.waitpid(child, 0)[1], emitter._mark)
            emitter.emit(4)
            archive.emit("cam", "frame", 5, {}, shm)
    """
    server = own_server()
    assert program(code, server.url).finish()[0].startswith("0 ")
    with SharedMemory(url=server.url) as shm, Reader(shm) as reader:
        assert reader.payloads() == [0, 1, 2, 3, 4, 5]
        connection = shm.connect()
        assert len(connection.ask("KEYS", "event:cam:frame:last:*")) == 4
        connection.close()


def test_what_everybody_acknowledged_is_gone(shm: SharedMemory) -> None:
    picture = np.zeros(100_000, "u1")
    with Reader(shm, "one") as one, Reader(shm, "two") as two:
        for number in range(5):
            archive.emit("cam", "frame", number, shm=shm)
            archive.emit("cam", "frame", picture, shm=shm)
        assert len(list(folder_of(shm).glob("event*/*"))) == 5, "large payloads are files"
        assert len(one.payloads()) == 10
        assert waiting(shm, "cam", "frame")["events"] == 10, "two has not taken them"
        assert two.payloads()[::2] == [0, 1, 2, 3, 4]
        assert waiting(shm, "cam", "frame") == NOTHING
        assert not list(folder_of(shm).glob("event*/*"))


def test_an_archiver_s_first_start(shm: SharedMemory) -> None:
    """It begins with what is kept, from now on, or at a time."""
    for number in range(3):
        archive.emit("cam", "frame", number, shm=shm)
    connection = shm.connect()
    last = connection.ask("XREVRANGE", "event:cam:frame", "+", "-", "COUNT", 1)[0][0].decode()
    connection.close()
    since = (int(last.split("-")[0]) + 1) / 1000
    with Reader(shm, "all") as whole, Reader(shm, "now", since=None) as now, Reader(shm, "time", since=since) as later:
        archive.emit("cam", "frame", 3, shm=shm)
        assert whole.payloads() == [0, 1, 2, 3]
        assert now.payloads() == [3]
        assert later.payloads()[-1] == 3


def test_a_later_start_goes_on(shm: SharedMemory) -> None:
    """Also with what was taken and not acknowledged; `since` counts the first time only."""
    for number in range(3):
        archive.emit("cam", "frame", number, shm=shm)
    with Reader(shm) as reader:
        first, second, _ = reader.take()
        reader.ledger.acknowledge(first, {})
    archive.emit("cam", "frame", 3, shm=shm)
    with Reader(shm, since=None) as reader:
        taken = reader.take() + reader.take()
        assert [reader.ledger.payload(event) for event in taken] == [1, 2, 3]
        assert [event.again for event in taken] == [True, True, False]
        assert taken[0].identity == second.identity


def test_patterns(shm: SharedMemory) -> None:
    """Sources that come later are heard too, from their first event on."""
    with Reader(shm, selector="cam-*", since=None) as reader:
        archive.emit("cam-1", "frame", 1, shm=shm)
        archive.emit("lab/cam-1", "frame", 2, shm=shm)
        archive.emit("cam-1", "other", 3, shm=shm)
        archive.emit("cam-2", "frame", 4, shm=shm)
        found: list[Any] = []
        eventually(lambda: found.extend(reader.payloads()) or len(found) >= 2)
        assert sorted(found) == [1, 4]
        archive.emit("cam-3", "frame", 5, shm=shm)
        assert reader.payloads() == [5]
    with Reader(shm, "deep", selector="**") as reader:
        assert reader.payloads() == [2]


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_without_an_archiver_the_newest_are_kept(shm: SharedMemory) -> None:
    with Emitter("cam", "frame", shm, max_events=100) as emitter:
        for number in range(1000):
            emitter.emit(number)
        left = waiting(shm, "cam", "frame")
        assert 90 <= left["events"] == left["values"] <= 100
        (found,) = backlog.backlogs(shm)
        assert found == ("cam", "frame", left["events"], left["bytes"], 1000 - left["events"], {})
        with Reader(shm) as reader:
            assert reader.payloads() == list(range(1000 - left["events"], 1000))
    assert waiting(shm, "cam", "frame") == NOTHING


def test_at_the_bound_of_bytes_the_oldest_go_too(shm: SharedMemory) -> None:
    with Emitter("cam", "frame", shm, max_bytes=1_000_000) as emitter:
        for _ in range(50):
            emitter.emit(bytes(100_000))
            assert waiting(shm, "cam", "frame")["bytes"] <= 1_000_000
        assert waiting(shm, "cam", "frame")["events"] >= 8


@pytest.mark.parametrize("bound", [{"max_events": 10}, {"max_bytes": 25}])
def test_what_an_archiver_waits_for_is_refused(shm: SharedMemory, bound: dict[str, int]) -> None:
    with Emitter("cam", "frame", shm, **bound) as emitter, Reader(shm, "slow") as slow, Reader(shm, "quick") as quick:
        written = 0
        while _emitted(emitter, written):
            written += 1
        assert 5 < written <= 20
        with pytest.raises(EventsFull, match=r"cam: \d+ events of \d+ bytes wait for.*slow \(.*nothing was written"):
            emitter.emit(written)
        before = waiting(shm, "cam", "frame")
        assert len(quick.payloads()) == written
        with pytest.raises(EventsFull, match=rf"slow \({written} events\)"):
            emitter.emit(written)
        assert waiting(shm, "cam", "frame") == before, "nothing was dropped"
        assert len(slow.payloads()) == written
        emitter.emit(written)


def test_acknowledged_events_make_room_also_when_nobody_dropped_them(shm: SharedMemory) -> None:
    """The archiver was killed before it trimmed."""
    with Emitter("cam", "frame", shm, max_events=10) as emitter, Reader(shm) as reader:
        for number in range(10):
            emitter.emit(number)
        for event in reader.take():
            reader.ledger.acknowledge(event, {})
        assert waiting(shm, "cam", "frame")["events"] == 10
        emitter.emit(10)
        assert waiting(shm, "cam", "frame")["events"] == 1


def test_giving_an_archiver_up(shm: SharedMemory) -> None:
    with Emitter("cam", "frame", shm, max_events=10) as emitter, Reader(shm, "old"), Reader(shm, "new") as new:
        for number in range(10):
            emitter.emit(number)
        assert len(new.payloads()) == 10
        with pytest.raises(EventsFull, match=r"wait for .*old \(10 events\).*--forget"):
            emitter.emit(10)
        with pytest.raises(UnknownData, match="no archiver 'odl': there are new, old"):
            backlog.forget(shm, "odl")
        assert backlog.forget(shm, "old") == 1
        assert waiting(shm, "cam", "frame") == NOTHING
        emitter.emit(10)
        assert new.payloads() == [10]


def test_two_trim_at_once(shm: SharedMemory) -> None:
    """Each entry's bytes are taken off once."""
    with Emitter("cam", "frame", shm) as emitter, Reader(shm) as reader:
        for number in range(10):
            emitter.emit(number)
        for event in reader.take():
            reader.ledger.acknowledge(event, {})
        stream, one, other = EventStream(shm, "cam", "frame"), shm.connect(), shm.connect()
        entries = stream._entries(one, "+")
        one.call("WATCH", stream.turn)
        assert stream.trim(other) == 10
        assert stream._drop(one, entries, counted=False) == 10
        assert waiting(shm, "cam", "frame") == NOTHING
        emitter.emit(1)
        assert waiting(shm, "cam", "frame")["bytes"] > 0
        for each in (one, other):
            each.close()


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("cam:1", "frame", 1, None), DescriptionError, "source name 'cam:1'"),
        (("cam", "a/b", 1, None), DescriptionError, "event name 'a/b'"),
        (("cam", "frame", object(), None), FieldError, "events frame of cam.*object"),
        (("cam", "frame", np.zeros(2, "c16"), None), FieldError, "complex128"),
        (("cam", "frame", 1, {1: 2}), FieldError, r"\{1: 2\}, expected a dictionary with str keys"),
        (("cam", "frame", 1, [1]), FieldError, r"\[1\], expected a dictionary"),
        (("cam", "frame", 1, {"a": object()}), FieldError, "object"),
    ],
)
def test_mistakes(shm: SharedMemory, arguments: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        archive.emit(*arguments, shm)
    assert backlog.backlogs(shm) == []


def test_an_event_that_never_fits(shm: SharedMemory) -> None:
    emitter = Emitter("cam", "frame", shm, max_bytes=1000)
    with emitter, pytest.raises(FieldError, match="an event of 2004 bytes: give max_bytes=2004"):
        emitter.emit(bytes(2000))


# -- outcomes that are not known --------------------------------------------------------------------------------------


def test_an_emit_of_unknown_outcome_is_repeated_once(own_server: Callable[..., OwnServer], kind: str) -> None:
    """The server stops with the event in its hands; the program emits the same again when the server is back."""
    server = own_server(kind)
    with SharedMemory(url=server.url, timeout=0.3) as shm, Emitter("cam", "frame", shm) as emitter:
        emitter.emit(0)
        for number in range(1, 4):
            server.stop()
            with pytest.raises(ServerTimeout, match="the outcome is unknown") as silent:
                emitter.emit(number)
            assert silent.value.outcome_unknown
            server.cont()
            emitter.emit(number)
            emitter.emit(number)  # this one is meant
        with Reader(shm) as reader:
            assert reader.payloads() == [0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("disturb", [Proxy.cut, Proxy.half_open, Proxy.swallow])
def test_a_link_that_breaks(
    own_server: Callable[..., OwnServer],
    proxy: Callable[..., Proxy],
    short_path: Path,
    disturb: Callable[[Proxy], None],
) -> None:
    """Whatever was on its way: repeated until it succeeds, each event is there once."""
    server = own_server()
    link = proxy(server.url, str(short_path / "link"))
    with SharedMemory(url=f"unix://{short_path}/link", timeout=0.3) as shm, Emitter("cam", "frame", shm) as emitter:
        emitter.emit(0)
        for number in range(1, 5):
            disturb(link)
            healing = threading.Timer(0.5, link.heal)
            healing.start()
            eventually(lambda number=number: _emitted(emitter, number), 10)
            healing.join()
        with SharedMemory(url=server.url) as direct, Reader(direct) as reader:
            assert reader.payloads() == [0, 1, 2, 3, 4]


def _emitted(emitter: Emitter, number: int) -> bool:
    try:
        emitter.emit(number)
    except ServerError:
        return False
    return True


def test_an_event_that_was_written_twice_is_given_once(shm: SharedMemory) -> None:
    """An outcome was unknown, the program repeated it, and the first came late all the same."""
    with Emitter("cam", "frame", shm) as emitter, Reader(shm) as reader:
        emitter.emit(1)
        connection = shm.connect()
        fields = connection.ask("XRANGE", "event:cam:frame", "-", "+")[0][1]
        connection.call("XADD", "event:cam:frame", "*", *fields)
        connection.close()
        emitter.emit(2)
        assert reader.payloads() == [1, 2]
        assert reader.subscription.repeated == 1
        assert waiting(shm, "cam", "frame")["events"] == 0
