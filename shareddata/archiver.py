"""Archivers: where their events come from, how they begin and how they end.

It knows the two threads of an archiver and what is put between them. It must not know what is done with an event
(`eventworker`), how events stand in Redis (`subscription`), nor any format of files. Invariants:

1. So many events are in hand at most; who feeds more waits.
2. Stopping stores what was fed and what was emitted before the stop.
3. A forked child has no threads, and leaves its parent's archivers alone.
"""

import atexit
import hashlib
import json
import logging
import os
import queue
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shareddata import deadletters, memory
from shareddata.errors import FieldError, SharedDataError
from shareddata.eventworker import IN_HAND, EventWorker, Status, Work
from shareddata.ledger import Ledger
from shareddata.memory import SharedMemory
from shareddata.subscription import Event, Subscription
from shareddata.wire import shown

__all__ = ["DataArchiver", "Status", "Work"]

log = logging.getLogger("shareddata")

_WAIT = 1.0  # seconds between two tries to read
_LISTEN = 0.25  # seconds that events are waited for at once: so soon a stop is noticed
_DRAIN = 10.0  # seconds at most for what was emitted before the stop


class DataArchiver(EventWorker):
    """Stores the events of sources: a subclass says how, in `_store`. The constructor connects and begins.

    Two threads belong to it, one that reads events and one that stores them, until it is stopped; `with` stops it.

    Args:
        object_selector: the source's name, or a pattern: `cam-*`; `**` crosses slashes.
        event_name: the name of its event.
        default_metadata: metadata for events that don't have them.
        max_retries: how often a failed event is tried again, within 10 s, before it becomes a dead letter.
        name: this archiver's name: after a stop it goes on where it was. Without one it follows from the class and
            what is archived where; archivers of the same name share the events.
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

    def __init__(
        self,
        object_selector: str,
        event_name: str,
        default_metadata: Mapping[str, Any] | None = None,
        max_retries: int = 5,
        *,
        name: str | None = None,
        dead_letters: str | os.PathLike[str] | None = None,
        since: float | None = 0,
        subscribe: bool = True,
        shm: SharedMemory | None = None,
    ) -> None:
        self.object_selector, self.event_name = object_selector, event_name
        metadata, letters = dict(default_metadata or {}), Path(dead_letters or deadletters.usual_folder())
        if dead_letters is not None:
            letters.mkdir(parents=True, exist_ok=True)
        super().__init__(name or self._usual_name(metadata), metadata, max_retries, letters)
        self._feeding = threading.Lock()
        self._pid = os.getpid()
        self._shm = shm = memory.default(shm) if subscribe else shm
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

    def _usual_name(self, metadata: Mapping[str, Any]) -> str:
        """Return a name for an archiver that was given none: the same for the same work."""
        what = [self.object_selector, self.event_name, metadata, self._distinction()]
        digest = hashlib.sha256(json.dumps(what, default=str, sort_keys=True).encode()).hexdigest()[:8]
        return f"{type(self).__name__}-{digest}"

    def _distinction(self) -> str:
        """Return what distinguishes this archiver from another one of the same events."""
        return ""

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
        events = self._subscription.take(IN_HAND, wait)
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
