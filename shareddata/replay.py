"""Replay: recordings, CSV logs and histories played back into records.

It knows the order and the pace in which values are played, and how they come into records. It must not know how files
or histories are read (`recording`, `stream`). Invariants:

1. Values are written by the normal flush path, checked against the description, with the recorded ts and sender; what
   was received in one millisecond goes in one transaction, but one value of a record in each.
2. Nothing is left out and no order changed to keep the pace: a slow server makes a replay late.
3. The times of all values follow one schedule that is made at the start: lateness does not add up.
"""

import heapq
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from shareddata.address import Address
from shareddata.datadesc import Record, check_compatible
from shareddata.datadict import DataDict
from shareddata.errors import DescriptionError, SharedDataError
from shareddata.histories import Histories
from shareddata.login import FROM_PREFIX, check_typed
from shareddata.memory import SharedMemory
from shareddata.recording import Entry, Recording

_SLICE = 0.5  # seconds: progress is shown that often, also while nothing is due


class Source(Protocol):
    """What can be played: a `Recording`, or a server's histories."""

    records: dict[str, Record]

    @property
    def first(self) -> float:
        """The time of the first value, in seconds since 1970."""

    @property
    def last(self) -> float:
        """The time of the last one."""

    def entries(
        self, names: Iterable[str] | None = None, start: float | None = None, end: float | None = None
    ) -> Iterator[Entry]:
        """Yield values in the order of time."""

    def at(self, time: float, before: bool = False) -> dict[str, Any]:
        """Return the records as they were at a time."""


class Past:
    """A server's histories as they are now, to be played or copied like a recording.

    Args:
        shm: the shared memory. It is left open.

    Attributes:
        records: the records that have a history.
        missed: entries that were trimmed before they could be read.

    Raises:
        SharedDataError: nothing is in them.

    Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
    """

    def __init__(self, shm: SharedMemory) -> None:
        self._shm = shm
        described = [shm.describe(name) for name in shm.names()]
        self.records = {record.name: record for record in described if record.history}
        self._ends: dict[str, str] = {}
        times = []
        with Histories(shm, "shareddata replay") as histories:
            for name in self.records:
                first = next(histories.entries(name), None)
                if first is not None:
                    self._ends[name] = histories.places[name].last(histories.connection)
                    times += [_seconds(first[0].decode()), _seconds(self._ends[name])]
        if not times:
            raise SharedDataError(f"{shm.url}: no record has a history with anything in it")
        self.first, self.last = min(times), max(times)
        self.missed = 0

    def entries(
        self, names: Iterable[str] | None = None, start: float | None = None, end: float | None = None
    ) -> Iterator[Entry]:
        """Yield what was flushed until this object was made, in the order of time.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC for each page.
        """
        histories = Histories(self._shm, "shareddata replay")
        try:
            wanted = [name for name in (self.records if names is None else names) if name in self._ends]
            parts = [self._part(histories, name, start) for name in wanted]
            for entry in heapq.merge(*parts, key=lambda entry: (entry.time, entry.trame[0])):
                if end is not None and entry.time > end:
                    break
                yield entry
        finally:
            histories.close()
            self.missed += sum(place.missed for place in histories.places.values())

    def _part(self, histories: Histories, name: str, start: float | None) -> Iterator[Entry]:
        layout = self._shm.layout(name)
        decode = self._shm.decoder(layout)
        for identity, fields in histories.entries(name, start or 0, self._ends[name]):
            text = identity.decode()
            if start is None or _seconds(text) >= start:
                yield Entry(_seconds(text), layout.record, text, decode(fields, text))

    def at(self, time: float, before: bool = False) -> dict[str, Any]:
        """Return the records as they were at a time: see `SharedMemory.at`.

        Redis: MULTI, XREVRANGE for each record, EXEC.
        """
        return self._shm.at(time, before)


