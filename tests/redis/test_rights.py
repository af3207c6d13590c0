"""Rights: with the ACL file that is made of descriptions each program does its work, and nothing else."""

import csv
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from archiving import stored
from programs import Program
from records import HEAD
from servers import OwnServer, free_port, plain_client
from shareddata import (
    DataDict,
    DescriptionError,
    ServerRefused,
    SharedMemory,
    TSLog,
    WriterConflict,
    acl,
    descfile,
)
from shareddata.archive import JsonArchiver
from shareddata.events import emit
from shareddata.export import export
from shareddata.follow import files
from shareddata.frames import FrameFile
from shareddata.rowsources import HistorySource
from shareddata.sensors import SensorReader, SensorWriter, pack_to_zip, remove

FIELDS = [*HEAD, ["number", 0]]
RECORDS: dict[str, Any] = {
    "LEFT": {"owner": "HDL_LEFT", "fields": FIELDS},
    "RIGHT": {"owner": "HDL_RIGHT", "history": 0, "fields": FIELDS},
    "LEFT2": {"owner": "HDL_RIGHT", "history": "2h", "fields": FIELDS},
    "ORDERS": FIELDS,
}
PROGRAMS: dict[str, Any] = {
    "HDL_LEFT": {"logs": ["left/*"], "queues": ["LEFT_ORDERS"], "sensors": ["lab/left"], "frames": ["left"],
                 "events": ["left"]},
    "ARCHIVER": {"archives": ["*"]},
    "SENDER": {"cursors": ["right"], "pushes": ["LEFT_ORDERS"], "records": ["ORDERS"]},
    "LOGGER": {"logs": ["right"]},
}  # fmt: skip


@pytest.fixture
def guarded(own_server: Callable[..., OwnServer], kind: str) -> OwnServer:
    """A server where each user's password is its name; described, by the admin."""
    described = descfile.load(RECORDS)
    users = acl.rights(described, PROGRAMS) | acl.rights(described, {}, "usv1")
    hashes = {user: hashlib.sha256(user.encode()).hexdigest() for user in users}
    server = own_server(kind, port=free_port(), aclfile=acl.text(users, hashes))
    with SharedMemory(url=as_user(server, "admin")) as shm:
        shm.init(RECORDS)
    return server


def as_user(server: OwnServer, user: str) -> str:
    return f"redis://{user}:{user}@127.0.0.1:{server.port}"


@pytest.fixture
def connect(guarded: OwnServer) -> Iterator[Callable[..., SharedMemory]]:
    made: list[SharedMemory] = []

    def connect(user: str, **options: Any) -> SharedMemory:
        made.append(SharedMemory(url=as_user(guarded, user), timeout=1, **options))
        return made[-1]

    yield connect
    for shm in made:
        shm.close()


@pytest.fixture
def admin(guarded: OwnServer) -> Iterator[redis.Redis]:
    with plain_client(as_user(guarded, "admin")) as client:
        yield client


Connect = Callable[..., SharedMemory]


def write(dd: DataDict, name: str, number: int, **named: Any) -> int:
    (data,) = dd.set_datas_to_write([name])
    data.set(number, **named)
    return dd.flush()


# -- what each may ----------------------------------------------------------------------------------------------------


def test_an_owner_writes_what_is_its_own_and_reads_everything(connect: Connect, admin: redis.Redis) -> None:
    shm = connect("HDL_LEFT")
    with DataDict("HDL_LEFT", shm) as dd, DataDict("HDL_RIGHT", connect("HDL_RIGHT")) as other:
        assert write(dd, "LEFT", 1) == 1
        assert write(dd, "LEFT", 2, expire=100) == 1
        assert write(dd, "LEFT", 3) == 1
        dd.set_datas_to_read(["LEFT", "RIGHT", "ORDERS"])
        assert [trame and trame.number for trame in dd.next()] == [3, None, None]
        listener, follower = dd.listen_to_datas(["RIGHT"], timeout=5), dd.follow_data("LEFT2", timeout=5)
        several = dd.listen_to_datas(["LEFT", "RIGHT"], pattern="R*", timeout=5)
        for name in ("RIGHT", "LEFT2"):
            assert write(other, name, 7) == 1
        assert next(listener)[0].number == next(follower).number == next(several)[1].number == 7
        assert shm.at(shm.clock.now() + 1)["LEFT"].number == 3
        assert not shm.describe("LEFT").stale(dd.next()[0])
    assert admin.exists("LEFT:lease", "RIGHT:lease") == 0, "what was closed is given back"


