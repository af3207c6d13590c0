"""Costs grow as the work does, and no faster: commands, bytes, connections and memory, which are the same each time.

The short form of `scripts/scale`, which takes times and large sizes. Each cost is taken at two sizes, ten apart.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from shareddata import DataDict, SharedMemory
from shareddata.tslog import TSLog

SMALL, LARGE = 40, 400
TENFOLD = LARGE / SMALL
FIELDS = [["ts", 0.0], ["sender", ""], *[[f"field_{i}", 0.0] for i in range(8)]]


def described(count: int) -> dict[str, Any]:
    return {f"SCALE__{i:04}": FIELDS for i in range(count)}


class Counters:
    """What the server counts, without what it costs to ask."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._look = self._now()

    def _now(self) -> dict[str, int]:
        info = self._client.info()
        return {
            "commands": info["total_commands_processed"],
            "received": info["total_net_input_bytes"],
            "sent": info["total_net_output_bytes"],
            "memory": info["used_memory"],
            "connections": info["total_connections_received"],
        }

    def since(self) -> dict[str, int]:
        """Return what came since the last look."""
        now = self._now()
        self._look, before = now, self._look
        return {name: now[name] - before[name] for name in now}


@pytest.fixture
def counters(client: redis.Redis) -> Callable[[], Counters]:
    return lambda: Counters(client)


def growth(cost: str, costs: list[dict[str, int]]) -> float:
    """Return how many times as much a cost is at the larger size."""
    small, large = (each[cost] for each in costs)
    return large / small


def test_init_is_one_transaction_however_many(
    shm: SharedMemory, client: redis.Redis, counters: Callable[[], Counters]
) -> None:
    costs = []
    for count in (SMALL, LARGE):
        client.flushall()
        shm.names()
        counted = counters()
        shm.init(described(count))
        costs.append(counted.since())
    assert growth("commands", costs) <= TENFOLD
    assert growth("received", costs) <= TENFOLD * 1.01
    assert growth("memory", costs) <= TENFOLD * 1.25


def test_a_record_takes_the_same_memory_beside_many(shm: SharedMemory, client: redis.Redis) -> None:
    used = []
    for count in (SMALL, LARGE):
        client.flushall()
        shm.init(described(count))
        used.append(client.memory_usage("SCALE__0001", samples=0))
    assert used[0] == used[1]


@pytest.mark.parametrize("what", ["write", "read"])
def test_using_a_record_costs_the_same_beside_many(
    shm: SharedMemory, counters: Callable[[], Counters], what: str
) -> None:
    costs = []
    for count in (SMALL, LARGE):
        shm.init(described(count))
        with DataDict("SCALE", shm) as dd:
            (data,) = dd.set_datas_to_write(["SCALE__0001"])
            dd.set_datas_to_read(["SCALE__0001", "SCALE__0002"])
            dd.next()
            counted = counters()
            for _ in range(100):
                if what == "write":
                    data.set(*[0.5] * 8, ts=1784540000.5)
                    dd.flush()
                else:
                    dd.read(fresh=True)
            costs.append(counted.since())
    assert costs[0]["commands"] == costs[1]["commands"]
    assert costs[0]["received"] == pytest.approx(costs[1]["received"], rel=0.02)
    assert costs[0]["sent"] == pytest.approx(costs[1]["sent"], rel=0.02)


def test_a_program_reads_the_descriptions_that_it_uses(url: str, counters: Callable[[], Counters]) -> None:
    costs = []
    for count in (SMALL, LARGE):
        with SharedMemory(url=url) as shm:
            shm.init(described(count))
        counted = counters()
        with SharedMemory(url=url) as shm, DataDict("SCALE", shm) as dd:
            dd.set_datas_to_write(["SCALE__0001"])
            dd.set_datas_to_read(["SCALE__0002", "SCALE__0003"])
            dd.next()
        costs.append(counted.since())
    assert costs[0]["commands"] == costs[1]["commands"]
    assert costs[0]["sent"] == pytest.approx(costs[1]["sent"], rel=0.02)


def test_a_new_initialisation_costs_a_program_what_it_uses(url: str, counters: Callable[[], Counters]) -> None:
    costs = []
    for count in (SMALL, LARGE):
        with SharedMemory(url=url) as shm, DataDict("SCALE", shm) as dd:
            shm.init(described(count))
            dd.set_datas_to_read(["SCALE__0002", "SCALE__0003"])
            dd.next()
            with SharedMemory(url=url) as other:
                other.init(described(1), keep=True)
            counted = counters()
            dd.next()
            costs.append(counted.since())
    assert costs[0]["commands"] == costs[1]["commands"]
    assert costs[0]["sent"] == pytest.approx(costs[1]["sent"], rel=0.02)


def programs(url: str, count: int, stack: ExitStack) -> list[tuple[Any, DataDict]]:
    """Make as many programs as that: each writes a record and reads two."""
    made = []
    for number in range(count):
        shm = stack.enter_context(SharedMemory(url=url))
        dd = stack.enter_context(DataDict(f"P{number}", shm))
        (data,) = dd.set_datas_to_write([f"SCALE__{number:04}"])
        dd.set_datas_to_read(["SCALE__0000", "SCALE__0001"])
        dd.next()
        made.append((data, dd))
    return made


