"""Recordings: folders of CSV files that hold what records' histories held, and CSV logs read in the same way.

It knows the files of a recording and of CSV logs, and reads them; `track` writes them. It must not know sockets,
servers or who asks. Invariants:

1. Only whole rows are read, so a recording may be read while it is written, and after a crash.
2. Entries come in the order of time; those of one record in the order in which they were written.
3. A row that does not fit its description is a DecodeError that names file, row and field; none is left out silently.

A record's files are `NAME_2026-07-20_12h00m00.123sZ.csv`, named after the first row's time; `.json` beside each
describes the record.
"""

import bisect
import heapq
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shareddata import cells
from shareddata.datadesc import Record, check_compatible, parse_record
from shareddata.errors import DecodeError, DescriptionError, SharedDataError
from shareddata.moment import Moment

FORMAT = 1
"""The version of the files."""
DATE = r"\d{4}-\d\d-\d\d_\d\dh\d\dm\d\d"
"""The time in a file's name, up to its seconds."""

_NO_SUCH_VALUE = (TypeError, ValueError, KeyError, ArithmeticError, AttributeError)
_OF_LOG = re.compile(rf"{DATE}sZ_(?P<rest>.+)")
_OF_RECORDING = re.compile(rf"(?P<name>.+)_{DATE}\.\d{{3}}sZ(_\d+)?")
_TAIL = 1_000_000  # bytes at the end of a file in which its last row is looked for first


class Entry(NamedTuple):
    """A record's value at a time."""

    time: float
    """Seconds since 1970: when the server received it; in CSV logs when it was measured."""
    record: Record
    id: str
    """The history's id; "" in CSV logs."""
    trame: Any


class _File:
    """One CSV file: a recording's, or a log.

    Attributes:
        log: whether it is a CSV log: without ids, its cells as Python's csv writes them.
        own: the description that belongs to the file, None when there is none.
        header: the columns' names.
        first: the first row's time; infinite when it has no row.
    """

    def __init__(self, path: Path, name: str = "", known: Mapping[str, Record] | None = None) -> None:
        self.path = path
        content = content_of(
            path.with_name(path.name + ".json") if path.suffix == ".json" else path.with_suffix(".json")
        )
        check_format(content, path)
        last = _text(content, "last").encode()
        self.last: float | None = self._time(last, log=False) if last else None
        with open(path, "rb") as file:
            reader = cells.rows(file)
            header, self._start = next(reader, ([], 0))
            row, _ = next(reader, ([], 0))
        names = [cell.decode(errors="replace").lstrip("\ufeff") for cell in header]
        self.log = names[:1] != ["id"]
        self.header = names if self.log else names[1:]
        if header and self.header[:2] != ["ts", "sender"]:
            raise SharedDataError(
                f"{path}: the columns are {', '.join(names[:4])} ..., expected ts, sender, ...: no log of a record"
            )
        self.first = self._time(row[0]) if row else float("inf")
        description = content.get("description")
        self.name = name or _text(content, "record") or self._name_from(path.stem, row, known or {})
        self.own = parse_record(self.name, description) if description else None

    def guessed(self) -> Record:
        """Return a description guessed of all rows."""
        with open(self.path, "rb") as file:
            file.seek(self._start)
            defaults = cells.guess(len(self.header) + (not self.log), (found for found, _ in cells.rows(file)))
        fields = [[name, default] for name, default in zip(self.header[2:], defaults[2 + (not self.log) :])]
        try:
            return parse_record(self.name, [["ts", 0.0], ["sender", ""], *fields])
        except DescriptionError as error:
            raise DescriptionError(f"{self.path}: {error}: describe it in {self.path.stem}.json beside it") from None

    def entries(self, record: Record) -> Iterator[Entry]:
        """Yield the rows under a description; fields that have no column have their default."""
        as_value = cells.as_logged if self.log else cells.as_recorded
        columns = {column: i + (not self.log) for i, column in enumerate(self.header)}
        converters = [(columns.get(f.name), as_value(f), f) for f in record.fields]
        defaults = {f.name: cells.filled(f) for f in record.fields if f.name not in columns}
        width = len(self.header) + (not self.log)
        with open(self.path, "rb") as file:
            file.seek(self._start)
            for number, (found, _) in enumerate(cells.rows(file), 1):
                try:
                    if len(found) != width:
                        raise ValueError(f"it has {len(found)} cells, expected {width}")
                    values = [defaults[f.name] if i is None else convert(found[i]) for i, convert, f in converters]
                    when = _seconds(found[0]) if not self.log else values[0]
                    identity = "" if self.log else found[0].decode()
                except _NO_SUCH_VALUE as error:
                    raise DecodeError(f"{self.path}, row {number}: {self._damage(converters, found, error)}") from None
                yield Entry(when, record, identity, record.trame._make(values))

    def _damage(self, converters: Sequence[Any], found: Sequence[bytes], error: Exception) -> str:
        for i, convert, field in converters if len(found) == len(self.header) + (not self.log) else ():
            try:
                if i is not None:
                    convert(found[i])
            except _NO_SUCH_VALUE:
                return f"field {field.name!r}: found {str(found[i])[1:60]}, expected {field.type_text()}"
        return str(error)

    def end(self) -> float:
        """Return the last row's time; before all times when it has no row."""
        if self.last is None:
            self.last = self._last_time(self._start + max(0, self.path.stat().st_size - self._start - _TAIL))
        return self.last

    def _last_time(self, offset: int) -> float:
        """Return the time of the last row that begins behind an offset; the whole file is read if there is none."""
        last = b""
        with open(self.path, "rb") as file:
            file.seek(offset)
            if offset > self._start:
                file.readline()
            for found, _ in cells.rows(file):
                last = found[0]
        try:
            return self._time(last) if last else -float("inf")
        except SharedDataError:
            if offset == self._start:
                raise
            return self._last_time(self._start)  # the offset was within a cell of several lines

    def _time(self, cell: bytes, log: bool | None = None) -> float:
        try:
            return float(cell) if (self.log if log is None else log) else _seconds(cell)
        except (ValueError, OverflowError):
            raise SharedDataError(f"{self.path}: found {cell[:40]!r} where a row's time is expected") from None

    def _name_from(self, stem: str, row: Sequence[bytes], known: Mapping[str, Record]) -> str:
        """Return the record's name that a log's file name tells: `<time>_<sender>_<name>`, perhaps with a number.

        Both may hold underscores: the rows tell the sender, else the records that are known, else `__` in the name.
        """
        if not self.log and (ours := _OF_RECORDING.fullmatch(stem)):
            return ours["name"]
        found = _OF_LOG.fullmatch(stem)
        rest = found["rest"] if found else stem
        for text in (rest, re.sub(r"_\d+$", "", rest)):
            if ends := [name for name in known if text == name or text.endswith("_" + name)]:
                return max(ends, key=len)
        rest = re.sub(r"_\d+$", "", rest)
        sender = re.sub(r"[^A-Za-z0-9_.-]", "_", row[1].decode(errors="replace")) if len(row) > 1 else ""
        if sender and rest.startswith(sender + "_") and len(rest) > len(sender) + 1:
            return rest[len(sender) + 1 :]
        double = re.search(r"[A-Za-z0-9.-]+__.+$", rest)
        return double[0] if double else rest


