"""The log rows: appending and reading numbered records, and their memory in the server.

    scripts/bench --logs [--quick] [--server redis-server] [--markdown FILE]

The same record for everybody, struct "<Qff" (16 bytes); server and client on one core; rounds interleaved. C sends the
commands that a TSLog sends; redis-py does it as people write it: XADD with the server's ids, in a transaction where
several make a commit, XREADGROUP and XACK. Files are where the temporary folder is: for `always` that must be a disk.
"""

import gc
import logging
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy  # noqa: F401 -- so that the first reading in bulk does not load it
import redis
from report import environment

from shareddata import SharedMemory
from shareddata.server import Server
from shareddata.tslog import TSLog

HERE = Path(__file__).parent
FORMAT = "Qff"
PAGE = 1000
POLICIES = {  # what a commit costs is the disk's time, where it waits for the disk
    "off": ("--appendonly", "no"),
    "everysec": ("--appendfsync", "everysec"),
    "always": ("--appendfsync", "always"),
}
WANTED = {"append": 0.8, "read": 0.9, "bulk": 1.5}
Figures = dict[str, list[float]]


def now() -> int:
    return int(time.time() * 1000)


def per_record(work: Callable[[], int]) -> float:
    """Return the microseconds a record takes."""
    gc.collect()
    start = time.perf_counter()
    count = work()
    return (time.perf_counter() - start) / count * 1e6


def append_ours(shm: SharedMemory, records: int, commit: int) -> float:
    with TSLog("ours", [FORMAT], commit_delta=commit, max_buckets=10**6, recreate=True, shm=shm) as log:

        def work() -> int:
            for number in range(records):
                log.store(now(), number, -number)
            return records

        return per_record(work)


def append_redis_py(client: redis.Redis, records: int, commit: int) -> float:
    client.delete("peer")
    pack = struct.Struct("<Qff").pack

    def work() -> int:
        for first in range(0, records, commit):
            if commit == 1:
                client.xadd("peer", {"0": pack(now(), first, -first)})
                continue
            with client.pipeline(transaction=True) as pipe:
                for number in range(first, first + commit):
                    pipe.xadd("peer", {"0": pack(now(), number, -number)})
                pipe.execute()
        return records

    return per_record(work)


def read_ours(shm: SharedMemory, records: int) -> float:
    with TSLog("ours", [FORMAT], shm=shm) as log:
        reader = log.reader(0)

        def work() -> int:
            found = 0
            while reader.next() is not None:
                found += 1
                if found % PAGE == 0:
                    reader.commit()
            return found

        return checked(per_record(work), reader.position, records)


def bulk_ours(shm: SharedMemory, records: int) -> float:
    with TSLog("ours", [FORMAT], nreaders=2, shm=shm) as log:
        reader = log.reader(1)

        def work() -> int:
            while len(reader.read_many(PAGE)):
                reader.commit()
            return reader.position

        return checked(per_record(work), reader.position, records)


def read_redis_py(client: redis.Redis, records: int) -> float:
    client.xgroup_create("peer", "reader", "0")
    unpack = struct.Struct("<Qff").unpack

    def work() -> int:
        found = 0
        while answer := client.xreadgroup("reader", "me", {"peer": ">"}, count=PAGE):
            entries = answer["peer"][0] if isinstance(answer, dict) else answer[0][1]
            found += len([unpack(fields[b"0"]) for _, fields in entries])
            client.xack("peer", "reader", *[identity for identity, _ in entries])
        return found

    return checked(per_record(work), records, records)


def checked(figure: float, found: int, expected: int) -> float:
    assert found == expected, f"{found} records were read, {expected} are there"
    return figure


class Floor:
    """logfloor.c."""

    def __init__(self, folder: str, socket: Path) -> None:
        self.socket = str(socket)
        self.program = f"{folder}/logfloor"
        subprocess.run(["cc", "-O2", "-o", self.program, str(HERE / "logfloor.c"), "-lhiredis"], check=True)

    def __call__(self, operation: str, *arguments: int) -> float:
        command = [self.program, self.socket, operation, "tslog:floor", *map(str, arguments)]
        return float(subprocess.check_output(command))


