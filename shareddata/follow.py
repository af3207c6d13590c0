"""Following files that grow: the indices of complete frames, and the frames.

A front room on open HDF5 files (`h5py.File`, SWMR) and on `FrameFile`. It knows groups of key datasets and pictures. It
must not know how a file is looked at or waited for (`growing`), nor how keys are counted (`keyed`). What users of
swmr_tools 0.9 have comes from here too. Invariants:

1. The same follower gives the same indices and frames on both kinds of file.
2. A frame keeps all dimensions: those of the scan have the extent 1.
"""

from collections.abc import Sequence
from typing import Any

from shareddata import frameindex
from shareddata.chunksource import ChunkSource
from shareddata.datasource import DataSource, FrameReader, SliceDict
from shareddata.errors import NoSuchFrame
from shareddata.frameat import FrameAt, Frames, open_dataset
from shareddata.frames import Created, created
from shareddata.growing import Finish, Patience
from shareddata.handles import Handle
from shareddata.keyed import Indices, KeyPaths, Keys
from shareddata.keyfollower import KeyFollower, RowKeyFollower
from shareddata.memory import SharedMemory

__all__ = [
    "ChunkSource",
    "DataFollower",
    "DataSource",
    "Follower",
    "FrameGrabber",
    "FrameReader",
    "KeyFollower",
    "RowKeyFollower",
    "SliceDict",
    "files",
]

CONDITIONS = ("timeout", "always_true")


class Follower(Indices):
    """An iterator over the indices of complete frames: 0, 1, 2, ... while every key is other than zero.

    Args:
        file: an open `h5py.File`, or a `FrameFile`.
        keys: paths of groups that hold key datasets, or of key datasets; a single one may be given as it is. They may
            appear late.
        timeout: seconds without a new key after which the iteration ends, None for never.
        termination_conditions: what ends it when there is no new key: `"timeout"`, or `"always_true"`: at once.
        finished_dataset: the path of a dataset of one number: other than zero when nothing more will be written.

    Attributes:
        current_key: the last index that was given, -1 before the first.
        current_max: the last index that is known to be complete.

    It ends at once, too, when all keys are there that the datasets have room for, and when a FrameFile is sealed or
    made anew. A `for` loop after the end of its time goes on where it was. It belongs to one thread at a time, and
    holds nothing that is to be closed: the file is its opener's.

    Redis: none on HDF5 files; on a FrameFile as `FrameFile` reads and waits.
    """

    def __init__(
        self,
        file: Any,
        keys: str | Sequence[str],
        timeout: float | None = 10,
        termination_conditions: str | Sequence[str] = ("timeout",),
        finished_dataset: str | None = None,
    ) -> None:
        conditions = [termination_conditions] if isinstance(termination_conditions, str) else termination_conditions
        for condition in conditions:
            if condition not in CONDITIONS:
                raise ValueError(f"termination condition {condition!r}, expected one of {', '.join(CONDITIONS)}")
        self.hdf5_file = file
        self.key_datasets = keys
        self.timeout = timeout
        self.termination_conditions = conditions
        paths = KeyPaths(file, keys)
        patience = Patience(
            file,
            timeout if "timeout" in conditions else None,
            Finish(file, finished_dataset),
            at_once="always_true" in conditions,
        )
        super().__init__(Keys(paths.find, paths.expected), patience)

    @property
    def timed_out(self) -> bool:
        """Whether the iteration ended because its time was over."""
        return self._patience.timed_out


class FrameGrabber:
    """Reads pictures out of one dataset: its last two dimensions.

    Args:
        dataset: its path.
        file: an open `h5py.File`, or a `FrameFile`.
        finished_dataset: the path of a dataset of one number: other than zero when nothing more will be written.

    Redis: none on HDF5 files; on a FrameFile as `FrameFile` reads.
    """

    def __init__(self, dataset: str, file: Any, finished_dataset: str | None = None) -> None:
        self.dataset = dataset
        self.hdf5_file = file
        self._finish = Finish(file, finished_dataset)
        self._reader: FrameAt | None = None

    def __repr__(self) -> str:
        return f"<FrameGrabber of {self.dataset}>"

    def Grabber(self, index: int) -> Any:
        """Return a frame with the dataset's number of dimensions: `(1, 1, h, w)` of a grid of pictures.

        Args:
            index: from a `Follower`; rows follow each other.

        Raises:
            NotYetWritten: nobody has written it, or made the dataset, so far.
            NoMoreFrames: the file was finished without it.
            NoSuchFrame: the dataset's greatest shape does not hold it, it was trimmed away, or is no picture.
        """
        if self._reader is None:
            self._reader = FrameAt(open_dataset(self.hdf5_file, self.dataset), self._finish)
        dataset = self._reader.dataset
        if len(dataset.shape) < 3:
            raise NoSuchFrame(
                f"{self._reader.handle.name}: shape {dataset.shape}, expected three dimensions or more, the last two a "
                "picture's: use DataFollower or FrameReader"
            )
        return self._reader.frame(index, len(dataset.shape) - 2, 0)[0]


