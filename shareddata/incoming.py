"""Values that come in over a bridge: checked, compared with what is there, and written.

It knows which records may be written, and what was written to them. It must not know where values come from.
Invariants:

1. Only records named for it are written.
2. What comes in with a time that is not later than the record's own is not written.
3. A value keeps the time of its measurement; one that is not written is counted, and who sent it is told.
"""

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from shareddata.data import Data
from shareddata.datadesc import Field, Record
from shareddata.errors import DescriptionError, FieldError, ServerTimeout, ServerUnreachable, UnknownData
from shareddata.handler import Handler
from shareddata.tally import Tally
from shareddata.wire import shown

log = logging.getLogger("shareddata")

_AHEAD = 60.0  # seconds by which the time of what comes in may be ahead: it would lock out whatever comes later
_MOST_WAITING = 1000  # values from the other side that wait to be written
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


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
