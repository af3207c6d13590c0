"""Tracks: what a record's history holds, written to the files of a recording.

It knows how the files are written, and gone on with after a crash; `recording` reads them. It must not know sockets,
servers or where entries come from. Invariants:

1. Rows are written whole, in the order of the history, each entry once; a row that a crash left unfinished is cut off
   before writing goes on.
2. Cells hold exactly the text that is in Redis (arrays in base64); nothing is decoded or rounded.
3. From the files alone follow each record's last entry and its ordinal in the history, so what was trimmed while
   nobody recorded is counted exactly.
4. An existing row is never changed, an existing file never overwritten.
"""

import fcntl
import json
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shareddata import cells
from shareddata.codec import encoder
from shareddata.datadesc import Field, Record
from shareddata.eras import Era, in_force
from shareddata.errors import SharedDataError
from shareddata.recording import DATE, FORMAT, check_format, content_of, milliseconds

SIZE = 64_000_000
"""Bytes after which a file is followed by the next one, unless it is said otherwise."""
SPAN = 86400.0
"""Seconds after which it is."""


class End(NamedTuple):
    """How far a record is recorded."""

    id: str
    ordinal: int | None
    """How many entries the history ever had up to it, None where that is not known."""


class _Row(NamedTuple):
    id: bytes
    values: Mapping[bytes, bytes]
    ordinal: int  # how many entries the history ever had before it
    record: Record  # how it was described when it was written