def append_rows(floor: Floor, shm: SharedMemory, client: redis.Redis, rounds: int, policy: str) -> Iterator[list[str]]:
    for commit in (1, 16, 128):
        records = {1: 3_000, 16: 16_000, 128: 25_600}[commit] // (10 if policy == "always" else 1)
        records = max(commit, records // commit * commit)
        figures: Figures = {"C": [], "shareddata": [], "redis-py": []}
        for _ in range(rounds):
            client.delete("tslog:floor")
            figures["C"].append(floor("append", records, commit))
            figures["shareddata"].append(append_ours(shm, records, commit))
            figures["redis-py"].append(append_redis_py(client, records, commit))
        yield row(f"append, {commit} a commit", policy, figures, WANTED["append"] if commit == 128 else None)


def read_rows(floor: Floor, shm: SharedMemory, client: redis.Redis, rounds: int) -> Iterator[list[str]]:
    records = 25_600
    read: Figures = {"C": [], "shareddata": [], "redis-py": []}
    bulk: Figures = {"C": read["C"], "shareddata": [], "redis-py": read["redis-py"]}
    for _ in range(rounds):
        client.delete("tslog:floor")
        floor("append", records, 128)
        append_ours(shm, records, 128)
        append_redis_py(client, records, 128)
        client.xgroup_create("tslog:floor", "reader:0", "0")
        read["C"].append(floor("read", records))
        read["shareddata"].append(read_ours(shm, records))
        bulk["shareddata"].append(bulk_ours(shm, records))
        read["redis-py"].append(read_redis_py(client, records))
    yield row("read, durable cursor", "off", read, WANTED["read"])
    yield row("read in bulk (numpy)", "off", bulk, WANTED["bulk"])


def row(title: str, policy: str, figures: Figures, wanted: float | None) -> list[str]:
    """Return the cells of a row: the median times, and the ratios to C in the same round."""
    times = [f"{statistics.median(values):.2f}" for values in figures.values()]
    ratios = []
    for name in ("shareddata", "redis-py"):
        found = [c / own for c, own in zip(figures["C"], figures[name])]
        ratios.append(f"{statistics.median(found):.2f} ({min(found):.2f}..{max(found):.2f})")
    return [title, policy, *times, *ratios, f"{wanted:g}" if wanted else ""]


def memory(shm: SharedMemory, client: redis.Redis) -> list[list[str]]:
    """Return bytes a record: a TSLog with its readers, raw XADD of the same bytes, and of three fields."""
    count = 100_000
    with TSLog("memory", [FORMAT], nreaders=4, max_buckets=10**6, recreate=True, shm=shm) as log:
        log.store_many([(now(), number, -number) for number in range(count)])
    pack = struct.Struct("<Qff").pack
    for name, fields in (
        ("raw", lambda number: {"0": pack(now(), number, -number)}),
        ("text", lambda number: {"ts": now(), "a": float(number), "b": float(-number)}),
    ):
        with client.pipeline(transaction=False) as pipe:
            for number in range(count):
                pipe.xadd(name, fields(number))
            pipe.execute()
    usage = {key: client.memory_usage(key, samples=0) / count for key in ("tslog:memory", "raw", "text")}
    titles = ("TSLog, four readers", "XADD of the same bytes", "XADD of three fields")
    return [[title, f"{used:.1f}", f"{used / usage['raw']:.2f}"] for title, used in zip(titles, usage.values())]


@contextmanager
def everybody(folder: str, executable: str, policy: str, place: Callable[[int], None]) -> Iterator[
    tuple[Floor, SharedMemory, redis.Redis]
]:
    """Run a server with this policy, and make the three who use it."""
    with Server(f"{folder}/{policy}", executable=executable, options=POLICIES[policy]) as server:
        place(server.pid)
        with SharedMemory(url=server.url) as shm, redis.Redis(unix_socket_path=str(server.socket_path)) as client:
            yield Floor(folder, server.socket_path), shm, client


def measure(folder: str, executable: str, rounds: int, place: Callable[[int], None]) -> tuple[list[list[str]], ...]:
    """Return the rows of times, and those of memory."""
    logging.getLogger("shareddata").setLevel(logging.ERROR)  # servers without persistence are meant here
    rows: list[list[str]] = []
    used: list[list[str]] = []
    for policy in POLICIES:
        with everybody(folder, executable, policy, place) as (floor, shm, client):
            rows += append_rows(floor, shm, client, rounds, policy)
            if policy == "off":
                rows += read_rows(floor, shm, client, rounds)
                used = memory(shm, client)
    return rows, used


HEADERS = (
    ("operation, us a record", "AOF", "C", "shareddata", "redis-py", "shareddata x C", "redis-py x C", "wanted"),
    ("memory in the server", "bytes a record", "of raw XADD"),
)
NOTE = "x C: C's time divided by the contender's in the same round: 1 is as fast as C; median (least..greatest)."


def markdown(tables: tuple[list[list[str]], ...], executable: str) -> str:
    """Return both tables in Markdown, with what they depend on."""
    lines = []
    for header, rows in zip(HEADERS, tables):
        lines += [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)] + [""]
    about = environment(executable) | {"server": f"{Path(executable).name}, unix socket, on the client's core"}
    return "\n".join([*lines, f"- {NOTE}", *[f"- {name}: {value}" for name, value in about.items()], ""])
