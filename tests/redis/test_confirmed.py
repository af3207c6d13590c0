"""Writes that replicas confirm, and what is said when they don't."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from servers import OwnServer, free_port
from shareddata import DataDict, SharedMemory, TSLog, Unconfirmed
from shareddata.events import Emitter
from shareddata.sensors import SensorWriter
from waiting import eventually

PLAIN = [["ts", 0.0], ["sender", ""], ["n", 0]]
DESCRIPTION = {"A": PLAIN, "B": {"history": 100, "fields": PLAIN}, "OWNED": {"owner": "W", "fields": PLAIN}}


@pytest.fixture
def pair(own_server: Callable[..., OwnServer], kind: str) -> tuple[OwnServer, OwnServer]:
    """A server and its replica."""
    first = own_server(kind, port=free_port(), options=("--repl-diskless-sync-delay", "0"))
    second = own_server(kind, options=("--replicaof", f"127.0.0.1 {first.port}"))
    with second.client() as client:
        eventually(lambda: client.info("replication")["master_link_status"] == "up", 10, "the replica", 0.02)
    with first.client() as client:  # a server that is asked too early waits for a replica that it has not heard yet
        eventually(lambda: client.set("begun", 1) and client.wait(1, 100) == 1, 10, "its first confirmation", 0.02)
    return first, second


@pytest.fixture
def shm(pair: tuple[OwnServer, OwnServer]) -> Iterator[SharedMemory]:
    with SharedMemory(url=pair[0].url, timeout=1, confirm=1) as memory:
        memory.init(DESCRIPTION)
        yield memory


def writes(shm: SharedMemory, dd: DataDict) -> dict[str, Callable[[], object]]:
    """Return a write of each kind."""
    datas = dict(zip("ABO", dd.set_datas_to_write(["A", "B", "OWNED"])))

    def flush(*names: str) -> None:
        for name in names:
            datas[name].set(1)
        dd.flush()

    (queue,) = dd.declare_fifos(["Q"])
    return {
        "one record": lambda: flush("A"),
        "with history": lambda: flush("A", "B"),
        "owned": lambda: flush("O"),
        "queue": lambda: queue.push(1),
        "initialise": lambda: shm.init(DESCRIPTION, keep=True),
    }


def confirmed(write: Callable[[], object]) -> bool:
    try:
        write()
        return True
    except Unconfirmed:
        return False


def test_what_a_replica_has_is_confirmed(shm: SharedMemory, pair: tuple[OwnServer, OwnServer]) -> None:
    with DataDict("W", shm) as dd, pair[1].client() as replica:
        for what, write in writes(shm, dd).items():
            begin = time.monotonic()
            write()
            assert time.monotonic() - begin < 0.4, what
        assert replica.hget("A", "n") == b"1" and replica.xlen("B:history") == 1 and replica.llen("fifo:Q") == 1
        dd.set_datas_to_read(["A", "B", "OWNED"])
        assert [trame.n for trame in dd.next()] == [1, 1, 1]


def test_what_no_replica_has_is_unconfirmed_and_done(shm: SharedMemory, pair: tuple[OwnServer, OwnServer]) -> None:
    with DataDict("W", shm) as dd:
        acts = writes(shm, dd)
        dd.set_datas_to_read(["A", "B", "OWNED"])
        acts["owned"]()
        pair[1].stop()
        for what, write in acts.items():
            begin = time.monotonic()
            with pytest.raises(Unconfirmed, match="not confirmed: 0 of 1 replicas said within 0.5 s") as told:
                write()
            assert time.monotonic() - begin < 2, what
            assert not told.value.outcome_unknown
            assert dd.flush() == 0, "nothing is staged any more"
        assert [trame.n for trame in dd.read(fresh=True)] == [1, 1, 1]
        with dd.follow_data("B", since=0, timeout=0.1) as follower:
            assert len(list(follower)) == 1 and follower.repeated == 0
        pair[1].cont()
        for write in acts.values():
            eventually(lambda: confirmed(write), 5, "a confirmed write")  # noqa: B023


def test_logs_sensors_and_events(shm: SharedMemory, pair: tuple[OwnServer, OwnServer]) -> None:
    with TSLog("trip", ["<q"], shm=shm) as log, Emitter("cam", "frame", shm=shm) as emitter:
        sensor = SensorWriter("lab", "s", shm=shm)
        acts: list[Callable[[], object]] = [
            lambda: log.store(1) and log.commit(), lambda: sensor.write("x", 1), lambda: emitter.emit(1, {})
        ]
        for act in acts:
            act()
        pair[1].stop()
        for act in acts:
            with pytest.raises(Unconfirmed, match="not confirmed"):
                act()
        pair[1].cont()
        for act in acts[::-1]:
            eventually(lambda: confirmed(act), 5, "a confirmed write")  # noqa: B023
        reader = log.reader(0)
        assert len(list(reader)) >= 3


def test_a_link_that_breaks_before_the_confirmation(
    shm: SharedMemory, pair: tuple[OwnServer, OwnServer]
) -> None:
    """The write was answered: it is done, whatever becomes of the connection."""
    with DataDict("W", shm) as dd:
        (data,) = dd.set_datas_to_write(["A"])
        pair[1].stop()
        data.set(1)
        with pair[0].client() as client:
            number = next(int(c["id"]) for c in client.client_list() if c["name"] == "W" and "hmget" in c["cmd"])

            killer = threading.Timer(0.1, client.client_kill_filter, kwargs={"_id": str(number)})
            killer.start()
            with pytest.raises(Unconfirmed, match="the connection broke"):
                dd.flush()
            killer.join()
        pair[1].cont()
        data.set(2)
        assert dd.flush() == 1


def test_a_number_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="confirm=-1, expected a number of replicas"):
        SharedMemory(confirm=-1)
