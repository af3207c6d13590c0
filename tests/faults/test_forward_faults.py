"""Store and forward while links, servers and the program fail: all arrives once and in order, or is counted."""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from programs import Program
from proxy import Proxy
from records import HEAD, calls
from servers import OwnServer, plain_client
from shareddata import DataDict, SharedMemory
from shareddata.forward import Forward
from shareddata.tslog import TSLog
from waiting import eventually

ALL = 1_000_000  # buckets: nothing is dropped
GPS: dict[str, Any] = {"GPS": {"history": 100_000, "fields": [*HEAD, ["number", 0]]}}


class Writer:
    """Stores records into the log `nav` and flushes the record `GPS` in a thread, until it is closed.

    Attributes:
        stored: how many records the log has.
    """

    def __init__(self, url: str, rate: int, tenth: bool = True, **options: Any) -> None:
        self.stored = self.flushed = 0
        self._rate, self._ended = rate, threading.Event()
        self._shm = SharedMemory(url=url)
        self._shm.init(GPS, keep=True)
        self._log = TSLog("nav", ["Qd"], shm=self._shm, bucket_size=100, max_buckets=ALL, **options)
        self._dd = DataDict("writer", self._shm)
        (self._data,) = self._dd.set_datas_to_write(["GPS"])
        self._thread = threading.Thread(target=self._write, name="writer")
        self._thread.start()

    def _write(self) -> None:
        begun = time.monotonic()
        while not self._ended.wait(0.01):
            due = int((time.monotonic() - begun) * self._rate)
            while self.stored < due:
                self._log.store(self.stored, time.time())
                self.stored += 1
            self._data.set(number=self.flushed)
            self._dd.flush()
            self.flushed += 1

    def close(self) -> None:
        """Commit what was stored, and end."""
        if self._thread.is_alive():
            self._ended.set()
            self._thread.join()
            self._log.close()
            self._shm.close()


