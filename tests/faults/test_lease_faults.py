"""Leases over faults: the server is killed with and without its data, is silent, or comes back late."""

import time
from collections.abc import Callable

import pytest

from programs import Program
from records import HEAD
from servers import OwnServer
from shareddata import DataDict, ServerError, SharedMemory, WriterConflict
from shareddata.lease import LEASE
from waiting import eventually

RECORDS = {"A": {"owner": "HDL", "history": 100_000, "fields": [*HEAD, ["number", 0]]}}
VOLATILE = ("--appendonly", "no")


def flushed(dd: DataDict) -> bool:
    try:
        return dd.flush() == 1
    except ServerError:
        return False


@pytest.mark.parametrize("options", [(), VOLATILE], ids=["data kept", "data lost"])
def test_a_writer_keeps_its_record_over_a_restart(
    own_server: Callable[..., OwnServer], kind: str, options: tuple[str, ...]
) -> None:
    """A second copy that asks as soon as the server is back finds the first one, also while that is quiet."""
    server = own_server(kind, options=options)
    with SharedMemory(url=server.url) as shm, SharedMemory(url=server.url) as other:
        shm.init(RECORDS)
        with DataDict("FIRST", shm) as first, DataDict("SECOND", other) as second:
            (data,) = first.set_datas_to_write(["A"])
            data.set(1)
            first.flush()
            server.kill()
            time.sleep(LEASE + 0.5)  # nobody can renew meanwhile
            server.start()
            shm.init(RECORDS)
            if options:
                data.set(2)
                assert flushed(first)
            with pytest.raises(WriterConflict, match="'FIRST'"):
                second.set_datas_to_write(["A"])
            data.set(3)
            assert first.flush() == 1


def test_who_was_replaced_before_the_server_lost_its_data_is_out_all_the_same(
    own_server: Callable[..., OwnServer], kind: str
) -> None:
    server = own_server(kind, options=VOLATILE)
    with SharedMemory(url=server.url) as shm:
        shm.init(RECORDS)
        with DataDict("FIRST", shm) as first, DataDict("SECOND", shm, take_over=True) as second:
            (one,), (two,) = first.set_datas_to_write(["A"]), second.set_datas_to_write(["A"])
            server.restart()
            shm.init(RECORDS)
            two.set(2)
            assert eventually(lambda: flushed(second))
            one.set(1)
            with pytest.raises(WriterConflict, match="'SECOND'"):
                eventually(lambda: flushed(first))


def test_a_flush_of_unknown_outcome_that_landed_is_not_doubled(
    own_server: Callable[..., OwnServer], kind: str
) -> None:
    server = own_server(kind)
    with SharedMemory(url=server.url, timeout=0.3) as shm:
        shm.init(RECORDS)
        with DataDict("FIRST", shm) as first:
            (data,) = first.set_datas_to_write(["A"])
            data.set(1)
            first.flush()
            server.stop()
            data.set(2, ts=1000.0)
            with pytest.raises(ServerError, match="outcome is unknown"):
                first.flush()
            server.cont()
            assert eventually(lambda: flushed(first))
            follower = first.follow_data("A", since=0, timeout=0.1)
            assert [trame.number for trame in follower] == [1, 2]


def test_a_silent_server_keeps_nobody_from_closing(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind)
    with SharedMemory(url=server.url, timeout=0.3) as shm:
        shm.init(RECORDS)
        dd = DataDict("FIRST", shm)
        dd.set_datas_to_write(["A"])[0].set(1)
        dd.flush()
        server.stop()
        try:
            begin = time.monotonic()
            dd.close()
            assert time.monotonic() - begin < 1
        finally:
            server.cont()
        server.kill()
        begin = time.monotonic()
        with pytest.raises(ServerError, match="nobody answers"):
            DataDict("SECOND", shm).set_datas_to_write(["A"])
        assert time.monotonic() - begin < 1


def test_a_killed_handler_is_replaced_within_seconds_where_it_is_started_again(
    own_server: Callable[..., OwnServer], kind: str, program: Callable[..., Program]
) -> None:
    """As systemd does it: again and again, at once."""
    server = own_server(kind)
    handler = """
        with SharedMemory(url=sys.argv[1]) as shm, DataDict("HDL", shm) as dd:
            data, = dd.set_datas_to_write(["A"])
            data.set(1)
            dd.flush()
            say("written")
            sys.stdin.read()
    """
    with SharedMemory(url=server.url) as shm:
        shm.init(RECORDS)
        for _ in range(2):
            begin = time.monotonic()
            running = program(handler, server.url)
            assert running.line() == "written"
            assert time.monotonic() - begin < LEASE + 4
            running.kill()
