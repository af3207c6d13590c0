"""`shareddata log`: what there is, whether it is whole, what trimming takes from whom."""

import functools
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from programs import Program
from servers import OwnServer, plain_client
from shareddata import SharedMemory, logs
from shareddata.errors import DecodeError, SharedDataError, UnknownData
from shareddata.logs import Look
from shareddata.names import made_key
from shareddata.tslog import TSLog

Said = tuple[int, str, str]
Call = Callable[..., Said]


@pytest.fixture
def call(command: Call) -> Call:
    """Call `shareddata log` in this process: exit code, standard output, standard error."""
    return functools.partial(command, "log")


@pytest.fixture
def engine(shm: SharedMemory) -> Iterator[TSLog]:
    """A log of 100 records in buckets of 10; reader 0 has committed 55, reader 1 nothing."""
    with TSLog("engine/slow", ["Qd"], bucket_size=10, max_buckets=1000, nreaders=2, shm=shm) as log:
        for i in range(100):
            log.store(i, i / 3)
        log.commit()
        with log.reader(0) as reader:
            reader.read_many(55)
            reader.commit()
        yield log


def test_list(engine: TSLog, shm: SharedMemory, call: Call) -> None:
    with TSLog("a", record_size=4, nreaders=0, shm=shm) as log:
        log.store_record(b"1234")
    code, out, _ = call("list")
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["LOG", "FORMATS", "FIRST", "LAST", "RECORDS", "BYTES", "READERS"]
    assert lines[1].split()[:4] == ["a", "1", "1", "1"]
    assert lines[2].split()[:5] == ["engine/slow", "Qd", "1", "100", "100"]
    assert lines[2].endswith("reader:0 45 behind, reader:1 100 behind")
    found = json.loads(call("list", "--json")[1])
    assert found["engine/slow"]["readers"]["reader:0"] == {"committed": 55, "lag": 45, "missing": 0}
    with plain_client(shm.url) as client:
        assert found["engine/slow"]["size"] == client.memory_usage("tslog:engine/slow")


def test_damaged_logs_do_not_hide_the_others(engine: TSLog, shm: SharedMemory, call: Call) -> None:
    with plain_client(shm.url) as client:
        client.set("tslog:other:key", "x")  # of another program: no log has such a key
        client.set("tslog:text", "x")
        damaged = {"broken": "{", "list": "[]", "number": '{"formats": 5}', "size": '{"record_size": ""}'}
        for name, made in damaged.items():
            client.xadd(f"tslog:{name}", {"0": "x"})
            client.set(made_key(f"tslog:{name}"), made)
        client.xgroup_create("tslog:engine/slow", b"\xff\x1b", "1-0")
    found = {state.name: state for state in logs.states(shm)}
    assert set(found) == {"broken", "engine/slow", "list", "number", "size", "text"}
    assert "wrong kind of value" in found["text"].damage and "found b'{' in the key" in found["broken"].damage
    assert all(found[name].damage for name in ("list", "number", "size"))
    assert found["engine/slow"].lag("\\xff\x1b") == 99
    code, out, err = call("list")
    assert code == 1 and [line.split()[0] for line in out.splitlines()] == ["LOG", "engine/slow"]
    assert len(err.splitlines()) == 5 and "another program wrote it" in err
    assert json.loads(call("list", "--json")[1])["text"]["damage"] == found["text"].damage
    said = call("stats", "broken")
    assert said[0] == 1 and "found b'{' in the key" in said[2]
    engine.store(100, 1.0)
    assert engine.commit() == 101, "who writes is not disturbed by a reader with such a name"


def test_list_of_a_namespace(shm: SharedMemory, call: Call) -> None:
    assert call("list") == (0, "", f"{shm.url}: there is no log\n")
    with SharedMemory(url=shm.url, namespace="usv1") as other, TSLog("x", ["i"], shm=other) as log:
        log.store(1)
        log.commit()
        assert logs.names(other) == ["x"] and logs.names(shm) == []
        assert call("tail", "x", "-n", "usv1")[1] == "1  (1,)\n"


def test_stats(engine: TSLog, call: Call) -> None:
    code, out, _ = call("stats", "engine/slow")
    assert code == 0
    for line in (
        "Qd, records of 16 bytes",
        "100, numbers 1 to 100",
        "of 10 records",
        "committed 55, 45 behind",
        "writer",
    ):
        assert line in out
    found = json.loads(call("stats", "engine/slow", "-j")[1])
    assert (found["first"], found["last"], found["length"], found["formats"]) == (1, 100, 100, ["Qd"])
    assert found["durability"] == engine.durability


def test_looking_changes_nothing(engine: TSLog, shm: SharedMemory, call: Call) -> None:
    with plain_client(shm.url) as client:

        def everything() -> Any:
            return {key: client.dump(key) for key in sorted(client.keys())}

        before = everything()
        for action in ("list", "stats", "tail", "verify"):
            call(action, *([] if action == "list" else ["engine/slow"]))
        call("verify", "nothing")
        assert everything() == before
    assert engine.store(1, 1.0) == 101 and engine.commit() == 101


