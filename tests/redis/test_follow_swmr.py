"""What users of swmr_tools have: the same names, arguments, indices and frames, on HDF5 files and FrameFiles."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from growth import KINDS, Place
from programs import Program
from shareddata import FrameError, NoMoreFrames, NoSuchFrame, NotYetWritten
from shareddata.follow import ChunkSource, DataSource, FrameReader, KeyFollower, RowKeyFollower
from shareddata.server import Server

OVER = 0.12  # seconds without a key after which a test's follower ends

GRID_KEYS = np.ones((5, 10, 1, 1))
HALF = GRID_KEYS.copy()
HALF[2, 5:] = HALF[3:] = 0


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, servers: dict[str, Server], tmp_path: Path, program: Callable[..., Program]
) -> Iterator[Place]:
    """Where the files are that a test makes."""
    with Place(request.param, servers, tmp_path, program) as place:
        yield place


# -- KeyFollower ------------------------------------------------------------------------------------------------------


def test_datasets_and_paths_give_the_same(place: Place) -> None:
    file = place.still({"keys/a": GRID_KEYS, "keys/b": HALF, "finished": [1]})
    both = [file["keys/a"], file["keys/b"]]
    for follower in (
        KeyFollower(both, timeout=60, finished_dataset=file["finished"]),
        KeyFollower(key_datasets=both, timeout=60, finished_dataset=file["finished"]),
        KeyFollower(both, 60, file["finished"]),
        KeyFollower(file, ["/keys"], timeout=60, finished_dataset="/finished"),
        KeyFollower(file, "keys", 60, "finished"),
        KeyFollower(h5file=file, keypaths=["/keys/a", "keys/b"], timeout=60, finished_dataset="finished"),
    ):
        assert follower.timeout == 60
        assert list(follower) == list(range(25))
        assert (follower.timed_out, follower.finished_set, follower.is_finished()) == (False, True, True)


def test_what_it_says_of_the_scan(place: Place) -> None:
    file = place.still({"keys/a": HALF})
    follower = KeyFollower([file["keys/a"]], timeout=OVER)
    assert (follower.scan_rank, follower.maxshape, follower.current_key, follower.get_current_max()) == (
        -1,
        None,
        -1,
        -1,
    )
    follower.check_datasets()
    assert (follower.scan_rank, follower.maxshape) == (2, (None, 10))
    assert follower.get_current_max() == 24 and not follower.refresh()
    assert not follower.are_keys_complete()
    assert len(list(follower)) == 25 and follower.timed_out
    follower.reset()
    assert (follower.current_key, follower.timed_out) == (-1, False)
    assert follower.refresh() and next(follower) == 0


def test_all_keys_there_can_be(place: Place) -> None:
    file = place.still({"keys/a": GRID_KEYS}, growing=False)
    follower = KeyFollower(file, "keys", timeout=60)
    assert len(list(follower)) == 50
    assert follower.are_keys_complete() and not follower.timed_out


def test_keys_of_one_scan_have_one_rank(place: Place) -> None:
    file = place.still({"keys/a": GRID_KEYS, "keys/b": np.ones(50), "data": np.ones((50, 4))})
    with pytest.raises(FrameError, match=r"key datasets with \[1, 2\] scan dimensions, expected the same"):
        KeyFollower(file, "keys").check_datasets()
    with pytest.raises(FrameError, match=r"key datasets with \[1, 2\] scan dimensions"):
        DataSource(file, "keys", ["data"])


def test_keys_that_are_not_there_yet(place: Place) -> None:
    file = place.still({"keys/a": [1]})
    with pytest.raises(NotYetWritten, match="no key dataset at 'kees'"):
        KeyFollower(file, ["kees"]).check_datasets()
    with pytest.raises(TypeError, match="keypaths"):
        KeyFollower(file)


# -- RowKeyFollower ---------------------------------------------------------------------------------------------------


def test_rows(place: Place) -> None:
    file = place.still({"keys/a": HALF})
    follower = RowKeyFollower([file["keys/a"]], timeout=OVER)
    follower.check_datasets()
    assert (follower.scan_rank, follower.maxshape, follower.row_size) == (2, (None, 10), 10)
    assert list(follower) == [9, 19]
    follower.reset()
    assert next(follower) == 9


@pytest.mark.parametrize("form", ["datasets", "paths", "keyword"])
def test_rows_of_a_given_size(place: Place, form: str) -> None:
    file = place.still({"keys/a": np.ones(23)})
    follower = {
        "datasets": lambda: RowKeyFollower([file["keys/a"]], OVER, None, 5),
        "paths": lambda: RowKeyFollower(file, ["keys"], OVER, None, 5),
        "keyword": lambda: RowKeyFollower(file, ["keys"], timeout=OVER, row_size=5),
    }[form]()
    assert list(follower) == [4, 9, 14, 19]


def test_an_end_within_a_row_loses_nothing(place: Place) -> None:
    writer = place.writer('keys = file.create_dataset("keys/k", (3, 4), "i4", maxshape=(None, 4), chunks=(4, 4))')
    follower = RowKeyFollower(place.open(writer.name), "keys", OVER)
    writer.write("keys[0] = 1; keys[1, :3] = 1")
    assert list(follower) == [3]
    writer.write("keys[1] = 1; keys[2] = 1")
    assert list(follower) == [7, 11]


def test_rows_without_end_need_a_size(place: Place) -> None:
    file = place.still({"keys/a": np.ones(4)})
    with pytest.raises(FrameError, match=r"rows without end: give row_size="):
        next(RowKeyFollower(file, "keys"))


# -- DataSource -------------------------------------------------------------------------------------------------------


def test_frames_by_name(place: Place) -> None:
    one, two = np.random.rand(2, 2, 5, 10), np.random.rand(2, 2)
    file = place.still({"keys/k": np.ones((2, 2, 1, 1)), "data/one": one, "data/two": two})
    for source in (
        DataSource(file, ["/keys"], ["/data/one", "/data/two"], OVER),
        DataSource([file["keys/k"]], {"/data/one": file["data/one"], "/data/two": file["data/two"]}, OVER),
    ):
        assert source.kf.scan_rank == 2
        found = list(source)
        assert [each.index for each in found] == [0, 1, 2, 3]
        for each in found:
            row, column = divmod(each.index, 2)
            where = (slice(row, row + 1), slice(column, column + 1))
            assert (each.slice_metadata, each.maxshape) == (where, (None, 2))
            assert (each["/data/one"] == one[where]).all() and each["/data/one"].shape == (1, 1, 5, 10)
            assert each["/data/two"] == two[where]
        assert source.has_timed_out() and not source.is_scan_finished()
        source.reset()
        assert len(list(source)) == 4


def test_a_finished_dataset_ends_it(place: Place) -> None:
    file = place.still({"keys": np.ones(3), "data": np.ones((3, 4, 4)), "finished": [1]})
    source = DataSource(file, "keys", "data", timeout=60, finished_dataset="finished")
    begun = time.monotonic()
    assert len(list(source)) == 3
    assert time.monotonic() - begun < 10
    assert source.is_scan_finished() and not source.has_timed_out()


def test_interleaved_datasets(place: Place) -> None:
    counts = [len(range(start, 42, 4)) for start in range(4)]
    parts = {f"part{start}": np.arange(start, 42, 4) for start in range(4)}
    file = place.still({"keys": np.ones(42), "all": np.arange(42), **parts})
    names = [f"part{start}" for start in range(4)]
    assert [len(file[name]) for name in names] == counts
    for source in (
        DataSource([file["keys"]], None, OVER, interleaved_datasets={"data": [file[name] for name in names]}),
        DataSource(file, "keys", None, OVER, interleaved_paths={"data": names}),
        DataSource(file, "keys", ["all"], OVER, interleaved_paths={"data": names}),
    ):
        for index, frames in enumerate(source):
            assert frames["data"] == index
            assert (frames.index, frames.slice_metadata) == (index, (slice(index, index + 1),))
        assert index == 41


def test_no_data_is_refused(place: Place) -> None:
    file = place.still({"keys": [1]})
    for nothing in (None, []):
        with pytest.raises(FrameError, match="no data to follow: name at least one dataset"):
            DataSource(file, "keys", nothing)


@pytest.mark.parametrize("shape", [(), (4,), (16, 8)], ids=["numbers", "rows", "pictures"])
def test_results_are_written_where_their_frames_are(place: Place, tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = np.random.rand(2, 3, 16, 8)
    file = place.still({"keys": np.ones((2, 3)), "data": data})
    source = DataSource(file, "keys", "data", OVER)
    output = None
    with h5py.File(tmp_path / "out.h5", "w") as out:
        for frames in source:
            result = {(): lambda frame: frame.max(), (4,): lambda frame: frame[0, :4]}.get(shape, lambda frame: frame)
            value = np.asarray(result(frames["data"][0, 0]))
            if output is None:
                output = source.create_dataset(value, out, "group/result")
            else:
                source.append_data(value, frames.slice_metadata or (), output)
        found = out["group/result"]
        assert found.shape == (2, 3, *shape) and found.maxshape == (None, 3, *shape)
        assert found.chunks[2:] == shape
        expected = {(): data.max((2, 3)), (4,): data[:, :, 0, :4]}.get(shape, data)
        assert (found[...] == expected).all()


def test_a_source_follows_while_it_is_written(place: Place) -> None:
    writer = place.writer()
    file = place.open(writer.name)
    source = DataSource(file, ["keys"], ["data"], timeout=30, finished_dataset="finished")
    writer.start("[frame(i) for i in range(200)]; end()")
    for index, frames in enumerate(source):
        assert (frames["data"] == index).all()
    assert index == 199 and source.is_scan_finished()


# -- FrameReader ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "rank"), [((10,), 1), ((10, 10), 1), ((10, 4, 5), 1), ((3, 10, 4, 5), 2), ((4, 5), 0)]
)
def test_frames_are_read_by_their_index(place: Place, shape: tuple[int, ...], rank: int) -> None:
    data = np.arange(np.prod(shape)).reshape(shape)
    file = place.still({"data": data}, growing=False)
    frames = data.reshape(-1, *shape[rank:])
    for reader in (
        FrameReader(file["data"], rank),
        FrameReader("data", file, rank),
        FrameReader("/data", file, rank, True),
    ):
        for index in [*range(len(frames)), 0]:
            frame, where = reader.read_frame(index, force_refresh=index % 2 == 0)
            assert frame.shape == (*[1] * rank, *shape[rank:])
            assert (frame == frames[index]).all()
            assert (data[where] == frame).all()
        with pytest.raises(NoSuchFrame, match=rf"no frame {len(frames)}: its greatest shape .* has frames 0 to"):
            reader.read_frame(len(frames))


def test_a_reader_says_why_a_frame_cannot_be_had(place: Place) -> None:
    writer = place.writer()
    file = place.open(writer.name)
    reader = FrameReader("data", file, 1)
    with pytest.raises(NotYetWritten, match="frame 0 is not written yet: there are 0"):
        reader.read_frame(0)
    writer.write("frame(0); frame(1)")
    assert (reader.read_frame(1)[0] == 1).all()
    with pytest.raises(NoSuchFrame, match="3 dimensions, expected the scan's 4 at least"):
        FrameReader(file["data"], 4).read_frame(0)
    if place.kind != "hdf5":
        writer.write("file.seal()")
        with pytest.raises(NoMoreFrames, match="no frame 2: the file was finished with 2 frames"):
            reader.read_frame(2)


# -- ChunkSource ------------------------------------------------------------------------------------------------------

CHUNKS = """
from contextlib import nullcontext
data = file.create_dataset("data", (0, 4, 5), "i4", maxshape=({most}, 4, 5), chunks=(10, 4, 5))
finished = file.create_dataset("finished", data=[0])
def fill(end):
    with file.together() if hasattr(file, "together") else nullcontext():
        begin = data.shape[0]
        data.resize(end, 0)
        data[begin:end] = np.arange(begin, end).reshape(-1, 1, 1)
    data.flush()