def test_a_second_copy_is_told_and_may_take_over(connect: Connect) -> None:
    with DataDict("FIRST", connect("HDL_LEFT")) as first, DataDict("SECOND", connect("HDL_LEFT")) as second:
        write(first, "LEFT", 1)
        with pytest.raises(WriterConflict, match="'FIRST'"):
            second.set_datas_to_write(["LEFT"])
        second.take_over = True
        write(second, "LEFT", 2)
        with pytest.raises(WriterConflict, match="'SECOND'"):
            write(first, "LEFT", 3)


def test_the_operator_orders_and_the_reader_reads(connect: Connect) -> None:
    with DataDict("OPERATOR", connect("operator")) as operator, DataDict("READER", connect("reader")) as reader:
        assert write(operator, "ORDERS", 5) == 1
        reader.set_datas_to_read(["ORDERS"])
        assert reader.next()[0].number == 5
        operator.declare_fifos(["LEFT_ORDERS"])[0].push("go")
        with pytest.raises(ServerRefused, match=r"record ORDERS.*NOPERM.*\(ORDERS has no owner\)"):
            write(reader, "ORDERS", 6)
        with pytest.raises(ServerRefused, match="NOPERM"):
            reader.declare_fifos(["LEFT_ORDERS"])[0].push("go")
    with DataDict("SENDER", connect("SENDER")) as sender, DataDict("HDL_LEFT", connect("HDL_LEFT")) as left:
        assert write(sender, "ORDERS", 6) == 1
        sender.declare_fifos(["LEFT_ORDERS"])[0].push("stop")
        (queue,) = left.declare_fifos(["LEFT_ORDERS"])
        assert (queue.pop(timeout=1), queue.drain()) == (["go"], [["stop"]])
        with pytest.raises(ServerRefused, match="NOPERM"):
            sender.declare_fifos(["LEFT_ORDERS"])[0].pop()


def test_logs_have_writers_readers_with_cursors_and_lookers(connect: Connect) -> None:
    with TSLog("right", ["I"], shm=connect("LOGGER")) as log:
        for number in range(40):
            log.store(number)
        log.commit()
        with TSLog("right", ["I"], shm=connect("SENDER")) as sending, sending.reader(0) as reader:
            assert len(list(reader)) == 40
            reader.commit()
        with TSLog("right", ["I"], shm=connect("reader")) as looking, looking.reader(0) as reader:
            assert (list(reader), reader.position) == ([], 40)
            assert looking.stats().seqn == 40
            log.store(40)
            log.commit()
            assert reader.next() == (40,)
            with pytest.raises(ServerRefused, match="NOPERM"):
                reader.commit()
        log.store(41)
        with TSLog("right", ["I"], shm=connect("HDL_LEFT")) as other:
            with pytest.raises(ServerRefused, match="NOPERM"):
                other.store(666)
            other._writer.forget()
        assert log.commit() == 42
    with TSLog("left/engine", ["I"], shm=connect("HDL_LEFT"), recreate=True) as log:
        log.store(1)
    with pytest.raises(ServerRefused, match="NOPERM"):
        TSLog("new", ["I"], shm=connect("HDL_LEFT"))


def test_sensors(connect: Connect) -> None:
    mine = SensorWriter("lab", "left", shm=connect("HDL_LEFT"))
    mine.write("x", 1.5)
    mine.write("big", b"x" * 200_000)
    mine.write("y", {"a": [1, 2]})
    pack_to_zip(["x", "y"], mine.data_path)
    reader = SensorReader("lab", "left", shm=connect("reader"))
    assert (reader.x, reader.get_data("y"), len(reader.big)) == (1.5, {"a": [1, 2]}, 200_000)
    assert reader.measurement
    with pytest.raises(ServerRefused, match="NOPERM"):
        SensorWriter("lab", "right", shm=connect("HDL_LEFT")).write("x", 1)
    with pytest.raises(ServerRefused, match="NOPERM"):
        SensorWriter("lab", "left", shm=connect("HDL_RIGHT")).write("x", 1)
    with pytest.raises(ServerRefused, match="NOPERM"):
        remove("lab/left", shm=connect("reader"))
    mine.remove()