def test_programs_cost_the_same_each(url: str, client: redis.Redis, counters: Callable[[], Counters]) -> None:
    starts, turns = [], []
    for count in (4, 40):
        with ExitStack() as stack, SharedMemory(url=url) as shm:
            shm.init(described(SMALL))
            counted = counters()
            made = programs(url, count, stack)
            starts.append(counted.since())
            assert starts[-1]["connections"] == 3 * count, "one for descriptions, one to read, one to write"
            for data, dd in made:
                data.set(*[0.5] * 8, ts=1784540000.5)
                dd.flush()
            turns.append(counted.since())
    for cost in ("commands", "received", "sent"):
        assert growth(cost, starts) <= TENFOLD * 1.01
    assert growth("memory", starts) <= TENFOLD * 1.25
    assert growth("commands", turns) <= TENFOLD


@pytest.mark.parametrize("how", ["listen", "follow"])
def test_listeners_cost_the_same_each(url: str, counters: Callable[[], Counters], how: str) -> None:
    costs = []
    for count in (4, 40):
        with SharedMemory(url=url) as shm, DataDict("SCALE", shm) as dd:
            shm.init(described(1))
            (data,) = dd.set_datas_to_write(["SCALE__0000"])
            waiting = [waiting_for(dd, how) for _ in range(count)]
            counted = counters()
            for turn in range(3):
                data.set(*[0.5] * 8, ts=1784540000.5 + turn)
                dd.flush()
                for each in waiting:
                    next(each)
            costs.append(counted.since())
    assert growth("commands", costs) <= TENFOLD
    assert growth("sent", costs) <= TENFOLD * 1.01


def waiting_for(dd: DataDict, how: str) -> Iterator[Any]:
    return iter(dd.listen_to_datas(["SCALE__0000"]) if how == "listen" else dd.follow_data("SCALE__0000"))


def test_a_connection_costs_the_same_beside_many(
    shm: SharedMemory, client: redis.Redis, counters: Callable[[], Counters]
) -> None:
    costs = []
    for count in (10, 100):
        with ExitStack() as stack:
            counted = counters()
            for _ in range(count):
                connection = shm.connect("many")
                stack.callback(connection.close)
                connection.open()
            costs.append(counted.since())
            mine = [line for line in client.client_list() if line["name"] == "many"]
            assert len(mine) == count
            assert max(int(line["tot-mem"]) for line in mine) < 64_000, "bytes in the server, with its buffers"
    assert growth("commands", costs) <= TENFOLD
    assert growth("received", costs) <= TENFOLD * 1.01
    assert growth("memory", costs) <= TENFOLD * 1.25


def test_a_logs_entries_cost_the_same_each(
    shm: SharedMemory, client: redis.Redis, counters: Callable[[], Counters]
) -> None:
    stored, read = [], []
    for count in (5_000, 50_000):
        with TSLog("scale", ["<Qff"], commit_delta=100, max_buckets=1000, recreate=True, shm=shm) as log:
            counted = counters()
            for number in range(count):
                log.store(10**9 + number, 0.5, -0.5)
            log.commit()
            stored.append(counted.since())
            reader, found = log.reader(0), 0
            while rows := len(reader.read_many(1000)):
                found += rows
                reader.commit()
            assert found == count
            read.append(counted.since())
    for cost in ("commands", "received"):
        assert growth(cost, stored) <= TENFOLD * 1.02  # numbers of one more digit
    assert growth("memory", stored) <= TENFOLD * 1.25
    for cost in ("commands", "sent"):
        assert growth(cost, read) <= TENFOLD * 1.02


def test_a_log_whose_reader_keeps_up_does_not_grow(shm: SharedMemory, client: redis.Redis) -> None:
    lengths = []
    with TSLog("day", ["<Qff"], commit_delta=100, bucket_size=512, recreate=True, shm=shm) as log:
        reader = log.reader(0)
        for number in range(20_000):
            log.store(number, 0.5, -0.5)
            if number % 500 == 499:
                while len(reader.read_many(1000)):
                    pass
                reader.commit()
                lengths.append(client.xlen("tslog:day"))
    assert max(lengths) <= 3 * 512, f"entries in the server: {lengths}"


def test_a_history_does_not_grow(shm: SharedMemory, client: redis.Redis) -> None:
    shm.init({"SCALE__0000": {"history": 100, "fields": FIELDS}})
    with DataDict("SCALE", shm) as dd:
        (data,) = dd.set_datas_to_write(["SCALE__0000"])
        follower = dd.follow_data("SCALE__0000", since=0)
        for number in range(3000):
            data.set(*[float(number)] * 8)
            dd.flush()
            assert next(follower).field_0 == number
    assert 100 <= client.xlen("SCALE__0000:history") <= 200
    assert follower.missed == 0
    assert re.search("0 missed", repr(follower))
