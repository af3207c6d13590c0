"""Files that grow while tests follow them: an HDF5 file written by SWMR in another process, told what to write.

It knows h5py's writing side, pipes, and nothing of following. Invariant: what was told is on disk when `write` returns.
"""

from collections.abc import Callable
from pathlib import Path

from programs import Program

WRITER = """
    import h5py
    import numpy as np

    with h5py.File(sys.argv[1], "w", libver="latest") as file:
        exec(sys.argv[2])
        file.swmr_mode = True
        say("ready")
        for line in sys.stdin:
            exec(line)
            for dataset in list(globals().values()):
                if isinstance(dataset, h5py.Dataset):
                    dataset.flush()
            say("written")
"""


class Hdf5Writer:
    """A process that writes an HDF5 file in SWMR mode.

    Args:
        program: the fixture of this name.
        path: the file.
        making: Python that makes the datasets of `file`, and names them.
    """

    def __init__(self, program: Callable[..., Program], path: Path, making: str) -> None:
        self.path = path
        self.process = program(WRITER, path, making)
        assert self.process.line() == "ready"

    def write(self, line: str) -> None:
        """Run a line of Python there, and flush all datasets."""
        self.process.tell(line)
        assert self.process.line() == "written"

    def start(self, line: str) -> None:
        """Run a line of Python there, and don't wait for it."""
        self.process.tell(line)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
