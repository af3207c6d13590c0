"""Links that go silent, are cut between request and answer, or drip: errors in time, no old data, exact accounts."""

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from proxy import Proxy
from records import HEAD, PAIR
from servers import OwnServer
from shareddata import DataDict, ServerError, ServerTimeout, ServerUnreachable, SharedMemory

TIMEOUT = 0.4
LATE = TIMEOUT + 0.5


class Link:
    """A shared memory behind a proxy, and another one that goes straight to the server."""

    def __init__(self, server: OwnServer, proxy: Proxy) -> None:
        self.server, self.proxy = server, proxy
        self.shm = SharedMemory(url=proxy.url, timeout=TIMEOUT)
        self.straight = SharedMemory(url=server.url)
        self.straight.init({**PAIR, "ALONE": {"history": 0, "fields": [*HEAD, ["number", 0]]}})

    def close(self) -> None:
        self.shm.close()
        self.straight.close()


@pytest.fixture(params=["tcp", "unix"])
def link(
    request: pytest.FixtureRequest, own_server: Callable[..., OwnServer], proxy: Callable[..., Proxy]
) -> Iterator[Link]:
    server = own_server()
    link = Link(server, proxy(server.url, str(server.folder / "proxy.sock") if request.param == "unix" else None))
    yield link
    link.close()


@pytest.fixture
def tcp(own_server: Callable[..., OwnServer], proxy: Callable[..., Proxy]) -> Iterator[Link]:
    server = own_server()
    link = Link(server, proxy(server.url))
    yield link
    link.close()


def read_until_error(dd: DataDict, words: str) -> tuple[float, float]:
    """Read the same values as fast as possible until it fails.

    Returns:
        For how long they were given, and how long the call took that failed.
    """
    first = dd.next()
    start = last = time.monotonic()

    def read() -> None:
        nonlocal last
        while True:
            last = time.monotonic()
            assert dd.next() == first

    with pytest.raises(ServerTimeout, match=words):
        read()
    return last - start, time.monotonic() - last


@pytest.mark.parametrize(
    ("link", "silence"),
    [("tcp", "swallow"), ("unix", "half_open"), ("tcp", "stop"), ("unix", "stop")],
    indirect=["link"],
)
def test_a_reader_of_unchanged_data_notices_the_silence(link: Link, silence: str) -> None:
    """An error within the time-out; never old data for longer than a second, however fast it reads."""
    with DataDict("reader", link.shm) as dd, DataDict("writer", link.straight) as writer:
        left, right = writer.set_datas_to_write(["LEFT", "RIGHT"])
        left.set(1, "")
        right.set(1, "")
        writer.flush()
        dd.set_datas_to_read(["LEFT", "RIGHT"])
        for _ in range(1000):
            assert dd.next()[0].number == 1
        if silence == "stop":
            link.server.stop()
        else:
            getattr(link.proxy, silence)()
            left.set(2, "")
            writer.flush()
        old_for, error_after = read_until_error(dd, f"no answer within {TIMEOUT} s")
        assert old_for < 1.1, "old data for longer than a second"
        assert error_after < LATE
        for _ in range(2):
            start = time.monotonic()
            with pytest.raises((ServerTimeout, ServerUnreachable), match="silent|no answer|nobody answers"):
                dd.next()
            assert time.monotonic() - start < 2 * LATE
        if silence == "stop":
            link.server.cont()
            assert dd.next()[0].number == 1
        else:
            link.proxy.heal()
            assert dd.next()[0].number == 2


def test_the_time_out_holds_with_the_usual_settings(
    own_server: Callable[..., OwnServer], proxy: Callable[..., Proxy]
) -> None:
    server = own_server()
    link = proxy(server.url)
    with SharedMemory(url=link.url) as shm, DataDict("reader", shm) as dd:
        shm.init(PAIR)
        dd.set_datas_to_read(["LEFT"])
        dd.next()
        link.swallow()
        old_for, error_after = read_until_error(dd, "no answer within 3 s")
        assert old_for < 1.1 and error_after < 3.5


