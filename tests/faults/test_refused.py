"""Servers that say no: memory, disk, rights, replicas. At once, with the remedy, and nothing is forgotten."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from records import HEAD, PAIR
from servers import OwnServer, free_port, short_folder
from shareddata import DataDict, ServerError, ServerRefused, ServerUnreachable, SharedMemory

RECORDS = {**PAIR, "ALONE": {"history": 0, "fields": [*HEAD, ["number", 0]]}}


def stage(dd: DataDict, number: int, text: str = "") -> None:
    left, right, alone = dd.set_datas_to_write(["LEFT", "RIGHT", "ALONE"])
    left.set(number, text)
    right.set(number, text)
    alone.set(number)


def check_refused(dd: DataDict, words: str, readable: bool = True) -> None:
    """A group is refused at once, nothing is written, reads go on, nothing is forgotten."""
    dd.set_datas_to_read(["LEFT", "RIGHT", "ALONE"])
    before = dd.read(fresh=True) if readable else None
    for _ in range(2):
        start = time.monotonic()
        with pytest.raises(ServerRefused, match=f"{words}.*nothing was written") as refused:
            dd.flush()
        assert time.monotonic() - start < 1
        assert not refused.value.outcome_unknown
        assert not readable or dd.read(fresh=True) == before


def check_written(dd: DataDict, number: int) -> None:
    assert dd.flush() == 3
    assert [trame.number for trame in dd.next()] == [number] * 3


def test_the_servers_memory_is_full(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind)
    with SharedMemory(url=server.url) as shm, DataDict("writer", shm) as dd, server.client() as client:
        shm.init(RECORDS)
        stage(dd, 1)
        dd.flush()
        stage(dd, 2)
        client.config_set("maxmemory", 1)
        readable = kind != "redis"  # Redis 7.0 then refuses whatever is queued in MULTI, reads too
        check_refused(dd, "OOM.*CONFIG SET maxmemory", readable)
        (queue,) = dd.declare_fifos(["Q"])
        with pytest.raises(ServerRefused, match="OOM"):
            queue.push(1)
        with pytest.raises(ServerRefused, match="OOM.*nothing was written"):
            shm.init(RECORDS)
        if readable:
            follower, listener = dd.follow_data("LEFT", 0, timeout=0.1), dd.listen_to_datas(["LEFT"], timeout=0.1)
            assert [trame.number for trame in follower] == [1]
            assert list(listener) == []
        client.config_set("maxmemory", 0)
        check_written(dd, 2)


def test_a_single_record_without_history_is_refused_too(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with SharedMemory(url=server.url) as shm, DataDict("writer", shm) as dd, server.client() as client:
        shm.init(RECORDS)
        (alone,) = dd.set_datas_to_write(["ALONE"])
        for number in (1, 2):
            alone.set(number)
            client.config_set("maxmemory", 1)
            with pytest.raises(ServerRefused, match="OOM.*nothing was written"):
                dd.flush()
            client.config_set("maxmemory", 0)
            assert dd.flush() == 1


def test_too_few_replicas(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind)
    with SharedMemory(url=server.url) as shm, DataDict("writer", shm) as dd, server.client() as client:
        shm.init(RECORDS)
        stage(dd, 1)
        client.config_set("min-replicas-to-write", 1)
        check_refused(dd, "NOREPLICAS.*min-replicas-to-write")
        client.config_set("min-replicas-to-write", 0)
        check_written(dd, 1)


def test_a_replica(own_server: Callable[..., OwnServer], kind: str, eventually: Callable[..., object]) -> None:
    """It can be read and listened to, not written; when it becomes the master the writer goes on."""
    master = own_server(kind, port=free_port(), options=("--repl-diskless-sync-delay", "0"))
    replica = own_server(kind, port=free_port())
    with SharedMemory(url=master.url) as shm, DataDict("writer", shm) as dd:
        shm.init(RECORDS)
        stage(dd, 1)
        dd.flush()
        with replica.client() as client:
            client.config_set("repl-diskless-load", "disabled")
            client.replicaof("127.0.0.1", master.port)
            eventually(lambda: client.info("replication")["master_link_status"] == "up", 10, "the replica")
            with SharedMemory(url=replica.url) as there, DataDict("reader", there) as reader:
                reader.set_datas_to_read(["LEFT", "RIGHT", "ALONE"])
                assert [trame.number for trame in reader.next()] == [1, 1, 1]
                listener, follower = reader.listen_to_datas(["LEFT"], timeout=3), reader.follow_data("LEFT", timeout=3)
                stage(dd, 2)
                dd.flush()
                assert next(follower).number == 2
                while next(listener)[0].number != 2:
                    pass
                stage(reader, 3)
                check_refused(reader, "READONLY.*use the master's address")
                with pytest.raises(ServerRefused, match="READONLY"):
                    there.init(RECORDS)
                client.replicaof("NO", "ONE")
                assert reader.flush() == 3


# -- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder that holds 2 MB."""
    folder = short_folder()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk(small_disk: Path, own_server: Callable[..., OwnServer], kind: str) -> None:
    """With `everysec` writes are refused, reads go on; when there is room again the staged values go out."""
    server = own_server(kind, folder=small_disk)
    with SharedMemory(url=server.url) as shm, DataDict("writer", shm) as dd, server.client() as client:
        shm.init(RECORDS)
        stage(dd, 1)
        dd.flush()
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(b"x" * 3_000_000)
        number, refused = 1, None
        deadline = time.monotonic() + 10
        while refused is None and time.monotonic() < deadline:
            try:
                stage(dd, number + 1, "x" * 10_000)
                dd.flush()
                number += 1
            except ServerError as error:
                refused = error
        assert isinstance(refused, ServerRefused)
        check_refused(dd, "MISCONF.*make room")
        assert dd.read(fresh=True)[0].number == number
        filler.unlink()
        deadline = time.monotonic() + 10
        while True:
            try:
                check_written(dd, number + 1)
                break
            except ServerRefused:
                assert time.monotonic() < deadline
        assert client.ping()


