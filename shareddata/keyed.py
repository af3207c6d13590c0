"""Key datasets: how many frames are complete, and the iterator over their indices.

A key is a number other than zero that is written when its frame is whole. It knows key datasets, whichever file they
are in, and must not know where frames are, or what they are. Invariants:

1. An index is given when every key dataset has its key: of those there are, and of those that were named and are not
   there yet.
2. Indices come in order, each once, until `reset`.
3. An index means the same place all the time: where rows grow longer under indices that were given, that is an error.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from shareddata import frameindex
from shareddata.errors import FrameError, NoMoreFrames, NoSuchFrame, NotYetWritten
from shareddata.growing import Patience, gone
from shareddata.handles import Handle, opened

T = TypeVar("T")


class _Key:
    """One key dataset.

    Args:
        handle: the dataset's.

    Attributes:
        complete: how many frames are complete by it.
        rank: how many scan dimensions it has.
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.complete = 0
        self.rank = frameindex.scan_rank(handle.maxshape)

    @property
    def dataset(self) -> Any:
        """The dataset, as h5py or `FrameFile` has it."""
        return self.handle.dataset

    @property
    def scan(self) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
        """Extents and greatest extents of the scan dimensions."""
        rank = max(1, self.rank)
        return tuple(self.dataset.shape[:rank]) or (1,), self.handle.maxshape[:rank] or (1,)

    def count(self, inner: Sequence[int]) -> None:
        """Count on from the row in which counting stopped.

        Args:
            inner: the extents of the scan's inner dimensions.
        """
        if 0 in inner:
            return
        row, *_ = frameindex.position(self.complete, inner)
        keys = self.dataset[row:] if self.dataset.shape else self.dataset[()].reshape(1)
        if not keys.size:
            return
        keys = keys.reshape(keys.shape[: max(1, self.rank)])
        start = frameindex.flat((row, *[0] * len(inner)), inner)
        self.complete = max(self.complete, start + frameindex.leading(keys, inner))


class Keys:
    """All key datasets of a scan, and how many frames are complete by all of them.

    Args:
        find: returns the handles of the datasets that are there, by name.
        expected: returns what was named and isn't there, in words; empty when all is there.

    Attributes:
        complete: so many frames, from the first on, are complete.
    """

    def __init__(self, find: Callable[[], Mapping[str, Handle]], expected: Callable[[], str] = lambda: "") -> None:
        self._find = find
        self.expected = expected
        self._keys: dict[str, _Key] = {}
        self._inner: dict[int, tuple[int, ...]] = {}
        self.complete = 0

    @property
    def scans(self) -> list[tuple[tuple[int, ...], tuple[int | None, ...]]]:
        """Extents and greatest extents of each key dataset's scan dimensions, as of the last look."""
        return [key.scan for key in self._keys.values()]

    @property
    def maxshapes(self) -> list[tuple[int | None, ...]]:
        """The greatest extents of each key dataset's scan dimensions; () for a single key."""
        return [key.handle.maxshape[: key.rank] for key in self._keys.values()]

    def reset(self) -> None:
        """Count again from the first frame."""
        self.complete = 0
        for key in self._keys.values():
            key.complete = 0

    def full(self) -> bool:
        """Tell whether all frames are complete that the key datasets have room for."""
        rooms = [frameindex.capacity(most) for _, most in self.scans]
        bounds = [room for room in rooms if room is not None]
        return bool(bounds) and self.complete >= min(bounds)

    def look(self, given: int) -> int:
        """Look at the keys anew, and return how many frames are complete; a FrameFile was refreshed before.

        Args:
            given: so many indices were given already: these have to keep their meaning.

        Raises:
            FrameError: they don't.
        """
        handles = self._find()
        for name, handle in handles.items():
            if name not in self._keys or self._keys[name].handle is not handle:
                self._keys[name] = _Key(handle)
        for name in self._keys.keys() - handles.keys():
            del self._keys[name]
        for handle in handles.values():
            if handle.remembers:
                handle.refresh()
        for rank in {max(1, key.rank) for key in self._keys.values()}:
            self._measure(rank, given)
        for key in self._keys.values():
            key.count(self._inner[max(1, key.rank)])
        if self._keys and not self.expected():
            self.complete = min(key.complete for key in self._keys.values())
        return self.complete

    def _measure(self, rank: int, given: int) -> None:
        """Note how long the rows are of key datasets with so many scan dimensions."""
        members = [key for key in self._keys.values() if max(1, key.rank) == rank]
        inner = tuple(map(max, zip(*[key.scan[0][1:] for key in members], strict=True)))
        before = self._inner.get(rank, inner)
        same = frameindex.unchanged(before, inner)
        if same is not None and given > same:
            raise FrameError(
                f"{members[0].handle.name}: the rows of the scan grew from {before} to {inner} after index "
                f"{given - 1} was given: indices mean other frames now: reset() begins anew"
            )
        if same is not None:
            for key in members:
                key.complete = min(key.complete, same)
        self._inner[rank] = inner


