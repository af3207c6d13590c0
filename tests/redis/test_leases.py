"""Owned records: one writer at a time, a second one told who the first is, a replaced one kept out."""

import gc
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from programs import Program
from records import HEAD, calls
from shareddata import DataDict, SharedMemory, WriterConflict, lease
from shareddata.lease import LEASE, who
from waiting import eventually

FIELDS = [*HEAD, ["number", 0]]
RECORDS: dict[str, Any] = {
    "LEFT": {"owner": "HDL", "history": 100_000, "fields": FIELDS},
    "RIGHT": {"owner": "HDL", "history": 0, "fields": FIELDS},
    "FREE": {"history": 0, "fields": FIELDS},
}
# Writes LEFT and says so; each line that it is told makes it write again.
WRITER = """
    url, name, number = sys.argv[1:]
    with SharedMemory(url=url) as shm, DataDict(name, shm) as dd:
        left, = dd.set_datas_to_write(["LEFT"])
        left.set(int(number))
        dd.flush()
        say("written")
        for line in sys.stdin:
            left.set(int(line))
            try:
                dd.flush()
                say("written")
            except WriterConflict as error:
                say(error)
"""


@pytest.fixture
def described(shm: SharedMemory) -> SharedMemory:
    shm.init(RECORDS)
    return shm


@pytest.fixture
def first(described: SharedMemory) -> Iterator[DataDict]:
    with DataDict("FIRST", described) as dd:
        yield dd


@pytest.fixture
def second(described: SharedMemory) -> Iterator[DataDict]:
    with DataDict("SECOND", described) as dd:
        yield dd


def write(dd: DataDict, number: int, *names: str) -> int:
    for data in dd.set_datas_to_write(names):
        data.set(number)
    return dd.flush()


def numbers(client: redis.Redis) -> list[int]:
    return [int(fields[b"number"]) for _, fields in client.xrange("LEFT:history")]


def leases(client: redis.Redis) -> list[str]:
    return sorted(key.decode() for key in client.keys("*") if b"lease" in key or b"writer" in key or b"fence" in key)


# -- taking and giving back -------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_the_first_is(first: DataDict, second: DataDict) -> None:
    write(first, 1, "LEFT", "RIGHT", "FREE")
    begin = time.monotonic()
    with pytest.raises(
        WriterConflict,
        match=r"record LEFT: 'FIRST' \('.+', process \d+ on '.+'\) writes it since '.+ UTC': run one copy .*take-over",
    ):
        second.set_datas_to_write(["FREE", "LEFT"])
    assert time.monotonic() - begin < 2 * LEASE / 3
    with pytest.raises(WriterConflict, match="record RIGHT: 'FIRST'"):
        second.set_datas_to_write(["RIGHT"])
    assert write(second, 2, "FREE") == 1
    assert write(first, 3, "LEFT", "RIGHT") == 2


def test_who_closes_gives_back(first: DataDict, second: DataDict, client: redis.Redis) -> None:
    write(first, 1, "LEFT", "RIGHT")
    assert len(leases(client)) == 3
    told = json.loads(client.get("LEFT:lease") or b"")
    assert (told["app"], told["owner"]) == ("FIRST", "HDL")
    assert client.get(f"shareddata:writer:HDL:{told['id']}") == client.get("LEFT:lease") == client.get("RIGHT:lease")
    first.close()
    assert leases(client) == []
    begin = time.monotonic()
    write(second, 2, "LEFT")
    assert time.monotonic() - begin < 0.5
    assert numbers(client) == [1, 2]


def test_who_closes_without_a_flush_gives_back_too(first: DataDict, client: redis.Redis) -> None:
    first.set_datas_to_write(["LEFT"])
    first.set_datas_to_write(["FREE", "RIGHT"])
    assert len(leases(client)) == 3
    first.close()
    assert leases(client) == []


def test_a_program_that_ends_without_closing_gives_back(
    described: SharedMemory, second: DataDict, client: redis.Redis, program: Callable[..., Program]
) -> None:
    ended = program(
        """
        shm = SharedMemory(url=sys.argv[1])
        dd = DataDict("SCRIPT", shm)
        left, = dd.set_datas_to_write(["LEFT"])
        left.set(1)
        dd.flush()
        """,
        described.url,
    )
    ended.finish()
    assert leases(client) == []
    write(second, 2, "LEFT")


