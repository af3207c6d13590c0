"""Frame files on real servers: groups, datasets, slices, attributes; transactions, bounds, generations, writers."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from servers import OwnServer, free_port
from shareddata import (
    DecodeError,
    DescriptionError,
    FieldError,
    ServerRefused,
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
    reader.attrs["list"].append("only here")
    assert len(reader.attrs["list"]) == 4
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
    assert [data.stored(number) for number in (0, 14, 15, -1)] == [False, False, True, True]
    assert reader["data"].stored((15, 3)) and not reader["small"].stored([16, 1])
    with pytest.raises(IndexError, match="index 20 is out of range"):
        data.stored(20)
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


# -- limits and refusals ----------------------------------------------------------------------------------------------


def test_there_are_so_many_files(make: Callable[..., FrameFile], shm: SharedMemory) -> None:
    """Finished ones make room first, then those that were not written for longest."""
    opened = [make(name=f"file_{number}") for number in range(frames.FILES)]
    growing(opened[0])
    opened[5].seal()
    opened[3].seal()
    readers = [make("r", f"file_{number}") for number in range(frames.FILES)]
    make(name="one-more")
    for each in readers:
        each.refresh()
    assert sorted(each.state for each in readers) == ["removed", "sealed", *["writing"] * (frames.FILES - 2)]
    opened[1].create_group("news")
    for number in range(3):
        make(name=f"another-{number}")
    names = [info.name for info in frames.files(shm)]
    assert len(names) == frames.FILES and {"file_0", "file_1", "one-more"} <= set(names)
    assert not {"file_5", "file_3", "file_2", "file_4"} & set(names)
    with pytest.raises(WriterConflict, match="it was removed"):
        opened[2].create_group("late")
    assert readers[2].wait(5) and readers[2].state == "removed"


def test_what_there_is_to_know_of_files(make: Callable[..., FrameFile], shm: SharedMemory) -> None:
    begin = time.time() - 1
    file = make(metadata={"sample": "Si"})
    growing(file).append(frame(1))
    (info,) = frames.files(shm)
    assert (info.name, info.generation, info.state) == ("scan", file.generation, "writing")
    assert info.metadata == {"sample": "Si"}
    assert info.writer["pid"] == os.getpid() and begin < info.created <= info.changed < time.time() + 1
    assert abs(file.created - info.created) < 1
    frames.remove("scan", shm)
    assert frames.files(shm) == [] and in_memory(shm) == []
    with pytest.raises(UnknownData, match="no frame file 'scan': there are 0 others; mode='w' creates one"):
        frames.remove("scan", shm)


def test_a_namespace_has_its_own_files(url: str, client: redis.Redis) -> None:
    with SharedMemory(url=url, namespace="a") as one, SharedMemory(url=url, namespace="b") as other:
        with FrameFile("scan", one, "w") as file:
            growing(file).append(frame(1))
        assert [info.name for info in frames.files(one)] == ["scan"] and frames.files(other) == []
        with pytest.raises(UnknownData, match="no frame file 'scan'"):
            FrameFile("scan", other)
        assert all(key.startswith(b"{a}:") for key in client.keys("*"))


def test_a_reader_over_tcp_has_the_frames_of_a_local_writer(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, port=free_port())
    with SharedMemory(url=server.url) as here, SharedMemory(url=server.tcp_url) as there:
        with FrameFile("scan", here, "w") as file, FrameFile("scan", there) as reader:
            growing(file, keep=2).append(frame(1))
            reader.refresh()
            assert reader["data"][0].max() == 1 and len(in_memory(here)) == 1
        with FrameFile("scan", there, "r+") as file:
            for number in (2, 3, 4):
                file["data"].append(frame(number))
            with FrameFile("scan", here) as reader:
                assert reader["data"][2:, 0, 0].tolist() == [3, 4]
        with FrameFile("scan", here, "r+") as file:
            file["data"].append(frame(5))
            assert file["data"][3:, 0, 0].tolist() == [4, 5]


def test_keys_share_a_chunk_and_are_kept_whole(make: Callable[..., FrameFile], client: redis.Redis) -> None:
    file = make()
    keys = file.create_dataset("keys/key", (0, 1, 1), "i8", maxshape=(None, 1, 1))
    for number in range(1200):
        keys.append(number + 1)
    assert client.hlen(f"frames:scan:{file.generation}:/keys/key") == 10
    again = make("r+")["keys/key"]
    assert again.append(1201) == 1200
    assert make("r")["keys/key"][:, 0, 0].tolist() == list(range(1, 1202))


def test_what_is_cut_off_is_gone(make: Callable[..., FrameFile], shm: SharedMemory) -> None:
    file = make()
    data = file.create_dataset("data", data=np.ones((4, 300, 300), "u2"), maxshape=(None, 400, 300))
    data.resize((2, 100, 300))
    assert len(in_memory(shm)) == 2
    data.resize((4, 400, 300))
    assert data[...].sum() == 2 * 100 * 300 and make("r")["data"][:, 99:101, 7].tolist() == [[1, 0]] * 2 + [[0, 0]] * 2


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.zeros((3, 3), "u1"), r"a value of the shape \(3, 3\) for a selection of the shape \(4, 4\)"),
        (1.5, "elements of the type float64, expected uint8"),
        (256, "elements from 256 to 256 for uint8, 0 to 255"),
        (-1, "elements from -1 to -1"),
        (1j, "type complex128"),
        ("text", "type <U4"),
        (None, "type object"),
        ([[1], [2, 3]], "the value is no array"),
        (np.ma.masked_all((4, 4)), "the value is masked"),
    ],
    ids=str,
)
def test_values_that_do_not_fit(make: Callable[..., FrameFile], value: Any, why: str) -> None:
    file = make()
    data = file.create_dataset("data", data=np.arange(48, dtype="u1").reshape(3, 4, 4))
    before = make("r")["data"][...].tolist()
    with pytest.raises(FieldError, match=f"frame file 'scan', dataset /data: .*{why}"):
        data[1] = value
    assert data[...].tolist() == make("r")["data"][...].tolist() == before


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dtype": object}, "elements of the type object can't be stored"),
        ({"dtype": "U5"}, "can't be stored: use numbers or bools; texts"),
        ({"dtype": "M8[s]"}, "can't be stored"),
        ({"dtype": [("a", "u1")]}, "can't be stored"),
        ({"dtype": "g"}, "can't be stored"),
        ({"dtype": "nonsense"}, "nonsense"),
        ({"data": ["text"]}, "can't be stored"),
        ({"shape": None}, "neither shape nor data"),
        ({"shape": -1}, "negative length"),
        ({"shape": "text"}, "is no shape"),
        ({"data": [1, 2]}, r"data of the shape \(2,\), expected \(4, 4\)"),
        ({"maxshape": (2, 4)}, r"maxshape \(2, 4\) for the shape \(4, 4\)"),
        ({"maxshape": None, "chunks": (2,)}, r"chunks \(2,\)"),
        ({"chunks": (0, 1)}, r"chunks \(0, 1\)"),
        ({"keep": 0}, "keep is 0, expected a number of chunks"),
        ({"keep": "all"}, "keep is 'all'"),
        ({"shape": (3, 20_000, 20_000)}, "chunks of 1600000000 bytes, expected 536870912 at most"),
        ({"data": np.zeros((4, 4)), "keep": 2}, "4 chunks are written at once, and 2 are kept"),
    ],
    ids=str,
)
def test_datasets_that_cannot_be(make: Callable[..., FrameFile], options: dict[str, Any], why: str) -> None:
    file = make()
    with pytest.raises(FieldError, match=why):
        file.create_dataset("data", **{"shape": (4, 4), **options})
    assert list(file) == list(make("r")) == []
    file.create_dataset("data", (4, 4))


def test_modes(make: Callable[..., FrameFile], shm: SharedMemory) -> None:
    with pytest.raises(UnknownData, match="no frame file 'scan'"):
        make("r+")
    first = make("a")
    assert make("a").generation == first.generation == make("r").generation
    assert make("x", name="other").mode == "r+" and repr(make("r")) == "<FrameFile 'scan' (mode r)>"
    make("r+").seal()
    for mode in ("a", "r+"):
        with pytest.raises(ValueError, match="it was sealed: no more can be written"):
            make(mode)
    with pytest.raises(ValueError, match="mode is 'rw', expected 'r'"):
        make("rw")
    with pytest.raises(TypeError, match="the second argument is a SharedMemory: write mode='w'"):
        FrameFile("scan", "w")  # type: ignore[arg-type]
    for name in ("", "a b", "a:b", "ä"):
        with pytest.raises(DescriptionError, match="frame file name"):
            make(name=name)
    reader = make("r")
    for change in (lambda: reader.create_group("a"), lambda: reader.seal(), lambda: reader.together()):
        with pytest.raises(ValueError, match="open for reading: open it with mode='r\\+'"):
            change()
    with pytest.raises(ValueError, match="open it again to wait for news"):
        make("w").wait(0)


def test_a_closed_file_says_so(make: Callable[..., FrameFile]) -> None:
    file = make()
    data = growing(file)
    data.append(frame(1))
    with make("r") as reader:
        assert reader and reader.id and reader["data"]
    assert not reader and not reader.id
    for use in (lambda: reader["data"], reader.refresh, lambda: list(reader), lambda: reader.wait(0)):
        with pytest.raises(ValueError, match="frame file 'scan': it is closed"):
            use()
    file.close()
    with pytest.raises(ValueError, match="it is closed"):
        data[0] = frame(2)
    assert make("r")["data"][0].max() == 1


def test_an_old_generation_is_not_opened(make: Callable[..., FrameFile]) -> None:
    old = make()
    assert make("r", generation=old.generation).generation == old.generation
    make()
    with pytest.raises(UnknownData, match="generation .* was replaced"):
        make("r", generation=old.generation)


def test_a_writer_that_lost_its_file_says_so(make: Callable[..., FrameFile], client: redis.Redis) -> None:
    file = make()
    client.flushall()
    with pytest.raises(WriterConflict, match="it was removed, or the server lost it: create it again"):
        file.create_group("more")


def test_what_others_write_into_a_chunk_is_not_taken(make: Callable[..., FrameFile], client: redis.Redis) -> None:
    file = make()
    file.create_dataset("data", data=[1, 2, 3])
    client.hset(f"frames:scan:{file.generation}:/data", "0", b"short")
    with pytest.raises(DecodeError, match="found a chunk of 5 bytes, expected 24: another program wrote it"):
        make("r")["data"][...]
    client.hset(f"frames:scan:{file.generation}", "extent:/data", b"nonsense")
    with pytest.raises(DecodeError, match="field extent:/data: found b'nonsense', expected what describes"):
        make("r")


def test_readers_need_rights_to_read_only(make: Callable[..., FrameFile], url: str, client: redis.Redis) -> None:
    file = make()
    growing(file, shape=(2, 2)).append([[1, 2], [3, 4]])
    client.acl_setuser("reader", enabled=True, passwords=["+secret"], commands=["+@all", "-@dangerous", "-@write"],
                       keys=["%R~*"])  # fmt: skip
    with SharedMemory(url=f"{url}?username=reader&password=secret") as shm:
        with FrameFile("scan", shm) as reader:
            assert reader["data"][0].tolist() == [[1, 2], [3, 4]] and not reader.wait(0)
        with pytest.raises(ServerRefused, match="NOPERM"):
            FrameFile("scan", shm, "r+")
