"""Frame files in several processes: nothing torn, kills leave whole frames only, the server may be started again."""

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis

from programs import Program
from proxy import Proxy
from servers import OwnServer, free_port
from shareddata import ServerError, ServerTimeout, SharedMemory, frames, large
from shareddata.errors import NoSuchFrame
from shareddata.frames import FrameFile
from waiting import eventually

SIZES = {"inline": 60, "large": 256}
"""Edges of a frame of u2: 7 KB goes through the server, 128 KiB by reference where that is possible."""

# Appends frames whose elements are their index, with a key each, and overwrites four others with a counter.
WRITER = """
    import numpy as np
    from shareddata.frames import FrameFile
    url, name, edge, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with SharedMemory(url=url) as shm, FrameFile(name, shm, "w") as file:
        data = file.create_dataset("data", (0, edge, edge), "u2", maxshape=(None, edge, edge), keep=6)
        keys = file.create_dataset("keys/key", (0, 1, 1), "i8", maxshape=(None, 1, 1))
        fixed = file.create_dataset("fixed", (4, edge, edge), "u2", chunks=(1, edge, edge))
        say("ready")
        frame = np.empty((edge, edge), "u2")
        for i in range(count):
            with file.together():
                frame[:] = i
                data.append(frame)
                keys.append(i + 1)
            fixed[i % 4] = frame
            if i % 16 == 0:
                fixed[:] = i
        file.seal()
"""
# Reads what is there until the file is sealed, and says how much it has seen of what.
READER = """
    import random
    import numpy as np
    from shareddata.frames import FrameFile
    from shareddata.errors import NoSuchFrame
    url, name = sys.argv[1:]
    seen = trimmed = fixed = 0
    with SharedMemory(url=url) as shm, FrameFile(name, shm) as file:
        data, keys = file["data"], file["keys/key"]
        say("ready")
        while True:
            sealed = file.sealed
            file.refresh()
            done = np.count_nonzero(keys[...])
            assert done == len(keys) == len(data), (done, len(keys), len(data))
            if done:
                i = max(0, done - random.randint(1, 6))
                try:
                    frame = data[i]
                    assert frame.min() == frame.max() == i, (i, frame.min(), frame.max())
                    seen += 1
                except NoSuchFrame:
                    trimmed += 1
            for frame in file["fixed"][:]:
                assert frame.min() == frame.max(), (frame.min(), frame.max())
                fixed += frame.max() > 0
            if sealed:
                break
    say(seen, trimmed, fixed, done)
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.parametrize("link", ["unix", "tcp"])
def test_no_reader_ever_sees_half_a_frame(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str, link: str, size: str, full: bool
) -> None:
    server = own_server(kind, port=free_port())
    url = server.url if link == "unix" else server.tcp_url
    count = 10_000 if full else 400
    writer = program(WRITER, url, "scan", SIZES[size], count)
    assert writer.line() == "ready"
    readers = [program(READER, url, "scan") for _ in range(3)]
    for each in [*readers, writer]:
        lines = each.finish(150)
        if each is not writer:
            seen, _, fixed, done = map(int, lines[-1].split())
            assert seen > 0 and fixed > 0 and done == count


def everything(client: redis.Redis) -> dict[str, set[str]]:
    """Return the chunks in Redis by dataset, and check that what is left of removed files will expire."""
    entries = client.xrange("shareddata:frames")
    there = {f"frames:{fields[b'name'].decode()}:{fields[b'generation'].decode()}" for _, fields in entries}
    found = {}
    for key in map(bytes.decode, client.keys("frames:*")):
        if key.count(":") == 1:
            assert any(each.startswith(f"{key}:") for each in there), key
        elif ":".join(key.split(":")[:3]) not in there:
            assert client.ttl(key) > 0, f"{key} was left behind"
        elif key.count(":") == 3 and not key.endswith(":news"):
            found[key] = {field.decode() for field in client.hkeys(key)}
    return found


def in_memory(shm: SharedMemory) -> int:
    place = large.folder(shm.address)
    assert place is not None
    return sum(path.parent.name not in ("writing", "spare") for path in place.glob("*/*"))


@pytest.mark.timeout(300)
def test_a_killed_writer_leaves_whole_frames_only(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str, full: bool
) -> None:
    server = own_server(kind)
    chance = random.Random(4)
    with SharedMemory(url=server.url) as shm, server.client() as client:
        for round_ in range(50 if full else 8):
            writer = program(WRITER, server.url, "scan", SIZES["large"], 1_000_000)
            assert writer.line() == "ready"
            time.sleep(chance.uniform(0, 0.05))  # any moment will do
            writer.kill()
            with FrameFile("scan", shm) as file:
                data, keys = file["data"], file["keys/key"]
                done = int(np.count_nonzero(keys[...]))
                assert done == len(keys) == len(data), round_
                for begin in data.left():
                    assert (data[begin[0]] == begin[0]).all()
                for i in range(max(0, done - 6), done):
                    assert data[i].shape == (256, 256)
        program(WRITER, server.url, "scan", SIZES["large"], 30).finish()
        chunks = everything(client)
        assert sum(len(fields) for key, fields in chunks.items() if not key.endswith("/keys/key")) == 10
        assert in_memory(shm) == 10, "a program that starts clears away what killed ones left"


CREATOR = """
    import random
    from shareddata.frames import FrameFile
    url, number, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(number)
    ended = 0
    with SharedMemory(url=url) as shm:
        for i in range(count):
            name = f"scan_{chance.randrange(25)}"
            with FrameFile(name, shm, "w", metadata={"by": number}) as file:
                try:
                    data = file.create_dataset("data", (2, 200, 200), "u2")
                    data[0] = i
                    data[1] = i
                    if chance.random() < 0.5:
                        file.seal()
                except WriterConflict:
                    ended += 1
    say(ended)
