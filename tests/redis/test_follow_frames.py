"""Following FrameFiles: what only they have. Waking, seals, generations, bounds, outages, and files as they come."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from growth import STACK, Place, Writer
from programs import Program
from servers import OwnServer, plain_client
from shareddata import FrameError, NoMoreFrames, NoSuchFrame, NotYetWritten, ServerError, SharedMemory, frames
from shareddata.follow import ChunkSource, DataFollower, DataSource, Follower, FrameGrabber, KeyFollower, files
from shareddata.frames import FrameFile
from shareddata.server import Server
from waiting import eventually

OVER = 0.12  # seconds without a key after which a test's follower ends


@pytest.fixture
def place(kind: str, servers: dict[str, Server], tmp_path: Path, program: Callable[..., Program]) -> Iterator[Place]:
    with Place(kind, servers, tmp_path, program) as place:
        yield place


@pytest.fixture
def shm(place: Place) -> SharedMemory:
    assert place.shm is not None
    return place.shm


@pytest.fixture
def stack(place: Place) -> Writer:
    """A writer of frames `frame(i)`, each full of its index."""
    return place.writer(STACK)


@pytest.fixture
def file(place: Place, stack: Writer) -> Any:
    """The writer's file, open for reading."""
    return place.open(stack.name)


def made(shm: SharedMemory, name: str = "scan", **options: Any) -> FrameFile:
    """Create a file with a stack of pictures and their keys."""
    file = FrameFile(name, shm, "w")
    file.create_dataset("keys/key", (0,), "i8", maxshape=(None,))
    file.create_dataset("data", (0, 8, 8), "u2", maxshape=(None, 8, 8), **options)
    return file


def write(file: FrameFile, *numbers: int) -> None:
    for number in numbers:
        with file.together():
            file["data"].append(np.full((8, 8), number))
            file["keys/key"].append(number + 1)


# -- waking -----------------------------------------------------------------------------------------------------------


def test_a_write_wakes_it(stack: Writer, file: FrameFile) -> None:
    """Twenty frames, each awaited: together in less time than twenty looks at an HDF5 file could be apart."""
    follower = DataFollower(file, "keys", "data", timeout=10)
    stack.write("import time; times = []")
    stack.start("[(time.sleep(0.05), times.append(time.monotonic()), frame(i)) for i in range(20)]")
    late = []
    for _ in range(20):
        next(follower)
        late.append(time.monotonic())
    stack.process.line()
    stack.start("say(*times)")
    written = [float(word) for word in stack.process.line().split()]
    stack.process.line()
    distances = sorted(seen - begun for seen, begun in zip(late, written))
    assert distances[10] < 0.02


def test_nothing_is_asked_while_nothing_happens(stack: Writer, file: FrameFile, place: Place) -> None:
    assert place.shm is not None
    follower = Follower(file, "keys", timeout=1)
    with plain_client(place.shm.url) as client:
        before = client.info("stats")["total_commands_processed"]
        assert list(follower) == []
        asked = client.info("stats")["total_commands_processed"] - before
    assert asked < 30


# -- ends -------------------------------------------------------------------------------------------------------------


def test_a_seal_ends_it_when_all_was_given(stack: Writer, file: FrameFile) -> None:
    follower = DataFollower(file, "keys", "data", timeout=60)
    stack.write("frame(0)")
    assert (next(follower)[0] == 0).all()
    stack.start("time.sleep(0.2); frame(1); frame(2); file.seal()")
    begun = time.monotonic()
    assert [int(each[0].max()) for each in follower] == [1, 2]
    assert time.monotonic() - begun < 10
    assert follower.is_finished()


@pytest.mark.parametrize("source", [Follower, DataFollower, DataSource])
def test_what_is_written_before_the_end_is_never_missed(shm: SharedMemory, source: Any) -> None:
    """The last frames come after the file was looked at, and before it is asked whether it is finished."""
    with made(shm) as writer, FrameFile("scan", shm) as file:
        writer.create_dataset("finished", data=[0])
        file.refresh()
        data = () if source is Follower else ("data",)
        follower = source(file, "keys", *data, timeout=60, finished_dataset="finished")
        patience = (follower if source is Follower else getattr(follower, "kf", None) or follower._follower).patience
        finish = patience.finish

        def write_and_finish() -> bool:
            write(writer, 0, 1)
            writer["finished"][0] = 1
            return bool(finish())

        patience.finish = write_and_finish
        next(follower)
        patience.finish = finish
        assert len(list(follower)) == 1


