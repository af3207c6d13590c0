"""Following a record's history: every update, in order, and an exact count of what was missed."""

import time
from collections.abc import Callable, Iterator

import pytest
import redis

from programs import Program
from records import HEAD
from shareddata import Data, DataDict, DecodeError, DescriptionError, ServerRefused, SharedMemory

RECORDS = {
    "LONG": {"history": 200_000, "fields": [*HEAD, ["number", 0]]},
    "SHORT": {"history": 10, "fields": [*HEAD, ["number", 0]]},
    "TIMED": {"history": "1s", "fields": [*HEAD, ["number", 0]]},
    "NONE": {"history": 0, "fields": [*HEAD, ["number", 0]]},
}
OVER = 0.1  # seconds of silence after which everything that was written must have come


@pytest.fixture
def dd(shm: SharedMemory) -> Iterator[DataDict]:
    shm.init(RECORDS)
    with DataDict("writer", shm) as dd:
        yield dd


def write(dd: DataDict, data: Data, numbers: range) -> None:
    for number in numbers:
        data.set(number)
        dd.flush()


WRITER = """
    url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with SharedMemory(url=url) as shm, DataDict("writer", shm) as dd:
        data, = dd.set_datas_to_write([name])
        sys.stdin.readline()
        start = time.monotonic()
        for number in range(count):
            data.set(number)
            dd.flush()
        say(count / (time.monotonic() - start))
"""


@pytest.mark.timeout(120)
def test_nothing_is_lost_at_full_speed(dd: DataDict, program: Callable[..., Program], full: bool) -> None:
    count = 150_000 if full else 5_000
    writer = program(WRITER, dd.shm.url, "LONG", count)
    follower = dd.follow_data("LONG", timeout=10)
    writer.tell("go")
    for expected in range(count):
        assert next(follower).number == expected
    assert (follower.missed, follower.repeated) == (0, 0)
    rate = float(writer.finish()[-1])
    assert rate > 1000


@pytest.mark.parametrize("every", [1, 50, 1000])
def test_what_a_slow_follower_missed_is_counted_exactly(
    dd: DataDict, program: Callable[..., Program], full: bool, every: int
) -> None:
    """A history of 10 under a fast writer; the follower sleeps now and then. Order is kept, the sum is exact."""
    count = 50_000 if full else 3_000
    writer = program(WRITER, dd.shm.url, "SHORT", count)
    follower = dd.follow_data("SHORT", timeout=10)
    writer.tell("go")
    got, last = 0, -1
    while last < count - 1:
        number = next(follower).number
        assert number > last
        got, last = got + 1, number
        if got % every == 0:
            time.sleep(0.01 if every > 1 else 0.0005)  # what a slow program does with the values
    follower_ends(follower)
    assert got + follower.missed == count
    writer.finish()


def follower_ends(follower: object) -> None:
    """Let it look once more, so that what was trimmed behind its back is counted."""
    follower._timeout = 0.01  # type: ignore[attr-defined]
    assert list(follower) == []  # type: ignore[call-overload]


def test_a_stopped_follower_counts_what_was_trimmed(dd: DataDict, client: redis.Redis) -> None:
    (data,) = dd.set_datas_to_write(["SHORT"])
    follower = dd.follow_data("SHORT", timeout=OVER)
    for rounds in range(3):
        write(dd, data, range(1000 * rounds, 1000 * (rounds + 1)))
        kept = client.xlen("SHORT:history")
        assert 10 <= kept < 300
        assert [trame.number for trame in follower] == list(range(1000 * (rounds + 1) - kept, 1000 * (rounds + 1)))
        assert follower.missed == (rounds + 1) * 1000 - sum_of_kept(follower, kept, rounds)


def sum_of_kept(follower: object, kept: int, rounds: int) -> int:
    """Add up what a follower has got over several rounds."""
    total = getattr(follower, "test_total", 0) + kept
    follower.test_total = total  # type: ignore[attr-defined]
    return total


