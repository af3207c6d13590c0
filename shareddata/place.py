"""A reader's place in a stream: what was read, and how much was trimmed before it could be.

It knows Redis streams, their ids and how many entries they ever had. It must not know records, nor what entries are
for. Invariants:

1. Entries come in the order of their ids, each once.
2. What was trimmed before it could be read is counted exactly: the ordinal of a stream's oldest entry is
   `entries-added - length`, asked in the same transaction as the entries. A reader that is woken by each entry as it is
   written asks once a second.
3. After a reconnection the place is looked for again: what the server lost that had been read (a failover to a replica
   that did not have it) is counted in `lost`, and nothing that was written since is passed over.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from shareddata.connection import Connection
from shareddata.errors import ServerRefused
from shareddata.wire import pack, transaction

log = logging.getLogger("shareddata")

PAGE = 1000
"""Entries read at once."""

BLOCK = 1.0
"""Seconds that a reader waits in the server, or half of the time-out: longer silence then means a dead link."""

_KNOWN = 512  # ids of entries that were read last, to be looked for after a reconnection
_FEW = 16  # entries asked for at once, then
_CHECK_EVERY = 1.0  # seconds between two looks at what was trimmed, while each entry wakes the reader
_identity = itemgetter(0)  # of an entry


class Place:
    """A reader's place in one stream, and how many entries were trimmed before it could read them.

    Args:
        key: the stream.
        subject: what it is, for messages.
        since: an entry's id: the reader has read up to there.
        ordinal: how many entries the stream ever had up to there.
        page: how many entries are read at once.

    Attributes:
        id: the last entry that was read.
        ordinal: how many entries the stream ever had up to there.
        missed: entries that were trimmed before they could be read.
        lost: entries that were read, and that the server has lost since.
        behind: whether there may be entries to read without waiting.
        unchecked: whether entries arrived since it was last seen what was trimmed.

    It holds no connection: each call names one, of the thread that it is called in.
    """

    def __init__(self, key: str, subject: str, since: str = "0-0", ordinal: int = 0, page: int = PAGE) -> None:
        self.key = key
        self.subject = subject
        self.page = page
        self.id = since
        self.ordinal = ordinal
        self.missed = 0
        self.lost = 0
        self.behind = True
        self.unchecked = False
        self._checked = 0.0  # when it was last asked what was trimmed, by the monotonic clock
        self._read: deque[bytes] = deque(maxlen=_KNOWN)
        self._opened = 0  # which connection the place was looked for on

    def __repr__(self) -> str:
        return f"<Place in the {self.subject} at {self.id}: {self.missed} missed>"

    def begin(self, connection: Connection, since: float | str | None) -> None:
        """Go to where reading is to begin: see `Follower`.

        Raises:
            ValueError: a text that is no entry's id.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        self._opened = connection.opened
        if isinstance(since, str):
            if not re.fullmatch(r"\d+(-\d+)?", since):
                raise ValueError(f"since={since!r}: expected seconds since 1970, or an entry's id like '1784540000-0'")
            start = since
        elif since:
            start = f"{max(0, int(since * 1000) - 1)}-18446744073709551615"
        else:
            _, added, length, last = self._page(connection, "-", "+", 1)
            self.id, self.ordinal = (last, added) if since is None else ("0-0", added - length)
            return
        entries, added, length, _ = self._page(connection, "-", start)
        ordinal = added - length + len(entries)
        while len(entries) == self.page:
            entries = self._page(connection, f"({entries[-1][0].decode()}", start)[0]
            ordinal += len(entries)
        self.id, self.ordinal = start, ordinal

    def catch_up(self, connection: Connection) -> Sequence[Any]:
        """Return what is there without waiting, a page at most, and count what was trimmed.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        connection.settle()
        if not self.stands(connection):
            self.resume(connection)
        page = self._page(connection, f"({self.id}", "+")
        return self._turn(*page) if self.stands(connection) else []

    def stands(self, connection: Connection) -> bool:
        """Tell whether the place was looked for on this connection, which may have been opened anew since.

        What was answered otherwise may come from another server, and is not to be taken.
        """
        self.behind = self.behind or connection.opened != self._opened
        return connection.opened == self._opened

    def last(self, connection: Connection) -> str:
        """Return the id of the stream's last entry there ever was.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        return self._page(connection, "+", "+", 1)[3]

    def resume(self, connection: Connection) -> None:
        """Look for the place again, after a reconnection: the server may be another one, that lacks what was read last.

        Redis: XREVRANGE; where the last entry is not there, XRANGE.
        """
        self._opened = connection.opened
        read = [*self._read]
        if not read:
            return
        kept = self._still_there(connection, read)
        if kept == len(read):
            return
        oldest = connection.ask("XRANGE", self.key, "-", "+", "COUNT", 1)
        if not oldest or later(oldest[0][0].decode(), read[-1].decode()):
            return  # trimmed, or all is gone: `catch_up` finds out
        count = len(read) - kept
        self.id = read[kept - 1].decode() if kept else _before(read[0].decode())
        self.ordinal = max(0, self.ordinal - count)
        self.lost += count
        self._read = deque(read[:kept], maxlen=_KNOWN)
        log.warning(
            "%s, %s: the server has lost %d entries that were read", connection.address.shown, self.subject, count
        )

    def _still_there(self, connection: Connection, read: Sequence[bytes]) -> int:
        """Return up to which of the entries that were read the server has them."""
        known = {identity: number for number, identity in enumerate(read, 1)}
        end = read[-1]
        while True:
            entries = connection.ask("XREVRANGE", self.key, end, read[0], "COUNT", _FEW)
            found = next((known[identity] for identity, _ in entries if identity in known), 0)
            if found or len(entries) < _FEW:
                return found
            end = b"(" + entries[-1][0]

    def commands(self) -> list[bytes]:
        """Return what `catch_up` asks, for a transaction of several places; `answered` takes the answers."""
        return self._commands(f"({self.id}", "+", self.page)

    def answered(self, entries: Sequence[Any], info: Mapping[bytes, Any]) -> Sequence[Any]:
        """Take the answers to `commands`."""
        return self._turn(*_page_of(entries, info))

    def arrived(self, entries: Sequence[Any], awaited: bool = False) -> None:
        """Take entries that XREAD answered; whether anything was trimmed before them is seen by the next `catch_up`.

        Args:
            entries: one at least.
            awaited: whether the reader waited for them, so that nothing can have been trimmed meanwhile: then it is
                enough to look once a second.
        """
        self.ordinal += len(entries)
        self.id = entries[-1][0].decode()
        self._read.extend(map(_identity, entries[-_KNOWN:]))
        self.unchecked = True
        self.behind = not awaited or time.monotonic() - self._checked > _CHECK_EVERY

    def _turn(self, entries: Sequence[Any], added: int, length: int, last: str) -> Sequence[Any]:
        self.unchecked, self._checked = False, time.monotonic()
        if later(self.id, last):  # the server lost the stream's end, or all of it
            self.id, self.ordinal = last, added
            self._read.clear()
            return []
        gone = added - length
        if len(entries) < self.page:  # all there is: the last one's ordinal is the stream's
            self.missed += max(0, added - len(entries) - self.ordinal)
            self.ordinal = added
        else:
            self.missed += max(0, gone - self.ordinal)
            self.ordinal = max(self.ordinal, gone) + len(entries)
        if entries:
            self.id = entries[-1][0].decode()
            self._read.extend(map(_identity, entries[-_KNOWN:]))
        self.behind = len(entries) >= self.page
        return entries

    def _commands(self, first: str, last: str, count: int) -> list[bytes]:
        return [pack("XRANGE", self.key, first, last, "COUNT", count), pack("XINFO", "STREAM", self.key)]

    def _page(
        self, connection: Connection, first: str, last: str, count: int | None = None
    ) -> tuple[Sequence[Any], int, int, str]:
        """Return entries between two ids, how many were ever added, how many are kept, and the last id.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        connection.settle()
        request = transaction(self._commands(first, last, count or self.page))
        try:
            entries, info = connection.read(request, [self.subject] * 2)
        except ServerRefused as error:
            if "no such key" in str(error):  # nothing was ever flushed
                return [], 0, 0, "0-0"
            raise
        return _page_of(entries, info)


def _page_of(entries: Sequence[Any], info: Mapping[bytes, Any]) -> tuple[Sequence[Any], int, int, str]:
    return entries, info[b"entries-added"], info[b"length"], info[b"last-generated-id"].decode()


def block(timeout: float) -> int:
    """Return for how many milliseconds a reader waits in the server."""
    return int(1000 * min(BLOCK, timeout / 2))


def _before(identity: str) -> str:
    """Return the id before an id."""
    milliseconds, number = (int(part) for part in identity.split("-"))
    return f"{milliseconds}-{number - 1}" if number else f"{max(0, milliseconds - 1)}-18446744073709551615"


def later(one: str, other: str) -> bool:
    """Tell whether a stream id is later than another."""
    return [int(part) for part in one.split("-")] > [int(part) for part in other.split("-")]
