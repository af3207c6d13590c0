"""Threads, forked children, signals and ends: what one program does with its connections."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from leaks import open_files
from programs import Program
from records import HEAD, PAIR
from shareddata import DataDict, SharedMemory


def test_close_closes_everything(url: str, monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    monkeypatch.setenv("LOGDIR", str(short_path))
    before = open_files()
    for _ in range(3):
        shm = SharedMemory(url=url)
        shm.init(PAIR)
        dd = DataDict("program", shm)
        (left,) = dd.set_datas_to_write(["LEFT"])
        dd.set_datas_to_read(["LEFT"])
        left.set(1, "")
        dd.flush()
        dd.next()
        made = [dd.listen_to_datas(["LEFT"]), dd.follow_data("LEFT"), *dd.declare_fifos(["Q"])]
        made[2].push(1)
        assert len(open_files()) >= len(before) + 6
        left.set(2, "not flushed")
        shm.close()
        assert open_files() == before
        shm.close()
        dd.close()
    with SharedMemory(url=url) as shm, DataDict("reader", shm) as dd:
        dd.set_datas_to_read(["LEFT"])
        assert dd.next()[0].number == 1
    assert open_files() == before


def test_a_program_that_closes_nothing_in_between_gets_no_warning(
    shm: SharedMemory, program: Callable[..., Program]
) -> None:
    """Listeners and followers made in a loop, as in the documentation: `for ... in dd.listen_to_datas(...)`."""
    shm.init(PAIR)
    looping = program(
        """
        import gc, warnings
        warnings.simplefilter("error")
        faults = []
        sys.unraisablehook = faults.append
        def work(dd):
            for trames in dd.listen_to_datas(["LEFT"], timeout=0.01):
                pass
            for trame in dd.follow_data("LEFT", timeout=0.01):
                pass
            dd.declare_fifos(["Q"])[0].push(1)
        with SharedMemory(url=sys.argv[1]) as shm:
            for i in range(3):
                with DataDict("program", shm) as dd:
                    work(dd)
        del shm, dd
        gc.collect()
        say([fault.exc_value for fault in faults])
        """,
        shm.url,
    )
    assert looping.finish() == ["[]"]


def test_a_failed_constructor_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INIT_MSG", "NEVER")
    before = open_files()
    with pytest.raises(TimeoutError, match="NEVER"):
        SharedMemory(url=url, env_init="INIT_MSG").close()
    assert open_files() == before


@pytest.fixture(autouse=True)
def _short_wait_for_init(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = SharedMemory.wait_for_init
    monkeypatch.setattr(SharedMemory, "wait_for_init", lambda self, timeout=0.1: wait(self, timeout))


def test_threads_share_a_memory(url: str) -> None:
    """Each with its DataDict; descriptions are asked for by all while they change."""
    records = {f"R{i}": [*HEAD, ["number", 0]] for i in range(4)}
    failures: list[BaseException] = []
    declared = threading.Barrier(4)

    def work(number: int) -> None:
        try:
            with DataDict(f"thread {number}", shm) as dd:
                (data,) = dd.set_datas_to_write([f"R{number}"])
                dd.set_datas_to_read([f"R{number}", "SHARED"])
                declared.wait(30)  # who declares it later would know fields that others take away
                for i in range(200):
                    data.set(i)
                    dd.flush()
                    assert dd.next()[0].number == i
                    assert shm.describe(f"R{number}").name in shm.names()
                    if i % 20 == 0:
                        shm.init({"SHARED": [*HEAD, [f"field{number}", 0]]} if i % 40 else {"OTHER": HEAD})
                        shm.epoch()
        except BaseException as error:  # noqa: BLE001 -- whatever it is: shown at the end of the test
            failures.append(error)

    with SharedMemory(url=url) as shm:
        shm.init(records, {"SHARED": HEAD})
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert failures == []


FORK = """
    import threading
    from pathlib import Path
    url, folder = sys.argv[1:]
    os.environ["LOGDIR"] = folder
    shm = SharedMemory(url=url)
    dd = DataDict("program", shm)
    left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
    dd.set_datas_to_read(["LEFT", "RIGHT"])
    q, = dd.declare_fifos(["Q"])
    assert q.pop() is None
    listener, follower = dd.listen_to_datas(["LEFT"], timeout=5), dd.follow_data("LEFT", timeout=5)
    left.set(1, "parent")
    dd.flush()
    dd.next(), next(listener), next(follower)
    left.set(2, "staged by the parent")
    sockets = {made._connection._sock.fileno() for made in (shm, q, listener, follower)}
    sockets |= {dd._reader._sock.fileno(), dd._writer._sock.fileno()}
    def identity(number):
        try:
            status = os.fstat(number)
            return status.st_dev, status.st_ino
        except OSError:
            return None
    identities = {number: identity(number) for number in sockets}