def test_frames(connect: Connect) -> None:
    import numpy

    with FrameFile("left", connect("HDL_LEFT"), "w") as mine:
        frames = mine.create_dataset("frames", shape=(0, 4), maxshape=(None, 4), dtype="<u2", chunks=(1, 4))
        frames.resize((1, 4))
        frames[0] = numpy.arange(4)
        with FrameFile("left", connect("reader")) as theirs:
            assert theirs["frames"][0].tolist() == [0, 1, 2, 3]
        with files(since=0, shm=connect("reader"), timeout=0.1) as found:
            assert len(list(found)) == 1
        mine.seal()
    with pytest.raises(ServerRefused, match="NOPERM"):
        FrameFile("left", connect("HDL_RIGHT"), "w")
    with pytest.raises(ServerRefused, match="NOPERM"):
        FrameFile("right", connect("HDL_LEFT"), "w")


def test_events_and_archivers(connect: Connect, tmp_path: Path) -> None:
    archiver = JsonArchiver(str(tmp_path / "{{ n }}.json"), False, "left", "shot", shm=connect("ARCHIVER"))
    with archiver:
        for number in range(5):
            emit("left", "shot", {"x": number}, {"n": number}, connect("HDL_LEFT"))
        stored(archiver, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number}.json" for number in range(5)]
    with pytest.raises(ServerRefused, match="NOPERM"):
        emit("right", "shot", 1, {}, connect("HDL_LEFT"))
    with pytest.raises(ServerRefused, match="NOPERM"):
        emit("left", "shot", 1, {}, connect("HDL_RIGHT"))


def test_a_namespace_s_users_stay_in_it(connect: Connect, admin: redis.Redis) -> None:
    connect("usv1.admin", namespace="usv1").init(RECORDS)
    with DataDict("HDL_LEFT", connect("usv1.HDL_LEFT", namespace="usv1")) as dd:
        assert write(dd, "LEFT", 1) == 1
        dd.set_datas_to_read(["LEFT"])
        assert dd.next()[0].number == 1
        assert admin.hget("{usv1}:LEFT", "number") == b"1"
    with pytest.raises(ServerRefused, match="NOPERM|no permission"):
        connect("usv1.HDL_LEFT").names()
    with pytest.raises(ServerRefused, match="NOPERM|no permission"):
        connect("usv1.admin").init(RECORDS)
    assert connect("HDL_LEFT", namespace="usv1").names() == sorted(RECORDS), "without a namespace one may read them all"


# -- and nothing else -------------------------------------------------------------------------------------------------


def test_a_refused_write_names_the_owner(connect: Connect) -> None:
    with DataDict("HDL_LEFT", connect("HDL_LEFT")) as dd:
        with pytest.raises(ServerRefused, match=r"the lease of record RIGHT: .*NOPERM.*\(RIGHT belongs to HDL_RIGHT\)"):
            dd.set_datas_to_write(["LEFT", "RIGHT"])
        with pytest.raises(ServerRefused, match=r"record ORDERS: .*NOPERM.*was written \(ORDERS has no owner\)"):
            write(dd, "ORDERS", 1)


def test_rights_that_are_taken_away_while_a_program_writes(connect: Connect, admin: redis.Redis) -> None:
    with DataDict("HDL_RIGHT", connect("HDL_RIGHT")) as dd:
        write(dd, "RIGHT", 1)
        admin.execute_command("ACL", "SETUSER", "HDL_RIGHT", "clearselectors")
        (right,) = dd.set_datas_to_write(["RIGHT"])
        right.set(2)
        with pytest.raises(ServerRefused, match=r"record RIGHT: .*NOPERM.*\(RIGHT belongs to HDL_RIGHT\)"):
            dd.flush()