def test_trimmed_by_others(dd: DataDict, client: redis.Redis) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    follower = dd.follow_data("LONG", timeout=OVER)
    write(dd, data, range(3000))
    client.xtrim("LONG:history", maxlen=7, approximate=False)
    assert [trame.number for trame in follower] == list(range(2993, 3000))
    assert follower.missed == 2993
    write(dd, data, range(3000, 6000))
    client.xtrim("LONG:history", maxlen=1500, approximate=False)
    got = [next(follower).number for _ in range(10)]
    client.xtrim("LONG:history", maxlen=3, approximate=False)
    got += [trame.number for trame in follower]
    assert got == sorted(set(got)) and got[-3:] == [5997, 5998, 5999]
    assert len(got) + follower.missed == 6000 - 7
    client.xtrim("LONG:history", maxlen=0, approximate=False)
    write(dd, data, range(6000, 6002))
    assert [trame.number for trame in follower] == [6000, 6001]
    assert len(got) + follower.missed == 6000 - 7


def test_deleted_entries_count_as_missed(dd: DataDict, client: redis.Redis) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    follower = dd.follow_data("LONG", timeout=OVER)
    write(dd, data, range(10))
    ids = [entry for entry, _ in client.xrange("LONG:history")]
    client.xdel("LONG:history", *ids[3:6])
    assert [trame.number for trame in follower] == [0, 1, 2, 6, 7, 8, 9]
    assert follower.missed == 3


@pytest.mark.parametrize("read_before", [True, False])
def test_a_history_that_is_deleted_begins_anew(dd: DataDict, client: redis.Redis, read_before: bool) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    follower = dd.follow_data("LONG", timeout=OVER)
    write(dd, data, range(10))
    if read_before:
        assert len(list(follower)) == 10
    client.delete("LONG:history")
    if read_before:
        assert list(follower) == []
    write(dd, data, range(10, 15))
    assert [trame.number for trame in follower] == list(range(10, 15))
    client.flushall()
    write(dd, data, range(15, 18))
    assert [trame.number for trame in follower] == list(range(15, 18))


def test_a_history_that_lost_its_end_is_not_told_again(dd: DataDict, client: redis.Redis) -> None:
    """As after a power cut: what the follower has had does not come twice."""
    (data,) = dd.set_datas_to_write(["LONG"])
    follower = dd.follow_data("LONG", timeout=OVER)
    write(dd, data, range(3))
    older = client.dump("LONG:history")
    write(dd, data, range(3, 6))
    assert [trame.number for trame in follower] == list(range(6))
    client.restore("LONG:history", 0, older, replace=True)
    write(dd, data, range(6, 9))
    assert [trame.number for trame in follower] == [6, 7, 8]
    assert follower.missed == 0


def milliseconds_later(client: redis.Redis) -> float:
    """Wait until the server gives ids with a later time than now, and return its time."""

    def now() -> float:
        seconds, microseconds = client.time()
        return float(seconds + microseconds / 1e6)

    end = now() + 0.003
    while (later := now()) < end:
        pass
    return later


def test_where_to_begin(dd: DataDict, client: redis.Redis) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    write(dd, data, range(5))
    middle = milliseconds_later(client)
    milliseconds_later(client)
    write(dd, data, range(5, 8))
    ids = [entry.decode() for entry, _ in client.xrange("LONG:history")]
    for since, expected in [
        (None, []), (0, range(8)), (0.0, range(8)), (middle, range(5, 8)), (1.0, range(8)), (time.time() + 3600, []),
        (ids[2], range(3, 8)), (ids[-1], []), ("0-0", range(8)), (ids[2].partition("-")[0], None),
    ]:
        with dd.follow_data("LONG", since, timeout=0.05) as follower:
            got = [trame.number for trame in follower]
            if expected is not None:
                assert got == list(expected), since
            assert follower.missed == 0
    with dd.follow_data("LONG", timeout=OVER) as follower:
        write(dd, data, range(8, 10))
        assert [trame.number for trame in follower] == [8, 9]
        resumed = follower.id
    write(dd, data, range(10, 12))
    with dd.follow_data("LONG", resumed, timeout=0.05) as follower:
        assert [trame.number for trame in follower] == [10, 11]


