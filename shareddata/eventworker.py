"""What is done with an event in hand: it is stored and acknowledged, tried again, or becomes a dead letter.

It knows tries, pauses and dead letters. It must not know where events come from (`archiver`), how they stand in Redis
(`ledger`), nor any format of files (`_store` of a subclass). Invariants:

1. An event is acknowledged after its file is on disk under its name, or after its dead letter is.
2. What fails is tried again beside the events that follow; what can't succeed, a name that cannot be made or a payload
   that the format cannot hold, is not.
3. Where neither file nor dead letter can be written, the worker waits: nothing is acknowledged, nothing dropped.
"""

import heapq
import itertools
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from shareddata import deadletters
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
from shareddata.ledger import Ledger, Settled
from shareddata.subscription import Event, Subscription
from shareddata.wire import shown

log = logging.getLogger("shareddata")

IN_HAND = 100
"""How many events are in hand at most."""

_WAIT = 1.0  # seconds between two tries while nothing can be written
_PAUSES = (0.1, 0.3, 0.9, 2.7, 4.0)  # seconds before the second try, the third, ...
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


class EventWorker(ABC):
    """Stores events from a queue, one after the other, in a thread of its own: see `DataArchiver`.

    Args:
        name: the archiver's.
        metadata: for events that don't have them.
        max_retries: how often a failed event is tried again.
        dead_letters: the folder of those that are given up.
    """

    _in_order = False
    """Whether events that follow wait for one that failed."""

    def __init__(self, name: str, metadata: Mapping[str, Any], max_retries: int, dead_letters: Path) -> None:
        self.name = name
        self.metadata = dict(metadata)
        self.max_retries = max_retries
        self.dead_letters = dead_letters
        self._subscription: Subscription | None = None
        self._ledger: Ledger | None = None
        self._payload_queue: queue.Queue[Work | None] = queue.Queue(IN_HAND)
        self._failed: list[tuple[float, int, Work]] = []  # a heap of what is to be tried again
        self._order = itertools.count()
        self._current: Work | None = None
        self._stop_event = threading.Event()
        self._stored = self._failures = self._dead = 0
        self._paused = self._last = ""
        self._giving_up = False

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
        if self._failed and (ended or self._failed[0][0] <= now or len(self._failed) >= IN_HAND):
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


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
