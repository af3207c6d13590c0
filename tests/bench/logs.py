"""The rows of logs: appending and reading numbered records, and their memory in the server.

The same record for everybody, struct "<Qff" (16 bytes); server and client on one core; rounds interleaved. C sends
the commands that a TSLog sends; redis-py and walrus do it as people write it: XADD with the server's ids, in a
transaction where several make a commit, XREADGROUP and XACK; walrus' entries are fields. A file is appended to,
flushed or fsynced at a commit, its reader's place in a file beside. Files are where the temporary folder is: for
`always` that must be a disk.
"""

import gc
import logging
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis
import walrus
from machine import build, place, say
from peers import FLOOR, OURS
from rows import Row, interleave, reasons

from shareddata import SharedMemory
from shareddata.server import Server
from shareddata.tslog import TSLog

FORMAT = "Qff"
PAGE = 1000
POLICIES = {  # what a commit costs is the disk's time, where it waits for the disk
    "off": ("--appendonly", "no"),
    "everysec": ("--appendfsync", "everysec"),
    "always": ("--appendfsync", "always"),
}
SHOWN = {"off": "no persistence", "everysec": "fsync each second", "always": "fsync at each commit"}
COMMITS = {1: 3_000, 16: 16_000, 128: 25_600}
GOALS = {"log-append-128": 0.8, "log-read": 0.9, "log-bulk": 1.5}
record = struct.Struct("<Qff")


def now() -> int:
    return int(time.time() * 1000)


def per_record(work: Callable[[], int]) -> float:
    """Return the microseconds a record takes."""
    gc.collect()
    start = time.perf_counter()
    count = work()
    return (time.perf_counter() - start) / count * 1e6


def checked(figure: float, found: int, expected: int) -> float:
    assert found == expected, f"{found} records were read, {expected} are there"
    return figure


class Ours:
    """TSLog; with `read_bulk` it reads arrays."""

    def __init__(self, server: Server) -> None:
        self.shm = SharedMemory(url=server.url)

    def append(self, records: int, commit: int) -> float:
        with TSLog("ours", [FORMAT], commit_delta=commit, max_buckets=10**6, recreate=True, shm=self.shm) as log:

            def work() -> int:
                for number in range(records):
                    log.store(now(), number, -number)
                return records

            return per_record(work)

    def read(self, records: int) -> float:
        with TSLog("ours", [FORMAT], shm=self.shm) as log:
            reader = log.reader(0)

            def work() -> int:
                found = 0
                while reader.next() is not None:
                    found += 1
                    if found % PAGE == 0:
                        reader.commit()
                return found

            return checked(per_record(work), reader.position, records)

    def read_bulk(self, records: int) -> float:
        with TSLog("ours", [FORMAT], nreaders=2, shm=self.shm) as log:
            reader = log.reader(1)

            def work() -> int:
                while len(reader.read_many(PAGE)):
                    reader.commit()
                return reader.position

            return checked(per_record(work), reader.position, records)

    def close(self) -> None:
        self.shm.close()


class RedisPy:
    """A stream of packed records, a consumer group."""

    def __init__(self, server: Server) -> None:
        self.client = redis.Redis(unix_socket_path=str(server.socket_path))

    def append(self, records: int, commit: int) -> float:
        client = self.client
        client.delete("peer")

        def work() -> int:
            for first in range(0, records, commit):
                if commit == 1:
                    client.xadd("peer", {"0": record.pack(now(), first, -first)})
                    continue
                with client.pipeline(transaction=True) as pipe:
                    for number in range(first, first + commit):
                        pipe.xadd("peer", {"0": record.pack(now(), number, -number)})
                    pipe.execute()
            return records

        return per_record(work)

    def read(self, records: int) -> float:
        client = self.client
        client.xgroup_create("peer", "reader", "0")

        def work() -> int:
            found = 0
            while answer := client.xreadgroup("reader", "me", {"peer": ">"}, count=PAGE):
                entries = answer[0][1]
                found += len([record.unpack(fields[b"0"]) for _, fields in entries])
                client.xack("peer", "reader", *[identity for identity, _ in entries])
            return found

        return checked(per_record(work), records, records)

    def close(self) -> None:
        self.client.close()


class Walrus:
    """A Stream of fields, a consumer group."""

    def __init__(self, server: Server) -> None:
        self.db = walrus.Database(unix_socket_path=str(server.socket_path))

    def append(self, records: int, commit: int) -> float:
        db = self.db
        db.delete("walrus")
        stream = db.Stream("walrus")

        def work() -> int:
            for first in range(0, records, commit):
                if commit == 1:
                    stream.add({"t": now(), "a": float(first), "b": float(-first)})
                    continue
                with db.atomic() as transaction:
                    piped = walrus.Stream(transaction.pipe, "walrus")
                    for number in range(first, first + commit):
                        piped.add({"t": now(), "a": float(number), "b": float(-number)})
            return records

        return per_record(work)

    def read(self, records: int) -> float:
        group = self.db.consumer_group("reader", ["walrus"])
        group.create()
        group.set_id("0-0")
        stream = group.walrus

        def work() -> int:
            found = 0
            while entries := stream.read(count=PAGE):
                found += len([(int(f[b"t"]), float(f[b"a"]), float(f[b"b"])) for _, f in entries])
                stream.ack(*[identity for identity, _ in entries])
            return found

        return checked(per_record(work), records, records)

    def close(self) -> None:
        self.db.close()