class DataFollower:
    """An iterator over the complete frames of several datasets: a list for each index, in the order of the datasets.

    Args:
        file: an open `h5py.File`, or a `FrameFile`.
        keys: see `Follower`.
        datasets: paths of datasets; a single one may be given as it is.
        timeout: seconds without a new key after which the iteration ends, None for never.
        as_dict: yield dictionaries, path -> frame, instead.
        finished_dataset: see `Follower`.

    Attributes:
        index: the index of the frames that were given last, -1 before the first.

    What a dataset's frame is the keys tell: its leading dimensions are those of a key dataset that agrees with it;
    where none does, it is the last two. It belongs to one thread at a time.

    Redis: none on HDF5 files; on a FrameFile as `FrameFile` reads and waits.
    """

    def __init__(
        self,
        file: Any,
        keys: str | Sequence[str],
        datasets: str | Sequence[str],
        timeout: float | None = 10,
        as_dict: bool = False,
        finished_dataset: str | None = None,
    ) -> None:
        self.hdf5_file = file
        self.dataset_paths = [datasets] if isinstance(datasets, str) else list(datasets)
        self.as_dict = as_dict
        self._follower = Follower(file, keys, timeout, finished_dataset=finished_dataset)
        self._frames = Frames(file, {path: path for path in self.dataset_paths}, self._follower.patience)
        self._ranks: dict[Handle, int] = {}

    def __repr__(self) -> str:
        return f"<DataFollower of {', '.join(self.dataset_paths)} at {self.index}>"

    def __iter__(self) -> "DataFollower":
        iter(self._follower)
        return self

    def __next__(self) -> Any:
        """Return the frames of the next index, waiting for it.

        Raises:
            StopIteration: as `Follower`.
            NotYetWritten: a key is there and its frame isn't, or what was named isn't there, until the time is over.
            NoSuchFrame: a frame is not kept any more; the next step goes on with what is left.
            FrameError: the rows of the scan grew longer under indices that were given.
        """
        return self._follower.take(self._read, lambda index: self._frames.left(index, self._rank))

    def _read(self, index: int, complete: int) -> Any:
        frames = {path: self._frames.read(path, index, complete, self._rank)[0] for path in self.dataset_paths}
        return frames if self.as_dict else list(frames.values())

    @property
    def index(self) -> int:
        """The index of the frames that were given last, -1 before the first."""
        return self._follower.current_key

    @property
    def missed(self) -> int:
        """How many frames could never be read: not kept any more, or beyond a dataset's greatest shape."""
        return self._follower.missed

    def reset(self) -> None:
        """Begin again with frame 0."""
        self._follower.reset()

    def is_finished(self) -> bool:
        """Tell whether the iteration has ended; see `Follower.is_finished`."""
        return self._follower.is_finished()

    def _rank(self, handle: Handle) -> int:
        if handle not in self._ranks:  # what a frame is does not change any more
            self._ranks[handle] = frameindex.frame_rank(handle.dataset.shape, handle.maxshape, self._follower.scans)
        return self._ranks[handle]


def files(since: float | str | None = None, shm: SharedMemory | None = None, timeout: float | None = None) -> Created:
    """Return an iterator over the FrameFiles that are created, in order, each open for reading.

    Each has `metadata` and `state`; it is the caller's to close.

    Args:
        since: None from now on, 0 those that there are first, seconds since 1970 those created since then.
        shm: the shared memory; without it this process's own one at the default address.
        timeout: seconds without a new file after which the iteration ends, None for never.

    Redis: see `frames.Created`.
    """
    return created(shm, since, timeout)
