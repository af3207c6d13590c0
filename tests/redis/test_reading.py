"""Reading: what is answered from memory, and that every kind of change is seen."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis

from records import HEAD, PAIR, PLAIN, calls
from shareddata import DataDict, DecodeError, ServerRefused, SharedMemory, UnknownData

AT_ONCE = 0.2  # seconds within which a change must be seen: a push that is under way, not a time-out that runs out


@pytest.fixture
def dd(shm: SharedMemory) -> Iterator[DataDict]:
    shm.init({**PAIR, **PLAIN})
    with DataDict("reader", shm) as dd:
        dd.set_datas_to_read(["LEFT", "RIGHT"])
        yield dd


def fill(client: redis.Redis) -> None:
    for name in ("LEFT", "RIGHT"):
        client.hset(name, mapping={"ts": "1.5", "sender": "redis-cli", "number": "1", "text": "blå"})


def test_a_group_that_nobody_changed_costs_no_round_trip(dd: DataDict, client: redis.Redis) -> None:
    fill(client)
    first = dd.next()
    before = calls(client, "exec")
    deadline = time.monotonic() + 0.3
    reads = 0
    while time.monotonic() < deadline:
        assert dd.next() == first
        reads += 1
    assert reads > 1000
    assert calls(client, "exec") - before <= 1


def test_the_server_is_asked_each_second_all_the_same(dd: DataDict, client: redis.Redis) -> None:
    fill(client)
    dd.next()
    before = calls(client, "exec")
    deadline = time.monotonic() + 1.3
    while time.monotonic() < deadline:
        dd.next()
        time.sleep(0.01)  # the reader's rate
    assert calls(client, "exec") - before in (1, 2)


def test_fresh_asks_always(dd: DataDict, client: redis.Redis) -> None:
    fill(client)
    dd.next()
    before = calls(client, "exec")
    for _ in range(20):
        dd.read(fresh=True)
    assert calls(client, "exec") - before == 20


def other(c: redis.Redis) -> str:
    """Make a copy of LEFT with another number, and return its key."""
    c.hset("X", mapping=c.hgetall("LEFT") | {b"number": b"2"})
    return "X"


FUNCTION = """#!lua name=t
redis.register_function('f', function(keys) return redis.call('HSET', keys[1], 'number', '2') end)
"""
CHANGES: dict[str, Callable[[redis.Redis], Any]] = {
    "hset": lambda c: c.hset("LEFT", "number", "2"),
    "hset of the last": lambda c: c.hset("RIGHT", "number", "2"),
    "hincrby": lambda c: c.hincrby("LEFT", "number", 1),
    "in a transaction": lambda c: c.pipeline(transaction=True).set("x", 1).hset("RIGHT", "number", "2").execute(),
    "del": lambda c: c.delete("LEFT"),
    "unlink": lambda c: c.unlink("RIGHT"),
    "expired": lambda c: (c.pexpire("RIGHT", 1), time.sleep(0.01), c.exists("RIGHT")),
    "expires in the past": lambda c: c.pexpireat("LEFT", 1),
    "flushall": lambda c: c.flushall(),
    "flushdb": lambda c: c.flushdb(),
    "renamed away": lambda c: c.rename("LEFT", "ELSEWHERE"),
    "renamed onto": lambda c: c.rename(other(c), "LEFT"),
    "copied onto": lambda c: c.copy(other(c), "LEFT", None, True),
    "restored": lambda c: c.restore("LEFT", 0, c.dump(other(c)), replace=True),
    "moved away": lambda c: c.move("LEFT", 1),
    "by a script": lambda c: c.eval("return redis.call('HSET', KEYS[1], 'number', '2')", 1, "LEFT"),
    "by a function": lambda c: (c.function_load(FUNCTION, True), c.fcall("f", 1, "LEFT")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_change_is_seen_at_once(
    dd: DataDict, client: redis.Redis, eventually: Callable[..., object], change: str
) -> None:
    fill(client)
    before = dd.next()
    assert dd.next() == before
    CHANGES[change](client)
    eventually(lambda: dd.next() != before, AT_ONCE, "the change to be seen")


def test_databases_that_change_places_are_seen_within_a_second(
    dd: DataDict, client: redis.Redis, eventually: Callable[..., object]
) -> None:
    fill(client)
    before = dd.next()
    client.execute_command("SWAPDB", 0, 1)
    eventually(lambda: dd.next() != before, 1.5, "the change to be seen")


def test_a_new_initialisation_is_seen(dd: DataDict, client: redis.Redis, eventually: Callable[..., object]) -> None:
    fill(client)
    assert dd.next()[0].number == 1
    dd.shm.init(PAIR)
    eventually(lambda: dd.next() == [None, None], AT_ONCE, "the blank records")


def test_an_expired_record_is_none_within_a_second(
    dd: DataDict, client: redis.Redis, eventually: Callable[..., object]
) -> None:
    """Nobody touches the expired record: the server says so when it finds it, the memory ends after a second."""
    (alone,) = dd.set_datas_to_write(["ALONE"])
    reader = DataDict("other", dd.shm)
    reader.set_datas_to_read(["ALONE"])
    for _ in range(3):
        alone.set(1, expire=0.05)
        dd.flush()
        assert reader.read(fresh=True)[0].number == 1
        expired = time.monotonic() + 0.05
        eventually(lambda: reader.next() == [None], 2, "the end of the record", interval=0.001)
        assert time.monotonic() - expired < 1.1
    reader.close()


def test_a_program_reads_what_it_has_flushed(dd: DataDict, full: bool) -> None:
    left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
    for number in range(20_000 if full else 1_000):
        left.set(number, "")
        if number % 3:
            right.set(number, "")
        dd.flush()
        one, two = dd.next()
        assert one.number == number
        assert not number % 3 or two.number == number


def test_a_program_reads_what_it_has_flushed_alone_without_history(dd: DataDict) -> None:
    (alone,) = dd.set_datas_to_write(["ALONE"])
    dd.set_datas_to_read(["ALONE"])
    for number in range(500):
        alone.set(number)
        dd.flush()
        assert dd.next()[-1].number == number


def test_another_datadict_of_the_program_reads_it_at_once(dd: DataDict, eventually: Callable[..., object]) -> None:
    with DataDict("writer", dd.shm) as writer:
        (left,) = writer.set_datas_to_write(["LEFT"])
        dd.next()
        for number in range(300):
            left.set(number, "")
            writer.flush()
            seen = partial(lambda expected: dd.next()[0].number == expected, number)
            eventually(seen, AT_ONCE, "the value that was flushed", interval=0.0)


def test_what_a_program_does_with_a_trame_stays_in_it(shm: SharedMemory) -> None:
    shm.init({"R": [*HEAD, ["list", []], ["object", {}], ["any", None]]})
    with DataDict("program", shm) as dd:
        (data,) = dd.set_datas_to_write(["R"])
        data.set([1], {"a": [1]}, [[1]])
        dd.flush()
        dd.set_datas_to_read(["R"])
        (trame,) = dd.next()
        (again,) = dd.next()
        again.list.append(2)
        again.object["a"].append(2)
        again.any[0].append(2)
        assert dd.next() == [trame]
        assert trame[2:] == ([1], {"a": [1]}, [[1]])


def test_the_same_record_twice_and_groups_that_grow(dd: DataDict, client: redis.Redis) -> None:
    fill(client)
    dd.set_datas_to_read(["LEFT"])
    dd.set_datas_to_read([])
    left, right, again = dd.next()
    assert left == again and left._fields == ("ts", "sender", "number", "text")
    assert left == (1.5, "redis-cli", 1, "blå")
    assert isinstance(right, tuple)


def test_the_three_ways_to_read(dd: DataDict, client: redis.Redis) -> None:
    fill(client)
    expected = dd.read()
    assert isinstance(expected, list)
    assert next(dd) == dd.next() == expected
    for left, right in dd:
        assert [left, right] == expected
        break


def test_no_group(shm: SharedMemory) -> None:
    shm.init(PAIR)
    with DataDict("reader", shm) as dd:
        with pytest.raises(UnknownData, match="set_datas_to_read"):
            dd.next()
        with pytest.raises(UnknownData, match="did you mean LEFT"):
            dd.set_datas_to_read(["RIGHT", "LEFTT"])
        with pytest.raises(UnknownData, match="set_datas_to_read"):
            dd.next()


def test_nothing_is_described(shm: SharedMemory) -> None:
    with DataDict("reader", shm) as dd, pytest.raises(UnknownData, match="run `shareddata init FILE...`"):
        dd.set_datas_to_read(["LEFT"])


def test_never_written(shm: SharedMemory) -> None:
    """Defaults, but None where the sender is described as empty."""
    shm.init({"FULL": [["ts", 0], ["sender", "blip"], ["x", 1.5]], "EMPTY": [*HEAD, ["x", 1.5]]})
    with DataDict("reader", shm) as dd:
        dd.set_datas_to_read(["FULL", "EMPTY"])
        assert dd.next() == [(0.0, "blip", 1.5), None]


RUBBISH = {"number": "1.5", "ts": "yesterday", "text": b"\xff"}


@pytest.mark.parametrize("field", RUBBISH)
def test_rubbish_in_a_record_is_named(dd: DataDict, client: redis.Redis, field: str) -> None:
    fill(client)
    client.hset("RIGHT", field, RUBBISH[field])
    for _ in range(3):
        with pytest.raises(DecodeError, match=f"record RIGHT, field '{field}'.*redis-cli hgetall"):
            dd.next()
    fill(client)
    assert dd.next()[1].number == 1


def test_a_field_that_somebody_deleted_is_named(dd: DataDict, client: redis.Redis) -> None:
    fill(client)
    client.hdel("LEFT", "sender")
    with pytest.raises(DecodeError, match="record LEFT, field 'sender'"):
        dd.next()


def test_a_record_of_another_type_is_refused(dd: DataDict, client: redis.Redis) -> None:
    fill(client)
    dd.next()
    client.set("LEFT", "text")
    for _ in range(2):
        with pytest.raises(ServerRefused, match="record LEFT.*WRONGTYPE"):
            dd.read(fresh=True)
    client.delete("LEFT")
    assert dd.next()[0] is None


def test_fields_of_others_are_left_out(dd: DataDict, client: redis.Redis) -> None:
    fill(client)
    client.hset("LEFT", mapping={"colour": "green", "ts2": "1"})
    assert dd.next()[0] == (1.5, "redis-cli", 1, "blå")
