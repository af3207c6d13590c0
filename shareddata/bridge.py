"""What every bridge does: records go out as they are written, values that come in are checked and written.

A bridge is a handler whose device is another system (a broker, a control system). It knows which records go out, which
may be written, how loops end, and what is counted. It must not know any protocol. Invariants:

1. Only named records go out, and only records named for it are written.
2. What a bridge wrote itself is not sent back; what came in with a time that is not later than the record's own is not
   written. Each of the two ends every loop, also one over several bridges.
3. A value keeps the time of its measurement, in both directions.
4. Whatever is not passed on is counted, and told in the log.
"""

import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Self

from shareddata.data import Data
from shareddata.datadesc import Field, Record
from shareddata.datadict import DataDict
from shareddata.errors import (
    DecodeError,
    DescriptionError,
    FieldError,
    ServerTimeout,
    ServerUnreachable,
    SharedDataError,
    UnknownData,
)
from shareddata.handler import Handler
from shareddata.histories import Histories
from shareddata.place import Place
from shareddata.table import clean
from shareddata.views import snapshot
from shareddata.wire import Layout, shown

log = logging.getLogger("shareddata")

COUNTS = ("sent", "replaced", "missed", "returned", "received", "written", "known", "refused")
"""What is counted; a bridge's status record has a field for each.

sent: handed to the other side; replaced: not passed on, a newer value of the record came before it could be; missed:
written and gone before it could be read, or still waiting for the other side at the end; returned: written by this
bridge, so not sent back; received: came from the other side; written: of these, written; known: the record has the same
or a later one; refused: wrong.
"""

_WAIT = 0.25  # seconds that the reader of histories waits in the server, and so for a bridge's end
_LOOK = 1.0  # seconds between two looks at records that are followed
_AGAIN = 1.0  # seconds after which is tried again what the server refused
_AHEAD = 60.0  # seconds by which the time of what comes in may be ahead: it would lock out whatever comes later
_MOST_WAITING = 1000  # values from the other side that wait to be written
_COMPLAIN_EVERY = 60.0
_LONGEST = 1000  # characters of what came from the other side in one message
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Update(NamedTuple):
    """A value that goes out."""

    record: Record
    trame: Any
    stale: bool
    """Whether it is older than the record's `max_age`, the record is gone, or the server is away."""


class Tally:
    """Counts what happened, and tells of it without flooding the log. It may be shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._told: dict[tuple[str, str], float] = {}

    def add(self, what: str, count: int = 1) -> None:
        """Count something: one of `COUNTS`."""
        with self._lock:
            self._counts[what] += count

    def complain(self, what: str, subject: str, text: str, count: int = 1) -> None:
        """Count something, and log why: once a minute for each subject, with how many there were in all."""
        with self._lock:
            self._counts[what] += count
            now, key = time.monotonic(), (what, subject)
            total, due = self._counts[what], now >= self._told.get(key, 0.0)
            if due:
                self._told[key] = now + _COMPLAIN_EVERY
        told = clean(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...")
        log.log(logging.WARNING if due else logging.DEBUG, "%s (%s so far: %d)", told, what, total)

    def counts(self) -> dict[str, int]:
        """Return all counts."""
        with self._lock:
            return {name: self._counts[name] for name in COUNTS}


def selected(described: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the records that names or globs select, sorted.

    >>> selected(["BATTERY__alarms", "BATTERY__measures", "GPS__position"], ["BATTERY__*"])
    ['BATTERY__alarms', 'BATTERY__measures']
    """
    return sorted(name for name in described if any(fnmatchcase(name, pattern) for pattern in patterns))


# -- out ------------------------------------------------------------------------------------------------------------


@dataclass
class _Last:
    """What was last seen of a record, as it was described then."""

    record: Record
    trame: Any
    body: list[bytes]
    stale: bool
    own: bool