class KeyPaths:
    """Finds the key datasets below paths of an open file; they may appear late.

    Args:
        file: an open `h5py.File` or `FrameFile`.
        paths: of key datasets, and of groups that hold nothing else; a single one may be given as it is.
    """

    def __init__(self, file: Any, paths: str | Sequence[str]) -> None:
        self._file = file
        self.paths = [paths] if isinstance(paths, str) else list(paths)
        self._missing: list[str] = []
        self._open: dict[str, Handle] = {}
        self._complete = False

    def find(self) -> dict[str, Handle]:
        """Return the handles of the datasets that are there, by name.

        Raises:
            ValueError: the file is closed.
            FrameError: a group holds something else.
        """
        if not self._file:
            raise ValueError(f"{self._file!r}: the file is closed: follow it inside its `with` block")
        if not self._complete:
            self._search()
        return self._open

    def _search(self) -> None:
        """Find what is there now. A file written by SWMR gets no new members: it is searched until all is there."""
        self._missing = []
        found: dict[str, Handle] = {}
        for path in self.paths:
            thing = self._at(path)
            if isinstance(thing, Handle):
                found[path] = thing
            for name in () if isinstance(thing, Handle) or thing is None else thing:
                self._add_member(f"{path.rstrip('/')}/{name}", found)
        self._open = found
        self._complete = bool(found) and not self._missing and all(handle.remembers for handle in found.values())

    def expected(self) -> str:
        """Return which of what was named is not there, in words; empty when all is."""
        return ", ".join(self._missing)

    def _at(self, path: str) -> Any:
        """Return the group or the handle at a path, None where there is none."""
        if path in self._open:
            return self._open[path]
        try:
            return opened(self._file, path)
        except KeyError as error:
            self._missing.append(f"{path!r} ({error.args[0]})")
            return None

    def _add_member(self, path: str, found: dict[str, Handle]) -> None:
        member = self._at(path)
        if isinstance(member, Handle):
            found[path] = member
        elif member is not None:
            raise FrameError(f"{path!r} is no dataset: expected a group that holds key datasets and nothing else")


class Indices:
    """An iterator over the indices of complete frames: 0, 1, 2, ...

    Args:
        keys: the key datasets.
        patience: how long to wait for the next one.

    Attributes:
        current_key: the last index that was given, -1 before the first.
        missed: frames that `take` could never read: not kept any more, or beyond a dataset's greatest shape.

    An iteration that ended because its time was over goes on with a new `for` loop, or with `iter`.
    """

    def __init__(self, keys: Keys, patience: Patience) -> None:
        self._keys = keys
        self._patience = patience
        self._ended = False
        self.current_key = -1
        self.missed = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.current_key}: {self._keys.complete} complete>"

    def __iter__(self) -> "Indices":
        self._ended = False
        return self

    def __next__(self) -> int:
        """Return the next index, waiting for it.

        Raises:
            StopIteration: the time is over, or nothing more will be written.
            NotYetWritten: the time is over, and what was named as keys is not there.
            FrameError: the rows of the scan grew longer under indices that were given.
        """
        return self.skip(1)

    def skip(self, count: int) -> int:
        """Return the index so many steps on, waiting for it; see `__next__`. An end changes nothing."""
        wanted = self.current_key + count
        if wanted >= self._keys.complete and not self._ended:
            self._patience.wait(lambda: self._look() > wanted or self._keys.full())
        if wanted < self._keys.complete:
            self.current_key = wanted
            return wanted
        if not self._ended:
            self._complain()
        self._ended = True
        raise StopIteration

    @property
    def patience(self) -> Patience:
        """How long it waits, and how the last wait ended."""
        return self._patience

    @property
    def scans(self) -> list[tuple[tuple[int, ...], tuple[int | None, ...]]]:
        """Extents and greatest extents of each key dataset's scan dimensions, as of the last look."""
        return self._keys.scans

    @property
    def current_max(self) -> int:
        """The last index that is known to be complete, -1 when none is."""
        return self._keys.complete - 1

    def reset(self) -> None:
        """Begin again with index 0."""
        self.current_key = -1
        self.missed = 0
        self._ended = False
        self._keys.reset()
        self._patience.reset()

    def is_finished(self) -> bool:
        """Tell whether the iteration has ended: no index will come without `reset`, or another loop."""
        return self._ended

    def take(self, read: Callable[[int, int], T], left: Callable[[int], int]) -> T:
        """Return what is read for the next index, waiting for it; see `__next__`.

        An index whose reading fails is read again by the next step. One that can never be read is passed over, with
        all that follow and are not kept any more either.

        Args:
            read: gets the index, and how many frames are complete.
            left: gets an index, and returns the first one after it whose frames may still be kept.

        Raises:
            FrameError, ServerError: from `read`.
        """
        index = next(self)
        try:
            return read(index, self._keys.complete)
        except NoSuchFrame:
            begin = left(index)
            self.missed += begin - index
            self.current_key = begin - 1
            raise
        except NoMoreFrames:
            self.current_key = index - 1
            if not gone(self._patience.file):
                raise
            self._ended = True
            raise StopIteration from None
        except BaseException:
            self.current_key = index - 1
            raise

    def _complain(self) -> None:
        """Say when the iteration ends without keys that were named: most times the path is a wrong one."""
        missing = self._keys.expected()
        if missing and self._patience.finished:
            raise NoMoreFrames(f"no keys at {missing}: the file was finished without them: mend the path")
        if missing and self._patience.timed_out:
            raise NotYetWritten(f"no keys at {missing} within {self._patience.timeout:g} s: mend the path, or wait")

    def _look(self) -> int:
        """Return how many frames are complete now; of a file that was replaced or removed no more than before."""
        try:
            return self._keys.look(self.current_key + 1)
        except NoMoreFrames:
            return self._keys.complete
