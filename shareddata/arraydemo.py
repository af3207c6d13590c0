"""A demonstration of arrays: frames followed, looked at, recorded and archived; nothing of it stays running.

It knows which programs take part and what has to be seen of them; it must not know how lines get to the user.
Invariants:

1. However the demonstration ends, its programs and its server end with it, and nothing of it stays in memory.
2. It ends well only if all was seen: frames in order without a gap, a picture, a recorded dataset that reads back, a
   file for each frame.
3. What remains is one folder: the picture, the dataset, the archived frames, the programs' messages.
"""

import json
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from shareddata import png
from shareddata.cbor import cbor2
from shareddata.codec import numpy
from shareddata.columns import load
from shareddata.demoserver import private
from shareddata.errors import SensorNotInitializedError, SharedDataError, UnknownData
from shareddata.follow import Follower, FrameGrabber
from shareddata.frames import FrameFile
from shareddata.memory import SharedMemory
from shareddata.sensors import SensorReader, read
from shareddata.troupe import Troupe

Say = Callable[[str], None]
"""Tells the user something."""

_FLAG = "DEMO_INIT"
_CAMERA = "camera"
_RATE = 20  # frames a second
_FIRST = 15.0  # seconds within which the camera must have been seen
_SILENCE = 5.0  # seconds after which a missing frame is missing
_SNAPSHOTS = 10
_HDF5 = "camera.h5"
_BANDS = 32  # characters of a column
_LEVELS = " .:-=+*#%@"  # from black to white


class Stage(NamedTuple):
    """What the parts of the demonstration share."""

    shm: SharedMemory
    troupe: Troupe
    folder: Path
    say: Say
    live: Say


def run(say: Say, live: Say, *, seconds: float = 5.0, folder: str | Path | None = None) -> Path:
    """Run the demonstration.

    Args:
        say: tells the user what is going on, a line at a time.
        live: shows a line that the next one may replace.
        seconds: how long the frames are followed.
        folder: where everything goes, not there or empty; a new one in the temporary folder if None.

    Returns:
        The folder.

    Raises:
        SharedDataError: the folder is not empty; a program did not start or ended, or something was not seen; with the
            last messages.
        ModuleNotFoundError: an extra of the package is missing; the message names it.

    Redis: as `SharedMemory.init`, `Follower`, `SensorReader`.
    """
    numpy(), cbor2()  # before anything is started
    place = Path(folder).absolute() if folder else Path(tempfile.mkdtemp(prefix="shareddata-demo-"))
    place.mkdir(parents=True, exist_ok=True)
    if any(place.iterdir()):
        raise SharedDataError(f"{place}: is not empty: name a new folder")
    with private(place, _FLAG) as (shm, troupe):
        stage = Stage(shm, troupe, place, say, live)
        _begin(stage)
        _follow(stage, seconds)
        with _sensor(stage) as sensor:
            _picture(stage, sensor)
            _record(stage, sensor)
        _archived(stage)
    return place


def _begin(stage: Stage) -> None:
    """Start an archiver, then the camera whose frames it stores."""
    description = files("shareddata.descriptions").joinpath("camera.json").read_text("utf-8")
    stage.shm.init(json.loads(description), flag=_FLAG)
    stage.say(f"A private server runs at {stage.shm.url}.")
    config = stage.folder / "archive.json"
    config.write_text(json.dumps(_config(stage.folder), indent=4) + "\n", encoding="utf-8")
    stage.troupe.start("archive", "shareddata", "archive", "-u", stage.shm.url, str(config), answers=True)
    stage.troupe.answer("archive")
    options = ("-u", stage.shm.url, "-i", "INIT_MSG", "-a", "HDL_CAMERA", "-f", str(_RATE))
    stage.troupe.start("hdl_camera", "shareddata.apps.hdl_camera", *options)


def _config(folder: Path) -> list[dict[str, Any]]:
    """Return what the archiver stores: a file for each frame, and, where h5py is installed, one for all."""
    letters = str(folder / "dead-letters")
    events = {"object_selector": _CAMERA, "event_name": "acquisition_data", "dead_letters": letters}
    arrays = {"root": str(folder / "frames"), "save_template": "{{ '%04d' % frame }}.npy"}
    config = [{"_id": "npy", "classname": "shareddata.archive.ArrayArchiver", "arguments": events | arrays}]
    if find_spec("h5py"):
        one = {"root": str(folder), "save_template": _HDF5, "units": "1", "records": ["CAMERA__frames"]}
        config.append({"_id": "hdf5", "classname": "shareddata.archive.Hdf5Archiver", "arguments": events | one})
    return config


# -- frames -----------------------------------------------------------------------------------------------------------