def test_beyond_a_seal_there_is_no_more(stack: Writer, file: FrameFile) -> None:
    grabber = FrameGrabber("data", file)
    stack.write("frame(0)")
    with pytest.raises(NotYetWritten, match="file1: /data: frame 1 is not written yet: there are 1"):
        grabber.Grabber(1)
    stack.write("file.seal()")
    with pytest.raises(NoMoreFrames, match="file1: /data: no frame 1: the file was finished with 1 frames: end here"):
        grabber.Grabber(1)
    assert (grabber.Grabber(0) == 0).all()
    with pytest.raises(NoMoreFrames, match="no keys at 'kees' .* the file was finished without them"):
        next(Follower(file, "kees", timeout=60))


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_new_generation_ends_old_followers(shm: SharedMemory, how: str) -> None:
    with made(shm) as old, FrameFile("scan", shm) as file, FrameFile("scan", shm) as other:
        write(old, 0, 1)
        followers = [Follower(file, "keys", 60), DataFollower(other, "keys", "data", 60)]
        indices: list[list[int]] = [[], []]

        def follow(number: int) -> None:
            for _ in followers[number]:
                indices[number].append(followers[number].index if number else followers[number].current_key)  # type: ignore[union-attr]

        threads = [threading.Thread(target=follow, args=[number]) for number in range(2)]
        for thread in threads:
            thread.start()
        eventually(lambda: indices == [[0, 1], [0, 1]], message="the frames that there are")
        begun = time.monotonic()
        if how == "replaced":
            made(shm).close()
        else:
            frames.remove("scan", shm)
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - begun < 10
        assert indices == [[0, 1], [0, 1]]
        assert all(follower.is_finished() for follower in followers)
        assert file.state == how


@pytest.mark.parametrize("source", [DataFollower, DataSource])
def test_indices_of_a_replaced_file_end_too(shm: SharedMemory, source: Any) -> None:
    """They were known before, and their frames are gone."""
    with made(shm) as old, FrameFile("scan", shm) as file:
        write(old, *range(5))
        follower = source(file, "keys", "data", 60)
        next(follower)
        made(shm).close()
        assert list(follower) == []


@pytest.mark.parametrize("known", [False, True])
def test_chunks_of_a_replaced_file_end_too(shm: SharedMemory, known: bool) -> None:
    with made(shm, chunks=(1, 8, 8)) as old, FrameFile("scan", shm) as file:
        write(old, *range(3))
        file.refresh()
        source = ChunkSource({"data": file["data"]}, timeout=60)
        assert next(source).index == 0
        made(shm).close()
        if known:
            file.refresh()
        assert list(source) == []


def test_late_keys_and_data(shm: SharedMemory) -> None:
    """A frame file may get its datasets at any time."""
    with FrameFile("scan", shm, "w") as writer, FrameFile("scan", shm) as file:
        follower = DataFollower(file, ["keys", "more/key"], "data", timeout=OVER)
        for make in ("keys/one", "more/key", "keys/two"):
            with pytest.raises(NotYetWritten, match="no .* at '"):
                next(follower)
            writer.create_dataset(make, data=[1, 1], maxshape=(None,))
        with pytest.raises(NotYetWritten, match="no dataset at 'data'"):
            next(follower)
        writer.create_dataset("data", data=np.ones((3, 4, 4)))
        assert [each[0].shape for each in follower] == [(1, 4, 4)] * 2
        writer["keys/one"].append(1)
        writer["keys/two"].append(1)
        assert list(follower) == []
        writer["more/key"].append(1)
        assert len(list(follower)) == 1


def test_a_key_dataset_that_joins_holds_the_others_back(shm: SharedMemory) -> None:
    with FrameFile("scan", shm, "w") as writer, FrameFile("scan", shm) as file:
        one = writer.create_dataset("keys/one", data=[1, 1], maxshape=(None,))
        follower = Follower(file, "keys", timeout=OVER)
        assert list(follower) == [0, 1]
        other = writer.create_dataset("keys/other", data=[1], maxshape=(None,))
        one.append(1)
        assert list(follower) == []
        other.append(1)
        assert list(follower) == []
        other.append(1)
        assert list(follower) == [2]


