"""Rows of HDF5 files: the layout, following by SWMR, where a file ends, what a killed archiver leaves."""

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archiving import NOTHING, files, stored, waiting
from programs import Program
from records import HEAD
from servers import OwnServer
from shareddata import DataDict, SharedDataError, SharedMemory, UnknownData, archive
from shareddata.deadletters import read
from shareddata.follow import Follower
from shareddata.swmrfile import metadata_of
from waiting import eventually

h5py: Any = pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def archiver_of(shm: SharedMemory, template: str = "data/{{ run }}.h5", **options: Any) -> archive.Hdf5Archiver:
    return archive.Hdf5Archiver(template, object_selector="cam", event_name="frame", shm=shm, **options)


def emit(shm: SharedMemory, number: int, source: str = "cam", **metadata: Any) -> None:
    picture = np.full((2, 3), number, "u2")
    archive.emit(source, "frame", picture, {"run": "a", "n": number, **metadata}, shm)


def numbers(path: Path | str) -> list[int]:
    """Return the number that each row of a finished file holds; rows are whole, and so is the file."""
    with h5py.File(path) as file:
        data, keys = file["entry/data/data"][:], file["entry/keys/frame"][:, 0, 0].tolist()
        assert (data == data[:, :1, :1]).all() and keys == list(range(1, len(data) + 1))
        assert file["entry/finished"][()] == 1
        assert [about["n"] for about in metadata_of(file)] == data[:, 0, 0].tolist()
        assert len(file["entry/data/time"]) == len(file["entry/events/id"]) == len(data)
        return data[:, 0, 0].tolist()  # type: ignore[no-any-return]


def test_the_layout(shm: SharedMemory) -> None:
    """What NeXus's readers look for, and what was emitted."""
    before = time.time_ns()
    with archiver_of(shm, units="counts") as archiver:
        for number in range(3):
            emit(shm, number)
        stored(archiver, 3)
    assert numbers("data/a.h5") == [0, 1, 2] and files(Path("data")) == ["a.h5"]
    with h5py.File("data/a.h5") as file:
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        signal = data[data.attrs["signal"]]
        assert [each.attrs["NX_class"] for each in (file, entry, data)] == ["NXroot", "NXentry", "NXdata"]
        assert signal.shape == (3, 2, 3) and signal.dtype == "u2" and signal.attrs["units"] == "counts"
        assert data.attrs["axes"].tolist() == ["time", ".", "."]
        assert data["time"].attrs["units"] == "ns" and all(abs(data["time"][:] - before) < 60e9)
        assert entry["title"][()] == b"frame of cam"
        start, end = entry["start_time"][()].decode(), entry["end_time"][()].decode()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", start) and start <= end


def test_several_arrays(shm: SharedMemory) -> None:
    with archiver_of(shm, units={"spectrum": "V"}) as archiver:
        archive.emit("cam", "frame", {"spectrum": np.arange(4.0), "gain": 2, "on": True}, {"run": "a"}, shm)
        stored(archiver, 1)
    with h5py.File("data/a.h5") as file:
        data = file["entry/data"]
        assert data.attrs["signal"] == "spectrum" and data["spectrum"].attrs["units"] == "V"
        assert (data["spectrum"][:].tolist(), data["gain"][:].tolist(), data["on"][:].tolist()) == (
            [[0.0, 1.0, 2.0, 3.0]],
            [2],
            [True],
        )


def test_splitting(shm: SharedMemory) -> None:
    with archiver_of(shm, split_data_array=True) as archiver:
        archive.emit("cam", "frame", np.arange(12, dtype="u2").reshape(3, 2, 2), {"run": "a"}, shm)
        stored(archiver, 1)
    with h5py.File("data/a.h5") as file:
        assert file["entry/data/data"].shape == (3, 2, 2)
        assert file["entry/events/id"][:, 2].tolist() == [0, 1, 2]


def test_where_a_file_ends(shm: SharedMemory) -> None:
    """At another name, another shape, a number of rows, the archiver's end; nothing is written over."""
    Path("data").mkdir()
    Path("data/a.h5").write_text("mine")
    with archiver_of(shm, rows=3) as archiver:
        for number in range(4):
            emit(shm, number)
        emit(shm, 4, run="b")
        archive.emit("cam", "frame", np.zeros((5, 5)), {"run": "b"}, shm)
        emit(shm, 6, run="a")
        stored(archiver, 7)
    assert Path("data/a.h5").read_text() == "mine"
    assert [numbers(f"data/a_{n}.h5") for n in (2, 3, 4)] == [[0, 1, 2], [3], [6]]
    assert numbers("data/b.h5") == [4]
    with h5py.File("data/b_2.h5") as file:
        assert file["entry/data/data"].shape == (1, 5, 5)


def test_each_source_has_its_file(shm: SharedMemory) -> None:
    options: dict[str, Any] = {"object_selector": "cam-*", "event_name": "frame", "shm": shm}
    with archive.Hdf5Archiver("data/{{ _source }}.h5", **options) as archiver:
        for number in range(10):
            emit(shm, number, f"cam-{number % 2}")
        stored(archiver, 10)
    assert [numbers(f"data/cam-{n}.h5") for n in (0, 1)] == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


