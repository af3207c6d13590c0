"""Rows for an export: of histories on a server, of logs, of recordings.

It knows where rows come from and which times they have. It must not know files, but a recording's, or terminals.
Invariants:

1. Rows are read in pages, in the order of time or of their numbers; memory does not grow with them.
2. What was there when reading began is read; what is trimmed meanwhile is counted (`missed`).
3. What cannot be read (written by a stranger, against its description) is left out, counted, and the first one told.
"""

import heapq
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from shareddata.columns import Column, Table, column_of, nanoseconds, time_column, time_text
from shareddata.datadesc import Record
from shareddata.eras import Era, milliseconds, retyped
from shareddata.errors import DecodeError, FieldError, LogFormatError, SharedDataError, UnknownData
from shareddata.formats import Format
from shareddata.histories import Histories
from shareddata.logs import Entry, Look
from shareddata.memory import SharedMemory, millisecond
from shareddata.recording import Recording
from shareddata.wire import Layout

log = logging.getLogger("shareddata")

_RECENT = 64  # entries of each sender among which a repeated one is looked for
_UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

_MEASURED = time_column("_time", "When it was measured: ts.")
_RECEIVED = time_column("_received", "When the server received it.")
_SEQN = Column("_seqn", "int", "", "The sequence number.", "<u8")


class Row(NamedTuple):
    """A row on its way into a file."""

    table: int
    """The index of its table."""
    values: tuple[Any, ...]
    """A value for each column."""
    place: float
    """Where it is between the source's `begin` and `end`."""
    size: int = 0
    """About how many bytes its values have."""


class Source(Protocol):
    """Where rows come from: rows and what was met on the way.

    Attributes:
        tables: what there is.
        begin: where the rows begin, as a time or a sequence number.
        end: where they end.
        missed: rows that were trimmed while they were read.
        repeated: entries that were left out because the same sender had written the same before.
        damaged: what could not be read, and was left out.
        damage: the first message about it.
    """

    tables: Sequence[Table]
    begin: float
    end: float
    missed: int
    repeated: int
    damaged: int
    damage: str

    def rows(self) -> Iterator[Row]:
        """Yield the rows, in order."""


# -- records --------------------------------------------------------------------------------------------------------


def _table_of(record: Record, eras: Sequence[Era] = ()) -> Table:
    columns = (_MEASURED, _RECEIVED, *map(column_of, record.fields))
    description: dict[str, Any] = {"record": record.name, "description": record.as_json()}
    if earlier := _other_units(record, eras):
        description["earlier_units"] = earlier
        fields = ", ".join(dict.fromkeys(name for each in earlier for name in each["units"]))
        log.warning(
            "record %s: rows before %s have other units (%s): the file's metadata say which, under earlier_units",
            *(record.name, earlier[-1]["before"], fields),
        )
    return Table(record.name, columns, description, record.doc, published=0, received=1)


def _other_units(record: Record, eras: Sequence[Era]) -> list[dict[str, Any]]:
    """Return which fields had which other units, from when on (unless from the beginning), and until when."""
    units = {field.name: field.unit for field in record.fields}
    found: list[dict[str, Any]] = []
    begin = ""
    for era in eras:
        other = {f.name: f.unit for f in era.record.fields if units.get(f.name, f.unit) != f.unit}
        end = time_text(era.end * 10**6)
        if other and found and (found[-1]["before"], found[-1]["units"]) == (begin, other):
            found[-1]["before"] = end
        elif other:
            found.append(({"from": begin} if begin else {}) | {"before": end, "units": other})
        begin = end
    return found


class _Repeats:
    """Tells entries that a sender repeated: a flush of unknown outcome that was sent again."""

    def __init__(self) -> None:
        self._recent: dict[bytes, dict[bytes, Sequence[bytes]]] = {}

    def seen(self, fields: Sequence[bytes]) -> bool:
        sender, ts = (fields[3], fields[1]) if len(fields) > 3 else (b"", b"")
        recent = self._recent.setdefault(sender, {})
        if recent.get(ts) == fields:
            return True
        recent[ts] = fields
        if len(recent) > _RECENT:
            del recent[next(iter(recent))]
        return False