def test_without_a_name_nobody_gets_in(guarded: OwnServer) -> None:
    for url in (f"redis://127.0.0.1:{guarded.port}", guarded.url):
        with pytest.raises(ServerRefused, match="NOAUTH|Authentication required|log in"):
            SharedMemory(url=url)
    with pytest.raises(ServerRefused, match="correct user and password"):
        SharedMemory(url=f"redis://HDL_LEFT:HDL_RIGHT@127.0.0.1:{guarded.port}")


ATTACKS = """
HSET RIGHT number 666
HSET LEFT2 number 666
HSETNX RIGHT more 1
HINCRBY RIGHT number 1
HDEL RIGHT number
DEL RIGHT
UNLINK RIGHT
PEXPIRE RIGHT 1
EXPIRE RIGHT 1
PERSIST RIGHT
RENAME RIGHT LEFT
RENAME LEFT RIGHT
COPY LEFT RIGHT REPLACE
MOVE RIGHT 1
RESTORE RIGHT 0 x REPLACE
MIGRATE 127.0.0.1 6379 RIGHT 0 100
SORT LEFT STORE RIGHT
XADD RIGHT:history * ts 1 sender HDL_RIGHT number 666
XADD LEFT2:history * ts 1 sender HDL_RIGHT number 666
XTRIM LEFT2:history MAXLEN 0
XDEL LEFT2:history 1-1
XSETID LEFT:history 99999999999999-0
XADD LEFT:described * description []
DEL LEFT:described
XTRIM LEFT:history MAXLEN 0
DEL LEFT
SET LEFT x
SET RIGHT:lease x
DEL RIGHT:lease
GETDEL RIGHT:lease
GETEX RIGHT:lease EX 1
SET shareddata:writer:HDL_RIGHT:abc x
DEL shareddata:writer:HDL_RIGHT:abc
SET shareddata:fence:HDL_RIGHT:abc x
HSET shareddata:datadesc RIGHT {}
HDEL shareddata:datadesc RIGHT
DEL shareddata:datadesc
INCR shareddata:epoch
SET shareddata:format 2
SET READY OK
LPOP fifo:OTHER
RPUSH fifo:OTHER [666]
LTRIM fifo:OTHER 1 0
BLPOP fifo:OTHER 1
XADD tslog:right * 0 x
XTRIM tslog:right MAXLEN 0
DEL tslog:right
SET tslog:right:writer x
XGROUP SETID tslog:right reader:0 0
XGROUP SETID tslog:right reader:0 $
XGROUP DESTROY tslog:right reader:0
XGROUP CREATE tslog:right evil 0
XREADGROUP GROUP reader:0 me COUNT 1 STREAMS tslog:right >
XACK tslog:right reader:0 1-0
XCLAIM tslog:right reader:0 me 0 1-0
XAUTOCLAIM tslog:right reader:0 me 0 0
HSET sensor:lab/right x 1
DEL sensor:lab/right
HSET frames:right x 1
XADD event:right:shot * a b
XREADGROUP GROUP archiver me COUNT 1 STREAMS event:left:shot >
HDEL shareddata:archived x
HSET shareddata:forward identity x
EVAL return\xa0redis.call("HSET","RIGHT","number","666") 0
EVAL return\xa0redis.call("HSET",KEYS[1],"number","666") 1 RIGHT
EVAL_RO return\xa01 0
EVALSHA 0 0
FCALL f 0
FUNCTION LOAD #!lua\xa0name=x
FUNCTION FLUSH
SCRIPT LOAD return\xa01
SCRIPT FLUSH
SCRIPT KILL
CONFIG SET maxmemory 1
CONFIG SET notify-keyspace-events KEA
CONFIG GET requirepass
CONFIG REWRITE
CONFIG RESETSTAT
FLUSHALL
FLUSHDB
SWAPDB 0 1
SELECT 1
SAVE
BGSAVE
BGREWRITEAOF
SHUTDOWN NOSAVE
DEBUG SLEEP 10
DEBUG SET-ACTIVE-EXPIRE 0
REPLICAOF 127.0.0.1 1
FAILOVER
PSYNC ? -1
SYNC
CLUSTER RESET
ACL SETUSER HDL_LEFT ~* +@all
ACL GETUSER admin
ACL LIST
ACL DELUSER HDL_RIGHT
ACL LOAD
ACL LOG RESET
MODULE LOAD x.so
MONITOR
SLOWLOG RESET
LATENCY RESET
MEMORY PURGE
CLIENT KILL TYPE normal
CLIENT PAUSE 100000
CLIENT UNPAUSE
CLIENT LIST
CLIENT UNBLOCK 1
CLIENT NO-EVICT ON
CLIENT REPLY OFF
KEYS *
RANDOMKEY
OBJECT FREQ RIGHT
PUBLISH __keyspace@0__:RIGHT hset
PUBLISH other x
SPUBLISH other x
SUBSCRIBE other
PSUBSCRIBE *
PFADD RIGHT x
SETBIT RIGHT 1 1
GEOADD RIGHT 1 1 a
LMOVE fifo:OTHER fifo:LEFT_ORDERS LEFT LEFT
RPOPLPUSH fifo:OTHER fifo:LEFT_ORDERS
SINTERSTORE RIGHT LEFT
ZUNIONSTORE RIGHT 1 LEFT
GETSET RIGHT x
MSET LEFT x RIGHT y
""".strip().splitlines()
"""What a program with the rights of HDL_LEFT tries; a no-break space stands for a blank in an argument."""


