#!/usr/bin/env python3
"""A camera that looks at motion: pictures of the spectrum of a recorded inertial unit, played in a loop.

Source: the logger's CSV file, a line of names (`Accelerometer X (g)`), then a line for each sample, the time in seconds
first. Its samples count as evenly spaced; where the unit was late by some milliseconds that blurs a column a little.

A frame shows the last seconds: time runs from left to right, frequency from 0 at the bottom to half of the sampling
rate at the top, grey is the level of all three axes together, in decibels. The recording goes on while the camera looks
and begins anew at its end. Each frame is offered in three ways: appended to a frame file, as the newest value of a
sensor, as an event.
"""
import csv
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shareddata.errors import EventsFull, ServerError, SharedDataError
from shareddata.events import Emitter
from shareddata.frames import FrameFile
from shareddata.handler import Handler, needs, program
from shareddata.memory import SharedMemory
from shareddata.sensors import SensorWriter, pack_to_zip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("shareddata")

WINDOW = 128  # samples that a column of the picture is made of
HOP = 4  # samples from one column to the next
KEPT = 100  # newest frames that are kept for those who watch, record or archive them later
LEVELS = {"Accelerometer": (-70.0, -10.0), "Gyroscope": (-40.0, 40.0)}  # dB re 1 g, 1 deg/s: black and white
COLOURS = (  # from black to white, through what the eye tells apart
    (0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39),
    (252, 255, 164),
)


def recorded(path: Path, signal: str) -> "tuple[float, NDArray[np.float64]]":
    """Return the samples of a second, and the samples, a row for each and a column for each of the signal's axes.

    Raises:
        SharedDataError: the file has no such signal, not enough samples, or a cell that is no number.
    """
    import numpy as np

    with path.open(newline="", encoding="utf-8") as file:
        names = next(csv.reader(file), [])
        axes = [number for number, name in enumerate(names) if name.partition(" ")[0].lower() == signal.lower()]
        if not axes:
            raise SharedDataError(f"{path} has no {signal}: its columns are {', '.join(names)}")
        try:
            table = np.loadtxt(file, delimiter=",", usecols=[0, *axes], ndmin=2)
        except ValueError as error:
            raise SharedDataError(f"{path}: {error}") from error
    if len(table) < 2 * WINDOW:
        raise SharedDataError(f"{path} has {len(table)} samples: a spectrum takes at least {2 * WINDOW}")
    return (len(table) - 1) / float(table[-1, 0] - table[0, 0]), table[:, 1:]


def spectrogram(samples: "NDArray[np.float64]", height: int) -> "NDArray[np.float64]":
    """Return the levels of samples that repeat for ever, in decibels: a row for each frequency, a column for each time.

    Column c is of the WINDOW samples that end with sample c * HOP; row r is of frequency r / (2 * height) of the
    sampling rate. A sine of amplitude 1 has level 0 where it is; axes add up as energies.

    Args:
        samples: a row for each sample, a column for each axis.
        height: rows of the result, at least WINDOW / 2.
    """
    import numpy as np

    window = np.hanning(WINDOW + 1)[:-1]
    before = np.concatenate([samples[1 - WINDOW :], samples])
    pieces = np.lib.stride_tricks.sliding_window_view(before, WINDOW, axis=0)[::HOP]
    pieces = pieces - (pieces @ window / window.sum())[..., None]  # what does not move is not shown
    amplitudes = np.abs(np.fft.rfft(pieces * window, 2 * height)) * (2 / window.sum())
    energies = (amplitudes[:, :, :height] ** 2).sum(axis=1)
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(energies, 1e-30))
    return levels.T


class Camera:
    """Takes frames of a recording.

    Args:
        path: the recording.
        signal: `Accelerometer` or `Gyroscope`.
        width: columns of a frame.
        height: rows of a frame, at least WINDOW / 2.
    """

    def __init__(self, path: Path, signal: str, width: int, height: int) -> None:
        import numpy as np

        rate, samples = recorded(path, signal)
        black, white = LEVELS[signal]
        levels = (spectrogram(samples, height) - black) / (white - black)
        self.columns = (np.clip(levels[::-1], 0, 1) * 65535).round().astype("<u2")
        self.speed = rate / HOP  # columns a second
        self.exposure = WINDOW / rate  # seconds of motion in a column
        self.width = width
        self.shape = height, width

    def frame(self, seconds: float) -> "NDArray[np.uint16]":
        """Return what is seen so long after the start: the newest column is the one on the right."""
        import numpy as np

        last = int(seconds * self.speed)
        taken: NDArray[np.uint16] = self.columns.take(range(last - self.width + 1, last + 1), axis=1, mode="wrap")
        return taken


def coloured(frame: "NDArray[np.uint16]") -> "NDArray[np.uint8]":
    """Return a frame in colours: shape (height, width, 3)."""
    import numpy as np

    steps = np.linspace(0, 255, len(COLOURS))
    table = np.stack([np.interp(range(256), steps, each) for each in zip(*COLOURS)], axis=1).round().astype(np.uint8)
    picture: NDArray[np.uint8] = table[frame >> 8]
    return picture


