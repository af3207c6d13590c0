"""HDF5 files that grow, in the terms of NeXus, and are followed meanwhile by SWMR.

It knows the layout, in which order things are written, and what is left of a file whose writer was killed. It must not
know sockets, events or archivers; h5py is imported only when a file is made. Invariants:

1. A row's key is written after the row is: whoever sees the key, by SWMR too, sees the row.
2. `append` returns when the row is on disk.
3. What a killed writer left is mended to a file that anybody can open, with all rows that have a key; what a living one
   writes is not.

    /entry (NXentry)             title, start_time, end_time; its attribute `default` is data
    /entry/data (NXdata)         the arrays, one row an event, their units; `time` in ns since 1970
    /entry/keys                  `frame`: 1, 2, 3 ... of complete rows
    /entry/events (NXcollection) `id` (milliseconds, number, part), `metadata` (JSON texts, one after the other), and
                                 where each `metadata_end`s
    /entry/records (NXcollection) of each record an NXlog for each field of numbers, at the start and at the end;
                                 `trames` (JSON lines): all fields
    /entry/finished              1 when nothing more will be written
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from shareddata.codec import numpy
from shareddata.columns import load
from shareddata.datadesc import Record
from shareddata.nexusparts import EPOCH, TEXT, Records, extend, group_of, growing, now, put
from shareddata.occupied import Reserve, check_left, hold

_SLACK = 1 << 17  # bytes beside a row: the other datasets' chunks, and HDF5's own

DATA, KEYS, FINISHED = "/entry/data", "/entry/keys", "/entry/finished"
Identity = tuple[int, int, int]


class SwmrFile:
    """A file that grows.

    Args:
        path: made; what is there is written over.
        sample: the first row: an array, or a number, for each name.
        units: of the arrays.
        title: what it is.
        records: descriptions of records that are noted at the start and at the end.
        compression: a filter of h5py, such as `gzip`; None for none.

    Raises:
        ModuleNotFoundError: h5py is not installed; the message holds the remedy.
        FieldError: an array that HDF5 cannot hold.
        OSError: it cannot be written.

    Attributes:
        rows: how many rows it has.
        broken: whether a row could not be written whole.
    """

    def __init__(
        self,
        path: str,
        sample: Mapping[str, Any],
        units: Mapping[str, str],
        title: str,
        records: Sequence[Record] = (),
        compression: str | None = None,
    ) -> None:
        h5py = load("hdf5")
        self._compression = compression
        self._records = Records(records)
        self.broken = False
        self.rows = 0
        self._text = 0
        self._need = sum(value.nbytes for value in sample.values()) + _SLACK
        self._reserve = Reserve(os.path.dirname(path), self._need)
        self._file = h5py.File(path, "w", libver="latest")
        try:
            self._make(sample, units, title)
            self._datasets = {name: self._file[f"{DATA}/{name}"] for name in (*sample, "time")}
            self._key = self._file[f"{KEYS}/frame"]
            self._file.swmr_mode = True
            self._lock = hold(path)
        except BaseException:
            self._reserve.release()
            self._file.close()
            raise

    def _make(self, sample: Mapping[str, Any], units: Mapping[str, str], title: str) -> None:
        self._file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": "shareddata"})
        entry = group_of(self._file, "entry", "NXentry")
        entry.attrs["default"] = "data"
        entry["title"], entry["start_time"] = title, now()
        entry.create_dataset("end_time", data=b"", dtype="S32")  # texts of any length cannot be written by SWMR
        entry.create_dataset("finished", data=0)
        data = group_of(entry, "data", "NXdata")
        for name, value in sample.items():
            made = self._growing(data, name, value.shape, value.dtype)
            if name in units:
                made.attrs["units"] = units[name]
        time = self._growing(data, "time", (), "<i8")
        time.attrs.update({"units": "ns", "start": EPOCH})
        rank = next(iter(sample.values())).ndim
        data.attrs.update({"signal": next(iter(sample)), "axes": ["time", *["."] * rank], "title": title})
        self._growing(group_of(entry, "keys", "NXcollection"), "frame", (1,) * rank, "<i8")
        events = group_of(entry, "events", "NXcollection")
        self._growing(events, "id", (3,), "<u8")
        self._growing(events, "metadata", (), "|u1", TEXT).attrs["content"] = "JSON, UTF-8, one after the other"
        self._growing(events, "metadata_end", (), "<u8")
        self._records.make(entry)

    def _growing(self, group: Any, name: str, shape: Sequence[int], dtype: Any, rows: int = 0) -> Any:
        return growing(group, name, shape, dtype, rows, self._compression)

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row has the names, shapes and types of the first one."""
        mine = {name: (made.shape[1:], made.dtype) for name, made in self._datasets.items() if name != "time"}
        return mine == {name: (value.shape, value.dtype) for name, value in row.items()}

    def append(self, row: Mapping[str, Any], time: int, identity: Identity, metadata: str) -> None:
        """Append a row; when this returns it is on disk, and followers may see it.

        Args:
            row: the arrays.
            time: nanoseconds since 1970.
            identity: milliseconds and number of the event, and which part of it this is.
            metadata: the event's, as JSON.

        Raises:
            OSError, RuntimeError: it cannot be written. With `broken` the file is of no more use: close it; see `mend`.
        """
        self._reserve.check(self._need + len(metadata.encode()))
        self.broken = True
        number = self.rows
        for name, value in (*row.items(), ("time", time)):
            put(self._datasets[name], number, value)
        events = self._file["/entry/events"]
        text = numpy().frombuffer(metadata.encode(), "u1")
        self._text = extend(events["metadata"], self._text, text)
        put(events["id"], number, identity)
        put(events["metadata_end"], number, self._text)
        self._file.flush()
        put(self._key, number, number + 1)
        self._key.flush()
        self._sync()
        self.rows, self.broken = number + 1, False

    def note(self, trames: Sequence[Any]) -> None:
        """Note the records' trames: see `Records.note`."""
        self._records.note(trames)
        self._file.flush()

    def finish(self) -> None:
        """Say that nothing more will be written, and close the file: then anybody may open it."""
        self._file["/entry/end_time"][()] = now().encode()
        self._file[FINISHED][()] = 1
        self._file.flush()
        self._sync()
        self.close()

    def close(self) -> None:
        """Close the file as it is."""
        self._reserve.release()  # so that there is room for what HDF5 writes at its end
        try:
            self._file.close()
        finally:
            os.close(self._lock)

    def _sync(self) -> None:
        os.fsync(self._file.id.get_vfd_handle())


