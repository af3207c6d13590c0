"""Append-only streams: reading every entry, in order, and knowing exactly what was missed.

It knows Redis streams, their ids and how many entries they ever had. It must not know who writes them or what a
trame is for. Invariants:

1. Entries come in the order of their ids, each once.
2. What was trimmed before it could be read is counted exactly: the ordinal of a stream's oldest entry is
   `entries-added - length`, asked in the same transaction as the entries. A follower that is woken by each entry as it
   is written asks once a second.
3. After a reconnection the place is looked for again: what the server lost that had been read (a failover to a replica
   that did not have it) is counted in `lost`, and nothing that was written since is passed over.
4. While nothing is there to read, the reader waits in the server (XREAD BLOCK) and the entry itself wakes it: one hop.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from shareddata.connection import Connection
from shareddata.eras import Decode
from shareddata.errors import ServerRefused, ServerTimeout, ServerUnreachable
from shareddata.memory import SharedMemory
from shareddata.wire import Layout, bulk, head, pack, transaction

log = logging.getLogger("shareddata")

_PAGE = 1000  # entries read at once
_KNOWN = 512  # ids of entries that were read last, to be looked for after a reconnection
_FEW = 16  # entries asked for at once, then
_BLOCK = 1.0  # seconds, or half of the time-out: silence longer than the time-out then means a dead link
_PAGE_BYTES = 1_000_000  # of many histories: about so many bytes of each at once
_ELEMENT = 16  # bytes of a value, for that
_identity = itemgetter(0)  # of an entry
_CHECK_EVERY = 1.0  # seconds between two looks at what was trimmed, while each entry wakes the reader
_RECENT = 64  # entries of each sender among which a repeated one is looked for


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

    def __init__(self, key: str, subject: str, since: str = "0-0", ordinal: int = 0, page: int = _PAGE) -> None:
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

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        self._opened = connection.opened
        if isinstance(since, str):
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


class Follower:
    """An iterator over every flushed trame of a record, from its history.

    Made by `DataDict.follow_data`; its place is fixed when it is made. It belongs to one thread at a time.

    Args:
        shm: the shared memory.
        layout: the record.
        since: None from now on, 0 from the oldest entry that is kept, seconds since 1970, or an id to begin after.
        timeout: seconds of silence after which the iteration ends, None for never.
        name: the application, for `CLIENT LIST`.

    Attributes:
        repeated: entries that were dropped because the same sender had written the same before: a flush of unknown
            outcome that was repeated.

    When the server goes, the iteration waits for it and goes on where it was. With a timeout, it raises instead when
    that time is over and the server is not back.

    Redis: XREAD; MULTI, XRANGE, XINFO STREAM, EXEC; XREVRANGE where it begins in the past.
    """

    def __init__(
        self,
        shm: SharedMemory,
        layout: Layout,
        since: float | str | None = None,
        timeout: float | None = None,
        name: str = "shareddata",
    ) -> None:
        if not layout.has_history:
            raise ValueError(
                f'{layout} has no history: describe it with "history": 256 or a time, or use listen_to_datas'
            )
        self._shm = shm
        self._layout = layout
        self._timeout = timeout
        self._buffer: deque[tuple[bytes, Sequence[bytes]]] = deque()
        self._recent: dict[bytes, dict[bytes, Sequence[bytes]]] = {}
        self._block = _block(shm.timeout)
        self._key = layout.history_key.encode()
        self._request = self._prepare(self._block)
        self._place = Place(layout.history_key, layout.history)
        self._decode: Decode = layout.decode_entry
        self._given = ""  # the id of what was returned last; what was read may be further
        self.repeated = 0
        self._connection = shm.connect(name)
        try:
            self._connection.open()
            self._place.begin(self._connection, since)
            if since is not None:
                self._decode = shm.decoder(layout)
        except BaseException:
            self._connection.close()
            raise

    def __repr__(self) -> str:
        return f"<Follower of {self._layout} at {self.id}: {self.missed} missed, {self.repeated} repeated>"

    def __iter__(self) -> "Follower":
        return self

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        """The id of the entry of the last trame that was returned; give it as `since` to go on after it."""
        return self._given if self._buffer else self._place.id

    @property
    def missed(self) -> int:
        """How many entries were trimmed from the history before they could be read; known a second later at most."""
        return self._place.missed

    @property
    def lost(self) -> int:
        """How many entries were read that the server has lost since, as in a failover; among the last 512."""
        return self._place.lost

    def close(self) -> None:
        """Close the connection; the next step of the iteration would open another one."""
        self._connection.close()

    def __next__(self) -> Any:
        """Return the next trame, waiting for it.

        Raises:
            StopIteration: nothing was flushed for `timeout` seconds.
            ServerUnreachable, ServerTimeout: with a timeout only: the server is away.
            DecodeError: an entry that does not fit the description; the next step goes on behind it.
            DescriptionError: the record was described anew, incompatibly.
        """
        end = None if self._timeout is None else time.monotonic() + self._timeout
        while not self._buffer:
            over = end is not None and time.monotonic() >= end
            try:
                self._connection.open()
                self._connection.settle()
                if self._connection.epoch_news:
                    self._described_anew()
                stands = self._place.stands(self._connection)
                if self._place.behind or not stands or over and self._place.unchecked:
                    self._take(self._place.catch_up(self._connection))
                elif over:
                    raise StopIteration
                else:
                    self._wait(end)
            except (ServerUnreachable, ServerTimeout):
                self._place.behind = True
                if over:
                    raise
        identity, fields = self._buffer.popleft()
        self._given = identity.decode()
        return self._decode(fields, self._given)

    def _described_anew(self) -> None:
        """Go on under a compatible description.

        Redis: as `SharedMemory.recheck`, XREVRANGE.
        """
        try:
            if self._shm.recheck(self._connection, [self._layout]):
                self._decode = self._shm.decoder(self._layout)
        except BaseException:
            self._connection.epoch_news = True
            raise

    def _wait(self, end: float | None) -> None:
        """Wait in the server for the next entries, a second at most.

        Redis: XREAD.
        """
        pause = self._block if end is None else min(self._block, max(1, int((end - time.monotonic()) * 1000)))
        request = self._request if pause == self._block else self._prepare(pause)
        (answer,) = self._connection.read(request + bulk(self._place.id), [self._layout.history])
        if not answer:
            self._place.behind = self._place.unchecked
            return
        if not self._place.stands(self._connection):
            return
        entries = answer[self._key]
        self._place.arrived(entries, awaited=len(entries) == 1)  # most times it came as it was written
        self._take(entries)

    def _prepare(self, pause: int) -> bytes:
        """Return the XREAD that waits for so many milliseconds, but for the id."""
        return head(8, "XREAD", "COUNT", str(_PAGE), "BLOCK", str(pause), "STREAMS", self._key)

    def _take(self, entries: Sequence[Sequence[Any]]) -> None:
        """Put entries into the buffer, but for those that their sender repeated."""
        for identity, fields in entries:
            sender, ts = (fields[3], fields[1]) if len(fields) > 3 else (b"", b"")
            recent = self._recent.setdefault(sender, {})
            if recent.get(ts) == fields:
                self.repeated += 1
                continue
            recent[ts] = fields
            if len(recent) > _RECENT:
                del recent[next(iter(recent))]
            self._buffer.append((identity, fields))


class Histories:
    """The histories of many records, read over one connection: every entry as it is there, none left out.

    Args:
        shm: the shared memory.
        name: the program, for `CLIENT LIST`.

    Attributes:
        places: the place in each record's history, by the record's name.
        connection: the one connection.

    It belongs to one thread at a time; a context manager. What it hands out is not decoded: (id, [name, value, ...]).
    """

    def __init__(self, shm: SharedMemory, name: str = "shareddata") -> None:
        self.connection = shm.connect(name)
        self._shm = shm
        self._block = _block(shm.timeout)
        self.places: dict[str, Place] = {}

    def __enter__(self) -> "Histories":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def follow(self, name: str, since: float | str | None = None, ordinal: int | None = None) -> Place:
        """Begin to read a record's history.

        Args:
            name: the record.
            since: see `Follower`.
            ordinal: when `since` is an id: how many entries the stream ever had up to there, where that is known.

        Raises:
            UnknownData: no such record.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        layout = self._shm.layout(name)
        page = max(1, min(_PAGE, _PAGE_BYTES // _size(layout)))
        if isinstance(since, str) and ordinal is not None:
            place = Place(layout.history_key, layout.history, since, ordinal, page)
        else:
            place = Place(layout.history_key, layout.history, page=page)
            self.connection.open()
            place.begin(self.connection, since)
        self.places[name] = place
        return place

    def forget(self, name: str) -> None:
        """Read a record's history no more."""
        self.places.pop(name, None)

    def described_anew(self) -> bool:
        """Tell whether the records were described anew since the last call.

        Redis: GET, and HGETALL when the epoch is another one.
        """
        if not self.connection.connected or not self.connection.epoch_news:
            return False
        try:
            return self._shm.recheck(self.connection, [])
        except (ServerUnreachable, ServerTimeout):
            return False  # still to be told

    def news(self, wait: float) -> dict[str, Sequence[Any]]:
        """Return what was flushed since the last call, in each record's order; a page of each at most.

        While the server is away there is none; `missed` of the places tells afterwards what was trimmed meanwhile.

        Args:
            wait: seconds to wait for the first entry, a second at most.

        Redis: XREAD, or MULTI, XRANGE and XINFO STREAM for each record, EXEC.
        """
        try:
            self.connection.open(min(wait, _BLOCK))
            self.connection.settle()
            for place in self.places.values():
                if not place.stands(self.connection):
                    place.resume(self.connection)
            behind = [name for name, place in self.places.items() if place.behind]
            return self._caught_up(behind) if behind else self._arrived(wait)
        except (ServerUnreachable, ServerTimeout):
            for place in self.places.values():
                place.behind = True
            return {}

    def entries(self, name: str, since: float | str = 0, until: str = "") -> Iterator[Any]:
        """Yield the entries of one history that are there, in order, and end.

        Args:
            name: the record.
            since: see `Follower`.
            until: the id after which it ends; the last one of now if empty.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC for each page.
        """
        place = self.follow(name, since)
        until = until or place.last(self.connection)
        while place.behind:
            for entry in place.catch_up(self.connection):
                if later(entry[0].decode(), until):
                    place.behind = False
                    break
                yield entry

    def _caught_up(self, names: Sequence[str]) -> dict[str, Sequence[Any]]:
        places = [self.places[name] for name in names]
        commands = [command for place in places for command in place.commands()]
        try:
            answers = self.connection.read(transaction(commands), [place.subject for place in places for _ in "12"])
        except ServerRefused as error:
            if "no such key" not in str(error):
                raise
            return {names[0]: places[0].catch_up(self.connection)}  # one by one, the others at the next calls
        if not all(place.stands(self.connection) for place in places):
            return {}
        return {name: self.places[name].answered(*answers[2 * i : 2 * i + 2]) for i, name in enumerate(names)}

    def _arrived(self, wait: float) -> dict[str, Sequence[Any]]:
        """Wait in the server, for all records at once.

        Redis: XREAD.
        """
        if not self.places:
            self.connection.wait(wait)
            return {}
        keys = {place.key.encode(): name for name, place in self.places.items()}
        page = min(place.page for place in self.places.values())
        pause = max(1, min(self._block, int(1000 * wait)))
        ids = [place.id for place in self.places.values()]
        answer = self.connection.ask("XREAD", "COUNT", page, "BLOCK", pause, "STREAMS", *keys, *ids)
        if not all(place.stands(self.connection) for place in self.places.values()):
            return {}
        news = {keys[key]: entries for key, entries in (answer or {}).items()}
        for name, entries in news.items():
            self.places[name].arrived(entries)
        return news


def _block(timeout: float) -> int:
    """Return for how many milliseconds a reader waits in the server."""
    return int(1000 * min(_BLOCK, timeout / 2))


def _size(layout: Layout) -> int:
    """Return about how many bytes a trame has."""
    return sum(_ELEMENT * math.prod(field.shape) if field.dtype else _ELEMENT for field in layout.record.fields)


def _before(identity: str) -> str:
    """Return the id before an id."""
    milliseconds, number = (int(part) for part in identity.split("-"))
    return f"{milliseconds}-{number - 1}" if number else f"{max(0, milliseconds - 1)}-18446744073709551615"


def later(one: str, other: str) -> bool:
    """Tell whether a stream id is later than another."""
    return [int(part) for part in one.split("-")] > [int(part) for part in other.split("-")]
