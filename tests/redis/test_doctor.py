"""The doctor: each wrong set-up that is made here is found, in plain words, with the command that mends it."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from programs import Program
from records import HEAD
from servers import OwnServer, free_port, plain_client
from shareddata import DataDict, SharedMemory, TSLog, acl, descfile, serverhealth
from shareddata.archive import JsonArchiver
from shareddata.doctor import Finding, examine, healthy
from shareddata.events import emit
from shareddata.facts import NOTE, OK, UNKNOWN, WRONG

FIELDS = [*HEAD, ["number", 0]]
RECORDS: dict[str, Any] = {
    "LEFT": {"owner": "HDL", "max_age": 30.0, "fields": FIELDS},
    "RIGHT": {"history": 0, "fields": FIELDS},
}
WELL = ("--maxmemory", "100mb", "--notify-keyspace-events", "Khx")


def look(server: OwnServer, url: str = "", files: Any = None, **options: Any) -> list[Finding]:
    described = descfile.load(files) if files else {}
    return examine(lambda: SharedMemory(url=url or server.url, wait=0.5, timeout=0.5, **options), described)


def found(findings: Sequence[Finding], verdict: str, pattern: str) -> Finding:
    matching = [each for each in findings if each.verdict == verdict and re.search(pattern, each.text)]
    assert len(matching) == 1, "\n".join(map(str, findings))
    return matching[0]


def carry_out(server: OwnServer, remedy: str) -> None:
    """Do what a remedy says, where that is settings of the server."""
    remedy = remedy.rpartition("or: ")[2]
    assert remedy.startswith(f"redis-cli -s {server.url.removeprefix('unix://')} ")
    with server.client() as client:
        for command in remedy.split("; "):
            words = shlex.split(command)[3:]
            if words != ["config", "rewrite"]:  # the test's servers have no configuration file
                client.execute_command(*words)


def write(dd: DataDict, name: str, number: int = 1, **named: Any) -> None:
    (data,) = dd.set_datas_to_write([name])
    data.set(number, **named)
    dd.flush()


@pytest.fixture
def make(own_server: Callable[..., OwnServer], kind: str) -> Callable[..., OwnServer]:
    """Make a server that is set up well, but for the options; described, and written."""

    def make(*options: str, **more: Any) -> OwnServer:
        server = own_server(kind, options=(*WELL, *options), **more)
        with SharedMemory(url=server.url) as shm, DataDict("HDL", shm) as dd:
            shm.init(RECORDS)
            write(dd, "LEFT")
            write(dd, "RIGHT")
        return server

    return make


@pytest.fixture
def well(make: Callable[..., OwnServer]) -> OwnServer:
    return make()


# -- a server that is as it should be ---------------------------------------------------------------------------------


def test_nothing_is_wrong(well: OwnServer) -> None:
    before = dump(well)
    findings = look(well, files=RECORDS)
    assert healthy(findings) and not [each for each in findings if each.verdict == UNKNOWN]
    notes = [each for each in findings if each.verdict == NOTE]
    assert all("may keep half of a transaction" in each.text for each in notes)
    subjects = ["connection", "version", "persistence", "memory", "clients", "notifications", "clock", "rights",
                "replication", "descriptions", "records", "sizes"]  # fmt: skip
    assert [*dict.fromkeys(each.subject for each in findings)] == subjects
    found(findings, OK, "on disk within about a second: a power cut loses that much, a killed server nothing")
    found(findings, OK, r"2 records: 0\.\d kB \(0\.\d kB each\), their histories \d\.\d kB, the biggest LEFT")
    found(findings, OK, "only this Unix user reaches the server")
    assert dump(well) == before, "a doctor changes nothing"


def dump(server: OwnServer) -> Any:
    with server.client() as client:
        return {key: client.dump(key) for key in client.keys("*")}, client.config_get("*"), client.acl_list()


def test_the_command(well: OwnServer, tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(json.dumps(RECORDS))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shareddata", "doctor", "-u", well.url, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)

    ended = run("records.json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"^ok     descriptions   2 records, epoch 1, as the files say$", ended.stdout, re.MULTILINE)
    assert re.search(r"^0 to be mended, \d to be known, 0 not looked at$", ended.stdout, re.MULTILINE)
    shown = json.loads(run("--json").stdout)
    assert shown["healthy"] and shown["findings"][0]["subject"] == "connection"
    with well.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    ended = run()
    assert ended.returncode == 1
    assert "WRONG  memory         at the bound the server deletes keys in silence (allkeys-lru)\n" in ended.stdout
    assert f"mend: redis-cli -s {well.url[7:]} config set maxmemory-policy noeviction" in ended.stdout
    assert not json.loads(run("--json").stdout)["healthy"]


# -- settings, each mended by what the doctor says --------------------------------------------------------------------

SETTINGS = [
    (("--appendonly", "no"), WRONG, "in memory only: a server that ends loses it"),
    (("--appendonly", "no", "--save", "3600 1"), WRONG, "in memory until the next snapshot"),
    (("--appendfsync", "no"), WRONG, "on disk when the system writes it: a power cut loses some 30 seconds"),
    (("--appendfsync", "always", "--no-appendfsync-on-rewrite", "yes"), WRONG, "but not while the server rewrites"),
    (("--auto-aof-rewrite-percentage", "0"), WRONG, "the append-only file is never rewritten: it has .*B, and grows"),
    (("--maxmemory-policy", "allkeys-lru"), WRONG, r"deletes keys in silence \(allkeys-lru\)"),
    (("--maxmemory", "0"), NOTE, "and no bound: a full machine ends programs"),
    (("--notify-keyspace-events", "KEA"), NOTE, "more than listeners need, and each event costs time"),
    (("--notify-keyspace-events", ""), NOTE, "the flags are '': the first listener switches on what is missing"),
    (("--timeout", "60"), NOTE, "closes connections that are idle for 60 s"),
]


@pytest.mark.parametrize(("options", "verdict", "says"), SETTINGS, ids=lambda value: " ".join(value)[:40])
def test_a_wrong_setting(make: Callable[..., OwnServer], options: tuple[str, ...], verdict: str, says: str) -> None:
    server = make(*options)
    finding = found(look(server), verdict, says)
    carry_out(server, finding.remedy)
    if finding.subject == "persistence":
        with server.client() as client:
            while client.info("persistence")["aof_rewrite_in_progress"]:
                time.sleep(0.01)
    assert not [each for each in look(server) if re.search(says, each.text)], "it is mended"


def test_replicas_that_are_wanted_and_not_there(make: Callable[..., OwnServer]) -> None:
    server = make()
    with server.client() as client:
        client.config_set("min-replicas-to-write", "2")
    finding = found(look(server), WRONG, "0 replicas are there, 2 are wanted: every write is refused")
    carry_out(server, finding.remedy)
    assert healthy(look(server))


def test_memory_that_is_nearly_full(well: OwnServer) -> None:
    with well.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.15))
    finding = found(look(well), WRONG, "MB used: soon every write is refused")
    carry_out(well, finding.remedy)
    assert healthy(look(well))


def test_connections_that_are_nearly_used_up(make: Callable[..., OwnServer]) -> None:
    server = make("--maxclients", "20")
    clients = [server.client() for _ in range(16)]
    try:
        for client in clients:
            client.ping()
        finding = found(look(server), WRONG, r"1\d of 20 connections are taken")
        assert "config set maxclients 40" in finding.remedy
    finally:
        for client in clients:
            client.close()


def test_a_disk_that_cannot_be_written(make: Callable[..., OwnServer], tmp_path: Path) -> None:
    well = make("--enable-protected-configs", "yes")
    with well.client() as client:
        (tmp_path / "gone").mkdir()
        before = client.config_get("dir")["dir"]
        client.config_set("dir", str(tmp_path / "gone"))
        shutil.rmtree(tmp_path / "gone")
        client.bgsave()
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            time.sleep(0.01)
        found(look(well), WRONG, "could not write its last snapshot: it may refuse every write")
        client.config_set("dir", before)


def test_commands_that_are_renamed_away(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, options=(*WELL, "--rename-command", "XADD", ""))
    finding = found(look(server), WRONG, "the server does not know XADD: renamed away")
    assert "rename-command" in finding.remedy


def test_a_cluster_without_a_namespace(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, port=free_port(), options=(*WELL, "--cluster-enabled", "yes"))
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            time.sleep(0.05)
    assert found(look(server), WRONG, "part of a cluster, and no namespace").remedy == "give -n NAME"
    assert not [e for e in look(server, namespace="usv1") if "no namespace" in e.text]


# -- not reached, or not let in ---------------------------------------------------------------------------------------


def test_nobody_is_there(short_path: Path) -> None:
    (only,) = examine(lambda: SharedMemory(url=f"unix://{short_path}/none", wait=0))
    assert (only.subject, only.verdict) == ("connection", WRONG)
    assert "nobody answers" in only.text and "shareddata serve" in only.remedy


def test_a_wrong_password(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, password="right")
    (only,) = look(server, url=f"{server.url}?password=wrong")
    assert only.verdict == WRONG and "correct user and password" in only.remedy


def test_a_silent_server(well: OwnServer) -> None:
    well.stop()
    try:
        (only,) = look(well)
        assert only.verdict == WRONG and "silent" in only.text + only.remedy
    finally:
        well.cont()


def test_data_of_a_newer_library(well: OwnServer) -> None:
    with well.client() as client:
        client.set("shareddata:format", "99")
    (only,) = look(well)
    assert only.verdict == WRONG and "have format 99" in only.text and "pip install --upgrade" in only.remedy


def test_a_replica(make: Callable[..., OwnServer]) -> None:
    server = make()
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", 1)
        finding = found(look(server), WRONG, "this is a replica of 127.0.0.1:1, and it has lost it: writes are refused")
        assert finding.remedy == "use the master's address: redis://127.0.0.1:1"
        client.execute_command("REPLICAOF", "NO", "ONE")


def test_a_replica_that_does_not_keep_up(
    own_server: Callable[..., OwnServer], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = own_server(kind, port=free_port(), options=(*WELL, "--repl-diskless-sync-delay", "0"))
    replica = own_server(kind, port=free_port(), options=("--replicaof", f"127.0.0.1 {master.port}"))
    with master.client() as client:
        deadline = time.monotonic() + 20
        while client.info("replication").get("slave0", {}).get("state") != "online" and time.monotonic() < deadline:
            time.sleep(0.05)
        found(look(master), OK, "a master with 1 replica")
        replica.stop()
        try:
            monkeypatch.setattr(serverhealth, "_LAG", 1)
            while int(client.info("replication")["slave0"]["lag"]) < 3 and time.monotonic() < deadline:
                time.sleep(0.1)
            found(look(master), WRONG, f"replicas that don't keep up: 127.0.0.1:{replica.port}")
        finally:
            replica.cont()


# -- rights -----------------------------------------------------------------------------------------------------------


def test_a_server_that_is_open_to_the_network(own_server: Callable[..., OwnServer], kind: str) -> None:
    options = ("--port", str(free_port()), "--bind", "0.0.0.0", "--protected-mode", "no")
    server = own_server(kind, options=(*WELL, *options))
    finding = found(look(server), WRONG, "everybody who reaches 0.0.0.0 can read, write and delete everything")
    assert finding.remedy.startswith("shareddata acl")


@pytest.fixture
def guarded(own_server: Callable[..., OwnServer], kind: str) -> OwnServer:
    users = acl.rights(descfile.load(RECORDS))
    hashes = {user: hashlib.sha256(user.encode()).hexdigest() for user in users}
    more = f"user evil on #{hashes['admin']} ~LEFT +@all\n"
    server = own_server(kind, port=free_port(), options=WELL, aclfile=acl.text(users, hashes) + more)
    with SharedMemory(url=as_user(server, "admin")) as shm:
        shm.init({**RECORDS, "ALONE": {"owner": "NOBODY", "fields": FIELDS}})
    return server


def as_user(server: OwnServer, user: str) -> str:
    return f"redis://{user}:{user}@127.0.0.1:{server.port}"


def test_a_user_who_may_write_what_belongs_to_another(guarded: OwnServer) -> None:
    findings = look(guarded, url=as_user(guarded, "admin"))
    finding = found(findings, WRONG, "the user evil may write LEFT, which belong to others")
    assert f"redis-cli -h 127.0.0.1 -p {guarded.port} acl load" in finding.remedy
    found(findings, NOTE, "owners of records that are no users of this server: NOBODY")
    found(findings, OK, "nobody gets in without a password")


def test_a_user_who_may_not_ask_everything(guarded: OwnServer) -> None:
    """What can be looked at is looked at."""
    findings = look(guarded, url=as_user(guarded, "reader"))
    assert healthy(findings)
    found(findings, OK, "logged in as reader, who may not see the others' rights")
    found(findings, OK, "3 records, epoch 1")
    found(findings, NOTE, "CONFIG is refused: listeners use tracking instead")
    with plain_client(as_user(guarded, "admin")) as client:
        client.execute_command("ACL", "SETUSER", "reader", "-info", "-memory|usage", "-scan")
    findings = look(guarded, url=as_user(guarded, "reader"))
    assert [each.subject for each in findings if each.verdict == UNKNOWN] == [
        "version", "persistence", "memory", "replication", "sizes", "cursors",
    ]  # fmt: skip


def test_a_password_that_others_can_read(guarded: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("reader\n")
    file.chmod(0o644)
    monkeypatch.setenv("SHAREDDATA_USER", "reader")
    monkeypatch.setenv("SHAREDDATA_PASSWORD_FILE", str(file))
    url = f"redis://127.0.0.1:{guarded.port}"
    finding = found(look(guarded, url=url), WRONG, "others can read the password in .*PASSWORD_FILE")
    subprocess.run(finding.remedy, shell=True, check=True)
    assert healthy(look(guarded, url=url))


# -- clocks -----------------------------------------------------------------------------------------------------------


def test_this_machine_s_clock(well: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 100)
    finding = found(look(well), WRONG, r"this machine's clock is 100\.\d s ahead of the server's")
    assert "timedatectl" in finding.remedy
    monkeypatch.setattr(time, "time", lambda: real() - 100)
    found(look(well), WRONG, r"this machine's clock is 100\.\d s behind the server's")


def test_a_writer_s_clock(well: OwnServer) -> None:
    with SharedMemory(url=well.url) as shm, DataDict("HDL", shm) as dd:
        write(dd, "LEFT", ts=time.time() + 100)
    finding = found(look(well), WRONG, r"LEFT: the writer's clock is \d+ s ahead")
    assert "timedatectl" in finding.remedy


# -- data -------------------------------------------------------------------------------------------------------------


def test_nothing_is_described(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, options=WELL)
    assert found(look(server), WRONG, "nothing is described there").remedy == "shareddata init FILE..."
    found(look(server, namespace="usv1"), WRONG, "nothing is described there in the namespace 'usv1'")


def test_descriptions_that_differ_from_the_files(well: OwnServer) -> None:
    files = {
        "LEFT": {"owner": "HDL", "max_age": 20.0, "fields": [*HEAD, ["number", 0, {"unit": "m"}]]},
        "RIGHT": {"history": 0, "fields": [*HEAD, ["number", 0.0]]},
        "NEW": FIELDS,
    }
    findings = look(well, files=files)
    found(findings, WRONG, "the files describe NEW, and the server does not know them")
    found(findings, WRONG, "files differ from the server: LEFT: field 'number' has the unit 'm', had ''")
    found(findings, WRONG, "files differ from the server: RIGHT: field 'number' is float, was int")
    found(findings, NOTE, r"files differ from the server: LEFT: has the max_age 20\.0, had 30\.0")
    with SharedMemory(url=well.url) as shm:
        shm.init(files, keep=True)
    assert healthy(look(well, files=files))


def test_a_record_that_nobody_writes_any_more(well: OwnServer, program: Callable[..., Program]) -> None:
    with SharedMemory(url=well.url) as shm, DataDict("HDL", shm) as dd:
        write(dd, "LEFT", ts=time.time() - 100)
        found(look(well), WRONG, r"LEFT is old: over 30 s, received .*: not written for 1\.7 min; 'HDL' .* and lives")
        write(dd, "RIGHT", ts=time.time() - 200_000)
        found(look(well), NOTE, r"RIGHT was not written for 2\.3 d")
    found(look(well), WRONG, "LEFT is old.*; HDL wrote it last, and nobody holds it now")
    killed = program(
        """
        with SharedMemory(url=sys.argv[1]) as shm, DataDict("KILLED", shm) as dd:
            left, = dd.set_datas_to_write(["LEFT"])
            left.set(1, ts=time.time() - 100)
            dd.flush()
            say("written")
            sys.stdin.read()
        """,
        well.url,
    )
    assert killed.line() == "written"
    killed.kill()
    with well.client() as client:
        client.delete(*client.keys("shareddata:writer:*"))  # as when its lease has run out
    found(look(well), WRONG, "LEFT is old.*'KILLED' .* and was killed, or cut off")


def test_records_that_were_never_written(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, options=WELL)
    with SharedMemory(url=server.url) as shm:
        shm.init({f"R{number}": [["ts", 0.0], ["sender", "x"]] for number in range(8)})
    found(look(server), NOTE, "never written since they were described: R0, R1, R2, R3, R4 and 3 more")


def test_a_damaged_record(well: OwnServer) -> None:
    with well.client() as client:
        client.hset("RIGHT", "number", "\x1b[2J")
    finding = found(look(well), WRONG, "record RIGHT, field 'number': found b'.x1b")
    assert finding.remedy.startswith("shareddata set RIGHT")


def test_histories_that_will_not_fit(well: OwnServer) -> None:
    with SharedMemory(url=well.url) as shm:
        shm.init({"LEFT": {"owner": "HDL", "max_age": 30.0, "history": 10**9, "fields": FIELDS}}, keep=True)
    finding = found(look(well), WRONG, r"the histories will take \d.* GB when they are full, and the server may")
    assert '"history"' in finding.remedy


@pytest.fixture
def logs(well: OwnServer) -> Iterator[Callable[..., TSLog]]:
    with SharedMemory(url=well.url) as shm:

        def make(**options: Any) -> TSLog:
            return TSLog("trip", ["I"], bucket_size=10, shm=shm, **options)

        yield make


def test_a_reader_that_holds_a_log_back(well: OwnServer, logs: Callable[..., TSLog]) -> None:
    with logs() as log:
        for number in range(200):
            log.store(number)
        log.commit()
        finding = found(look(well), WRONG, "log trip: reader:0 has not committed 200 records: the log keeps 20 buckets")
        assert "xgroup destroy tslog:trip reader:0" in finding.remedy.replace("'", "")
        with log.reader(0) as reader:
            assert len(list(reader)) == 200
            reader.commit()
        assert healthy(look(well))


def test_a_reader_that_has_lost_records(well: OwnServer, logs: Callable[..., TSLog]) -> None:
    with logs(max_buckets=2) as log:
        for number in range(200):
            log.store(number)
    found(look(well), WRONG, r"reader:0 has not committed 200 records, of which 1\d0 are dropped already")


def test_an_archiver_that_is_behind(well: OwnServer, tmp_path: Path) -> None:
    with SharedMemory(url=well.url) as shm:
        with JsonArchiver(str(tmp_path / "{{ n }}.json"), False, "cam", "shot", shm=shm, name="keeper"):
            pass
        for number in range(3):
            emit("cam", "shot", number, {"n": number}, shm)
        finding = found(look(well), NOTE, "events shot of cam: the archiver .* has 3 to do")
        assert "--forget" in finding.remedy


def test_what_is_beside_the_records_is_counted(well: OwnServer, logs: Callable[..., TSLog]) -> None:
    with logs() as log:
        log.store(1)
    with SharedMemory(url=well.url) as shm, DataDict("x", shm) as dd:
        dd.declare_fifos(["Q"])[0].push(1)
    findings = look(well)
    found(findings, OK, r"^logs: 3 keys, \d\.\d kB")
    found(findings, OK, r"^queues: 1 key, 0\.\d kB")