def identities(path: str) -> set[Identity]:
    """Return which events the complete rows of a file are from, whether it was finished or not.

    Raises:
        OSError, KeyError: it cannot be read, or is no such file.
    """
    with load("hdf5").File(path, "r", swmr=True) as file:
        rows = len(file[f"{KEYS}/frame"])
        return {(int(row[0]), int(row[1]), int(row[2])) for row in file["/entry/events/id"][:rows]}


def mend(path: str, draft: str) -> None:
    """Make a whole file of one that its writer left unfinished: anybody can open it then.

    Args:
        path: what was left; not changed.
        draft: the whole file.

    Raises:
        BlockingIOError: its writer lives.
        OSError, KeyError: it cannot be read, or the draft not be written.
    """
    h5py = load("hdf5")
    check_left(path)
    with h5py.File(path, "r", swmr=True) as left, h5py.File(draft, "w", libver="latest") as whole:
        whole.attrs.update(left.attrs)
        left.copy("entry", whole)
        rows = len(whole[f"{KEYS}/frame"])
        for dataset in (*whole[DATA].values(), whole["/entry/events/id"], whole["/entry/events/metadata_end"]):
            dataset.resize(rows, axis=0)
        ends = whole["/entry/events/metadata_end"]
        whole["/entry/events/metadata"].resize(int(ends[-1]) if rows else 0, axis=0)
        if not whole["/entry/end_time"][()]:
            whole["/entry/end_time"][()] = now().encode()
        whole[FINISHED][()] = 1
        whole.flush()
        os.fsync(whole.id.get_vfd_handle())


def metadata_of(file: Any) -> list[dict[str, Any]]:
    """Return the metadata of each event of an open file."""
    events = file["/entry/events"]
    text, ends = events["metadata"][:].tobytes(), [0, *events["metadata_end"][:].tolist()]
    return [json.loads(text[start:end]) for start, end in zip(ends, ends[1:])]