class Frames:
    """The frames as a frame file that others follow: `data`, and `keys/frame`, which counts from 1."""

    def __init__(self, name: str, shm: SharedMemory, camera: Camera, metadata: Mapping[str, Any], keep: int) -> None:
        height, width = camera.shape
        self.file = FrameFile(name, shm, "w", metadata=metadata)
        with self.file.together():
            shape, limits = (0, height, width), (None, height, width)
            self.data = self.file.create_dataset("data", shape, "<u2", maxshape=limits, keep=keep)
            self.keys = self.file.create_dataset("keys/frame", (0, 1, 1), "i8", maxshape=(None, 1, 1))

    def offer(self, frame: "NDArray[np.uint16]", about: Mapping[str, Any]) -> None:
        """Append a frame and its key, in one transaction."""
        with self.file.together():
            self.keys.append(self.data.append(frame) + 1)

    def close(self) -> None:
        """Say that no more frames come."""
        try:
            self.file.seal()
        except ServerError as error:
            log.warning("who follows the frames is not told that they end: %s", error)
        self.file.close()


class Newest:
    """The newest frame as a sensor, `camera/NAME`: its picture in colours, and what is known of it."""

    def __init__(self, name: str, shm: SharedMemory) -> None:
        self.writer = SensorWriter("camera", name, shm, keep=KEPT)

    def offer(self, frame: "NDArray[np.uint16]", about: Mapping[str, Any]) -> None:
        """Write both, and pack them together."""
        self.writer.write(".", {"picture": coloured(frame), "about": dict(about)})
        pack_to_zip(["picture", "about"], self.writer.data_path)

    def close(self) -> None:
        """Close the connection; the last values stay."""
        self.writer.close()


class Events:
    """Each frame as an event `acquisition_data` of the source NAME, for archivers."""

    def __init__(self, name: str, shm: SharedMemory) -> None:
        self.emitter = Emitter(name, "acquisition_data", shm, max_events=KEPT)
        self.refused = 0

    def offer(self, frame: "NDArray[np.uint16]", about: Mapping[str, Any]) -> None:
        """Emit the frame; one that finds no room is counted, and does not hold up who follows or looks."""
        try:
            self.emitter.emit(frame, about)
        except EventsFull as error:
            self.refused += 1
            log.log(logging.WARNING if self.refused == 1 else logging.DEBUG, "not emitted: %s", error)

    def close(self) -> None:
        """Close the connection; the events stay until archivers have taken them."""
        self.emitter.close()


Offer = Frames | Newest | Events


class Count:
    """What the record says of the frames."""

    def __init__(self, frequency: float) -> None:
        self.frequency = frequency
        self.begin = time.monotonic()
        self.times: deque[float] = deque(maxlen=50)
        self.taken = 0

    def took(self, frame: "NDArray[np.uint16]") -> dict[str, Any]:
        """Note a frame and return the fields of CAMERA__frames, but for the last."""
        self.times.append(time.monotonic())
        self.taken += 1
        span = self.times[-1] - self.times[0]
        due = int((self.times[-1] - self.begin) * self.frequency) + 1
        return {
            "number": self.taken - 1, "rate": (len(self.times) - 1) / span if span else 0.0,
            "mean": float(frame.mean()) / 65535, "taken": self.taken, "missed": max(0, due - self.taken),
        }


def take(handler: Handler, camera: Camera, metadata: Mapping[str, Any], offers: Sequence[Offer]) -> None:
    """Take frames until the program is to stop, and offer each."""
    count, unsent = Count(metadata["frequency"]), 0
    for _ in handler.ticks(metadata["frequency"]):
        frame, now = camera.frame(time.monotonic() - count.begin), time.time()
        about = {"frame": count.taken, "ts": now, **metadata}
        unsent += sum(not handler.attempt(partial(each.offer, frame, about)) for each in offers)
        refused = unsent + sum(each.refused for each in offers if isinstance(each, Events))
        handler.publish({"CAMERA__frames": {**count.took(frame), "refused": refused}}, now)


@program(
    do_debug="Show debugging information for the camera",
    frequency="Frames a second",
    signal="What moves the picture: Accelerometer or Gyroscope",
    offers="What is made of the frames, any of: frames (a frame file), sensor (the newest), events",
    camera="The camera's name: of its frame file, its sensor and its events",
    recording="The recording, a CSV file; the package's own by default",
    width="Columns of a frame",
    height="Rows of a frame, 64 or more",
    keep="Newest frames that the frame file keeps",
)
def main(
    handler: Handler, frequency: float = 10.0, signal: str = "Accelerometer", offers: str = "frames,sensor,events",
    camera: str = "camera", recording: str = "", width: int = 512, height: int = 256, keep: int = 100,
) -> None:
    """Take frames of a recorded inertial unit."""
    needs("numpy", "arrays"), needs("cbor2", "arrays")
    wanted = offers.replace(",", " ").split()
    if signal not in LEVELS:
        handler.wrong_usage(f"the signal is one of {', '.join(LEVELS)}, not {signal}")
    if width < 1 or height < WINDOW // 2 or keep < 1:
        handler.wrong_usage(f"a frame has one column or more, {WINDOW // 2} rows or more, and one or more are kept")
    if strange := set(wanted) - {"frames", "sensor", "events"}:
        handler.wrong_usage(f"offers are any of frames, sensor, events, not {', '.join(sorted(strange))}")
    with as_file(files("shareddata.recordings").joinpath("xio-imu", "sensor_data.csv")) as own:
        eye = Camera(Path(recording) if recording else own, signal, width, height)
    handler.writes(["CAMERA__frames"])
    metadata = {"signal": signal, "exposure": eye.exposure, "frequency": frequency}
    make: dict[str, Callable[[], Offer]] = {
        "frames": lambda: Frames(camera, handler.shm, eye, metadata, keep),
        "sensor": lambda: Newest(camera, handler.shm),
        "events": lambda: Events(camera, handler.shm),
    }
    with ExitStack() as stack:
        take(handler, eye, metadata, [stack.enter_context(closing(make[each]())) for each in wanted])


if __name__ == "__main__":
    main()
