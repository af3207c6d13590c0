"""Hearing a stream: a thread that takes every entry, in order, and can be asked to have taken all that is there.

It knows a stream's place, waiting in the server, and how such a wait is ended. It must not know what entries mean.
Invariants:

1. Entries come in order, each once, also when the server went and came back; what was trimmed before it could be read
   is counted and logged.
2. It hears what is written after it was made: its place is fixed then, before it is started.
3. `settle` returns when everything is taken that was in the stream when it was called, or says why it is not.
4. Nothing that is raised in the thread is swallowed: it is logged, the entry counts as missed, and the thread goes on.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from shareddata.connection import Connection
from shareddata.errors import ServerError, ServerRefused, ServerTimeout, ServerUnreachable
from shareddata.memory import SharedMemory
from shareddata.place import Place

log = logging.getLogger("shareddata")

_BLOCK = 1.0  # seconds of a wait in the server, or half of the time-out
_PAGE = 200  # entries read at once, at most
_PAGE_BYTES = 2_000_000  # and about so many bytes: an answer has to come within the time-out, over slow links too
_UNBLOCK_EVERY = 0.02  # seconds between attempts to wake the thread
_AGAIN = 0.5  # seconds after which a server that refused is asked again

_all: "weakref.WeakSet[Hearing]" = weakref.WeakSet()


def _free_locks_in_child() -> None:
    for each in list(_all):
        each._changed = threading.Condition()


os.register_at_fork(after_in_child=_free_locks_in_child)

Take = Callable[[str, Sequence[bytes]], None]
"""What takes an entry: its id, names and values one after the other. It is called again for the same entry when it
raises that the server went: it asks the server before it does anything else."""


class Hearing:
    """A thread that hears a stream.

    Args:
        shm: the shared memory.
        key: the stream.
        subject: what it is, for messages.
        take: called in the thread for each entry.
        unblock: wakes a connection, given its id, that waits in the server.

    Raises:
        ServerError: the stream's end cannot be read.

    Redis: CLIENT ID; MULTI, XRANGE, XINFO STREAM, EXEC; XREAD.
    """

    def __init__(
        self, shm: SharedMemory, key: str, subject: str, take: Take, unblock: Callable[[int], None]
    ) -> None:
        _all.add(self)
        self._subject = subject
        self._take = take
        self._unblock = unblock
        self._client = 0
        self._block = int(1000 * min(_BLOCK, shm.timeout / 2))
        self._changed = threading.Condition()
        self._asked = self._settled = 0  # how often `settle` was called, and up to which call all is taken
        self._ending = False
        self._trouble: Exception | None = None
        self._said = ""
        self.missed = 0
        self._place = Place(key, subject, page=2)
        self._connection = shm.connect(subject, self._opened)
        try:
            self._connection.open()
            self._place.begin(self._connection, None)
        except BaseException:
            self._connection.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"shareddata: {subject}", daemon=True)

    def start(self) -> "Hearing":
        """Begin to take: the thread runs until `end`."""
        self._thread.start()
        return self

    def __repr__(self) -> str:
        return f"<Hearing of {self._subject}: {self.missed} missed>"

    @property
    def here(self) -> bool:
        """Whether the caller is the thread itself: it cannot wait for itself."""
        return threading.current_thread() is self._thread

    @property
    def alive(self) -> bool:
        """Whether the thread runs: in a forked child it does not."""
        return self._thread.is_alive()

    def lose(self, count: int, why: str) -> None:
        """Count entries that were read, but whose values were gone before they could be taken."""
        self.missed += count
        log.warning("%s: %d missed: %s (%d so far)", self._subject, count, why, self.missed)

    def settle(self) -> None:
        """Wait until all is taken that is in the stream now. A caller in the thread itself does not wait.

        Raises:
            ServerError: the server is away, so that nobody knows what is there.
        """
        if self.here:
            return
        with self._changed:
            self._asked += 1
            asked, self._trouble = self._asked, None
        while self._settled < asked and self.alive:
            if self._trouble is not None:
                raise self._trouble
            self._wake()
            with self._changed:
                self._changed.wait_for(lambda: self._settled >= asked or self._trouble, _UNBLOCK_EVERY)

    def end(self, settle: bool = True) -> None:
        """Take what is in the stream now, and end the thread.

        Args:
            settle: False: take no more than what was read already.

        Raises:
            ServerError: see `settle`; the thread ends all the same.
        """
        try:
            if settle:
                self.settle()
        finally:
            self._ending = True
            if self._thread.ident is None:
                self._connection.close()  # it was never started
            while self.alive and not self.here:
                self._wake()
                self._thread.join(_UNBLOCK_EVERY)

    def _wake(self) -> None:
        """Wake the thread where it waits in the server; where that is refused it ends its wait by itself."""
        if self._client:
            try:
                self._unblock(self._client)
            except ServerError:
                pass  # the wait is over within a second anyway

    # -- in the thread --------------------------------------------------------------------------------------------

    def _opened(self, connection: Connection) -> None:
        self._client = 0
        try:
            self._number = int(connection.ask("CLIENT", "ID"))
        except ServerRefused:
            self._number = 0

    def _run(self) -> None:
        try:
            while not self._ending:
                asked = self._asked
                try:
                    entries = self._next(wait=asked == self._settled)
                except ServerError as error:
                    self._away(error)
                    continue
                self._said = ""
                self._set_page(entries)
                for identity, fields in entries:
                    self._give(identity.decode(), fields)
                if not entries and not self._place.behind:
                    with self._changed:
                        self._settled = asked
                        self._changed.notify_all()
        finally:
            self._connection.close()

    def _next(self, wait: bool) -> Sequence[Any]:
        """Return the next entries; none when the wait was over, or nobody wants to wait."""
        self._connection.open()
        self._connection.settle()
        if self._place.behind or not wait or not self._place.stands(self._connection):
            before = self._place.missed
            entries = self._place.catch_up(self._connection)
            if self._place.missed > before:
                self.lose(self._place.missed - before, "they were trimmed before they could be read")
            return entries
        key = self._place.key
        self._client = self._number
        try:
            place = self._place
            answer = self._connection.ask(
                "XREAD", "COUNT", place.page, "BLOCK", self._block, "STREAMS", key, place.id
            )
        finally:
            self._client = 0
        if not answer or not self._place.stands(self._connection):
            return []
        entries = answer[key.encode()]
        self._place.arrived(entries, awaited=True)  # with what was trimmed the server answers a whole entry
        return entries  # type: ignore[no-any-return]

    def _set_page(self, entries: Sequence[Any]) -> None:
        """Choose how many entries are read next, from the size of these."""
        if entries:
            size = sum(len(each) for _, fields in entries for each in fields)
            self._place.page = max(2, min(_PAGE, _PAGE_BYTES * len(entries) // max(1, size)))

    def _give(self, identity: str, fields: Sequence[bytes]) -> None:
        """Hand an entry on; again when the server went before it was taken."""
        while True:
            try:
                self._take(identity, fields)
                return
            except (ServerUnreachable, ServerTimeout) as error:
                if self._ending:
                    self.lose(1, f"the server is away: {error}")
                    return
                self._away(error)
            except Exception as error:
                log.exception("%s: entry %s", self._subject, identity)
                self.lose(1, f"{type(error).__name__}: {error}")
                return

    def _away(self, error: ServerError) -> None:
        self._place.behind = True
        if not isinstance(error, ServerUnreachable | ServerTimeout) and str(error) != self._said:
            self._said = str(error)
            log.error("%s: %s: asked again until it is mended", self._subject, error)
        with self._changed:
            if self._asked > self._settled:
                self._trouble = error
            self._changed.notify_all()
            if not self._ending:
                self._changed.wait(_AGAIN if isinstance(error, ServerRefused) else 0.05)