class HistorySource:
    """The histories of records on a server, merged by the time at which the server received each trame.

    Args:
        shm: the shared memory.
        names: the records; all that have a history if empty.
        begin: seconds since 1970: what the server received before is left out.
        end: seconds since 1970: what it received then or after is left out.

    Raises:
        UnknownData: no such record, or none with a history.

    A table is as its record was described at the end. Units that were others before are in its description, and warned
    of.

    Redis: XREVRANGE for each record; MULTI, XRANGE, XINFO STREAM, EXEC for each page.
    """

    def __init__(
        self, shm: SharedMemory, names: Sequence[str] = (), begin: float | None = None, end: float | None = None
    ) -> None:
        self._shm = shm
        self._layouts = shm.layouts(list(dict.fromkeys(names or shm.names())))
        for layout in self._layouts if names else ():
            if not layout.has_history:
                raise UnknownData(f"{layout} has no history: there is nothing of it to export")
        self._layouts = [layout for layout in self._layouts if layout.has_history]
        if not self._layouts:
            raise UnknownData(f"{shm.url}: no record with a history is described there")
        self._range = begin, end
        self._eras: list[Sequence[Era]] = [()] * len(self._layouts)
        self.tables: Sequence[Table] = [self._look_back(index) for index in range(len(self._layouts))]
        self.begin, self.end = begin or 0.0, end if end is not None else time.time()
        self.missed = self.repeated = self.damaged = 0
        self.damage = ""

    def _look_back(self, index: int) -> Table:
        """Return a record's table: as it was described at the end of what is exported.

        Redis: XREVRANGE.
        """
        record = self._layouts[index].record
        found = self._shm.eras(record.name)
        if not found:
            return _table_of(record)
        begin, end = self._range
        last = math.inf if end is None else millisecond(end, before=True)
        first = self._shm.first(record.name, 0 if begin is None else millisecond(begin))
        eras = [era for era in found if era.end > first]
        until = next((i for i, era in enumerate(eras) if era.end > last), len(eras))
        if until < len(eras):
            record = eras[until].record
            self._layouts[index] = Layout(record, self._shm.keys)
        self._eras[index] = eras[:until]
        return _table_of(record, eras[:until])

    def rows(self) -> Iterator[Row]:
        """Yield the rows by the time at which they were received.

        Raises:
            DecodeError: a field's type changed within them.
        """
        with Histories(self._shm, "shareddata export") as histories:
            merged = heapq.merge(*(self._of(i, histories) for i in range(len(self._layouts))), key=_by_time)
            started = self._range[0] is not None
            for row in merged:
                if not started:
                    self.begin, started = row.place, True
                yield row
            self.missed = sum(place.missed for place in histories.places.values())

    def _of(self, index: int, histories: Histories) -> Iterator[Row]:
        layout, (begin, end), repeats = self._layouts[index], self._range, _Repeats()
        changed = max((era for era in self._eras[index] if retyped(era.record, layout.record)), default=None, key=_end)
        since = f"{millisecond(begin, before=True)}-18446744073709551615" if begin else 0.0
        until = "" if end is None else f"{millisecond(end, before=True)}-18446744073709551615"
        for identity, fields in histories.entries(layout.record.name, since, until):
            if repeats.seen(fields):
                self.repeated += 1
                continue
            if changed and milliseconds(identity.decode()) < changed.end:
                raise _retyped(changed, layout.record)
            try:
                trame = layout.decode_entry(fields, identity.decode())
            except DecodeError as error:
                self.damaged += 1
                self.damage = self.damage or str(error)
                continue
            received = int(identity.partition(b"-")[0])
            size = sum(map(len, fields))
            yield Row(index, (nanoseconds(trame[0]), received * 10**6, *trame), received / 1000, size)


def _end(era: Era) -> int:
    return era.end


def _retyped(era: Era, record: Record) -> DecodeError:
    at = time_text(era.end * 10**6).removesuffix("000000Z")
    return DecodeError(
        f"record {record.name} changed the type of a field at {at}: export the times before and after it apart, with "
        f"--to {at} and --from {at}"
    )


def _by_time(row: Row) -> float:
    return row.place


