"""Indices of complete frames, as users of swmr_tools know them: `KeyFollower`, `RowKeyFollower`.

It knows their arguments and attributes, as of swmr_tools 0.9 (datasets are given) and as its documentation has them (a
file and paths are given); on HDF5 files and on `FrameFile`. It must not know frames, h5py or Redis: `keyed` follows,
this module says it in their words. Invariants:

1. Both ways to name the keys give the same indices.
2. A row's index is given when the whole row is complete; an end in the middle of a row loses none of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shareddata.errors import FrameError, NotYetWritten
from shareddata.growing import Finish, Patience, file_of
from shareddata.handles import given
from shareddata.keyed import Indices, KeyPaths, Keys


class _Followed(NamedTuple):
    """What is followed, in one form for both ways to say it."""

    file: Any
    keys: Keys
    patience: Patience


def _by_datasets(key_datasets: Sequence[Any], timeout: float | None = 10, finished_dataset: Any = None) -> _Followed:
    handles = {str(number): given(dataset) for number, dataset in enumerate(key_datasets)}
    return _followed(file_of(key_datasets), Keys(lambda: handles), timeout, finished_dataset)


def _by_paths(
    h5file: Any, keypaths: str | Sequence[str], timeout: float | None = 10, finished_dataset: Any = None
) -> _Followed:
    paths = KeyPaths(h5file, keypaths)
    return _followed(h5file, Keys(paths.find, paths.expected), timeout, finished_dataset)


def _followed(file: Any, keys: Keys, timeout: float | None, finished_dataset: Any) -> _Followed:
    return _Followed(file, keys, Patience(file, timeout, Finish(file, finished_dataset)))


def are_datasets(args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Tell whether arguments begin with a list of datasets, as swmr_tools 0.9 wants them, or with a file."""
    return isinstance(args[0], (list, tuple)) if args else "key_datasets" in named


class KeyFollower(Indices):
    """An iterator over the indices of complete frames: 0, 1, 2, ... while every key is other than zero.

    `KeyFollower(key_datasets, timeout=10, finished_dataset=None)` takes a list of datasets, `KeyFollower(h5file,
    keypaths, timeout=10, finished_dataset=None)` an open file and paths: of key datasets, and of groups that hold
    nothing else.

    Args:
        timeout: seconds without a new key after which the iteration ends, None for never.
        finished_dataset: a dataset of one number, or its path: other than zero when nothing more will be written.

    Attributes:
        current_key: the last index that was given, -1 before the first.
        scan_rank: how many scan dimensions the keys have, -1 before `check_datasets`.
        maxshape: the greatest extents of these, None before `check_datasets`.

    It ends at once when all keys are there that the datasets have room for. It belongs to one thread at a time.

    Redis: none on HDF5 files; on a FrameFile as `FrameFile` reads and waits.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        self._followed = (_by_datasets if are_datasets(args, named) else _by_paths)(*args, **named)
        super().__init__(self._followed.keys, self._followed.patience)
        self.scan_rank = -1
        self.maxshape: tuple[int | None, ...] | None = None

    @property
    def file(self) -> Any:
        """The open file, None for datasets that don't say theirs."""
        return self._followed.file

    @property
    def timeout(self) -> float | None:
        """Seconds without a new key after which the iteration ends."""
        return self._patience.timeout

    @property
    def timed_out(self) -> bool:
        """Whether the iteration ended because its time was over."""
        return self._patience.timed_out

    @property
    def finished_set(self) -> bool:
        """Whether the file said, when it was last asked, that it is finished."""
        return self._patience.finished

    def check_datasets(self) -> None:
        """Look at the key datasets, and take `scan_rank` and `maxshape` from them.

        Raises:
            NotYetWritten: they are not there.
            FrameError: they have different numbers of scan dimensions.
        """
        self._patience.refresh()
        self._look()
        missing, scans = self._keys.expected(), self._keys.maxshapes
        if missing or not scans:
            raise NotYetWritten(f"no key dataset{f' at {missing}' if missing else ''} yet: mend the path, or wait")
        ranks = sorted({len(most) for most in scans})
        if len(ranks) > 1:
            raise FrameError(f"key datasets with {ranks} scan dimensions, expected the same: take follow.DataFollower")
        self.scan_rank, self.maxshape = ranks[0], scans[0]

    def refresh(self) -> bool:
        """Look at the keys now; tell whether there are new ones."""
        before = self.current_max
        self._patience.refresh()
        return self._look() - 1 > before

    def get_current_max(self) -> int:
        """Return the last index that is known to be complete, -1 when none is."""
        return self.current_max

    def are_keys_complete(self) -> bool:
        """Tell whether all frames are complete that the keys have room for."""
        return self._keys.full()


class RowKeyFollower:
    """An iterator over the indices of each row's last frame, given when the whole row is complete.

    It takes the arguments of `KeyFollower`, and:

    Args:
        row_size: frames of a row; the greatest extent of the last scan dimension if None.

    Redis: as `KeyFollower`.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        first = ("key_datasets",) if are_datasets(args, named) else ("h5file", "keypaths")
        given = dict(zip((*first, "timeout", "finished_dataset", "row_size"), args, strict=False), **named)
        self.row_size: int | None = given.pop("row_size", None)
        self.inner_key_follower = KeyFollower(**given)

    @property
    def scan_rank(self) -> int:
        """How many scan dimensions the keys have, -1 before `check_datasets`."""
        return self.inner_key_follower.scan_rank

    @property
    def maxshape(self) -> tuple[int | None, ...] | None:
        """The greatest extents of these, None before `check_datasets`."""
        return self.inner_key_follower.maxshape

    def check_datasets(self) -> None:
        """Look at the key datasets, and take from them what was not given.

        Raises:
            NotYetWritten, FrameError: as `KeyFollower.check_datasets`; the size of a row is not known.
        """
        self.inner_key_follower.check_datasets()
        if self.row_size is None:
            self.row_size = self.maxshape[-1] if self.maxshape else None
            if self.row_size is None:
                raise FrameError(f"keys with the greatest shape {self.maxshape}: rows without end: give row_size=")

    def __iter__(self) -> "RowKeyFollower":
        iter(self.inner_key_follower)
        return self

    def __next__(self) -> int:
        """Return the index of the next whole row's last frame; see `KeyFollower`."""
        if self.row_size is None:
            self.check_datasets()
        return self.inner_key_follower.skip(self.row_size or 1)

    def reset(self) -> None:
        """Begin again with the first row."""
        self.inner_key_follower.reset()