class Together:
    """Several sources as one, merged by time.

    Args:
        sources: where two hold the same record, the first one's description counts.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self.records = {name: record for source in reversed(sources) for name, record in source.records.items()}
        self.first = min(source.first for source in sources)

    @property
    def last(self) -> float:
        """The time of the last value."""
        return max(source.last for source in self._sources)

    def entries(
        self, names: Iterable[str] | None = None, start: float | None = None, end: float | None = None
    ) -> Iterator[Entry]:
        """Yield values of all sources in the order of time."""
        wanted = set(self.records if names is None else names)
        parts = [source.entries(wanted & source.records.keys(), start, end) for source in self._sources]
        return heapq.merge(*parts, key=lambda entry: entry.time)

    def at(self, time: float, before: bool = False) -> dict[str, Any]:
        """Return the records as they were at a time."""
        state: dict[str, Any] = {}
        for source in self._sources:
            for name, trame in source.at(time, before).items():
                if state.get(name) is None:
                    state[name] = trame
        return state


@dataclass
class Played:
    """What was played of a record.

    Attributes:
        name: the record.
        first: the time of the first value, in seconds since 1970; None without any.
        last: the time of the last one.
        count: how many values, in all rounds; what restored the state at the start does not count.
    """

    name: str
    first: float | None = None
    last: float | None = None
    count: int = 0


class Replay:
    r"""Play a source into records. A context manager.

    Args:
        source: a `Recording`, a `Past`, or several `Together`.
        shm: where it is played. Records that are not described there are described as in the source.
        names: the records; all of the source if empty.
        speed: 1 for real speed, 100 for a hundred times as fast, 0 for as fast as possible.
        start: seconds since 1970: the records get the values of that time first, and playing begins there.
        end: seconds since 1970 up to which is played.

    Attributes:
        played: what was played, by the record's name.
        rounds: how often it was played to the end.
        now: the time of the value that was played last.
        late: by how many seconds it was played too late.

    Raises:
        DescriptionError: a record is described otherwise there.
        SharedDataError: the source has no such record.

        >>> with open("GPS__again.csv", "w") as file:
        ...     count = file.write("ts,sender,latitude\n1.0,HDL_GPS,48.5\n2.0,HDL_GPS,48.6\n")
        >>> with Replay(Recording("GPS__again.csv"), shm, speed=10) as replay:
        ...     replay.run()
        >>> replay.played["GPS__again"].count
        2

    Redis: MULTI, HSET and XADD for each record, EXEC.
    """

    def __init__(
        self,
        source: Source,
        shm: SharedMemory,
        names: Iterable[str] = (),
        *,
        speed: float = 1.0,
        start: float | None = None,
        end: float | None = None,
    ) -> None:
        if speed < 0 or not math.isfinite(speed):
            raise ValueError(f"the speed is {speed}, expected 0 or above")
        wanted = sorted(set(names) or source.records)
        if unknown := [name for name in wanted if name not in source.records]:
            raise SharedDataError(
                f"no record {unknown[0]!r} is in what is to be played: there are {', '.join(source.records)}"
            )
        self.start, self.end = source.first if start is None else start, source.last if end is None else end
        self.played = {name: Played(name) for name in wanted}
        self.rounds = 0
        self.now = self.start
        self.late = 0.0
        self._source, self._shm, self._speed = source, shm, speed
        self._restore_from = start
        _describe(shm, [source.records[name] for name in wanted])
        self._dd = DataDict("shareddata replay", shm)
        try:
            self._datas = dict(zip(wanted, self._dd.set_datas_to_write(wanted)))
        except BaseException:
            self._dd.close()
            raise
        self._orders: dict[type, Sequence[tuple[int | None, Any]]] = {}
        self._staged: list[Entry] = []

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections.

        Redis: none.
        """
        self._dd.close()

    def run(self, loop: bool = False, progress: Callable[["Replay"], None] = lambda replay: None) -> None:
        """Play to the end.

        Args:
            loop: begin again at the end, until something is raised (KeyboardInterrupt).
            progress: called about twice a second.

        Raises:
            ServerUnreachable, ServerTimeout: the server went: what was played until then is in `played`.
            FieldError: a value does not fit the description there.
            DecodeError: a row or entry is damaged.

        Redis: MULTI, HSET and XADD for each record, EXEC.
        """
        while True:
            self._restore()
            self._round(progress)
            self.rounds += 1
            if not loop or not any(each.count for each in self.played.values()):
                return

    def _round(self, progress: Callable[["Replay"], None]) -> None:
        begin = shown = time.monotonic()
        start = self._restore_from
        for entry in self._source.entries(self.played, start, self.end):
            if self._staged and (entry.time != self._staged[0].time or self._is_staged(entry)):
                self._flush()
            start = entry.time if start is None else start
            due = begin + (entry.time - start) / self._speed if self._speed else begin
            while (now := time.monotonic()) < due or now - shown > _SLICE:
                if now - shown > _SLICE:
                    progress(self)
                    shown = now
                time.sleep(max(0.0, min(due - now, _SLICE)))
            self.late = now - due if self._speed else 0.0
            self._set(entry.record.name, entry.trame)
            self._staged.append(entry)
        self._flush()
        progress(self)

    def _restore(self) -> None:
        """Write the state of the start, all at once."""
        if self._restore_from is None:
            return
        for name, trame in self._source.at(self._restore_from, before=True).items():
            if name in self.played and trame is not None:
                self._set(name, trame)
        self._dd.flush()

    def _is_staged(self, entry: Entry) -> bool:
        return any(entry.record.name == staged.record.name for staged in self._staged)

    def _flush(self) -> None:
        if not self._staged:
            return
        self._dd.flush()
        for entry in self._staged:
            played = self.played[entry.record.name]
            played.first = entry.time if played.first is None else played.first
            played.last = entry.time
            played.count += 1
        self.now = self._staged[-1].time
        self._staged.clear()

    def _set(self, name: str, trame: Any) -> None:
        data = self._datas[name]
        data.ts, data.sender = trame[0], trame[1]
        data.set(*[default if i is None else trame[i] for i, default in self._order(name, trame)])

    def _order(self, name: str, trame: Any) -> Sequence[tuple[int | None, Any]]:
        """Return for each field, as described where it is played, its place in the trame, and its default."""
        order = self._orders.get(type(trame))
        if order is None:
            positions = {field: i for i, field in enumerate(trame._fields)}
            layout = self._datas[name].layout
            pairs = zip(layout.record.fields, layout.defaults())
            order = self._orders[type(trame)] = [(positions.get(field.name), default) for field, default in pairs][2:]
        return order