@pytest.fixture
def hostile(guarded: OwnServer) -> Iterator[redis.Redis]:
    with plain_client(as_user(guarded, "HDL_LEFT")) as client:
        yield client


@pytest.fixture
def stocked(guarded: OwnServer, connect: Connect, admin: redis.Redis) -> None:
    """There is something of everything that is not the attacker's."""
    with DataDict("HDL_RIGHT", connect("HDL_RIGHT")) as right:
        write(right, "RIGHT", 1)
        write(right, "LEFT2", 1)
    with TSLog("right", ["I"], shm=connect("LOGGER")) as log:
        log.store(1)
    admin.rpush("fifo:OTHER", "[1]")
    admin.hset("sensor:lab/right", "x", "1")
    admin.hset("frames:right", "x", "1")
    admin.set("READY", "no")
    admin.set("RIGHT:lease", "{}")
    admin.hset("shareddata:archived", "x", "1")


def dump(admin: redis.Redis) -> dict[bytes, Any]:
    return {key: (admin.dump(key), admin.pttl(key)) for key in admin.keys("*")}


def test_every_way_round_is_closed(stocked: None, hostile: redis.Redis, admin: redis.Redis) -> None:
    before, users, settings = dump(admin), admin.acl_list(), admin.config_get("*")
    served = []
    for attack in ATTACKS:
        words = [word.replace("\xa0", " ") for word in attack.split(" ")]
        try:
            served.append((attack, hostile.execute_command(*words)))
        except redis.exceptions.NoPermissionError:
            pass
        except redis.exceptions.ResponseError as error:
            if not re.search("unknown command|(DEBUG|MODULE) command not allowed", str(error)):
                served.append((attack, error))
    assert served == []
    assert dump(admin) == before
    assert (admin.acl_list(), admin.config_get("*")) == (users, settings)


def test_a_transaction_with_something_forbidden_is_void(hostile: redis.Redis, admin: redis.Redis) -> None:
    before = dump(admin)
    with hostile.pipeline(transaction=True) as pipe:
        pipe.hset("LEFT", "number", "1")
        pipe.hset("RIGHT", "number", "1")
        with pytest.raises(redis.exceptions.ResponseError, match="(?i)permission"):
            pipe.execute()
    assert dump(admin) == before


def test_its_own_keys_of_another_kind_of_right_do_not_mix(hostile: redis.Redis) -> None:
    """A selector's commands work on its keys only: no DEL on the record, no SET on the history."""
    hostile.hset("LEFT", "number", "1")
    for command in (("DEL", "LEFT"), ("SET", "LEFT:history", "x"), ("XADD", "LEFT:lease", "*", "a", "b"),
                    ("HSET", "fifo:LEFT_ORDERS", "a", "b"), ("RPUSH", "tslog:left/x", "a")):  # fmt: skip
        with pytest.raises(redis.exceptions.NoPermissionError, match="(?i)no permissions"):
            hostile.execute_command(*command)