class Folder:
    """A folder that a recording is written to: held by one program at a time.

    Args:
        path: made if missing.
        namespace: of the records; one recording is of one namespace.

    Attributes:
        begun: where each record's recording began: what to go on from when it has no file yet.

    Raises:
        SharedDataError: another program writes there, or it is the recording of another namespace, or a file.
        OSError: it cannot be made or read.
    """

    def __init__(self, path: str | Path, namespace: str = "") -> None:
        self.path = Path(path)
        if self.path.is_file():
            raise SharedDataError(f"{self.path}: is a file: a recording is a folder: give another name")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.namespace = namespace
            content = content_of(self.path / "recording.json")
            check_format(content, self.path)
            if content.get("namespace", namespace) != namespace:
                raise SharedDataError(
                    f"{self.path}: holds records of the namespace {content['namespace']!r}, not of {namespace!r}: "
                    "take another folder"
                )
            self.begun = {name: End(*end) for name, end in content.get("begun", {}).items()}
        except BlockingIOError:
            self.close()
            raise SharedDataError(f"{self.path}: another program records there: take another folder") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others write there."""
        os.close(self._lock)

    def save(self) -> None:
        """Keep where records begun."""
        content = {"recording": FORMAT, "namespace": self.namespace, "begun": self.begun}
        _replace(self.path / "recording.json", content)


class Track:
    """One record's rows in a recording.

    Args:
        folder: the recording's.
        record: its description.
        size: bytes after which the next file is begun.
        span: seconds of the entries' time after which it is.

    Attributes:
        end: how far the record is recorded, by this or an earlier program; None when it has no row yet.
        first: the id of the first row that this object wrote, "" if none.
        written: how many rows it wrote.
        size: how many bytes those are.
        damaged: how many entries were left out, because they hold no time or sender.

    Opening it mends what a crash left: an unfinished row is cut off.
    """

    def __init__(self, folder: Folder, record: Record, size: int = SIZE, span: float = SPAN) -> None:
        self.record = record
        self._eras: Sequence[Era] = ()
        self._now = record
        self._folder = folder
        self._limits = size, span * 1000
        self._pending: deque[_Row] = deque()
        self._file: int = -1
        self._path = folder.path
        self._extra: list[bytes] = []
        self._prepare()
        self._bytes = self._rows = self._before = self._missed = 0
        self._began, self._began_at = "", 0
        self.first = ""
        self.written = self.size = self.damaged = 0
        self.end = self._mend()

    def describe(self, record: Record, eras: Sequence[Era] = ()) -> None:
        """Go on under another description, in another file.

        Args:
            record: for the rows that are added from now on.
            eras: but for those that were written when it was described otherwise.
        """
        self._now, self._eras = record, eras

    def add(self, entries: Iterable[tuple[bytes, Sequence[bytes]]], ordinal: int) -> None:
        """Take entries that `write` will write.

        Args:
            entries: id, and names and values one after the other.
            ordinal: how many entries the history ever had before the first of them.
        """
        for number, (identity, fields) in enumerate(entries, ordinal):
            values = dict(zip(fields[::2], fields[1::2]))
            if b"ts" in values and b"sender" in values:
                self._pending.append(_Row(identity, values, number, self._record_of(identity)))
            else:
                self.damaged += 1

    def _record_of(self, identity: bytes) -> Record:
        return in_force(self._eras, self._now, milliseconds(identity)) if self._eras else self._now

    def write(self) -> None:
        """Write what was added.

        Raises:
            OSError: it cannot be written now; what was not is still to be written, and the next call does.
        """
        while self._pending:
            first = self._pending[0]
            if first.record != self.record:
                self._finish()
                self.record = first.record
                self._prepare()
            if not self._known.issuperset(first.values):
                self._finish()
                self._extra += [name for name in first.values if name not in self._known]
                self._prepare()
            if self._file >= 0 and self._is_full(first):
                self._finish()
            if self._file < 0:
                self._begin(first)
            self._tell_missed(first.ordinal - self._before - self._rows)
            lines = self._lines()
            _write_whole(self._file, b"".join(lines), self._bytes)
            self._count(lines)

    def close(self) -> None:
        """Write to the disk what the system still holds, and close the file; what was added and not written is not."""
        self._finish()

    def _lines(self) -> list[bytes]:
        """Return the first rows, as many as belong into this file in one piece."""
        lines: list[bytes] = []
        room = self._limits[0] - self._bytes
        for row in self._pending:
            if lines and (
                room <= 0
                or row.ordinal != self._pending[0].ordinal + len(lines)
                or self._is_over(row)
                or row.record is not self._pending[0].record
                or not self._known.issuperset(row.values)
            ):
                break
            lines.append(self._line(row))
            room -= len(lines[-1])
        return lines

    def _count(self, lines: Sequence[bytes]) -> None:
        """Count rows that are on disk."""
        done = [self._pending.popleft() for _ in lines]
        size = sum(map(len, lines))
        self._bytes += size
        self._rows += len(lines)
        self.size += size
        self.written += len(lines)
        self.first = self.first or done[0].id.decode()
        self.end = End(done[-1].id.decode(), done[-1].ordinal + 1)

    def _prepare(self) -> None:
        """Prepare the columns: the described fields, and what else entries hold."""
        fields = self.record.fields
        self._columns = [*(f.name.encode() for f in fields), *self._extra]
        self._known = frozenset(self._columns)
        self._arrays = {f.name.encode(): f for f in fields if f.dtype}
        self._defaults = {f.name.encode(): _default_cell(f) for f in fields}

    def _line(self, row: _Row) -> bytes:
        line = [row.id]
        for name in self._columns:
            text = row.values.get(name)
            if text is None:
                line.append(self._defaults.get(name, b""))
            else:
                line.append(cells.recorded(self._arrays.get(name), text))
        return cells.row(line)

    def _is_full(self, row: _Row) -> bool:
        lost = row.ordinal < self._before + self._rows  # the server began its history anew
        return self._bytes >= self._limits[0] or self._is_over(row) or lost

    def _is_over(self, row: _Row) -> bool:
        return milliseconds(row.id) - self._began_at >= self._limits[1]

    def _begin(self, first: _Row) -> None:
        """Make the next file: the description first, so that no row is ever without one."""
        self._began, self._before, self._rows, self._missed = first.id.decode(), first.ordinal, 0, 0
        self._began_at = milliseconds(first.id)
        path, number = self._folder.path / f"{self.record.name}_{_time_text(self._began_at)}.csv", 1
        usual = path
        while path.exists() or path.with_suffix(".json").exists():
            number += 1
            path = usual.with_stem(f"{usual.stem}_{number}")
        self._path = path
        self._sidecar({})
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        head = cells.row([b"id", *self._columns])
        try:
            _write_whole(file, head, 0)
        except BaseException:
            os.close(file)
            path.unlink()
            path.with_suffix(".json").unlink()
            raise
        self._file, self._bytes = file, len(head)

    def _tell_missed(self, missed: int) -> None:
        """Note how many of the history's entries are missing between the file's rows, before more rows follow."""
        if missed != self._missed:
            self._sidecar({"missed": missed}, durable=False)  # a fast writer may make a gap fifty times a second
            self._missed = missed

    def _finish(self) -> None:
        """Close the file and say what is in it."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        try:
            os.fsync(file)
        finally:
            os.close(file)
        last = self.end.id if self.end else ""
        self._sidecar({"missed": self._missed, "last": last, "rows": self._rows})

    def _sidecar(self, more: Mapping[str, Any], durable: bool = True) -> None:
        content = {
            **{"recording": FORMAT, "record": self.record.name, "namespace": self._folder.namespace},
            **{"first": self._began, "before": self._before, "missed": 0},
            **more,
            "description": self.record.as_json(),
        }
        _replace(self._path.with_suffix(".json"), content, durable)

    def _mend(self) -> End | None:
        """Return how far the record is recorded, and mend the file that a crash left."""
        for path in reversed(_files_of(self._folder.path, self.record.name)):
            content = content_of(path.with_suffix(".json"))
            check_format(content, path)
            if "last" in content:
                return End(content["last"], content["before"] + content["missed"] + content["rows"])
            if count := _cut(path):
                rows, last = count
                before = content.get("before")
                return End(last, None if before is None else before + content["missed"] + rows)
            path.unlink()  # it has no row
            path.with_suffix(".json").unlink(missing_ok=True)
        return None