def test_a_killed_writer_s_lease_runs_out(
    described: SharedMemory, second: DataDict, client: redis.Redis, program: Callable[..., Program]
) -> None:
    killed = program(WRITER, described.url, "KILLED", 1)
    assert killed.line() == "written"
    killed.kill()
    begin = time.monotonic()
    write(second, 2, "LEFT")
    assert time.monotonic() - begin < LEASE + lease._LATE + 1
    assert numbers(client) == [1, 2]


def test_of_two_that_wait_for_a_killed_one_one_gets_it(
    described: SharedMemory, program: Callable[..., Program]
) -> None:
    killed = program(WRITER, described.url, "KILLED", 1)
    assert killed.line() == "written"
    killed.kill()
    waiting = [
        program(
            """
            with SharedMemory(url=sys.argv[1]) as shm, DataDict(sys.argv[2], shm) as dd:
                try:
                    dd.set_datas_to_write(["LEFT"])
                    say("taken")
                    sys.stdin.read()
                except WriterConflict as error:
                    say("refused" if "WAITS" in str(error) else error)
            """,
            *(described.url, f"WAITS{number}"),
        )
        for number in range(2)
    ]
    assert sorted(each.line() for each in waiting) == ["refused", "taken"]


def test_who_takes_over_ends_the_first(first: DataDict, described: SharedMemory, client: redis.Redis) -> None:
    (left,) = first.set_datas_to_write(["LEFT"])
    left.set(1)
    first.flush()
    left.set(2)
    with DataDict("SECOND", described, take_over=True) as second:
        begin = time.monotonic()
        write(second, 3, "LEFT")
        assert time.monotonic() - begin < 0.5
        for _ in range(3):
            with pytest.raises(WriterConflict, match="record LEFT: 'SECOND' .*: this program can't write it any more"):
                first.flush()
        with pytest.raises(WriterConflict, match="record LEFT: 'SECOND'.*run one copy only"):
            first.set_datas_to_write(["LEFT"])
        with pytest.raises(WriterConflict, match="'SECOND'"):
            first.flush()
        assert write(second, 4, "LEFT") == 1
    assert numbers(client) == [1, 3, 4]
    first.set_datas_to_write(["LEFT"])
    assert first.flush() == 1, "what was staged is written when it is asked for"
    assert numbers(client) == [1, 3, 4, 2]


def test_who_lost_one_record_goes_on_with_the_others(
    first: DataDict, described: SharedMemory, client: redis.Redis
) -> None:
    left, right = first.set_datas_to_write(["LEFT", "RIGHT"])
    write(first, 1, "LEFT", "RIGHT")
    with DataDict("SECOND", described, take_over=True) as second:
        write(second, 2, "LEFT")
        for number in (3, 4):
            right.set(number)
            assert first.flush() == 1
            assert client.hget("RIGHT", "number") == b"%d" % number
        left.set(5)
        right.set(5)
        with pytest.raises(WriterConflict, match="record LEFT"):
            first.flush()
        assert client.hget("RIGHT", "number") == b"4", "a flush is written whole or not at all"
        first.close()
        assert write(second, 6, "LEFT") == 1, "who lost a record gives back what it still had, and no more"
        assert write(second, 7, "RIGHT") == 1
    assert leases(client) == []
    assert numbers(client) == [1, 2, 6]


def test_who_was_replaced_stays_so_when_the_other_has_given_back(
    first: DataDict, described: SharedMemory, client: redis.Redis
) -> None:
    """The lease is free again; the fence still tells who took it."""
    write(first, 1, "LEFT", "RIGHT")
    with DataDict("OTHER", described, take_over=True) as other:
        write(other, 2, "LEFT")
    left, right = first._written.values()
    left.set(3)
    for _ in range(2):
        with pytest.raises(WriterConflict, match="record LEFT: 'OTHER' .* and has given it back: .*can't write it any"):
            first.flush()
    assert numbers(client) == [1, 2]
    (again,) = first.set_datas_to_write(["LEFT"])  # who asks anew gets it
    again.set(4)
    right.set(4)
    assert first.flush() == 2
    assert numbers(client) == [1, 2, 4]


def test_a_record_that_was_lost_is_not_written_after_another_claim(
    first: DataDict, described: SharedMemory, client: redis.Redis
) -> None:
    (left,) = first.set_datas_to_write(["LEFT"])
    with DataDict("OTHER", described, take_over=True) as other:
        write(other, 2, "LEFT")
        first.set_datas_to_write(["RIGHT"])
        left.set(3)
        with pytest.raises(WriterConflict, match="'OTHER'"):
            first.flush()
    assert numbers(client) == [2]


