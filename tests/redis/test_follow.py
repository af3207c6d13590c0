"""Following a file that another process writes: indices, frames, ends and errors; the same on HDF5 and FrameFile."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from growth import KINDS, STACK, Place, Writer
from programs import Program
from shareddata import FrameError, NoMoreFrames, NoSuchFrame, NotYetWritten, SharedDataError
from shareddata.follow import DataFollower, Follower, FrameGrabber
from shareddata.server import Server

OVER = 0.12  # seconds without a key after which a test's follower ends

GRID = 'keys = file.create_dataset("keys/k", {shape}, "i4", maxshape=(None, None), chunks=(4, 4))'


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, servers: dict[str, Server], tmp_path: Path, program: Callable[..., Program]
) -> Iterator[Place]:
    """Where the files are that a test makes."""
    with Place(request.param, servers, tmp_path, program) as place:
        yield place


@pytest.fixture
def stack(place: Place) -> Writer:
    """A writer of frames `frame(i)`, each full of its index."""
    return place.writer(STACK)


@pytest.fixture
def file(place: Place, stack: Writer) -> Any:
    """The writer's file, open for reading."""
    return place.open(stack.name)


# -- indices --------------------------------------------------------------------------------------------------------


def test_it_goes_on_as_keys_are_written(stack: Writer, file: Any) -> None:
    follower = Follower(file, "keys", timeout=5)
    for i in range(20):
        stack.write(f"frame({i})")
        assert next(follower) == i
    assert (follower.current_key, follower.current_max, follower.is_finished()) == (19, 19, False)


def test_a_key_that_comes_late_is_waited_for(stack: Writer, file: Any) -> None:
    stack.start("time.sleep(0.4); frame(0)")
    begun = time.monotonic()
    assert next(Follower(file, "keys", timeout=10)) == 0
    assert time.monotonic() - begun < 5


def test_the_time_counts_from_the_last_key(stack: Writer, file: Any) -> None:
    """Eight keys at distances shorter than the time-out, which together take longer."""
    stack.start("[(time.sleep(0.15), frame(i)) for i in range(8)]")
    begun = time.monotonic()
    assert list(Follower(file, "keys", timeout=1)) == list(range(8))
    assert 2.2 <= time.monotonic() - begun < 8


@pytest.mark.parametrize("zeros", [[3], [0], [7], [], [2, 5]])
def test_it_stops_before_the_first_zero(place: Place, zeros: list[int]) -> None:
    keys = np.arange(8).reshape(2, 4, 1, 1) + 1
    keys.reshape(-1)[zeros] = 0
    follower = Follower(place.still({"keys/key_1": keys}), ["keys"], timeout=OVER)
    assert list(follower) == list(range(min(zeros, default=8)))
    assert follower.is_finished() and follower.timed_out


def test_always_true_ends_at_once(place: Place) -> None:
    follower = Follower(place.still({"keys/a": [1, 1, 0]}), "keys", timeout=60, termination_conditions=["always_true"])
    begun = time.monotonic()
    assert list(follower) == [0, 1]
    assert time.monotonic() - begun < 10
    assert follower.is_finished() and not follower.timed_out


def test_a_finished_dataset_ends_it_and_nothing_is_missed(stack: Writer, file: Any) -> None:
    follower = Follower(file, "keys", timeout=60, finished_dataset="finished")
    stack.write("frame(0)")
    assert next(follower) == 0
    stack.start("time.sleep(0.2); frame(1); frame(2); finished[...] = 1; finished.flush()")
    begun = time.monotonic()
    assert list(follower) == [1, 2]
    assert time.monotonic() - begun < 10
    assert follower.is_finished() and not follower.timed_out


def test_full_keys_end_at_once(place: Place) -> None:
    file = place.still({"keys/a": np.ones((2, 4)), "keys/b": np.ones((2, 4, 1))}, growing=False)
    follower = Follower(file, "keys", timeout=60)
    begun = time.monotonic()
    assert list(follower) == list(range(8))
    assert time.monotonic() - begun < 10
    assert not follower.timed_out