@pytest.fixture
def writer() -> Iterator[Callable[..., Writer]]:
    made: list[Writer] = []

    def make(*arguments: Any, **options: Any) -> Writer:
        made.append(Writer(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@contextmanager
def forwarding(source: str, destination: str, **options: Any) -> Iterator[Forward]:
    """Forward in a thread; at the end, until all is sent."""
    with Forward(source, destination, timeout=1.0, max_buckets=ALL, **options) as forward:
        ended = threading.Event()

        class End(Exception):
            pass

        def look(_: Forward) -> None:
            if ended.is_set():
                raise End

        def work() -> None:
            try:
                forward.run(tell=look)
            except End:
                pass

        thread = threading.Thread(target=work, name="forward")
        thread.start()
        try:
            yield forward
        finally:
            ended.set()
            thread.join()
        forward.run(once=True)


def entries(url: str, key: str) -> list[Any]:
    with plain_client(url) as client:
        return list(client.xrange(key))


def assert_same(source: str, destination: str, writer: Writer) -> None:
    """Each entry of the source is at the destination, once, in order."""
    log = entries(source, "tslog:nav")
    assert [identity for identity, _ in log] == [b"%d-0" % number for number in range(1, writer.stored + 1)]
    assert entries(destination, "tslog:nav") == log
    history = entries(source, "GPS:history")
    assert [int(fields[b"number"]) for _, fields in history] == list(range(writer.flushed))
    assert entries(destination, "GPS:history") == history


def sent(forward: Forward) -> int:
    return sum(each.sent for each in forward.progress)


def counts(forward: Forward) -> dict[str, tuple[int, int, int | None]]:
    return {each.name: (each.sent, each.missed, each.behind) for each in forward.progress}


def once(source: str, destination: str, **options: Any) -> Forward:
    with Forward(source, destination, timeout=1.0, **{"max_buckets": ALL, **options}) as forward:
        forward.run(once=True)
    return forward


def disturb(link: Proxy, seconds: float, dice: random.Random) -> dict[str, int]:
    """Cut, delay, silence and refuse at random; return how often each was done."""
    done = dict.fromkeys(("cut", "late", "swallow", "half_open", "refuse"), 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        what = dice.choice(list(done))
        done[what] += 1
        if what == "late":
            link.latency = dice.uniform(0.001, 0.05)
        else:
            getattr(link, what)()
        time.sleep(dice.uniform(0.01, 0.4))  # the disturbance's length is what is tested
        if what in ("swallow", "half_open"):
            link.cut()  # what was swallowed is lost for good, as on a real link
        link.heal()
        time.sleep(dice.uniform(0.0, 0.3))
    return done


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "seconds", [pytest.param(5, id="short"), pytest.param(60, marks=pytest.mark.full, id="long")]
)
def test_a_link_that_is_cut_delayed_and_silent(
    seconds: int, own_server: Callable[..., OwnServer], proxy: Callable[..., Proxy], writer: Callable[..., Writer]
) -> None:
    source, shore = own_server(), own_server("redis") if seconds > 5 else own_server()
    link = proxy(shore.url)
    stores = writer(source.url, 1000)
    with forwarding(source.url, link.url) as forward:
        done = disturb(link, seconds, random.Random(seconds))
        assert sum(done.values()) > seconds
        stores.close()
        link.heal()
    assert stores.stored > 900 * seconds
    assert_same(source.url, shore.url, stores)
    assert counts(forward) == {"nav": (stores.stored, 0, 0), "GPS": (stores.flushed, 0, 0)}


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "kills", [pytest.param(6, id="short"), pytest.param(100, marks=pytest.mark.full, id="long")]
)
def test_killed_at_random(
    kills: int,
    own_server: Callable[..., OwnServer],
    writer: Callable[..., Writer],
    program: Callable[..., Program],
) -> None:
    source, shore = own_server(), own_server()
    dice = random.Random(kills)
    stores = writer(source.url, 2000)
    with plain_client(shore.url) as client:
        for _ in range(kills):
            running = program(
                "from shareddata.forward import Forward\nForward(*sys.argv[1:], max_buckets=1000000).run()",
                *(source.url, shore.url),
            )
            wanted = client.xlen("tslog:nav") + dice.randint(1, 300)
            eventually(lambda n=wanted: client.xlen("tslog:nav") >= n, 20, "records at the destination", 0.0005)
            running.kill()
    stores.close()
    forward = once(source.url, shore.url)
    assert_same(source.url, shore.url, stores)
    assert counts(forward) == {"nav": (stores.stored, 0, 0), "GPS": (stores.flushed, 0, 0)}


@pytest.mark.parametrize("which", ["source", "destination"])
def test_a_server_killed_and_started_again(
    which: str, full: bool, own_server: Callable[..., OwnServer], writer: Callable[..., Writer]
) -> None:
    source, shore = own_server(fsync="always"), own_server(fsync="always")
    stores = writer(source.url, 500) if which == "destination" else None
    if stores is None:
        with SharedMemory(url=source.url) as shm, TSLog("nav", ["Qd"], shm=shm, max_buckets=ALL) as log:
            log.store_many([(number, 0.5) for number in range(20_000)])
    with forwarding(source.url, shore.url) as forward:
        for _ in range(30 if full else 3):
            before = sent(forward)
            eventually(lambda b=before: sent(forward) > b or forward.done, 10, "more is sent")
            (source if which == "source" else shore).restart()
        if stores is not None:
            stores.close()
    if stores is not None:
        assert_same(source.url, shore.url, stores)
    else:
        assert len(entries(source.url, "tslog:nav")) == 20_000
        assert entries(source.url, "tslog:nav") == entries(shore.url, "tslog:nav")


def put_back(server: OwnServer, before: Path) -> None:
    """Set a server back to what it had when its folder was copied: as a power cut without fsync does."""
    server.kill()
    for path in server.folder.iterdir():
        if path.name.startswith("appendonly"):
            shutil.rmtree(path)
            shutil.copytree(before / path.name, path)
    server.start()


def keep(server: OwnServer, folder: Path) -> Path:
    server.kill()
    shutil.copytree(server.folder, folder / "before", ignore=shutil.ignore_patterns("*.sock"))
    server.start()
    return folder / "before"


def store(url: str, values: range) -> None:
    with SharedMemory(url=url) as shm, TSLog("nav", ["Qd"], shm=shm, bucket_size=10, max_buckets=ALL) as log:
        log.store_many([(value, 0.5) for value in values])


def flush(url: str, numbers: range) -> None:
    with SharedMemory(url=url) as shm, DataDict("writer", shm) as dd:
        (data,) = dd.set_datas_to_write(["GPS"])
        for number in numbers:
            data.set(number=number)
            dd.flush()


def values(url: str) -> list[int]:
    with SharedMemory(url=url) as shm, TSLog("nav", ["Qd"], shm=shm, bucket_size=10) as log, log.reader(0) as reader:
        return [value for value, _ in reader]


def test_a_source_that_lost_its_end(own_server: Callable[..., OwnServer], tmp_path: Path) -> None:
    """A new writer gives the lost numbers again: the destination keeps what it has, the others are missed."""
    source, shore = own_server(), own_server()
    store(source.url, range(1, 91))
    once(source.url, shore.url)
    before = keep(source, tmp_path)
    store(source.url, range(91, 101))
    once(source.url, shore.url)
    put_back(source, before)
    assert counts(once(source.url, shore.url)) == {"nav": (100, 0, 0)}
    store(source.url, range(1001, 1005))  # numbers 91 to 94
    assert counts(once(source.url, shore.url)) == {"nav": (100, 4, 0)}
    store(source.url, range(1005, 1021))  # 95 to 110
    assert counts(once(source.url, shore.url)) == {"nav": (110, 10, 0)}
    assert counts(once(source.url, shore.url)) == {"nav": (110, 10, 0)}
    assert values(shore.url) == [*range(1, 101), *range(1011, 1021)]


def test_a_source_that_lost_the_end_of_a_history(own_server: Callable[..., OwnServer], tmp_path: Path) -> None:
    """What it lost was sent; it is no gap, and what comes then is counted from where the source stands."""
    source, shore = own_server(), own_server()
    with SharedMemory(url=source.url) as shm:
        shm.init(GPS)
    flush(source.url, range(20))
    once(source.url, shore.url)
    before = keep(source, tmp_path)
    flush(source.url, range(20, 30))
    once(source.url, shore.url)
    put_back(source, before)
    assert counts(once(source.url, shore.url)) == {"GPS": (30, 0, 0)}
    flush(source.url, range(100, 104))
    assert counts(once(source.url, shore.url)) == {"GPS": (34, 0, 0)}
    put_back(source, before)
    flush(source.url, range(200, 220))
    with plain_client(source.url) as client:
        client.xtrim("GPS:history", maxlen=20, approximate=False)  # none of those that were not sent
    assert counts(once(source.url, shore.url)) == {"GPS": (54, 0, 0)}
    with plain_client(source.url) as client:
        flush(source.url, range(220, 230))
        client.xtrim("GPS:history", maxlen=3, approximate=False)
    assert counts(once(source.url, shore.url)) == {"GPS": (57, 7, 0)}


def test_a_source_that_lost_its_end_under_a_running_writer(
    own_server: Callable[..., OwnServer], tmp_path: Path
) -> None:
    """The same writer sends the same records again: nothing is missed, nothing comes twice."""
    source, shore = own_server(), own_server()
    with SharedMemory(url=source.url) as shm, TSLog("nav", ["Qd"], shm=shm, bucket_size=100, max_buckets=ALL) as log:
        for value in range(1, 91):
            log.store(value, 0.5)
        log.commit()
        once(source.url, shore.url)
        before = keep(source, tmp_path)
        for value in range(91, 101):
            log.store(value, 0.5)
        log.commit()
        with forwarding(source.url, shore.url) as forward:
            eventually(lambda: sent(forward) == 100, 5, "all is sent")
            put_back(source, before)
            for value in range(101, 121):
                log.store(value, 0.5)
            log.commit()
        assert counts(forward) == {"nav": (120, 0, 0)}
    numbers = [int.from_bytes(fields[b"0"][:8], "little") for _, fields in entries(shore.url, "tslog:nav")]
    assert numbers == list(range(1, 121))


def test_a_destination_that_lost_its_end(own_server: Callable[..., OwnServer], tmp_path: Path) -> None:
    source, shore = own_server(), own_server()
    store(source.url, range(1, 51))
    once(source.url, shore.url)
    before = keep(shore, tmp_path)
    store(source.url, range(51, 101))
    with forwarding(source.url, shore.url) as forward:
        eventually(lambda: sent(forward) == 100, 5, "all is sent")
        put_back(shore, before)
        store(source.url, range(101, 111))
    assert counts(forward) == {"nav": (110, 0, 0)}
    assert values(shore.url) == list(range(1, 111))


def test_a_destination_that_lost_all(own_server: Callable[..., OwnServer]) -> None:
    """What the source has dropped meanwhile is counted, also what was sent before."""
    source, shore = own_server(), own_server()
    with SharedMemory(url=source.url) as shm:
        shm.init(GPS)
        store(source.url, range(1, 101))
        flush(source.url, range(50))
    assert counts(once(source.url, shore.url)) == {"nav": (100, 0, 0), "GPS": (50, 0, 0)}
    with plain_client(source.url) as client:
        client.xtrim("tslog:nav", minid="41-0", approximate=False)
        client.xtrim("GPS:history", maxlen=30, approximate=False)
    with plain_client(shore.url) as client:
        client.flushall()
    assert counts(once(source.url, shore.url)) == {"nav": (60, 40, 0), "GPS": (30, 20, 0)}
    assert values(shore.url) == list(range(41, 101))
    assert entries(shore.url, "GPS:history") == entries(source.url, "GPS:history")


def test_neither_is_there_at_the_start(
    own_server: Callable[..., OwnServer], writer: Callable[..., Writer], caplog: pytest.LogCaptureFixture
) -> None:
    source, shore = own_server(), own_server()
    store(source.url, range(1, 11))
    source.kill()
    shore.kill()
    with forwarding(source.url, shore.url) as forward:
        eventually(lambda: source.url in forward.trouble, 20, "the source's trouble")
        source.start()
        eventually(lambda: shore.url in forward.trouble, 20, "the destination's trouble")
        assert forward.progress[0].behind is None
        shore.start()
        eventually(lambda: sent(forward) == 10 and not forward.trouble, 20, "all is sent")
    assert values(shore.url) == list(range(1, 11))


def test_a_destination_without_memory_is_waited_for(own_server: Callable[..., OwnServer]) -> None:
    source, shore = own_server(), own_server()
    store(source.url, range(1, 101))
    with plain_client(shore.url) as client:
        client.config_set("maxmemory", 1)
        with forwarding(source.url, shore.url) as forward:
            eventually(lambda: "OOM" in forward.trouble, 10, "the refusal")
            client.config_set("maxmemory", 0)
            eventually(lambda: sent(forward) == 100, 10, "all is sent")
    assert values(shore.url) == list(range(1, 101))


def test_a_request_that_comes_late_is_void(own_server: Callable[..., OwnServer], proxy: Callable[..., Proxy]) -> None:
    """It was given up, and reaches the server when the next forward has already gone on."""
    source, shore = own_server(), own_server()
    store(source.url, range(1, 11))
    link = proxy(shore.url)
    with Forward(source.url, link.url, timeout=0.5, name="one") as slow:
        slow.run(once=True)
        store(source.url, range(11, 21))
        link.latency = 1.5
        slow._look_at = time.monotonic() + 60
        with pytest.raises(TimeoutError, match="the outcome is unknown"):
            slow.step()
        once(source.url, shore.url, name="one")
        store(source.url, range(21, 31))
        once(source.url, shore.url, name="one")
        with plain_client(shore.url) as client:
            added, ended = calls(client, "xadd"), calls(client, "exec")
            eventually(lambda: calls(client, "exec") > ended, 5, "the late request")
            assert calls(client, "xadd") == added
    assert values(shore.url) == list(range(1, 31))