def test_a_stopped_writer_that_was_replaced_writes_nothing(
    described: SharedMemory, second: DataDict, client: redis.Redis, program: Callable[..., Program]
) -> None:
    stopped = program(WRITER, described.url, "STOPPED", 1)
    assert stopped.line() == "written"
    stopped.send_signal(signal.SIGSTOP)
    stopped.tell("2")
    write(second, 3, "LEFT")
    stopped.send_signal(signal.SIGCONT)
    assert "'SECOND'" in stopped.line() and numbers(client) == [1, 3]


def test_a_stopped_writer_that_nobody_replaced_goes_on(
    described: SharedMemory, client: redis.Redis, program: Callable[..., Program]
) -> None:
    stopped = program(WRITER, described.url, "STOPPED", 1)
    assert stopped.line() == "written"
    stopped.send_signal(signal.SIGSTOP)
    eventually(lambda: not client.keys("shareddata:writer:*"), timeout=2 * LEASE, message="its lease runs out")
    stopped.tell("2")
    stopped.send_signal(signal.SIGCONT)
    assert stopped.line() == "written" and numbers(client) == [1, 2]
    eventually(lambda: client.keys("shareddata:writer:*"), message="it is renewed")


def test_a_quiet_writer_keeps_its_record(first: DataDict, second: DataDict, client: redis.Redis) -> None:
    (left,) = first.set_datas_to_write(["LEFT"])
    (key,) = client.keys("shareddata:writer:*")
    set_to: list[int] = []
    eventually(
        lambda: set_to.append(client.pttl(key)) or sum(b > a for a, b in zip(set_to, set_to[1:])) >= 3,  # type: ignore[func-returns-value]
        timeout=2 * LEASE,
        message="three renewals",
    )
    with pytest.raises(WriterConflict, match="'FIRST'"):
        second.set_datas_to_write(["LEFT"])
    left.set(1)
    assert first.flush() == 1


# -- what happens between two flushes ----------------------------------------------------------------------------------


def test_writers_that_take_over_from_each_other_never_mix(
    described: SharedMemory, client: redis.Redis, program: Callable[..., Program], full: bool
) -> None:
    """Each writes as fast as it can until it is replaced, then takes over again: its entries are in one piece."""
    code = """
        import random
        end = time.monotonic() + float(sys.argv[3])
        with SharedMemory(url=sys.argv[1]) as shm:
            turn = 0
            while time.monotonic() < end:
                turn += 1
                with DataDict(f"{sys.argv[2]}.{turn}", shm, take_over=True) as dd:
                    left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
                    stop = time.monotonic() + random.uniform(0, 0.03)
                    written = 0
                    try:
                        while time.monotonic() < stop:
                            left.set(written)
                            right.set(written)
                            dd.flush()
                            written += 1
                    except WriterConflict:
                        pass
                    print(f"{sys.argv[2]}.{turn}", written)
    """
    programs = [program(code, described.url, name, 20 if full else 2) for name in "ABC"]
    written: dict[str, int] = {}
    for each in programs:
        written.update((name, int(count)) for name, count in (line.split() for line in each.finish(60)))
    entries = [(f[b"sender"].decode(), int(f[b"number"])) for _, f in client.xrange("LEFT:history")]
    pieces = [sender for i, (sender, _) in enumerate(entries) if not i or entries[i - 1][0] != sender]
    assert len(pieces) == len(set(pieces)), "a replaced writer wrote again"
    for sender in pieces[1:]:  # of the first one the history may have lost a part
        mine = [number for who, number in entries if who == sender]
        assert mine == list(range(written[sender])), "what was acknowledged is there, once, in order, and nothing else"
    assert len(pieces) > 20


def test_a_connection_that_was_cut_is_looked_at_again(
    first: DataDict, described: SharedMemory, client: redis.Redis
) -> None:
    (left,) = first.set_datas_to_write(["LEFT"])
    write(first, 1, "LEFT")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert write(first, 2, "LEFT") == 1
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with DataDict("SECOND", described, take_over=True) as second:
        write(second, 3, "LEFT")
        left.set(4)
        with pytest.raises(WriterConflict, match="'SECOND'"):
            first.flush()
    assert numbers(client) == [1, 2, 3]