class Recording:
    r"""What recordings and CSV logs hold, all merged by time.

    Args:
        *sources: folders, CSV files, or `NAME=FILE` for a file that does not tell its record's name.
        known: descriptions of records, for logs without one beside them; else types are guessed of all cells.

    Attributes:
        records: the description of each record; the newest where it changed.
        first, last: the times of the first and the last row, in seconds since 1970.

    A recording may be read while it is written: what is there when a file is read is read.

    Raises:
        SharedDataError: there is no such file, or it is no record's.

        >>> count = Path("GPS__position.csv").write_text("ts,sender,latitude\n1.0,HDL_GPS,48.5\n")
        >>> for entry in Recording("GPS__position.csv").entries():
        ...     print(entry.time, entry.record.name, entry.trame.latitude)
        1.0 GPS__position 48.5

    Redis: none.
    """

    def __init__(self, *sources: str | Path, known: Mapping[str, Record] | None = None) -> None:
        found = [_File(path, name, known) for source in sources for name, path in _paths(source)]
        self._files = sorted((file for file in found if file.first < float("inf")), key=lambda file: file.first)
        if not self._files:
            raise SharedDataError(f"{' '.join(map(str, sources))}: no recording and no CSV log with a row is there")
        self.records: dict[str, Record] = {}
        for file in self._files:
            if described := file.own or (known or {}).get(file.name):
                self.records[file.name] = described
        for file in self._files:
            if file.name not in self.records:
                self.records[file.name] = file.guessed()
        self.records = dict(sorted(self.records.items()))
        self.first = self._files[0].first

    def __repr__(self) -> str:
        return f"<Recording of {len(self.records)} records in {len(self._files)} files>"

    @property
    def last(self) -> float:
        """The time of the last row, in seconds since 1970."""
        return max(file.end() for file in self._newest())

    def entries(
        self, names: Iterable[str] | None = None, start: float | None = None, end: float | None = None
    ) -> Iterator[Entry]:
        """Yield every value, in the order of time; those of one record in the order in which they were written.

        Args:
            names: the records; all if None.
            start: seconds since 1970; what was before is left out.
            end: seconds since 1970; what was after is left out.

        Raises:
            DecodeError: a row does not fit the description; it names file, row and field.

        Redis: none.
        """
        wanted = set(self._chosen(names))
        files = [file for file in self._files if file.name in wanted and (end is None or file.first <= end)]
        if start is not None:
            files = [file for file in files if not self._is_followed(file, start)]
        heap: list[tuple[float, float, int, Entry | None, Iterator[Entry]]] = []
        for number, file in enumerate(files):
            heap.append((file.first, 0.0, number, None, iter(())))  # opened when its time has come
        heapq.heapify(heap)
        while heap:
            key, _, number, entry, rest = heapq.heappop(heap)
            if entry is None:
                rest = files[number].entries(self._under(files[number]))
            elif (start is None or entry.time >= start) and (end is None or entry.time <= end):
                yield entry
            following = next(rest, None)
            if following is not None:
                # A log's clock may have been set back: its rows keep their order.
                heapq.heappush(heap, (max(key, following.time), following.trame[0], number, following, rest))

    def at(self, time: float, before: bool = False) -> dict[str, Any]:
        """Return all records as they were at a time.

        Args:
            time: seconds since 1970.
            before: leave out what was at that very time.

        Returns:
            Trames by name; None for a record that has no row up to then.

        Redis: none.
        """
        state: dict[str, tuple[float, Any]] = {}
        seen: set[tuple[str, Path]] = set()
        for file in reversed(self._files):
            place = file.name, file.path.parent
            if file.first > time or (before and file.first == time) or (place in seen and not file.log):
                continue
            seen.add(place)
            for entry in file.entries(self._under(file)):
                late = entry.time > time or (before and entry.time == time)
                if not late and entry.time >= state.get(file.name, (-float("inf"),))[0]:
                    state[file.name] = entry.time, entry.trame
                elif late and not file.log:
                    break
        return Moment((name, state[name][1] if name in state else None) for name in self.records)

    def _chosen(self, names: Iterable[str] | None) -> Iterable[str]:
        names = self.records if names is None else list(names)
        for name in names:
            if name not in self.records:
                raise SharedDataError(f"no record {name!r} is in the recording: there are {', '.join(self.records)}")
        return names

    def descriptions(self, name: str) -> list[tuple[float, Record]]:
        """Return how a record was described, and from when on: seconds since 1970, for each file with a description.

        Redis: none.
        """
        return [(file.first, file.own) for file in self._files if file.name == name and file.own]

    def _under(self, file: _File) -> Record:
        """Return the description to read a file under: the newest, where it only added something."""
        newest = self.records[file.name]
        if file.own is None or file.own == newest:
            return newest
        try:
            check_compatible(file.own, newest)
        except DescriptionError:
            return file.own
        return newest

    def _is_followed(self, file: _File, start: float) -> bool:
        """Tell whether another file of the same recording holds all that is from a time on."""
        if file.log:
            return file.end() < start
        place = file.name, file.path.parent
        times = [other.first for other in self._files if (other.name, other.path.parent) == place and not other.log]
        following = bisect.bisect_right(times, file.first)
        return following < len(times) and times[following] <= start

    def _newest(self) -> list[_File]:
        """Return the files that may hold the last row."""
        newest = {(file.name, file.path.parent): file for file in self._files if not file.log}
        return [*newest.values(), *(file for file in self._files if file.log)]