"""


def test_a_forked_child_does_not_disturb_its_parent(
    shm: SharedMemory, client: redis.Redis, program: Callable[..., Program], short_path: Path
) -> None:
    shm.init(PAIR)
    forking = program(
        FORK
        + """
    left_over = []
    for i in range(20):
        pid = os.fork()
        if pid == 0:
            assert not [n for n in sockets if identity(n) == identities[n]], "the parent's connections are still held"
            assert dd.flush() == 0, "what the parent has staged is the parent's"
            assert dd.next()[0].number == i + 1
            right.set(i, "child")
            assert dd.flush() == 1
            assert shm.names() == ["LEFT", "RIGHT"]
            q.push(i)
            os._exit(0)
        if i % 2:
            assert dd.next()[0].number == i + 1  # while the child runs
            assert q.drain() is not None
        status = os.waitpid(pid, 0)[1]
        assert status == 0, status
        assert dd.next()[1].number == i
        assert dd.flush() == 1
        left.set(i + 3, "staged by the parent")
        assert next(follower).number == next(listener)[0].number == i + 2
    q.drain()
    say("done")
    shm.close()
    """,
        shm.url,
        short_path,
    )
    assert forking.finish() == ["done"]
    assert client.hget("LEFT", "number") == b"21"
    rows = {path.name: path.read_text().splitlines()[1:] for path in short_path.glob("*_RIGHT*.csv")}
    written = [row for rows_of_one in rows.values() for row in rows_of_one]
    assert sorted(int(row.split(",")[2]) for row in written) == list(range(20))
    assert max(map(len, rows.values())) == 1, "each child has a file of its own"
    (parents,) = [path for path in short_path.glob("*_LEFT*.csv") if len(path.read_text().splitlines()) > 1]
    assert len(parents.read_text().splitlines()) == 1 + 22


def test_a_child_forked_while_other_threads_work(
    shm: SharedMemory, program: Callable[..., Program], short_path: Path
) -> None:
    """A lock that another thread holds at that moment does not stop the child."""
    shm.init(PAIR)
    forking = program(
        FORK
        + """
    over = threading.Event()
    failures = []
    def ask():
        try:
            while not over.is_set():
                shm.epoch(), shm.names()
        except BaseException as error:
            failures.append(error)
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(20):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if shm.names() == ["LEFT", "RIGHT"] and shm.epoch() == 1 else 1)
        assert os.waitpid(pid, 0)[1] == 0
    over.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    shm.close()
    """,
        shm.url,
        short_path,
    )
    assert forking.finish(20) == []


INTERRUPTED = """
    import signal
    url, work = sys.argv[1:]
    class Interrupt(BaseException):
        pass
    armed = False
    def interrupt(number, frame):
        global armed
        if armed:
            raise Interrupt
    signal.signal(signal.SIGALRM, interrupt)
    shm = SharedMemory(url=url)
    dd = DataDict("program", shm)
    left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
    dd.set_datas_to_read(["LEFT", "RIGHT"])
    q, = dd.declare_fifos(["Q"])
    listener, follower = dd.listen_to_datas(["LEFT"], timeout=5), dd.follow_data("LEFT", timeout=5)
    count = interrupted = number = 0
    pushed = 0
    end = time.monotonic() + float(os.environ["SECONDS"])
    def step():
        global number, pushed
        number += 1
        if work == "flush":
            left.set(number, "x" * (number % 50))
            right.set(number, "x" * (number % 50))
            dd.flush()
        elif work == "read":
            left_trame, right_trame = dd.read(fresh=True)
            assert left_trame is None, left_trame
            assert right_trame.number == 77, right_trame
        elif work == "ask":
            assert shm.names() == ["LEFT", "RIGHT"]
            assert shm.epoch() == 1
        elif work == "queue":
            q.push(number)
            pushed += 1
            element = q.pop()
            assert element is None or isinstance(element[0], int)
            assert isinstance(len(q), int)
        elif work == "wait":
            assert q.pop(timeout=0.002) is None
        elif work == "listen":
            next(listener)
            next(follower)
    right.set(77, "")
    dd.flush()
    while time.monotonic() < end:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + (interrupted % 37) * 0.0003, 0.02)
            while True:
                step()
        except Interrupt:
            armed = False
            interrupted += 1
            if interrupted % 3 == 0:
                step()  # at once, without another interruption
    signal.setitimer(signal.ITIMER_REAL, 0)
    number = 10**6
    if work in ("flush", "read"):
        left.set(number, "end")
        right.set(number, "end")
        dd.flush()
        assert [trame.number for trame in dd.next()] == [number, number]
    if work == "queue":
        q.drain()
        q.push("end")
        assert q.drain() == [["end"]]
    assert shm.names() == ["LEFT", "RIGHT"]
    say(interrupted)
"""


@pytest.mark.parametrize("work", ["flush", "read", "ask", "queue", "wait", "listen"])
def test_a_signal_in_the_middle_leaves_no_answer_to_another_question(
    shm: SharedMemory, program: Callable[..., Program], full: bool, work: str
) -> None:
    """An exception that a signal's handler raises (control-C) between sending and receiving."""
    shm.init(PAIR)
    interrupted = program(INTERRUPTED, shm.url, work, env={"SECONDS": "8" if full else "0.4"})
    if work == "listen":
        with DataDict("writer", shm) as dd:
            (left,) = dd.set_datas_to_write(["LEFT"])
            number = 0
            while interrupted.process.poll() is None:
                number += 1
                left.set(number, "")
                dd.flush()
    (count,) = interrupted.finish(40)
    assert int(count) > 10