def test_a_forked_child_is_another_program(described: SharedMemory, program: Callable[..., Program]) -> None:
    forking = program(
        """
        with SharedMemory(url=sys.argv[1]) as shm, DataDict("PARENT", shm) as dd:
            left, = dd.set_datas_to_write(["LEFT"])
            left.set(1)
            dd.flush()
            left.set(2)
            child = os.fork()
            if not child:
                assert dd.flush() == 0, "what the parent staged is the parent's"
                try:
                    left.set(3)
                    dd.flush()
                except WriterConflict as error:
                    say("PARENT" in str(error) and f"process {os.getppid()} " in str(error))
                sys.exit()
            os.waitpid(child, 0)
            say(dd.flush())
        """,
        described.url,
    )
    assert forking.finish() == ["True", "1"]


def test_a_forgotten_application_s_lease_runs_out(described: SharedMemory, client: redis.Redis) -> None:
    dd = DataDict("FORGOTTEN", described)
    write(dd, 1, "LEFT")
    before = threading.active_count()
    del dd
    gc.collect()
    eventually(lambda: threading.active_count() < before)


def test_a_record_that_gets_an_owner_while_it_is_written(
    first: DataDict, second: DataDict, described: SharedMemory, client: redis.Redis
) -> None:
    (one,), (two,) = first.set_datas_to_write(["FREE"]), second.set_datas_to_write(["FREE"])
    for dd, data in ((first, one), (second, two)):
        data.set(1)
        assert dd.flush() == 1
    described.init({"FREE": {"owner": "HDL", "history": 0, "fields": FIELDS}}, keep=True)
    one.set(2)
    assert first.flush() == 1
    two.set(3)
    for _ in range(2):
        with pytest.raises(WriterConflict, match="record FREE: 'FIRST'"):
            second.flush()
    assert client.hget("FREE", "number") == b"2"
    one.set(4)
    assert first.flush() == 1


@pytest.mark.parametrize("value", ["", "{", "[]", "12", '"\\ud800"', '{"id": {"a": []}, "owner": 7}', "[" * 100_000])
def test_a_lease_that_another_program_damaged(
    first: DataDict, second: DataDict, client: redis.Redis, value: str
) -> None:
    (left,) = first.set_datas_to_write(["LEFT"])
    client.set("LEFT:lease", value)
    for number in (0, 1):
        left.set(number)
        assert first.flush() == 1
        client.set("LEFT:lease", value)
    write(second, 2, "LEFT")
    assert numbers(client) == [0, 1, 2]


def test_a_lease_that_somebody_deletes_is_taken_again(first: DataDict, client: redis.Redis) -> None:
    (left,) = first.set_datas_to_write(["LEFT"])
    write(first, 1, "LEFT")
    client.delete(*leases(client))
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert write(first, 2, "LEFT") == 1
    assert len(leases(client)) == 2


def test_prune_drops_the_lease_too(first: DataDict, described: SharedMemory, client: redis.Redis) -> None:
    write(first, 1, "LEFT")
    described.init({"FREE": FIELDS}, prune=True)
    assert client.exists("LEFT:lease") == 0


def test_who_holds_a_record_cannot_harm_a_terminal() -> None:
    told = who({"app": "\x1b[2J", "program": "=1+1\n", "pid": 10**5000, "host": ["\x9b"], "since": None})
    assert told.isprintable() and "a value that cannot be shown" in told


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_records_without_an_owner_cost_nothing(first: DataDict, client: redis.Redis) -> None:
    (free,) = first.set_datas_to_write(["FREE"])
    write(first, 0, "FREE")
    client.config_resetstat()
    for number in range(10):
        free.set(number)
        first.flush()
    assert [calls(client, each) for each in ("hset", "watch", "multi", "get")] == [10, 0, 0, 0]
    assert leases(client) == []


def test_a_flush_has_one_watch_more_however_many_records_are_held(first: DataDict, client: redis.Redis) -> None:
    (left, right) = first.set_datas_to_write(["LEFT", "RIGHT"])
    write(first, 1, "LEFT", "RIGHT")
    client.config_resetstat()
    for number in range(10):
        left.set(number)
        right.set(number)
        first.flush()
    assert [calls(client, each) for each in ("watch", "get", "exec", "mget")] == [10, 10, 10, 0]
