"""Scale: many programs on a server, many listeners on a record, many connections, and one connection for many readers.

It knows what they cost the server and each of them. A figure *a program* or *an update and listener* should not depend
on how many there are.
"""

import os
import select
import statistics
import time
from contextlib import ExitStack
from typing import Any

import redis
from costs import Costs, Stopwatch, each_in_a_fork, in_a_fork, own_memory
from peers.own import LETTER
from workload import ROWS, SENDER, Where, description, names

from shareddata import DataDict, SharedMemory


def prepare(where: Where, plain: "redis.Redis[Any]") -> None:
    """Make an empty server with 64 records, with and without history."""
    plain.flushall()
    with SharedMemory(url=where.url) as shm:
        shm.init(*[description(LETTER, history) for history in (0, 1)])


# -- programs ---------------------------------------------------------------------------------------------------------

HERTZ, SECONDS = 10.0, 4.0


def program(where: Where, number: int, starts: float, here: int, go: int) -> dict[str, float]:
    """Be one of many programs: start with the others, say so, wait for them; write a record and read two, at 10 Hz."""
    time.sleep(max(0.0, starts - time.monotonic()))
    mine, others = names(LETTER, 0)[number % 64], names(LETTER, 0)[:2]
    with SharedMemory(url=where.url) as shm, DataDict(f"P{number}", shm) as dd:
        (data,) = dd.set_datas_to_write([mine])
        dd.set_datas_to_read(others)
        dd.next()
        ready = time.monotonic() - starts
        os.write(here, b".")
        select.select([go], [], [])
        begin = time.monotonic() + number % 100 / 100 / HERTZ  # not all in one moment
        for turn in range(int(SECONDS * HERTZ)):
            time.sleep(max(0.0, begin + turn / HERTZ - time.monotonic()))
            data.set(*ROWS[turn % 256])
            dd.flush()
            dd.next()
    return {"ready": ready * 1e3}


def measure_programs(costs: Costs, where: Where, plain: "redis.Redis[Any]", count: int) -> None:
    """Let many programs start at once, and when all are there, write and read ten times a second."""
    prepare(where, plain)
    before, starts = plain.info("memory")["used_memory"], time.monotonic() + 0.5 + count / 100
    is_here, here = os.pipe()
    go, says_go = os.pipe()
    seen: dict[str, float] = {}

    def look() -> None:
        for _ in range(count):
            os.read(is_here, 1)
        info = plain.info()
        with Stopwatch(where.pid) as watch:
            os.write(says_go, b".")
            time.sleep(SECONDS + 0.2)
        seen.update(used=info["used_memory"] - before, clients=info["connected_clients"] - 1, server=watch.server)

    answers = each_in_a_fork(program, [(where, number, starts, here, go) for number in range(count)], look)
    for pipe in (is_here, here, go, says_go):
        os.close(pipe)

    def note(what: str, figure: float, unit: str, flat: bool = True) -> None:
        costs.add(what, figure, unit, "connected programs", count, flat)

    note("all start at once: the last one is ready after", max(a["ready"] for a in answers), "ms", False)
    note("memory in the server, a program", seen["used"] / count, "bytes")
    note("connections, a program", seen["clients"] / count, "")
    note("write one and read two: CPU in the server", seen["server"] / (count * HERTZ * SECONDS) * 1e6, "us")


# -- listeners --------------------------------------------------------------------------------------------------------


def listener(where: Where, how: str, count: int) -> dict[str, float]:
    """Hear updates of one record; they come with the time of their writing in field_0."""
    (name,) = names(LETTER, 1, 1)
    heard = []
    with SharedMemory(url=where.url) as shm, DataDict(SENDER, shm) as dd:
        updates: Any = dd.listen_to_datas([name], timeout=10) if how == "listen" else dd.follow_data(name, timeout=10)
        for update in updates:
            trame = update[0] if how == "listen" else update
            if trame.field_1 >= 0:
                heard.append((time.monotonic() - trame.field_0) * 1e6)
            if trame.field_1 == count - 1:
                break
    return {"p50": statistics.median(heard), "heard": len(heard)}


def talk(where: Where, listeners: int, count: int, hertz: float) -> dict[str, float]:
    """Write, when so many listen."""
    with SharedMemory(url=where.url) as shm, DataDict(SENDER, shm) as dd, redis.Redis.from_url(where.url) as plain:
        (data,) = dd.set_datas_to_write(names(LETTER, 1, 1))
        while plain.info("clients")["connected_clients"] < 2 * listeners + 3:  # each has a memory's and its own
            time.sleep(0.05)
        time.sleep(0.3)
        start = time.monotonic()
        with Stopwatch(where.pid) as watch:
            for turn in range(count):
                time.sleep(max(0.0, start + turn / hertz - time.monotonic()))
                data.set(time.monotonic(), float(turn), *ROWS[turn % 256][2:])
                dd.flush()
            time.sleep(0.2)
    return {"server": watch.server}


