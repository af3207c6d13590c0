"""Parts of NeXus files that grow: groups of a class, datasets of rows, trames of records as NXlogs.

It knows how these are laid out. It must not know which file they are in, sockets or servers; h5py is not imported here.
Invariants:

1. What is made can be written by SWMR: rows of a fixed size; texts are bytes, one after the other.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shareddata.codec import numpy
from shareddata.columns import column_of, json_text, listed, nanoseconds
from shareddata.datadesc import Record
from shareddata.errors import FieldError

EPOCH = "1970-01-01T00:00:00Z"
"""What times are counted from, in nanoseconds."""
TEXT = 1 << 14
"""Bytes of a chunk of texts."""

_CHUNK = 1 << 16  # bytes of a chunk of small rows, about
_ROWS = 512  # of a chunk, at most


def group_of(parent: Any, name: str, kind: str) -> Any:
    """Make a group of a class of NeXus."""
    group = parent.create_group(name, track_order=True)
    group.attrs["NX_class"] = kind
    return group


def growing(
    group: Any, name: str, shape: Sequence[int], dtype: Any, rows: int = 0, compression: str | None = None
) -> Any:
    """Make a dataset whose first dimension grows.

    Raises:
        FieldError: HDF5 has no such arrays.
    """
    try:
        size = max(1, math.prod(shape) * numpy().dtype(dtype).itemsize)
        return group.create_dataset(
            name,
            shape=(0, *shape),
            maxshape=(None, *shape),
            dtype=dtype,
            chunks=(rows or max(1, min(_ROWS, _CHUNK // size)), *(max(1, extent) for extent in shape)),
            compression=compression if size > 64 else None,
        )
    except (TypeError, ValueError) as error:
        raise FieldError(f"{name!r}: HDF5 cannot hold {dtype} of shape {tuple(shape)}: {error}") from None


def put(dataset: Any, row: int, value: Any) -> None:
    """Write a row, the next one or one that is there."""
    dataset.resize(row + 1, axis=0)
    dataset[row] = value


def extend(dataset: Any, before: int, text: Any) -> int:
    """Append bytes behind those that are known to be whole; return where they end."""
    dataset.resize(before + len(text), axis=0)
    dataset[before:] = text
    return before + len(text)


def now() -> str:
    """Return the time as NeXus writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Records:
    """Trames of records in a file: noted at its start and its end.

    Args:
        records: their descriptions.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._group: Any = None

    def make(self, entry: Any) -> None:
        """Make what they are noted in: before SWMR begins."""
        self._group = group_of(entry, "records", "NXcollection")
        lines = growing(self._group, "trames", (), "|u1", TEXT)
        lines.attrs["content"] = "a line of JSON, UTF-8, for each record at the start and at the end"
        for record in self._records:
            group = group_of(self._group, record.name, "NXcollection")
            growing(group, "_time", (), "<i8").attrs.update({"units": "ns", "start": EPOCH})
            for column in map(column_of, record.fields):
                if column.dtype:
                    log = group_of(group, column.name, "NXlog")
                    value = growing(log, "value", column.shape, column.dtype)
                    log["time"] = group["_time"]
                    if column.unit:
                        value.attrs["units"] = column.unit

    def open(self, entry: Any) -> None:
        """Go on with what an earlier process has made."""
        self._group = entry["records"]

    def note(self, trames: Sequence[Any]) -> None:
        """Note trames, None for a record that was never written; in the order of the descriptions."""
        lines = []
        for record, trame in zip(self._records, trames):
            values = None if trame is None else trame._asdict()
            lines.append(json_text({record.name: listed(values)}) + "\n")
            if values is not None:
                group = self._group[record.name]
                put(group["_time"], len(group["_time"]), nanoseconds(trame.ts) or 0)
                for column in map(column_of, record.fields):
                    if column.dtype:
                        log = group[column.name]["value"]
                        put(log, len(log), values[column.name])
        dataset = self._group["trames"]
        extend(dataset, len(dataset), numpy().frombuffer("".join(lines).encode(), "u1"))
