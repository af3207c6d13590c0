"""An archiver whose events are rows of HDF5 files, which others follow by SWMR meanwhile.

It knows when a file begins and ends, and which rows a killed one has written. It must not know how such a file is laid
out (`swmrfile`), nor how events come (`archiver`). Invariants:

1. A source has one open file; a row is acknowledged when it is on disk, and rows are in the order of the events.
2. A file appears under its name when it can be followed; nobody's file is written over.
3. What a killed archiver left is mended at the next start, under its name; its rows are not written again.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shareddata import memory
from shareddata.codec import numpy
from shareddata.columns import json_text, listed, load
from shareddata.datadict import DataDict
from shareddata.errors import FieldError, ServerError, SharedDataError
from shareddata.filearchive import FileArchiver, array_of
from shareddata.framearchive import FrameArchive
from shareddata.swmrfile import Identity, SwmrFile, identities, mend
from shareddata.wholefile import Draft, numbered
from shareddata.wire import shown

log = logging.getLogger("shareddata")

_OPEN = "open:"  # what notes of open files begin with


@dataclass
class _Open:
    """A file that is being written."""

    file: SwmrFile
    wanted: str
    path: str
    note: str


class Hdf5Archiver(FileArchiver):
    """Stores arrays as rows of HDF5 files (NeXus), which can be followed while they grow.

    A file is finished when the source's next event makes another name, has arrays of another shape or type, when it
    has `rows` rows, and when the archiver stops. Events for a name that is finished go to another one, with `_2`.

    Args:
        save_template: makes the file's name of the metadata; see `FileArchiver`.
        split_data_array: whether an array becomes a row for each of its frames (its first dimension).
        *args: see `DataArchiver`.
        rows: after how many rows a file is finished, None for never.
        units: of the arrays: a text for all, or one for each name.
        records: names of records whose trames are noted at the file's start and end.
        compression: a filter of h5py, such as `gzip`; None for none.
        follow: frame files that are copied while they grow, each to an HDF5 file with the same datasets: a name, or a
            pattern; then `object_selector` and `event_name` may be left out. Their names are made of the frame file's
            metadata.
        keys: paths of the groups that hold their key datasets, or of key datasets.
        **kwargs: see `FileArchiver` and `DataArchiver`.

    A payload is an array, which gets the name `data`, or a dictionary of arrays and numbers.

    Raises:
        TemplateError: the template cannot be read.
        UnknownData: no such record.
        SharedDataError: another process archives under this name.
        ModuleNotFoundError: h5py is not installed.

        >>> with Hdf5Archiver("{{ run }}.h5", False, "my-camera", "frames", units="counts", shm=shm) as archiver:
        ...     for frame in range(3):
        ...         archiver.feed("my-camera", ([[frame, 2], [3, 4]], {"run": "a"}))
        >>> import h5py
        >>> with h5py.File("a.h5") as file:
        ...     file["entry/data/data"].shape, file["entry/data/data"].attrs["units"], file["entry/keys/frame"][:, 0, 0]
        ((3, 2, 2), 'counts', array([1, 2, 3]))

    Redis: as `DataArchiver`; those of `DataDict.read` for records.
    """

    _in_order = True

    def __init__(
        self,
        save_template: str,
        split_data_array: bool = False,
        *args: Any,
        rows: int | None = None,
        units: str | Mapping[str, str] = "",
        records: Sequence[str] = (),
        compression: str | None = None,
        follow: str | None = None,
        keys: str | Sequence[str] = "keys",
        **kwargs: Any,
    ) -> None:
        load("hdf5")
        self.split_data_array = split_data_array
        self.rows = rows
        self.units = units
        self.records = [records] if isinstance(records, str) else list(records)
        self._compression = compression
        self._open: dict[str, _Open] = {}
        self._kept: set[Identity] = set()  # rows of files that were left unfinished
        self._data: DataDict | None = None
        self._keys = keys
        self._counting = threading.Lock()
        self._frames: FrameArchive | None = None
        self.follow = follow
        if follow is not None:
            kwargs["shm"] = memory.default(kwargs.get("shm"))
            if not args and "object_selector" not in kwargs:
                kwargs.update(object_selector=follow, event_name="frames", subscribe=False)
        super().__init__(save_template, *args, **kwargs)

    def _prepare(self) -> None:
        if self._ledger and self._subscription:
            for note, path in self._ledger.notes(_OPEN).items():
                self._mend(note, path)
        super()._prepare()
        if self.follow is not None and self._shm:
            self._frames = FrameArchive(
                *(self._shm, self.name, self.follow, self._keys, self._frame_path, self.name_template.root or "/"),
                *(self.records, self._compression, self._copied),
            )
        if self.records:
            if self._shm is None:
                raise ValueError(f"archiver {self.name}: records are noted, so give shm=")
            self._data = DataDict(f"archiver-{self.name}", self._shm)
            self._data.set_datas_to_read(self.records)

    def _distinction(self) -> str:
        return f"{super()._distinction()} {self.follow}"

    def _frame_path(self, name: str, metadata: Mapping[str, Any]) -> str:
        return self._path(name, {**self.metadata, **metadata})

    def _copied(self, path: str) -> None:
        with self._counting:
            self._stored += 1
            self._last = path

    def _stop(self) -> None:
        if self._frames and os.getpid() == self._pid:
            self._stop_event.set()
            self._frames.stop()
        super()._stop()

    # -- rows -----------------------------------------------------------------------------------------------------

    def _store(self, source_name: str, payload: Any, metadata: dict[str, Any]) -> None:
        """Append an array, or each of its frames."""
        wanted, about = self._path(source_name, metadata), json_text(listed(metadata))
        work = self._current
        event = work.event if work else None
        ms, number = (int(part) for part in event.entry.id.split("-")) if event else (0, 0)
        for part, row in enumerate(self._rows(source_name, payload)):
            identity = (ms, number, part)
            if not (event and identity in self._kept):
                self._append(source_name, wanted, row, identity, about)

    def _rows(self, source_name: str, payload: Any) -> Iterator[dict[str, Any]]:
        arrays = payload if isinstance(payload, dict) else {"data": payload}
        row = {str(name): array_of(value, source_name) for name, value in arrays.items()}
        if not row or any("/" in name or name in ("", ".", "time") for name in row):
            raise FieldError(f"{source_name}: {shown(payload)} has no names that arrays can have in HDF5")
        if not self.split_data_array:
            yield row
            return
        if len({len(value) if value.ndim else -1 for value in row.values()} - {-1}) != 1:
            raise FieldError(f"{source_name}: {shown(payload)} cannot be split: its arrays are not of one length")
        for frame in zip(*row.values()):
            yield {name: numpy().asarray(value) for name, value in zip(row, frame)}

    def _append(self, source: str, wanted: str, row: dict[str, Any], identity: Identity, about: str) -> None:
        current = self._open.get(source)
        if current and (current.wanted != wanted or not current.file.fits(row) or current.file.rows == self.rows):
            self._finish_file(source)
            current = None
        if current is None:
            current = self._begin(source, wanted, row)
        event = self._current.event if self._current else None
        now = event.emitted * 1_000_000 if event else time.time_ns()
        try:
            current.file.append(row, now, identity, about)
        except (OSError, RuntimeError):
            if current.file.broken:
                self._abandon(source)
            raise
        self._last = current.path

    # -- files ----------------------------------------------------------------------------------------------------

    def _begin(self, source: str, wanted: str, row: Mapping[str, Any]) -> _Open:
        """Make a file that can be followed, and then give it its name."""
        units = dict.fromkeys(row, self.units) if isinstance(self.units, str) else dict(self.units)
        records = [self._shm.describe(name) for name in self.records] if self._shm else []
        title = f"{self.event_name} of {source}"
        note = f"{_OPEN}{uuid.uuid4().hex}"
        with Draft(self.name_template.root or "/", wanted, None, f"{self.name} rows", again=True) as draft:
            file = SwmrFile(draft.path, row, {k: v for k, v in units.items() if v}, title, records, self._compression)
            try:
                if self._data:
                    file.note(self._data.read(fresh=True))
                current = _Open(file, wanted, self._named(draft, note, wanted), note)
            except BaseException:
                file.close()
                raise
        self._open[source] = current
        return current

    def _named(self, draft: Draft, note: str, wanted: str) -> str:
        """Give a file a name that nobody has; it is noted as long as the file is not finished."""
        for name in numbered(wanted):
            if draft.exists(name) or (self._ledger and not self._ledger.claim(None, note, name)):
                continue
            if draft.publish(name, noted=False):
                return name
            if self._ledger:
                self._ledger.release(note, name)
        raise AssertionError("there is always another number")

    def _finish_file(self, source: str) -> None:
        """Finish a source's file: it can be opened by anybody then."""
        current = self._open[source]
        if self._data:
            try:
                current.file.note(self._data.read(fresh=True))
            except ServerError as error:
                log.warning("archiver %s: %s ends without its records: %s", self.name, current.path, error)
        current.file.finish()
        del self._open[source]
        if self._ledger:
            self._ledger.release(current.note, current.path)

    def _end(self) -> None:
        for source in list(self._open):
            try:
                self._finish_file(source)
            except (OSError, RuntimeError, SharedDataError) as error:
                log.error("archiver %s: %s is not finished: %s: the next start does that", self.name, source, error)
        if self._data:
            self._data.close()

    def _abandon(self, source: str) -> None:
        """Leave a file that cannot be written: its complete rows stay, and are mended later."""
        current = self._open.pop(source)
        try:
            current.file.close()
        except (OSError, RuntimeError) as error:
            log.warning("archiver %s: %s is left unfinished: %s", self.name, current.path, error)
        self._mend(current.note, current.path)

    def _mend(self, note: str, path: str) -> None:
        """Make what was left unfinished a whole file, under its name; its rows are not to be written again."""
        try:
            self._kept |= identities(path)
            with Draft("/", path, None, f"{self.name} rows", again=True) as draft:
                mend(path, draft.path)
                draft.replace(path)
        except BlockingIOError:
            raise SharedDataError(
                f"archiver {self.name}: another process archives under this name, and is writing {path}: stop it, or "
                "give this one another name (`_id`)"
            ) from None
        except FileNotFoundError:
            pass  # it never got its name, or somebody took it away
        except (OSError, KeyError, RuntimeError) as error:
            log.error("archiver %s: %s was left unfinished: read it with swmr=True: %s", self.name, path, error)
            return
        if self._ledger:
            self._ledger.release(note, path)
