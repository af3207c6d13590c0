"""The server is killed and started again: what is lost, who gets stuck, how soon everybody is back."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from programs import Program
from records import HEAD, PAIR
from servers import OwnServer
from shareddata import DataDict, ServerError, ServerTimeout, ServerUnreachable, SharedMemory
from shareddata.connection import Connection

RECORDS = {
    "A": {"history": 1_000_000, "fields": [*HEAD, ["number", 0]]},
    "B": {"history": 1_000_000, "fields": [*HEAD, ["number", 0]]},
}
# Flushes numbers to A and B and prints each that was acknowledged, or whose outcome is unknown, until its input ends.
WRITER = """
    import threading
    url, name = sys.argv[1:]
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    lines = []
    with SharedMemory(url=url) as shm, DataDict(name, shm) as dd:
        a, b = dd.set_datas_to_write(["A", "B"])
        say("ready")
        number = 0
        while not over.is_set():
            number += 1
            a.set(number)
            b.set(number)
            while True:
                try:
                    assert dd.flush(ts=float(number)) == 2
                    lines.append(f"ok {number}")
                    break
                except ServerError as error:
                    lines.append(("unknown " if error.outcome_unknown else "no ") + str(number))
    say("\\n".join(lines))
"""
READER = """
    import threading
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    errors = slowest = reads = 0
    with SharedMemory(url=sys.argv[1]) as shm, DataDict("reader", shm) as dd:
        dd.set_datas_to_read(["A", "B"])
        say("ready")
        while not over.is_set():
            start = time.monotonic()
            try:
                a, b = dd.next()
                assert a == b, (a, b)
                reads += 1
            except ServerError:
                errors += 1
            slowest = max(slowest, time.monotonic() - start)
        dd.read(fresh=True)
    say(reads, errors, slowest)
"""
LISTENER = """
    with SharedMemory(url=sys.argv[1]) as shm, DataDict("listener", shm) as dd:
        listener = dd.listen_to_datas(["A", "B"])
        say("ready")
        before, gap, last = {}, 0.0, time.monotonic()
        for a, b in listener:
            gap, last = max(gap, time.monotonic() - last), time.monotonic()
            assert a is None or a == b, (a, b)
            if a is None:
                continue
            if a.sender == "end":
                break
            assert a.number >= before.get(a.sender, 0), "it went backwards"
            before[a.sender] = a.number
        say(gap)
