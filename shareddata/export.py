"""Export: rows into files for other programs.

It knows which file is written in which format, and how far it is. It must not know where rows come from (`rowsources`),
what a file of a format looks like, or terminals. Invariants:

1. Memory is bounded: rows are written in batches, however many there are.
2. The files have their names only when they are whole; nothing is replaced unless that is asked for.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shareddata.columns import Draft, Table, TableFile, load
from shareddata.errors import FieldError
from shareddata.mcapfile import McapFile
from shareddata.nexus import Hdf5File
from shareddata.rowsources import Source
from shareddata.tablefiles import CsvFile, ParquetFile, sidecar

EXTENSIONS = {
    **{".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".mcap": "mcap"},
    **{".h5": "hdf5", ".hdf5": "hdf5", ".nxs": "hdf5"},
}
"""The format that a file's extension means."""

FORMATS = ("csv", "parquet", "hdf5", "mcap")

_BATCH = 10_000  # rows of a table that are written at once
_BATCH_BYTES = 8_000_000  # or about so many bytes
_FILES: dict[str, Callable[[Path, Sequence[Table]], TableFile]] = {
    "parquet": ParquetFile,
    "hdf5": Hdf5File,
    "mcap": McapFile,
}


def files_of(target: Path, form: str, tables: Sequence[Table]) -> dict[str, Path]:
    """Return the file that each table goes to, by the table's name.

    Raises:
        FieldError: several tables, and a file that can hold one.
    """
    named = target.suffix.lower() in EXTENSIONS
    if form in ("hdf5", "mcap"):
        return dict.fromkeys((table.name for table in tables), target)
    if named and len(tables) == 1:
        return {tables[0].name: target}
    if named:
        raise FieldError(
            f"{target}: {form} holds one table, and there are {len(tables)} ({', '.join(t.name for t in tables[:4])}"
            f"{', ...' if len(tables) > 4 else ''}): give a folder and --format {form}"
        )
    return {table.name: target / f"{quote(table.name, safe='')}.{form}" for table in tables}


class Files:
    """The files of one export, each table's rows going to its own.

    Args:
        target: the file; for several tables in a format of one table a file, or without an extension, the folder.
        form: one of the values of `EXTENSIONS`.
        tables: what they will hold.
        force: replace files that are there.
        exact: write texts into CSV as they are, also those that a spreadsheet takes for formulas.

    Raises:
        ModuleNotFoundError: the format's package is not installed; the message holds the remedy.
        FieldError: the format cannot hold such a table.
        FileExistsError: a file is there.

    Attributes:
        paths: the file that each table goes to, by the table's name.
    """

    def __init__(
        self, target: Path, form: str, tables: Sequence[Table], force: bool = False, exact: bool = False
    ) -> None:
        self.paths = paths = files_of(target, form, tables)
        if not force:
            _check_absent(paths.values(), form)
        self._files: dict[str, TableFile] = {}
        try:
            for path in dict.fromkeys(paths.values()):
                path.parent.mkdir(parents=True, exist_ok=True)
                mine = [table for table in tables if paths[table.name] == path]
                made = CsvFile(path, mine, exact) if form == "csv" else _FILES[form](path, mine)
                self._files |= dict.fromkeys((table.name for table in mine), made)
        except BaseException:
            self.abort()
            raise

    def write(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows of a table."""
        self._files[table.name].write(table, rows)

    def finish(self) -> None:
        """Give all files their names."""
        try:
            for each in dict.fromkeys(self._files.values()):
                each.finish()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove what is not finished; what a full disk says once more is not raised."""
        for each in dict.fromkeys(self._files.values()):
            with suppress(OSError):
                each.abort()
        for path in self.paths.values():
            Draft(path).remove()  # of one that could not even be begun


def _check_absent(paths: Iterable[Path], form: str) -> None:
    for path in paths:
        for each in (path, sidecar(path)) if form == "csv" else (path,):
            if each.exists():
                raise FileExistsError(f"{each} is there already: give another name, or --force to replace it")


@dataclass
class Exported:
    """What was exported of a record or a log.

    Attributes:
        name: its name.
        file: the file that it is in.
        rows: how many rows that are.
        first: when the first one was received (`_time` where that is not known), in nanoseconds since 1970, or None.
        last: the same of the last one.
    """

    name: str
    file: Path
    rows: int = 0
    first: int | None = None
    last: int | None = None


def format_of(target: Path, form: str | None = None) -> str:
    """Return the format that a file is to have: what was asked for, else what its extension says.

    Raises:
        FieldError: neither tells.
    """
    found = form or EXTENSIONS.get(target.suffix.lower())
    if found is None:
        raise FieldError(
            f"{target}: its extension tells no format: end it with {', '.join(EXTENSIONS)}, or give --format"
        )
    if found != "csv":
        load(found)  # before anything is read
    return found


def export(
    source: Source,
    target: str | Path,
    form: str | None = None,
    *,
    force: bool = False,
    exact: bool = False,
    progress: Callable[[float, int], object] | None = None,
) -> list[Exported]:
    """Write all rows of a source to a file, or to a file for each table in a folder.

    Args:
        source: a `HistorySource`, `LogSource` or `RecordingSource`.
        target: the file, or the folder.
        form: `csv`, `parquet`, `hdf5` or `mcap`; by the file's extension if None.
        force: replace what is there.
        exact: write texts into CSV as they are. Else those that a spreadsheet takes for formulas get a quote (`'`)
            before them.
        progress: called with the part that is done (0 to 1) and the number of rows, with each batch at least.

    Returns:
        What was written, for each table.

    Raises:
        FieldError: the format cannot hold a value; it names the field, and no file is left behind.
        FileExistsError: the file is there.
        ModuleNotFoundError: the format's package is not installed.

    Redis: as the source's.
    """
    form = format_of(Path(target), form)
    tables = source.tables
    files = Files(Path(target), form, tables, force, exact)
    done = [Exported(table.name, files.paths[table.name]) for table in tables]
    try:
        _copy(source, files, done, progress or (lambda part, rows: None))
        files.finish()
    except BaseException:
        files.abort()
        raise
    return done


def _copy(source: Source, files: Files, done: Sequence[Exported], progress: Callable[[float, int], object]) -> None:
    tables = source.tables
    batches: list[list[tuple[Any, ...]]] = [[] for _ in tables]
    sizes = [0] * len(tables)
    total, span = 0, source.end - source.begin
    for row in source.rows():
        index, batch = row.table, batches[row.table]
        batch.append(row.values)
        sizes[index] += row.size
        total += 1
        if len(batch) >= _BATCH or sizes[index] >= _BATCH_BYTES:
            _flush(tables[index], files, batch, done[index])
            sizes[index] = 0
        if total % 1000 == 0:
            progress(min(1.0, max(0.0, (row.place - source.begin) / span)) if span > 0 else 0.0, total)
    for table, batch, each in zip(tables, batches, done):
        _flush(table, files, batch, each)
    progress(1.0, total)


def _flush(table: Table, files: Files, batch: list[tuple[Any, ...]], done: Exported) -> None:
    if not batch:
        return
    files.write(table, batch)
    done.rows += len(batch)
    at = table.published if table.received is None else table.received
    if at is not None:
        done.first = done.first if done.first is not None else batch[0][at]
        done.last = batch[-1][at]
    batch.clear()