def end():
    finished[...] = 1; finished.flush()
"""


@pytest.mark.parametrize("most", [None, 25])
def test_chunks_come_whole(place: Place, most: int | None) -> None:
    writer = place.writer(CHUNKS.format(most=most))
    file = place.open(writer.name)
    source = ChunkSource({"data": file["data"]}, timeout=60, finished_dataset=file["finished"])
    writer.write("fill(9)")
    writer.start("time.sleep(0.1); fill(10); fill(25); end()")
    chunks = list(source)
    assert [chunk.index for chunk in chunks] == [0, 10, 20]
    assert [chunk.slice_metadata for chunk in chunks] == [(slice(0, 10),), (slice(10, 20),), (slice(20, 25),)]
    assert [chunk.maxshape for chunk in chunks] == [(most,)] * 3
    assert [chunk["data"].shape for chunk in chunks] == [(10, 4, 5), (10, 4, 5), (5, 4, 5)]
    assert np.concatenate([chunk["data"][:, 0, 0] for chunk in chunks]).tolist() == list(range(25))


def test_the_end_of_the_time_gives_what_there_is(place: Place) -> None:
    writer = place.writer(CHUNKS.format(most=None))
    writer.write("fill(13)")
    source = ChunkSource({"data": place.open(writer.name)["data"]}, timeout=OVER)
    assert [chunk["data"].shape[0] for chunk in source] == [10, 3]


def test_chunks_of_several_datasets_come_together(place: Place) -> None:
    making = CHUNKS.format(most=None).replace("data = ", "data = other = ", 1)
    making = making.replace(
        "def fill", 'more = file.create_dataset("more", (0,), "f8", maxshape=(None,), chunks=(10,))\ndef fill'
    )
    writer = place.writer(making)
    file = place.open(writer.name)
    writer.write("fill(20); more.resize(15, 0); more[...] = 1")
    source = ChunkSource({"data": file["data"], "more": file["more"]}, timeout=OVER)
    assert [(len(each["data"]), len(each["more"])) for each in source] == [(10, 10), (5, 5)]


def test_chunks_are_given_when_they_are_written_not_when_there_is_room(place: Place) -> None:
    writer = place.writer(CHUNKS.format(most=None))
    source = ChunkSource({"data": place.open(writer.name)["data"]}, timeout=OVER)
    writer.write("fill(10); data.resize(20, 0)")
    assert [chunk.index for chunk in source] == [0]
    writer.write("data[10:] = 1")
    assert [chunk["data"].all() for chunk in source] == [True]


def test_room_that_nothing_was_written_into_is_no_chunk(place: Place) -> None:
    writer = place.writer('data = file.create_dataset("data", (30, 4), "i4", chunks=(10, 4))')
    source = ChunkSource({"data": place.open(writer.name)["data"]}, timeout=OVER)
    writer.write("data[:10] = 1")
    assert [chunk.index for chunk in source] == [0]
    writer.write("data[10:] = 1")
    assert [chunk.index for chunk in source] == [10, 20]


def test_chunks_that_cannot_be_read_together(place: Place) -> None:
    making = """
