"""A frame file as an HDF5 file: the same datasets, attributes and keys, copied as they grow, to be followed by SWMR.

It knows both kinds of file. It must not know which frame files are archived, nor where files go. Invariants:

1. A key is written after the frame is, of every dataset: who follows the HDF5 file sees what the frame file's followers
   saw.
2. What an earlier process has copied stays, also what the frame file does not keep any more.
3. A frame that was trimmed before it could be copied has no key, and is counted.

Beside what the frame file holds, there is an NXentry `/entry` (unless it has its own): `data` shows the first of its
datasets by default, `records`, `start_time`, `end_time`, `finished` as in `swmrfile`.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

from shareddata import frameindex
from shareddata.columns import json_text, listed, load
from shareddata.datadesc import Record
from shareddata.errors import NoMoreFrames, NoSuchFrame, NotYetWritten
from shareddata.follow import Follower
from shareddata.frames import FrameFile
from shareddata.keyed import KeyPaths
from shareddata.nexusparts import Records, group_of, now
from shareddata.occupied import Reserve, hold
from shareddata.swmrfile import FINISHED

_ROOM = 1 << 19  # bytes beside the frames: HDF5's own


class Mirror:
    """Copies a frame file into an HDF5 file.

    Args:
        file: open for reading.
        keys: paths of groups that hold its key datasets, or of key datasets.
        records: descriptions of records that are noted at start and end.
        compression: a filter of h5py; None for none.

    Attributes:
        copied: how many frames are there.
        missed: how many were trimmed before they could be copied.
        broken: whether something could not be written whole: close it, and begin anew from what there is.
    """

    def __init__(
        self, file: FrameFile, keys: str | Sequence[str], records: Sequence[Record] = (), compression: str | None = None
    ) -> None:
        self._source = file
        self._paths = KeyPaths(file, keys)
        self._follower = Follower(file, keys, timeout=0)
        self._records = Records(records)
        self._compression = compression
        self._file: Any = None
        self._reserve: Reserve | None = None
        self._lock = -1
        self._ranks: dict[str, int] = {}  # how many scan dimensions each dataset has that is copied frame by frame
        self._keys: dict[str, int] = {}  # and each key dataset
        self._need = 0
        self.copied = self.missed = 0
        self.broken = False

    @property
    def ready(self) -> bool:
        """Whether the first frame is complete, so that it is known what there is to copy.

        Redis: as `FrameFile` reads.
        """
        try:
            index = next(iter(self._follower), None)
        except (NotYetWritten, NoMoreFrames):  # there are no keys so far, or never were
            return False
        self._follower.current_key = -1
        return index is not None

    def begin(self, path: str, before: str | None = None) -> None:
        """Make the HDF5 file, so that it can be followed.

        Args:
            path: made.
            before: what an earlier process has copied.

        Raises:
            OSError: it cannot be written.

        Redis: as `FrameFile` reads.
        """
        h5py = load("hdf5")
        self._classify()
        self._reserve = Reserve(os.path.dirname(path), self._need)
        self._file = h5py.File(path, "w", libver="latest")
        try:
            if before is None:
                self._make()
            else:
                self._take_over(before)
            self._file.swmr_mode = True
            self._file.flush()
            self._lock = hold(path)
        except BaseException:
            self.close()
            raise

    def _classify(self) -> None:
        """Find out what is a key, what is copied frame by frame, and what whole."""
        self._keys = {path.strip("/"): frameindex.scan_rank(h.maxshape) for path, h in self._paths.find().items()}
        scans = self._follower.scans
        for path, dataset in self._datasets():
            if path not in self._keys and any(_follows(dataset.maxshape, most) for _, most in scans):
                self._ranks[path] = frameindex.frame_rank(dataset.shape, dataset.maxshape, scans)
        frames = [math.prod(self._source[path].shape[rank:]) * self._source[path].dtype.itemsize
                  for path, rank in self._ranks.items()]  # fmt: skip
        self._need = sum(frames) + _ROOM

    def _datasets(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        self._source.visititems(lambda path, each: found.append((path, each)) if hasattr(each, "shape") else None)
        return found

    def _make(self) -> None:
        """Make everything that the frame file has, and copy what does not grow."""
        _copy_attributes(self._source, self._file)
        self._source.visititems(self._make_one)
        if "entry" in self._file:
            return
        self._file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": "shareddata"})
        entry = group_of(self._file, "entry", "NXentry")
        entry.attrs["default"] = "data"
        entry["title"], entry["start_time"] = self._source.filename, now()
        entry.create_dataset("end_time", data=b"", dtype="S32")
        entry.create_dataset("finished", data=0)
        data = group_of(entry, "data", "NXdata")
        for path in self._ranks:
            data[path.rpartition("/")[2]] = self._file[path]
        if self._ranks:
            data.attrs["signal"] = next(iter(self._ranks)).rpartition("/")[2]
        self._records.make(entry)

    def _make_one(self, path: str, each: Any) -> None:
        if not hasattr(each, "shape"):
            _copy_attributes(each, self._file.require_group(path))
            return
        grows = path in self._ranks or path in self._keys
        made = self._file.create_dataset(
            path,
            shape=(0, *each.shape[1:]) if grows and each.maxshape[0] is None else each.shape,
            maxshape=each.maxshape,
            dtype=each.dtype,
            chunks=each.chunks or (True if None in each.maxshape else None),
            compression=self._compression if path in self._ranks else None,
        )
        _copy_attributes(each, made)
        if not grows and each.size:
            made[...] = each[...]

    def _take_over(self, before: str) -> None:
        """Begin with what an earlier process has copied."""
        with load("hdf5").File(before, "r", swmr=True) as left:
            self._file.attrs.update(left.attrs)
            for name in left:
                left.copy(name, self._file)
        counts = []
        for path, rank in self._keys.items():
            keys = self._file[path]
            values = keys[()].reshape(keys.shape[: max(1, rank)])
            counts.append(frameindex.leading(values, self._source[path].shape[1:rank]))
        self.copied = min(counts, default=0)
        self._follower.current_key = self.copied - 1
        if "records" in self._file.get("entry", {}):
            self._records.open(self._file["entry"])
        if FINISHED in self._file:
            self._file[FINISHED][()] = 0

    def note(self, trames: Sequence[Any]) -> None:
        """Note the records' trames; the second time is the end. A file with an `entry` of its own has none."""
        self._records.note(trames)
        self._file.flush()

    def step(self) -> bool:
        """Copy the next complete frame; tell whether there was one.

        Raises:
            OSError, RuntimeError: it cannot be written, see `broken`; the next call tries the same frame again.
            ServerUnreachable, ServerTimeout: the server is away.

        Redis: as `FrameFile` reads.
        """
        index = next(iter(self._follower), None)
        if index is None:
            return False
        self._follower.current_key = index - 1  # until it is copied
        try:
            parts = self._read(index)
        except NoSuchFrame:
            self.missed += 1
        except NoMoreFrames:
            return False
        else:
            self._write(parts, index)
            self.copied += 1
        self._follower.current_key = index
        return True

    def _read(self, index: int) -> list[tuple[str, tuple[slice, ...], Any]]:
        """Return the parts of a frame, the keys last."""
        parts = []
        for path, rank in (*self._ranks.items(), *self._keys.items()):
            source = self._source[path]
            place = frameindex.frame_slices(index, source.shape, rank)
            parts.append((path, place, source[place]))
        return parts

    def _write(self, parts: Sequence[tuple[str, tuple[slice, ...], Any]], index: int) -> None:
        assert self._reserve
        self._reserve.check(self._need)
        self.broken = True
        flushed = False
        for path, place, value in parts:
            if path in self._keys and not flushed:
                self._file.flush()
                flushed = True
            made, shape = self._file[path], self._source[path].shape
            if made.shape != shape:
                made.resize(tuple(map(max, made.shape, shape)))
            made[place] = value
        self._file.flush()
        self.broken = False

    @property
    def ended(self) -> bool:
        """Whether the frame file has ended and everything complete was copied, as of the last `step`."""
        return self._source.ended and self._follower.current_key >= self._follower.current_max

    def finish(self) -> None:
        """Say in the file that nothing more will be written, put it on disk and close it.

        Raises:
            OSError, RuntimeError: it cannot be written.
        """
        if FINISHED in self._file:
            self._file["/entry/end_time"][()] = now().encode()
            self._file[FINISHED][()] = 1
        self._file.flush()
        os.fsync(self._file.id.get_vfd_handle())
        self.close()

    def close(self) -> None:
        """Close the HDF5 file as it is."""
        if self._reserve:
            self._reserve.release()
        try:
            if self._file is not None:
                self._file.close()
        finally:
            if self._lock >= 0:
                os.close(self._lock)
            self._lock, self._file, self._reserve = -1, None, None


def _follows(maxshape: Sequence[int | None], keys: Sequence[int | None]) -> bool:
    """Tell whether a dataset's first dimensions are those of keys."""
    return len(maxshape) >= len(keys) and tuple(maxshape[: len(keys)]) == tuple(keys)


def _copy_attributes(source: Any, made: Any) -> None:
    for name, value in source.attrs.items():
        try:
            made.attrs[name] = value
        except (TypeError, ValueError):  # HDF5 has no dictionaries and no null
            made.attrs[name] = json_text(listed(value))
