"""Flushing: one transaction, nothing forgotten, and what stands in Redis afterwards."""

import time
from collections.abc import Callable, Iterator

import pytest
import redis

from records import HEAD, PAIR, PLAIN, calls
from shareddata import DataDict, FieldError, ServerRefused, SharedMemory, UnknownData


@pytest.fixture
def dd(shm: SharedMemory) -> Iterator[DataDict]:
    shm.init({**PAIR, **PLAIN})
    with DataDict("writer", shm) as dd:
        yield dd


def test_flush_tells_how_many_records_it_wrote(dd: DataDict, client: redis.Redis) -> None:
    left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
    assert dd.flush() == 0
    left.set(1, "a")
    left.set(2, "b")
    assert dd.flush() == 1
    assert dd.flush() == 0
    left.set(3, "c")
    right.set(4, "d")
    assert dd.write() == 2
    assert client.hget("LEFT", "number") == b"3"
    assert [entry[b"number"] for _, entry in client.xrange("LEFT:history")] == [b"2", b"3"]


def test_hash_and_history_hold_the_same(dd: DataDict, client: redis.Redis) -> None:
    (left,) = dd.set_datas_to_write(["LEFT"])
    left.set(-5, "tab\tnew\nline %s {} ÿ", ts=12.25)
    dd.flush()
    ((_, entry),) = client.xrange("LEFT:history")
    assert entry == client.hgetall("LEFT")
    assert entry == {b"ts": b"12.25", b"sender": b"writer", b"number": b"-5",
                     b"text": "tab\tnew\nline %s {} ÿ".encode()}


def test_one_record_without_history_is_one_command(dd: DataDict, client: redis.Redis) -> None:
    (alone,) = dd.set_datas_to_write(["ALONE"])
    alone.set(1)
    dd.flush()  # the first one says that the record does not expire
    before = calls(client, "multi"), calls(client, "hset")
    alone.set(2)
    dd.flush()
    assert (calls(client, "multi"), calls(client, "hset")) == (before[0], before[1] + 1)
    assert not client.exists("ALONE:history")


def test_one_time_for_all(dd: DataDict) -> None:
    left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
    dd.set_datas_to_read(["LEFT", "RIGHT"])
    left.set(1, "", ts=1.0)
    right.set(1, "")
    dd.flush(ts=99.5)
    assert [trame.ts for trame in dd.next()] == [99.5, 99.5]
    left.set(2, "")
    with pytest.raises(FieldError, match="LEFT, field 'ts'"):
        dd.flush(ts="noon")  # type: ignore[arg-type]
    dd.write(100)
    assert dd.next()[0].ts == 100.0


def test_the_time_and_the_sender(dd: DataDict) -> None:
    (left,) = dd.set_datas_to_write(["LEFT"])
    dd.set_datas_to_read(["LEFT"])

    def flushed() -> tuple[float, str]:
        dd.flush()
        (trame,) = dd.next()
        return trame.ts, trame.sender

    before = time.time()
    left.set(1, "")
    ts, sender = flushed()
    assert before <= ts <= time.time() and sender == "writer"
    left.set(1, "", ts=5, sender="somebody")
    assert flushed() == (5.0, "somebody")
    left.ts, left.sender = 7.0, "assigned"
    left.set(1, "")
    assert flushed() == (7.0, "assigned")
    left.set(1, "")
    ts, sender = flushed()
    assert ts >= before and sender == "assigned"


def test_fields_that_are_not_named_keep_their_value(dd: DataDict, client: redis.Redis) -> None:
    """They start from the record's value in Redis."""
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "41", "text": "kept"})
    (left,) = dd.set_datas_to_write(["LEFT"])
    left.set(number=42)
    dd.flush()
    assert client.hmget("LEFT", "number", "text", "sender") == [b"42", b"kept", b"writer"]
    left.set(43, text="new")
    dd.flush()
    left.set(number=44)
    dd.flush()
    assert client.hmget("LEFT", "number", "text") == [b"44", b"new"]


def test_what_does_not_fit_stages_nothing(dd: DataDict) -> None:
    (left,) = dd.set_datas_to_write(["LEFT"])
    for values, named in [((1,), {}), ((1, "a", 2), {}), ((True, "a"), {}), ((1, 2), {}), ((1, "a"), {"number": 2}),
                          ((1, "a"), {"colour": 1}), ((1, "a"), {"ts": "now"}), ((1, "a"), {"sender": ""}),
                          ((1, "a"), {"expire": 0}), ((1, "a"), {"expire": -1}), ((1, "a"), {"expire": True}),
                          ((1, "a"), {"sender": 5}), ((1.0, "a"), {}), ((1, "\ud800"), {}), ((), {})]:
        with pytest.raises(FieldError, match="record LEFT"):
            left.set(*values, **named)
    assert dd.flush() == 0


