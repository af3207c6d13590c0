"""How old a value is: by the server's clock as well as by its writer's, whatever this machine's clock shows."""

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from programs import Program
from records import HEAD
from servers import OwnServer, plain_client
from shareddata import DataDict, SharedMemory, watch
from waiting import eventually

RECORDS: dict[str, Any] = {
    "FRESH": {"max_age": 30.0, "fields": [*HEAD, ["number", 0]]},
    "ALONE": {"max_age": 30.0, "history": 0, "fields": [*HEAD, ["number", 0]]},
    "QUICK": {"max_age": 0.8, "fields": [*HEAD, ["number", 0]]},
}
HOUR = 3600.0


@pytest.fixture
def dd(shm: SharedMemory) -> Iterator[DataDict]:
    shm.init(RECORDS)
    with DataDict("ME", shm) as dd:
        dd.set_datas_to_read(list(RECORDS))
        yield dd


def write(dd: DataDict, name: str, **named: Any) -> None:
    (data,) = dd.set_datas_to_write([name])
    data.set(7, **named)
    dd.flush()


def test_the_server_s_clock(shm: SharedMemory) -> None:
    assert abs(shm.clock.now() - time.time()) < 1
    assert abs(shm.clock.offset) < 1 and 0 < shm.clock.uncertainty < 1
    assert str(shm.url) in repr(shm.clock)


def test_a_wrong_clock_of_this_machine_does_not_count(
    shm: SharedMemory, dd: DataDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    write(dd, "FRESH", ts=shm.clock.now())
    (trame, _, _) = dd.next()
    monkeypatch.setattr(time, "time", lambda: real() + HOUR)
    assert abs(shm.clock.offset + HOUR) < 1
    described = shm.describe("FRESH")
    assert 0 <= described.age(trame) < 30 and not described.stale(trame)
    assert described.stale(trame, now=time.time())


def test_the_clock_is_measured_again_and_never_waits_for_a_connection(
    own_server: Callable[..., OwnServer], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_server(kind)
    real = time.time
    with SharedMemory(url=server.url, timeout=0.3) as shm:
        server.kill()
        assert abs(shm.clock.now() - real()) < 1 and math.isinf(shm.clock.uncertainty)
        server.start()
        assert shm.names() == []
        shm.clock._due = 0.0
        assert abs(shm.clock.now() - real()) < 1 and shm.clock.uncertainty < 1
        monkeypatch.setattr(time, "time", lambda: real() + HOUR)
        server.stop()
        try:
            shm.clock._due = 0.0
            begin = time.monotonic()
            assert abs(shm.clock.now() - real()) < 1, "what was measured before counts"
            assert time.monotonic() - begin < 1
            shm.clock._due = 0.0
            begin = time.monotonic()
            shm.clock.now()
            assert time.monotonic() - begin < 0.1
        finally:
            server.cont()


def test_when_the_server_received_a_value(shm: SharedMemory, dd: DataDict) -> None:
    write(dd, "FRESH", ts=shm.clock.now() + HOUR)
    write(dd, "ALONE", ts=1000.0)
    trames = dict(zip(RECORDS, dd.next()))
    received = shm.received(trames)
    assert received["ALONE"] is None and received["QUICK"] is None
    assert abs((received["FRESH"] or 0) - shm.clock.now()) < 5
    described = shm.describe("FRESH")
    assert described.stale(trames["FRESH"]) and not described.stale(trames["FRESH"], received=received["FRESH"])
    with plain_client(shm.url) as client:
        client.hset("FRESH", "ts", "2000.5")
        assert shm.received({"FRESH": dd.next()[0]}) == {"FRESH": None}, "another program wrote the record since"
        client.xadd("FRESH:history", {"a": "b"})
        client.xadd("QUICK:history", {"ts": "x", "sender": "y"})
    assert shm.received({"FRESH": dd.next()[0], "QUICK": trames["FRESH"]}) == {"FRESH": None, "QUICK": None}
    assert shm.received({}) == {}


def test_watch_knows_when_it_heard_a_value(shm: SharedMemory, dd: DataDict) -> None:
    with watch.Watch(shm, ["ALONE"]) as seen:
        seen.look()
        assert seen.views[0].received is None
        write(dd, "ALONE", ts=shm.clock.now() + HOUR)

        def notes() -> str:
            seen.look()
            return seen.views[0].notes(seen.now)

        assert eventually(lambda: "ahead" in notes() and notes()) == "the writer's clock is 60.0 min ahead"
        assert (seen.views[0].age(seen.now) or 99) < 30


def test_watch_tells_arrays_and_nan_that_nobody_wrote_from_written_ones(shm: SharedMemory, dd: DataDict) -> None:
    """Another record is written, and all are read: what is not written is as old as it was."""
    shm.init({"IMAGE": [*HEAD, ["pixels", 0.0, {"dtype": "<f8", "shape": [3]}], ["gain", 0.0]]})
    image, quick = dd.set_datas_to_write(["IMAGE", "QUICK"])
    image.set([1.0, math.nan, 3.0], math.nan)
    dd.flush()
    with watch.Watch(shm, ["IMAGE", "QUICK"]) as seen:
        seen.look()
        before = seen.views[0].trame

        def number() -> int:
            seen.look()
            return int(seen.views[1].trame.number)

        quick.set(1)
        dd.flush()
        eventually(lambda: number() == 1)
        assert seen.views[0].trame is before
        image.set([1.0, 2.0, 3.0], 1.0)
        quick.set(2)
        dd.flush()
        eventually(lambda: number() == 2)
        assert seen.views[0].trame.pixels[1] == 2.0


def test_watch_tells_once_that_a_record_became_old(
    shm: SharedMemory, dd: DataDict, capsys: pytest.CaptureFixture[str]
) -> None:
    write(dd, "QUICK")
    watch.show(shm, ["QUICK"], seconds=1.8, json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["stale"] for line in lines] == [False, True]
    watch.show(shm, ["QUICK"], seconds=0.1)
    assert capsys.readouterr().out.endswith("(old: over 0.8 s)\n")


def test_a_record_that_is_described_anew_has_the_new_max_age(shm: SharedMemory, dd: DataDict) -> None:
    write(dd, "QUICK", ts=shm.clock.now() - 10)
    trame = dd.next()[2]
    assert shm.describe("QUICK").stale(trame)
    shm.init({"QUICK": {"max_age": 60.0, "fields": RECORDS["QUICK"]["fields"]}}, keep=True)
    assert not shm.describe("QUICK").stale(trame)


def test_the_clock_is_told_in_a_forked_child(shm: SharedMemory, program: Callable[..., Program]) -> None:
    forked = program(
        """
        with SharedMemory(url=sys.argv[1]) as shm:
            shm._lock.acquire()  # as another thread may have it when somebody forks
            child = os.fork()
            if not child:
                os._exit(0 if abs(shm.clock.now() - time.time()) < 1 else 1)
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        shm.url,
    )
    assert forked.finish() == ["0"]
