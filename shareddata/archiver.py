"""Archiving: each event is stored, or becomes a dead letter, before it is acknowledged.

It knows what is done with an event, and when: tries, pauses, dead letters, the end. It must not know how events stand
in Redis (`subscription`), nor any format of files (`_store` of a subclass). Invariants:

1. An event is acknowledged after its file is on disk under its name, or after its dead letter is.
2. An event that was given twice ends as one file: its name was noted before the file had it.
3. What fails is tried again beside the events that follow; what can't succeed, a name that cannot be made or a payload
   that the format cannot hold, is not.
4. Where neither file nor dead letter can be written, the archiver waits: nothing is acknowledged, nothing dropped.
5. Stopping stores what was fed and what was emitted before the stop.
"""

import atexit
import hashlib
import heapq
import itertools
import json
import logging
import os
import queue
import threading
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from shareddata import deadletters, memory
from shareddata.deadletters import Letter
from shareddata.errors import (
    DecodeError,
    FieldError,
    ServerError,
    ServerTimeout,
    ServerUnreachable,
    SharedDataError,
    TemplateError,
)
from shareddata.memory import SharedMemory
from shareddata.subscription import Event, Ledger, Settled, Subscription
from shareddata.wire import shown

log = logging.getLogger("shareddata")

_QUEUE = 100  # events in hand at most
_WAIT = 1.0  # seconds between two tries while nothing can be written
_LISTEN = 0.25  # seconds that events are waited for at once: so soon a stop is noticed
_PAUSES = (0.1, 0.3, 0.9, 2.7, 4.0)  # seconds before the second try, the third, ...
_DRAIN = 10.0  # seconds at most for what was emitted before the stop
_HOPELESS = (TemplateError, FieldError, DecodeError)  # another try would end in the same way


class Status(NamedTuple):
    """What an archiver has done since it was started."""

    stored: int
    """Events."""
    failed: int
    """Tries that ended in an error."""
    dead: int
    """Dead letters written."""
    waiting: int
    """Events in hand."""
    paused: str
    """Why nothing can be written now, "" when it can."""
    last: str
    """The last file."""


@dataclass
class Work:
    """An event in hand."""

    source: str
    identity: str
    event: Event | None = None
    data: tuple[Any, Mapping[str, Any]] | None = None
    tries: int = 0
    again: bool = False  # whether a part of it may be stored already
    notes: dict[str, str] = field(default_factory=dict)  # its names, by identity
    letter: Path | None = None  # the dead letter that it comes from

    @property
    def noted(self) -> bool:
        """Whether it is kept elsewhere, so that it may be given again, and its names are noted."""
        return bool(self.event or self.letter)