def test_datasets_of_several_frame_files_are_refused(shm: SharedMemory) -> None:
    with made(shm, "one"), made(shm, "two"), FrameFile("one", shm) as one, FrameFile("two", shm) as two:
        told = "datasets of several frame files, 'one', 'two', opened each for itself: follow one file"
        with pytest.raises(FrameError, match=told):
            KeyFollower([one["keys/key"], two["keys/key"]])
        with pytest.raises(FrameError, match=told):
            ChunkSource({"one": one["data"], "two": two["data"]})


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_what_is_not_kept_is_told_and_passed_over(shm: SharedMemory) -> None:
    with made(shm, keep=3) as writer, FrameFile("scan", shm) as file:
        write(writer, *range(10))
        follower = DataFollower(file, "keys", "data", timeout=OVER)
        with pytest.raises(NoSuchFrame, match="what begins at 0 is not kept any more: 3 chunks are left, from 7"):
            next(follower)
        assert (follower.missed, follower.index) == (7, 6)
        assert [int(each[0].max()) for each in follower] == [7, 8, 9]
        write(writer, *range(10, 12))
        assert [int(each[0].max()) for each in follower] == [10, 11]
        assert follower.missed == 7
        with pytest.raises(NoSuchFrame, match="not kept any more"):
            FrameGrabber("data", file).Grabber(3)
        assert FrameGrabber("data", file).Grabber(9).max() == 9
        follower.reset()
        assert (follower.missed, follower.index) == (0, -1)


def test_a_slow_follower_misses_exactly_what_is_not_kept(shm: SharedMemory) -> None:
    with made(shm, keep=4) as writer, FrameFile("scan", shm) as file:
        source = DataSource(file, ["keys"], ["data"], timeout=OVER)
        got: list[int] = []
        for begin in range(0, 60, 6):
            write(writer, *range(begin, begin + 6))
            try:
                got.append(next(source)["data"].max())
            except NoSuchFrame:
                continue
        while True:
            try:
                got += [each["data"].max() for each in source]
                break
            except NoSuchFrame:
                continue
        assert got == sorted(set(got))
        assert len(got) + source.missed == 60


# -- outages ----------------------------------------------------------------------------------------------------------


def test_a_server_that_was_away_is_waited_for(
    own_server: Callable[..., OwnServer], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server(kind, fsync="always")
    with SharedMemory(url=server.url, timeout=1) as shm, made(shm) as writer, FrameFile("scan", shm) as file:
        write(writer, 0)
        follower = DataFollower(file, "keys", "data", timeout=30)
        assert next(follower)[0].max() == 0
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(next(follower)))
        thread.start()
        server.kill()
        eventually(lambda: "the server went" in caplog.text, message="the follower's notice")
        server.start()
        write(writer, 1)
        thread.join(20)
        assert answers[0][0].max() == 1


@pytest.mark.parametrize("stop", [OwnServer.stop, OwnServer.kill], ids=["silent", "killed"])
def test_a_server_that_stays_away_is_an_error_at_the_end_of_the_time(
    own_server: Callable[..., OwnServer], kind: str, stop: Callable[[OwnServer], None]
) -> None:
    server = own_server(kind, fsync="always")
    with SharedMemory(url=server.url, timeout=0.5) as shm, made(shm) as writer, FrameFile("scan", shm) as file:
        write(writer, 0)
        follower = Follower(file, "keys", timeout=1)
        assert next(follower) == 0
        stop(server)
        begun = time.monotonic()
        with pytest.raises(ServerError, match="is silent|refused|No such file"):
            next(follower)
        assert 1 <= time.monotonic() - begun < 10
        assert not follower.is_finished()
        server.cont() if stop == OwnServer.stop else server.start()
        write(writer, 1)
        assert next(follower) == 1


# -- beside HDF5 ------------------------------------------------------------------------------------------------------