@contextmanager
def opened(texts: Iterable[str], shm: SharedMemory, namespace: str = "") -> Iterator[Source]:
    """Open what a command line names: folders, CSV files, `NAME=FILE`, and addresses of servers.

    Args:
        texts: as they are typed.
        shm: where it is to be played: what is described there tells the types of logs without a description.
        namespace: of the records on servers that are named.

    Raises:
        SharedDataError: nothing is there, or it would be played from a namespace into itself.
        ServerSetupError: an address holds a password: that is told by $SHAREDDATA_FROM_PASSWORD_FILE.

    Redis: what `Past` sends.
    """
    files = [text for text in texts if "://" not in text]
    with ExitStack() as stack:
        found: list[Source] = []
        if files:
            found.append(Recording(*files, known={name: shm.describe(name) for name in shm.names()}))
        for url in (text for text in texts if "://" in text):
            check_typed(url, "SOURCE", FROM_PREFIX)
            address = Address(url, FROM_PREFIX)
            source = stack.enter_context(SharedMemory(url=address, namespace=namespace))
            if (source.url, source.namespace) == (shm.url, shm.namespace):
                raise SharedDataError(
                    f"{source.url}: these histories would be played into themselves: give --namespace"
                )
            found.append(Past(source))
        yield found[0] if len(found) == 1 else Together(found)


def _describe(shm: SharedMemory, records: Sequence[Record]) -> None:
    """Describe records that are not described yet, and check the others."""
    described = set(shm.names())
    for record in records:
        if record.name in described:
            try:
                check_compatible(record, shm.describe(record.name))
            except DescriptionError:
                theirs = _difference(record, shm.describe(record.name))
                raise DescriptionError(
                    f"record {record.name} is described otherwise there: {theirs}: play it into another namespace"
                ) from None
    if new := {record.name: record.as_json() for record in records if record.name not in described}:
        shm.init(new, keep=True)


def _difference(record: Record, theirs: Record) -> str:
    there = {field.name: field for field in theirs.fields}
    for field in record.fields:
        if field.name not in there:
            return f"it has no field {field.name!r}"
        if there[field.name].kind != field.kind:
            return f"the field {field.name!r} is {there[field.name].type_text()}, what is played {field.type_text()}"
    return ""


def _seconds(identity: str) -> float:
    return int(identity.partition("-")[0]) / 1000