@pytest.mark.parametrize("silence", ["swallow", "half_open"])
@pytest.mark.parametrize("records", [["LEFT", "RIGHT"], ["ALONE"]])
def test_a_flush_into_the_silence_has_an_unknown_outcome(tcp: Link, silence: str, records: list[str]) -> None:
    """Staged values are kept; the repetition writes the same, and the follower drops the double and counts it."""
    link = tcp
    with DataDict("writer", link.shm) as dd, DataDict("follower", link.straight) as straight:
        followers = [straight.follow_data(name, timeout=0.1) for name in records if name != "ALONE"]
        datas = dd.set_datas_to_write(records)
        for data in datas:
            data.set(number=1)
        dd.flush()
        for data in datas:
            data.set(number=2)
        expected = [data.values for data in datas]
        getattr(link.proxy, silence)()
        start = time.monotonic()
        with pytest.raises(ServerTimeout, match="outcome is unknown") as unknown:
            dd.flush()
        assert time.monotonic() - start < LATE
        assert unknown.value.outcome_unknown
        start = time.monotonic()
        with pytest.raises(ServerError, match="silent|no answer|nobody answers") as again:
            dd.flush()
        assert not again.value.outcome_unknown, "it could not even connect"
        assert time.monotonic() - start < 2 * LATE
        assert [data.values for data in datas] == expected
        link.proxy.heal()
        assert dd.flush() == len(records)
        assert dd.flush() == 0
        straight.set_datas_to_read(records)
        assert straight.next() == expected
        for follower in followers:
            assert [trame.number for trame in follower] == [1, 2]
            assert follower.repeated == (1 if silence == "half_open" else 0)
            assert follower.missed == 0


def test_cut_between_request_and_answer(link: Link, full: bool) -> None:
    """Every flush is carried out and its answer is lost, now and then; the application repeats: exact accounts."""
    with DataDict("writer", link.shm) as dd, DataDict("follower", link.straight) as straight, \
            link.server.client() as client:
        follower = straight.follow_data("LEFT", timeout=0.2)
        left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
        left.set(-1, "")
        right.set(-1, "")
        dd.flush()
        unknown = rounds = 0
        for number in range(200 if full else 25):
            left.set(number, "")
            right.set(number, "")
            if number % 3 == 0:
                before = client.xlen("LEFT:history")
                link.proxy.half_open()
                cutter = threading.Thread(target=cut_when_written, args=(link.proxy, client, before))
                cutter.start()
                rounds += 1
                with pytest.raises(ServerUnreachable, match="outcome is unknown") as error:
                    dd.flush()
                assert error.value.outcome_unknown
                unknown += 1
                cutter.join()
                link.proxy.heal()
            assert dd.flush() == 2
        assert unknown == rounds
        assert [trame.number for trame in follower] == list(range(-1, 200 if full else 25))
        assert (follower.repeated, follower.missed) == (unknown, 0)
        for record in ("LEFT", "RIGHT"):
            entries = client.xrange(f"{record}:history")
            assert len(entries) == 1 + (200 if full else 25) + unknown or full
            for (_, one), (_, two) in zip(entries, entries[1:]):
                assert one == two or int(two[b"number"]) == int(one[b"number"]) + 1


def cut_when_written(proxy: Proxy, client: object, before: int) -> None:
    while client.xlen("LEFT:history") == before:  # type: ignore[attr-defined]
        pass
    proxy.cut()


def cut_idle(link: Link, dd: DataDict) -> None:
    """Cut the link, and wait until the news has arrived."""
    link.proxy.cut()
    for connection in (link.shm._connection, dd._reader, dd._writer):
        if connection._sock is not None:
            assert select.select([connection._sock], [], [], 2)[0]