class RecordingSource:
    """A recording, or CSV logs, merged by time.

    Args:
        folders: the recording's folder, CSV files.
        names: the records; all if empty.
        begin: seconds since 1970: what was received before is left out.
        end: seconds since 1970: what was received then or after is left out.

    Raises:
        SharedDataError: no recording, or no such record in it; a damaged row ends the export.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        names: Sequence[str] = (),
        begin: float | None = None,
        end: float | None = None,
    ) -> None:
        self._recording = Recording(*folders)
        records: Mapping[str, Record] = self._recording.records
        self._names = list(dict.fromkeys(names or records))
        for name in self._names:
            if name not in records:
                raise SharedDataError(f"no record {name!r} is in the recording: there are {', '.join(records)}")
        self._range = begin, end
        self.tables: Sequence[Table] = [_table_of(records[name], self._eras(name)) for name in self._names]
        self._sizes = [sum(16 * math.prod(column.shape) for column in table.columns) for table in self.tables]
        self._fits = [records[name] for name in self._names]
        self.begin = self._recording.first if begin is None else begin
        self.end = self._recording.last if end is None else end
        self.missed = self.repeated = self.damaged = 0
        self.damage = ""

    def _eras(self, name: str) -> list[Era]:
        """Return how a record was described earlier, as far as that is exported."""
        begin, end = self._range
        found = self._recording.descriptions(name)
        return [
            Era(f"{round(until * 1000)}-0", record)
            for (since, record), (until, _) in pairwise(found)
            if (begin is None or until > begin) and (end is None or since < end)
        ]

    def rows(self) -> Iterator[Row]:
        """Yield the rows by the time at which they were received; that of CSV logs is when they were measured."""
        indices = {name: i for i, name in enumerate(self._names)}
        begin, end = self._range
        for entry in self._recording.entries(self._names, begin, end):
            if end is not None and entry.time >= end:
                continue
            trame = entry.trame
            measured = nanoseconds(trame[0])
            received = int(entry.id.partition("-")[0]) * 10**6 if entry.id else measured
            index = indices[entry.record.name]
            if entry.record is not self._fits[index]:
                self._check(entry.record, index)
            size = sum(len(value) for value in trame if isinstance(value, str | list)) + self._sizes[index]
            yield Row(index, (measured, received, *trame), entry.time, size)

    def _check(self, record: Record, index: int) -> None:
        """Check that rows under another description fit the table."""
        columns = self.tables[index].columns[2:]
        if len(columns) != len(record.fields) or not all(map(_same, columns, map(column_of, record.fields))):
            raise DecodeError(
                f"record {record.name} changed its fields within the recording: export the times before and after it "
                "apart, with --from and --to"
            )
        self._fits[index] = record


def _same(one: Column, other: Column) -> bool:
    return (one.name, one.type, one.dtype, one.shape) == (other.name, other.type, other.dtype, other.shape)


# -- logs -----------------------------------------------------------------------------------------------------------

_KINDS = {
    **{"b": ("int", "|i1"), "B": ("int", "|u1"), "h": ("int", "<i2"), "H": ("int", "<u2"), "?": ("bool", "|b1")},
    **{"i": ("int", "<i4"), "I": ("int", "<u4"), "q": ("int", "<i8"), "Q": ("int", "<u8"), "n": ("int", "<i8")},
    **{"N": ("int", "<u8"), "P": ("int", "<u8"), "e": ("float", "<f2"), "f": ("float", "<f4"), "d": ("float", "<f8")},
}


def columns_of(form: Format) -> list[Column]:
    """Return the columns of a format's values, named f0, f1, ... as `read_many` names them.

    >>> [column.dtype for column in columns_of(Format("Q2f"))]
    ['<u8', '<f4', '<f4']
    """
    kinds: list[tuple[str, str, tuple[int, ...]]] = []
    native = form.text[:1] == "@"
    for count, character in re.findall(r"(\d*)([a-zA-Z?])", form.text):
        number = int(count or 1)
        if character in "sp":
            kinds.append(("bytes", "", (number,) if character == "s" else ()))
        elif character == "c":
            kinds += [("bytes", "", (1,))] * number
        elif character in "lL":
            size = "8" if native else "4"  # as on all 64-bit systems but Windows
            kinds += [("int", f"<{'i' if character == 'l' else 'u'}{size}", ())] * number
        elif character in _KINDS:
            kinds += [(*_KINDS[character], ())] * number
        elif character != "x":
            raise LogFormatError(f"the format {form.text!r} holds {character!r}, which cannot be exported")
    return [Column(f"f{i}", kind, dtype=dtype, shape=shape) for i, (kind, dtype, shape) in enumerate(kinds)]


class LogSource:
    """A log: a table for each of its formats, with the sequence number of each record.

    Args:
        shm: the shared memory.
        name: the log's.
        clock: which value is a record's time, and its unit: `"f0:ms"`; without it records have no time.
        begin: seconds since 1970: records before are left out; it wants a clock.
        end: seconds since 1970: records then or after are left out.

    Raises:
        UnknownData: no such log.
        FieldError: no such clock.

    Redis: as `logs.Look.records`.
    """

    def __init__(
        self,
        shm: SharedMemory,
        name: str,
        clock: str | None = None,
        begin: float | None = None,
        end: float | None = None,
    ) -> None:
        if clock is None and (begin is not None or end is not None):
            raise FieldError(
                f"log {name}: its records have no time of their own: say which value is it with --time, "
                "such as `--time f0:ms`"
            )
        self._range = [None if each is None else nanoseconds(each) for each in (begin, end)]
        self._shm, self.name = shm, name
        with Look(shm, name) as log:
            formats, first, last = log.formats, log.first(), log.stream.extent().last
        shapes = [columns_of(form) for form in formats] or [[Column("data", "bytes")]]
        self._clocks = [_clock(name, clock, columns) for columns in shapes]
        self._raw = not formats
        self.tables: Sequence[Table] = [
            _log_table(name if len(shapes) == 1 else f"{name}.{i}", columns, clock is not None, formats[i : i + 1])
            for i, columns in enumerate(shapes)
        ]
        self._first, self._last = first or last + 1, last
        self.begin, self.end = float(self._first), float(last)
        self.missed = self.repeated = self.damaged = 0
        self.damage = ""

    def rows(self) -> Iterator[Row]:
        """Yield the records in the order of their numbers."""
        expected = self._first
        with Look(self._shm, self.name) as log:
            for entry in log.records(self._first - 1, self._last):
                self.missed += max(0, entry.seqn - expected)
                expected = max(expected, entry.seqn + 1)
                try:
                    row = self._row(log, entry)
                except DecodeError as error:
                    self.damaged += 1
                    self.damage = self.damage or str(error)
                    continue
                if row is not None:
                    yield row
        self.missed += max(0, self._last + 1 - expected)

    def _row(self, log: Look, entry: Entry) -> Row | None:
        """Return a record's row, None when it is out of the times that are wanted."""
        tag, values = log.decode(entry)
        if (tag is None) != self._raw:
            raise DecodeError(f"log {self.name}, record {entry.seqn}: stored as bytes into a log with formats")
        clock = self._clocks[tag or 0]
        if clock is None:
            return Row(tag or 0, (entry.seqn, *values), entry.seqn, len(entry.data))
        position, unit = clock
        at = values[position]
        nanos = at * unit if isinstance(at, int) and abs(at * unit) < 2**63 else nanoseconds(at * (unit / 10**9))
        begin, end = self._range
        early = begin is not None and (nanos is None or nanos < begin)
        late = end is not None and (nanos is None or nanos >= end)
        if early or late:
            return None
        return Row(tag or 0, (nanos, entry.seqn, *values), entry.seqn, len(entry.data))


def _log_table(name: str, columns: Sequence[Column], timed: bool, formats: Sequence[Format]) -> Table:
    own = (time_column("_time", "When it was measured."), _SEQN) if timed else (_SEQN,)
    description = {"log": name, "formats": [form.text for form in formats]}
    return Table(name, (*own, *columns), description, published=0 if timed else None)


def _clock(name: str, clock: str | None, columns: Sequence[Column]) -> tuple[int, int] | None:
    """Return the position of the value that is the time, and its unit in nanoseconds."""
    if clock is None:
        return None
    column, _, unit = clock.partition(":")
    numbers = {each.name: i for i, each in enumerate(columns) if each.type in ("int", "float")}
    if column not in numbers or unit not in _UNITS:
        raise FieldError(
            f"log {name}: --time {clock}: expected a number of the format and its unit ({', '.join(_UNITS)}), such as "
            f"`f0:ms`; the numbers are {', '.join(numbers) or 'none'}"
        )
    return numbers[column], _UNITS[unit]