# -- tail -----------------------------------------------------------------------------------------------------------


def test_tail(engine: TSLog, call: Call) -> None:
    assert call("tail", "engine/slow", "-c", 2) == (0, f"99  (98, {98 / 3})\n100  (99, 33.0)\n", "")
    assert len(call("tail", "engine/slow")[1].splitlines()) == 10
    assert len(call("tail", "engine/slow", "-c", 1000)[1].splitlines()) == 100
    engine.store(7, float("nan"))
    engine.store_record(b"\x00\xff")
    engine.commit()
    lines = call("tail", "engine/slow", "-c", 2, "--json")[1].splitlines()
    assert [json.loads(line) for line in lines] == [
        {"seqn": 101, "tag": 0, "values": [7, "NaN"]},
        {"seqn": 102, "tag": None, "values": ["00ff"]},
    ]


def test_tail_of_several_formats(shm: SharedMemory, call: Call) -> None:
    with TSLog("two", ["i", "2s"], shm=shm) as log:
        log.store_with_tag(0, 1)
        log.store_with_tag(1, b"ab")
    assert call("tail", "two")[1] == "1  (0, (1,))\n2  (1, (b'ab',))\n"


FOLLOW = """
import sys
from shareddata.cli import main
main(["log", "tail", "--follow", "--count", "1", "way", "-u", sys.argv[1]])
"""


def test_follow_survives_a_restart_and_numbers_given_anew(
    own_server: Callable[..., OwnServer], program: Callable[..., Program]
) -> None:
    server = own_server()
    with SharedMemory(url=server.url) as shm:
        with TSLog("way", ["i"], shm=shm) as log:
            log.store(10)
            log.store(20)
            log.commit()
            follower = program(FOLLOW, server.url)
            assert follower.line() == "2  (20,)"
            log.store(30)
            log.commit()
            assert follower.line() == "3  (30,)"
            server.kill()
            server.start()
            log.store(40)
            log.commit()
            assert follower.line() == "4  (40,)"
        with TSLog("way", ["i"], recreate=True, shm=shm) as log:
            log.store(50)
            log.commit()
            assert follower.line() == "1  (50,)"


# -- verify ---------------------------------------------------------------------------------------------------------


def test_verify_a_whole_log(engine: TSLog, call: Call) -> None:
    code, out, err = call("verify", "engine/slow")
    assert (code, out, err) == (0, "engine/slow: 100 records read, numbers 1 to 100: OK, no gap\n", "")
    engine.store_record(b"raw")
    for i in range(3000):
        engine.store(i, 0.0)
    engine.commit()
    assert json.loads(call("verify", "engine/slow", "-j")[1])["records"] == 3101


def test_verify_lists_what_is_missing_or_wrong(engine: TSLog, shm: SharedMemory, call: Call) -> None:
    with plain_client(shm.url) as client:
        client.xdel("tslog:engine/slow", "5-0", "20-0", "21-0", "22-0", "100-0")
        client.xadd("tslog:engine/slow", {"0": b"short"}, id="101-0")
        client.xadd("tslog:engine/slow", {"7": b"x" * 16}, id="102-0")
        client.xadd("tslog:engine/slow", {"raw": b"x" * 17}, id="103-0")
        client.xadd("tslog:engine/slow", {"0": b"x" * 16}, id="103-1")
        client.xadd("tslog:engine/slow", {"0": b"x" * 16}, id="104-0")
        client.xdel("tslog:engine/slow", "104-0")
    code, out, _ = call("verify", "engine/slow")
    assert code == 1
    assert out.splitlines() == [
        "missing: 5",
        "missing: 20 to 22, 3 records",
        "missing: 100",
        "missing: 104",
        "wrong: record 101: 5 bytes, expected 16 for the format 'Qd'",
        "wrong: record 102: the tag '7', and the log has 1 formats",
        "wrong: record 103: 17 bytes, expected 16 at the most",
        "wrong: record 103: its number was there already",
        "engine/slow: 98 records read, numbers 1 to 104: 6 missing, 4 wrong",
    ]
    found = json.loads(call("verify", "engine/slow", "--json")[1])
    assert found["gaps"] == [[5, 5], [20, 22], [100, 100], [104, 104]] and not found["whole"]
    code, out, err = call("tail", "engine/slow", "-c", 6)
    assert code == 1 and out == f"99  (98, {98 / 3})\n103  ({0x7878787878787878}, {decoded('x')})\n"
    assert "log engine/slow, record 101: 5 bytes" in err and "record 103: 17 bytes" in err


def decoded(character: str) -> float:
    return float(struct.unpack("<d", 8 * character.encode())[0])


