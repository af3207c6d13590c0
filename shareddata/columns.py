"""Tables on their way into files: columns, times, and files that have their name only when they are whole.

It knows types, units and what is common to all formats of files. It must not know any one of these formats, sockets, or
where the rows come from. Invariants:

1. Times are whole nanoseconds since 1970, UTC, None where there is none.
2. A file that was begun and not finished is removed; what was there under its name stays until then.

Columns whose names begin with an underscore are the export's own (`_time`, `_received`, `_seqn`): a field's never does.
"""

import base64
import importlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from shareddata.codec import encode_any
from shareddata.datadesc import Field
from shareddata.errors import FieldError
from shareddata.extras import needed

_DTYPES = {"float": "<f8", "int": "<i8", "bool": "|b1", "time": "<i8"}
_MODULES = {"parquet": "pyarrow.parquet", "hdf5": "h5py", "mcap": "mcap.writer"}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its name.
        type: `time`, `float`, `int`, `bool`, `str`, `json` (any JSON value), `array` or `bytes`.
        unit: the unit of the values.
        doc: what they mean.
        dtype: of numbers, bools and arrays, as numpy writes it.
        shape: of arrays; of bytes of a fixed number that number.
    """

    name: str
    type: str
    unit: str = ""
    doc: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()

    @property
    def own(self) -> bool:
        """Whether it is the export's own, no field."""
        return self.name.startswith("_")


@dataclass(frozen=True)
class Table:
    """What a record's or a log's rows are.

    Attributes:
        name: the record's or the log's.
        columns: the columns, those of times first.
        description: what goes into a file's metadata, as JSON.
        doc: what it is.
        published: the position of the column that tells when a row was measured, None for none.
        received: the position of the column that tells when the server got it; `published` when there is none.
    """

    name: str
    columns: tuple[Column, ...]
    description: Mapping[str, Any] = field(default_factory=dict)
    doc: str = ""
    published: int | None = None
    received: int | None = None


class TableFile(Protocol):
    """A file that takes rows; whole and under its name after `finish`, gone after `abort`."""

    def write(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows of a table: a value for each column."""

    def finish(self) -> None:
        """Write what is left, and give the file its name."""

    def abort(self) -> None:
        """Remove what was written."""


def column_of(described: Field) -> Column:
    """Return the column of a record's field."""
    kind = "json" if described.type in ("list", "object", "any") else described.type
    dtype = described.dtype or _DTYPES.get(kind, "")
    return Column(described.name, kind, described.unit, described.doc, dtype, described.shape)


def time_column(name: str, doc: str) -> Column:
    """Return a column of nanoseconds since 1970."""
    return Column(name, "time", "ns", doc, "<i8")


def nanoseconds(seconds: float) -> int | None:
    """Return a time in nanoseconds, rounded to the nearest; None for what 64 bits cannot hold, and for NaN.

    >>> nanoseconds(1784540000.1)
    1784540000099999905
    """
    if not abs(seconds) < 9.2e9:
        return None
    number, divisor = seconds.as_integer_ratio()
    return int((2 * number * 10**9 + divisor) // (2 * divisor))


class Draft:
    """A file under a temporary name beside its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.draft = path.with_name(f".{path.name}.{os.getpid()}.part")

    def publish(self) -> None:
        """Put the file on disk, then give it its name."""
        with open(self.draft, "rb") as whole:
            os.fsync(whole.fileno())
        os.replace(self.draft, self.path)

    def remove(self) -> None:
        """Remove it, if it is there."""
        self.draft.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, which is replaced if it is there, or leave it as it was.

    Raises:
        OSError: it cannot be written.
    """
    draft = Draft(path)
    try:
        draft.draft.write_bytes(content)
        draft.publish()
    except BaseException as error:
        draft.remove()
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None  # not the draft's name
        raise


def time_text(nanos: int | None) -> str:
    """Return a time as ISO 8601 with nine digits behind the point, "" for none."""
    if nanos is None:
        return ""
    seconds, rest = divmod(nanos, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def json_text(value: Any) -> str:
    """Return any JSON value as text, with `NaN` and `Infinity` for what JSON has no word for."""
    return encode_any(value).decode()


def listed(value: Any) -> Any:
    """Return a value with its arrays as lists, for JSON."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [listed(item) for item in value]
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value


def base64_text(value: bytes) -> str:
    """Return bytes as text."""
    return base64.b64encode(value).decode()


def check_integers(table: Table, column: Column, values: Sequence[Any], what: str) -> None:
    """Refuse integers of more than 64 bits: a record's int may have any size."""
    if column.type == "int" and values:
        low, high = (0, 2**64) if column.dtype[1] == "u" else (-(2**63), 2**63)
        for value in (min(values), max(values)):
            if not low <= value < high:
                raise FieldError(
                    f"{table.name}, field {column.name!r}: {value} has more than 64 bits, which {what} cannot hold: "
                    "export to CSV or MCAP"
                )


def load(form: str) -> Any:
    """Return the package that writes a format.

    Args:
        form: `parquet`, `hdf5` or `mcap`.

    Raises:
        ModuleNotFoundError: it is not installed; the message holds the remedy.
    """
    needed(_MODULES[form], f"{form} files need", form)
    return importlib.import_module(_MODULES[form].partition(".")[0])  # the package, with the module that writes
