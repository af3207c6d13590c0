"""Reading single frames of growing datasets, and saying why one cannot be had.

It knows datasets of h5py and of `FrameFile` by what they have in common. It must not know keys, nor who follows.
Invariants:

1. A frame that was complete before it is asked for is read as it was written: the dataset is looked at anew first.
2. *Not yet*, *no more* and *never* are three errors.
3. A frame keeps all dimensions: those of the scan have the extent 1.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from shareddata import frameindex
from shareddata.errors import FrameError, NoMoreFrames, NoSuchFrame, NotYetWritten, ServerTimeout, ServerUnreachable
from shareddata.growing import Finish, Patience
from shareddata.handles import Handle, opened

Rank = Callable[[Handle], int]
"""Says how many scan dimensions a dataset has."""


class FrameAt:
    """Reads single frames of one dataset, and says why a frame cannot be had.

    Args:
        handle: the dataset's.
        finish: what says that nothing more will be written.
    """

    def __init__(self, handle: Handle, finish: Finish) -> None:
        self.handle = handle
        self._finish = finish
        self._complete = 0

    @property
    def dataset(self) -> Any:
        """The dataset, as h5py or `FrameFile` has it."""
        return self.handle.dataset

    def slices(self, index: int, rank: int) -> tuple[slice, ...]:
        """Return what cuts a frame out of the dataset, along the scan dimensions.

        Args:
            index: the frame's, from 0.
            rank: how many scan dimensions there are.

        Raises:
            NotYetWritten, NoMoreFrames, NoSuchFrame.
        """
        index = operator.index(index)
        self._check(index, rank)
        if index >= self._there(rank) or (self.handle.remembers and index >= self._complete):
            finished = self._look(index)
            if index >= (there := self._there(rank)):
                raise self._missing(index, there, finished)
        return frameindex.frame_slices(index, self.dataset.shape, rank)

    def frame(self, index: int, rank: int, complete: int) -> tuple[Any, tuple[slice, ...]]:
        """Return a frame, with all its dimensions, and what cuts it out along the scan dimensions.

        Args:
            index: the frame's, from 0.
            rank: how many scan dimensions there are.
            complete: so many frames are complete by their keys: the dataset is looked at anew for all of them at once.

        Raises:
            NotYetWritten, NoMoreFrames, NoSuchFrame.
        """
        if self.handle.remembers and self._complete <= index < complete:
            self.refresh(complete)
        slices = self.slices(index, rank)
        return self.dataset[slices], slices

    def refresh(self, complete: int) -> None:
        """Look at the dataset anew: parts of it that were empty at the last look HDF5 remembers as empty.

        Args:
            complete: frames before this one were complete before this call.
        """
        self.handle.refresh()
        self._complete = complete

    def _look(self, index: int) -> bool:
        """Look at the dataset anew, and tell whether nothing more comes; asked before, or with the same refresh."""
        finished = self._finish()
        self.refresh(index)
        return finished or self._finish.ended

    def left(self, index: int, rank: int) -> int:
        """Return the first index after another whose frame may still be kept.

        Redis: none on HDF5 files; HKEYS.
        """
        if self.handle.remembers:
            return index + 1
        inner = self.dataset.shape[1:rank]
        kept = [frameindex.flat(begin[:rank], inner) for begin in self.dataset.left()] if rank else []
        return min((each for each in kept if each > index), default=index + 1)

    def _there(self, rank: int) -> int:
        return math.prod(self.dataset.shape[:rank])

    def _check(self, index: int, rank: int) -> None:
        """Refuse what no look can bring."""
        where, maxshape = self.handle.name, self.handle.maxshape
        if rank > len(maxshape):
            raise NoSuchFrame(f"{where}: {len(maxshape)} dimensions, expected the scan's {rank} at least")
        most = frameindex.capacity(maxshape[:rank])
        if index < 0 or (most is not None and index >= most):
            frames = "0, 1, 2, ..." if most is None else f"0 to {most - 1}" if most else "none"
            raise NoSuchFrame(f"{where}: no frame {index}: its greatest shape {maxshape} has frames {frames}")

    def _missing(self, index: int, there: int, finished: bool) -> FrameError:
        where = self.handle.name
        if finished:
            return NoMoreFrames(f"{where}: no frame {index}: the file was finished with {there} frames: end here")
        return NotYetWritten(
            f"{where}: frame {index} is not written yet: there are {there}: follow its keys, or ask again"
        )


class Frames:
    """Reads the frames of several datasets, waiting for those that lag behind their keys.

    Args:
        file: the open file, for datasets named by paths.
        datasets: for each name the handle of a dataset, or a path: what is there may appear late.
        patience: how long to wait.
    """

    def __init__(self, file: Any, datasets: Mapping[str, Handle | str], patience: Patience) -> None:
        self._file = file
        self._datasets = datasets
        self._patience = patience
        self._readers: dict[str, FrameAt] = {}

    def read(self, name: str, index: int, complete: int, rank: Rank) -> tuple[Any, tuple[slice, ...]]:
        """Return a frame of one of the datasets, and what cuts it out along the scan dimensions.

        Args:
            name: which of them.
            index: the frame's, from 0.
            complete: so many frames are complete by their keys.
            rank: how many scan dimensions it has.

        Raises:
            NotYetWritten: it did not come in time; NoMoreFrames, NoSuchFrame: it never will.
        """
        last: list[Exception] = []
        found: list[Any] = []

        def look() -> bool:
            try:
                reader = self._reader(name)
                found.append(reader.frame(index, rank(reader.handle), complete))
            except NotYetWritten as error:
                last[:] = [error]
            return bool(found)

        try:
            look()
        except (ServerUnreachable, ServerTimeout) as error:
            last[:] = [error]
        if not found and not self._patience.wait(look):
            raise last[0]
        return found[0]  # type: ignore[no-any-return]

    def left(self, index: int, rank: Rank) -> int:
        """Return the first index after another whose frames may still be kept in all datasets.

        Redis: none on HDF5 files; HKEYS for each dataset.
        """
        return max((each.left(index, rank(each.handle)) for each in self._readers.values()), default=index + 1)

    def _reader(self, name: str) -> FrameAt:
        if name not in self._readers:
            dataset = self._datasets[name]
            handle = open_dataset(self._file, dataset) if isinstance(dataset, str) else dataset
            self._readers[name] = FrameAt(handle, self._patience.finish)
        return self._readers[name]


def open_dataset(file: Any, path: str) -> Handle:
    """Return the handle of a dataset of an open file.

    Raises:
        NotYetWritten: it is not there.
        NoSuchFrame: it is a group.
    """
    try:
        found = opened(file, path)
    except KeyError as error:
        raise NotYetWritten(f"no dataset at {path!r} ({error.args[0]}): mend the path, or wait") from None
    if isinstance(found, Handle):
        return found
    raise NoSuchFrame(f"{path!r} is a group: name a dataset in it: {', '.join(found) or 'there is none'}")