# -- what is made to harm who reads it --------------------------------------------------------------------------------

HARM = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r\n=HYPERLINK(\"http://evil\")"


@pytest.fixture
def harmful(shm: SharedMemory) -> Iterator[SharedMemory]:
    """Everything that a program may write, and a description, made to harm."""
    option = {"unit": HARM, "doc": HARM}
    fields = [*HEAD, ["text", "", option], ["list", [], option], ["any", None, option]]
    shm.init({"EVIL": {"doc": HARM, "owner": HARM, "max_age": 0.001, "fields": fields}, "TORN": FIELDS})
    with DataDict(HARM, shm) as dd:
        for text in (HARM, "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "plain"):
            (evil,) = dd.set_datas_to_write(["EVIL"])
            evil.set(text, [HARM], {HARM: HARM}, ts=1e9 + len(text))
            dd.flush()
        with plain_client(shm.url) as client:
            client.hset("TORN", mapping={"sender": HARM, "ts": HARM})
            client.set("EVIL:lease", json.dumps(dict.fromkeys(("id", "app", "program", "host", "owner"), HARM)))
            client.xadd(f"tslog:{HARM}", {HARM: HARM})
            client.xadd(b"tslog:\xff\x1b", {HARM: HARM})
        yield shm


@pytest.mark.parametrize("arguments", [
    ["list"], ["list", "--json"], ["get", "EVIL"], ["get", "--json", "EVIL"], ["get", "TORN"],
    ["tail", "--since", "0", "--timeout", "0", "EVIL"], ["tail", "--json", "--since", "0", "--timeout", "0", "EVIL"],
    ["watch", "-s", "0.6"], ["watch", "--json", "-s", "0.6"], ["log", "list"], ["log", "list", "--json"],
    ["set", "EVIL", "text=x"], ["record", "--length", "1s", "--since", "0", "FOLDER"],
])  # fmt: skip
def test_nothing_reaches_the_terminal_as_it_came(harmful: SharedMemory, tmp_path: Path, arguments: list[str]) -> None:
    words = [str(tmp_path / "run") if word == "FOLDER" else word for word in arguments]
    command = [sys.executable, "-m", "shareddata", *words, "-u", harmful.url]
    ended = subprocess.run(command, capture_output=True, timeout=30, check=False)
    for output in (ended.stdout, ended.stderr):
        text = output.decode()
        assert all(line.isprintable() for line in text.split("\n")), repr(text)
        assert b"Traceback" not in output
    assert ended.returncode == int(arguments[-1] == "TORN")


def test_a_watched_terminal_is_not_harmed(harmful: SharedMemory, program: Callable[..., Program]) -> None:
    watching = program(
        """
        import pty
        pty.spawn([sys.executable, "-m", "shareddata", "watch", "-s", "1", "-u", sys.argv[1]])
        """,
        harmful.url,
        env={"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "200", "LINES": "50"},
    )
    shown = "\n".join(watching.finish())
    assert "EVIL" in shown
    assert "\x1b[31m" not in shown and "owned\x07" not in shown and "\x9b" not in shown and "\u202e" not in shown


@pytest.mark.parametrize("exact", [False, True])
def test_a_spreadsheet_sees_no_formula(harmful: SharedMemory, tmp_path: Path, exact: bool) -> None:
    with plain_client(harmful.url) as client:
        client.delete(f"tslog:{HARM}", b"tslog:\xff\x1b")
    export(HistorySource(harmful, ["EVIL"]), tmp_path / "evil.csv", exact=exact)
    with open(tmp_path / "evil.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = [HARM, "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "plain"]
    if exact:
        assert [row["text"] for row in rows] == texts
        return
    cells = [cell for row in rows for name, cell in row.items() if name in ("text", "sender", "list", "any")]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in cells)
    assert [re.sub("^'('*[=+@\t-])", r"\1", row["text"]) for row in rows] == texts


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_makes_a_file_that_a_server_takes(
    own_server: Callable[..., OwnServer], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "records.json").write_text(json.dumps(RECORDS))
    (tmp_path / "programs.json").write_text(json.dumps(PROGRAMS))

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shareddata", "acl", "--programs", "programs.json", "records.json", *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)

    first = run("-o", "users.acl")
    assert (first.returncode, first.stdout) == (0, "")
    assert re.search(r"HDL_LEFT +records LEFT; logs left/\*; queues LEFT_ORDERS; sensors", first.stderr)
    made = (tmp_path / "users.acl").read_text()
    assert run().stdout == made, "passwords that are there are kept"
    assert (tmp_path / "users.acl").stat().st_mode & 0o777 == 0o600
    for file in (tmp_path / "passwords").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text().strip() not in made + first.stderr
    server = own_server(kind, port=free_port(), aclfile=made)
    for user in ("admin", "HDL_LEFT"):
        monkeypatch.setenv("SHAREDDATA_USER", user)
        monkeypatch.setenv("SHAREDDATA_PASSWORD_FILE", str(tmp_path / "passwords" / user))
        with SharedMemory(url=f"redis://127.0.0.1:{server.port}") as shm, DataDict(user, shm) as dd:
            if user == "admin":
                shm.init(tmp_path / "records.json")
            else:
                assert write(dd, "LEFT", 1) == 1


def test_an_acl_file_is_never_empty(tmp_path: Path) -> None:
    """A server that reads an empty one lets everybody in: it stays what it was on a full disk, or isn't there."""
    (tmp_path / "records.json").write_text(json.dumps(RECORDS))

    def run(limit: str, file: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f'ulimit -f {limit}; exec "$@"', "sh", sys.executable, "-m", "shareddata", "acl"]
        command += ["-o", file, "records.json"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)

    acl.password_hashes(tmp_path / "passwords", list(acl.rights(descfile.load(RECORDS))))
    old = "user default off\n" * 1000
    (tmp_path / "users.acl").write_text(old)
    for file, left in (("users.acl", [old]), ("new.acl", [])):
        ended = run("0", file)
        assert ended.returncode == 1 and "File too large" in ended.stderr
        assert [path.read_text() for path in tmp_path.glob(file)] == left
    assert run("unlimited", "users.acl").returncode == 0
    assert (tmp_path / "users.acl").read_text().count("user default off") == 1


@pytest.mark.parametrize(
    ("records", "programs", "says"),
    [
        ({"A": {"owner": "a b", "fields": FIELDS}}, {}, "record A: 'a b' cannot be a user's name"),
        ({"A": {"owner": "admin", "fields": FIELDS}}, {}, "'admin' is a user of its own"),
        ({}, {"default": {}}, "'default' is a user of its own"),
        ({}, {"x y": {}}, "program: 'x y' cannot be"),
        ({}, {"X": ["logs"]}, "program X: expected an object of lists"),
        ({}, {"X": {"log": ["a"]}}, "unknown right 'log': did you mean 'logs'"),
        ({}, {"X": {"zzz": ["a"]}}, "unknown right 'zzz': known are records, logs"),
        ({}, {"X": {"logs": "a"}}, 'program X, logs: found "a", expected a list of names of logs that it stores into'),
        ({}, {"X": {"logs": ["a) +@all (~*"]}}, "expected a list of names"),
        ({}, {"X": {"logs": ["a\nuser evil on"]}}, "expected a list of names"),
        (RECORDS, {"X": {"records": ["LEFT"]}}, "record 'LEFT' belongs to HDL_LEFT: only its owner writes it"),
        (RECORDS, {"X": {"records": ["NONE"]}}, "record 'NONE' is not described"),
    ],
)
def test_rights_that_cannot_be_given(records: dict[str, Any], programs: dict[str, Any], says: str) -> None:
    with pytest.raises(DescriptionError, match=re.escape(says)):
        acl.rights(descfile.load(records), programs)


def test_a_file_of_programs_that_cannot_be_read(tmp_path: Path) -> None:
    for text, says in (("{", "Expecting"), ("[]", "expected an object of programs")):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(DescriptionError, match=says):
            acl.programs_from(tmp_path / "p.json")
    with pytest.raises(DescriptionError, match="No such file"):
        acl.programs_from(tmp_path / "none.json")
    (tmp_path / "admin").write_text("\n")
    with pytest.raises(DescriptionError, match="is empty"):
        acl.password_hashes(tmp_path, ["admin"])