class DataArchiver(ABC):
    """Stores the events of sources: a subclass says how, in `_store`. The constructor connects and begins.

    Two threads belong to it, one that reads events and one that stores them, until it is stopped; `with` stops it.

    Args:
        object_selector: the source's name, or a pattern: `cam-*`; `**` crosses slashes.
        event_name: the name of its event.
        default_metadata: metadata for events that don't have them.
        max_retries: how often a failed event is tried again, within 10 s, before it becomes a dead letter.
        name: this archiver's name: after a stop it goes on where it was. Without one it follows from the class and
            what is archived where; archivers of the same name share the events.
        root: the folder that files stay below.
        dead_letters: the folder of the events that could not be stored; `deadletters.usual_folder()` if None.
        since: where it begins the first time: 0 with what is kept, None from now on, or seconds since 1970.
        subscribe: False to store only what is fed: no server is connected to.
        shm: the shared memory; None for this process's own at the default address.

    Attributes:
        metadata: the default metadata.
        max_retries: see above.
        name: the archiver's.

    Raises:
        DescriptionError: a name with characters that names don't have.
        ServerUnreachable, ServerRefused, ServerSetupError: no server, or not on these terms.
        OSError: the folder of dead letters cannot be written.

    Redis: as `Subscription` and `Ledger`.
    """

    _in_order = False
    """Whether events that follow wait for one that failed."""

    def __init__(
        self,
        object_selector: str,
        event_name: str,
        default_metadata: Mapping[str, Any] | None = None,
        max_retries: int = 5,
        *,
        name: str | None = None,
        root: str | os.PathLike[str] | None = None,
        dead_letters: str | os.PathLike[str] | None = None,
        since: float | None = 0,
        subscribe: bool = True,
        shm: SharedMemory | None = None,
    ) -> None:
        self.metadata = dict(default_metadata or {})
        self.max_retries = max_retries
        self.object_selector, self.event_name = object_selector, event_name
        self.name = name or self._usual_name()
        self.dead_letters = Path(deadletters.usual_folder() if dead_letters is None else dead_letters)
        if dead_letters is not None:
            self.dead_letters.mkdir(parents=True, exist_ok=True)
        self._root = None if root is None else os.path.abspath(root)
        self._payload_queue: queue.Queue[Work | None] = queue.Queue(_QUEUE)
        self._failed: list[tuple[float, int, Work]] = []  # a heap of what is to be tried again
        self._order = itertools.count()
        self._current: Work | None = None
        self._stop_event = threading.Event()
        self._feeding = threading.Lock()
        self._stored = self._failures = self._dead = 0
        self._paused = self._last = ""
        self._giving_up = False
        self._pid = os.getpid()
        self._shm = shm = memory.default(shm) if subscribe else shm
        self._subscription: Subscription | None = None
        if shm and subscribe:
            self._subscription = Subscription(shm, self.name, object_selector, event_name, since)
        self._ledger = Ledger(self._shm, self.name) if self._shm else None
        try:
            self._prepare()
        except BaseException:
            self._close_connections()
            raise
        self._reader_thread = threading.Thread(target=self._read, name=f"events for {self.name}", daemon=True)
        self._worker_thread = threading.Thread(target=self._process_queue, name=f"archiver {self.name}", daemon=True)
        self._reader_thread.start()
        self._worker_thread.start()
        _running.add(self)
        if self._shm:
            self._shm.attach(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.event_name} of {self.object_selector}>"

    def __enter__(self) -> "DataArchiver":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _usual_name(self) -> str:
        """Return a name for an archiver that was given none: the same for the same work."""
        what = [self.object_selector, self.event_name, self.metadata, self._distinction()]
        digest = hashlib.sha256(json.dumps(what, default=str, sort_keys=True).encode()).hexdigest()[:8]
        return f"{type(self).__name__}-{digest}"

    def _distinction(self) -> str:
        """Return what distinguishes this archiver from another one of the same events."""
        return ""

    @property
    def status(self) -> Status:
        """What was done so far.

        Redis: none.
        """
        waiting = self._payload_queue.qsize() + len(self._failed) + (self._current is not None)
        return Status(self._stored, self._failures, self._dead, waiting, self._paused, self._last)

    @abstractmethod
    def _store(self, source_name: str, payload: Any, metadata: dict[str, Any]) -> None:
        """Store one event; called in the worker's thread.

        Args:
            source_name: who emitted it.
            payload: its data.
            metadata: the event's metadata, and the defaults for those that it does not have.
        """

    def _prepare(self) -> None:
        """Take part in the streams; called once, before anything is stored."""
        if self._subscription and self._ledger:
            self._subscription.begin()
            for stream in self._subscription.streams.values():
                self._ledger.look_at(stream)  # what a killed one had acknowledged is still there

    # -- events that come -----------------------------------------------------------------------------------------

    def feed(self, source_name: str, data: Iterable[Any], retry_count: int = 0) -> None:
        """Take an event as a plain callback does, without a server; it waits while too many are in hand.

        Such an event is in this process only, until it is stored.

        Args:
            source_name: who it is of.
            data: payload and metadata.
            retry_count: how often it was tried already.

        Raises:
            FieldError: the data are not a payload and a dictionary.
            SharedDataError: the archiver was stopped.

        Redis: none.
        """
        try:
            payload, metadata = data
            pair = payload, dict(metadata)
        except (TypeError, ValueError):
            raise FieldError(
                f"archiver {self.name}: {source_name} fed {shown(data)}, expected (payload, metadata)"
            ) from None
        self._put(Work(source_name, f"{source_name}:{self.event_name}:{uuid.uuid4().hex}", None, pair, retry_count))

    def retry_dead_letters(self) -> int:
        """Try again what became dead letters, beside what comes; return how many those are.

        A letter is removed when its event is stored.

        Raises:
            OSError, DecodeError: a letter cannot be read.
            SharedDataError: the archiver was stopped.

        Redis: none.
        """
        count = 0
        for path, letter in deadletters.letters(self.dead_letters, self.name):
            data = letter.payload, letter.metadata
            self._put(Work(letter.source, letter.identity, None, data, self.max_retries, again=True, letter=path))
            count += 1
        return count

    def _put(self, work: "Work") -> None:
        with self._feeding:
            while not self._stop_event.is_set():
                try:
                    return self._payload_queue.put(work, timeout=0.1)
                except queue.Full:
                    continue
        raise SharedDataError(f"archiver {self.name} was stopped: it did not take an event of {work.source}")

    def _read(self) -> None:
        """Put events into the queue as they come, until the end; the reader's thread."""
        told = False
        try:
            while not self._stop_event.is_set():
                try:
                    self._take(_LISTEN)
                    told = False
                except SharedDataError as error:
                    if not told:
                        log.error("archiver %s: events cannot be read: %s: trying again", self.name, error)
                    told = True
                    self._stop_event.wait(_WAIT)
            self._drain()
        except SharedDataError as error:
            log.warning("archiver %s: what was emitted last stays in the stream: %s", self.name, error)
        finally:
            with self._feeding:  # who was just feeding comes before the end
                pass
            self._payload_queue.put(None)

    def _take(self, wait: float) -> list[Event]:
        if not self._subscription:
            self._stop_event.wait(wait)
            return []
        events = self._subscription.take(_QUEUE, wait)
        for event in events:
            self._payload_queue.put(Work(event.stream.source, event.identity, event, again=event.again))
        return events

    def _drain(self) -> None:
        """Take what was emitted until now."""
        if self._subscription:
            end, last = time.monotonic() + _DRAIN, self._subscription.clock()
            self._subscription.look()
            while time.monotonic() < end and (events := self._take(0.001)):
                if min(event.emitted for event in events) > last:
                    return

    # -- events in hand -------------------------------------------------------------------------------------------

    def _process_queue(self) -> None:
        """Store events, one after the other, until the end; the worker's thread."""
        ended = False
        while not ended or self._failed:
            try:
                work = self._next(ended)
            except queue.Empty:
                self._trim(idle=True)
                continue
            if work is None:
                ended = True
                continue
            self._current = work
            if self._giving_up and work.event:
                self._leave(work, "it was stopped")
            else:
                self._process(work)
            self._current = None
            self._trim(idle=self._payload_queue.empty())
        self._end()
        self._trim(idle=True)

    def _end(self) -> None:  # noqa: B027  most have nothing to do
        """Do what is due after the last event; called in the worker's thread."""

    def _next(self, ended: bool) -> Work | None:
        """Return the next event to be stored, one that failed when its time has come; None at the end.

        Raises:
            queue.Empty: there is none now.
        """
        now = time.monotonic()
        if self._failed and (ended or self._failed[0][0] <= now or len(self._failed) >= _QUEUE):
            due, _, work = heapq.heappop(self._failed)
            self._stop_event.wait(max(0.0, due - now))
            return work
        return self._payload_queue.get(timeout=min(_WAIT, self._failed[0][0] - now) if self._failed else _WAIT)

    def _process(self, work: Work) -> None:
        """Store an event and acknowledge it, or see to it that it is tried again, or write its dead letter."""
        while True:
            try:
                if self._attempt(work):
                    return
            except Settled:
                return self._let_go(work)
            except ServerError as error:
                work.again = True
                if not self._waited(work, str(error)):
                    self._giving_up = True
                    return

    def _attempt(self, work: Work) -> bool:
        """Try once; tell whether the event is done with for now."""
        try:
            self._store_one(work)
        except (Settled, ServerUnreachable, ServerTimeout):
            raise
        except Exception as error:  # noqa: BLE001  whatever a format, a template or a disk raises
            work.again = True
            work.tries += 1
            self._failures += 1
            hopeless = isinstance(error, _HOPELESS) or work.tries > self.max_retries
            return self._bury(work, error) if hopeless else self._try_later(work, error)
        self._finish(work)
        if work.noted and work.again:  # it has a dead letter, or may have become one before it was acknowledged
            deadletters.remove(self.dead_letters, self.name, work.identity)
        self._stored += 1
        self._resume()
        return True

    def _store_one(self, work: Work) -> None:
        payload, metadata = self._content(work)
        self._store(work.source, payload, {**self.metadata, **metadata})

    def _content(self, work: Work) -> tuple[Any, Mapping[str, Any]]:
        """Return payload and metadata."""
        if work.data is not None:
            return work.data
        assert work.event and self._ledger
        return self._ledger.payload(work.event), work.event.metadata

    def _finish(self, work: Work) -> None:
        """Acknowledge an event: its file, or its dead letter, is on disk."""
        if self._ledger and work.noted:
            self._ledger.acknowledge(work.event, work.notes)
        self._let_go(work)

    def _let_go(self, work: Work) -> None:
        if work.event and self._subscription:
            self._subscription.done(work.event)

    def _trim(self, idle: bool) -> None:
        try:
            if self._ledger:
                self._ledger.trim(idle)
        except SharedDataError as error:
            log.debug("archiver %s: acknowledged events are not dropped yet: %s", self.name, error)

    # -- events that fail -----------------------------------------------------------------------------------------

    def _try_later(self, work: Work, error: Exception) -> bool:
        """Tell whether others come first."""
        log.warning(
            "archiver %s: %s: try %d of %d failed: %s", self.name, work.identity, work.tries, self.max_retries + 1,
            _words(error),
        )  # fmt: skip
        pause = _PAUSES[min(work.tries, len(_PAUSES)) - 1]
        if self._stop_event.is_set() and work.event:
            self._leave(work, _words(error))
            return True
        if self._in_order:
            self._stop_event.wait(pause)
            return False
        heapq.heappush(self._failed, (time.monotonic() + pause, next(self._order), work))
        return True

    def _bury(self, work: Work, error: Exception) -> bool:
        """Write an event's dead letter, then acknowledge it; tell whether that is done with."""
        what = f"archiver {self.name}: the event {work.identity} of {work.source}"
        if work.letter:
            log.error("%s failed again: %s: its dead letter stays: %s", what, _words(error), work.letter)
            self._dead += 1
            return True
        try:
            payload, metadata = self._content(work)
        except DecodeError:  # what is left of a damaged event
            payload, metadata = None, {}
        try:
            letter = Letter(self.name, work.identity, work.source, dict(metadata), payload, _words(error))
            path = letter.write(self.dead_letters)
        except OSError as full:
            return not self._waited(work, f"{_words(error)}; nor its dead letter: {_words(full)}")
        log.error("%s is a dead letter: %s: metadata: %s: it is in %s: mend the cause, then `shareddata archive "
                  "--retry-dead-letters FILE`", what, _words(error), shown(metadata), path)  # fmt: skip
        self._finish(work)
        self._dead += 1
        self._resume()
        return True

    def _waited(self, work: Work, reason: str) -> bool:
        """Wait a second, as nothing can be done now; False when the archiver is being stopped."""
        if not self._paused:
            log.error("archiver %s waits: %s: nothing is lost, it goes on by itself", self.name, reason)
        self._paused = reason
        if not self._stop_event.wait(_WAIT):
            return True
        self._leave(work, reason)
        return False

    def _resume(self) -> None:
        if self._paused:
            log.warning("archiver %s goes on", self.name)
        self._paused = ""

    def _leave(self, work: Work, reason: str) -> None:
        """Let an event be, at the end: who comes next is given it again."""
        if work.noted:
            log.warning("archiver %s: %s is left for the next start: %s", self.name, work.identity, reason)
        else:
            log.error("archiver %s: an event of %s, which was fed, is lost: %s", self.name, work.source, reason)
        self._let_go(work)

    # -- the end --------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop the background threads: what was fed, and what was emitted until now, is stored before they end.

        Events that cannot be stored now stay where they are, for the next start.

        Redis: as for the events.
        """
        if os.getpid() != self._pid:
            return  # a forked child has no threads to stop
        self._stop_event.set()
        self._reader_thread.join()
        self._worker_thread.join()

    def _teardown(self) -> None:
        """Stop, and close what was opened. A program that starts archivers from a configuration calls it at its end.

        Redis: as for the events.
        """
        self._stop()
        self._close_connections()

    def _close_connections(self) -> None:
        for each in (self._subscription, self._ledger):
            if each:
                each.close()

    def close(self) -> None:
        """Stop, and close what was opened; the same as leaving its `with` block.

        Redis: as for the events.
        """
        self._teardown()


_running: "weakref.WeakSet[DataArchiver]" = weakref.WeakSet()


@atexit.register
def _close_at_exit() -> None:
    for archiver in list(_running):
        archiver.close()


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