"""


@pytest.mark.timeout(600)
def test_no_acknowledged_write_is_lost_and_nobody_is_stuck(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str, full: bool
) -> None:
    """Two writers, a reader and a listener; the server is killed again and again; `fsync=always`."""
    server = own_server(kind, fsync="always")
    with SharedMemory(url=server.url) as shm:
        shm.init(RECORDS)
    writers = [program(WRITER, server.url, name) for name in ("one", "two")]
    reader, listener = program(READER, server.url), program(LISTENER, server.url)
    for each in (*writers, reader, listener):
        assert each.line() == "ready"
    with SharedMemory(url=server.url) as shm, DataDict("test", shm) as dd:
        follower = dd.follow_data("A", since=0, timeout=8)
        got: list[tuple[str, int]] = []
        for _ in range(40 if full else 4):
            seen = len(got)
            while len(got) < seen + 100:
                trame = next(follower)
                got.append((trame.sender, trame.number))
            server.restart()
        written: dict[str, list[str]] = {}
        for name, writer in zip(("one", "two"), writers):
            written[name] = writer.finish(20)
        (data,) = dd.set_datas_to_write(["A"])
        (b,) = dd.set_datas_to_write(["B"])
        data.set(0, sender="end")
        b.set(0, sender="end")
        dd.flush(ts=0.0)
        while (trame := next(follower)).sender != "end":
            got.append((trame.sender, trame.number))
        assert follower.missed == 0
        check_accounts(server, written, got, follower.repeated)
        reads, errors, slowest = reader.finish(10)[-1].split()
        assert int(reads) > 100 and float(slowest) < 6.5
        data.set(1, sender="end")
        b.set(1, sender="end")
        dd.flush(ts=1.0)
        assert float(listener.finish(10)[-1]) < 3.5, "the listener was back too late"


def check_accounts(
    server: OwnServer, written: dict[str, list[str]], got: list[tuple[str, int]], repeated: int
) -> None:
    """Compare what the writers were told with what stands in the histories and what the follower got."""
    with server.client() as client:
        for record in "AB":
            entries = Counter(
                (entry[b"sender"].decode(), int(entry[b"number"])) for _, entry in client.xrange(f"{record}:history")
            )
            entries.pop(("end", 0), None)
            for sender, lines in written.items():
                flushed = [line.split() for line in lines]
                repeats = Counter(int(number) for how, number in flushed if how == "unknown")
                acknowledged = [int(number) for how, number in flushed if how == "ok"]
                assert acknowledged == list(range(1, len(acknowledged) + 1))
                for number in acknowledged:
                    count = entries.pop((sender, number), 0)
                    assert 1 <= count <= 1 + repeats[number], f"{sender} {number}: {count} times, {repeats[number]}"
            assert not entries, f"nobody flushed these: {entries}"
            if record == "A":
                total = client.xlen("A:history") - 1
    assert len(got) == len(set(got)), "the follower gave an entry twice"
    assert len(got) + repeated == total
    for sender, lines in written.items():
        numbers = [number for who, number in got if who == sender]
        assert numbers == list(range(1, sum(line.startswith("ok") for line in lines) + 1))


def test_an_idle_connection_survives_a_restart_without_an_error(
    own_server: Callable[..., OwnServer], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Flush, read, waiting queues, descriptions: the next call just works."""
    server = own_server(kind, fsync="always", port=None)
    with SharedMemory(url=server.url) as shm, DataDict("idle", shm) as dd:
        shm.init({**PAIR, "ALONE": {"history": 0, "fields": [*HEAD, ["number", 0]]}})
        left, right, alone = dd.set_datas_to_write(["LEFT", "RIGHT", "ALONE"])
        dd.set_datas_to_read(["LEFT", "ALONE"])
        (queue,) = dd.declare_fifos(["Q"])
        listener, follower = dd.listen_to_datas(["LEFT"], timeout=4), dd.follow_data("LEFT", timeout=4)
        queue.push(0)
        alone.set(0)
        dd.flush()
        for number in range(1, 6):
            dd.next()
            server.restart()
            if number % 2:
                left.set(number, "")
                right.set(number, "")
            alone.set(number)
            assert dd.flush() == (3 if number % 2 else 1)
            server.restart()
            assert dd.next()[1].number == number
            server.restart()
            assert shm.names() == ["ALONE", "LEFT", "RIGHT"] and shm.epoch() == 1
            server.restart()
            queue.push(number)
            server.restart()
            assert queue.pop() == [number - 1]
            if number % 2:
                assert next(follower).number == number
                assert next(listener)[0].number == number
    assert "Traceback" not in caplog.text


def test_a_flush_while_the_server_is_away(own_server: Callable[..., OwnServer]) -> None:
    """The error says that nothing was written; everything stays staged; the first flush after it writes it."""
    server = own_server()
    with SharedMemory(url=server.url, timeout=0.3) as shm, DataDict("writer", shm) as dd:
        shm.init(PAIR)
        left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
        dd.set_datas_to_read(["LEFT", "RIGHT"])
        left.set(1, "one", ts=1.0)
        server.kill()
        for _ in range(3):
            start = time.monotonic()
            with pytest.raises(ServerUnreachable, match="nobody answers") as error:
                dd.flush()
            assert not error.value.outcome_unknown
            with pytest.raises(ServerUnreachable, match="nobody answers"):
                dd.next()
            assert time.monotonic() - start < 1.5
        right.set(2, "two", ts=2.0)
        server.start()
        assert dd.flush() == 2
        assert dd.next() == [(1.0, "writer", 1, "one"), (2.0, "writer", 2, "two")]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_listener_is_back_within_three_seconds(
    own_server: Callable[..., OwnServer], kind: str, how: str, full: bool
) -> None:
    """The server was away for a while; what was written meanwhile is heard, also when nobody writes any more."""
    server = own_server(kind)
    with SharedMemory(url=server.url, timeout=1) as shm, DataDict("listener", shm) as dd:
        shm.init(PAIR)
        listeners = [dd.listen_to_datas(["LEFT"]), dd.listen_to_datas(["LEFT"], pattern="LE*")]
        for number in range(1, 6 if full else 2):
            heard: list[float] = []
            threads = [threading.Thread(target=hear, args=(each, number, heard)) for each in listeners]
            for thread in threads:
                thread.start()
            if how == "kill":
                server.kill()
                time.sleep(0.5 * number)  # how long it is away
                server.start()
            else:
                server.stop()
                time.sleep(2.3)  # longer than the watchdog's patience
                server.cont()
            back = time.monotonic()
            with server.client() as client:
                client.hset("LEFT", mapping={"ts": "1.0", "sender": "redis-cli", "number": number, "text": ""})
            for thread in threads:
                thread.join(10)
            assert len(heard) == 2 and max(heard) - back < 3