class File:
    """A file that is appended to, and its reader's place in another one, renamed at a commit."""

    def __init__(self, folder: str, policy: str) -> None:
        self.path, self.place, self.policy = f"{folder}/log-{policy}", f"{folder}/place-{policy}", policy

    def append(self, records: int, commit: int) -> float:
        with open(self.path, "wb") as file:

            def work() -> int:
                for number in range(records):
                    file.write(record.pack(now(), number, -number))
                    if (number + 1) % commit == 0:
                        file.flush()
                        if self.policy == "always":
                            os.fdatasync(file.fileno())
                return records

            return per_record(work)

    def _pages(self) -> Iterator[bytes]:
        with open(self.path, "rb", buffering=0) as file:
            while page := file.read(PAGE * record.size):
                yield page
                beside = f"{self.place}.new"
                Path(beside).write_text(str(file.tell()))
                os.rename(beside, self.place)

    def read(self, records: int) -> float:
        return checked(per_record(lambda: sum(len(list(record.iter_unpack(page))) for page in self._pages())), records,
                       os.path.getsize(self.path) // record.size)

    def read_bulk(self, records: int) -> float:
        return per_record(lambda: sum(len(np.frombuffer(page, "<u8, <f4, <f4")) for page in self._pages()))

    def close(self) -> None:
        """Leave the files to who made the folder."""


class Floor:
    """logfloor.c."""

    def __init__(self, program: str, server: Server) -> None:
        self.program, self.socket = program, str(server.socket_path)
        self.client = redis.Redis(unix_socket_path=self.socket)

    def _run(self, *words: object) -> float:
        return float(subprocess.check_output([self.program, self.socket, *map(str, words)]))

    def append(self, records: int, commit: int) -> float:
        self.client.delete("tslog:floor")
        return self._run("append", "tslog:floor", records, commit)

    def read(self, records: int) -> float:
        self.client.xgroup_create("tslog:floor", "reader:0", "0")
        return self._run("read", "tslog:floor", records)

    read_bulk = read

    def close(self) -> None:
        self.client.close()


@contextmanager
def everybody(folder: str, executable: str, policy: str, core: set[int]) -> Iterator[dict[str, Any]]:
    """Run a server with this policy, and make those who use it."""
    program = build("logfloor.c", folder)
    with Server(f"{folder}/{policy}", executable=executable, options=POLICIES[policy]) as server:
        place(server.pid, core)
        made: dict[str, Any] = {
            FLOOR: Floor(program, server),
            OURS: Ours(server),
            "redis-py": RedisPy(server),
            "walrus": Walrus(server),
            "files": File(folder, policy),
        }
        yield made
        for contender in made.values():
            contender.close()


def row_of(key: str, title: str, policy: str) -> Row:
    """Return an empty row of logs."""
    say(f"{title}, {SHOWN[policy]} ...")
    goals = {FLOOR: GOALS[key]} if key in GOALS else {}
    return Row(key, title, "logs", SHOWN[policy], "us a record", cannot=reasons("log"), goals=goals)


def append_rows(made: dict[str, Any], rounds: int, policy: str) -> Iterator[Row]:
    """Yield a row for each size of a commit."""
    for commit, usual in COMMITS.items():
        records = max(commit, usual // (10 if policy == "always" else 1) // commit * commit)
        row = row_of(f"log-append-{commit}", f"append to a log, {commit} a commit", policy)

        def take(name: str, row: Row = row, records: int = records, commit: int = commit) -> None:
            row.add(name, made[name].append(records, commit))

        yield interleave(row, rounds, made, take)


def read_rows(made: dict[str, Any], rounds: int) -> list[Row]:
    """Return the rows of reading through a durable place, committed every 1000 records."""
    records, policy = COMMITS[128], "off"
    one = row_of("log-read", "read a log, its place is durable", policy)
    bulk = row_of("log-bulk", "read a log in bulk (numpy)", policy)

    def take(name: str) -> None:
        contender = made[name]
        contender.append(records, 128)
        one.add(name, contender.read(records))
        if name == FLOOR:
            bulk.add(name, one.figures[name][-1])
        elif hasattr(contender, "read_bulk"):
            bulk.add(name, contender.read_bulk(records))
        else:
            bulk.cannot[name] = "it makes an object of each record"

    interleave(one, rounds, made, take)
    return [one, bulk]


def memory_row(made: dict[str, Any]) -> Row:
    """Return bytes a record, of what `append` stored: each contender's own way, TSLog with four readers."""
    count, row = 102_400, row_of("log-memory", "memory of a log in the server", "off")
    row.unit = "bytes a record"
    row.goals = {}
    client = made["redis-py"].client
    keys = {FLOOR: "tslog:floor", OURS: "tslog:ours", "redis-py": "peer", "walrus": "walrus"}
    for name, key in keys.items():
        made[name].append(count, 128)
        row.add(name, client.memory_usage(key, samples=0) / count)
    made["files"].append(count, 128)
    row.add("files", os.path.getsize(made["files"].path) / count)
    row.marks = {OURS: "with its reader's cursor", "walrus": "three fields as text"}
    return row


def measure(executable: str, rounds: int) -> Iterator[Row]:
    """Yield the rows of logs."""
    logging.getLogger("shareddata").setLevel(logging.ERROR)  # servers without persistence are meant here
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            for policy in POLICIES:
                with everybody(folder, executable, policy, {max(cores)}) as made:
                    yield from append_rows(made, rounds, policy)
                    if policy == "off":
                        yield from read_rows(made, rounds)
                        yield memory_row(made)
    finally:
        os.sched_setaffinity(0, cores)
