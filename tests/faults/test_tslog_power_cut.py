"""The server's log is cut back, as by a loss of power without `fsync=always`: nothing goes without being said."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from servers import OwnServer
from shareddata import SharedMemory
from shareddata.errors import WriterConflict
from shareddata.tslog import TSLog, TSReader


def append_only_file(server: OwnServer) -> Path:
    """Return the file that grows: the newest, as one that was cut off is written anew."""
    return max(server.folder.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))


# With everysec, the server may answer before it has written to its file: the file's size would say too little.
AT_ONCE = ("--appendfsync", "no")


def size(server: OwnServer) -> int:
    return append_only_file(server).stat().st_size


def cut_power(server: OwnServer, kept: int) -> None:
    """End the server, and take what came behind `kept` bytes from its file."""
    server.kill()
    with append_only_file(server).open("r+b") as file:
        file.truncate(kept)
    server.start()


def content(shm: SharedMemory, **options: int) -> dict[int, int]:
    """Return the whole log: number -> value."""
    with TSLog("test", ["I"], shm=shm, nreaders=0, **options) as log:
        entries, _ = log._stream.read(0, 10**6)
        return {number: log.formats[0].unpack(data)[0] for number, _, data in entries}


def take(reader: TSReader, got: list[tuple[int, int]], count: int) -> None:
    """Read up to so many records: number and value."""
    while count and (record := reader.next()) is not None:
        got.append((reader.position, record[0]))
        count -= 1


@pytest.mark.timeout(120)
def test_a_living_writer_sends_again(own_server: Callable[..., OwnServer], full: bool, kind: str) -> None:
    """Every number keeps its record; what the writer does not hold any more is `lost` for it, `missed` for a reader."""
    chance = random.Random(kind)
    server = own_server(kind, options=AT_ONCE)
    with SharedMemory(url=server.url, timeout=1) as shm:
        log = TSLog("test", ["I"], shm=shm, commit_delta=8, bucket_size=50, max_buckets=10**6)
        reader, fresh = log.reader(0), size(server)
        got: list[tuple[int, int]] = []
        marks = [fresh]
        for _ in range(60 if full else 12):
            for _ in range(chance.randrange(10, 120)):
                number = log.store(10**6 + log.stats().seqn + 1)
                if chance.random() < 0.05:
                    take(reader, got, chance.randrange(20))
                if chance.random() < 0.05:
                    reader.commit()
                    marks.append(size(server))
            cut_power(server, chance.randrange(chance.choice(marks[-5:]), size(server) + 1))
            marks = [mark for mark in marks if mark <= size(server)] or [size(server)]
            take(reader, got, chance.choice((0, 1000)))
            assert log.store(10**6 + number + 1) == number + 1
        log.commit()
        take(reader, got, 10**6)
        numbers = [n for n, _ in got]
        there = content(shm, bucket_size=50)
        gaps = set(range(min(there), number + 2)) - set(there)
        assert all(value == 10**6 + n for n, value in [*got, *there.items()])
        assert numbers == sorted(set(numbers)), "in order, each once"
        assert len(numbers) + reader.missed == log.stats().seqn == reader.position == max(there) == number + 1
        assert len(gaps) <= log.lost and reader.missed <= log.lost and reader.restarts == 0
        assert log.lost > 0, "the rounds were chosen so that some are"


@pytest.mark.timeout(120)
def test_a_new_writer_gives_numbers_anew(own_server: Callable[..., OwnServer], full: bool, kind: str) -> None:
    """The old writer died with the server. A reader that had read more goes back, says so, and leaves nothing out."""
    chance = random.Random(kind)
    server = own_server(kind, options=AT_ONCE)
    with SharedMemory(url=server.url, timeout=1) as shm, TSLog("test", ["I"], shm=shm) as own:
        got: list[tuple[int, int]] = []
        seen: dict[int, int] = {}
        reader, value, expected = own.reader(0), 0, 0
        for _ in range(60 if full else 12):
            writer = TSLog("test", ["I"], shm=shm, commit_delta=1)
            marks = []
            for _ in range(chance.randrange(2, 60)):
                value += 1
                writer.store(value)
                marks.append(size(server))
                if chance.random() < 0.3:
                    take(reader, got, chance.randrange(1, 20))
                if chance.random() < 0.1:
                    reader.commit()
            writer._writer.forget()  # it dies
            writer.close()
            if chance.random() < 0.6:
                cut_power(server, chance.choice(marks))
                there = len(content(shm))
                expected += there < reader.position
        with TSLog("test", ["I"], shm=shm) as writer:
            writer.store(value + 1)
            writer.commit()
            take(reader, got, 10**6)
        there = content(shm)
        assert list(there) == list(range(1, len(there) + 1)), "no gap"
        assert list(there.values()) == sorted(set(there.values()))
        for number, value in got:
            assert number <= max(seen, default=0) + 1, "nothing is left out"
            seen = {n: v for n, v in seen.items() if n < number} | {number: value}
        assert seen == there, "what the reader had at last is what the log holds"
        assert reader.missed == 0
        assert 0 < reader.restarts <= expected


def test_everything_is_gone(own_server: Callable[..., OwnServer], kind: str) -> None:
    """A server without persistence is started again; or somebody empties it."""
    server = own_server(kind, options=("--appendonly", "no"))
    with SharedMemory(url=server.url, timeout=1) as shm:
        log = TSLog("test", ["I"], shm=shm, commit_delta=1, bucket_size=100)
        reader = log.reader(0)
        got: list[tuple[int, int]] = []
        for number in range(1, 61):
            log.store(number)
        take(reader, got, 40)
        reader.commit()
        server.restart()
        reader.commit()
        with TSLog("test", ["I"], shm=shm, bucket_size=100) as other:
            assert other.stats() == (0, 0, 0)
        assert log.store(61) == 61
        with server.client() as client:
            client.flushall()
        assert log.store(62) == 62
        take(reader, got, 100)
        assert got == [(n, n) for n in range(1, 63)]
        assert (log.lost, reader.missed, reader.restarts) == (0, 0, 0)
        reader.commit()
        assert log.reader(0).position == 62
        assert content(shm, bucket_size=100) == {n: n for n in range(1, 63)}


def test_a_cursor_does_not_pass_what_is_there(own_server: Callable[..., OwnServer], kind: str) -> None:
    """A reader that had read what the server lost commits: the cursor stays, for the numbers may be given anew."""
    server = own_server(kind, options=AT_ONCE)
    with SharedMemory(url=server.url, timeout=1) as shm, TSLog("test", ["I"], shm=shm) as own:
        reader = own.reader(0)
        with TSLog("test", ["I"], shm=shm, commit_delta=1) as writer:
            for number in range(1, 11):
                writer.store(number)
            kept = size(server)
            for number in range(11, 21):
                writer.store(number)
        assert len(list(reader)) == 20
        cut_power(server, kept)
        reader.commit()
        assert own.reader(0).position == 10
        with TSLog("test", ["I"], shm=shm, commit_delta=1) as writer:
            for number in range(11, 31):
                assert writer.store(100 + number) == number
        assert [value for (value,) in own.reader(0)] == list(range(111, 131))
        assert [value for (value,) in reader] == list(range(111, 131))
        assert reader.restarts == 1


def test_the_writer_s_own_claim_is_lost(own_server: Callable[..., OwnServer], kind: str) -> None:
    """The server knows only an earlier writer: that is no conflict."""
    server = own_server(kind, options=AT_ONCE)
    with SharedMemory(url=server.url, timeout=1) as shm:
        with TSLog("test", ["I"], shm=shm, commit_delta=1) as earlier:
            earlier.store(1)
        kept = size(server)
        log = TSLog("test", ["I"], shm=shm, commit_delta=1)
        reader = log.reader(0)
        for number in range(2, 6):
            log.store(number)
        assert len(list(reader)) == 5
        cut_power(server, kept)
        assert log.store(6) == 6
        assert [value for (value,) in reader] == [6]
        assert content(shm) == {n: n for n in range(1, 7)}


def test_another_writer_was_quicker(own_server: Callable[..., OwnServer], kind: str) -> None:
    """After the power cut another program stores before the old writer is back: the old one is told."""
    server = own_server(kind, options=AT_ONCE)
    with SharedMemory(url=server.url, timeout=1) as shm:
        log = TSLog("test", ["I"], shm=shm, commit_delta=1)
        reader = log.reader(0)
        log.store(1)
        kept = size(server)
        log.store(2)
        assert len(list(reader)) == 2
        cut_power(server, kept)
        with TSLog("test", ["I"], shm=shm) as other:
            assert other.store(22) == 2
        with pytest.raises(WriterConflict, match="1 records of this program were not written"):
            log.store(3)
        assert content(shm) == {1: 1, 2: 22}
        assert [value for (value,) in reader] == [22]
        assert reader.restarts == 1