class Outgoing:
    """Hands over what is written to records, in a thread of its own: the newest first, then each update in order.

    Args:
        handler: the program.
        patterns: names or globs of the records.
        send: takes an `Update`; called in the thread.
        tally: counts.
        every: whether each update of a record with history goes out; else the newest one at each look.
        frequency: looks per second at records without history, or at all when only the newest go out.
        also_own: whether what this bridge wrote goes out too: where the other side shows values only.

    Raises:
        UnknownData: a name is not described, or nothing matches.

    The current value of each record goes out at the start, and when it is described anew. A record that becomes stale
    goes out once more, marked. At the end what was written before it goes out.

    Redis: as `Histories.news`, and `DataDict.read`.
    """

    def __init__(
        self, handler: Handler, patterns: Sequence[str], send: Callable[[Update], None], tally: Tally,
        every: bool = True, frequency: float = 10.0, also_own: bool = False,
    ) -> None:  # fmt: skip
        self._also_own = also_own
        self._shm, self._name = handler.shm, handler.dd.app_name
        self._patterns, self._send, self._tally = patterns, send, tally
        self._every, self._period = every, 1 / frequency
        self._last: dict[str, _Last] = {}
        self._strange: dict[str, list[bytes]] = {}  # seen in a record, not yet in its history
        self._ahead: dict[str, list[bytes]] = {}  # gone out at the start, before the history came to it
        self._damages: dict[str, str] = {}  # that are counted
        self._places: dict[str, Place] = {}
        self._begun, self._end = threading.Event(), threading.Event()
        for pattern in patterns:
            if not selected(self._shm.names(), [pattern]):
                self._shm.describe(pattern)  # an UnknownData that names near ones
        self._thread = threading.Thread(target=self._run, name="outgoing", daemon=True)

    def start(self) -> None:
        """Begin; what is written after this goes out each by each, a server that answers provided."""
        self._thread.start()
        self._begun.wait(_AGAIN)

    def close(self) -> None:
        """Hand over what was written until now, and end the thread."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self._session()
            except (ServerUnreachable, ServerTimeout) as error:  # the connection has told of it
                log.debug("no answer: %s", error)
                self._end.wait(_AGAIN)
            except SharedDataError as error:
                self._tally.complain("missed", type(error).__name__, f"nothing goes out: {error}", 0)
                self._end.wait(_AGAIN)

    def _session(self) -> None:
        """Hand over until the end, or until records are described anew."""
        epoch = self._shm.epoch()
        names = selected(self._shm.names(), self._patterns)
        layouts = {layout.record.name: layout for layout in self._shm.layouts(names)}
        for name, last in self._last.items():
            if name in layouts and last.record != layouts[name].record and (self._also_own or not last.own):
                last.body = []  # told once more, as it is described now
        with Histories(self._shm, self._name) as histories, DataDict(self._name, self._shm) as dd:
            self._follow(histories, layouts)
            dd.set_datas_to_read(names)
            period = _LOOK if names and len(histories.places) == len(names) else self._period
            looked, missed, ending = -math.inf, 0, False
            while not ending:
                ending = self._end.is_set()  # once more then
                if histories.described_anew() and self._shm.epoch() != epoch:
                    return
                if ending or time.monotonic() - looked >= period:
                    looked = time.monotonic()
                    self._look(dd, layouts, histories)
                    self._begun.set()
                for name, entries in histories.news(0.0 if ending else min(_WAIT, period)).items():
                    self._entries(layouts[name], entries)
                missed = self._count_missed(histories, missed)

    def _follow(self, histories: Histories, layouts: Mapping[str, Layout]) -> None:
        """Go on in the histories where the last session ended, and begin now in those that it did not know."""
        for name, layout in layouts.items():
            if self._every and layout.has_history:
                place = self._places.get(name)
                histories.follow(name, *((place.id, place.ordinal) if place else ()))
        self._places = histories.places

    def _count_missed(self, histories: Histories, before: int) -> int:
        missed = sum(place.missed + place.lost for place in histories.places.values())
        if missed > before:
            text = "updates were gone before they could be read, or the server has lost them"
            self._tally.complain("missed", "", text, missed - before)
        return missed

    def _entries(self, layout: Layout, entries: Iterable[Any]) -> None:
        name, trames = layout.record.name, []
        self._strange.pop(name, None)
        for identity, fields in entries:
            try:
                trames.append(layout.decode_entry(fields, identity.decode()))
            except DecodeError as error:
                self._tally.complain("missed", name, str(error))
        ahead, begin = self._ahead.pop(name, None), 0
        if ahead is not None:
            begin = next((i for i, trame in enumerate(trames, 1) if layout.encode(trame) == ahead), 0)
        for trame in trames[begin:]:
            self._offer(layout, trame)

    def _look(self, dd: DataDict, layouts: Mapping[str, Layout], histories: Histories) -> None:
        """Look at all records: for those without history, for what bypassed a history, for what has become stale."""
        found = self._newest(dd, [*layouts])
        trames = found or {}
        for name, layout in layouts.items():
            trame, followed = trames.get(name), name in histories.places
            body = [] if trame is None else layout.encode(trame)
            if trame is not None and self._is_news(name, body, followed):
                if followed and name not in self._last:
                    self._ahead[name] = body
                self._offer(layout, trame)
        now = self._shm.clock.now()
        for name, last in self._last.items():
            gone = name not in layouts or (name in trames and trames[name] is None)
            stale = gone or found is None or last.record.stale(last.trame, now)
            if stale != last.stale and (self._also_own or not last.own):
                self._send(Update(last.record, last.trame, stale))
            last.stale = stale

    def _newest(self, dd: DataDict, names: Sequence[str]) -> dict[str, Any] | None:
        """Return what is in records now, nothing of one that is damaged; None while the server is away."""
        try:
            found = dict(zip(names, dd.next())) if names else {}
            self._damages = {}
            return found
        except (ServerUnreachable, ServerTimeout):
            return None
        except DecodeError:
            views = snapshot(self._shm, names)
            for view in views:
                if view.damage and view.damage != self._damages.get(view.record.name):
                    self._tally.complain("missed", view.record.name, view.damage)
            self._damages = {view.record.name: view.damage for view in views}
            return {view.record.name: view.trame for view in views if not view.damage}

    def _is_news(self, name: str, body: list[bytes], followed: bool) -> bool:
        """Tell whether a value is to go out that was not in a history.

        One of a record that is followed may have been written a moment ago, and come from the history next: only what
        is still there, and still strange, at the next look was written past the history.
        """
        if name in self._last and body == self._last[name].body:
            self._strange.pop(name, None)
            return False
        if not followed or name not in self._last:
            return True
        if self._strange.get(name) == body:
            return True
        self._strange[name] = body
        return False

    def _offer(self, layout: Layout, trame: Any) -> None:
        if trame is None:
            return
        record, body = layout.record, layout.encode(trame)
        last = self._last.get(record.name)
        if last is not None and last.body == body:
            return
        own = trame.sender == self._name
        stale = record.stale(trame, self._shm.clock.now())
        self._last[record.name] = _Last(record, trame, body, stale, own)
        if own and not self._also_own:
            self._tally.add("returned")
        else:
            self._send(Update(record, trame, stale))


# -- in -------------------------------------------------------------------------------------------------------------


class Value(NamedTuple):
    """What came from the other side for a record."""

    record: str
    values: Mapping[str, Any]
    ts: float | None
    origin: str
    reply: Callable[[str], None] | None
    part: bool


class Incoming:
    """Takes values from the other side, in any thread, and writes them in the program's own.

    Args:
        handler: the program.
        names: the records that may be written.
        tally: counts.

    Raises:
        UnknownData: a name is not described.
        WriterConflict: another program writes a record that has an owner.

    Redis: MULTI, HMGET for each record, EXEC; as `DataDict.flush`.
    """

    def __init__(self, handler: Handler, names: Sequence[str], tally: Tally) -> None:
        self.names = tuple(names)
        self._handler, self._tally = handler, tally
        self._queue: deque[Value] = deque()
        self.fileno, self._writer = os.pipe()
        os.set_blocking(self.fileno, False)
        os.set_blocking(self._writer, False)
        self._known: dict[str, Any] = {}
        self._times: dict[tuple[str, ...], float] = {}  # of what comes one by one: record and field
        self._unsent: set[str] = set()
        self._datas: Mapping[str, Data] = {}
        self._records: dict[str, Record] = {}
        try:
            self._records = {name: handler.shm.describe(name) for name in names}
            if names:
                handler.writes(names)
                self._datas = handler.claim(names)
                handler.dd.set_datas_to_read(names)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close what wakes the program; what waits then is refused."""
        if unsent := len(self._unsent):
            text = "the server takes nothing, and this program ends"
            self._tally.complain("refused", "", f"{unsent} records are not written: {text}", unsent)
        while self._queue:
            self._refuse(self._queue.popleft(), "this program ends")
        os.close(self.fileno)
        os.close(self._writer)

    def put(
        self, record: str, values: Mapping[str, Any], ts: float | None = None, origin: str = "",
        reply: Callable[[str], None] | None = None, part: bool = False,
    ) -> None:  # fmt: skip
        """Take values of a record's fields; those that are not given keep what the record has. In any thread.

        Args:
            record: its name.
            values: by field.
            ts: seconds since 1970, when they were measured; None for now, when they are written.
            origin: where they came from, for messages.
            reply: called in the program's thread, with "" when they were written, else with the reason.
            part: the fields come one by one, each with its own time, and are compared so; the record gets the latest.
        """
        self._tally.add("received")
        value = Value(record, values, ts, origin or record, reply, part)
        if len(self._queue) >= _MOST_WAITING:
            self._refuse(value, f"{_MOST_WAITING} values wait to be written")
            return
        self._queue.append(value)
        try:
            os.write(self._writer, b"!")
        except BlockingIOError:
            pass  # it will wake up all the same

    def refuse(self, origin: str, reason: str) -> None:
        """Count and log something from the other side that is no value of a record. In any thread."""
        self._tally.add("received")
        self._tally.complain("refused", origin, f"{origin}: refused: {reason}")

    def work(self) -> None:
        """Write what came, and what the server did not take before. In the program's thread."""
        if self._unsent and self._handler.flush():
            self._sent()
        try:
            os.read(self.fileno, 65536)
        except BlockingIOError:
            pass  # it is time, and nothing came
        for _ in range(len(self._queue)):  # no more: who sends without a pause must not keep the program from ending
            value = self._queue.popleft()
            try:
                reason = self._write(value)
            except (FieldError, DescriptionError, UnknownData) as error:
                reason = str(error)
                self._refuse(value, reason)
                continue
            if value.reply:
                value.reply(reason)

    def _refuse(self, value: Value, reason: str) -> None:
        self._tally.complain("refused", value.origin, f"{value.origin}: refused: {reason}")
        if value.reply:
            value.reply(reason)

    def _write(self, value: Value) -> str:
        """Write a value; return why not, "" when it is written."""
        if value.record not in self.names:
            raise FieldError(f"{shown(value.record)} may not be written: start this program with --write for it")
        record = self._described(value.record)
        values = {name: _typed(record, name, each) for name, each in value.values.items()}
        if not values:
            raise FieldError(f"record {record.name}: no values")
        ts = None if value.ts is None else self._checked_time(value.ts)
        trames = self._handler.read()
        if trames is None and value.reply:
            raise FieldError("the server of the shared memory takes nothing now")
        self._known.update(each for each in zip(self.names, trames or ()) if each[0] not in self._unsent)
        current = self._known.get(record.name)
        if ts is not None and ts <= (last := self._last_time(value, current)):
            self._tally.add("known")
            return f"record {record.name} has a value of {last:.3f} already, this one is of {ts:.3f}"
        if ts is not None and value.part:
            self._times[(record.name, *values)] = ts
            ts = ts if current is None else max(ts, current.ts)
        kept = {} if current is None else dict(zip((f.name for f in record.fields[2:]), current[2:]))
        done = self._handler.publish({record.name: {**kept, **values}}, ts)
        if record.name in self._unsent:
            self._tally.add("replaced")
        self._unsent.add(record.name)
        self._known[record.name] = self._datas[record.name].values  # what comes next is compared with this
        if not done:
            return "the server takes nothing now: it is written when it does, unless a newer one comes"
        self._sent()
        return ""

    def _last_time(self, value: Value, current: Any) -> float:
        """Return the time that a value has to be later than."""
        if value.part:
            return self._times.get((value.record, *value.values), -math.inf)
        return -math.inf if current is None else float(current.ts)

    def _sent(self) -> None:
        self._tally.add("written", len(self._unsent))
        self._unsent.clear()

    def _described(self, name: str) -> Record:
        """Return a record's newest description, as far as the server tells."""
        try:
            self._records[name] = self._handler.shm.describe(name)
        except (ServerUnreachable, ServerTimeout) as error:
            log.debug("no answer: %s", error)
        return self._records[name]

    def _checked_time(self, ts: float) -> float:
        now = self._handler.shm.clock.now()
        if isinstance(ts, bool) or not isinstance(ts, int | float) or not 0 < ts < now + _AHEAD:
            raise FieldError(f"its ts is {shown(ts)}, expected seconds since 1970, and it is {now:.3f} now")
        return float(ts)