@pytest.mark.parametrize("finished", [[1], 1, [[2]]], ids=["one", "scalar", "two dimensions"])
def test_finished_before_it_began(place: Place, finished: Any) -> None:
    file = place.still({"keys/a": [1, 1, 0, 1]})
    assert list(Follower(file, "keys", timeout=OVER, finished_dataset="nothing")) == [0, 1]
    making = f"""
file.create_dataset("keys/a", data=[1, 1, 0, 1], maxshape=(None,))
file.create_dataset("end", data={finished})
"""
    file = place.open(place.writer(making).name)
    begun = time.monotonic()
    follower = Follower(file, "keys", timeout=60, finished_dataset="end")
    assert list(follower) == [0, 1]
    assert time.monotonic() - begun < 10
    assert not follower.timed_out


def test_an_odd_finished_dataset_is_told_of_and_does_not_count(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    file = place.still({"keys/a": [1, 0], "finished": [1, 1]})
    follower = Follower(file, "keys", timeout=OVER, finished_dataset="finished")
    assert list(follower) == [0]
    assert follower.timed_out
    assert [record.message for record in caplog.records] == [
        f"{file.filename}: /finished: shape (2,), a finished-dataset has one number"
    ]


def test_a_killed_writer_ends_it_by_time(stack: Writer, file: Any) -> None:
    stack.write("frame(0)")
    follower = Follower(file, "keys", timeout=0.5)
    assert next(follower) == 0
    stack.start("frame(1); os.kill(os.getpid(), 9)")
    assert list(follower) in ([1], [])
    assert follower.timed_out


def test_another_loop_goes_on_after_the_time(stack: Writer, file: Any) -> None:
    follower = Follower(file, "keys", timeout=OVER)
    stack.write("frame(0)")
    assert list(follower) == [0]
    assert next(follower, None) is None
    stack.write("frame(1)")
    assert next(follower, None) is None
    assert list(follower) == [1]
    follower.reset()
    assert not follower.is_finished()
    assert list(follower) == [0, 1]


@pytest.mark.parametrize("timeout", [None, 60])
def test_without_the_condition_time_does_not_end_it(stack: Writer, file: Any, timeout: float | None) -> None:
    conditions = ["timeout"] if timeout is None else []
    follower = Follower(file, "keys", timeout, conditions, finished_dataset="finished")
    stack.start("time.sleep(0.3); frame(0); finished[...] = 1; finished.flush()")
    assert list(follower) == [0]


def test_unknown_conditions_are_refused(file: Any) -> None:
    with pytest.raises(ValueError, match="termination condition 'never', expected one of timeout, always_true"):
        Follower(file, "keys", termination_conditions=["never"])


# -- keys -----------------------------------------------------------------------------------------------------------


def test_every_key_of_every_group_counts(place: Place) -> None:
    file = place.still({"one/a": [1, 1, 1, 1], "one/b": [1, 1, 1, 0], "two/a": [1, 1, 0, 0], "three": [1, 1, 1]})
    for paths, count in [("one", 3), (["one", "two"], 2), (["one/a"], 4), (["/one/a", "three"], 3), ("/one/", 3)]:
        assert len(list(Follower(file, paths, timeout=OVER))) == count


def test_keys_of_different_ranks(place: Place) -> None:
    file = place.still(
        {"keys/grid": np.ones((2, 4, 1, 1)), "keys/stack": np.arange(8)[::-1], "keys/short": np.ones((2, 4))}
    )
    assert list(Follower(file, "keys", timeout=OVER)) == list(range(7))


def test_keys_of_different_lengths(place: Place) -> None:
    """What is not there is as zero, also where rows are shorter than another key's."""
    file = place.still({"keys/a": np.ones((3, 4)), "keys/b": np.ones((1, 4)), "rows/a": np.ones((2, 4))})
    assert len(list(Follower(file, "keys", timeout=OVER))) == 4
    with_short_rows = place.still({"keys/a": np.ones((2, 4)), "keys/b": np.ones((2, 3))})
    assert len(list(Follower(with_short_rows, "keys", timeout=OVER))) == 3


def test_keys_that_are_no_numbers_of_one(place: Place) -> None:
    file = place.still({"keys/a": [True, True, True], "keys/b": [-1.5, np.nan, 0.0], "keys/c": [7, 2**62, -1]})
    assert list(Follower(file, "keys", timeout=OVER)) == [0, 1]


def test_keys_grow_in_each_dimension(place: Place) -> None:
    writer = place.writer(GRID.format(shape=(0, 0)))
    follower = Follower(place.open(writer.name), "keys", timeout=5)
    for index, shape in enumerate([(1, 1), (1, 2), (1, 3), (2, 3), (2, 3), (2, 3), (3, 3)]):
        writer.write(f"keys.resize({shape}); keys[{index // 3}, {index % 3}] = 1")
        assert next(follower) == index


def test_rows_that_grow_under_given_indices_are_an_error(place: Place) -> None:
    writer = place.writer(GRID.format(shape=(2, 3)))
    follower = Follower(place.open(writer.name), "keys", timeout=OVER)
    writer.write("keys[...] = 1")
    assert [next(follower) for _ in range(4)] == [0, 1, 2, 3]
    writer.write("keys.resize((2, 4)); keys[...] = 1")
    assert [next(follower) for _ in range(2)] == [4, 5]  # known before
    with pytest.raises(FrameError, match=r"keys/k: the rows of the scan grew from \(3,\) to \(4,\) after index 5"):
        next(follower)
    follower.reset()
    assert list(follower) == list(range(8))


def test_rows_that_grow_in_time_are_none(place: Place) -> None:
    writer = place.writer(GRID.format(shape=(2, 3)))
    follower = Follower(place.open(writer.name), "keys", timeout=OVER)
    writer.write("keys[0] = 1")
    assert next(follower) == 0
    writer.write("keys.resize((2, 5))")
    assert [next(follower) for _ in range(2)] == [1, 2]
    writer.write("keys[...] = 1")
    assert list(follower) == list(range(3, 10))


def test_an_empty_group_of_keys_gives_nothing(place: Place) -> None:
    writer = place.writer('file.create_group("keys")')
    assert list(Follower(place.open(writer.name), "keys", timeout=OVER)) == []


def test_only_key_datasets_may_be_in_a_group_of_keys(place: Place) -> None:
    file = place.still({"keys/a": [1, 1], "keys/more/b": [1, 1]})
    with pytest.raises(FrameError, match="'keys/more' is no dataset: expected a group that holds key datasets and"):
        next(Follower(file, "keys", timeout=60))
    assert list(Follower(file, ["keys/a", "keys/more"], timeout=OVER)) == [0, 1]
    top = place.still({"a": [1, 1, 1], "b": [1, 1]})
    assert list(Follower(top, "/", timeout=OVER)) == [0, 1]


def test_wrong_paths_are_told(place: Place) -> None:
    file = place.still({"keys/a": [1, 1], "finished": [1]})
    with pytest.raises(NotYetWritten, match=r"no keys at 'kees' \(.*kees.*\) within 0.12 s: mend the path"):
        next(Follower(file, ["keys", "kees"], timeout=OVER))
    with pytest.raises(NoMoreFrames, match=r"no keys at 'kees' \(.*\): the file was finished without them: mend"):
        next(Follower(file, "kees", timeout=60, finished_dataset="finished"))


# -- frames ---------------------------------------------------------------------------------------------------------


def test_grabbed_frames_keep_their_dimensions(place: Place) -> None:
    grid = np.arange(2 * 4 * 3 * 5).reshape(2, 4, 3, 5)
    file = place.still({"grid": grid, "stack": grid.reshape(8, 3, 5)})
    on_grid, on_stack = FrameGrabber("grid", file), FrameGrabber("/stack", file)
    for i in range(8):
        assert on_grid.Grabber(i).shape == (1, 1, 3, 5)
        assert on_stack.Grabber(i).shape == (1, 3, 5)
        assert (on_grid.Grabber(i) == grid.reshape(8, 3, 5)[i]).all()
        assert (on_stack.Grabber(i) == on_grid.Grabber(i)).all()


def test_a_frame_that_cannot_be_had(stack: Writer, file: Any) -> None:
    grabber = FrameGrabber("data", file, finished_dataset="finished")
    stack.write("frame(0)")
    assert grabber.Grabber(0).shape == (1, 3, 5)
    not_yet = r"file1.*: /data: frame 1 is not written yet: there are 1: follow its keys, or ask again"
    with pytest.raises(NotYetWritten, match=not_yet):
        grabber.Grabber(1)
    stack.write("frame(1)")
    assert (grabber.Grabber(np.int64(1)) == 1).all()
    stack.write("finished[...] = 1")
    with pytest.raises(NoMoreFrames, match="/data: no frame 2: the file was finished with 2 frames: end here"):
        grabber.Grabber(2)
    never = r"/data: no frame -1: its greatest shape \(None, 3, 5\) has frames 0, 1, 2, ..."
    with pytest.raises(NoSuchFrame, match=never):
        grabber.Grabber(-1)
    with pytest.raises(TypeError, match="float"):
        grabber.Grabber(1.0)  # type: ignore[arg-type]


def test_a_frame_beyond_the_greatest_shape(place: Place) -> None:
    making = 'file.create_dataset("data", (1, 4, 3, 5), "u2", maxshape=(2, 4, 3, 5), chunks=(1, 1, 3, 5))'
    grabber = FrameGrabber("data", place.open(place.writer(making).name))
    assert grabber.Grabber(3).shape == (1, 1, 3, 5)
    with pytest.raises(NotYetWritten, match="frame 4 is not written yet"):
        grabber.Grabber(4)
    with pytest.raises(NoSuchFrame, match=r"no frame 8: its greatest shape \(2, 4, 3, 5\) has frames 0 to 7"):
        grabber.Grabber(8)


def test_what_is_no_picture(place: Place) -> None:
    file = place.still({"numbers": np.ones((8, 4)), "group/data": np.ones(3)})
    with pytest.raises(NoSuchFrame, match=r"numbers: shape \(8, 4\), expected three dimensions or more"):
        FrameGrabber("numbers", file).Grabber(0)
    with pytest.raises(NoSuchFrame, match="'group' is a group: name a dataset in it: data"):
        FrameGrabber("group", file).Grabber(0)
    with pytest.raises(NotYetWritten, match=r"no dataset at 'nothing' \(.*nothing.*\): mend the path"):
        FrameGrabber("nothing", file).Grabber(0)


def test_frames_in_room_made_before_are_read_as_written(place: Place) -> None:
    """HDF5 remembers which chunks were not there when it looked: a frame must not be read as zeros for that."""
    making = """
keys = file.create_dataset("keys/k", (50,), "i4", chunks=(50,))
data = file.create_dataset("data", (50, 64, 64), "i4", chunks=(1, 64, 64))
def frame(i):
    data[i] = i + 1; data.flush(); keys[i] = 1; keys.flush()
"""
    writer = place.writer(making)
    file = place.open(writer.name)
    grabber, frames = FrameGrabber("data", file), DataFollower(file, "keys", "data", timeout=5)
    assert not grabber.Grabber(0).any()
    for i in range(50):
        writer.write(f"frame({i})")
        assert (next(frames)[0] == i + 1).all()
        assert (grabber.Grabber(i) == i + 1).all()


def test_all_readers_share_one_handle(stack: Writer, file: Any) -> None:
    """HDF5 would show old data where a dataset is open twice."""
    followers = [DataFollower(file, "keys", "data", timeout=5), DataFollower(file, "/keys/key", ["/data"], timeout=5)]
    grabbers = [FrameGrabber("data", file), FrameGrabber("/data", file)]
    for i in range(5):
        stack.write(f"frame({i})")
        frames = [next(follower)[0] for follower in followers] + [grabber.Grabber(i) for grabber in grabbers]
        assert [int(frame.max()) for frame in frames] == [i] * 4


def test_frames_of_several_datasets_come_together(place: Place) -> None:
    pictures, spectra, numbers = np.random.rand(2, 4, 3, 5), np.random.rand(2, 4, 16), np.random.rand(2, 4)
    file = place.still({"keys/k": np.ones((2, 4, 1, 1)), "pictures": pictures, "spectra": spectra, "numbers": numbers})
    paths = ["pictures", "spectra", "/numbers"]
    follower = DataFollower(file, ["keys"], paths, timeout=OVER)
    for i, frames in enumerate(follower):
        assert [frame.shape for frame in frames] == [(1, 1, 3, 5), (1, 1, 16), (1, 1)]
        assert (frames[0] == pictures.reshape(8, 3, 5)[i]).all()
        assert (frames[1] == spectra.reshape(8, 16)[i]).all()
        assert frames[2] == numbers.reshape(8)[i]
        assert follower.index == i
    assert follower.index == 7 and follower.is_finished()
    follower.reset()
    assert len(list(follower)) == 8


def test_what_a_frame_is_does_not_change(place: Place) -> None:
    """Three keys, and a dataset that has room for two frames of three pictures: the third is no frame."""
    making = """
keys = file.create_dataset("keys", (1,), "i4", maxshape=(None,), chunks=(8,))
data = file.create_dataset("data", data=np.ones((2, 3, 4, 4)), chunks=(1, 3, 4, 4))
"""
    writer = place.writer(making)
    follower = DataFollower(place.open(writer.name), "keys", "data", OVER)
    for number in range(2):
        writer.write(f"keys.resize({number + 1}, 0); keys[{number}] = 1")
        assert next(follower)[0].shape == (1, 3, 4, 4)
    writer.write("keys.resize(3, 0); keys[2] = 1")
    with pytest.raises(NoSuchFrame, match="data: no frame 2: its greatest shape .* has frames 0 to 1"):
        next(follower)
    assert (follower.index, follower.missed) == (2, 1)


def test_frames_as_a_dictionary(place: Place) -> None:
    file = place.still({"keys/k": np.ones(2), "a": np.zeros((2, 3, 5)), "b": np.ones((2, 3, 5))})
    for frames in DataFollower(file, "keys", ["a", "b"], OVER, as_dict=True):
        assert list(frames) == ["a", "b"] and not frames["a"].any() and frames["b"].all()


def test_a_frame_that_lags_behind_its_key_is_waited_for(stack: Writer, file: Any) -> None:
    stack.write("keys.resize(1, 0); keys[0] = 1")
    follower = DataFollower(file, "keys", "data", timeout=OVER)
    for _ in range(2):
        with pytest.raises(NotYetWritten, match="data: frame 0 is not written yet"):
            next(follower)
    assert follower.index == -1
    stack.start("time.sleep(0.3); frame(0)")
    assert (next(DataFollower(file, "keys", "data", timeout=10))[0] == 0).all()
    assert (next(follower)[0] == 0).all()


@pytest.mark.timeout(120)
def test_nothing_is_torn_or_missed_at_full_speed(place: Place, full: bool) -> None:
    writer = place.writer(STACK.replace("3, 5", "64, 64"))
    count = 20_000 if full else 500
    writer.start(f"[frame(i) for i in range({count})]; end()")
    follower = DataFollower(place.open(writer.name), "keys", "data", timeout=30, finished_dataset="finished")
    for i, (frame,) in enumerate(follower):
        assert (frame == np.uint16(i)).all()
    assert (follower.index, follower.missed) == (count - 1, 0)


def test_errors_are_of_one_family() -> None:
    assert issubclass(FrameError, (SharedDataError, LookupError))
    assert {NotYetWritten, NoMoreFrames, NoSuchFrame} == set(FrameError.__subclasses__())
