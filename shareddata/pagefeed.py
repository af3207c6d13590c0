"""What browsers are shown, kept up to date: one look at all records, one reader of histories, however many look on.

It knows threads that read, and an event loop in which streams wait. It must not know HTTP, or how anything looks.
Invariants:

1. The server's work does not grow with browsers: one listener for all records, one place in a history for each record
   that somebody has open.
2. A browser holds nothing here but its place: who is slow finds the newest values, and in a plot a gap.
3. What threads found is handed over one piece at a time: nothing is queued while the loop is busy.
4. A server that goes away is told of in `trouble`, and waited for.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from shareddata import logs, pageview
from shareddata.errors import DecodeError, SharedDataError, UnknownData
from shareddata.histories import Histories
from shareddata.logs import State
from shareddata.memory import SharedMemory
from shareddata.place import Place
from shareddata.table import View
from shareddata.thinned import Thinned
from shareddata.watch import Watch
from shareddata.wire import Layout

log = logging.getLogger("shareddata")

NAME = "shareddata page"
TICK = 0.1
"""Seconds between two looks at all records while somebody looks on: values are sent ten times a second at most."""

_LEAST_PAUSE = 0.02  # seconds that are left to others after each look, however long it took
_RATES_FOR = 1.0  # seconds for which a rate is shown: one that changes all the time cannot be read
_UNSEEN_TICK = 1.0  # seconds between two looks when nobody does
_SEEN = 10.0  # seconds for which somebody counts as looking on after a page was asked for
_BATCH = 0.05  # seconds between two batches of a plot's points
_WAIT = 0.25  # seconds that the reader of histories waits in the server; a record that is opened waits as long
_KEPT_BYTES = 1 << 19  # of points of a record that are kept for slow browsers
_AGAIN = 2.0  # seconds after which is tried again what the server refused
_LOGS_FOR = 2.0  # seconds for which a look at the logs is good
_PAST_AT_ONCE = 2  # histories that are read at the same time

MOST_POINTS = 4000
"""Points of a history that a browser gets at most; more are thinned."""


class Batch(NamedTuple):
    """Points of one record that came together."""

    after: str
    last: str
    text: bytes


class Channel:
    """What comes into one record's history while somebody has it open. Lives in the event loop.

    Attributes:
        readers: how many streams read it.
        begin: the id after which it has everything, None until the reader is there.
        last: the id of the newest entry.
        missed: entries that were trimmed before they could be read.
    """

    def __init__(self) -> None:
        self.readers = 0
        self.begin: str | None = None
        self.last = ""
        self.missed = 0
        self._batches: deque[Batch] = deque()
        self._size = 0

    def start(self, place: str) -> None:
        """Begin behind an entry; also again, when what came meanwhile is not known."""
        self._batches.clear()
        self._size = 0
        self.begin = self.last = place

    def add(self, batch: Batch, missed: int) -> None:
        """Take a batch, and let go of the oldest where there are too many."""
        self._batches.append(batch)
        self._size += len(batch.text)
        self.last, self.missed = batch.last, missed
        while self._size > _KEPT_BYTES and len(self._batches) > 1:
            oldest = self._batches.popleft()
            self._size -= len(oldest.text)
            self.begin = oldest.last

    def since(self, place: str) -> tuple[list[Batch], bool]:
        """Return the batches behind a reader's place, and whether something before them is not there any more."""
        found: list[Batch] = []
        for batch in reversed(self._batches):
            if batch.last == place:
                return found[::-1], False
            found.append(batch)
        first = found[-1].after if found else self.begin
        return found[::-1], first != place


