"""Files that hold one table: CSV and Parquet.

It knows these two formats and what each can hold. It must not know sockets, servers or where the rows come from;
pyarrow is imported only when a Parquet file is made. Invariants:

1. A value reads back as it was given; what Parquet cannot hold is refused, never rounded or cut.
2. No text in a CSV file is a formula to a spreadsheet, unless that is asked for; what it was can be told.
3. Rows are written as they come; nothing grows with their number but Parquet's own index.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from shareddata.codec import numpy
from shareddata.columns import Column, Draft, Table, base64_text, check_integers, json_text, load, time_text


def _nested(value: Any) -> Any:
    """Return an array as lists; a complex number as a pair."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, complex):
        return [value.real, value.imag]
    return [_nested(item) for item in value] if isinstance(value, list) else value


_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # also as full-width characters


def defused(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula: with a quote before it, where it might.

    Whoever strips one quote from what begins with quotes and one of `= + - @`, tab or a line's end has the text again.

    >>> defused("=HYPERLINK(A1)"), defused("-5 dB"), defused("'=1"), defused("12 V")
    ("'=HYPERLINK(A1)", "'-5 dB", "''=1", '12 V')
    """
    return f"'{text}" if _FORMULA.match(text) else text


_TEXT: dict[str, Callable[[Any], str]] = {
    "time": time_text,
    "float": float.__repr__,
    "int": int.__repr__,
    "bool": lambda value: "true" if value else "false",
    "str": defused,
    "json": json_text,
    "array": lambda value: json_text(_nested(value)),
    "bytes": base64_text,
}


def sidecar(path: Path) -> Path:
    """Return the name of the description beside a CSV file; `NAME.json` may well be a data description."""
    return path.with_name(path.name + ".json")


class _Lines:
    """What csv.writer writes to: it quotes a bare CR only where lines end with CR LF, so they end with LF here."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.removesuffix("\r\n").encode() + b"\n")


class CsvFile:
    """A table as CSV in UTF-8, with its description in a `.csv.json` beside it.

    Args:
        path: the file.
        tables: the only one.
        exact: write texts as they are, also those that a spreadsheet takes for formulas.
    """

    def __init__(self, path: Path, tables: Sequence[Table], exact: bool = False) -> None:
        self._table = tables[0]
        self._draft, self._sidecar = Draft(path), Draft(sidecar(path))
        kinds = _TEXT | {"str": str} if exact else _TEXT
        self._texts = [kinds[column.type] for column in self._table.columns]
        self._file = open(self._draft.draft, "wb")  # noqa: SIM115  finish and abort close it
        self._writer = csv.writer(_Lines(self._file))
        self._writer.writerow([column.name for column in self._table.columns])

    def write(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows."""
        self._writer.writerows([text(value) for text, value in zip(self._texts, row)] for row in rows)

    def finish(self) -> None:
        """Give the file and its description their names."""
        self._file.close()
        content = json.dumps(self._table.description, indent=1, ensure_ascii=False) + "\n"
        self._sidecar.draft.write_text(content, encoding="utf-8")
        self._sidecar.publish()
        self._draft.publish()

    def abort(self) -> None:
        """Remove what was written."""
        self._draft.remove()
        self._sidecar.remove()
        self._file.close()


class ParquetFile:
    """A table as Parquet: units and descriptions in the metadata of the schema and its fields."""

    def __init__(self, path: Path, tables: Sequence[Table]) -> None:
        self._pa, self._table = load("parquet"), tables[0]
        self._draft = Draft(path)
        self._types = [self._type(column) for column in self._table.columns]
        fields = [
            self._pa.field(column.name, kind, metadata=_labels(column))
            for column, kind in zip(self._table.columns, self._types)
        ]
        description = json.dumps(self._table.description, ensure_ascii=False)
        self._schema = self._pa.schema(fields, metadata={"shareddata": description})
        self._writer = self._pa.parquet.ParquetWriter(self._draft.draft, self._schema)

    def _type(self, column: Column) -> Any:
        pa = self._pa
        if column.type == "time":
            return pa.timestamp("ns", "UTC")
        if column.type in ("str", "json"):
            return pa.string()
        if column.type == "bytes":
            return pa.binary(*column.shape)
        return pa.list_(self._number(column.dtype), _elements(column)) if column.shape else self._number(column.dtype)

    def _number(self, dtype: str) -> Any:
        kinds = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "float"}
        bits = 8 * int(dtype[2:]) // (2 if dtype[1] == "c" else 1)
        name = "bool_" if dtype[1] == "b" else f"{kinds[dtype[1]]}{bits}"
        return getattr(self._pa, name)()

    def write(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows as a row group."""
        columns = zip(table.columns, self._types, zip(*rows))
        arrays = [self._array(column, kind, values) for column, kind, values in columns]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def _array(self, column: Column, kind: Any, values: Sequence[Any]) -> Any:
        if column.type == "array":
            flat = numpy().stack(values).reshape(-1)
            return self._pa.FixedSizeListArray.from_arrays(
                self._pa.array(flat.view(flat.real.dtype), kind.value_type), type=kind
            )
        if column.type == "json":
            values = [json_text(value) for value in values]
        if column.dtype == "<f2":
            values = numpy().array(values, "<f2")
        check_integers(self._table, column, values, "Parquet")
        return self._pa.array(values, kind)

    def finish(self) -> None:
        """Write the file's end, and give it its name."""
        self._writer.close()
        self._draft.publish()

    def abort(self) -> None:
        """Remove what was written."""
        self._draft.remove()
        self._writer.close()


def _elements(column: Column) -> int:
    return math.prod(column.shape) * (2 if column.dtype[1] == "c" else 1)


def _labels(column: Column) -> dict[str, str]:
    """Return what a column's metadata say, as texts."""
    labels = {"unit": column.unit, "doc": column.doc, "type": column.type}
    if column.type == "array":
        labels |= {"dtype": column.dtype, "shape": json.dumps(column.shape)}
    return {name: text for name, text in labels.items() if text}
