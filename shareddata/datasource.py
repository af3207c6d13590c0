"""Frames as they come, as users of swmr_tools know them: `DataSource`, `FrameReader`.

It knows their arguments and attributes, as of swmr_tools 0.9 (datasets are given) and as its documentation has them (a
file and paths are given); on HDF5 files and on `FrameFile`. It must not know h5py or Redis. Invariants:

1. Both ways to name the data give the same frames.
2. An index whose frame could not be read is given again by the next step.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from shareddata.errors import FrameError, NotYetWritten
from shareddata.frameat import FrameAt, Frames, open_dataset
from shareddata.growing import Finish, file_of
from shareddata.handles import Handle, given
from shareddata.keyfollower import KeyFollower, are_datasets

_SHARED = 4096  # elements: so many of small results share a chunk
_SMALL = 10  # elements of a small result, at the most


class SliceDict(dict[str, Any]):
    """Frames by name, as `DataSource` and `ChunkSource` give them.

    Attributes:
        index: the frame's, of a chunk its first frame's.
        slice_metadata: where it is along the scan dimensions.
        maxshape: the greatest extents of these.
    """

    def __init__(
        self,
        frames: Mapping[str, Any] | None = None,
        index: int | None = None,
        slice_metadata: Sequence[slice] | None = None,
        maxshape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(frames or {})
        self.index = index
        self.slice_metadata = slice_metadata
        self.maxshape = maxshape


class FrameReader:
    """Reads frames of one dataset.

    `FrameReader(dataset, scan_rank, use_direct_chunk=False)` takes a dataset, `FrameReader(path, h5file, scan_rank,
    use_direct_chunk=False, cache_datasets=False)` a path and an open file.

    Args:
        scan_rank: how many of its dimensions are the scan's; the others are the frame's.
        use_direct_chunk, cache_datasets: taken and not needed: compressed frames are read by HDF5 itself.

    Redis: none on HDF5 files; on a FrameFile as `FrameFile` reads.
    """

    def __init__(self, dataset: Any, *args: Any, **named: Any) -> None:
        by = _reader_by_path if isinstance(dataset, str) else _reader_by_dataset
        handle, self.scan_rank = by(dataset, *args, **named)
        self._reader = FrameAt(handle, Finish(file_of([handle.dataset])))

    @property
    def dataset(self) -> Any:
        """The dataset, as h5py or `FrameFile` has it."""
        return self._reader.dataset

    def read_frame(self, index: int, force_refresh: bool = False) -> tuple[Any, tuple[slice, ...]]:
        """Return a frame with all its dimensions, and where it is along those of the scan.

        Args:
            index: the frame's, from 0.
            force_refresh: look at the dataset anew, also for a frame that was there before.

        Raises:
            NotYetWritten, NoMoreFrames, NoSuchFrame.
        """
        if force_refresh:
            self._reader.refresh(0)
        return self._reader.frame(index, self.scan_rank, 0)


def _reader_by_dataset(dataset: Any, scan_rank: int, use_direct_chunk: bool = False) -> tuple[Handle, int]:
    return given(dataset), scan_rank


def _reader_by_path(
    path: str, h5file: Any, scan_rank: int, use_direct_chunk: bool = False, cache_datasets: bool = False
) -> tuple[Handle, int]:
    return open_dataset(h5file, path), scan_rank


class _Sources(NamedTuple):
    """What a DataSource reads, in one form for both ways to say it."""

    follower: KeyFollower
    single: dict[str, Any]
    interleaved: dict[str, Sequence[Any]]


def _from_datasets(
    key_datasets: Sequence[Any],
    datasets: Mapping[str, Any] | None,
    timeout: float | None = 10,
    finished_dataset: Any = None,
    use_direct_chunk: bool = False,
    interleaved_datasets: Mapping[str, Sequence[Any]] | None = None,
) -> _Sources:
    follower = KeyFollower(key_datasets, timeout, finished_dataset)
    return _Sources(follower, dict(datasets or {}), dict(interleaved_datasets or {}))


def _from_paths(
    h5file: Any,
    keypaths: str | Sequence[str],
    dataset_paths: str | Sequence[str] | None,
    timeout: float | None = 10,
    finished_dataset: Any = None,
    cache_datasets: bool = False,
    use_direct_chunk: bool = False,
    interleaved_paths: Mapping[str, Sequence[str]] | None = None,
) -> _Sources:
    paths = [dataset_paths] if isinstance(dataset_paths, str) else dataset_paths or ()
    follower = KeyFollower(h5file, keypaths, timeout, finished_dataset)
    return _Sources(follower, {path: path for path in paths}, dict(interleaved_paths or {}))


class DataSource:
    """An iterator over the complete frames of several datasets: a `SliceDict` for each index.

    `DataSource(key_datasets, datasets, timeout=10, finished_dataset=None, use_direct_chunk=False,
    interleaved_datasets=None)` takes a list of key datasets and a dictionary of datasets; `DataSource(h5file, keypaths,
    dataset_paths, timeout=10, finished_dataset=None, cache_datasets=False, use_direct_chunk=False,
    interleaved_paths=None)` an open file and paths, which are the names of the frames.

    Args:
        timeout: seconds without a new key after which the iteration ends, None for never.
        finished_dataset: see `KeyFollower`.
        use_direct_chunk, cache_datasets: taken and not needed: compressed frames are read by HDF5 itself.
        interleaved_datasets, interleaved_paths: for each name datasets that hold its frames in turn.

    Attributes:
        kf: the `KeyFollower`.

    The constructor looks at the keys that are there.

    Redis: none on HDF5 files; on a FrameFile as `FrameFile` reads and waits.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        sources = (_from_datasets if are_datasets(args, named) else _from_paths)(*args, **named)
        if not sources.single and not sources.interleaved:
            raise FrameError("no data to follow: name at least one dataset")
        self.kf = sources.follower
        self._single = sources.single
        self._interleaved = sources.interleaved
        turns = {f"{name} {i}": each for name, parts in self._interleaved.items() for i, each in enumerate(parts)}
        datasets = {
            name: each if isinstance(each, str) else given(each) for name, each in (self._single | turns).items()
        }
        self._frames = Frames(self.kf.file, datasets, self.kf.patience)
        with suppress(NotYetWritten):  # then at the first frame
            self.kf.check_datasets()

    def __iter__(self) -> "DataSource":
        iter(self.kf)
        return self

    def __next__(self) -> SliceDict:
        """Return the frames of the next index, waiting for it.

        Raises:
            StopIteration: as `KeyFollower`.
            NotYetWritten: a key is there and its frame isn't, or what was named isn't there, until the time is over.
            NoSuchFrame: a frame is not kept any more; the next step goes on with what is left.
            FrameError: the key datasets have different numbers of scan dimensions, or their rows grew.
        """
        return self.kf.take(self._read, lambda index: self._frames.left(index, self._rank))

    def _read(self, index: int, complete: int) -> SliceDict:
        if self.kf.scan_rank < 0:
            self.kf.check_datasets()
        frames = SliceDict(index=index, maxshape=self.kf.maxshape)
        for name in self._single:
            frames[name], slices = self._frames.read(name, index, complete, self._rank)
            frames.slice_metadata = frames.slice_metadata or slices
        for name, datasets in self._interleaved.items():
            turns = len(datasets)
            own, turn = divmod(index, turns)
            frames[name], slices = self._frames.read(f"{name} {turn}", own, -(-(complete - turn) // turns), self._rank)
            frames.slice_metadata = frames.slice_metadata or (slice(index, index + 1), *slices[1:])
        return frames

    def _rank(self, handle: Handle) -> int:
        return self.kf.scan_rank

    @property
    def missed(self) -> int:
        """How many frames could never be read: not kept any more, or beyond a dataset's greatest shape."""
        return self.kf.missed

    def reset(self) -> None:
        """Begin again with frame 0."""
        self.kf.reset()

    def is_scan_finished(self) -> bool:
        """Tell whether the file said that it is finished."""
        return self.kf.finished_set

    def has_timed_out(self) -> bool:
        """Tell whether the iteration ended because its time was over."""
        return self.kf.timed_out

    def create_dataset(self, data: Any, fh: Any, path: str) -> Any:
        """Make a dataset for results, one for each frame, and put the first one into it.

        Args:
            data: the first frame's result, an array.
            fh: an HDF5 file or group, or a FrameFile, open for writing.
            path: the dataset's name in it.
        """
        scan = self.kf.maxshape or ()
        shape = (*[1] * len(scan), *data.shape)
        chunks = (*_shared(scan, data.size), *data.shape)
        return fh.create_dataset(path, data=data.reshape(shape), maxshape=(*scan, *data.shape), chunks=chunks)

    def append_data(self, data: Any, slice_metadata: Sequence[slice], dataset: Any) -> None:
        """Put a frame's result where the frame is, in a dataset of `create_dataset`; it grows as far as needed.

        Args:
            data: the result, an array.
            slice_metadata: the frame's.
            dataset: where to.
        """
        place = (*slice_metadata, *[slice(0, extent) for extent in data.shape])
        shape = tuple(max(extent, part.stop) for extent, part in zip(dataset.shape, place, strict=True))
        if shape != tuple(dataset.shape):
            dataset.resize(shape)
        dataset[place] = data


def _shared(scan: Sequence[int | None], size: int) -> tuple[int, ...]:
    """Return how many results share a chunk, along each scan dimension: one, unless they are small."""
    room = _SHARED if size < _SMALL else 1
    extents = []
    for most in reversed(scan):
        extent = max(1, min(room, most or room))
        extents.append(extent)
        room //= extent
    return tuple(reversed(extents))