class Feed:
    """What a page knows of one namespace. Made in an event loop, and used from there; `close` ends its threads.

    Attributes:
        views: what is known of each record.
        trouble: what keeps the values from being the newest, "" when nothing does.
        described: a text that changes when the records are described anew.
        version: grows with each change of a record, of the trouble, of the descriptions.
        offset: by how many seconds the server's clock is ahead of this machine's.

    Redis: as `DataDict.listen_to_datas` for all records, as `Histories.news` for those that are open.
    """

    def __init__(self, shm: SharedMemory) -> None:
        self.shm = shm
        self.views: dict[str, View] = {}
        self.trouble = "the records are being read"
        self.described = ""
        self.version = 0
        self.offset = 0.0
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._states: dict[str, tuple[int, bytes]] = {}
        self._told: dict[tuple[int, str], bytes] = {}  # what several streams are sent is put together once
        self._channels: dict[str, Channel] = {}
        self._lock = threading.Lock()
        self._wake, self._wake_reader, self._end = threading.Event(), threading.Event(), threading.Event()
        self._seen_at = 0.0
        self._logs: list[State] = []
        self._logs_at = float("-inf")
        self._logs_lock = asyncio.Lock()
        self._past_places = asyncio.Semaphore(_PAST_AT_ONCE)
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"page {work.__name__.strip('_')}", daemon=True)
            for work in (self._look, self._follow)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def now(self) -> float:
        """The server's time, in seconds since 1970."""
        return time.time() + self.offset

    @property
    def closing(self) -> bool:
        """Whether all streams are to end."""
        return self._end.is_set()

    async def close(self) -> None:
        """End the streams and the threads; a second time does nothing."""
        for event in (self._end, self._wake, self._wake_reader):
            event.set()
        self._tell()
        while any(thread.is_alive() for thread in self._threads):
            await asyncio.sleep(0.01)

    # -- for streams, in the loop -------------------------------------------------------------------------------------

    def seen(self) -> None:
        """Take note that somebody looks on: values are read more often then."""
        if time.monotonic() - self._seen_at > _SEEN:
            self._wake.set()
        self._seen_at = time.monotonic()

    async def news(self, seconds: float) -> None:
        """Wait until anything came since the loop was last given up; so many seconds at most."""
        self.seen()
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            pass  # the caller looks whether there is anything to tell

    def changes(self, version: int, name: str = "") -> bytes:
        """Return what changed since a version, as JSON: one text for all who ask the same.

        Args:
            version: what the reader has seen; -1 for nothing.
            name: one record only, "" for all.
        """
        key = version, name
        if key not in self._told:
            names: Iterable[str] = [name] if name else self._states
            found = (self._states[each] for each in names if each in self._states)
            self._told[key] = pageview.joined(
                (text for changed, text in found if changed > version), trouble=self.trouble, described=self.described
            )
        return b'{"now":%.3f,' % self.now + self._told[key][1:]

    def changed(self, name: str) -> int:
        """Return the version in which a record changed last, -1 when it is not there."""
        return self._states.get(name, (-1, b""))[0]

    def join(self, name: str) -> Channel:
        """Return what comes into a record's history; `leave` it in the end."""
        with self._lock:
            channel = self._channels.setdefault(name, Channel())
            channel.readers += 1
        self._wake_reader.set()
        return channel

    def leave(self, name: str, channel: Channel) -> None:
        """Have nothing more of it."""
        with self._lock:
            channel.readers -= 1
            if not channel.readers and self._channels.get(name) is channel:
                del self._channels[name]

    async def past(self, name: str, since: float | str, until: str) -> dict[str, Any]:
        """Return the points that a history holds, thinned if there are many: `columns`, and the `stretch` of each pair.

        `gap` tells that the entry to begin after is not there any more, nor perhaps others that came behind it.

        Args:
            name: the record.
            since: seconds since 1970, or an entry's id to begin after.
            until: the id of the last entry.

        Redis: XRANGE; MULTI, XRANGE, XINFO STREAM, EXEC for each page.
        """
        async with self._past_places:
            return await asyncio.to_thread(past, self.shm, name, since, until)

    async def logs(self) -> list[State]:
        """Return what there is to know of each log, at most two seconds old.

        Redis: as `logs.states`.
        """
        async with self._logs_lock:
            if time.monotonic() - self._logs_at > _LOGS_FOR:
                self._logs = await asyncio.to_thread(logs.states, self.shm)
                self._logs_at = time.monotonic()
            return self._logs

    # -- from the threads ---------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _hand_over(self, take: Callable[..., None], *found: Any) -> None:
        """Let the loop take something, and wait until it has."""
        taken = threading.Event()

        def turn() -> None:
            take(*found)
            self._tell()
            taken.set()

        self._loop.call_soon_threadsafe(turn)
        while not taken.wait(0.5) and not self.closing:
            pass

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work again and again; what the server refuses is told of, and may be mended meanwhile."""
        while not self.closing:
            try:
                work()
            except SharedDataError as error:
                log.warning("%s", error)
                self._hand_over(self._take_trouble, str(error))
            except Exception as error:
                if self._loop.is_closed():  # the program ends without having closed this: nobody is left to be told
                    return
                self._hand_over(self._take_trouble, f"the page stopped reading, start it again: {error!r}")
                raise
            self._end.wait(_AGAIN)

    def _take_trouble(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._told.clear()

    def _look(self) -> None:
        """Look at all records until the end."""
        known: dict[str, View] = {}
        noted: dict[str, str] = {}
        rates: dict[str, float | None] = {}
        rated_at = float("-inf")
        with Watch(self.shm) as watch:
            while not self.closing:
                watch.look()
                begun, now = time.monotonic(), watch.now
                self.offset = now - time.time()
                if begun - rated_at > _RATES_FOR:
                    rates = {view.record.name: view.rate for view in watch.views}
                    rated_at = begun
                views = {each.record.name: replace(each, rate=rates.get(each.record.name)) for each in watch.views}
                notes = {name: view.notes(now) for name, view in views.items()}
                fresh = [
                    view
                    for name, view in views.items()
                    if notes[name] != noted.get(name) or not pageview.same(known.get(name), view)
                ]
                states = {view.record.name: pageview.text(pageview.state(view, now)) for view in fresh}
                if fresh or len(views) != len(known) or watch.trouble != self.trouble:
                    self._hand_over(self._take_views, views, states, watch.trouble)
                known, noted = views, notes
                tick = TICK if time.monotonic() - self._seen_at < _SEEN else _UNSEEN_TICK
                self._wake.wait(max(_LEAST_PAUSE, begun + tick - time.monotonic()))
                self._wake.clear()

    def _take_views(self, views: dict[str, View], states: dict[str, bytes], trouble: str) -> None:
        before, self.views = self.views, views
        news = {name: state for name, state in states.items() if self._states.get(name, (0, b""))[1] != state}
        if not self.described or [each.record for each in views.values()] != [each.record for each in before.values()]:
            self.described = pageview.fingerprint(view.record for view in views.values())
        elif not news and trouble == self.trouble:
            return
        self.trouble = trouble
        for name in self._states.keys() - views.keys():
            del self._states[name]
        self._changed()
        self._states.update((name, (self.version, state)) for name, state in news.items())

    def _follow(self) -> None:
        """Read the histories of the records that are open, until the end."""
        with Histories(self.shm, NAME) as histories:
            followed: dict[str, tuple[Channel, Layout]] = {}
            while not self.closing:
                self._wake_reader.clear()
                self._take_up(histories, followed, histories.described_anew())
                if not histories.places:
                    self._wake_reader.wait(_UNSEEN_TICK)
                    continue
                for name, entries in histories.news(_WAIT).items():
                    self._pass_on(histories.places[name], *followed[name], entries)
                self._end.wait(_BATCH)

    def _take_up(self, histories: Histories, followed: dict[str, tuple[Channel, Layout]], anew: bool) -> None:
        """Begin to read what somebody opened, under its newest description, and forget what nobody has open now."""
        with self._lock:
            wanted = dict(self._channels)
        for name in list(followed):
            if followed[name][0] is not wanted.get(name):
                del followed[name]
                histories.forget(name)
        for name, channel in wanted.items():
            if name in followed and not anew:
                continue
            try:
                layout = self.shm.layout(name)
            except UnknownData:  # pages of it are told by `described`, and load again
                continue
            if name not in followed:
                self._hand_over(channel.start, histories.follow(name).id)
            followed[name] = channel, layout

    def _pass_on(self, place: Place, channel: Channel, layout: Layout, entries: Sequence[Any]) -> None:
        """Hand the points of new entries over."""
        if entries or place.missed != channel.missed:
            text = pageview.text(pageview.columns(layout.record, _rows(layout, entries)))
            self._hand_over(channel.add, Batch(channel.last, place.id, text), place.missed)


def past(shm: SharedMemory, name: str, since: float | str, until: str) -> dict[str, Any]:
    """Return the points that a history holds: see `Feed.past`.

    Redis: XRANGE; MULTI, XRANGE, XINFO STREAM, EXEC for each page.
    """
    layout, kept = shm.layout(name), Thinned(MOST_POINTS)
    with Histories(shm, NAME) as histories:
        gap = isinstance(since, str) and not histories.connection.ask("XRANGE", layout.history_key, since, since)
        for entry in histories.entries(name, since, until):
            for row in _rows(layout, [entry]):
                kept.add(row)
    return {"columns": pageview.columns(layout.record, kept.rows()), "stretch": kept.stretch, "gap": gap}


def _rows(layout: Layout, entries: Iterable[Sequence[Any]]) -> list[Sequence[float | None]]:
    """Return the points of entries; what a stranger wrote against the description is none, nor what has no time."""
    rows: list[Sequence[float | None]] = []
    for identity, entry in entries:
        try:
            row = pageview.point(layout.record, layout.decode_entry(entry, identity.decode()))
        except DecodeError:
            continue  # the table names what is damaged; a plot has a gap there
        if row[0] is not None:
            rows.append(row)
    return rows
