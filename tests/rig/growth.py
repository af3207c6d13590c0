"""Files that grow while tests follow them: HDF5 files (SWMR) and FrameFiles, written by another process as it is told.

It knows the writing side of both kinds, and nothing of following. Invariants:

1. What was told is there for all readers when `write` returns.
2. Both kinds are written by the same lines.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from programs import Program
from servers import EXECUTABLES, empty
from shareddata import SharedMemory
from shareddata.frames import FrameFile
from shareddata.server import Server

KINDS = ("hdf5", *sorted(EXECUTABLES, reverse=True))
"""HDF5, and FrameFile on each kind of server."""

WRITER = """
    import numpy as np
    from contextlib import ExitStack

    url, name = sys.argv[1:3]
    with ExitStack() as stack:
        if url:
            from shareddata.frames import FrameFile
            file = stack.enter_context(FrameFile(name, stack.enter_context(SharedMemory(url=url)), "w"))
        else:
            import h5py
            file = stack.enter_context(h5py.File(name, "w", libver="latest"))
        exec(sys.argv[3])
        file.swmr_mode = True
        say("ready")
        for line in sys.stdin:
            exec(line)
            for thing in list(globals().values()):
                if type(thing).__name__ == "Dataset":
                    thing.flush()
            say("written")
"""

STACK = """
keys = file.create_dataset("keys/key", (0,), "i4", maxshape=(None,), chunks=(1024,))
data = file.create_dataset("data", (0, 3, 5), "u2", maxshape=(None, 3, 5), chunks=(1, 3, 5))
finished = file.create_dataset("finished", data=np.zeros(1, "i4"))
def frame(i):
    data.resize(i + 1, 0); data[i] = i; data.flush()
    keys.resize(i + 1, 0); keys[i] = i + 1; keys.flush()
def end():
    finished[...] = 1; finished.flush()
"""
"""Makes a stack of frames: `frame(i)` writes one that is full of its index, `end()` says that it was the last."""


class Writer:
    """A process that writes a file.

    Args:
        program: the fixture of this name.
        url: the server of a FrameFile, empty for an HDF5 file.
        name: the file's.
        making: Python that makes the datasets of `file`, and names them.
    """

    def __init__(self, program: Callable[..., Program], url: str, name: str, making: str) -> None:
        self.name = name
        self.process = program(WRITER, url, name, making)
        assert self.process.line() == "ready"

    def write(self, line: str) -> None:
        """Run a line of Python there, and flush all datasets."""
        self.start(line)
        assert self.process.line() == "written"

    def start(self, line: str) -> None:
        """Run a line of Python there, and don't wait for it."""
        self.process.tell(line)


class Place:
    """Where files of one kind are: a folder, or a server. A context manager.

    Args:
        kind: one of `KINDS`.
        servers: the fixture of this name.
        folder: for HDF5 files.
        program: the fixture of this name.
    """

    def __init__(self, kind: str, servers: Mapping[str, Server], folder: Path, program: Callable[..., Program]) -> None:
        self.kind = kind
        self._folder = folder
        self._program = program
        self._open = ExitStack()
        self._made = 0
        self.shm: SharedMemory | None = None
        if kind != "hdf5":
            empty(servers[kind].url)
            self.shm = self._open.enter_context(SharedMemory(url=servers[kind].url))

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def name(self) -> str:
        """Return the name of a new file."""
        self._made += 1
        return f"file{self._made}" if self.shm else str(self._folder / f"file{self._made}.h5")

    def writer(self, making: str = STACK) -> Writer:
        """Start a writer."""
        url = self.shm.address.url if self.shm else ""
        return Writer(self._program, url, self.name(), making)

    def open(self, name: str) -> Any:
        """Open a file for reading."""
        if self.shm:
            return self._open.enter_context(FrameFile(name, self.shm))
        return self._open.enter_context(h5py.File(name, "r", swmr=True))

    def still(self, datasets: Mapping[str, Any], growing: bool = True) -> Any:
        """Return an open file that nobody writes any more, though its datasets could grow.

        Args:
            datasets: what is in them, by path.
            growing: whether they could.
        """
        name = self.name()
        with FrameFile(name, self.shm, "w") if self.shm else h5py.File(name, "w", libver="latest") as file:
            for path, value in datasets.items():
                value = np.asarray(value)
                maxshape = (None, *value.shape[1:]) if growing else value.shape
                file.create_dataset(path, data=value, maxshape=maxshape, chunks=True)
        return self.open(name)
