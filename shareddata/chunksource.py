"""Whole chunks of datasets as they come, as users of swmr_tools know them: `ChunkSource`.

It knows datasets whose chunks go over the whole frame and several frames, of h5py and of `FrameFile`. It must not know
keys: a chunk is there when it is stored. Invariants:

1. A chunk is given once, whole, in order; only the last one of a dataset may have fewer frames.
2. What HDF5 can read it can read: filters are HDF5's.
"""

from collections.abc import Mapping
from typing import Any

from shareddata.datasource import SliceDict
from shareddata.errors import FrameError, NoMoreFrames, NoSuchFrame
from shareddata.growing import Finish, Patience, file_of, gone
from shareddata.handles import Handle, describe, given


class ChunkSource:
    """An iterator over the chunks of datasets: a `SliceDict` for each, its index that of the chunk's first frame.

    Args:
        datasets: datasets by name, each chunked along its first dimension only, all with the same number of frames.
        timeout: seconds without a new chunk after which the iteration ends, None for never.
        finished_dataset: see `KeyFollower`.

    A chunk that is not full is given at the end only, with as many frames as there are. It belongs to one thread at a
    time.

    Raises:
        FrameError: the datasets' chunks cannot be read together.

    Redis: none on HDF5 files; on a FrameFile as `FrameFile` reads and waits.
    """

    def __init__(self, datasets: Mapping[str, Any], timeout: float | None = 10, finished_dataset: Any = None) -> None:
        if not datasets:
            raise FrameError("no data to follow: name at least one dataset")
        self._handles = {name: given(dataset) for name, dataset in datasets.items()}
        self.chunk_size = _chunk_size(list(datasets.values()))
        bounds = [dataset.maxshape[0] for dataset in datasets.values() if dataset.maxshape[0] is not None]
        self.max_size: int | None = min(bounds, default=None)
        self.current_index = 0
        self._rows = 0
        file = file_of(datasets.values())
        self._patience = Patience(file, timeout, Finish(file, finished_dataset))

    def __iter__(self) -> "ChunkSource":
        return self

    def __next__(self) -> SliceDict:
        """Return the next chunk, waiting for it.

        Raises:
            StopIteration: the time is over, nothing more will be written, or the datasets are full.
            NoSuchFrame: a chunk is not kept any more; the next step goes on with what is left.
        """
        try:
            return self._next()
        except NoMoreFrames:
            if gone(self._patience.file):
                raise StopIteration from None
            raise

    def _next(self) -> SliceDict:
        start = self.current_index * self.chunk_size
        wanted = self.chunk_size if self.max_size is None else min(self.chunk_size, self.max_size - start)
        if wanted <= 0:
            raise StopIteration
        if self._there(start) < wanted:
            self._patience.wait(lambda: self._look(start) >= wanted)
        rows = min(self._rows, wanted)
        if not rows:
            raise StopIteration
        where = slice(start, start + rows)
        chunks = self._read(where)
        self.current_index += 1
        return SliceDict(chunks, start, (where,), (self.max_size,))

    def _read(self, where: slice) -> dict[str, Any]:
        try:
            return {name: handle.dataset[where] for name, handle in self._handles.items()}
        except NoSuchFrame:
            left = [{place[0] for place in handle.dataset.left()} for handle in self._handles.values()]
            begin = min((start for start in set.intersection(*left) if start > where.start), default=where.stop)
            self.current_index = begin // self.chunk_size
            raise

    def _look(self, start: int) -> int:
        for handle in self._handles.values():
            if handle.remembers:
                handle.refresh()
        return self._there(start)

    def _there(self, start: int) -> int:
        """Return how many frames of a chunk are there in all datasets."""
        rows = [handle.dataset.shape[0] - start if _stored(handle, start) else 0 for handle in self._handles.values()]
        self._rows = max(0, min(rows))
        return self._rows


def _chunk_size(datasets: list[Any]) -> int:
    """Return how many frames a chunk has, the same in all datasets."""
    for dataset in datasets:
        shape, chunks = dataset.shape, dataset.chunks
        if chunks is None or tuple(chunks[1:]) != tuple(shape[1:]):
            raise FrameError(
                f"{describe(dataset)}: shape {shape} in chunks of {chunks}: expected chunks over all dimensions but "
                "the first: use DataSource"
            )
    sizes = sorted({dataset.chunks[0] for dataset in datasets})
    if len(sizes) > 1:
        raise FrameError(f"chunks of {sizes} frames, expected the same in all datasets: use one ChunkSource for each")
    return int(sizes[0])


def _stored(handle: Handle, start: int) -> bool:
    """Tell whether the chunk that begins with a frame was stored: there may be room before there are data."""
    dataset = handle.dataset
    if start >= dataset.shape[0]:
        return False
    if handle.remembers:
        place = (start, *[0] * (len(dataset.shape) - 1))
        return dataset.id.get_chunk_info_by_coord(place).byte_offset is not None
    return dataset.stored(start) or _is_gone(dataset, start)


def _is_gone(dataset: Any, start: int) -> bool:
    """Tell whether a chunk of a FrameFile that is not there is not kept any more, or was never written."""
    try:
        dataset[start : start + 1]
    except NoSuchFrame:
        return True
    return False
