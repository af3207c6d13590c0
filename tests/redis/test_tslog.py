"""Logs on real servers: numbers, commits, cursors, buckets, writers; in one program and in several."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis

from programs import Program
from servers import OwnServer
from shareddata import (
    DecodeError,
    DescriptionError,
    FieldError,
    ServerRefused,
    ServerSetupError,
    ServerTimeout,
    ServerUnreachable,
    SharedMemory,
)
from shareddata.errors import LogFormatError, WriterConflict
from shareddata.tslog import TSLog, TSReader
from waiting import eventually


@pytest.fixture
def make(shm: SharedMemory) -> Callable[..., TSLog]:
    """Open the log `test` of records "Q", or another one."""

    def make(name: str = "test", formats: Any = ("Q",), **options: Any) -> TSLog:
        return TSLog(name, formats, shm=shm, **options)

    return make


def store(log: TSLog, numbers: range) -> None:
    for number in numbers:
        assert log.store(number) == number


def read(reader: TSReader) -> list[int]:
    return [value for (value,) in reader]


# -- storing and reading ----------------------------------------------------------------------------------------------


def test_records_are_readable_when_committed(make: Callable[..., TSLog]) -> None:
    log = make(commit_delta=4)
    reader = log.reader(0)
    assert reader.next() is None
    for number in range(1, 4):
        assert log.store(number * 10) == number
        assert reader.next() is None and reader.next_record() is None
    assert log.store(40) == 4
    assert [reader.next() for _ in range(5)] == [(10,), (20,), (30,), (40,), None]
    assert log.store(50) == 5
    assert log.commit() == log.commit() == 5
    assert list(reader) == [(50,)]
    assert (reader.position, reader.missed, reader.restarts) == (5, 0, 0)


def test_close_commits(make: Callable[..., TSLog], shm: SharedMemory) -> None:
    with make() as log:
        log.store(7)
    with TSLog("test", "Q", shm=shm) as log:
        assert log.commit() == 1
        assert list(log.reader(0)) == [(7,)]
        assert log.store(8) == 2


def test_layout_in_the_server(make: Callable[..., TSLog], client: redis.Redis) -> None:
    with make("a/b", ["Qff", "Qi"], nreaders=2) as log:
        log.store_with_tag(0, 1, 2.0, 3.0)
        log.store_with_tag(1, 1, -1)
        log.store_record(b"raw")
    entries = client.xrange("tslog:a/b")
    assert [number for number, _ in entries] == [b"1-0", b"2-0", b"3-0"]
    assert [list(fields) for _, fields in entries] == [[b"0"], [b"1"], [b"raw"]]
    assert [len(next(iter(fields.values()))) for _, fields in entries] == [16, 12, 3]
    assert {group["name"] for group in client.xinfo_groups("tslog:a/b")} == {b"reader:0", b"reader:1"}
    assert client.get("tslog:a/b:log") == b'{"formats": ["Qff", "Qi"], "record_size": 16, "bucket_size": 1024}'


def test_several_formats(make: Callable[..., TSLog]) -> None:
    with make(formats=["Qff", "Qiii"], commit_delta=1) as log:
        reader = log.reader(0)
        log.store_with_tag(0, 100, 1.0, 2.0)
        log.store_with_tag(1, 100, 1, 2, 3)
        log.store_record(b"")
        assert reader.next() == (0, (100, 1.0, 2.0))
        assert reader.next() == (1, (100, 1, 2, 3))
        for _ in range(2):
            with pytest.raises(DecodeError, match=r"tslog:test, record 3: 0 bytes with the tag 'raw' are no record"):
                reader.next()
        assert reader.next_record() == bytearray()
        with pytest.raises(LogFormatError, match="has 2 formats: use store_with_tag"):
            log.store(1, 2.0, 3.0)
        with pytest.raises(FieldError, match="tag 2, expected 0 to 1"):
            log.store_with_tag(2, 1)


def test_raw_records(make: Callable[..., TSLog]) -> None:
    with make(formats=(), record_size=8, commit_delta=1) as log:
        reader = log.reader(0)
        for number, data in enumerate((b"", b"12345678", bytearray(b"\0\r\n\xff")), 1):
            assert log.store_record(data) == number
        with pytest.raises(FieldError, match="9 bytes, expected 8 at the most"):
            log.store_record(b"123456789")
        with pytest.raises(FieldError, match="str is no bytes"):
            log.store_record("text")  # type: ignore[arg-type]
        with pytest.raises(LogFormatError, match="has no format: use next_record"):
            reader.next()
        found = [reader.next_record() for _ in range(4)]
        assert found == [b"", b"12345678", b"\0\r\n\xff", None] and isinstance(found[0], bytearray)
        with pytest.raises(LogFormatError, match="has 0 formats: use store_with_tag or store_record"):
            log.store(1)


def test_what_does_not_fit_is_not_stored(make: Callable[..., TSLog]) -> None:
    with make() as log:
        for wrong in ((-1,), (), (1, 2), ("1",), (1.5,)):
            with pytest.raises(FieldError, match="does not fit the format 'Q'"):
                log.store(*wrong)
        with pytest.raises(LogFormatError, match="has 1 formats"):
            log.store_with_tag(0, 1)
        assert log.store(1) == 1


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 100, 2500])
def test_bulk(make: Callable[..., TSLog], count: int) -> None:
    """Also over the numbers where the digits grow, and over pages."""
    array = np.zeros(count, [("t", "<u8"), ("v", "<f4")])
    array["t"], array["v"] = np.arange(count), np.arange(count) / 2
    with make(formats=["Qf"], nreaders=2) as log:
        assert log.store_many(array) == count
        assert log.store_many([(5, 1.5)]) == count + 1
        log.commit()
        one, other = log.reader(0), log.reader(1)
        assert [one.next() for _ in range(count)] == [tuple(row) for row in array.tolist()]
        got = []
        while len(part := other.read_many(700)):
            got.append(part)
        whole = np.concatenate(got)
        assert other.position == len(whole) == count + 1
        assert (whole["f0"][:count] == array["t"]).all() and (whole["f1"][:count] == array["v"]).all()
        assert one.read_many(5).tolist() == [(5, 1.5)]


def test_bulk_stops_at_another_format(make: Callable[..., TSLog]) -> None:
    with make(formats=["Q", "d"]) as log:
        log.store_many([(1,), (2,)])
        log.store_many([(0.5,)], tag=1)
        log.store_record(b"12345678")
        log.store_many([(3,)])
        log.commit()
        reader = log.reader(0)
        assert reader.read_many(10).tolist() == [(1,), (2,)]
        assert reader.read_many(10).tolist() == []
        assert reader.read_many(10, tag=1).tolist() == [(0.5,)]
        assert reader.next_record() == b"12345678"
        assert reader.read_many(10).tolist() == [(3,)]
        with pytest.raises(LogFormatError, match="tag 2, expected 0 to 1"):
            reader.read_many(1, tag=2)


FORMS = ["Qff", "d"]
PUSH = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\nother\r\n"


def store_rows(log: TSLog, first: int, last: int, tag: int = 0) -> None:
    """Store records that tell their numbers."""
    numbers = range(first, last + 1)
    rows = [(n, n / 2, -n) for n in numbers] if tag == 0 else [(n / 4,) for n in numbers]
    log.store_many(rows, tag)
    log.commit()


def one_by_one(reader: TSReader) -> list[tuple[int, int | str, Any]]:
    """Return all there is: number, tag and values; of what is no record, its bytes."""
    found: list[tuple[int, int | str, Any]] = []
    while True:
        try:
            record = reader.next()
        except DecodeError:
            found.append((reader.position + 1, "raw", bytes(reader.next_record() or b"")))
            continue
        if record is None:
            return found
        found.append((reader.position, record[0], record[1]))


def in_bulk(reader: TSReader, n: int) -> list[tuple[int, int | str, Any]]:
    """Return the same, read with `read_many` of each format in turn."""
    found: list[tuple[int, int | str, Any]] = []
    while True:
        rows: list[Any] = []
        for tag in range(len(FORMS)):
            array = reader.read_many(n, tag)
            rows += [(tag, values) for values in array.tolist()]
            found += [
                (reader.position - len(array) + i, tag, values) for i, values in enumerate(array.tolist(), 1)
            ]
            assert len(array) <= n
        if not rows and (data := reader.next_record()) is not None:
            found.append((reader.position, "raw", bytes(data)))
        elif not rows:
            return found


def count_values(reader: TSReader, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of the lengths of what the reader got in one piece: it grows."""
    lengths: list[int] = []
    values = reader._stream.values

    def counted(*args: Any) -> Any:
        answer = values(*args)
        if answer[0]:
            lengths.append(len(answer[0]) // args[2][1])
        return answer

    monkeypatch.setattr(reader._stream, "values", counted)
    return lengths


def a_mixture(log: TSLog) -> None:
    """Fill a log of 2500 records: alike ones over all digits, and others among them."""
    store_rows(log, 1, 99)
    store_rows(log, 100, 109, tag=1)
    store_rows(log, 110, 1500)
    log.store_record(b"x" * 16)
    log.store_record(b"")
    store_rows(log, 1503, 1503, tag=1)
    store_rows(log, 1504, 2500)


@pytest.mark.parametrize("n", [1, 7, 999, 1000, 1001, 10**9])
def test_bulk_reads_what_is_read_one_by_one(make: Callable[..., TSLog], n: int) -> None:
    with make(formats=FORMS, nreaders=2) as log:
        a_mixture(log)
        one, bulk = log.reader(0), log.reader(1)
        expected = one_by_one(one)
        assert [number for number, _, _ in expected] == list(range(1, 2501))
        assert in_bulk(bulk, n) == expected
        assert (bulk.position, bulk.missed, bulk.restarts) == (2500, 0, 0)


def test_bulk_takes_pages_in_one_piece(make: Callable[..., TSLog], monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends where the numbers get another digit; what is not alike is parsed."""
    with make(formats=["Qff"], nreaders=3) as log:
        for first, last in ((1, 9), (10, 99), (100, 999), (1000, 2500)):
            store_rows(log, first, last)
        reader = log.reader(0)
        lengths = count_values(reader, monkeypatch)
        whole = reader.read_many(10**6)
        assert lengths == [9, 90, 900, 1000, 501]
        assert whole["f0"].tolist() == list(range(1, 2501))
        other = log.reader(1)
        lengths = count_values(other, monkeypatch)
        assert [other.next(), other.read_many(3).tolist()[-1]] == [(1, 0.5, -1.0), (4, 2.0, -4.0)]
        assert len(other.read_many(2000)) == 2000 and lengths == [1000, 4], "what next has fetched comes first"
        assert other.position == 2004 and other.next() == (2005, 1002.5, -2005.0)
        log.store_record(b"16 bytes of data")
        log.commit()
        last = log.reader(2)
        lengths = count_values(last, monkeypatch)
        assert len(last.read_many(10**6)) == 2500 and lengths == [9, 90, 900, 1000]
        assert last.next_record() == b"16 bytes of data" and last.read_many(5).tolist() == []


def test_bulk_of_a_format_that_arrays_cannot_have(make: Callable[..., TSLog]) -> None:
    """Nothing is read that is not returned."""
    with make(formats=["@Q"]) as log:
        log.store(7)
        log.commit()
        reader = log.reader(0)
        with pytest.raises(LogFormatError, match="native alignment"):
            reader.read_many(10)
        assert reader.position == 0 and reader.next() == (7,)


def test_bulk_counts_what_was_trimmed(make: Callable[..., TSLog], client: redis.Redis) -> None:
    with make(formats=["Qff"], nreaders=2) as log:
        store_rows(log, 1, 3000)
        one, bulk = log.reader(0), log.reader(1)
        assert len(one.read_many(100)) == len(bulk.read_many(100)) == 100
        client.xtrim("tslog:test", minid="1201-0", approximate=False)
        assert client.xdel("tslog:test", "1500-0", "2600-0") == 2
        expected = [number for number in range(1201, 3001) if number not in (1500, 2600)]
        assert [record[0] for record in one] == expected
        assert bulk.read_many(10**6)["f0"].tolist() == expected
        assert (bulk.position, bulk.missed) == (one.position, one.missed) == (3000, 1102)


def test_bulk_of_a_log_begun_anew(make: Callable[..., TSLog], monkeypatch: pytest.MonkeyPatch) -> None:
    log = make()
    log.store_many([(number,) for number in range(1, 51)])
    log.commit()
    reader = log.reader(0)
    lengths = count_values(reader, monkeypatch)
    assert len(reader.read_many(30)) == 30
    anew = make(recreate=True)
    anew.store_many([(number,) for number in range(1001, 1061)])
    anew.commit()
    assert reader.read_many(100)["f0"].tolist() == list(range(1001, 1061))
    assert (reader.position, reader.restarts, reader.missed) == (60, 1, 0)
    assert sum(lengths) >= 90
    make(formats=["d"], recreate=True)
    with pytest.raises(LogFormatError, match="begun anew with"):
        reader.read_many(1)


@pytest.mark.parametrize("piece", [1, 37, 100, 1448, 10**6])
@pytest.mark.parametrize(("before", "behind"), [(b"", b""), (PUSH, b""), (b"", PUSH)])
def test_bulk_in_pieces_and_among_pushes(
    make: Callable[..., TSLog], monkeypatch: pytest.MonkeyPatch, piece: int, before: bytes, behind: bytes
) -> None:
    """However the answer comes, and whatever else comes with it."""
    with make(formats=FORMS, nreaders=1) as log:
        a_mixture(log)
        reader = log.reader(0)
        connection, pieces = reader._connection, []
        receive = connection._receive

        def received() -> bytes:
            if not pieces:
                data = receive()
                data = before + data if data.startswith(b"+OK") else data
                data += behind if data.endswith(b"}\r\n") else b""  # the writer's key ends the answer
                pieces[:] = [data[i : i + piece] for i in range(0, len(data), piece)]
            return pieces.pop(0)

        monkeypatch.setattr(connection, "_receive", received)
        opened = connection.opened
        lengths = count_values(reader, monkeypatch)
        connection.invalidated = False
        found = in_bulk(reader, 800)
        assert [number for number, _, _ in found] == list(range(1, 2501))
        assert bool(lengths) == (not before and piece >= 37)
        assert connection.opened == opened


@pytest.mark.parametrize("before", [b"", PUSH])
def test_bulk_asks_again_for_an_answer_that_broke_off(
    make: Callable[..., TSLog], monkeypatch: pytest.MonkeyPatch, client: redis.Redis, before: bytes
) -> None:
    """What came of the first answer is forgotten: some of it was trimmed meanwhile."""
    with make() as log:
        log.store_many([(number,) for number in range(1, 10)])
        log.commit()
        reader = log.reader(0)
        connection, broke = reader._connection, []
        receive = connection._receive

        def received() -> bytes:
            if broke == ["off"]:
                broke.append("down")
                client.xtrim("tslog:test", minid="5-0", approximate=False)
                connection._broken(ConnectionResetError("by the test"))
            data = receive()
            if not data.startswith(b"+OK\r\n+QUEUED"):
                return data
            if broke:
                return before + data
            broke.append("off")
            return data[:-3]

        monkeypatch.setattr(connection, "_receive", received)
        assert reader.read_many(100)["f0"].tolist() == [5, 6, 7, 8, 9]
        assert broke == ["off", "down"] and (reader.position, reader.missed) == (9, 4)


def test_bulk_waits_no_longer_than_the_time_out(own_server: Callable[..., OwnServer], kind: str) -> None:
    """An answer that ends in the middle is none; the next reading has all."""
    server = own_server(kind)
    with quick(server) as shm, TSLog("test", ["Q"], shm=shm) as log:
        log.store_many([(number,) for number in range(1, 3001)])
        log.commit()
        with log.reader(0) as reader:
            assert reader.read_many(1200)["f0"].tolist() == list(range(1, 1201))
            connection, cut = reader._connection, [True]
            receive = connection._receive

            def received() -> bytes:
                data = receive()
                return data[:5000] if cut and cut.pop() else data

            connection._receive = received  # type: ignore[method-assign]
            connection._ready, ready = (lambda ms: ready(ms) if cut else []), connection._ready
            with pytest.raises(ServerTimeout, match="no answer within"):
                reader.read_many(3000)
            del connection._receive
            assert (reader.position, connection.connected) == (1200, False)
            assert reader.read_many(3000)["f0"].tolist() == list(range(1201, 3001))


def test_bulk_returns_what_was_read_before_the_server_went(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind)
    with quick(server) as shm, TSLog("test", ["Q"], shm=shm) as log:
        log.store_many([(number,) for number in range(1, 3001)])
        log.commit()
        with log.reader(0) as reader:
            values, asked = reader._stream.values, []

            def killing(*args: Any) -> Any:
                asked.append(args)
                if len(asked) == 5:
                    server.kill()
                return values(*args)

            reader._stream.values = killing  # type: ignore[method-assign]
            assert reader.read_many(3000)["f0"].tolist() == list(range(1, 2000))
            with pytest.raises(ServerUnreachable, match="nobody answers"):
                reader.read_many(3000)
            assert reader.position == 1999
            server.start()
            assert reader.read_many(3000)["f0"].tolist() == list(range(2000, 3001))


# -- cursors, buckets -------------------------------------------------------------------------------------------------


def test_a_cursor_survives(make: Callable[..., TSLog]) -> None:
    with make(commit_delta=1) as log:
        store(log, range(1, 11))
        with log.reader(0) as reader:
            assert [reader.next() for _ in range(4)] == [(1,), (2,), (3,), (4,)]
            reader.commit()
            reader.next()
    with make() as log:
        assert read(log.reader(0)) == [5, 6, 7, 8, 9, 10]
        late = log.reader(0)
        late.next()
        fast = log.reader(0)
        read(fast)
        fast.commit()
        late.commit()
        assert log.reader(0).next() is None, "a cursor never goes back"


def test_lag_counts_open_readers_by_what_they_read(make: Callable[..., TSLog]) -> None:
    log = make(commit_delta=1, bucket_size=10, nreaders=2)
    assert log.stats() == (0, 0, 0)
    store(log, range(1, 26))
    assert log.stats() == (25, 2, 25)
    one, two = log.reader(0), log.reader(1)
    for reader, count in ((one, 20), (two, 5)):
        for _ in range(count):
            reader.next()
    assert log.stats().lag == 20
    two.commit()
    for _ in range(20):
        two.next()
    assert log.stats().lag == 5, "one has read 20, two all"
    two.close()
    assert log.stats().lag == 20, "two has committed 5"
    with make(bucket_size=10, nreaders=2) as other:
        assert other.stats() == (25, 2, 25), "nothing is known of another program's readers but their cursors"


def test_cleaning_follows_the_slowest_committed_cursor(make: Callable[..., TSLog], client: redis.Redis) -> None:
    """Four readers at different speeds; one stops for good, and is told how many it missed."""
    log = make(commit_delta=5, bucket_size=10, nreaders=4, max_buckets=8)
    readers, got = [log.reader(n) for n in range(4)], [0, 0, 0, 0]
    speeds = (50, 7, 3, 0)
    for round_ in range(100):
        store(log, range(5 * round_ + 1, 5 * round_ + 6))
        for n, reader in enumerate(readers):
            for _ in range(speeds[n]):
                got[n] += reader.next() is not None
            reader.commit()
        oldest = int(client.xrange("tslog:test", count=1)[0][0].split(b"-")[0])
        bucket = (5 * round_ + 4) // 10
        assert oldest == max(0, bucket - 7) * 10 + 1, "the dead reader holds back 8 buckets, no more"
    dead, slow = readers[3], readers[2]
    assert (readers[0].position, readers[0].missed) == (500, 0)
    assert (readers[1].position, readers[1].missed) == (500, 0)
    assert slow.missed + got[2] == slow.position < 500
    assert read(dead) == list(range(421, 501))
    assert dead.missed == 420
    read(slow)
    for reader in readers:
        reader.commit()
    store(log, range(501, 511))
    assert client.xrange("tslog:test", count=1)[0][0] == b"501-0", "everybody is done with the rest"


def test_no_readers(make: Callable[..., TSLog], client: redis.Redis) -> None:
    log = make(nreaders=0, bucket_size=10, commit_delta=1)
    store(log, range(1, 22))
    assert log.stats() == (21, 2, 0) and client.xlen("tslog:test") == 1
    with pytest.raises(LogFormatError, match="reader 0, expected 0 to -1"):
        log.reader(0)


def test_other_cursors_are_waited_for(make: Callable[..., TSLog], client: redis.Redis) -> None:
    log = make(nreaders=0, bucket_size=10, commit_delta=1)
    client.xgroup_create("tslog:test", "forward:shore", "0", mkstream=True)
    store(log, range(1, 32))
    assert client.xlen("tslog:test") == 31


# -- opening ----------------------------------------------------------------------------------------------------------


def test_another_shape_is_refused(make: Callable[..., TSLog]) -> None:
    make("a", ["Qff"])
    for options in ({"formats": ["Qf"]}, {"formats": ["Qff"], "bucket_size": 5}, {"formats": ()}):
        with pytest.raises(LogFormatError, match=r"log a: made with formats=\['Qff'\].*, opened with .*recreate"):
            make("a", **options)
    make("a", ["Qff"], nreaders=4, commit_delta=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"nreaders": 5}, "5 readers, expected 0 to 4"),
        ({"bucket_size": 0}, "bucket_size=0, expected an integer of 1"),
        ({"commit_delta": 2.5}, "commit_delta=2.5"),
        ({"max_buckets": 0}, "max_buckets=0"),
        ({"max_pending": 0}, "max_pending=0"),
        ({"record_size": 0, "formats": ()}, "record_size=0"),
        ({"commit_interval": 0}, "commit_interval=0"),
        ({"require": "always"}, "require='always', expected 'fsynced'"),
        ({"formats": ["Z"]}, "'Z' is no format"),
    ],
)
def test_wrong_arguments(make: Callable[..., TSLog], options: dict[str, Any], says: str) -> None:
    with pytest.raises(LogFormatError, match=says):
        make(**options)


def test_wrong_names(make: Callable[..., TSLog]) -> None:
    with pytest.raises(DescriptionError, match="log name 'a b'"):
        make("a b")
    with pytest.raises(LogFormatError, match="reader 1, expected 0 to 0"):
        make().reader(1)


def test_the_default_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDDATA_URL", url)
    with TSLog("own", ["Q"]) as log:
        log.store(1)
    with pytest.raises(LogFormatError, match="made with"), TSLog("own", ["d"]):
        pass
    with SharedMemory() as shm, TSLog("own", ["Q"], shm=shm) as log:
        assert list(log.reader(0)) == [(1,)]


def test_the_memory_closes_its_logs(url: str) -> None:
    with SharedMemory(url=url) as shm:
        log = TSLog("test", ["Q"], shm=shm)
        log.store(1)
    with SharedMemory(url=url) as shm:
        assert TSLog("test", ["Q"], shm=shm).stats() == (1, 0, 1)


def test_namespaces(url: str) -> None:
    with SharedMemory(url=url, namespace="a") as a, SharedMemory(url=url, namespace="b") as b:
        with TSLog("test", ["Q"], shm=a) as log:
            log.store(1)
        assert TSLog("test", ["d"], shm=b).stats() == (0, 0, 0)


def test_recreate_under_readers(make: Callable[..., TSLog]) -> None:
    log = make(commit_delta=1)
    store(log, range(1, 101))
    reader = log.reader(0)
    for _ in range(50):
        reader.next()
    reader.commit()
    anew = make(recreate=True, commit_delta=1)
    assert anew.store(1000) == 1
    fetched_before = list(range(51, 101))
    assert read(reader) == [*fetched_before, 1000]
    assert (reader.position, reader.restarts) == (1, 1)
    with pytest.raises(WriterConflict, match="log test: .*, process [0-9]+ on .*, writes it since .*log again"):
        log.store(101)
    assert anew.store(1001) == 2
    assert read(reader) == [1001]


def test_recreate_with_other_formats(make: Callable[..., TSLog]) -> None:
    log = make(commit_delta=1)
    store(log, range(1, 11))
    reader = log.reader(0)
    read(reader)
    make(formats=["d"], recreate=True)
    for _ in range(2):
        with pytest.raises(LogFormatError, match=r'begun anew with .*"d".*, opened with .*"Q".*: open it as it is now'):
            reader.next()


def test_recreate_what_was_not_there(make: Callable[..., TSLog]) -> None:
    with make(recreate=True) as log:
        assert log.store(5) == 1
        assert log.commit() == 1
        assert list(log.reader(0)) == [(5,)]


# -- writers ----------------------------------------------------------------------------------------------------------


def test_the_second_writer_takes_over(make: Callable[..., TSLog]) -> None:
    first, second = make(commit_delta=4), make(commit_delta=4)
    store(first, range(1, 7))  # 4 are committed
    for number in range(5, 9):
        assert second.store(100 + number) == number
    first.store(7)
    with pytest.raises(WriterConflict, match="4 records of this program were not written"):
        first.store(8)
    for _ in range(2):
        with pytest.raises(WriterConflict, match="open the log again"):
            first.store(9)
        with pytest.raises(WriterConflict, match="run one writer only"):
            first.commit()
    first.close()
    second.commit()
    assert read(second.reader(0)) == [1, 2, 3, 4, 105, 106, 107, 108]
    with make() as again:
        assert again.store(0) == 9
        second.store(1)
        with pytest.raises(WriterConflict, match="1 records"):
            second.commit()


def test_an_idle_second_program_only_reads(make: Callable[..., TSLog]) -> None:
    log = make(commit_delta=1)
    store(log, range(1, 6))
    with make() as other:
        assert read(other.reader(0)) == [1, 2, 3, 4, 5]
        other.commit()
    store(log, range(6, 10))


RIVAL = """
    from shareddata.errors import WriterConflict
    from shareddata.tslog import TSLog
    url, name, delta = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with SharedMemory(url=url) as shm:
        say("ready")
        sys.stdin.readline()
        count, kept = 0, []
        for _ in range(60):
            log = TSLog("rivals", ["IQ"], commit_delta=delta, shm=shm)
            try:
                while True:
                    count += 1
                    number = log.store(name, count)
                    if count % 7 == 0:
                        kept.append((log.commit(), count))
            except WriterConflict:
                pass
            finally:
                log.close()
        say(*[f"{number}:{count}" for number, count in kept])
"""


@pytest.mark.timeout(120)
def test_rival_writers_never_mix(url: str, make: Callable[..., TSLog], program: Callable[..., Program]) -> None:
    """Three programs take the log from one another all the time: what each committed is there, as it stored it."""
    programs = [program(RIVAL, url, name, delta) for name, delta in ((1, 1), (2, 3), (3, 16))]
    for each in programs:
        assert each.line() == "ready"
    for each in programs:
        each.tell("go")
    lines = {}
    ended = threading.Event()

    def keep_contending() -> None:  # the last of the rivals needs somebody who takes the log from it
        with SharedMemory(url=url) as shm:
            while not ended.is_set():
                with TSLog("rivals", ["IQ"], commit_delta=1, shm=shm) as log:
                    try:
                        log.store(0, 0)
                    except WriterConflict:
                        pass
                time.sleep(0.001)

    contender = threading.Thread(target=keep_contending)
    contender.start()
    try:
        lines = {name: each.line(60).split() for name, each in enumerate(programs, 1)}
    finally:
        ended.set()
        contender.join()
    log = make("rivals", ["IQ"])
    reader, found, last = log.reader(0), {}, {0: 0, 1: 0, 2: 0, 3: 0}
    for name, count in reader:
        assert name == 0 or count > last[name], "a program's records are in its order, each once"
        last[name] = count
        found[reader.position] = f"{reader.position}:{count}", name
    assert reader.missed == 0
    for name, kept in lines.items():
        assert kept
        for line in kept:
            assert found[int(line.split(":")[0])] == (line, name)


def test_entries_added_by_hand(make: Callable[..., TSLog], client: redis.Redis) -> None:
    log = make(commit_delta=1)
    store(log, range(1, 4))
    client.xadd("tslog:test", {"0": b"12345678"}, id="4-0")
    with pytest.raises(WriterConflict, match="the records from 4 on are not those that this program stored"):
        log.store(4)


def test_a_fork_discards(url: str, program: Callable[..., Program], make: Callable[..., TSLog]) -> None:
    code = """
        from shareddata.errors import WriterConflict
        from shareddata.tslog import TSLog
        with SharedMemory(url=sys.argv[1]) as shm:
            log = TSLog("test", ["Q"], commit_delta=100, commit_interval=60, shm=shm)
            log.store(1)
            log.commit()
            log.store(2)
            for child_stores in (False, True):
                if (child := os.fork()) == 0:
                    if child_stores:
                        log.store(30)
                        say(log.commit())
                    log.close()
                    os._exit(0)
                os.waitpid(child, 0)
                try:
                    log.store(3)
                    say(log.commit())
                except WriterConflict:
                    say("conflict")
    """
    assert program(code, url).finish() == ["3", "4", "conflict"]
    assert read(make().reader(0)) == [1, 2, 3, 30]


# -- time, threads, waiting -------------------------------------------------------------------------------------------


def test_commit_interval(make: Callable[..., TSLog]) -> None:
    log = make(commit_delta=1000, commit_interval=0.02)
    reader = log.reader(0)
    for number in range(1, 4):
        log.store(number)
        assert eventually(reader.next) == (number,)
    log.store(4)
    log.close()
    assert make().stats().seqn == 4


def test_a_conflict_of_the_interval_is_told(make: Callable[..., TSLog], caplog: pytest.LogCaptureFixture) -> None:
    log, other = make(commit_interval=0.02), make(commit_delta=1)
    log.store(1)
    other.store(1)
    eventually(lambda: "records of this program were not written" in caplog.text)
    with pytest.raises(WriterConflict, match="1 records of this program"):
        log.close()


def test_a_reader_in_another_thread(make: Callable[..., TSLog]) -> None:
    count = 3000
    with make(commit_interval=0.01, bucket_size=100) as log:
        reader = log.reader(0)
        got: list[int] = []

        def follow() -> None:
            for (value,) in reader.follow(timeout=10):
                got.append(value)
                if value % 10 == 0:
                    reader.commit()
                if value == count:
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        for number in range(1, count + 1):
            log.store(number)
            if number % 100 == 0:
                log.stats()
        log.commit()
        thread.join(30)
        assert got == list(range(1, count + 1)) and reader.missed == 0
        reader.close()


def test_follow_ends_after_silence(make: Callable[..., TSLog]) -> None:
    log = make(commit_delta=1)
    store(log, range(1, 4))
    start = time.monotonic()
    assert list(log.reader(0).follow(timeout=0.05)) == [(1,), (2,), (3,)]
    assert 0.05 <= time.monotonic() - start < 5
    assert list(log.reader(0).follow(timeout=0)) == [(1,), (2,), (3,)]


# -- durability -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fsync", "options", "says"),
    [
        ("always", (), "fsynced: on disk before it is acknowledged"),
        ("always", ("--no-appendfsync-on-rewrite", "yes"), "but not while the server rewrites"),
        ("everysec", (), "on disk within about a second"),
        ("everysec", ("--appendfsync", "no"), "on disk when the system writes it"),
        ("everysec", ("--appendonly", "no"), "in memory only"),
        ("everysec", ("--appendonly", "no", "--save", "60 1"), "in memory until the next snapshot"),
    ],
)
def test_durability(
    kind: str,
    own_server: Callable[..., OwnServer],
    fsync: str,
    options: tuple[str, ...],
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with SharedMemory(url=own_server(kind, fsync=fsync, options=options).url) as shm:
        log = TSLog("test", ["Q"], shm=shm)
        assert says in log.durability
        log.store(1)
        log.store(2)
        warned = [record for record in caplog.records if "a commit is in memory" in record.message]
        assert len(warned) == says.startswith("in memory")
        if says.startswith("fsynced"):
            TSLog("test", ["Q"], shm=shm, require="fsynced").close()
        else:
            with pytest.raises(ServerSetupError, match=r"'fsynced' is required: .*appendfsync always"):
                TSLog("test", ["Q"], shm=shm, require="fsynced")


def test_durability_for_who_may_not_ask(own_server: Callable[..., OwnServer], caplog: pytest.LogCaptureFixture) -> None:
    user = "user default on nopass ~* &* +@all -config\nuser admin on >secret ~* &* +@all\n"
    with SharedMemory(url=own_server(aclfile=user).url) as shm, TSLog("test", ["Q"], shm=shm) as log:
        assert "does not tell" in log.durability
        log.store(1)


# -- a server that is away --------------------------------------------------------------------------------------------


def quick(server: OwnServer) -> SharedMemory:
    return SharedMemory(url=server.url, timeout=0.2)


def test_an_outage_within_the_bound(kind: str, own_server: Callable[..., OwnServer]) -> None:
    server = own_server(kind)
    with quick(server) as shm, TSLog("test", ["Q"], shm=shm, commit_delta=4, max_pending=50) as log:
        reader = log.reader(0)
        store(log, range(1, 11))
        server.kill()
        store(log, range(11, 59))  # 8 are committed: 50 wait
        for _ in range(3):
            with pytest.raises(ServerUnreachable, match="log test: 50 records wait for the server, as many as memory"):
                log.store(0)
            with pytest.raises(ServerUnreachable, match="nobody answers"):
                log.commit()
        server.start()
        assert log.commit() == 58
        assert log.store(59) == 59
        log.commit()
        assert read(reader) == list(range(1, 60))
        assert (log.lost, reader.missed, reader.restarts) == (0, 0, 0)


def test_a_silent_server(kind: str, own_server: Callable[..., OwnServer]) -> None:
    """The outcome of the commit is unknown: it lands once."""
    server = own_server(kind)
    with quick(server) as shm, TSLog("test", ["Q"], shm=shm, commit_delta=4, max_pending=50) as log:
        store(log, range(1, 8))
        server.stop()
        store(log, range(8, 31))
        server.cont()
        log.commit()
        store(log, range(31, 41))
        log.commit()
        assert read(log.reader(0)) == list(range(1, 41))


def test_a_refusing_server(own_server: Callable[..., OwnServer], caplog: pytest.LogCaptureFixture) -> None:
    """A full memory is an outage too: records wait, with one warning."""
    server = own_server()
    with quick(server) as shm, server.client() as client:
        log = TSLog("test", ["Q"], shm=shm, commit_delta=4, max_pending=20)
        store(log, range(1, 5))
        client.config_set("maxmemory", "1")
        store(log, range(5, 25))
        with pytest.raises(ServerRefused, match="20 records wait.*memory is full"):
            log.store(25)
        with pytest.raises(ServerRefused, match="memory is full"):
            log.commit()
        assert len([r for r in caplog.records if "records wait" in r.message and r.levelno == logging.WARNING]) == 1
        client.config_set("maxmemory", "0")
        log.commit()
        assert log.store(25) == 25
        log.close()
        assert read(TSLog("test", ["Q"], shm=shm).reader(0)) == list(range(1, 26))


def test_the_interval_outlives_an_outage(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with quick(server) as shm, TSLog("test", ["Q"], shm=shm, commit_delta=100, commit_interval=0.02) as log:
        store(log, range(1, 4))
        eventually(lambda: log.stats().lag == 3 and not log._pending)
        server.kill()
        store(log, range(4, 7))
        eventually(lambda: log._trouble)
        server.start()
        eventually(lambda: not log._pending, message="the timer's next commit")
        assert read(log.reader(0)) == [1, 2, 3, 4, 5, 6]


def test_close_says_what_it_could_not_commit(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with quick(server) as shm:
        log = TSLog("test", ["Q"], shm=shm)
        log.store(1)
        server.kill()
        with pytest.raises(ServerUnreachable, match="nobody answers"):
            log.close()
        log.close()


def test_the_first_store_needs_the_server(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with quick(server) as shm, TSLog("test", ["Q"], shm=shm) as log:
        server.kill()
        with pytest.raises(ServerUnreachable, match="nobody answers"):
            log.store(1)
        server.start()
        assert log.store(1) == 1


def test_a_follower_waits_for_the_server(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with quick(server) as shm, TSLog("test", ["Q"], shm=shm, commit_delta=1) as log, log.reader(0) as reader:
        log.store(1)
        with_end, without = reader.follow(timeout=0.3), log.reader(0).follow()
        assert next(with_end) == next(without) == (1,)
        server.kill()
        with pytest.raises(ServerUnreachable, match="nobody answers"):
            next(with_end)


        def come_back() -> None:
            server.start()
            store(log, range(2, 3))
            log.commit()

        back = threading.Timer(0.3, come_back)  # while the follower waits
        back.start()
        assert next(without) == (2,)
        back.join()