def test_what_was_trimmed_is_no_gap(engine: TSLog, shm: SharedMemory, call: Call) -> None:
    with plain_client(shm.url) as client:
        client.xtrim("tslog:engine/slow", minid="31-0", approximate=False)
        assert call("verify", "engine/slow")[1] == "engine/slow: 70 records read, numbers 31 to 100: OK, no gap\n"
        client.xtrim("tslog:engine/slow", maxlen=0, approximate=False)
    assert call("verify", "engine/slow")[:2] == (0, "engine/slow: 0 records read: OK, no gap\n")


def test_cleaning_while_verifying_is_no_gap(engine: TSLog, shm: SharedMemory) -> None:
    class Cleaned(Look):
        def records(self, after: int = 0, until: int | None = None) -> Iterator[logs.Entry]:
            for entry in super().records(after, until):
                if entry.seqn == 10:
                    self.stream.trim(31)
                if not 10 < entry.seqn <= 30:
                    yield entry

    with Cleaned(shm, "engine/slow") as look:
        found = look.verify()
    assert (found.whole, found.trimmed, found.records) == (True, 20, 80)


def test_log_whose_shape_was_lost(engine: TSLog, shm: SharedMemory, call: Call) -> None:
    with plain_client(shm.url) as client:
        client.delete("tslog:engine/slow:log", "tslog:engine/slow:writer")
    assert call("list")[1].splitlines()[1].split()[:2] == ["engine/slow", "unknown"]
    assert call("verify", "engine/slow")[0] == 0
    code, _, err = call("trim", "engine/slow", "--buckets", 1)
    assert code == 1 and "the server has lost its bucket size: give a number" in err


# -- trim -----------------------------------------------------------------------------------------------------------


def test_trim_stops_at_the_slowest_reader(engine: TSLog, shm: SharedMemory, call: Call) -> None:
    code, out, err = call("trim", "engine/slow", "--below", 41)
    assert (code, out) == (1, "")
    assert "not committed by reader:1 (40): nothing was dropped; wait for them, or drop them all the same" in err
    with engine.reader(1) as reader:
        reader.read_many(40)
        reader.commit()
    code, _, err = call("trim", "engine/slow", "--below", 51)
    assert code == 1 and "reader:1 (10): nothing was dropped; drop below 41 only, or all the same with --force" in err
    assert call("trim", "engine/slow", "--below", 41) == (0, "40 records dropped, below 41\n", "")
    assert call("trim", "engine/slow", "--below", 41) == (0, "0 records dropped, below 41\n", "")
    assert call("verify", "engine/slow")[1].endswith("60 records read, numbers 41 to 100: OK, no gap\n")


def test_trim_by_force_tells_who_loses_what(engine: TSLog, call: Call) -> None:
    code, out, err = call("trim", "engine/slow", "--buckets", 2, "--force")
    assert (code, out) == (0, "80 records dropped, below 81\n")
    assert err == "reader:0 loses 25 that it had not committed\nreader:1 loses 80 that it had not committed\n"
    with engine.reader(0) as reader:
        assert reader.next() == (80, 80 / 3)
        assert reader.missed == 25
    found = json.loads(call("trim", "engine/slow", "--below", 10**6, "--force", "--json")[1])
    assert found == {"below": 101, "dropped": 20, "lost": {"reader:0": 20, "reader:1": 20}}
    assert engine.store(1, 1.0) == 101


# -- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stats"], "stats which log? give one name"),
        (["list", "x"], "list takes no name"),
        (["trim", "x"], "give one of --below SEQN and --buckets COUNT"),
        (["trim", "x", "--below", "1", "--buckets", "1"], "give one of --below SEQN and --buckets COUNT"),
        (["burn", "x"], "invalid choice: 'burn'"),
    ],
)
def test_wrong_usage(call: Call, arguments: list[str], says: str) -> None:
    code, _, err = call(*arguments)
    assert code == 2 and says in err


def test_unknown_log(engine: TSLog, shm: SharedMemory, call: Call) -> None:
    code, _, err = call("verify", "engine/slo")
    assert code == 1 and "no log 'engine/slo': did you mean engine/slow?" in err
    with pytest.raises(UnknownData, match=r"no log 'zzz': there are 1: `shareddata log list`"):
        Look(shm, "zzz")


def test_library(engine: TSLog, shm: SharedMemory) -> None:
    with Look(shm, "engine/slow") as look:
        assert [entry.seqn for entry in look.records(97)] == [98, 99, 100]
        assert look.decode(next(look.records())) == (0, (0, 0.0))
        with pytest.raises(DecodeError, match=r"log engine/slow, record 5: 1 bytes, expected 16"):
            look.decode(logs.Entry(5, b"0", b"x"))
        with pytest.raises(SharedDataError, match="nothing was dropped"):
            look.trim(buckets=1)
