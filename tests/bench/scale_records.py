"""Scale: many records in a namespace.

It knows what a namespace with so many records costs: to initialise, to join, to use a few of them. Most of it should
not depend on how many there are beside those that a program uses.
"""

import time
from typing import Any

import redis
from costs import Costs, Stopwatch, in_a_fork, own_memory
from workload import ROWS, SENDER, Where

from shareddata import DataDict, SharedMemory

USED = 8
RECORD = {"fields": [["ts", 0.0], ["sender", ""], *[[f"field_{i}", 0.0] for i in range(8)]]}


def names(count: int) -> list[str]:
    """Return names of records."""
    return [f"SCALE__{i:06}" for i in range(count)]


def join(where: Where, count: int) -> dict[str, float]:
    """Be a program that starts and uses eight records."""
    memory = own_memory()
    with Stopwatch(where.pid) as starting, SharedMemory(url=where.url) as shm, DataDict(SENDER, shm) as dd:
        used = names(count)[-USED:]
        datas = dd.set_datas_to_write(used)
        dd.set_datas_to_read(used)
        dd.next()
    with SharedMemory(url=where.url) as shm, DataDict(SENDER, shm) as dd:
        datas = dd.set_datas_to_write(names(count)[-USED:])
        dd.set_datas_to_read(names(count)[-USED:])
        memory = own_memory() - memory
        with Stopwatch(where.pid) as using:
            for turn in range(2000):
                datas[turn % USED].set(*ROWS[turn % 256])
                dd.flush()
        with Stopwatch(where.pid) as reading:
            for _ in range(2000):
                dd.read(fresh=True)
    return {
        "start": starting.wall * 1e3,
        "start cpu": starting.cpu * 1e3,
        "start server": starting.server * 1e3,
        "memory": memory,
        "write": (using.cpu + using.server) / 2000 * 1e6,
        "read": (reading.cpu + reading.server) / 2000 * 1e6,
    }


def notice(where: Where, count: int) -> dict[str, float]:
    """Be a program that runs while somebody initialises again: it looks at the descriptions."""
    with SharedMemory(url=where.url) as shm, DataDict(SENDER, shm) as dd, redis.Redis.from_url(where.url) as plain:
        dd.set_datas_to_read(names(count)[-USED:])
        dd.next()
        plain.incr("shareddata:epoch")
        time.sleep(0.05)  # the announcement comes
        with Stopwatch(where.pid) as noticing:
            dd.next()
    return {"notice": (noticing.cpu + noticing.server) * 1e3}


def whole(where: Where, count: int) -> dict[str, float]:
    """Be a program that reads all records as one group."""
    with SharedMemory(url=where.url) as shm, DataDict(SENDER, shm) as dd:
        dd.set_datas_to_read(names(count))
        dd.next()
        with Stopwatch(where.pid) as reading:
            dd.read(fresh=True)
    return {"read": (reading.cpu + reading.server) / count * 1e6}


def initialise(where: Where, count: int) -> dict[str, float]:
    """Describe so many records."""
    with SharedMemory(url=where.url) as shm:
        described = dict.fromkeys(names(count), RECORD)
        with Stopwatch(where.pid) as initialising:
            shm.init(described)
    return {"cpu": initialising.cpu * 1e3, "server": initialising.server * 1e3}


def measure_size(costs: Costs, where: Where, plain: "redis.Redis[Any]", count: int) -> None:
    """Take one round of figures with so many records."""

    def note(what: str, figure: float, unit: str, flat: bool = False) -> None:
        costs.add(what, figure, unit, "records in a namespace", count, flat)

    plain.flushall()
    empty = plain.info("memory")["used_memory"]
    done = in_a_fork(initialise, where, count)
    note("init: CPU of the program", done["cpu"], "ms")
    note("init: CPU in the server", done["server"], "ms")
    used = plain.info("memory")["used_memory"] - empty
    note("memory in the server, a record", used / count, "bytes", True)
    done = in_a_fork(join, where, count)
    note("a program that uses eight starts: time", done["start"], "ms", True)
    note("a program that uses eight starts: its CPU", done["start cpu"], "ms", True)
    note("a program that uses eight starts: CPU in the server", done["start server"], "ms", True)
    note("memory in a program that uses eight", done["memory"], "kB", True)
    note("write one: CPU of both", done["write"], "us", True)
    note("read eight: CPU of both", done["read"], "us", True)
    noticing = in_a_fork(notice, where, count)["notice"]
    note("somebody initialises again: CPU of both, for the next read", noticing, "ms", True)
    note("read all as one group, a record: CPU of both", in_a_fork(whole, where, count)["read"], "us", True)


def measure(costs: Costs, where: Where, sizes: tuple[int, ...], rounds: int) -> None:
    """Take the figures of namespaces of these sizes."""
    with redis.Redis.from_url(where.url) as plain:
        for _ in range(rounds):
            for count in sizes:
                measure_size(costs, where, plain, count)
