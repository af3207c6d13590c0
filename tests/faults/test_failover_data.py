"""What is still there after the server in charge failed: everything that was confirmed, and how much of the rest.

The table in docs/howto/failover.md comes from `test_what_is_lost_in_which_set_up`, with --full -s.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import pytest

import machines
from servers import EXECUTABLES
from shareddata import DataDict, ServerError, SharedMemory, TSLog, Unconfirmed, WriterConflict
from troop import MISSING, Cluster, Member, Trio
from waiting import eventually

Troop = Trio | Cluster

USUAL = ["trio-redis", "cluster-valkey"]
ALL = [*USUAL, *(pytest.param(each, marks=pytest.mark.full) for each in ("trio-valkey", "cluster-redis"))]
DESCRIPTION = {"COUNT": {"history": 100000, "fields": [["ts", 0.0], ["sender", ""], ["n", 0]]}}

pytestmark = pytest.mark.timeout(240)


class Count:
    """A program that counts up in a record, in a thread: what was acknowledged, confirmed, and refused."""

    def __init__(self, troop: Troop, confirm: int, where: Callable[[], object] = nullcontext) -> None:
        self.acknowledged: list[int] = []
        self.unconfirmed: list[int] = []
        self.longest = 0.0  # seconds between two that were acknowledged
        self._troop, self._confirm, self._where = troop, confirm, where
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        troop = self._troop
        with (
            self._where(),  # type: ignore[attr-defined]
            SharedMemory(url=troop.url, namespace=troop.namespace, confirm=self._confirm, timeout=1) as shm,
            DataDict("COUNTER", shm) as dd,
        ):
            (data,) = dd.set_datas_to_write(["COUNT"])
            n, before = 0, time.monotonic()
            while not self._end.wait(0.002):
                n += 1
                data.set(n)
                try:
                    dd.flush()
                except Unconfirmed:
                    self.unconfirmed.append(n)
                    continue
                except ServerError:
                    continue
                self.acknowledged.append(n)
                self.longest, before = max(self.longest, time.monotonic() - before), time.monotonic()

    def reach(self, more: int = 50) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.acknowledged) + more
        eventually(lambda: len(self.acknowledged) >= wanted, 30, "more that are acknowledged")

    def __enter__(self) -> "Count":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._end.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def there(troop: Troop) -> list[int]:
    """Return the numbers in the history."""
    with (
        SharedMemory(url=troop.url, namespace=troop.namespace) as shm,
        DataDict("READER", shm) as dd,
        dd.follow_data("COUNT", since=0, timeout=0.2) as follower,
    ):
        return [trame.n for trame in follower]


def initialise(troop: Troop) -> None:
    with SharedMemory(url=troop.url, namespace=troop.namespace, confirm=troop.replicas) as shm:
        shm.init(DESCRIPTION)


def fail(troop: Troop, how: str) -> None:
    master = troop.master()
    assert master is not None
    unpaused = partial(troop.by_hand, pause=False)
    {"kill": master.kill, "freeze": master.freeze, "by hand": troop.by_hand, "unpaused": unpaused}[how]()
    troop.elected(master, 45)


@pytest.mark.parametrize("how", ["kill", "freeze", "by hand"])
@pytest.mark.parametrize("troop", ALL, indirect=True)
def test_what_was_confirmed_is_there(troop: Troop, how: str) -> None:
    initialise(troop)
    followed: list[int] = []
    with SharedMemory(url=troop.url, namespace=troop.namespace) as shm, DataDict("FOLLOWER", shm) as dd:
        follower = dd.follow_data("COUNT", since=0)

        def follow() -> None:
            for trame in follower:
                followed.append(trame.n)
                if trame.n < 0:
                    break

        thread = threading.Thread(target=follow)
        thread.start()
        with Count(troop, confirm=troop.replicas) as count:
            count.reach(100)
            fail(troop, how)
            troop.heal()  # else nobody is there to confirm anything, in a cluster of one replica each
            count.reach(100)
        with DataDict("END", shm) as last:
            (data,) = last.set_datas_to_write(["COUNT"])
            data.set(-1)
            last.flush()
        thread.join(10)
        assert not thread.is_alive()
        assert follower.missed == 0
    found = there(troop)
    assert set(count.acknowledged) <= set(found)
    assert [n for n in found if n > 0] == sorted(set(found) - {-1}), "in order, each once"
    assert set(count.acknowledged) <= set(followed)
    assert len(set(followed)) == len(followed) and set(followed) - set(found) == set() or follower.lost > 0


@pytest.mark.parametrize("troop", ALL, indirect=True)
def test_a_log_goes_on_behind_a_failover(troop: Troop) -> None:
    """Its writer sends again what was lost, another one is fenced off, readers go on behind their cursors."""
    place = {"url": troop.url, "namespace": troop.namespace}
    with (
        SharedMemory(**place, timeout=1) as shm,
        SharedMemory(**place) as other,
        TSLog("trip", ["<q"], bucket_size=100_000, shm=shm) as log,
        TSLog("trip", ["<q"], bucket_size=100_000, shm=other) as second,
    ):
        reader = second.reader(0)
        for n in range(1, 101):
            log.store(n)
        log.commit()
        first = [reader.next()[0] for _ in range(50)]
        reader.commit()
        begun = time.monotonic()
        troop.master().kill()  # type: ignore[union-attr]
        n = 100

        def committed() -> bool:
            nonlocal n
            n += 1
            try:
                log.store(n)
                log.commit()
                return time.monotonic() - begun > 1
            except ServerError:
                return False

        eventually(committed, 30, "a commit")
        assert [reader.next()[0] for _ in range(n - 50)] == list(range(51, n + 1))
        assert first == list(range(1, 51)) and reader.missed == 0
        second.store(n + 1)
        log.store(0)
        with pytest.raises(WriterConflict, match="writes it since"):
            log.commit()
        log._writer.forget()
        second.commit()
        assert reader.next() == (n + 1,)


@pytest.fixture(scope="session")
def network() -> Iterator[machines.Machines]:
    why = machines.missing()
    if why:
        pytest.skip(why)
    made = machines.Machines()
    yield made
    made.close()


@pytest.fixture
def apart(request: pytest.FixtureRequest, network: machines.Machines) -> Iterator[Troop]:
    """A troop on three machines."""
    what, kind = request.param.split("-")
    if kind not in EXECUTABLES or MISSING:
        pytest.skip(f"no {kind} server, or no util-linux")
    troop = {"trio": Trio, "cluster": Cluster}[what](kind, network.hosts)
    yield troop
    network.mend()
    troop.close()


def elected_elsewhere(apart: Troop, master: Member) -> None:
    """Wait until the machines that a master is cut off from have another one."""
    everybody = apart.sentinels if isinstance(apart, Trio) else apart.servers
    others = [each for each in everybody if each.host != master.host]
    eventually(lambda: (m := apart.master(others)) is not None and m is not master, 45, "another master")


@pytest.mark.parametrize("apart", ALL, indirect=True)
def test_the_master_is_cut_off(apart: Troop, network: machines.Machines) -> None:
    """Programs elsewhere go on with the next one; what those beside it had confirmed is there afterwards."""
    initialise(apart)
    master = apart.master()
    assert master is not None
    number = network.number(master.host)
    heard: list[tuple[float, int]] = []
    with (
        Count(apart, apart.replicas, lambda: network.on(number)) as beside,
        SharedMemory(url=apart.url, namespace=apart.namespace) as shm,
        DataDict("LISTENER", shm) as dd,
    ):
        listener = dd.listen_to_datas(["COUNT"], timeout=30)

        def listen() -> None:
            for (trame,) in listener:
                heard.append((time.monotonic(), trame.n))
                if trame.n < 0:
                    break

        thread = threading.Thread(target=listen)
        thread.start()
        beside.reach(50)
        network.cut(number)
        elected_elsewhere(apart, master)
        elected = time.monotonic()
        with SharedMemory(url=apart.url, namespace=apart.namespace) as here, DataDict("HERE", here) as writing:
            (data,) = writing.set_datas_to_write(["COUNT"])

            def listener_is_back() -> bool:
                data.set(1_000_000)
                writing.flush()
                return any(n == 1_000_000 for _, n in heard)

            eventually(listener_is_back, 20, "the listener", 0.02)
            back = next(at for at, n in heard if n == 1_000_000)
            network.mend()
            before = len(beside.acknowledged)
            eventually(lambda: len(beside.acknowledged) > before + 20, 30, "the writer that was cut off")
            beside.end()
            data.set(-1)
            writing.flush()
        thread.join(10)
        assert not thread.is_alive()
    assert back - elected < 3
    assert set(beside.acknowledged) <= set(there(apart))


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("apart", ["trio-redis", "cluster-redis"], indirect=True)
def test_what_is_lost_in_which_set_up(apart: Troop, network: machines.Machines) -> None:
    """Measure: of what was acknowledged beside the master, how much is gone; print a row for each set-up and fault."""
    for confirm, spare in ((0, "0"), (0, "1"), *((n, "0") for n in range(1, apart.replicas + 1))):
        for how in ("kill", "freeze", "cut", "by hand", *(["unpaused"] if isinstance(apart, Trio) else [])):
            for each in apart.servers:  # a server that was killed has forgotten it
                each.ask("CONFIG", "SET", "min-replicas-max-lag", "1")
                each.ask("CONFIG", "SET", "min-replicas-to-write", spare)
            eventually(lambda: initialise(apart) is None, 10, "a write")
            apart.empty()
            initialise(apart)
            master = apart.master()
            assert master is not None
            number = network.number(master.host)
            with Count(apart, confirm, lambda: network.on(number)) as count:  # noqa: B023
                count.reach(100)
                if how == "cut":
                    network.cut(number)
                    time.sleep(6)  # not awaited: the length of the outage is what is measured
                    elected_elsewhere(apart, master)  # Sentinels wait for six seconds after the last election
                    network.mend()
                    apart.elected(master, 45)
                else:
                    fail(apart, how)
                apart.heal()
                count.reach(50)
            found = set(there(apart))
            lost = [n for n in count.acknowledged if n not in found]
            gone = [n for n in count.unconfirmed if n not in found]
            what = f"confirm={confirm}" if confirm else f"min-replicas-to-write {spare}"
            print(
                f"\n| {type(apart).__name__} | {what} | {how} | {len(count.acknowledged)} | {len(lost)} | "
                f"{len(count.unconfirmed)} | {len(gone)} | {count.longest:.1f} s |"
            )
            assert not lost or confirm < apart.replicas, "whichever replica is elected has what all have confirmed"