def listen_or_talk(where: Where, number: int, how: str, listeners: int, count: int, hertz: float) -> dict[str, float]:
    """Be the writer, the first of them, or a listener."""
    return listener(where, how, count) if number else talk(where, listeners, count, hertz)


def measure_listeners(costs: Costs, where: Where, plain: "redis.Redis[Any]", listeners: int) -> None:
    """Let many listen to one record, written twenty times a second."""
    count, hertz = 60, 20.0
    for how, words in (("listen", "newest values"), ("follow", "every update")):
        prepare(where, plain)
        jobs = [(where, number, how, listeners, count, hertz) for number in range(listeners + 1)]
        writer, *heard = each_in_a_fork(listen_or_talk, jobs)

        def note(what: str, figure: float, unit: str, flat: bool, words: str = words) -> None:
            costs.add(f"{words}: {what}", figure, unit, "listeners on one record", listeners, flat)

        note("CPU in the server, an update and listener", writer["server"] / count / listeners * 1e6, "us", True)
        note("from the write, p50 of all", statistics.median(a["p50"] for a in heard), "us", False)
        note("heard by who heard the fewest", min(a["heard"] for a in heard) / count, "of all", True)


# -- connections ------------------------------------------------------------------------------------------------------


def connections(where: Where, count: int) -> dict[str, float]:
    """Open so many connections from one process."""
    with SharedMemory(url=where.url) as shm, redis.Redis.from_url(where.url) as plain, ExitStack() as stack:
        opened = [shm.connect("many") for _ in range(count)]
        opened[0].open()
        info, memory = plain.info(), own_memory()
        with Stopwatch(where.pid) as opening:
            for connection in opened[1:]:
                connection.open()
        after = plain.info()
        for connection in opened:
            stack.callback(connection.close)
        each = count - 1
        return {
            "memory": (own_memory() - memory) / each,
            "server memory": (after["used_memory"] - info["used_memory"]) / each,
            "time": opening.wall / each * 1e6,
            "server": opening.server / each * 1e6,
            "commands": (after["total_commands_processed"] - info["total_commands_processed"] - 1) / each,
        }


def measure_connections(costs: Costs, where: Where, plain: "redis.Redis[Any]", count: int) -> None:
    """Take what a connection costs."""
    titles = {
        "time": ("opening one: time", "us"),
        "server": ("opening one: CPU in the server", "us"),
        "commands": ("opening one: commands", ""),
        "memory": ("memory in the program, each", "kB"),
        "server memory": ("memory in the server, each", "bytes"),
    }
    found = in_a_fork(connections, where, count)
    for name, (what, unit) in titles.items():
        costs.add(what, found[name], unit, "connections of one process", count, True)


# -- one connection for many readers ----------------------------------------------------------------------------------


def readers(where: Where, groups: int, shared: bool, rounds: int) -> dict[str, float]:
    """Read so many groups in turn, each of one record, while the first one's record changes before each turn.

    `shared` lets all groups use the first one's connection: what a shared connection would do, as long as an
    invalidation of one group is one of all of them.
    """
    with SharedMemory(url=where.url) as shm, ExitStack() as stack, redis.Redis.from_url(where.url) as plain:
        views = [stack.enter_context(DataDict(SENDER, shm)) for _ in range(groups)]
        for view, name in zip(views, names(LETTER, 0)):
            view.set_datas_to_read([name])
            if shared:
                view._reader = views[0]._reader
            view.next()
        for _ in range(3):
            for view in views:
                view.next()
        clients = plain.info("clients")["connected_clients"]
        (data,) = views[0].set_datas_to_write(names(LETTER, 0, 1))
        asked = plain.info("stats")["total_commands_processed"]
        with Stopwatch(where.pid) as watch:
            for turn in range(rounds):
                data.set(*ROWS[turn % 256])
                views[0].flush()
                for view in views:
                    view.next()
        asked = plain.info("stats")["total_commands_processed"] - asked - 1
    return {
        "connections": clients,
        "asked": asked / rounds - 1,
        "turn": (watch.cpu + watch.server) / rounds * 1e6,
    }


def measure_sharing(costs: Costs, where: Where, plain: "redis.Redis[Any]", groups: int) -> None:
    """Compare readers with connections of their own with readers that share one."""
    prepare(where, plain)
    for shared, words in ((False, "a connection each"), (True, "one connection for all")):
        found = in_a_fork(readers, where, groups, shared, 300)

        def note(what: str, figure: float, unit: str, flat: bool = False, words: str = words) -> None:
            costs.add(f"{words}: {what}", figure, unit, "groups read in one process, one of them changes", groups, flat)

        note("connections", found["connections"] - 1, "")
        note("reads that ask the server, a turn", found["asked"], "", not shared)
        note("CPU of both, a turn", found["turn"], "us")
