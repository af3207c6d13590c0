"""HDF5 files in the terms of NeXus: groups of the classes NXentry, NXlog and NXdata, with units as attributes.

It knows how tables are laid out there, and what HDF5 can hold. It must not know sockets, servers or where the rows come
from; h5py is imported only when a file is made. Invariants:

1. A value reads back as it was given; what HDF5 cannot hold is refused, never rounded or cut.
2. Rows are appended as they come; nothing grows with their number but HDF5's own index.
3. Nothing is given to HDF5 that the disk has no room for, and nothing is in its hands between two writes: it may crash
   the process otherwise (`occupied`).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shareddata.codec import numpy
from shareddata.columns import Column, Draft, Table, check_integers, json_text, load
from shareddata.errors import FieldError
from shareddata.occupied import Reserve

_NO_TIME = -(2**63)  # HDF5 knows no null: what numpy takes for "not a time"
_CHUNK = 1 << 18  # bytes of a chunk, about
_EPOCH = "1970-01-01T00:00:00Z"
_SLACK = 1 << 17  # bytes beside the rows: HDF5's own
_HEADS = 1 << 13  # bytes of a column without rows: its group, dataset and attributes


class Hdf5File:
    """Tables in NeXus: `/entry/records/NAME/FIELD` is an NXlog of `time` and `value`, with its unit.

    The times of a record are one dataset, linked into each of its logs. `/entry/data`, the default, shows the first
    number that there is.
    """

    def __init__(self, path: Path, tables: Sequence[Table]) -> None:
        self._h5py = load("hdf5")
        self._draft = Draft(path)
        for table in tables:
            if table.name == ".":
                raise FieldError("HDF5 has no group of the name '.': export this record to another format")
        self._datasets: dict[str, list[Any]] = {}
        self._keep_free(sum(len(table.columns) for table in tables) * _HEADS)
        self._file = self._h5py.File(self._draft.draft, "w")
        try:
            self._file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": "shareddata"})
            self._entry = self._group(self._file, "entry", "NXentry")
            records = self._group(self._entry, "records", "NXcollection")
            for table in tables:
                self._add(records, table)
            self._file.flush()
        except BaseException:
            self.abort()
            raise

    def _keep_free(self, size: int) -> None:
        """Keep room free for what HDF5 gets next, twice: to write it, and to close the file if others took that.

        Raises:
            OSError: there is none.
        """
        self._reserve = Reserve(str(self._draft.path.parent), size + _SLACK)
        self._reserve.check(size + _SLACK)

    def _group(self, parent: Any, name: str, kind: str) -> Any:
        group = parent.create_group(name, track_order=True)
        group.attrs["NX_class"] = kind
        return group

    def _add(self, records: Any, table: Table) -> None:
        record = self._group(records, quote(table.name, safe=""), "NXcollection")
        record.attrs["name"] = table.name
        if table.doc:
            record.attrs["doc"] = table.doc
        record["_description"] = json.dumps(table.description, ensure_ascii=False)
        made = []
        for column in table.columns:
            if column.own:
                made.append(self._dataset(record, column.name, column))
                continue
            log = self._group(record, column.name, "NXlog")
            made.append(self._dataset(log, "value", column))
            if column.doc:
                log["description"] = column.doc
            if table.published is not None:
                log["time"] = made[table.published]
        self._datasets[table.name] = made
        self._set_default(table, made)

    def _dataset(self, parent: Any, name: str, column: Column) -> Any:
        kind, shape = self._kind(column)
        bytes_of_row = max(1, math.prod(shape)) * (16 if isinstance(kind, str) else 32)
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if isinstance(kind, str) else {}
        made = parent.create_dataset(
            name,
            shape=(0, *shape),
            maxshape=(None, *shape),
            dtype=kind,
            chunks=(max(1, min(4096, _CHUNK // bytes_of_row)), *shape),
            **packed,
        )
        if column.unit:
            made.attrs["units"] = column.unit
        if column.type == "time":
            made.attrs["start"] = _EPOCH
        if column.own and column.doc:
            made.attrs["long_name"] = column.doc
        return made

    def _kind(self, column: Column) -> tuple[Any, tuple[int, ...]]:
        if column.type in ("str", "json"):
            return self._h5py.string_dtype(), ()
        if column.type == "bytes":
            return ("|u1", column.shape) if column.shape else (self._h5py.vlen_dtype("u1"), ())
        return column.dtype, column.shape

    def _set_default(self, table: Table, made: Sequence[Any]) -> None:
        """Show a table's first number by default, where no other is shown yet."""
        numbers = [i for i, column in enumerate(table.columns) if _is_measured(column)]
        if "default" in self._entry.attrs or not numbers or table.published is None:
            return
        data = self._group(self._entry, "data", "NXdata")
        data["value"], data["time"] = made[numbers[0]], made[table.published]
        title = f"{table.name} {table.columns[numbers[0]].name}"
        data.attrs.update({"signal": "value", "axes": ["time"], "title": title})
        self._entry.attrs["default"] = "data"

    def write(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows."""
        datasets = self._datasets[table.name]
        columns = [self._values(table, column, values) for column, values in zip(table.columns, zip(*rows))]
        self._reserve.release()
        self._keep_free(sum(_room(dataset, values) for dataset, values in zip(datasets, columns)))
        for dataset, values in zip(datasets, columns):
            before = len(dataset)
            dataset.resize(before + len(rows), axis=0)
            dataset[before:] = values
        self._file.flush()

    def _values(self, table: Table, column: Column, values: Sequence[Any]) -> Any:
        np = numpy()
        if column.type == "time":
            values = [_NO_TIME if value is None else value for value in values]
        elif column.type == "bytes":
            single = [np.frombuffer(value, "|u1") for value in values]
            if column.shape:
                return np.stack(single)
            ragged = np.empty(len(single), dtype=object)
            ragged[:] = single
            return ragged
        elif column.type in ("str", "json"):
            texts = [json_text(value) for value in values] if column.type == "json" else values
            if any("\0" in text for text in texts):
                raise FieldError(
                    f"{table.name}, field {column.name!r}: a text with the character NUL, which HDF5 cannot hold: "
                    "export to another format"
                )
            return np.array(texts, dtype=object)
        check_integers(table, column, values, "HDF5")
        return np.array(values, dtype=column.dtype)

    def finish(self) -> None:
        """Close the file, and give it its name."""
        self._reserve.release()
        self._file.close()
        self._draft.publish()

    def abort(self) -> None:
        """Remove what was written."""
        self._draft.remove()
        self._reserve.release()
        self._file.close()


def _room(dataset: Any, values: Any) -> int:
    """Return how many bytes a dataset grows by at most, with the chunks that rows begin and end in."""
    size = int(dataset.dtype.itemsize)
    rows = int(values.nbytes)
    if values.dtype == object:  # texts, and bytes of any length: four bytes a character, 48 for each in HDF5's heap
        size, rows = 16, sum(4 * len(value) + 48 for value in values)
    return rows + 2 * size * int(math.prod(dataset.chunks))


def _is_measured(column: Column) -> bool:
    """Tell whether a column is a number that a plot would show."""
    return column.type in ("float", "int") and not column.own and column.name != "ts"
