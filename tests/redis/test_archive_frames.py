"""Frame files that are archived while they grow: the same frames, the same indices, once, also over crashes."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archiving import files
from programs import Program
from records import HEAD
from servers import OwnServer
from shareddata import DataDict, SharedMemory, archive
from shareddata.follow import DataFollower, Follower
from shareddata.frames import FrameFile
from waiting import eventually

h5py: Any = pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def archiver_of(shm: SharedMemory, **options: Any) -> archive.Hdf5Archiver:
    return archive.Hdf5Archiver("data/{{ _source }}-{{ run }}.h5", follow="scan_*", name="one", shm=shm, **options)


def new_file(shm: SharedMemory, name: str = "scan_1", **options: Any) -> FrameFile:
    """Make a file of rows of three frames, and what else files have."""
    file = FrameFile(name, shm, "w", metadata={"run": 7, "sample": {"name": "Si"}, "none": None})
    data = file.create_dataset("data", shape=(0, 3, 4, 5), maxshape=(None, 3, 4, 5), dtype="u2", **options)
    data.attrs["units"] = "counts"
    file.create_dataset("detector/gain", shape=(0, 3), maxshape=(None, 3), dtype="f8")
    file.create_dataset("energy", data=np.linspace(0, 1, 10))
    file.create_dataset("keys/key_1", shape=(0, 3, 1, 1), maxshape=(None, 3, 1, 1), dtype="i8")
    return file


def write(file: FrameFile, first: int, last: int) -> None:
    """Write frames, row by row."""
    for index in range(first, last):
        row, column = divmod(index, 3)
        with file.together():
            if column == 0:
                for path in ("data", "detector/gain", "keys/key_1"):
                    file[path].resize(row + 1, axis=0)
            file["data"][row, column] = np.full((4, 5), index)
            file["detector/gain"][row, column] = index / 2
            file["keys/key_1"][row, column] = index + 1


def check(path: Path | str, count: int) -> None:
    """A finished file has so many frames, each whole, and is what followers expect."""
    with h5py.File(path) as file:
        assert file["entry/finished"][()] == 1
        assert list(Follower(file, "keys", timeout=0)) == list(range(count))
        frames = list(DataFollower(file, "keys", ["data", "detector/gain"], 0))
        assert [int(frame.min()) for frame, _ in frames] == [int(frame.max()) for frame, _ in frames] == [*range(count)]
        assert [float(gain.squeeze()) for _, gain in frames] == [index / 2 for index in range(count)]
        assert all(frame.shape == (1, 1, 4, 5) for frame, _ in frames)


def test_a_file_is_copied(shm: SharedMemory) -> None:
    """All that is in it; the default chain; the name from its metadata."""
    with archiver_of(shm) as archiver, new_file(shm) as file, FrameFile("other", shm, "w"):
        write(file, 0, 8)
        file.seal()
        eventually(lambda: archiver.status.stored == 8, 10)
    assert files(Path("data")) == ["scan_1-7.h5"]
    check("data/scan_1-7.h5", 8)
    with h5py.File("data/scan_1-7.h5") as file_:
        assert file_["data"].attrs["units"] == "counts" and file_["data"].shape == (3, 3, 4, 5)
        assert file_["energy"][:].tolist() == np.linspace(0, 1, 10).tolist()
        assert file_.attrs["run"] == 7 and file_.attrs["sample"] == '{"name":"Si"}'
        entry = file_[file_.attrs["default"]]
        shown = entry[entry.attrs["default"]]
        assert entry.attrs["NX_class"] == "NXentry" and shown[shown.attrs["signal"]] == file_["data"]
        assert entry["title"][()] == b"scan_1" and entry["end_time"][()]


FOLLOWER = """
    import h5py
    from shareddata.follow import DataFollower
    with h5py.File(sys.argv[1], "r", swmr=True) as file:
        for (frame,) in DataFollower(file, "keys", ["data"], 20, finished_dataset="/entry/finished"):
            say(int(frame.min()), int(frame.max()))
    say("done")