def test_cut_while_idle_is_no_error(link: Link) -> None:
    with DataDict("program", link.shm) as dd:
        left, alone = dd.set_datas_to_write(["LEFT", "ALONE"])
        dd.set_datas_to_read(["LEFT", "ALONE"])
        for number in range(10):
            cut_idle(link, dd)
            left.set(number, "")
            assert dd.flush() == 1
            cut_idle(link, dd)
            alone.set(number)
            assert dd.flush() == 1
            cut_idle(link, dd)
            assert [trame.number for trame in dd.next()] == [number, number]
            cut_idle(link, dd)
            assert link.shm.names() == ["ALONE", "LEFT", "RIGHT"]


def test_cut_during_reads_is_no_error(tcp: Link, full: bool) -> None:
    """A read changes nothing: it is asked again, once. Two cuts may meet one read; no answer is another's."""
    over = threading.Event()
    cuts = errors = 0

    def cut() -> None:
        nonlocal cuts
        while not over.wait(0.05):
            tcp.proxy.cut()
            cuts += 1

    cutter = threading.Thread(target=cut)
    with DataDict("reader", tcp.shm) as dd:
        (left,) = dd.set_datas_to_write(["LEFT"])
        left.set(1, "one")
        dd.flush()
        dd.set_datas_to_read(["LEFT", "RIGHT"])
        dd.next()
        cutter.start()
        end, reads = time.monotonic() + (20 if full else 1), 0
        try:
            while time.monotonic() < end:
                try:
                    assert dd.read(fresh=True) == [left.values, None]
                    reads += 1
                except ServerUnreachable:
                    errors += 1
        finally:
            over.set()
            cutter.join()
    assert reads > 50 and errors <= cuts / 3


def test_a_refusing_link(tcp: Link) -> None:
    """Each connection is reset as soon as it stands: an error within the time-out, and nothing was sent."""
    with DataDict("program", tcp.shm) as dd:
        (left,) = dd.set_datas_to_write(["LEFT"])
        left.set(1, "")
        tcp.proxy.refuse()
        start = time.monotonic()
        with pytest.raises(ServerUnreachable, match="127.0.0.1") as error:
            dd.flush()
        assert not error.value.outcome_unknown
        assert time.monotonic() - start < 2 * LATE
        tcp.proxy.heal()
        assert dd.flush() == 1


@pytest.mark.parametrize("waiting", ["listen", "pattern", "follow"])
def test_a_silent_link_under_who_waits(tcp: Link, waiting: str) -> None:
    """The watchdog finds it and connects anew; the last value is not missed, nor an entry."""
    with DataDict("waiting", tcp.shm) as dd, DataDict("writer", tcp.straight) as writer:
        (left,) = writer.set_datas_to_write(["LEFT"])
        if waiting == "follow":
            iterator = dd.follow_data("LEFT")
        else:
            iterator = dd.listen_to_datas(["LEFT"], pattern="LE*" if waiting == "pattern" else None)
        left.set(1, "")
        writer.flush()
        next(iterator)
        tcp.proxy.swallow()
        for number in (2, 3):
            left.set(number, "")
            writer.flush()
        healer = threading.Timer(1 + 2 * TIMEOUT, tcp.proxy.heal)
        healer.start()
        start = time.monotonic()
        if waiting == "follow":
            assert [next(iterator).number for _ in range(2)] == [2, 3]
            assert iterator.missed == 0
        else:
            assert next(iterator)[0].number == 3
        assert time.monotonic() - start < 1 + 2 * TIMEOUT + 3
        healer.join()


def test_a_silent_link_under_a_queue(tcp: Link) -> None:
    with DataDict("program", tcp.shm) as dd:
        (queue,) = dd.declare_fifos(["Q"])
        queue.push(1)
        tcp.proxy.half_open()
        with pytest.raises(ServerTimeout, match="outcome is unknown") as unknown:
            queue.push(2)
        assert unknown.value.outcome_unknown
        tcp.proxy.heal()
        assert queue.drain() == [[1], [2]], "a push of unknown outcome is not repeated"


def flushed(dd: DataDict) -> bool:
    """Flush; a slow machine may need longer than the time-out for what is large."""
    try:
        return dd.flush() == 1
    except ServerTimeout:
        return False