RECORDS = {
    "OVEN__state": [
        *HEAD,
        ["temperature", 20.0, {"unit": "Cel"}],
        ["on", False],
        ["note", ""],
        ["profile", [0.0, 0.0], {"dtype": "<f4", "shape": [2]}],
    ],
    "NEVER": [*HEAD, ["x", 0]],
}


def test_records_at_start_and_end(shm: SharedMemory) -> None:
    shm.init(RECORDS)
    with DataDict("HDL_OVEN", shm) as dd, archiver_of(shm, records=["OVEN__state", "NEVER"]) as archiver:
        (oven,) = dd.set_datas_to_write(["OVEN__state"])
        oven.set(25.5, True, "begin", [1.0, 2.0])
        dd.flush()
        emit(shm, 0)
        stored(archiver, 1)
        oven.set(451.0, False, "the end µ", [3.0, 4.0])
        dd.flush()
    with h5py.File("data/a.h5") as file:
        records = file["entry/records"]
        log = records["OVEN__state/temperature"]
        assert log.attrs["NX_class"] == "NXlog" and log["value"].attrs["units"] == "Cel"
        assert log["value"][:].tolist() == [25.5, 451.0] and len(log["time"]) == 2
        assert records["OVEN__state/on/value"][:].tolist() == [True, False]
        assert records["OVEN__state/profile/value"][:].tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert records["NEVER/x/value"].shape == (0,)
        lines = records["trames"][:].tobytes().decode().splitlines()
        assert len(lines) == 4 and '"note":"the end µ"' in lines[2] and lines[1] == lines[3] == '{"NEVER":null}'
    with pytest.raises(UnknownData, match="no record 'OVEN__stat'"):
        archiver_of(shm, records=["OVEN__stat"], name="other")


FOLLOWER = """
    import h5py
    from shareddata.follow import DataFollower
    with h5py.File(sys.argv[1], "r", swmr=True) as file:
        say("open")
        for (frame,) in DataFollower(file, "/entry/keys", ["/entry/data/data"], 20, finished_dataset="/entry/finished"):
            say(int(frame.min()), int(frame.max()))
    say("done")
"""


def test_following_meanwhile(shm: SharedMemory, program: Callable[..., Program]) -> None:
    """By SWMR, in another process: each frame as it comes, and the end."""
    with archiver_of(shm) as archiver:
        emit(shm, 0)
        stored(archiver, 1)
        follower = program(FOLLOWER, "data/a.h5")
        assert follower.line() == "open" and follower.line() == "0 0"
        for number in range(1, 50):
            emit(shm, number)
        assert [follower.line() for _ in range(49)] == [f"{n} {n}" for n in range(1, 50)]
    assert follower.finish() == ["done"]
    with h5py.File("data/a.h5") as file:
        assert list(Follower(file, "/entry/keys", timeout=0)) == list(range(50))


@pytest.mark.parametrize("payload", ["text", None, {}, {"a/b": [1]}, {"time": [1]}, [{}], {"a": "text"}])
def test_payloads_that_hdf5_does_not_hold(shm: SharedMemory, tmp_path: Path, payload: Any) -> None:
    with archiver_of(shm) as archiver:
        archive.emit("cam", "frame", payload, {"run": "a"}, shm)
        stored(archiver, 1)
        emit(shm, 1)
        stored(archiver, 2)
    (path,) = (tmp_path / "state" / "shareddata" / "dead-letters").iterdir()
    assert read(path).error.startswith("FieldError")
    assert numbers("data/a.h5") == [1]


def test_a_second_one_of_the_name_is_refused(shm: SharedMemory) -> None:
    """It would take what the first one writes for what a killed one has left."""
    with archiver_of(shm, name="one") as archiver:
        emit(shm, 0)
        stored(archiver, 1)
        with pytest.raises(SharedDataError, match="another process archives under this name, and is writing .*a.h5"):
            archiver_of(shm, name="one")
        emit(shm, 1)
        stored(archiver, 2)
    assert numbers("data/a.h5") == [0, 1]


ARCHIVER = """
    from shareddata import archive
    os.chdir(sys.argv[2])
    with SharedMemory(url=sys.argv[1]) as shm:
        options = dict(object_selector="cam", event_name="frame", name="one", dead_letters="dead", shm=shm)
        with archive.Hdf5Archiver("data/{{ run }}.h5", **options):
            say("ready")
            sys.stdin.read()
"""


@pytest.mark.timeout(200)
def test_killed_at_random(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], tmp_path: Path, full: bool
) -> None:
    """Every event is one row, in order; each file can be opened by anybody in the end."""
    server, chance, number = own_server(), random.Random(7), 0
    with SharedMemory(url=server.url) as shm:
        for _ in range(50 if full else 8):
            archiver = program(ARCHIVER, server.url, tmp_path)
            assert archiver.line() == "ready"
            end = time.monotonic() + chance.uniform(0, 0.4)  # the random moment
            while time.monotonic() < end:
                emit(shm, number, run=number // 100)
                number += 1
                time.sleep(0.002)  # a camera's pace
            archiver.kill()
        options: dict[str, Any] = {"name": "one", "dead_letters": "dead"}
        with archiver_of(shm, **options):
            eventually(lambda: waiting(shm, "cam", "frame") == NOTHING, 30)
    found = sorted(number for name in files(tmp_path / "data") for number in numbers(tmp_path / "data" / name))
    assert found == list(range(number))
    assert not list((tmp_path / "dead").iterdir())
