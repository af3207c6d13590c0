"""Records that go out over a bridge: the newest first, then each update in order, or the newest ones only.

It knows records, their histories, and what was seen of each. It must not know where they go. Invariants:

1. Only named records go out, and what the bridge wrote itself only when that is asked for.
2. Of a record with history each update goes out, or is counted.
3. A record that is old, gone, or on a server that is away goes out once more, marked.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from shareddata.datadesc import Record
from shareddata.datadict import DataDict
from shareddata.errors import (
    DecodeError,
    ServerTimeout,
    ServerUnreachable,
    SharedDataError,
)
from shareddata.handler import Handler
from shareddata.histories import Histories
from shareddata.place import Place
from shareddata.tally import Tally
from shareddata.views import snapshot
from shareddata.wire import Layout

log = logging.getLogger("shareddata")

_WAIT = 0.25  # seconds that the reader of histories waits in the server, and so for a bridge's end
_LOOK = 1.0  # seconds between two looks at records that are followed
_AGAIN = 1.0  # seconds after which is tried again what the server refused


class Update(NamedTuple):
    """A value that goes out."""

    record: Record
    trame: Any
    stale: bool
    """Whether it is older than the record's `max_age`, the record is gone, or the server is away."""


def selected(described: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the records that names or globs select, sorted.

    >>> selected(["BATTERY__alarms", "BATTERY__measures", "GPS__position"], ["BATTERY__*"])
    ['BATTERY__alarms', 'BATTERY__measures']
    """
    return sorted(name for name in described if any(fnmatchcase(name, pattern) for pattern in patterns))


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