def _typed(record: Record, name: str, value: Any) -> Any:
    """Return a value as its field has it: what JSON has no number for comes as text."""
    field = _field(record, name)
    return _numbers(value, len(field.shape)) if field.type == "float" or field.dtype else value


def _numbers(value: Any, depth: int) -> Any:
    if isinstance(value, list) and depth:
        return [_numbers(each, depth - 1) for each in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _field(record: Record, name: str) -> Field:
    if name in ("ts", "sender"):
        raise FieldError(f"record {record.name}: {name} is no value: a bridge gives its own name as sender")
    try:
        return record.field(name)
    except KeyError:
        fields = ", ".join(f.name for f in record.fields[2:])
        raise FieldError(f"record {record.name} has no field {shown(name)}; it has {fields}") from None


# -- both -----------------------------------------------------------------------------------------------------------


class Bridge:
    """Both directions, and what is told of them. A context manager.

    Args:
        handler: the program.
        records: names or globs of the records that go out.
        write: names of the records that may be written, separated by commas.
        send: takes an `Update`, in a thread.
        every: see `Outgoing`.
        frequency: see `Outgoing`.
        also_own: see `Outgoing`.
        only_in: whether something else comes in, so that no record needs to be named.
        status: the record for the counts; left out where it is not described.
    """

    def __init__(
        self, handler: Handler, records: Sequence[str], write: str, send: Callable[[Update], None],
        *, every: bool = True, frequency: float = 10.0, also_own: bool = False, only_in: bool = False,
        status: str = "",
    ) -> None:  # fmt: skip
        names = list(dict.fromkeys(write.replace(",", " ").split()))
        if not records and not names and not only_in:
            handler.wrong_usage("name the records that go out, or with --write those that may be written")
        self.tally = Tally()
        self._handler, self._status = handler, status if status in handler.shm.names() else ""
        self._state: Callable[[], Mapping[str, Any]] = dict
        self.outgoing = Outgoing(handler, records, send, self.tally, every, frequency, also_own)
        self.incoming = Incoming(handler, names, self.tally)
        if self._status:
            handler.writes([self._status])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.outgoing.close()
        self.incoming.close()
        counts = ", ".join(f"{name} {count}" for name, count in self.tally.counts().items())
        log.info("ended: %s", counts)
        if kind is None:
            self._tell()

    def run(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Pass on until the program is to stop, and what came before that.

        Args:
            state: what the status record holds besides the counts; called once a second, and at the end.

        Raises:
            SharedDataError: the thread that sends has ended by a mistake; its traceback was printed.
        """
        self._state = state
        self.outgoing.start()
        try:
            for due in self._handler.ticks(1.0, self.incoming.fileno):
                self.incoming.work()
                if not due:
                    continue
                if not self.outgoing.alive:
                    raise SharedDataError("nothing goes out any more, see above: start this program again")
                self._tell()
            self.incoming.work()
        finally:
            self.outgoing.close()

    def _tell(self) -> None:
        """Write the status record."""
        found = self._state()
        if self._status:
            self._handler.publish({self._status: {**self.tally.counts(), **found}})