def test_a_record_expires_unless_it_is_flushed_again(
    dd: DataDict, client: redis.Redis, eventually: Callable[..., object]
) -> None:
    alone, left = dd.set_datas_to_write(["ALONE", "LEFT"])
    dd.set_datas_to_read(["ALONE", "LEFT"])
    alone.set(1, expire=0.03)
    left.set(1, "", expire=100.5)
    dd.flush()
    assert 100_000 < client.pttl("LEFT") <= 100_500
    eventually(lambda: dd.next()[0] is None, 2, "the record to expire")
    alone.set(2)
    left.set(2, "")
    dd.flush()
    assert client.pttl("LEFT") == client.pttl("ALONE") == -1
    assert [trame.number for trame in dd.next()] == [2, 2]


def test_a_program_that_starts_again_takes_the_time_to_live_off(dd: DataDict, client: redis.Redis) -> None:
    client.expire("ALONE", 100)
    (alone,) = dd.set_datas_to_write(["ALONE"])
    alone.set(2)
    dd.flush()
    assert client.ttl("ALONE") == -1


@pytest.mark.parametrize("wrong", ["LEFT", "RIGHT", "RIGHT:history"])
def test_a_key_of_another_type_is_refused_and_what_was_written_is_listed(
    dd: DataDict, client: redis.Redis, wrong: str
) -> None:
    left, right, alone = dd.set_datas_to_write(["LEFT", "RIGHT", "ALONE"])
    client.delete(wrong)
    client.set(wrong, "text")
    left.set(1, "")
    right.set(1, "")
    alone.set(1)
    where = wrong.partition(":")[0]
    with pytest.raises(ServerRefused, match=f"{where}.*WRONGTYPE.*done all the same.*ALONE") as refused:
        dd.flush()
    assert not refused.value.outcome_unknown
    assert client.hget("ALONE", "number") == b"1"
    client.delete(wrong)
    assert dd.flush() == 3, "nothing is forgotten"
    assert client.hget("LEFT", "number") == client.hget("RIGHT", "number") == b"1"


def test_one_record_of_another_type(dd: DataDict, client: redis.Redis) -> None:
    (alone,) = dd.set_datas_to_write(["ALONE"])
    alone.set(1)
    dd.flush()
    client.delete("ALONE")
    client.set("ALONE", "text")
    alone.set(2)
    with pytest.raises(ServerRefused, match="WRONGTYPE.*nothing was written"):
        dd.flush()
    assert client.get("ALONE") == b"text"


def test_unknown_records(dd: DataDict) -> None:
    with pytest.raises(UnknownData, match="did you mean LEFT"):
        dd.set_datas_to_write(["LEF"])
    assert dd.set_datas_to_write([]) == []
    with pytest.raises(TypeError, match="expected a list of names"):
        dd.set_datas_to_write("LEFT")


def test_declared_twice_is_the_same(dd: DataDict) -> None:
    (left,) = dd.set_datas_to_write(["LEFT"])
    right, again = dd.set_datas_to_write(["RIGHT", "LEFT"])
    assert again is left and right.name == "RIGHT"


def test_deleted_under_a_running_writer(dd: DataDict, client: redis.Redis) -> None:
    """It writes whole records: the next flush brings the record back."""
    left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
    dd.set_datas_to_read(["LEFT", "RIGHT"])
    for away in (lambda: client.delete("LEFT", "LEFT:history"), lambda: client.rename("LEFT", "X"),
                 lambda: client.pexpireat("LEFT", 1), client.flushall):
        left.set(5, "five")
        right.set(5, "five")
        dd.flush()
        assert dd.next()[0].number == 5
        away()
        left.set(6, "six")
        assert dd.flush() == 1
        assert dd.next()[0][2:] == (6, "six")


def test_numbers_read_back_exactly(shm: SharedMemory, client: redis.Redis) -> None:
    shm.init({"R": [*HEAD, ["f", 0.0], ["i", 0], ["b", False]]})
    with DataDict("writer", shm) as dd:
        (data,) = dd.set_datas_to_write(["R"])
        dd.set_datas_to_read(["R"])
        for f, i, b in [(0.1, 2**63, True), (-0.0, -(2**70), False), (5e-324, 0, True),
                        (1.7976931348623157e308, 1, True), (float("inf"), 10**300, True), (1, 2, False), (1, 2, True)]:
            data.set(f, i, b)
            dd.flush()
            (trame,) = dd.read(fresh=True)
            assert repr(trame[2:]) == repr((float(f), i, b))
        assert client.hget("R", "b") == b"true"


def test_limits(shm: SharedMemory) -> None:
    shm.init({"R": [*HEAD, ["u", 0.0, {"unit": "V", "min": 0, "max": 60}],
                    ["set_point", 0.0, {"max": 5, "on_limit": "refuse"}]]})
    with DataDict("writer", shm) as dd:
        (data,) = dd.set_datas_to_write(["R"])
        dd.set_datas_to_read(["R"])
        with pytest.raises(FieldError, match=r"set_point.*5\.5.*<= 5"):
            data.set(99.0, 5.5)
        assert dd.flush() == 0
        data.set(99.0, 5.0)
        dd.flush()
        (trame,) = dd.next()
        assert trame.u == 99.0
        assert shm.describe("R").out_of_limits(trame) == ("u",)