def test_a_full_disk_under_fsync_always(small_disk: Path, own_server: Callable[..., OwnServer], kind: str) -> None:
    """The server ends rather than acknowledge what it cannot keep; started again with room, it has all of it."""
    server = own_server(kind, folder=small_disk, fsync="always")
    with SharedMemory(url=server.url, timeout=0.5) as shm, DataDict("writer", shm) as dd:
        shm.init(RECORDS)
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * 1_000_000)
        number, away = 0, None
        while away is None:
            try:
                stage(dd, number + 1, "x" * 10_000)
                dd.flush()
                number += 1
            except ServerError as error:
                away = error
        assert isinstance(away, ServerUnreachable | ServerRefused)
        assert number > 3
        filler.unlink()
        server.server.kill()
        server.start()
        dd.set_datas_to_read(["LEFT", "ALONE"])
        kept = dd.next()[0].number
        assert kept >= number, "an acknowledged write is lost"
        assert kept == number or away.outcome_unknown
        check = dd.flush()
        assert check == 3
        got = [trame.number for trame in dd.follow_data("LEFT", 0, timeout=0.05)]
        assert got == list(range(got[0], number + 2))


# -- rights -----------------------------------------------------------------------------------------------------------

USERS = """
user default on nopass ~* &* +@all
user battery on >secret %RW~LEFT* %R~* resetchannels &__keyspace@*__:* +@all -@admin -@dangerous +info +config|get
user nomulti on >secret ~* &* +@all -multi
user notracking on >secret ~* &* +@all -client|tracking
user nothing on >secret
"""


def address(server: OwnServer, user: str) -> str:
    return f"redis://{user}:secret@127.0.0.1:{server.port}"


@pytest.fixture
def guarded(own_server: Callable[..., OwnServer], kind: str) -> OwnServer:
    server = own_server(kind, port=free_port(), aclfile=USERS)
    with SharedMemory(url=server.url) as shm:
        shm.init(RECORDS)
    return server


