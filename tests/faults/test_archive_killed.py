"""An archiver that is killed at random, a server that is restarted: every event ends as exactly one whole file."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archiving import NOTHING, files, waiting
from programs import Program
from servers import OwnServer
from shareddata import ServerError, SharedMemory, archive
from waiting import eventually

ARCHIVER = """
    from shareddata import archive
    with SharedMemory(url=sys.argv[1]) as shm, archive.start(sys.argv[2], shm):
        say("ready")
        sys.stdin.read()
"""
# Two events in a row render the same name; every fifth one is large enough to be a file itself on its way.
EMITTER = """
    import select
    import numpy as np
    from shareddata import archive
    with SharedMemory(url=sys.argv[1]) as shm:
        number = 0
        while not select.select([sys.stdin], [], [], 0.002)[0]:
            size = 40_000 if number % 5 == 0 else 10
            archive.emit("cam", "frame", np.full(size, number, "<u4"), {"pair": number // 2}, shm)
            archive.emit("tank", "level", {"number": number}, {"pair": number // 2}, shm)
            number += 1
        say(number)
"""


@pytest.fixture
def config(short_path: Path) -> Path:
    """Two archivers in one process."""
    common = {"dead_letters": str(short_path / "dead")}
    content = [
        {
            "_id": "pictures",
            "classname": "herostools.actor.ArrayArchiver",
            "arguments": {
                **common,
                "object_selector": "cam",
                "event_name": "frame",
                "save_template": f"{short_path}/pictures/{{{{ pair % 7 }}}}/{{{{ pair }}}}.npy",
            },
        },
        {
            "_id": "levels",
            "classname": "herostools.actor.JsonArchiver",
            "arguments": {
                **common,
                "object_selector": "*",
                "event_name": "level",
                "save_template": f"{short_path}/levels/{{{{ pair }}}}.json",
            },
        },
    ]
    path = short_path / "archivers.json"
    path.write_text(json.dumps(content))
    return path


def check(folder: Path, total: int, gaps: bool = False) -> None:
    """Every event is one whole file, and nothing else is there; where two work at once, a number may be left out."""
    pictures = [np.load(folder / "pictures" / name) for name in files(folder / "pictures")]
    assert all((picture == picture[0]).all() for picture in pictures)
    assert Counter(int(picture[0]) for picture in pictures) == Counter(range(total))
    levels = {name: json.loads((folder / "levels" / name).read_text()) for name in files(folder / "levels")}
    assert Counter(value["number"] for value in levels.values()) == Counter(range(total))
    wanted = {f"{n // 2}{'_2' if n % 2 else ''}.json" for n in range(total)}
    assert gaps or set(levels) == wanted, "the second of a pair has the number 2"
    assert not (folder / "dead").exists() or not files(folder / "dead")


@pytest.mark.timeout(300)
def test_killed_at_random(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], short_path: Path, config: Path, full: bool
) -> None:
    server, chance = own_server(), random.Random(7)
    emitter = program(EMITTER, server.url)
    for _ in range(50 if full else 8):
        archiver = program(ARCHIVER, server.url, config)
        assert archiver.line() == "ready"
        time.sleep(chance.uniform(0, 0.4))  # the random moment
        archiver.kill()
    emitter.tell()
    total = int(emitter.line())
    finish(server, short_path, config, total)


def finish(server: OwnServer, folder: Path, config: Path, total: int) -> None:
    """Archive what is left, and look."""
    with SharedMemory(url=server.url) as shm:
        with archive.start(config, shm) as archivers:
            eventually(lambda: not any(len(left(shm, name)) for name in (("cam", "frame"), ("tank", "level"))), 60)
        assert [archiver.status.dead for archiver in archivers] == [0, 0]
        connection = shm.connect()
        assert connection.ask("HGETALL", "shareddata:archived") == {}, "no note is left"
        connection.close()
    check(folder, total)


def left(shm: SharedMemory, name: tuple[str, str]) -> dict[str, int]:
    """Return what Redis holds still."""
    return {what: count for what, count in waiting(shm, *name).items() if count}


@pytest.mark.timeout(300)
def test_killed_together_with_the_server(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], short_path: Path, config: Path, full: bool
) -> None:
    """With `fsync=always` a server loses nothing; the emitter repeats what it has no outcome of."""
    server, chance, total = own_server(fsync="always"), random.Random(7), 0
    with SharedMemory(url=server.url) as shm:
        for _ in range(20 if full else 3):
            archiver = program(ARCHIVER, server.url, config)
            assert archiver.line() == "ready"
            for _ in range(3):
                for _ in range(chance.randrange(1, 60)):
                    size = 40_000 if total % 5 == 0 else 10
                    again(archive.emit, "cam", "frame", np.full(size, total, "<u4"), {"pair": total // 2}, shm)
                    again(archive.emit, "tank", "level", {"number": total}, {"pair": total // 2}, shm)
                    total += 1
                server.restart()
            time.sleep(chance.uniform(0, 0.1))  # the random moment
            archiver.kill()
    finish(server, short_path, config, total)


def again(action: Callable[..., None], *arguments: Any) -> None:
    """Do something until it is done."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return action(*arguments)
        except ServerError:
            assert time.monotonic() < deadline


@pytest.mark.timeout(120)
def test_the_server_is_stopped_for_a_while(
    own_server: Callable[..., OwnServer], short_path: Path, config: Path, kind: str
) -> None:
    server = own_server(kind)
    with SharedMemory(url=server.url, timeout=0.5) as shm, archive.start(config, shm):
        for number in range(60):
            if number % 20 == 10:
                server.stop()
                with pytest.raises(ServerError, match="is the server stopped|no answer|takes no more"):
                    archive.emit("cam", "frame", np.full(10, number, "<u4"), {"pair": number // 2}, shm)
                server.cont()
            again(archive.emit, "cam", "frame", np.full(10, number, "<u4"), {"pair": number // 2}, shm)
            again(archive.emit, "tank", "level", {"number": number}, {"pair": number // 2}, shm)
    finish(server, short_path, config, 60)


@pytest.mark.timeout(60)
def test_an_archiver_that_is_stopped_catches_up(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], short_path: Path, config: Path
) -> None:
    """SIGSTOP, and SIGTERM to the command: nothing is lost by either."""
    server = own_server()
    code = "from shareddata.cli import main\nmain(['archive', '-u', *sys.argv[1:]])"
    archiver = program(code, server.url, config)
    assert "ARCHIVER" in archiver.line()
    emitter = program(EMITTER, server.url)
    eventually(lambda: files(short_path / "levels"), 10, "the first files")
    archiver.send_signal(signal.SIGSTOP)
    time.sleep(0.3)  # how long does not matter
    archiver.send_signal(signal.SIGCONT)
    emitter.tell()
    total = int(emitter.line())
    archiver.send_signal(signal.SIGTERM)
    lines = archiver.finish()
    assert lines[-1].split()[:5] == ["levels", "level", "of", "*", str(total)]
    with SharedMemory(url=server.url) as shm:
        assert waiting(shm, "cam", "frame") == waiting(shm, "tank", "level") == NOTHING
    check(short_path, total)


def test_two_of_the_same_name_share_the_work(shm: SharedMemory, config: Path, short_path: Path) -> None:
    """Also what the other one has in hand is stored once."""
    with archive.start(config, shm) as one, archive.start(config, shm) as other:
        for number in range(300):
            archive.emit("cam", "frame", np.full(10, number, "<u4"), {"pair": number // 2}, shm)
            archive.emit("tank", "level", {"number": number}, {"pair": number // 2}, shm)
            if number % 100 == 50:
                one[0]._subscription._unsure = other[1]._subscription._unsure = True
        eventually(lambda: waiting(shm, "cam", "frame") == waiting(shm, "tank", "level") == NOTHING, 20)
    check(short_path, 300, gaps=True)


def test_emitted_before_the_stop_is_stored(shm: SharedMemory, config: Path, short_path: Path) -> None:
    with archive.start(config, shm) as archivers:
        for number in range(200):
            archive.emit("cam", "frame", np.full(10, number, "<u4"), {"pair": number // 2}, shm)
            archive.emit("tank", "level", {"number": number}, {"pair": number // 2}, shm)
    assert [archiver.status.stored for archiver in archivers] == [200, 200]
    check(short_path, 200)


def test_a_child_leaves_its_parent_s_archivers_alone(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], short_path: Path, config: Path
) -> None:
    server = own_server()
    code = """
        from shareddata import archive
        shm = SharedMemory(url=sys.argv[1])
        archivers = archive.start(sys.argv[2], shm)
        if (child := os.fork()) == 0:
            sys.exit()
        say(os.waitpid(child, 0)[1])
        for number in range(10):
            archive.emit("tank", "level", {"number": number}, {"pair": number // 2}, shm)
    """
    assert program(code, server.url, config).finish() == ["0"]
    assert len(files(short_path / "levels")) == 10, "what was emitted before the end of the program is stored"
