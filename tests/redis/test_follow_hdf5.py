"""Following HDF5 files: what only they have. Links, virtual datasets, and what HDF5 cannot read while it is written."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from growth import STACK, Place, Writer
from programs import Program
from shareddata import FrameError, NotYetWritten
from shareddata.follow import DataFollower, DataSource, Follower

OVER = 0.12  # seconds without a key after which a test's follower ends


@pytest.fixture
def place(tmp_path: Path, program: Callable[..., Program]) -> Iterator[Place]:
    with Place("hdf5", {}, tmp_path, program) as place:
        yield place


@pytest.fixture
def stack(place: Place) -> Writer:
    """A writer of frames `frame(i)`, each full of its index."""
    return place.writer(STACK)


@pytest.fixture
def file(place: Place, stack: Writer) -> h5py.File:
    opened = place.open(stack.name)
    assert isinstance(opened, h5py.File)
    return opened


def test_keys_behind_a_link_may_appear_late(place: Place, tmp_path: Path) -> None:
    """The file that a link leads to is not there at first: this key holds all others back."""
    with h5py.File(tmp_path / "main.h5", "w", libver="latest") as made:
        made["keys/here"] = np.ones(4)
        made["keys/there"] = h5py.ExternalLink("other.h5", "/key")
    follower = Follower(place.open(str(tmp_path / "main.h5")), "keys", timeout=OVER)
    with pytest.raises(NotYetWritten, match=r"no keys at 'keys/there' \(.*open file.*\) within .* s: mend the path"):
        next(follower)
    with h5py.File(tmp_path / "other.h5", "w", libver="latest") as other:
        other["key"] = [1, 1, 0, 1]
    assert list(follower) == [0, 1]


def test_virtual_keys_grow_with_their_sources(place: Place, stack: Writer, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(8,), maxshape=(None,), dtype="i4")
    source = h5py.VirtualSource(stack.name, "keys/key", shape=(8,), maxshape=(None,))
    layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
    with h5py.File(tmp_path / "virtual.h5", "w", libver="latest") as made:
        made.create_virtual_dataset("keys/virtual", layout)
    follower = Follower(place.open(str(tmp_path / "virtual.h5")), "keys", timeout=5)
    for i in range(5):
        stack.write(f"frame({i})")
        assert next(follower) == i


def test_keys_without_chunks_are_told(place: Place) -> None:
    """HDF5 makes room for them at the first write, behind what readers take for the end of the file."""
    writer = place.writer('keys = file.create_dataset("keys/k", (8,), "i4")')
    told = r"(?s)file1.h5: .*keys/k: HDF5 cannot read it .*: let its writer make it with chunks"
    with h5py.File(writer.name, "r", swmr=True) as file:
        follower = Follower(file, "keys", timeout=OVER)
        assert list(follower) == []
        writer.write("keys[0] = 1")
        with pytest.raises(FrameError, match=told):
            list(follower)
    with h5py.File(writer.name, "r", swmr=True) as file, pytest.raises(FrameError, match=told):
        next(Follower(file, "keys", timeout=OVER))


@pytest.mark.parametrize("name", ["data", "keys/key"])
def test_another_handle_in_this_program_is_an_error(stack: Writer, file: h5py.File, name: str) -> None:
    stack.write("frame(0)")
    follower = DataFollower(file, "keys", "data", timeout=5)
    assert (next(follower)[0] == 0).all()
    mine = file[name]
    stack.write("frame(1)")
    with pytest.raises(FrameError, match=rf"/{name}: open 2 times in this program: .* drop the other handles"):
        next(follower)
    del mine
    assert (next(follower)[0] == 1).all()


def test_looking_is_gentle(stack: Writer, file: h5py.File) -> None:
    """A second of silence costs a hundredth of it or so, and the pauses between looks grow."""
    looks: list[float] = []
    follower = Follower(file, "keys", timeout=1)
    look = follower._keys.look
    follower._keys.look = lambda given: looks.append(time.monotonic()) or look(given)  # type: ignore[func-returns-value,method-assign]
    begun = time.process_time()
    assert list(follower) == []
    assert time.process_time() - begun < 0.2
    assert 5 <= len(looks) <= 40
    assert looks[-1] - looks[-2] > looks[1] - looks[0]
    assert looks[-1] - looks[0] >= 0.99


def test_a_handle_that_is_given_is_the_one_that_all_use(stack: Writer, file: h5py.File) -> None:
    """Also by those that had opened the dataset before."""
    stack.write("frame(0)")
    follower = DataFollower(file, "keys", "data", timeout=5)
    assert (next(follower)[0] == 0).all()
    data, keys = file["data"], file["keys/key"]
    source = DataSource([keys], {"data": data}, timeout=5)
    for i in range(1, 4):
        stack.write(f"frame({i})")
        assert (next(follower)[0] == i).all()
        assert (next(source)["data"] == i - 1).all()


def test_the_trap_is_there(stack: Writer, file: h5py.File) -> None:
    """Why another handle is an error: if this fails, HDF5 has learnt it, and the error may go."""
    stack.write("frame(0)")
    one, other = file["data"], file["data"]
    assert (one[0] == 0).all()
    stack.write("[frame(i) for i in range(1, 5)]")
    one.refresh()
    other.refresh()
    assert one.shape == (5, 3, 5)
    assert not (one[4] == 4).all()


def test_a_file_that_is_not_written_by_swmr_may_be_open_often(place: Place, tmp_path: Path) -> None:
    name = place.still({"keys/a": [1, 1], "data": np.ones((2, 3, 5))}).filename
    place.__exit__()
    with h5py.File(name, "r") as file:
        handles = [file["data"], file["keys/a"]]
        assert len(list(DataFollower(file, "keys", "data", timeout=OVER))) == 2
        assert all(handles)


def test_a_closed_file_is_told(place: Place) -> None:
    file = place.still({"keys/a": [1, 1]})
    follower = Follower(file, "keys", timeout=60)
    assert next(follower) == 0
    file.close()
    assert next(follower) == 1  # known before
    with pytest.raises(ValueError, match="the file is closed: follow it inside its `with` block"):
        next(follower)
