"""Logs over a link that is cut, delayed and black-holed at random."""

import random
import threading
import time
from collections.abc import Callable

import pytest

from proxy import Proxy
from servers import OwnServer, free_port
from shareddata import ServerTimeout, ServerUnreachable, SharedMemory
from shareddata.tslog import TSLog
from waiting import eventually

RATE = 1000  # records a second


def disturb(link: Proxy, chance: random.Random) -> None:
    """Do one of the things that happen to a link, and undo it."""
    what = chance.choice((link.cut, link.cut, link.swallow, link.half_open, link.refuse, None))
    if what is None:
        link.latency = chance.uniform(0.001, 0.05)
    else:
        what()
    time.sleep(chance.uniform(0, 0.5))  # the disturbance's length
    link.cut()  # what was swallowed is lost with its connection
    link.heal()


def committed(log: TSLog, last: int) -> bool:
    """Commit, and tell whether that was possible."""
    try:
        return log.commit() == last
    except (ServerTimeout, ServerUnreachable):
        return False


@pytest.mark.timeout(150)
def test_a_disturbed_link(
    own_server: Callable[..., OwnServer], proxy: Callable[..., Proxy], full: bool, kind: str
) -> None:
    """1,000 records a second are stored and read: all of them arrive once, in order."""
    seconds = 60.0 if full else 6.0
    link = proxy(own_server(kind).url)
    got: list[int] = []
    with SharedMemory(url=link.url, timeout=0.4) as shm:
        log = TSLog("test", ["I"], shm=shm, commit_delta=20, nreaders=1)
        reader = log.reader(0)
        last = int(seconds * RATE)

        def read() -> None:
            for (value,) in reader.follow():
                got.append(value)
                if value == last:
                    return

        def write() -> None:
            start = time.monotonic()
            for number in range(1, last + 1):
                time.sleep(max(0.0, start + number / RATE - time.monotonic()))
                assert log.store(number) == number

        threads = [threading.Thread(target=work) for work in (read, write)]
        for thread in threads:
            thread.start()
        chance = random.Random(kind)
        while threads[1].is_alive():
            time.sleep(chance.uniform(0, 0.5))
            disturb(link, chance)
        link.heal()
        threads[1].join()
        eventually(lambda: committed(log, last), message="the last commit")  # a cut may still be on its way
        threads[0].join(20)
        assert got == list(range(1, last + 1))
        assert (reader.missed, reader.restarts, log.lost) == (0, 0, 0)
        assert link.accepted > seconds
        log.close()


def test_a_slow_link(own_server: Callable[..., OwnServer], proxy: Callable[..., Proxy]) -> None:
    """After a break, a writer finds back over a link whose round trip takes 0.2 s."""
    link = proxy(own_server(port=free_port()).url)
    with SharedMemory(url=link.url, timeout=2) as shm, TSLog("test", ["I"], shm=shm, commit_delta=1) as log:
        log.store(1)
        link.refuse()
        log.store(2)
        link.heal()
        link.latency = 0.1
        assert log.commit() == 2
        link.latency = 0
        assert log.store(3) == 3
        assert [value for (value,) in log.reader(0)] == [1, 2, 3]
