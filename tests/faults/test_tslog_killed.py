"""Logs whose writer, reader or server is killed at random moments."""

import mmap
import os
import random
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from programs import Program
from servers import EXECUTABLES, OwnServer
from shareddata import SharedMemory
from shareddata.tslog import TSLog
from waiting import eventually

DELTA = 8

# A process that forks writers and readers: quicker than a new Python for each. What a child's calls returned is in a
# file that is mapped into memory, which the child's death does not take back.
NURSERY = """
    import mmap, struct
    from shareddata.tslog import TSLog
    url, path = sys.argv[1:]
    file = open(path, "r+b")
    shared = mmap.mmap(file.fileno(), 0)

    def say(*words):  # in one piece, also where Python does not buffer its output: whoever says it may die any time
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    def tell(number, place=0):
        shared[8 * place:8 * place + 8] = struct.pack("<Q", number)

    def write(round):
        with SharedMemory(url=url, timeout=0.5) as shm:
            log = TSLog("test", ["II"], commit_delta=8, bucket_size=64, max_buckets=10**6, shm=shm)
            count = 0
            while True:
                tell(log.store(round, count))
                count += 1
                tell(count, 1)

    def commit(round):
        with SharedMemory(url=url, timeout=0.5) as shm:
            log = TSLog("test", ["II"], commit_delta=1000, bucket_size=64, max_buckets=10**6, shm=shm)
            count = 0
            while True:
                for _ in range(count % 20 + 1):
                    log.store(round, count)
                    count += 1
                tell(log.commit())

    def read(round):
        with SharedMemory(url=url) as shm:
            reader = TSLog("test", ["II"], bucket_size=64, shm=shm).reader(0)
            for round, count in reader.follow():
                say(reader.position, round, count)
                if reader.position % 5 == 0:
                    reader.commit()
                    tell(reader.position)

    for line in sys.stdin:
        what, round = line.split()
        child = os.fork()
        if child == 0:
            globals()[what](int(round))
        say(child)
        os.waitpid(child, 0)
        say("gone")
"""


class Nursery:
    """The program that forks children, and what they have told."""

    def __init__(self, program: Callable[..., Program], url: str) -> None:
        # Not on a disk: who writes into a page that is on its way there cannot be killed for as long as that takes.
        memory = Path("/dev/shm")
        self._file = tempfile.NamedTemporaryFile(dir=memory if memory.exists() else None)  # noqa: SIM115 -- see close
        self._file.write(bytes(4096))
        self._file.flush()
        self._shared = mmap.mmap(self._file.fileno(), 0)
        self._program = program(NURSERY, url, self._file.name)

    def told(self, place: int = 0) -> int:
        number: int = struct.unpack_from("<Q", self._shared, 8 * place)[0]
        return number

    def start(self, what: str, round_: int = 0) -> int:
        self._shared[:16] = bytes(16)
        self._program.tell(f"{what} {round_}")
        return int(self._program.line())

    def kill(self, pid: int) -> list[str]:
        """Kill a child; return the lines that it printed."""
        with suppress(ProcessLookupError):  # it may have ended because the server was killed
            os.kill(pid, signal.SIGKILL)
        lines = []
        while (line := self._program.line()) != "gone":
            lines.append(line)
        return lines

    def close(self) -> None:
        self._program.close()
        self._shared.close()
        self._file.close()


@pytest.fixture
def make_nursery(program: Callable[..., Program]) -> Iterator[Callable[[str], Nursery]]:
    made: list[Nursery] = []

    def make(url: str) -> Nursery:
        made.append(Nursery(program, url))
        return made[-1]

    yield make
    for each in made:
        each.close()


def await_told(nursery: Nursery) -> None:
    eventually(nursery.told, timeout=15, message="what the child tells first", interval=0.0002)


def check(url: str, rounds: list[tuple[int, int]]) -> None:
    """Check the whole log: `rounds` are what each round's writer had stored at least, and how many of it may miss."""
    with SharedMemory(url=url) as shm:
        found: dict[int, int] = {}
        with TSLog("test", ["II"], bucket_size=64, shm=shm) as log, log.reader(0) as reader:
            last = (-1, -1)
            for number, (round_, count) in enumerate(reader, 1):
                assert reader.position == number, "numbers have no gap"
                assert count == found.get(round_, 0), "each once, none left out, in order"
                assert (round_, count) > last
                last = (round_, count)
                found[round_] = count + 1
            assert reader.missed == 0
    for round_, (stored, may_miss) in enumerate(rounds):
        assert found.get(round_, 0) >= stored - may_miss, f"round {round_}"


@pytest.mark.timeout(120)
def test_the_writer_is_killed(
    url: str, make_nursery: Callable[[str], Nursery], full: bool, kind: str
) -> None:
    """At random moments, a hundred times: at most `commit_delta - 1` records that were not committed are missing."""
    nursery = make_nursery(url)
    chance, rounds = random.Random(kind), []
    for round_ in range(100 if full else 15):
        pid = nursery.start("write", round_)
        await_told(nursery)
        time.sleep(chance.uniform(0, 0.01))  # the random moment
        nursery.kill(pid)
        rounds.append((nursery.told(1), DELTA - 1))
    assert sum(stored for stored, _ in rounds) > 50 * len(rounds)
    check(url, rounds)


