"""Who hands large arrays from process to process: this library's two ways, redis-py, a file in memory.

    python arraypeers.py CONTENDER ADDRESS VALUE

is a contender's reader: for each byte on its standard input it reads the newest value, adds up every 4096th byte of it
and says the sum on its standard output, eight bytes. A contender has `write(turn)` and `read()`, which returns the
value's bytes, and must not know how times are taken. Invariant: the reader really has the value, the same for all of
them: the writer compares the sum.
"""

import os
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import redis

from shareddata import SharedMemory
from shareddata.frames import FrameFile
from shareddata.sensors import SensorReader, SensorWriter

PAGE = 4096
SUM = struct.Struct("=Q")
VALUES = {  # what is handed over: its shape and type
    "frame": ((1024, 1024), np.dtype("<u2")),
    "picture": ((1000, 2000, 3), np.dtype("u1")),
}
NAME = "arrays"
KEEP = 2  # values that this library keeps: the others keep the newest only


def arrays(kind: str) -> list[Any]:
    """Return eight different arrays."""
    shape, dtype = VALUES[kind]
    return [np.full(shape, number + 1, dtype) for number in range(8)]


def touched(value: Any) -> int:
    """Return the sum of every 4096th byte of an array."""
    return int(value.reshape(-1).view(np.uint8)[::PAGE].sum())


class Frames:
    """This library: frames appended to a FrameFile."""

    def __init__(self, address: str, kind: str) -> None:
        self.shape, self.dtype = VALUES[kind]
        self.shm = SharedMemory(url=address)
        self.data: Any = None

    def write(self, value: Any) -> None:
        if self.data is None:
            file = FrameFile(NAME, self.shm, "w")
            shape, limits, chunks = (0, *self.shape), (None, *self.shape), (1, *self.shape)
            self.data = file.create_dataset("data", shape, self.dtype, maxshape=limits, chunks=chunks, keep=KEEP)
        self.data.append(value)

    def read(self) -> Any:
        if self.data is None:
            self.data = FrameFile(NAME, self.shm)["data"]
        self.data.refresh()
        return self.data[-1]

    def close(self) -> None:
        self.shm.close()


class Sensor:
    """This library: the newest value of a sensor."""

    def __init__(self, address: str, kind: str) -> None:
        self.shm = SharedMemory(url=address)
        self.writer = SensorWriter(NAME, kind, self.shm, keep=KEEP)
        self.reader: SensorReader | None = None
        self.kind = kind

    def write(self, value: Any) -> None:
        self.writer.write("value", value)

    def read(self) -> Any:
        if self.reader is None:
            self.reader = SensorReader(NAME, self.kind, self.shm)
        return self.reader.value

    def close(self) -> None:
        self.shm.close()


class RedisPy:
    """redis-py as people write it: the array's bytes, SET and GET."""

    def __init__(self, address: str, kind: str) -> None:
        self.shape, self.dtype = VALUES[kind]
        self.client = redis.Redis.from_url(address)

    def write(self, value: Any) -> None:
        self.client.set(NAME, value.tobytes())

    def read(self) -> Any:
        return np.frombuffer(self.client.get(NAME), self.dtype).reshape(self.shape)

    def close(self) -> None:
        self.client.close()


class File:
    """A file in memory, written whole and renamed, mapped by the reader; the address does not matter."""

    def __init__(self, address: str, kind: str) -> None:
        self.shape, self.dtype = VALUES[kind]
        place = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
        self.path = Path(place) / f"shareddata-bench-{os.getuid()}-{kind}"

    def write(self, value: Any) -> None:
        new = f"{self.path}.new"
        value.tofile(new)
        os.rename(new, self.path)

    def read(self) -> Any:
        return np.memmap(self.path, self.dtype, "r", shape=self.shape)

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


CONTENDERS: dict[str, Callable[[str, str], Any]] = {
    "FrameFile": Frames,
    "sensor": Sensor,
    "redis-py": RedisPy,
    "file": File,
}


def main() -> None:
    """Read what the writer says was written."""
    name, address, kind = sys.argv[1:]
    peer = CONTENDERS[name](address, kind)
    while os.read(0, 1):
        os.write(1, SUM.pack(touched(peer.read())))


if __name__ == "__main__":
    main()