"""


@pytest.mark.timeout(180)
def test_many_create_at_once(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str, full: bool
) -> None:
    """At most so many files are there, each whole, and nothing of those that are gone."""
    server = own_server(kind)
    creators = [program(CREATOR, server.url, number, 300 if full else 40) for number in range(4)]
    for creator in creators:
        creator.finish(150)
    with SharedMemory(url=server.url) as shm, server.client() as client:
        infos = frames.files(shm)
        names = [info.name for info in infos]
        assert len(names) == len(set(names)) == frames.FILES
        chunks = everything(client)
        for info in infos:
            assert info.writer["program"] == "-c" and info.metadata["by"] in range(4)
            with FrameFile(info.name, shm) as file:
                for i in range(2) if "data" in file else ():
                    picture = file["data"][i]
                    assert picture.min() == picture.max()
        assert in_memory(shm) == sum(map(len, chunks.values()))
        for name in names:
            frames.remove(name, shm)
        assert frames.files(shm) == [] and everything(client) == {} and in_memory(shm) == 0


ENDLESS = """
    import numpy as np
    from shareddata.frames import FrameFile
    with SharedMemory(url=sys.argv[1]) as shm, FrameFile("scan", shm, sys.argv[2]) as file:
        if "data" not in file:
            file.create_dataset("data", (0, 200, 200), "u2", maxshape=(None, 200, 200), keep=50)
        data = file["data"]
        say(len(data))
        try:
            while True:
                data.append(np.full((200, 200), len(data)))
        except WriterConflict as error:
            say(len(data))
            say(error)
"""


def test_writers_that_take_over_from_each_other_do_not_mix(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str
) -> None:
    """Each begins where the one before it ended, and that one is told; no file of a void write stays."""
    server = own_server(kind)
    writers = [program(ENDLESS, server.url, "w")]
    assert writers[0].line() == "0"
    with SharedMemory(url=server.url) as shm:
        for _ in range(5):
            with FrameFile("scan", shm) as file:
                begin = len(file["data"])
                eventually(lambda file=file, begin=begin: file.wait(1) and len(file["data"]) > begin + 5)
            writers.append(program(ENDLESS, server.url, "r+"))
            begin = int(writers[-1].line())
            end, error = int(writers[-2].line()), writers[-2].line()
            assert begin == end and f"process {writers[-1].process.pid} on" in error
        with FrameFile("scan", shm, "r+") as file:
            writers[-1].finish()
            data = file["data"]
            for i, *_ in data.left():
                assert (data[i] == i).all()
            assert in_memory(shm) == len(data.left()) <= 50


PATIENT = """
    import numpy as np
    from shareddata.frames import FrameFile
    url, count = sys.argv[1], int(sys.argv[2])
    with SharedMemory(url=url, timeout=1) as shm:
        file = FrameFile("scan", shm, "w")
        data = file.create_dataset("data", (0, 256, 256), "u2", maxshape=(None, 256, 256), keep=1000)
        keys = file.create_dataset("keys/key", (0, 1, 1), "i8", maxshape=(None, 1, 1))
        say("ready")
        def write(i):
            with file.together():
                data.resize(i + 1, axis=0)
                keys.resize(i + 1, axis=0)
                data[i] = np.full((256, 256), i)
                keys[i] = i + 1
        def patiently(action, *args):
            while True:
                try:
                    return action(*args)
                except ServerError:
                    time.sleep(0.01)
        for i in range(count):
            patiently(write, i)
        patiently(file.seal)