def test_the_listener_never_goes_backwards_through_interruptions(
    shm: SharedMemory, program: Callable[..., Program]
) -> None:
    shm.init(PAIR)
    listening = program(
        """
        import signal
        class Interrupt(BaseException):
            pass
        armed = False
        def interrupt(number, frame):
            if armed:
                raise Interrupt
        signal.signal(signal.SIGALRM, interrupt)
        with SharedMemory(url=sys.argv[1]) as shm, DataDict("program", shm) as dd:
            listener, follower = dd.listen_to_datas(["LEFT"], timeout=5), dd.follow_data("LEFT", timeout=5)
            say("ready")
            heard, followed, interrupted = -1, [], 0
            while heard < 3000:
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, 0.003 + (interrupted % 17) * 0.0003, 0.02)
                    while heard < 3000:
                        (trame,) = next(listener)
                        assert trame.number >= heard, (trame.number, heard)
                        heard = trame.number
                    armed = False
                except Interrupt:
                    armed = False
                    interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            say(interrupted)
        """,
        shm.url,
    )
    assert listening.line() == "ready"
    with DataDict("writer", shm) as dd:
        (left,) = dd.set_datas_to_write(["LEFT"])
        for number in range(3001):
            left.set(number, "")
            dd.flush()
    assert int(listening.finish()[-1]) > 3


def flushed(client: redis.Redis) -> int:
    return int(client.xinfo_stream("RIGHT:history")["entries-added"]) if client.exists("RIGHT:history") else 0


def test_control_c_ends_a_program_that_flushes_and_what_it_wrote_is_whole(
    shm: SharedMemory, client: redis.Redis, program: Callable[..., Program]
) -> None:
    shm.init(PAIR)
    code = """
        try:
            with SharedMemory(url=sys.argv[1]) as shm, DataDict("program", shm) as dd:
                left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
                say("ready")
                while True:
                    left.set(left.values.number + 1, "")
                    right.set(left.values.number, "")
                    dd.flush()
        except KeyboardInterrupt:
            say("interrupted")
    """
    for _ in range(3):
        flushing = program(code, shm.url)
        assert flushing.line() == "ready"
        before = flushed(client)
        while flushed(client) < before + 100:
            pass  # not while it connects: Python drops an interrupt that meets one of redis-py's destructors
        flushing.send_signal(signal.SIGINT)
        assert flushing.finish(10) == ["interrupted"]
        assert client.hget("LEFT", "number") == client.hget("RIGHT", "number")


def test_signals_do_not_prolong_the_time_out(
    own_server: Callable[..., object], program: Callable[..., Program]
) -> None:
    """A program with a periodic timer still notices that the server is silent."""
    server = own_server()
    with SharedMemory(url=server.url) as shm:
        shm.init(PAIR)
        waiting = program(
            """
            import signal
            signal.signal(signal.SIGALRM, lambda number, frame: None)
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            with SharedMemory(url=sys.argv[1], timeout=0.4) as shm, DataDict("program", shm) as dd:
                left, = dd.set_datas_to_write(["LEFT"])
                dd.set_datas_to_read(["LEFT"])
                left.set(1, "")
                dd.flush()
                dd.next()
                say("ready")
                sys.stdin.readline()
                for action in (lambda: dd.read(fresh=True), lambda: (left.set(2, ""), dd.flush())):
                    start = time.monotonic()
                    try:
                        action()
                    except ServerTimeout as error:
                        say(time.monotonic() - start)
                signal.setitimer(signal.ITIMER_REAL, 0)
            """,
            server.url,
        )
        assert waiting.line() == "ready"
        server.stop()
        waiting.tell("go")
        assert 0.3 < float(waiting.line(5)) < 1.2
        assert 0.3 < float(waiting.line(5)) < 1.2
        server.cont()
        waiting.finish()


def test_warnings_when_the_server_goes_and_is_back(
    own_server: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    """The logger says it; nothing is printed."""
    server = own_server()
    caplog.set_level(logging.INFO, "shareddata")
    with SharedMemory(url=server.url) as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        dd.set_datas_to_read(["LEFT"])
        dd.next()
        assert caplog.text == ""
        server.restart()
        dd.next()
    assert "the server went" in caplog.text and "the server is back" in caplog.text
    assert all(record.name == "shareddata" for record in caplog.records)


def test_importing_and_using_prints_nothing(shm: SharedMemory) -> None:
    code = (
        "import sys; from shareddata import *\n"
        "with SharedMemory(url=sys.argv[1]) as shm, DataDict('p', shm) as dd:\n"
        "    shm.init({'A': [['ts', 0.0], ['sender', '']]}); a, = dd.set_datas_to_write(['A']); a.set(); dd.flush()\n"
    )
    ran = subprocess.run([sys.executable, "-X", "dev", "-c", code, shm.url], capture_output=True, text=True,
                         timeout=30, env=os.environ | {"PYTHONWARNINGS": "error"})
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