def test_a_follower_that_ends_within_a_page_is_gone_on_behind_it(dd: DataDict) -> None:
    """What was read and not yet returned is not lost for whoever goes on after `id`."""
    (data,) = dd.set_datas_to_write(["LONG"])
    write(dd, data, range(10))
    got: list[int] = []
    resumed: str | int = 0
    while len(got) < 10:
        with dd.follow_data("LONG", resumed, timeout=0.05) as follower:
            got += [next(follower).number for _ in range(3 if len(got) < 9 else 1)]
            resumed = follower.id
    assert got == list(range(10))


def test_more_entries_than_a_page(dd: DataDict, client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(3500):
            pipe.xadd("LONG:history", {"ts": "1.0", "sender": "w", "number": number}, id=f"{number + 1}-0")
        pipe.execute()
    for since, expected in [(0, range(3500)), (2.6, range(2599, 3500)), ("3000-0", range(3000, 3500))]:
        with dd.follow_data("LONG", since, timeout=0.05) as follower:
            assert [trame.number for trame in follower] == list(expected)
            assert follower.missed == 0
    with dd.follow_data("LONG", 1.5, timeout=0.05) as follower:
        client.xtrim("LONG:history", maxlen=100, approximate=False)
        assert [trame.number for trame in follower] == list(range(3400, 3500))
        assert follower.missed == 3400 - 1499


def test_a_history_that_was_never_written(dd: DataDict) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    for since in (None, 0, time.time(), "0-0"):
        with dd.follow_data("LONG", since, timeout=0.01) as follower:
            assert list(follower) == []
            follower._timeout = 2
            write(dd, data, range(1))
            assert next(follower).number == 0
            dd.shm._connection.call("DEL", "LONG:history")


def test_a_history_bounded_by_time(dd: DataDict, client: redis.Redis, eventually: Callable[..., object]) -> None:
    (data,) = dd.set_datas_to_write(["TIMED"])
    follower = dd.follow_data("TIMED", timeout=OVER)
    write(dd, data, range(500))
    assert client.xlen("TIMED:history") == 500
    assert len(list(follower)) == 500

    def trimmed() -> bool:
        write(dd, data, range(1))
        return bool(client.xlen("TIMED:history") < 400)

    eventually(trimmed, 4, "entries older than a second to be trimmed", interval=0.02)
    (_, oldest), (_, newest) = client.xrange("TIMED:history", count=1)[0], client.xrevrange("TIMED:history", count=1)[0]
    assert float(newest[b"ts"]) - float(oldest[b"ts"]) < 3


@pytest.mark.parametrize("since", ["1h", "", "-", "2026-07-20", "0-0-0"])
def test_a_text_that_is_no_place(dd: DataDict, since: str) -> None:
    with pytest.raises(ValueError, match=f"since='{since}': expected seconds since 1970, or an entry's id like"):
        dd.follow_data("LONG", since=since)


def test_a_record_without_history(dd: DataDict) -> None:
    with pytest.raises(ValueError, match="NONE.*history.*listen_to_datas"):
        dd.follow_data("NONE")


def test_a_history_of_another_type_leaves_no_socket(dd: DataDict, client: redis.Redis) -> None:
    client.set("LONG:history", "text")
    with pytest.raises(ServerRefused, match="WRONGTYPE"):
        dd.follow_data("LONG")


@pytest.mark.parametrize("entry", [{"foo": "bar"}, {"a": "1", "b": "2", "c": "3"},
                                   {"ts": "1.0", "sender": "x", "number": "no"},
                                   {"ts": "noon", "sender": "x", "number": "1"}])
def test_rubbish_in_a_history_is_named_and_passed(dd: DataDict, client: redis.Redis, entry: dict[str, str]) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    follower = dd.follow_data("LONG", timeout=OVER)
    write(dd, data, range(2))
    client.xadd("LONG:history", entry)
    write(dd, data, range(2, 4))
    assert [next(follower).number for _ in range(2)] == [0, 1]
    with pytest.raises(DecodeError, match="LONG"):
        next(follower)
    assert [trame.number for trame in follower] == [2, 3]


def test_a_repeated_entry_is_dropped_and_counted(dd: DataDict, client: redis.Redis) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    follower = dd.follow_data("LONG", timeout=OVER)
    write(dd, data, range(3))
    entries = [entry for _, entry in client.xrange("LONG:history")]
    client.xadd("LONG:history", entries[-1])
    write(dd, data, range(3, 5))
    assert [trame.number for trame in follower] == [0, 1, 2, 3, 4]
    assert (follower.repeated, follower.missed) == (1, 0)


def test_a_repeated_entry_is_known_behind_others_of_its_sender(dd: DataDict, client: redis.Redis) -> None:
    """Two programs of one name: between an entry and its repetition may be the other's."""
    (data,) = dd.set_datas_to_write(["LONG"])
    follower = dd.follow_data("LONG", timeout=OVER)
    write(dd, data, range(3))
    client.xadd("LONG:history", client.xrange("LONG:history")[0][1])
    assert [trame.number for trame in follower] == [0, 1, 2]
    assert follower.repeated == 1


def test_the_same_values_at_another_time_are_no_repetition(dd: DataDict) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    follower = dd.follow_data("LONG", timeout=OVER)
    for ts in (1.0, 2.0, 3.0):
        data.set(5, ts=ts)
        dd.flush()
    assert [trame.ts for trame in follower] == [1.0, 2.0, 3.0]
    assert follower.repeated == 0


def test_a_compatible_description_under_a_follower(dd: DataDict) -> None:
    (data,) = dd.set_datas_to_write(["LONG"])
    follower = dd.follow_data("LONG", timeout=OVER)
    write(dd, data, range(1))
    dd.shm.init({"LONG": [*HEAD, ["more", 7.5], ["number", 0, {"unit": "V"}]]})
    write(dd, data, range(1, 2))
    assert [trame.number for trame in follower] == [0, 1]
    with DataDict("newer", dd.shm) as newer, newer.follow_data("LONG", 0, timeout=0.01) as follower:
        assert [(trame.more, trame.number) for trame in follower] == [(7.5, 0), (7.5, 1)]


@pytest.mark.parametrize("fields", [[["other", 0]], [["number", ""]]])
def test_an_incompatible_description_under_a_follower(dd: DataDict, fields: list[object]) -> None:
    follower = dd.follow_data("LONG", timeout=OVER)
    dd.shm.init({"LONG": [*HEAD, *fields]})
    with DataDict("newer", dd.shm) as newer:
        (data,) = newer.set_datas_to_write(["LONG"])
        data.set(fields[0][1])  # type: ignore[index]
        newer.flush()
        with pytest.raises(DescriptionError, match="LONG.*'number'"):
            next(follower)


def test_a_short_time_out(shm: SharedMemory) -> None:
    """Waiting in the server is shorter than the time-out: the connection is not given up."""
    shm.init(RECORDS)
    with SharedMemory(url=shm.url, timeout=0.3) as hasty, DataDict("hasty", hasty) as dd:
        follower = dd.follow_data("LONG", timeout=1.5)
        connection = follower._connection._sock
        assert list(follower) == []
        assert follower._connection._sock is connection


def test_several_followers_and_writers(dd: DataDict) -> None:
    with DataDict("second", dd.shm) as second:
        one, two = dd.set_datas_to_write(["LONG"]) + second.set_datas_to_write(["LONG"])
        followers = [dd.follow_data("LONG", timeout=OVER), second.follow_data("LONG", timeout=OVER)]
        for number in range(50):
            write(dd, one, range(number, number + 1))
            write(second, two, range(number, number + 1))
        for follower in followers:
            got = [(trame.sender, trame.number) for trame in follower]
            assert got == [(sender, number) for number in range(50) for sender in ("writer", "second")]