def _paths(source: str | Path) -> list[tuple[str, Path]]:
    """Return the CSV files that a source names, each with the record's name if that is given."""
    path, name = Path(source), ""
    if not path.exists() and "=" in str(source):
        name, _, rest = str(source).partition("=")
        path = Path(rest)
    if path.is_dir():
        return [(name, each) for each in sorted(path.glob("*.csv"))]
    if not path.is_file():
        raise SharedDataError(f"{path}: there is no such folder or file")
    return [(name, path)]


def _seconds(identity: bytes) -> float:
    return milliseconds(identity) / 1000


def content_of(path: Path) -> dict[str, Any]:
    """Return what a small JSON file holds, nothing if it is not there or empty, as a power cut may leave it.

    Redis: none.

    Raises:
        SharedDataError: it cannot be read as such.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8") or "{}")
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise SharedDataError(f"{path}: no valid JSON: {error}: mend or remove it") from None
    return content if isinstance(content, dict) else {}


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Refuse files that a later version wrote.

    Raises:
        SharedDataError: they are such files.
    """
    found = content.get("recording", FORMAT)
    if not isinstance(found, int) or found > FORMAT:
        raise SharedDataError(
            f"{path}: the recording has format {content['recording']}, this library knows {FORMAT}: "
            "pip install --upgrade shareddata"
        )


def _text(content: Mapping[str, Any], name: str) -> str:
    """Return a text of a small JSON file, empty where there is none."""
    found = content.get(name)
    return found if isinstance(found, str) else ""


def milliseconds(identity: bytes) -> int:
    """Return the time of an entry's id, in milliseconds since 1970."""
    return int(identity.partition(b"-")[0])