"""


@pytest.mark.timeout(180)
def test_writer_and_reader_go_on_when_the_server_is_started_again(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], kind: str
) -> None:
    server = own_server(kind, fsync="always")
    writer = program(PATIENT, server.url, 200)
    assert writer.line() == "ready"
    with SharedMemory(url=server.url) as shm, FrameFile("scan", shm) as file:
        data, keys = file["data"], file["keys/key"]
        seen = restarts = 0
        while not (file.sealed and seen == len(data)):
            try:
                file.wait(1)
                for i in range(seen, int(np.count_nonzero(keys[...]))):
                    assert (data[i] == i).all()
                    seen = i + 1
            except ServerError:
                pass
            if seen // 50 > restarts:
                server.restart()
                restarts += 1
        assert seen == 200 and restarts >= 3
        writer.finish()
        assert in_memory(shm) == 200


def test_what_a_write_of_unknown_outcome_left_does_not_stay(
    own_server: Callable[..., OwnServer], proxy: Callable[..., Proxy], kind: str, short_path: Any
) -> None:
    """Its answer is swallowed; the same is written again, and each chunk has one file."""
    server = own_server(kind)
    link = proxy(server.url, socket_path=str(short_path / "s"))
    with SharedMemory(url=link.url, timeout=1) as shm, FrameFile("scan", shm, "w") as file:
        data = file.create_dataset("data", (0, 256, 256), "u2", maxshape=(None, 256, 256), keep=3)
        for i in range(10):
            if i % 2:
                link.half_open()
                with pytest.raises(ServerTimeout, match="outcome is unknown") as caught:
                    data.append(np.full((256, 256), i))
                assert caught.value.outcome_unknown
                link.heal()
                link.cut()
            assert len(data) == i
            assert data.append(np.full((256, 256), i)) == i
        assert data[7:, 0, 0].tolist() == [7, 8, 9]
        with server.client() as client:
            assert {len(fields) for fields in everything(client).values()} == {3}
        eventually(lambda: in_memory(shm) == 3)


def test_a_forked_child_reads_and_does_not_write(shm: SharedMemory, program: Callable[..., Program]) -> None:
    forking = program(
        """
        from shareddata.frames import FrameFile
        with SharedMemory(url=sys.argv[1]) as shm, FrameFile("scan", shm, "w") as file:
            data = file.create_dataset("data", (4, 200, 200), "u2")
            data[0] = 1
            with file.together():
                data[1] = 2
                child = os.fork()
                if not child:
                    try:
                        assert data[0].max() == 1 and data[1].max() == 0
                        data[2] = 3
                    except WriterConflict as error:
                        say(error)
                        os._exit(0)
                    os._exit(1)
                assert os.waitpid(child, 0)[1] == 0
            data[3] = 4
            say(data[:, 0, 0].tolist())
        """,
        shm.url,
    )
    told, values = forking.finish()
    assert "opened before this process was forked" in told and values == "[1, 2, 0, 4]"


def test_signals_leave_a_file_usable(shm: SharedMemory, program: Callable[..., Program]) -> None:
    """Control-C at any moment: the frame is there whole, or it is not, and the writer goes on."""
    writer = program(
        """
        import numpy as np
        from shareddata.frames import FrameFile
        with SharedMemory(url=sys.argv[1]) as shm, FrameFile("scan", shm, "w") as file:
            data = file.create_dataset("data", (0, 200, 200), "u2", maxshape=(None, 200, 200), keep=8)
            say("ready")
            interrupted = i = 0
            while i < 300:
                try:
                    while i < 300:
                        assert data.append(np.full((200, 200), i)) == i
                        i += 1
                except KeyboardInterrupt:
                    interrupted += 1
                    assert len(data) in (i, i + 1)
                    i = len(data)
            assert all((data[i] == i).all() for i in range(292, 300))
            say(interrupted)
        """,
        shm.url,
    )
    assert writer.line() == "ready"
    chance = random.Random(1)
    while writer.process.poll() is None and chance:
        time.sleep(chance.uniform(0.001, 0.02))
        try:
            writer.send_signal(signal.SIGINT)
        except ProcessLookupError:
            break
        if len(FrameFile("scan", shm)["data"]) >= 250:
            break
    assert int(writer.finish()[-1]) > 0
    with FrameFile("scan", shm) as file:
        assert len(file["data"].left()) == 8
        with pytest.raises(NoSuchFrame, match="8 chunks are left, from 292"):
            file["data"][0]
