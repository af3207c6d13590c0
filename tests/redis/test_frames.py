"""Frame files on real servers: groups, datasets, slices, attributes; transactions, bounds, generations, writers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from shareddata import (
    FieldError,
    SharedMemory,
    UnknownData,
    WriterConflict,
    frames,
    large,
)
from shareddata.errors import NoMoreFrames, NoSuchFrame
from shareddata.frames import FrameFile

FRAME = (256, 256)  # of u2: 128 KiB, by reference over a unix socket


@pytest.fixture
def make(shm: SharedMemory) -> Callable[..., FrameFile]:
    """Create the frame file `scan`, or open it."""

    def make(mode: str = "w", name: str = "scan", **options: Any) -> FrameFile:
        return FrameFile(name, shm, mode, **options)

    return make


def frame(number: int, shape: tuple[int, ...] = FRAME) -> Any:
    return np.full(shape, number, "u2")


def growing(file: FrameFile, name: str = "data", shape: tuple[int, ...] = FRAME, **options: Any) -> Any:
    return file.create_dataset(name, (0, *shape), "u2", maxshape=(None, *shape), **options)


def in_memory(shm: SharedMemory) -> list[Path]:
    """Return the files in memory that hold chunks."""
    place = large.folder(shm.address)
    assert place is not None
    return [path for path in place.glob("*/*") if path.parent.name not in ("writing", "spare") and path.is_file()]


def everything(file: FrameFile) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, each: found.append(f"{name} {type(each).__name__}"))
    return found


def append_and_fail(file: FrameFile) -> None:
    with file.together():
        file["data"].append(frame(2))
        raise ZeroDivisionError("something else went wrong")


# -- like h5py --------------------------------------------------------------------------------------------------------


def test_groups_and_datasets_are_found_as_in_h5py(make: Callable[..., FrameFile]) -> None:
    file = make()
    keys = file.create_group("keys")
    key = keys.create_dataset("key_1", data=np.arange(8).reshape(2, 4, 1, 1) + 1)
    file.create_dataset("entry/detector/data", (3, 4))
    for opened in (file, make("r")):
        assert list(opened) == ["entry", "keys"] and len(opened) == 2
        assert opened["keys/key_1"] == opened["/keys/key_1"] == opened["keys"]["key_1"] == opened["keys"]["/keys/key_1"]
        assert opened["keys/key_1"][...].tolist() == (np.arange(8).reshape(2, 4, 1, 1) + 1).tolist()
        assert "keys/key_1" in opened and "keys/key_2" not in opened and 3 not in opened
        assert opened.get("keys/key_2") is None and opened.get("nothing", 5) == 5
        assert [name for name, _ in opened["entry"].items()] == ["detector"]
        assert opened["entry/detector"].parent == opened["entry"] and opened["entry"].parent is opened
        assert everything(opened) == [
            *("entry Group", "entry/detector Group", "entry/detector/data Dataset"),
            *("keys Group", "keys/key_1 Dataset"),
        ]
        assert opened.visit(lambda name: name if name.endswith("data") else None) == "entry/detector/data"
        data = opened["entry/detector/data"]
        assert (data.shape, data.ndim, data.size, data.maxshape, data.dtype.str) == ((3, 4), 2, 12, (3, 4), "<f4")
        assert data.file is opened and data.name == "/entry/detector/data" and opened.filename == "scan"
    assert key.dtype == np.dtype("i8") and key.chunks == (2, 4, 1, 1) and len(key) == 2
    with pytest.raises(KeyError, match="did you mean /keys/key_1"):
        file["keys/key_11"]
    with pytest.raises(ValueError, match="there is /keys already"):
        file.create_group("keys")
    with pytest.raises(ValueError, match="/keys/key_1 is a dataset, expected a group"):
        file.create_dataset("keys/key_1/below", (1,))
    assert file.require_group("keys") == keys and file.require_group("more").name == "/more"


def test_a_dataset_grows_by_resize_and_by_append(make: Callable[..., FrameFile]) -> None:
    file = make()
    data = growing(file)
    reader = make("r")["data"]
    with pytest.raises(IndexError, match="index 0 is out of range: there are none yet; `resize`"):
        data[0] = frame(1)
    data.resize(1, axis=0)
    data[0] = frame(1)
    data.resize((2, *FRAME))
    data[1, ...] = frame(2)
    assert data.append(frame(3)) == 2
    assert reader.shape == (0, *FRAME)
    reader.refresh()
    assert reader.shape == data.shape == (3, *FRAME)
    assert reader[:, 0, 0].tolist() == [1, 2, 3] and reader[-1].min() == 3
    with pytest.raises(FieldError, match="maxshape is"):
        data.resize(999, axis=1)


def test_a_whole_chunk_is_read_without_a_copy(make: Callable[..., FrameFile]) -> None:
    file = make()
    data = growing(file)
    data.append(frame(7))
    reader = make("r")["data"]
    picture = reader[0]
    assert not picture.flags.writeable and not picture.flags.owndata
    data[0] = frame(8)
    assert picture.min() == picture.max() == 7, "what was read does not change"
    assert reader[0].max() == 8
    part = reader[0, :10]
    part += 1
    assert part.max() == 9


def test_attributes(make: Callable[..., FrameFile]) -> None:
    file = make(metadata={"sample": "Si", "energy": np.float64(12.5)})
    data = file.create_dataset("data", (2, 2))
    data.attrs["unit"] = "V"
    data.attrs["offsets"] = np.array([1, 2], ">i2")
    data.attrs["phase"] = np.complex128(1 + 2j)
    file.attrs["list"] = [1, 2.5, None, {"a": "b"}]
    reader = make("r")
    assert reader.metadata == {"sample": "Si", "energy": 12.5, "list": [1, 2.5, None, {"a": "b"}]}
    attrs = reader["data"].attrs
    assert attrs["unit"] == "V" and attrs["offsets"].tolist() == [1, 2] and attrs["phase"] == 1 + 2j
    assert sorted(attrs) == ["offsets", "phase", "unit"] and "unit" in attrs
    del data.attrs["unit"]
    reader.refresh()
    assert "unit" not in reader["data"].attrs
    with pytest.raises(KeyError, match="unit"):
        attrs["unit"]
    for value, why in ((object(), "JSON has no object"), (np.array(["a"]), "can't be stored"), ("x" * 70000, "bytes")):
        with pytest.raises(FieldError, match=why):
            file.attrs["wrong"] = value
    with pytest.raises(ValueError, match="open for reading"):
        reader.attrs["sample"] = "Ge"


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_keep_bounds_redis_and_the_files_in_memory(
    make: Callable[..., FrameFile], shm: SharedMemory, client: redis.Redis
) -> None:
    file = make()
    data, small = growing(file, keep=5), growing(file, "small", (2,), keep=3)
    for number in range(20):
        with file.together():
            data.append(frame(number))
            small.append([number, number])
        assert len(in_memory(shm)) == min(number + 1, 5)
    assert client.hlen(f"frames:scan:{file.generation}:/data") == 5
    assert client.hlen(f"frames:scan:{file.generation}:/small") == 3
    reader = make("r")
    assert reader["data"][15:, 0, 0].tolist() == [15, 16, 17, 18, 19]
    assert reader["small"].left() == [(17, 0), (18, 0), (19, 0)]
    with pytest.raises(NoSuchFrame, match="begins at 3 is not kept any more: 5 chunks are left, from 15 to that at 19"):
        reader["data"][3]
    with pytest.raises(NoSuchFrame, match="begins at 14 .* greater keep than 5"):
        data[14:16]
    with pytest.raises(FieldError, match="6 chunks are written at once, and 5 are kept"):
        data[:6] = 0
    assert reader["data"][19].max() == 19


# -- generations ------------------------------------------------------------------------------------------------------


def test_a_new_generation_ends_the_old_one(
    make: Callable[..., FrameFile], shm: SharedMemory, client: redis.Redis
) -> None:
    old = make()
    growing(old).append(frame(1))
    reader = make("r")
    picture = reader["data"][0]
    new = make()
    assert reader.wait(5) and reader.state == "replaced" and reader.ended
    with pytest.raises(NoMoreFrames, match="it was replaced: open it again"):
        reader["data"][0]
    with pytest.raises(WriterConflict, match="a newer one was created"):
        old["data"][0] = frame(2)
    assert picture.max() == 1 and in_memory(shm) == []
    assert make("r").generation == new.generation and list(make("r")) == []
    assert [each.generation for each in frames.files(shm)] == [new.generation]
    assert client.exists(f"frames:scan:{old.generation}:/data") == 0


def test_one_writer(make: Callable[..., FrameFile]) -> None:
    first = make()
    growing(first, keep=3)
    for number in range(4):
        first["data"].append(frame(number))
    second = make("r+")
    with pytest.raises(WriterConflict, match=r"process \d+ on .* writes it since"):
        first["data"].append(frame(9))
    with pytest.raises(WriterConflict, match="process"):
        first["data"].append(frame(9))
    assert second["data"].append(frame(4)) == 4
    assert second["data"].left() == [(2, 0, 0), (3, 0, 0), (4, 0, 0)]
    with pytest.raises(FileExistsError, match="mode='w' replaces it"):
        make("x")
    with pytest.raises(UnknownData, match="did you mean scan"):
        make("r", "scam")


def test_nothing_of_a_group_is_seen_before_its_end(make: Callable[..., FrameFile]) -> None:
    file = make()
    data, key = growing(file), growing(file, "keys/key", (1, 1))
    reader = make("r")
    with file.together():
        data.append(frame(1))
        key.append(1)
        reader.refresh()
        assert reader["data"].shape[0] == reader["keys/key"].shape[0] == 0
        assert data[0].max() == 1, "whoever writes sees it"
    assert reader.wait(5)
    assert reader["data"].shape[0] == reader["keys/key"].shape[0] == 1 and reader["keys/key"][0] == 1
    with pytest.raises(ZeroDivisionError, match="something else"):
        append_and_fail(file)
    assert len(data) == 1 and not reader.wait(0)
    assert data.append(frame(2)) == 1


def test_seal(make: Callable[..., FrameFile]) -> None:
    file = make()
    reader = make("r")
    assert not reader.sealed and not reader.wait(0)
    file.seal()
    assert reader.wait(5) and reader.sealed and reader.ended
    with pytest.raises(ValueError, match="it was sealed"):
        file.create_group("more")


def test_files_are_handed_out_as_they_are_created(make: Callable[..., FrameFile], shm: SharedMemory) -> None:
    make(name="before")
    with frames.created(shm, timeout=0.2) as new, frames.created(shm, since=0, timeout=0.2) as every:
        make(name="a", metadata={"n": 1})
        make(name="b").seal()
        assert [(file.filename, file.metadata, file.state) for file in new] == [
            ("a", {"n": 1}, "writing"),
            ("b", {}, "sealed"),
        ]
        assert [file.filename for file in every] == ["before", "a", "b"]
        make(name="a")
        make(name="a")
        assert next(new).filename == "a" and new.missed == 1