def _cut(path: Path) -> tuple[int, str] | None:
    """Cut off an unfinished row; return how many rows there are and the last one's id, None if there is none."""
    count, last, end = -1, "", 0
    with open(path, "rb") as file:
        for found, behind in cells.rows(file):
            count, last, end = count + 1, found[0].decode(), behind
    if count < 1:
        return None
    if end < path.stat().st_size:
        os.truncate(path, end)
    return count, last


def _default_cell(field: Field) -> bytes:
    """Return the cell of a field that an entry does not hold."""
    return cells.recorded(field, encoder(*field.kind)(cells.filled(field)))


def _write_whole(file: int, data: bytes, offset: int) -> None:
    """Append data to a file, all or nothing."""
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        os.ftruncate(file, offset)
        os.lseek(file, offset, os.SEEK_SET)
        raise


def _replace(path: Path, content: Mapping[str, Any], durable: bool = True) -> None:
    """Write a small JSON file, whole or not at all; unless it is `durable`, a power cut may leave nothing of it."""
    beside = path.with_name(f".{path.name}.new")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            file.flush()
            if durable:
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        try:
            beside.unlink(missing_ok=True)
        except OSError:
            pass  # the first error is the one to be told
        raise


def _files_of(folder: Path, name: str) -> list[Path]:
    """Return the files of a record, the oldest first."""
    ours = re.compile(rf"{re.escape(name)}_{DATE}\.\d{{3}}sZ(_\d+)?")
    return sorted((path for path in folder.glob(f"{name}_*.csv") if ours.fullmatch(path.stem)), key=_by_time)


def _by_time(path: Path) -> tuple[str, int]:
    head, _, number = path.stem.partition("sZ_")
    return head.removesuffix("sZ"), int(number or 0)


def _time_text(milliseconds: int) -> str:
    second = time.strftime("%Y-%m-%d_%Hh%Mm%S", time.gmtime(milliseconds // 1000))
    return f"{second}.{milliseconds % 1000:03d}sZ"