def hear(listener: object, number: int, heard: list[float]) -> None:
    for trames in listener:  # type: ignore[attr-defined]
        if trames[0] is not None and trames[0].number == number:
            heard.append(time.monotonic())
            return


def test_a_change_while_the_listener_was_away_is_told_once(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with SharedMemory(url=server.url) as shm, DataDict("listener", shm) as dd, DataDict("writer", shm) as writer:
        shm.init(PAIR)
        listener = dd.listen_to_datas(["LEFT"], timeout=0.3)
        (left,) = writer.set_datas_to_write(["LEFT"])
        left.set(1, "")
        writer.flush()
        assert next(listener)[0].number == 1
        server.restart()
        left.set(2, "")
        writer.flush()
        server.restart()
        assert next(listener)[0].number == 2
        assert list(listener) == []


def test_a_listener_with_a_time_out_says_that_the_server_is_away(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with SharedMemory(url=server.url, timeout=0.5) as shm, DataDict("listener", shm) as dd:
        shm.init(PAIR)
        listener, follower = dd.listen_to_datas(["LEFT"], timeout=0.2), dd.follow_data("LEFT", timeout=0.2)
        server.kill()
        for waiting in (listener, follower):
            start = time.monotonic()
            with pytest.raises(ServerUnreachable, match="nobody answers|broke"):
                next(waiting)
            assert time.monotonic() - start < 2
        server.start()
        assert list(listener) == list(follower) == []


def test_a_server_that_starts_again_empty(
    own_server: Callable[..., OwnServer], caplog: pytest.LogCaptureFixture
) -> None:
    """No persistence: programs go on with a warning and take up the next initialisation."""
    server = own_server(options=("--appendonly", "no"))
    caplog.set_level(logging.WARNING, "shareddata")
    with SharedMemory(url=server.url) as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        (left,) = dd.set_datas_to_write(["LEFT"])
        dd.set_datas_to_read(["LEFT", "RIGHT"])
        listener, follower = dd.listen_to_datas(["LEFT"], timeout=5), dd.follow_data("LEFT", timeout=5)
        for number in range(1, 50):
            left.set(number, "")
            dd.flush()
            assert next(follower).number == number
        server.restart()
        assert dd.next() == [None, None]
        assert "lost its descriptions" in caplog.text
        left.set(50, "")
        dd.flush()
        assert dd.next()[0].number == 50
        assert next(follower).number == 50
        while (trame := next(listener)[0]) is None or trame.number != 50:
            pass
        shm.init(PAIR)
        assert shm.names() == ["LEFT", "RIGHT"]
        left.set(51, "")
        dd.flush()
        assert dd.next() == [(left.values.ts, "program", 51, ""), None]
        assert next(follower).number == 51


def test_a_server_that_loads_for_a_while(own_server: Callable[..., OwnServer], kind: str) -> None:
    """LOADING: the first connection and a running program wait for it."""
    server = own_server(kind)
    with server.client() as client, SharedMemory(url=server.url) as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        dd.set_datas_to_read(["LEFT"])
        dd.next()
        for i in range(60):
            with client.pipeline(transaction=False) as pipe:
                for j in range(2000):
                    pipe.set(f"filler:{i}:{j}", "x")
                pipe.execute()
        server.kill()
        starter = threading.Thread(target=server.start)
        starter.start()
        with SharedMemory(url=server.url) as late:
            assert late.names() == ["LEFT", "RIGHT"]
        starter.join()
        assert dd.next() == [None]


def test_errors_say_what_they_are(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with SharedMemory(url=server.url, timeout=0.3) as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        (left,) = dd.set_datas_to_write(["LEFT"])
        left.set(1, "")
        dd.flush()
        left.set(2, "")
        server.stop()
        with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s.*outcome is unknown") as silent:
            dd.flush()
        assert isinstance(silent.value, ServerTimeout) and isinstance(silent.value, ServerError)
        server.kill()
        with pytest.raises(ConnectionError, match=r"nobody answers.*`shareddata serve`") as away:
            dd.flush()
        assert isinstance(away.value, ServerUnreachable)


def test_killed_while_a_connection_is_being_set_up(own_server: Callable[..., OwnServer]) -> None:
    """The connection is opened anew, set-up and all; nothing else than ServerUnreachable ever comes out of it."""
    server = own_server()
    times = 0

    def setup(connection: Connection) -> None:
        nonlocal times
        times += 1
        if times <= 3:
            server.restart()
        connection.call("SET", "set up", times)

    with SharedMemory(url=server.url) as shm:
        connection = shm.connect(setup=setup)
        connection.open()
        assert connection.call("GET", "set up") == b"%d" % times
        assert times >= 4
        connection.close()