"""


def test_following_meanwhile(shm: SharedMemory, program: Callable[..., Program]) -> None:
    """By SWMR in another process: the same frames as on the frame file."""
    with archiver_of(shm) as archiver, new_file(shm) as file:
        write(file, 0, 1)
        eventually(lambda: archiver.status.stored == 1, 10)
        follower = program(FOLLOWER, "data/scan_1-7.h5")
        assert follower.line() == "0 0"
        write(file, 1, 30)
        assert [follower.line() for _ in range(29)] == [f"{n} {n}" for n in range(1, 30)]
        file.seal()
        assert follower.finish() == ["done"]
    check("data/scan_1-7.h5", 30)


def test_several_at_once(shm: SharedMemory) -> None:
    with archiver_of(shm) as archiver, new_file(shm, "scan_1") as one, new_file(shm, "scan_2") as two:
        for index in range(12):
            write(one, index, index + 1)
            write(two, index, index + 1)
        eventually(lambda: archiver.status.stored == 24, 10)
    check("data/scan_1-7.h5", 12)
    check("data/scan_2-7.h5", 12)


def test_a_restart_goes_on(shm: SharedMemory) -> None:
    """In the same file, also with frames that are not kept any more; what is whole is not archived again."""
    with new_file(shm, keep=6) as file:
        write(file, 0, 5)
        with archiver_of(shm) as archiver:
            eventually(lambda: archiver.status.stored == 5, 10)
        check("data/scan_1-7.h5", 5)
        write(file, 5, 10)
        with archiver_of(shm) as archiver:
            eventually(lambda: archiver.status.stored == 5, 10)
            file.seal()
        check("data/scan_1-7.h5", 10)
    with archiver_of(shm) as archiver:
        time.sleep(0.5)  # nothing is to happen
        assert archiver.status.stored == 0
    assert files(Path("data")) == ["scan_1-7.h5"]


def test_a_new_generation_is_another_file(shm: SharedMemory) -> None:
    with archiver_of(shm) as archiver:
        for count in (3, 6):
            before = archiver.status.stored
            with new_file(shm) as file:
                write(file, 0, count)
                file.seal()
                eventually(lambda before=before, count=count: archiver.status.stored == before + count, 10)
    check("data/scan_1-7.h5", 3)
    check("data/scan_1-7_2.h5", 6)


def test_trimmed_frames_are_counted(shm: SharedMemory, caplog: pytest.LogCaptureFixture) -> None:
    with new_file(shm, keep=4) as file:
        write(file, 0, 9)
        file.seal()
        with archiver_of(shm) as archiver:
            eventually(lambda: archiver.status.stored == 4, 10)
    assert any("5 frames were trimmed before they could be copied" in message for message in caplog.messages)
    with h5py.File("data/scan_1-7.h5") as copy:
        assert copy["keys/key_1"][:].ravel().tolist() == [0, 0, 0, 0, 0, 6, 7, 8, 9]


def test_records_at_start_and_end(shm: SharedMemory) -> None:
    shm.init({"OVEN": [*HEAD, ["temperature", 20.0, {"unit": "Cel"}]]})
    with DataDict("HDL", shm) as dd, archiver_of(shm, records=["OVEN"]) as archiver, new_file(shm) as file:
        (oven,) = dd.set_datas_to_write(["OVEN"])
        for temperature, first, last in ((25.0, 0, 3), (30.0, 3, 6)):
            oven.set(temperature)
            dd.flush()
            write(file, first, last)
            eventually(lambda last=last: archiver.status.stored == last, 10)
        file.seal()
    with h5py.File("data/scan_1-7.h5") as copy:
        assert copy["entry/records/OVEN/temperature/value"][:].tolist() == [25.0, 30.0]


def test_a_configuration(shm: SharedMemory) -> None:
    arguments = {"save_template": "data/{{ run }}.h5", "follow": "scan_1"}
    config = {"classname": "shareddata.archive.Hdf5Archiver", "arguments": arguments}
    with archive.start(config, shm) as (archiver,), new_file(shm) as file:
        write(file, 0, 3)
        eventually(lambda: archiver.status.stored == 3, 10)
    check("data/7.h5", 3)


ARCHIVER = """
    from shareddata import archive
    os.chdir(sys.argv[2])
    with SharedMemory(url=sys.argv[1]) as shm:
        with archive.Hdf5Archiver("data/{{ _source }}-{{ run }}.h5", follow="scan_*", name="one", shm=shm):
            say("ready")
            sys.stdin.read()
"""


@pytest.mark.timeout(200)
def test_killed_at_random(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], tmp_path: Path, full: bool
) -> None:
    """Each file is whole in the end."""
    server, chance, number = own_server(), random.Random(7), 0
    with SharedMemory(url=server.url) as shm, new_file(shm) as file:
        for _ in range(30 if full else 6):
            archiver = program(ARCHIVER, server.url, tmp_path)
            assert archiver.line() == "ready"
            end = time.monotonic() + chance.uniform(0, 0.5)  # the random moment
            while time.monotonic() < end:
                write(file, number, number + 1)
                number += 1
                time.sleep(0.002)  # a camera's pace
            archiver.kill()
        file.seal()
        with archiver_of(shm) as last:
            eventually(lambda: last._ledger.completed("frames:"), 20)  # type: ignore[union-attr]
    assert files(tmp_path / "data") == ["scan_1-7.h5"]
    check(tmp_path / "data" / "scan_1-7.h5", number)