def test_no_right_to_write_one_record_voids_all(guarded: OwnServer) -> None:
    with SharedMemory(url=address(guarded, "battery")) as shm, DataDict("battery", shm) as dd:
        stage(dd, 1)
        check_refused(dd, "NOPERM.*ACL SETUSER")
        with pytest.raises(ServerRefused, match="record (RIGHT|ALONE).*NOPERM"):
            dd.flush()
        with guarded.client() as client:
            assert client.exists("LEFT:history") == 0
    with SharedMemory(url=address(guarded, "battery")) as shm, DataDict("battery", shm) as dd:
        (left,) = dd.set_datas_to_write(["LEFT"])
        left.set(5, "")
        assert dd.flush() == 1
        dd.set_datas_to_read(["LEFT", "RIGHT"])
        listener, follower = dd.listen_to_datas(["RIGHT", "LEFT"], timeout=3), dd.follow_data("LEFT", 0, timeout=3)
        assert next(follower).number == 5
        with guarded.client() as client:
            client.hset("RIGHT", mapping={"sender": "redis-cli", "number": "7"})
        assert next(listener)[0].number == 7
        with pytest.raises(ServerRefused, match="NOPERM.*nothing was written"):
            shm.init(RECORDS)
        with guarded.client() as client:
            assert client.get("shareddata:epoch") == b"1"


def test_without_the_right_to_a_transaction_the_message_tells_what_happened(guarded: OwnServer) -> None:
    with SharedMemory(url=address(guarded, "nomulti")) as shm, DataDict("program", shm) as dd:
        with pytest.raises(ServerRefused, match="NOPERM.*multi"):
            stage(dd, 1)
        dd.set_datas_to_read(["LEFT", "RIGHT"])
        with pytest.raises(ServerRefused, match="NOPERM.*multi"):
            dd.next()
        with pytest.raises(ServerRefused, match="NOPERM.*multi") as refused:
            shm.init({"NEW": HEAD})
        with guarded.client() as client:
            written = client.exists("NEW")
        assert not (written and "nothing was written" in str(refused.value)), "it was written all the same"


@pytest.mark.parametrize("user", ["nothing", "notracking"])
def test_rights_that_are_missing_are_said_at_once(guarded: OwnServer, user: str) -> None:
    start = time.monotonic()
    with pytest.raises(ServerRefused, match="no permissions.*ACL SETUSER"):
        SharedMemory(url=address(guarded, user))
    assert time.monotonic() - start < 1


def test_a_right_that_is_taken_away_and_given_back(guarded: OwnServer) -> None:
    with SharedMemory(url=address(guarded, "battery")) as shm, DataDict("battery", shm) as dd, \
            guarded.client() as client:
        (left,) = dd.set_datas_to_write(["LEFT"])
        left.set(1, "")
        dd.flush()
        client.execute_command("ACL", "SETUSER", "battery", "-hset")
        left.set(2, "")
        with pytest.raises(ServerRefused, match="record LEFT.*NOPERM.*hset.*nothing was written"):
            dd.flush()
        client.execute_command("ACL", "SETUSER", "battery", "+hset")
        assert dd.flush() == 1
        client.execute_command("ACL", "SETUSER", "battery", "off")
        client.execute_command("CLIENT", "KILL", "USER", "battery")
        left.set(3, "")
        start = time.monotonic()
        with pytest.raises(ServerRefused, match="correct user and password"):
            dd.flush()
        assert time.monotonic() - start < 1
        client.execute_command("ACL", "SETUSER", "battery", "on")
        assert dd.flush() == 1


def test_a_server_full_of_clients(own_server: Callable[..., OwnServer]) -> None:
    """It takes connections and answers each with an error."""
    server = own_server(options=("--maxclients", "10"))
    clients = [server.client() for _ in range(10)]
    try:
        for client in clients:
            client.ping()
        start = time.monotonic()
        with pytest.raises(ServerError, match="max number of clients|nobody answers"):
            SharedMemory(url=server.url, wait=0.2)
        assert time.monotonic() - start < 1
    finally:
        for client in clients:
            client.close()
    with SharedMemory(url=server.url) as shm:
        assert shm.names() == []


@pytest.mark.parametrize("command", ["DEBUG SLEEP", "CLIENT PAUSE"])
def test_a_busy_server_is_waited_for_within_the_time_out(own_server: Callable[..., OwnServer], command: str) -> None:
    server = own_server(options=("--enable-debug-command", "yes"))
    with SharedMemory(url=server.url, timeout=2) as shm, DataDict("writer", shm) as dd, server.client() as client:
        shm.init(RECORDS)
        stage(dd, 1)
        dd.flush()
        stage(dd, 2)
        if command == "CLIENT PAUSE":
            client.execute_command("CLIENT", "PAUSE", 300)
        else:
            client.connection_pool.get_connection().send_command("DEBUG", "SLEEP", "0.3")
        start = time.monotonic()
        assert dd.flush() == 3
        assert time.monotonic() - start > 0.1
