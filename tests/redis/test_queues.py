"""Queues: many writers, many readers, each element taken once."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from programs import Program
from shareddata import DataDict, DecodeError, FieldError, Fifo, ServerRefused, SharedMemory


@pytest.fixture
def queue(shm: SharedMemory) -> Iterator[Fifo]:
    with DataDict("program", shm) as dd:
        yield dd.declare_fifos(["COMMANDS"])[0]


WRITER = """
    with SharedMemory(url=sys.argv[1]) as shm, DataDict("w", shm) as dd:
        q, = dd.declare_fifos(["COMMANDS"])
        for number in range(int(sys.argv[3])):
            q.push(sys.argv[2], number)
"""
READER = """
    with SharedMemory(url=sys.argv[1]) as shm, DataDict("r", shm) as dd:
        q, = dd.declare_fifos(["COMMANDS"])
        say("ready")
        output = open(sys.argv[3], "w")
        while True:
            if sys.argv[2] == "drain":
                taken = q.drain()
            else:
                element = q.pop(timeout=0.2)
                taken = [] if element is None else [element]
            for who, number in taken:
                if who == "end":
                    sys.exit()
                print(who, number, file=output)
"""


@pytest.mark.timeout(120)
def test_many_writers_and_readers(
    queue: Fifo, shm: SharedMemory, program: Callable[..., Program], full: bool, short_path: Path
) -> None:
    """Each element is taken exactly once, and those of one writer in their order."""
    count = 20_000 if full else 400
    files = [short_path / str(number) for number in range(3)]
    readers = [program(READER, shm.url, how, file) for how, file in zip(("pop", "pop", "drain"), files)]
    for reader in readers:
        assert reader.line() == "ready"
    for writer in [program(WRITER, shm.url, name, count) for name in ("a", "b")]:
        writer.finish(60)
    taken: Counter[str] = Counter()
    while any(reader.process.poll() is None for reader in readers):
        if not len(queue):
            queue.push("end", 0)
        time.sleep(0.02)  # a reader ends at each
    for reader, file in zip(readers, files):
        reader.finish()
        lines = file.read_text().splitlines()
        taken.update(lines)
        for name in ("a", "b"):
            own = [int(line.split()[1]) for line in lines if line.startswith(name)]
            assert own == sorted(own)
    assert set(taken.values()) == {1}
    assert len(taken) == 2 * count


def test_values_come_back(queue: Fifo) -> None:
    for element in ([], [None], [1, -2.5, "tåg\n", True], [{"a": [1, {"b": None}]}], [2**70, float("inf")]):
        queue.push(*element)
        assert queue.pop() == element
    queue.push((1, 2))
    assert queue.pop() == [[1, 2]]


def test_empty(queue: Fifo) -> None:
    assert queue.pop() is None
    assert queue.pop(timeout=0) is None
    assert queue.drain() == []
    assert len(queue) == 0
    start = time.monotonic()
    assert queue.pop(timeout=0.1) is None
    assert 0.1 <= time.monotonic() - start < 1


def test_order_and_drain(queue: Fifo) -> None:
    for number in range(10):
        queue.push(number)
    assert queue.pop() == [0]
    assert len(queue) == 9
    assert queue.drain() == [[number] for number in range(1, 10)]
    assert queue.drain() == []


def test_pop_waits_for_a_writer(queue: Fifo, shm: SharedMemory, program: Callable[..., Program]) -> None:
    writer = program(WRITER, shm.url, "w", 1)
    assert queue.pop(timeout=10) == ["w", 0]
    writer.finish()


@pytest.mark.parametrize("timeout", [0.5, 1.0])
def test_a_time_out_shorter_than_the_wait(url: str, timeout: float) -> None:
    with SharedMemory(url=url, timeout=timeout) as shm, DataDict("program", shm) as dd:
        (queue,) = dd.declare_fifos(["Q"])
        start = time.monotonic()
        assert queue.pop(timeout=1.1) is None
        assert 1 <= time.monotonic() - start < 1.8
        queue.push(1)
        assert queue.pop(timeout=1.1) == [1]


def test_what_json_cannot_hold_is_not_sent(queue: Fifo) -> None:
    for value in (b"bytes", {1: 2}, object(), "\ud800"):
        with pytest.raises(FieldError, match="queue COMMANDS"):
            queue.push(value)
    assert queue.pop() is None


def test_names(shm: SharedMemory) -> None:
    with DataDict("program", shm) as dd:
        with pytest.raises(ValueError, match="queue name"):
            dd.declare_fifos(["a b"])
        with pytest.raises(TypeError, match="expected a list of names"):
            dd.declare_fifos("AB")
        one, two = dd.declare_fifos(["ONE", "TWO"])
        one.push(1)
        assert two.pop() is None and one.pop() == [1]


def test_a_namespace_has_its_own(url: str) -> None:
    memories = SharedMemory(url=url, namespace="a"), SharedMemory(url=url, namespace="b")
    with memories[0] as a, memories[1] as b, DataDict("program", a) as one, DataDict("program", b) as two:
        (left,), (right,) = one.declare_fifos(["Q"]), two.declare_fifos(["Q"])
        left.push(1)
        assert right.pop() is None and right.drain() == [] and len(left) == 1


def test_rubbish_is_named(queue: Fifo, client: redis.Redis) -> None:
    for rubbish in ("no json", "5", '{"a": 1}', b"\xff"):
        client.rpush("fifo:COMMANDS", rubbish)
        with pytest.raises(DecodeError, match="queue COMMANDS.*fifo:COMMANDS"):
            queue.pop()
    assert queue.pop() is None


def test_rubbish_loses_no_element(queue: Fifo, client: redis.Redis) -> None:
    """Drained together with rubbish, the good elements are not lost."""
    queue.push(1)
    client.rpush("fifo:COMMANDS", "no json")
    queue.push(2)
    taken = []
    with pytest.raises(DecodeError, match="queue COMMANDS"):
        taken += queue.drain()
    taken += queue.drain()
    assert taken == [[1], [2]]


def test_a_key_of_another_type_is_left_alone(queue: Fifo, client: redis.Redis) -> None:
    client.hset("fifo:COMMANDS", "a", "b")
    for action in (queue.pop, queue.drain, lambda: queue.push(1), lambda: queue.pop(timeout=0.1), queue.__len__):
        with pytest.raises(ServerRefused, match="WRONGTYPE"):
            action()
    assert client.hgetall("fifo:COMMANDS") == {b"a": b"b"}
