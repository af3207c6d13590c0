#!/usr/bin/env python3
"""A camera that looks at motion: pictures of the spectrum of a recorded inertial unit, played in a loop.

Source: the logger's CSV file, a line of names (`Accelerometer X (g)`), then a line for each sample, the time in seconds
first. Its samples count as evenly spaced; where the unit was late by some milliseconds that blurs a column a little.

A frame shows the last seconds: time runs from left to right, frequency from 0 at the bottom to half of the sampling
rate at the top, grey is the level of all three axes together, in decibels. The recording goes on while the camera looks
and begins anew at its end.
"""
import csv
import time
from collections import deque
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shareddata.errors import SharedDataError
from shareddata.handler import Handler, needs, program

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW = 128  # samples that a column of the picture is made of
HOP = 4  # samples from one column to the next
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


class Log:
    """What the record says of the frames."""

    def __init__(self, frequency: float) -> None:
        self.frequency = frequency
        self.begin = time.monotonic()
        self.times: deque[float] = deque(maxlen=50)
        self.taken = 0
        self.refused = 0

    def took(self, frame: "NDArray[np.uint16]", offered: bool) -> dict[str, Any]:
        """Note a frame and return the fields of CAMERA__frames."""
        self.times.append(time.monotonic())
        self.taken += 1
        self.refused += not offered
        span = self.times[-1] - self.times[0]
        due = int((self.times[-1] - self.begin) * self.frequency) + 1
        return {
            "number": self.taken - 1, "rate": (len(self.times) - 1) / span if span else 0.0,
            "mean": float(frame.mean()) / 65535, "taken": self.taken, "missed": max(0, due - self.taken),
            "refused": self.refused,
        }


@program(
    do_debug="Show debugging information for the camera",
    frequency="Frames a second",
    signal="What moves the picture: Accelerometer or Gyroscope",
    recording="The recording, a CSV file; the package's own by default",
    width="Columns of a frame",
    height="Rows of a frame, 64 or more",
)
def main(
    handler: Handler, frequency: float = 10.0, signal: str = "Accelerometer", recording: str = "", width: int = 512,
    height: int = 256,
) -> None:
    """Take frames of a recorded inertial unit."""
    needs("numpy", "arrays")
    if signal not in LEVELS or width < 1 or height < WINDOW // 2:
        handler.wrong_usage(f"the signal is one of {', '.join(LEVELS)}, a frame has at least {WINDOW // 2} rows")
    own = as_file(files("shareddata.recordings").joinpath("xio-imu", "sensor_data.csv"))
    with own as path:
        camera = Camera(Path(recording) if recording else path, signal, width, height)
    handler.writes(["CAMERA__frames"])
    log = Log(frequency)
    for _ in handler.ticks(frequency):
        frame = camera.frame(time.monotonic() - log.begin)
        handler.publish({"CAMERA__frames": log.took(frame, True)})


if __name__ == "__main__":
    main()