@pytest.mark.timeout(120)
def test_the_server_and_the_writer_are_killed(
    own_server: Callable[..., OwnServer], make_nursery: Callable[[str], Nursery], full: bool, kind: str
) -> None:
    """With `always`: what a commit has returned is there."""
    server = own_server(kind, fsync="always")
    nursery = make_nursery(server.url)
    chance, rounds, before = random.Random(kind), [], 0
    for round_ in range(100 if full else 6):
        pid = nursery.start("commit", round_)
        await_told(nursery)
        time.sleep(chance.uniform(0, 0.03))
        server.kill()
        nursery.kill(pid)
        committed = nursery.told()
        server.start()
        with server.client() as client:
            last = int(client.xinfo_stream("tslog:test")["last-generated-id"].split(b"-")[0])
            assert last >= committed > before
        rounds.append((committed - before, 0))
        before = last
    check(server.url, rounds)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_the_server_is_killed_under_a_living_writer(
    own_server: Callable[..., OwnServer], full: bool, fsync: str, kind: str
) -> None:
    """The writer goes on, and a reader too: everything that was stored arrives once, in order."""
    server = own_server(kind, fsync=fsync)
    done, got, stored = threading.Event(), [], []
    with SharedMemory(url=server.url, timeout=1) as shm:
        log = TSLog("test", ["i"], commit_delta=DELTA, shm=shm)
        reader = log.reader(0)
        stored.append(log.store(1))  # the first one needs the server

        def write() -> None:
            while not done.is_set():
                stored.append(log.store(len(stored) + 1))
                time.sleep(0.0002)
            log.store(-1)

        def read() -> None:
            for (value,) in reader.follow():
                if value == -1:
                    return
                got.append(value)

        threads = [threading.Thread(target=work) for work in (write, read)]
        for thread in threads:
            thread.start()
        chance = random.Random(kind)
        for _ in range(30 if full else 5):
            time.sleep(chance.uniform(0.01, 0.1))
            server.restart()
        done.set()
        threads[0].join(20)
        eventually(lambda: log.commit() == len(stored) + 1, timeout=20)
        threads[1].join(20)
        assert got == stored == list(range(1, len(stored) + 1))
        assert (reader.missed, reader.restarts, log.lost) == (0, 0, 0)
        log.close()


@pytest.mark.timeout(120)
def test_the_reader_is_killed_between_next_and_commit(
    url: str, make_nursery: Callable[[str], Nursery], full: bool, kind: str
) -> None:
    """The next one begins behind the committed cursor: nothing is left out, some records come again."""
    with SharedMemory(url=url) as shm, TSLog("test", ["II"], bucket_size=64, commit_delta=1, shm=shm) as log:
        nursery = make_nursery(url)
        chance, stored, cursor = random.Random(kind), 0, 0
        for _ in range(60 if full else 8):
            for _ in range(40):
                stored = log.store(0, stored)
            pid = nursery.start("read")
            await_told(nursery)
            time.sleep(chance.uniform(0, 0.005))
            numbers = [int(line.split()[0]) for line in nursery.kill(pid)]
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            committed = log.reader(0).position
            assert cursor < numbers[0] <= cursor + 1, "it began behind the cursor"
            assert committed in (nursery.told(), nursery.told() + 5) and committed <= numbers[-1] + 1
            cursor = committed


@pytest.mark.parametrize("kind", sorted(EXECUTABLES))
def test_records_survive_a_file_that_was_cut_inside_a_transaction(
    own_server: Callable[..., OwnServer], kind: str
) -> None:
    server = own_server(kind, fsync="always")
    stored: list[tuple[int, int]] = []

    def store(round: int) -> None:
        with SharedMemory(url=server.url) as shm, TSLog("cut", ["II"], commit_delta=3, bucket_size=64, shm=shm) as log:
            for number in range(3):
                log.store(round, number)
                stored.append((round, number))

    for round in range(2):
        store(round)
    server.kill()
    folder = server.folder / "appendonlydir"
    (file,) = folder.glob("*.incr.aof")
    data = file.read_bytes()
    begin = data.rindex(b"MULTI", 0, data.rindex(b"XADD"))
    second = data.index(b"XADD", data.index(b"XADD", begin) + 4)
    file.write_bytes(data[: second + 2])  # in the second of three records
    del stored[3:]
    for round in range(2, 5):  # at the second start the records of the first would be refused
        server.start()
        store(round)
        server.kill()
    server.start()
    with SharedMemory(url=server.url) as shm, TSLog("cut", ["II"], bucket_size=64, shm=shm) as log:
        assert [record[-2:] for record in log.reader(0)] == stored
