"""Groups under load: several programs write, several read and listen; nothing is torn, nothing is older than before."""

from collections.abc import Callable
from time import sleep

import pytest

from programs import Program
from records import HEAD
from shareddata import DataDict, SharedMemory

FOUR = {
    "A": [*HEAD, ["number", 0], ["text", ""]],
    "B": [*HEAD, ["number", 0], ["text", ""]],
    "C": {"history": 0, "fields": [*HEAD, ["number", 0], ["text", ""]]},
    "D": [*HEAD, ["number", 0], ["text", ""]],
}
WRITER = """
    import threading
    url, sender = sys.argv[1:]
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    with SharedMemory(url=url) as shm, DataDict(sender, shm) as dd:
        datas = dd.set_datas_to_write(["A", "B", "C", "D"])
        number = 0
        while not over.is_set():
            number += 1
            for data in datas:
                data.set(number, f"{sender} {number}" * (number % 9))
            dd.flush(ts=float(number))
            if number == 1:
                say("writing")
        say(number)
"""
READER = """
    url, reads = sys.argv[1], int(sys.argv[2])
    with SharedMemory(url=url) as shm, DataDict("reader", shm) as dd:
        dd.set_datas_to_read(["A", "B", "C"])
        dd.set_datas_to_read(["D"])
        seen = set()
        for i in range(reads):
            a, b, c, d = dd.read(fresh=True) if i % 2 else dd.next()
            assert a == b == c == d, (a, b, c, d)
            seen.add((a.sender, a.number))
        say(len(seen))
"""


@pytest.mark.timeout(300)
def test_no_group_is_torn(shm: SharedMemory, program: Callable[..., Program], full: bool) -> None:
    """Three programs flush the same four records, three read them."""
    shm.init(FOUR)
    reads = 40_000 if full else 3_500
    writers = [program(WRITER, shm.url, name) for name in ("one", "two", "three")]
    for writer in writers:
        assert writer.line() == "writing"
    readers = [program(READER, shm.url, reads) for _ in range(3)]
    different = [int(reader.finish(250)[-1]) for reader in readers]
    flushes = sum(int(writer.finish()[-1]) for writer in writers)
    assert flushes > 100 and min(different) > 100, "readers and writers must run at the same time"


FLOOD = """
    url, count = sys.argv[1], int(sys.argv[2])
    with SharedMemory(url=url) as shm, DataDict("flood", shm) as dd:
        a, b = dd.set_datas_to_write(["A", "B"])
        sys.stdin.readline()
        for number in range(1, count + 1):
            a.set(number, "x")
            b.set(number, "x")
            dd.flush(ts=float(number))
"""


@pytest.mark.parametrize("pause", [0.0, 0.0005, 0.05])
def test_a_listener_ends_on_the_last_value(
    shm: SharedMemory, program: Callable[..., Program], full: bool, pause: float
) -> None:
    """Also under a flood, and when it is slow; it never goes backwards and sees no torn group."""
    shm.init(FOUR)
    last = 100_000 if full else 3_000
    flood = program(FLOOD, shm.url, last)
    with DataDict("listener", shm) as dd:
        listener = dd.listen_to_datas(["A", "B"], timeout=10)
        flood.tell("go")
        before = 0
        for a, b in listener:
            assert a == b
            assert a.number >= before, "it went backwards"
            before = a.number
            if before == last:
                break
            sleep(pause)  # what a slow program does with the values
        assert before == last
    flood.finish()


def test_two_listeners_hear_two_writers(shm: SharedMemory, program: Callable[..., Program]) -> None:
    shm.init(FOUR)
    floods = [program(FLOOD, shm.url, 500) for _ in range(2)]
    with DataDict("listener", shm) as dd:
        listeners = [dd.listen_to_datas(["A", "B"], timeout=10) for _ in range(2)]
        for flood in floods:
            flood.tell("go")
        for flood in floods:
            flood.finish()
        for listener in listeners:
            a, b = next(listener)
            assert a == b and a.number == 500


def test_everybody_hears_a_handful_of_updates(shm: SharedMemory) -> None:
    """Written one after the other, each heard before the next: each wakes exactly once."""
    shm.init(FOUR)
    with DataDict("listener", shm) as dd:
        listener = dd.listen_to_datas(["A", "B"], timeout=0.3)
        a, b = dd.set_datas_to_write(["A", "B"])
        for number in range(1, 200):
            a.set(number, "")
            b.set(number, "")
            dd.flush()
            assert [trame.number for trame in next(listener)] == [number, number]
        assert list(listener) == [], "a write woke it twice"