def test_a_flush_larger_than_the_buffers_into_a_stopped_server(tcp: Link, eventually: Callable[..., object]) -> None:
    """The request could not even be sent whole: it is silent, and nothing was written."""
    with SharedMemory(url=tcp.server.url, timeout=TIMEOUT) as shm, DataDict("writer", shm) as dd:
        (left,) = dd.set_datas_to_write(["LEFT"])
        left.set(1, "")
        dd.flush()
        left.set(2, "x" * 30_000_000)
        tcp.server.stop()
        start = time.monotonic()
        with pytest.raises(ServerTimeout, match="takes no more data|no answer") as error:
            dd.flush()
        assert time.monotonic() - start < 2 * LATE
        assert not error.value.outcome_unknown
        tcp.server.cont()
        eventually(lambda: flushed(dd), 10, "the flush when the server goes on")
        with tcp.server.client() as client:
            assert client.hget("LEFT", "number") == b"2"


Pair = tuple[socket.socket, socket.socket]


class Drip(Proxy):
    """A link that lets the server's answers through byte by byte."""

    pause = 0.0

    def _pass_on(self, pair: Pair, source: socket.socket, sink: socket.socket, direction: str) -> None:
        if direction == "to server":
            super()._pass_on(pair, source, sink, direction)
            return
        try:
            while data := source.recv(65536):
                if not self.pause:
                    sink.sendall(data)
                    continue
                for byte in data:
                    time.sleep(self.pause)
                    sink.sendall(bytes([byte]))
        except OSError:
            pass  # cut, or one side went


def test_a_link_that_drips_does_not_outlast_the_time_out(own_server: Callable[..., OwnServer]) -> None:
    """Each byte comes in time, the answer does not."""
    server = own_server()
    link = Drip(server.url)
    try:
        with SharedMemory(url=link.url, timeout=TIMEOUT) as shm, DataDict("program", shm) as dd:
            shm.init(PAIR)
            (left,) = dd.set_datas_to_write(["LEFT"])
            dd.set_datas_to_read(["LEFT", "RIGHT"])
            dd.next()
            link.pause = TIMEOUT / 3
            left.set(1, "")
            for action in (lambda: dd.read(fresh=True), dd.flush):
                start = time.monotonic()
                with pytest.raises(ServerTimeout, match="no answer within"):
                    action()
                assert time.monotonic() - start < 2 * LATE
                link.pause = 0.0
                dd.read(fresh=True)
                link.pause = TIMEOUT / 3
    finally:
        link.pause = 0.0
        link.close()


def test_a_slow_link_works(tcp: Link) -> None:
    """Latency on each piece of data, fragments and all."""
    with DataDict("program", tcp.shm) as dd:
        left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
        dd.set_datas_to_read(["LEFT", "RIGHT"])
        listener = dd.listen_to_datas(["LEFT"], timeout=3)
        tcp.proxy.latency = 0.02
        for number in range(5):
            left.set(number, "x" * 200_000)
            right.set(number, "")
            assert dd.flush() == 2
            assert [trame.number for trame in dd.next()] == [number, number]
            assert next(listener)[0].number == number


def test_answers_in_pieces(own_server: Callable[..., OwnServer]) -> None:
    """An answer may be cut anywhere between two packets."""
    server = own_server()
    link = Drip(server.url)
    link.pause = 0.00001
    try:
        with SharedMemory(url=link.url) as shm, DataDict("program", shm) as dd:
            shm.init(PAIR)
            left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
            dd.set_datas_to_read(["LEFT", "RIGHT"])
            listener, follower = dd.listen_to_datas(["LEFT"], timeout=3), dd.follow_data("LEFT", timeout=3)
            for number in range(10):
                left.set(number, "å" * number)
                right.set(number, "\r\n$-1\r\n" * number)
                assert dd.flush() == 2
                assert [trame.text for trame in dd.next()] == ["å" * number, "\r\n$-1\r\n" * number]
                assert next(listener)[0].number == next(follower).number == number
    finally:
        link.pause = 0.0
        link.close()