def _follow(stage: Stage, seconds: float) -> None:
    """Follow the frames for some seconds."""
    begin = time.monotonic()
    with _awaited(stage, lambda: FrameFile(_CAMERA, stage.shm)) as file:
        stage.say(f"Live after {time.monotonic() - begin:.1f} s: hdl_camera, {_RATE} frames a second.")
        grabber = FrameGrabber("data", file)
        end = time.monotonic() + seconds
        for number, index in zip(count(), Follower(file, ["keys"], timeout=_SILENCE)):
            frame = grabber.Grabber(index)[0]
            if index != number:
                raise SharedDataError(f"frame {index} was followed where {number} was expected")
            stage.live(_line(index, frame))
            if time.monotonic() >= end:
                break
        else:
            stage.troupe.check()
            raise SharedDataError(f"no more frames came: {stage.troupe.last_messages('hdl_camera')}")
        height, width = frame.shape
        stage.say(f"Followed: frames 0 to {index}, {width} x {height} {frame.dtype}, each one, in order.")


def _line(index: int, frame: Any) -> str:
    """Return a frame in words: its mean, and its newest column, low frequencies first."""
    bands = numpy().array_split(frame[::-1, -1], _BANDS)
    levels = "".join(_LEVELS[int(band.mean()) * len(_LEVELS) >> 16] for band in bands)
    return f"frame {index:4}  mean {frame.mean() / 65535:.3f}  |{levels}|"


def _awaited(stage: Stage, get: Callable[[], Any]) -> Any:
    """Return what there is as soon as the camera has begun to offer it."""
    deadline = time.monotonic() + _FIRST
    while True:
        stage.troupe.check()
        try:
            return get()
        except (UnknownData, SensorNotInitializedError) as error:
            if time.monotonic() > deadline:
                messages = stage.troupe.last_messages("hdl_camera")
                raise SharedDataError(f"{error}: hdl_camera: {messages}") from error
        time.sleep(0.02)


# -- the sensor -------------------------------------------------------------------------------------------------------


def _sensor(stage: Stage) -> SensorReader:
    reader: SensorReader = _awaited(stage, lambda: SensorReader("camera", _CAMERA, stage.shm))
    return reader


def _picture(stage: Stage, sensor: SensorReader) -> None:
    """Write the newest picture as a PNG file."""
    seen = sensor.get_data("measurement")
    path = stage.folder / "picture.png"
    path.write_bytes(png.encode(seen["picture"]))
    height, width, _ = seen["picture"].shape
    stage.say(f"A picture: frame {seen['about']['frame']}, {width} x {height}: {path}")


def _record(stage: Stage, sensor: SensorReader) -> None:
    """Record a dataset of snapshots, and read it back."""
    folder = stage.folder / "dataset"
    folder.mkdir()
    sensor.start_write(str(folder))
    deadline = time.monotonic() + _SILENCE
    while len(list(folder.glob("*.zip"))) < _SNAPSHOTS:
        stage.troupe.check()
        if time.monotonic() > deadline:
            raise SharedDataError(f"{folder}: found {len(list(folder.glob('*.zip')))} snapshots, expected {_SNAPSHOTS}")
        time.sleep(0.02)
    sensor.stop_watchdog()
    snapshots = [read(str(path)) for path in sorted(folder.glob("*.zip"))]
    numbers = [each["about"]["frame"] for each in snapshots]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise SharedDataError(f"{folder}: snapshots of the frames {numbers}: expected each one once")
    stage.say(f"A dataset: {len(numbers)} snapshots, frames {numbers[0]} to {numbers[-1]}: {folder}")


# -- the archive ------------------------------------------------------------------------------------------------------


def _archived(stage: Stage) -> None:
    """End the camera and the archiver, and look at what was archived."""
    stage.troupe.check()
    stage.troupe.end("hdl_camera")
    stage.troupe.end("archive")
    with FrameFile(_CAMERA, stage.shm) as file:
        expected, last = len(file["data"]), file["data"][-1]
    _archived_files(stage, expected, last)
    if find_spec("h5py"):
        _archived_rows(stage, expected, last)
    else:
        stage.say("Not archived as HDF5: h5py is not installed (pip install 'shareddata[hdf5]').")


def _archived_files(stage: Stage, expected: int, last: Any) -> None:
    folder = stage.folder / "frames"
    paths = sorted(folder.glob("*.npy"))
    if [path.stem for path in paths] != [f"{number:04d}" for number in range(expected)]:
        raise SharedDataError(f"{folder}: found {len(paths)} files, expected one for each of {expected} frames")
    array = numpy().load(paths[-1])
    if not (array == last).all():
        raise SharedDataError(f"{paths[-1]} is not the last frame")
    stage.say(f"Archived: {len(paths)} files, each {array.shape} {array.dtype}: {paths[0]} ...")


def _archived_rows(stage: Stage, expected: int, last: Any) -> None:
    path = stage.folder / _HDF5
    with load("hdf5").File(path) as file:
        data = file["entry/data/data"]
        if len(data) != expected or not (data[-1] == last).all():
            raise SharedDataError(f"{path}: found {len(data)} frames, expected {expected}, the last one too")
        stage.say(f"Archived: one file, {data.shape} {data.dtype}: {path}")