BOTH = """
    import h5py, numpy as np
    from shareddata.frames import FrameFile

    rng = np.random.default_rng(int(sys.argv[3]))
    scan = tuple(int(extent) for extent in rng.integers(1, 5, 2))
    with SharedMemory(url=sys.argv[1]) as shm, FrameFile("scan", shm, "w") as one, h5py.File(
        sys.argv[2], "w", libver="latest"
    ) as other:
        for file in one, other:
            file.create_dataset("keys/slow", (0, 0, 1, 1), "i4", maxshape=(None, None, 1, 1), chunks=(4, 4, 1, 1))
            file.create_dataset("keys/fast", scan, "i8", maxshape=scan, chunks=scan)
            file.create_dataset("pictures", (0, 0, 6, 7), "u2", maxshape=(None, None, 6, 7), chunks=(1, 1, 6, 7))
            file.create_dataset("spectra", (*scan, 9), "f8", maxshape=(*scan, 9), chunks=(1, 1, 9))
            file.swmr_mode = True
        say("ready")
        for index in range(scan[0] * scan[1]):
            row, column = divmod(index, scan[1])
            picture, spectrum = rng.integers(0, 65536, (6, 7)), rng.random(9)
            for file in one, other:
                shape = (row + 1, scan[1] if row else column + 1)
                for name in "pictures", "spectra", "keys/fast", "keys/slow":
                    dataset = file[name]
                    if name in ("pictures", "keys/slow"):
                        dataset.resize((*shape, *dataset.shape[2:]))
                    dataset[row, column] = {"pictures": picture, "spectra": spectrum}.get(name, index + 1)
                    dataset.flush()
        say(scan[0] * scan[1])
        sys.stdin.readline()
"""


@pytest.mark.parametrize("seed", range(3))
def test_the_same_follower_gives_the_same_on_both(
    shm: SharedMemory, program: Callable[..., Program], tmp_path: Path, seed: int
) -> None:
    """One writer writes both kinds, growing row by row; indices and frames are equal, followed while it writes."""
    path = tmp_path / "scan.h5"
    writer = program(BOTH, shm.address.url, path, seed)
    assert writer.line() == "ready"
    with FrameFile("scan", shm) as one, h5py.File(path, "r", swmr=True) as other:
        followers = [DataFollower(file, "keys", ["pictures", "spectra"], timeout=10) for file in (one, other)]
        indices = [Follower(file, "keys", timeout=10) for file in (one, other)]
        count = 0
        for index, (ours, theirs) in enumerate(zip(*followers, strict=True)):
            assert [next(each) for each in indices] == [index, index]
            assert [each.shape for each in ours] == [each.shape for each in theirs] == [(1, 1, 6, 7), (1, 1, 9)]
            assert all((mine == other).all() for mine, other in zip(ours, theirs))
            count += 1
        assert count == int(writer.line())
        assert [list(each) for each in indices] == [[], []]
    writer.finish()


# -- files ------------------------------------------------------------------------------------------------------------


def test_each_new_file_comes_with_its_metadata_and_state(shm: SharedMemory) -> None:
    with FrameFile("before", shm, "w"), files(shm=shm, timeout=OVER) as coming:
        assert list(coming) == []
        with FrameFile("one", shm, "w", metadata={"sample": "Si"}), FrameFile("two", shm, "w") as two:
            two.seal()
            found = [(file.filename, file.metadata, file.state) for file in closing(coming)]
    assert found == [("one", {"sample": "Si"}, "writing"), ("two", {}, "sealed")]
    with files(0, shm, timeout=OVER) as all_there:
        assert [file.filename for file in closing(all_there)] == ["before", "one", "two"]


def closing(opened: Any) -> Iterator[FrameFile]:
    for file in opened:
        with file:
            yield file


def test_a_program_that_follows_whatever_comes(shm: SharedMemory, program: Callable[..., Program]) -> None:
    watcher = program(
        """
        from shareddata.follow import DataFollower, files
        with SharedMemory(url=sys.argv[1]) as shm, files(shm=shm, timeout=30) as coming:
            say("ready")
            for file in coming:
                with file:
                    total = sum(int(frame.sum()) for frame, in DataFollower(file, "keys", "data"))
                    say(file.filename, file.state, total)
        """,
        shm.address.url,
    )
    assert watcher.line() == "ready"
    for name in "first", "second":
        with made(shm, name) as file:
            write(file, 1, 2, 3)
            file.seal()
        assert watcher.line() == f"{name} sealed {6 * 64}"