file.create_dataset("wide", (4, 8), "i4", maxshape=(None, 8), chunks=(2, 4))
file.create_dataset("two", (4, 8), "i4", maxshape=(None, 8), chunks=(2, 8))
file.create_dataset("three", (4, 8), "i4", maxshape=(None, 8), chunks=(3, 8))
"""
    file = place.open(place.writer(making).name)
    with pytest.raises(FrameError, match=r"/wide: shape \(4, 8\) in chunks of \(2, 4\): expected chunks over all dim"):
        ChunkSource({"wide": file["wide"]})
    with pytest.raises(FrameError, match=r"chunks of \[2, 3\] frames, expected the same"):
        ChunkSource({"two": file["two"], "three": file["three"]})
    with pytest.raises(FrameError, match="no data to follow"):
        ChunkSource({})


def test_chunks_that_are_not_kept_are_told_and_passed_over(place: Place) -> None:
    making = 'data = file.create_dataset("data", (0, 4), "i4", maxshape=({most}, 4), chunks=(2, 4){keep})'
    for most in (None, 20):
        writer = place.writer(making.format(most=most, keep="" if place.kind == "hdf5" else ", keep=3"))
        source = ChunkSource({"data": place.open(writer.name)["data"]}, timeout=OVER)
        writer.write("for i in range(20): data.resize(i + 1, 0); data[i] = i")
        if place.kind != "hdf5":
            with pytest.raises(NoSuchFrame, match="what begins at 0 is not kept any more: 3 chunks are left"):
                next(source)
        assert [chunk.index for chunk in source] == ([*range(0, 20, 2)] if place.kind == "hdf5" else [14, 16, 18])
