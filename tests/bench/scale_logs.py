"""Scale: long logs, and a day of updates.

It knows what a log of so many entries costs: to append, to open, to read, to keep, to load again after a restart; and
what a day at 1 kHz costs, played as fast as it goes: a log that its reader keeps up with, and a record that somebody
follows.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from costs import Costs, Stopwatch, each_in_a_fork, in_a_fork, own_memory
from workload import ROWS, SENDER, Where

from shareddata import DataDict, SharedMemory
from shareddata.server import Server
from shareddata.tslog import TSLog

FORMAT = "<Qff"
PAGE = 1000
DAY = 86_400_000  # updates of a day at 1 kHz
RECORD = {"SCALE__day": {"history": 10_000, "fields": [["ts", 0.0], ["sender", ""], ["number", 0], ["value", 0.0]]}}


def append(url: str, pid: int, entries: int) -> dict[str, float]:
    """Store so many entries, 128 a commit."""
    with SharedMemory(url=url) as shm, TSLog(
        "scale", [FORMAT], commit_delta=128, max_buckets=10**6, recreate=True, shm=shm
    ) as log, Stopwatch(pid) as watch:
        for number in range(entries):
            log.store(number, number, -number)
        log.commit()
    return {"append": (watch.cpu + watch.server) / entries * 1e6}


def read(url: str, pid: int, entries: int) -> dict[str, float]:
    """Read one half of a log in bulk, and commit; open it again, where the place is in its middle; read the rest."""
    memory, found = own_memory(), 0
    with SharedMemory(url=url) as shm:
        with TSLog("scale", [FORMAT], shm=shm) as log, Stopwatch(pid) as reading:
            reader = log.reader(0)
            while found < entries // 2:
                found += len(reader.read_many(PAGE))
                reader.commit()
        with Stopwatch(pid) as opening:
            log = TSLog("scale", [FORMAT], shm=shm)
            first = log.reader(0).next()
        assert first is not None and first[0] == found, f"record {found} is {first}"
        log.close()
    each = (reading.cpu + reading.server) / found * 1e6
    return {"open": (opening.cpu + opening.server) * 1e3, "read": each, "memory": own_memory() - memory}


def measure_log(costs: Costs, executable: str, folder: Path, entries: int) -> None:
    """Take the figures of a log with so many entries, on a server that keeps it on disk."""

    def note(what: str, figure: float, unit: str, flat: bool = True) -> None:
        costs.add(what, figure, unit, "entries in a log", entries, flat)

    with Server(folder, executable=executable) as server:
        with redis.Redis(unix_socket_path=str(server.socket_path)) as plain:
            before = plain.info("memory")["used_memory"]
            done = in_a_fork(append, server.url, server.pid, entries)
            note("append, an entry: CPU of both", done["append"], "us")
            note("memory in the server, an entry", (plain.info("memory")["used_memory"] - before) / entries, "bytes")
        for what, figure in in_a_fork(read, server.url, server.pid, entries).items():
            titles = {
                "open": ("open it at its middle, read one: CPU of both", "ms"),
                "read": ("read in bulk, an entry: CPU of both", "us"),
                "memory": ("memory in the program that reads", "kB"),
            }
            note(titles[what][0], figure, titles[what][1])
    start = time.monotonic()
    with Server(folder, executable=executable) as server:
        with redis.Redis(unix_socket_path=str(server.socket_path)) as plain:
            while plain.info("persistence")["loading"]:
                time.sleep(0.01)
        note("the server starts again and has it: time", (time.monotonic() - start) * 1e3, "ms", False)


# -- a day ------------------------------------------------------------------------------------------------------------


def store_a_day(where: Where, updates: int, done: str) -> dict[str, float]:
    """Store so many entries, buckets of 4096; wait where the reader is behind."""
    with SharedMemory(url=where.url) as shm, TSLog(
        "day", [FORMAT], bucket_size=4096, commit_delta=1000, max_buckets=64, shm=shm
    ) as log, Stopwatch(where.pid) as watch:
        for number in range(updates):
            log.store(number, number, -number)
            if not number % 10_000:
                while log.stats().lag > 20_000:
                    time.sleep(0.005)
        log.commit()
    return {"cpu": watch.cpu / updates * 1e6, "wall": watch.wall}


def read_a_day(where: Where, updates: int, done: str) -> dict[str, float]:
    """Read them all as they come, and commit the place of each page."""
    memory, found = own_memory(), 0
    with SharedMemory(url=where.url) as shm, TSLog(
        "day", [FORMAT], bucket_size=4096, commit_delta=1000, max_buckets=64, shm=shm
    ) as log:
        reader = log.reader(0)
        with Stopwatch(where.pid) as watch:
            while found < updates:
                rows = reader.read_many(PAGE)
                if len(rows):
                    assert int(rows[0][0]) == found, f"record {found} is {rows[0]}"
                    found += len(rows)
                    reader.commit()
                else:
                    time.sleep(0.002)
    return {"cpu": watch.cpu / updates * 1e6, "memory": own_memory() - memory, "found": found}


def write_a_day(where: Where, updates: int, done: str) -> dict[str, float]:
    """Write a record so often; wait where who follows is behind by half of the history."""
    with SharedMemory(url=where.url) as shm, DataDict(SENDER, shm) as dd, redis.Redis.from_url(where.url) as plain:
        (data,) = dd.set_datas_to_write(list(RECORD))
        with Stopwatch(where.pid) as watch:
            for number in range(updates):
                data.set(number, ROWS[number % 256][7])
                dd.flush()
                if not number % 1000:
                    while number - int(plain.get(done) or 0) > 5000:
                        time.sleep(0.001)
    return {"cpu": watch.cpu / updates * 1e6, "wall": watch.wall}


def follow_a_day(where: Where, updates: int, done: str) -> dict[str, float]:
    """Follow every update."""
    memory, found = own_memory(), 0
    with SharedMemory(url=where.url) as shm, DataDict(SENDER, shm) as dd, redis.Redis.from_url(where.url) as plain:
        follower = dd.follow_data("SCALE__day", since=0)
        with Stopwatch(where.pid) as watch:
            for trame in follower:
                assert trame.number == found, f"update {found} is {trame}"
                found += 1
                if not found % 1000:
                    plain.set(done, found)
                if found == updates:
                    break
        missed = follower.missed
    return {"cpu": watch.cpu / updates * 1e6, "memory": own_memory() - memory, "found": found, "missed": missed}


def play(job: Callable[..., dict[str, float]], where: Where, updates: int, done: str) -> dict[str, float]:
    """Play one of the two parts."""
    return job(where, updates, done)


def measure_day(costs: Costs, where: Where, plain: "redis.Redis[Any]", kind: str, part: int) -> None:
    """Play a part of a day, one in so many: a writer and a reader at once."""
    updates = DAY // part
    plain.flushall()
    with SharedMemory(url=where.url) as shm:
        shm.init(RECORD)
    jobs = (store_a_day, read_a_day) if kind == "log" else (write_a_day, follow_a_day)
    if kind == "log":
        with SharedMemory(url=where.url) as shm:
            TSLog("day", [FORMAT], bucket_size=4096, commit_delta=1000, recreate=True, shm=shm).close()
    before = plain.info("memory")["used_memory"]
    with Stopwatch(where.pid) as watch:
        writer, reader = each_in_a_fork(play, [(job, where, updates, "SCALE:done") for job in jobs])
    words = "a log that is read" if kind == "log" else "a record that is followed"

    def note(what: str, figure: float, unit: str, flat: bool | None = True) -> None:
        costs.add(f"{words}: {what}", figure, unit, "updates, as of a day at 1 kHz", updates, flat)

    note("time", writer["wall"], "s", None)  # as the system deals out the cores, more or fewer come at once
    note("lost", updates - reader["found"] + reader.get("missed", 0), "")
    note("an update: CPU of the writer", writer["cpu"], "us", None)
    note("an update: CPU of the reader", reader["cpu"], "us", None)
    note("an update: CPU in the server", watch.server / updates * 1e6, "us", None)
    note("memory in the server at the end", (plain.info("memory")["used_memory"] - before) / 1000, "kB")
    note("memory in the reader", reader["memory"], "kB")
