"""The server in charge fails, falls silent or is replaced by hand: programs find the next one and go on."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shareddata import DataDict, ServerError, SharedMemory
from troop import Cluster, Member, Trio
from waiting import eventually

Troop = Trio | Cluster

BACK_WITHIN = 3.0
"""Seconds after the election within which a listener has to be back."""

# Debian's server with Sentinels and the other one as a cluster, by default; all four with --full.
USUAL = ["trio-redis", "cluster-valkey"]
ALL = [*USUAL, *(pytest.param(each, marks=pytest.mark.full) for each in ("trio-valkey", "cluster-redis"))]

pytestmark = pytest.mark.timeout(150)
DESCRIPTION = {"COUNT": {"history": 10000, "fields": [["ts", 0.0], ["sender", ""], ["n", 0]]}}


def fail(troop: Troop, how: str) -> Callable[[], object]:
    """Return what makes the master of a troop fail."""
    master = troop.master()
    assert master is not None
    return {"kill": master.kill, "freeze": master.freeze, "by hand": troop.by_hand}[how]


class Hearing:
    """A listener in a thread, and when it heard what."""

    def __init__(self, shm: SharedMemory) -> None:
        self.heard: list[tuple[float, int]] = []
        self._shm, self._end = shm, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with DataDict("LISTENER", self._shm) as dd, dd.listen_to_datas(["COUNT"]) as listener:
            for (count,) in listener:
                self.heard.append((time.monotonic(), count.n))
                if count.n < 0:
                    return

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def shm(troop: Troop) -> Iterator[SharedMemory]:
    with SharedMemory(url=troop.url, namespace=troop.namespace) as memory:
        memory.init(DESCRIPTION)
        yield memory


class Writer:
    """A program that counts, as fast as it is let, and knows what was acknowledged."""

    def __init__(self, shm: SharedMemory) -> None:
        self.dd = DataDict("WRITER", shm)
        (self.data,) = self.dd.set_datas_to_write(["COUNT"])
        self.n = 0
        self.acknowledged: list[tuple[float, int]] = []

    def write(self, until: Callable[[], object], timeout: float = 30) -> None:
        """Count up until a condition holds."""
        end = time.monotonic() + timeout
        while not until():
            assert time.monotonic() < end, "waited too long"
            self.n += 1
            self.data.set(self.n)
            try:
                self.dd.flush()
                self.acknowledged.append((time.monotonic(), self.n))
            except ServerError:
                pass  # what was not acknowledged is not promised
            time.sleep(0.005)

    def end(self) -> None:
        def sent() -> bool:
            self.data.set(-1)
            self.dd.flush()
            return True

        eventually(sent, 10, "the last flush")
        self.dd.close()


class Election:
    """Waits in a thread for another master, and knows when it was there."""

    def __init__(self, troop: Troop, former: Member) -> None:
        self.at = 0.0
        self._troop, self._former = troop, former
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._troop.elected(self._former, 45)
        self.at = time.monotonic()

    def join(self) -> None:
        self._thread.join()


@pytest.mark.parametrize("how", ["kill", "freeze", "by hand"])
@pytest.mark.parametrize("troop", ALL, indirect=True)
def test_writers_and_listeners_are_back_soon_after_the_election(troop: Troop, shm: SharedMemory, how: str) -> None:
    writer = Writer(shm)
    with SharedMemory(url=troop.url, namespace=troop.namespace) as other:
        hearing = Hearing(other)
        writer.write(lambda: len(hearing.heard) > 20)
        former, fault = troop.master(), fail(troop, how)
        assert former is not None
        fault()
        election = Election(troop, former)
        writer.write(lambda: election.at)
        election.join()
        begun = writer.n
        writer.write(lambda: any(n > begun for _, n in hearing.heard))
        heard_at = next(at for at, n in hearing.heard if n > begun)
        writer.end()
        hearing.join()
    assert heard_at - election.at < BACK_WITHIN
    numbers = [n for _, n in hearing.heard]
    assert numbers[-1] == -1


@pytest.mark.parametrize("how", ["freeze", "by hand"])
@pytest.mark.parametrize("troop", ALL, indirect=True)
def test_an_unchanged_group_is_not_answered_from_before_the_failover(troop: Troop, shm: SharedMemory, how: str) -> None:
    with (
        DataDict("WRITER", shm) as dd,
        SharedMemory(url=troop.url, namespace=troop.namespace) as other,
        DataDict("READER", other) as reading,
    ):
        (data,) = dd.set_datas_to_write(["COUNT"])
        reading.set_datas_to_read(["COUNT"])
        data.set(1)
        dd.flush()
        assert [reading.next()[0].n for _ in range(3)] == [1, 1, 1]
        former, fault = troop.master(), fail(troop, how)
        assert former is not None
        fault()
        election = Election(troop, former)

        def read() -> int:
            try:
                return int(reading.next()[0].n)
            except ServerError:
                return 0

        while not election.at:
            read()
        election.join()

        def written() -> bool:
            data.set(2)
            try:
                return dd.flush() == 1
            except ServerError:
                return False

        eventually(written, 10, "a write")
        eventually(lambda: read() == 2, BACK_WITHIN, "the new value")
        assert {read() for _ in range(300)} == {2}
