"""What is written and read in random pieces is what numpy and h5py hold after the same."""

from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers import empty
from shareddata import SharedMemory
from shareddata.frames import FrameFile
from shareddata.server import Server
from slicing import indices

TYPES = ("u1", "<i2", ">i4", "i8", "f4", "f8", "?", "c8", "c16", "f2")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", ["unix", "small chunks", "one transaction"])
def test_random_slices(servers: dict[str, Server], where: str) -> None:
    """Write, resize and read at random; the reader is another FrameFile, refreshed before it looks."""
    server = servers["valkey"]
    empty(server.url)
    with SharedMemory(url=server.url) as shm, h5py.File("x", "w", driver="core", backing_store=False) as twin:
        compare(shm, twin, where)


def compare(shm: SharedMemory, twin: Any, where: str) -> None:
    @settings(max_examples=150 if settings().max_examples <= 100 else 1000)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        rank = data.draw(st.integers(0, 4))
        maxshape = tuple(data.draw(st.lists(st.none() | st.integers(1, 9), min_size=rank, max_size=rank)))
        shape = tuple(data.draw(st.integers(0, 6 if most is None else most)) for most in maxshape)
        dtype = data.draw(st.sampled_from(TYPES))
        chunks = tuple(data.draw(st.integers(1, 4)) for _ in shape) if where == "small chunks" and shape else None
        twin.pop("data", None)
        options: dict[str, Any] = {"maxshape": maxshape, "chunks": tuple(max(1, n) for n in shape)} if shape else {}
        other = twin.create_dataset("data", shape, dtype, **options)
        with FrameFile("twin", shm, "w") as file, FrameFile("twin", shm) as reader:
            ours = file.create_dataset("data", shape, dtype, maxshape=maxshape, chunks=chunks)
            for _ in range(data.draw(st.integers(1, 8))):
                if where == "one transaction":
                    with file.together():
                        change(data, ours, other)
                        change(data, ours, other)
                else:
                    change(data, ours, other)
                reader.refresh()
                look(data, ours, reader["data"], other)

    run()


def change(data: st.DataObject, ours: Any, other: Any) -> None:
    """Do the same to both."""
    if other.maxshape and data.draw(st.integers(0, 3)) == 0:
        shape = tuple(data.draw(st.integers(0, 6 if most is None else most)) for most in other.maxshape)
        ours.resize(shape)
        other.resize(shape)
        return
    index = data.draw(indices(other.shape))
    part = np.zeros(other.shape, other.dtype)[index].shape
    lengths = data.draw(st.sampled_from([part, part[1:], ()])) if part else ()
    value = np.array(data.draw(st.integers(0, 100)) + np.arange(int(np.prod(lengths)))).reshape(lengths) % 2
    value = value.astype(other.dtype)
    ours[index] = value
    if np.prod(part):
        other[index] = np.broadcast_to(value, part)


def look(data: st.DataObject, ours: Any, theirs: Any, other: Any) -> None:
    index = data.draw(indices(other.shape))
    expected = other[()]
    for each in (ours, theirs):
        assert each.shape == other.shape and each.dtype == np.dtype(other.dtype).newbyteorder("<")
        found = each[index]
        assert isinstance(found, np.ndarray | np.generic)
        assert found.dtype == each.dtype and np.shape(found) == np.shape(expected[index])
        assert np.array_equal(found, expected[index])
        assert np.array_equal(each[...], expected)
