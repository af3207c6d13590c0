"""A recorder that is killed at random moments: whole rows stay, it goes on without loss and without doubling."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from programs import Program
from records import HEAD
from servers import OwnServer
from shareddata import DataDict, SharedMemory
from shareddata.record import Recorder
from shareddata.recording import Recording
from waiting import eventually

RECORDS = {
    "ONE": {"history": 1_000_000, "fields": [*HEAD, ["number", 0], ["text", ""]]},
    "TWO": {"history": 1_000_000, "fields": [*HEAD, ["number", 0], ["text", ""]]},
}
WRITER = """
    import select
    with SharedMemory(url=sys.argv[1]) as shm, DataDict("writer", shm) as dd:
        datas = dd.set_datas_to_write(["ONE", "TWO"])
        number = 0
        while not select.select([sys.stdin], [], [], 0.0005)[0]:
            for data in datas:
                data.set(number, f'"{number}",\\n')
            dd.flush()
            number += 1
        say(number)
"""
RECORDER = """
    from shareddata.record import Recorder
    with SharedMemory(url=sys.argv[1]) as shm, Recorder(shm, sys.argv[2], since=0, size=20_000) as recorder:
        say("ready")
        recorder.run()
"""


def numbers(folder: Path, name: str) -> list[int]:
    found = [entry.trame for entry in Recording(folder).entries([name])]
    assert all(trame.text == f'"{trame.number}",\n' for trame in found)
    return [trame.number for trame in found]


@pytest.mark.timeout(400)
def test_killed_at_random(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], short_path: Path, full: bool
) -> None:
    """A fast writer that goes on all the time."""
    server, folder = own_server(), short_path / "recording"
    chance = random.Random(7)
    with SharedMemory(url=server.url) as shm:
        shm.init(RECORDS)
        writer = program(WRITER, server.url)
        for _ in range(100 if full else 8):
            recorder = program(RECORDER, server.url, folder)
            assert recorder.line() == "ready"
            kill_soon(recorder, chance, folder)
        writer.tell()
        total = int(writer.line())
        finish(shm, folder, total)


@pytest.mark.timeout(200)
def test_killed_together_with_the_server(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], short_path: Path, full: bool
) -> None:
    server, folder = own_server(fsync="always"), short_path / "recording"  # so that the server itself loses nothing
    chance = random.Random(7)
    total = 0
    with SharedMemory(url=server.url) as shm, DataDict("writer", shm) as dd:
        shm.init(RECORDS)
        datas = dd.set_datas_to_write(list(RECORDS))
        for _ in range(30 if full else 3):
            recorder = program(RECORDER, server.url, folder)
            assert recorder.line() == "ready"
            for _ in range(3):
                for _ in range(chance.randrange(200)):
                    for data in datas:
                        data.set(total, f'"{total}",\n')
                    dd.flush()
                    total += 1
                server.restart()
            kill_soon(recorder, chance, folder)
        finish(shm, folder, total)


def kill_soon(recorder: Program, chance: random.Random, folder: Path) -> None:
    """Kill a recorder at a random moment: what is there then is whole and without gaps."""
    time.sleep(chance.uniform(0, 0.15))  # the random moment
    recorder.kill()
    for name in RECORDS if list(folder.glob("ONE*.csv")) and list(folder.glob("TWO*.csv")) else ():
        found = numbers(folder, name)
        assert found == list(range(len(found)))


def finish(shm: SharedMemory, folder: Path, total: int) -> None:
    """Record the rest: nothing is missing, nothing is twice."""
    with Recorder(shm, folder, since=0) as recorder:
        recorder.run(seconds=0)
        assert recorder.missed == 0
    for name in RECORDS:
        assert numbers(folder, name) == list(range(total))


def test_a_recorder_that_is_stopped_for_a_while(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], short_path: Path
) -> None:
    """What its histories drop while it cannot run is counted, to the last one."""
    server, folder = own_server(), short_path / "recording"
    small = {name: {**record, "history": 20} for name, record in RECORDS.items()}
    with SharedMemory(url=server.url) as shm:
        shm.init(small)
        recorder = program(RECORDER, server.url, folder)
        assert recorder.line() == "ready"
        writer = program(WRITER, server.url)
        eventually(lambda: list(folder.glob("ONE*.csv")), message="the first rows")
        recorder.send_signal(signal.SIGSTOP)
        eventually(lambda: shm._connection.call("XINFO", "STREAM", "ONE:history")[b"entries-added"] > 1500, 30)
        recorder.send_signal(signal.SIGCONT)
        writer.tell()
        total = int(writer.line())
        last = f',"""{total - 1}"",'.encode()
        eventually(lambda: sum(last in path.read_bytes() for path in folder.glob("*.csv")) == 2, 15, "the last rows")
        recorder.kill()
        with Recorder(shm, folder) as again:
            again.run(seconds=0)
        for name in RECORDS:
            found = numbers(folder, name)
            assert found == sorted(set(found)) and found[-1] == total - 1
            assert again.tracks[name].end is not None and again.tracks[name].end.ordinal == total
            assert 0 < len(found) < total
