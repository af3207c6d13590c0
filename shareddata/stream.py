"""Append-only streams: reading every entry, in order, and knowing exactly what was missed.

It knows Redis streams, their ids and how many entries they ever had. It must not know who writes them or what a
trame is for. Invariants:

1. Entries come in the order of their ids, each once.
2. What was trimmed before it could be read is counted exactly: the ordinal of a stream's oldest entry is
   `entries-added - length`, asked in the same transaction as the entries.
3. While nothing is there to read, the reader waits in the server (XREAD BLOCK) and the entry itself wakes it: one hop.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from shareddata.connection import Connection
from shareddata.errors import ServerRefused, ServerTimeout, ServerUnreachable
from shareddata.memory import SharedMemory
from shareddata.wire import Layout, bulk, pack, transaction

_PAGE = 1000  # entries read at once
_BLOCK = 1.0  # seconds, or half of the time-out: silence longer than the time-out then means a dead link
_RECENT = 64  # entries of each sender among which a repeated one is looked for


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
        missed: entries that were trimmed from the history before they could be read.
        repeated: entries that were dropped because the same sender had written the same before: a flush of unknown
            outcome that was repeated.
        id: the last entry's id; give it as `since` to go on after it.

    When the server goes, the iteration waits for it and goes on where it was. With a timeout, it raises instead when
    that time is over and the server is not back.

    Redis: XREAD; MULTI, XRANGE, XINFO STREAM, EXEC.
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
        self._behind = True
        self._block = int(1000 * min(_BLOCK, shm.timeout / 2))
        self.missed = 0
        self.repeated = 0
        self._connection = shm.connect(name)
        try:
            self._connection.open()
            self.id, self._ordinal = self._place(since)
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
                    self._shm.recheck(self._connection, [self._layout])
                if self._behind:
                    self._catch_up()
                elif over:
                    raise StopIteration
                else:
                    self._wait(end)
            except (ServerUnreachable, ServerTimeout):
                self._behind = True
                if over:
                    raise
        identity, fields = self._buffer.popleft()
        return self._layout.decode_entry(fields, identity.decode())

    def _catch_up(self) -> None:
        """Read what is there without waiting, and count what was trimmed.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        entries, added, length, last = self._page(f"({self.id}", "+")
        if _later(self.id, last):  # the server lost the stream's end, or all of it
            self.id, self._ordinal = last, added
            return
        gone = added - length
        if len(entries) < _PAGE:  # all there is: the last one's ordinal is the stream's
            self.missed += max(0, added - len(entries) - self._ordinal)
            self._ordinal = added
        else:
            self.missed += max(0, gone - self._ordinal)
            self._ordinal = max(self._ordinal, gone) + len(entries)
        self._take(entries)
        self._behind = bool(entries)

    def _wait(self, end: float | None) -> None:
        """Wait in the server for the next entries, a second at most.

        Redis: XREAD.
        """
        pause = self._block if end is None else min(self._block, max(1, int((end - time.monotonic()) * 1000)))
        key = self._layout.history_key
        answer = self._connection.ask("XREAD", "COUNT", _PAGE, "BLOCK", pause, "STREAMS", key, self.id)
        if answer:
            entries = answer[key.encode()]
            self._ordinal += len(entries)
            self._take(entries)
            self._behind = True  # what came meanwhile, and whether anything was trimmed

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
        if entries:
            self.id = entries[-1][0].decode()

    # -- where to begin -------------------------------------------------------------------------------------------

    def _place(self, since: float | str | None) -> tuple[str, int]:
        """Return the id after which to begin, and how many entries the stream ever had up to there."""
        if isinstance(since, str):
            start = since
        elif since:
            start = f"{max(0, int(since * 1000) - 1)}-18446744073709551615"
        else:
            _, added, length, last = self._page("-", "+", 1)
            return (last, added) if since is None else ("0-0", added - length)
        entries, added, length, _ = self._page("-", start)
        ordinal = added - length + len(entries)
        while len(entries) == _PAGE:
            entries = self._page(f"({entries[-1][0].decode()}", start)[0]
            ordinal += len(entries)
        return start, ordinal

    def _page(self, first: str, last: str, count: int = _PAGE) -> tuple[list[Any], int, int, str]:
        """Return entries between two ids, how many were ever added, how many are kept, and the last id.

        Redis: MULTI, XRANGE, XINFO STREAM, EXEC.
        """
        key = self._layout.history_key
        self._connection.settle()
        request = transaction([pack("XRANGE", key, first, last, "COUNT", count), pack("XINFO", "STREAM", key)])
        try:
            entries, info = self._connection.read(request, [self._layout] * 2)
        except ServerRefused as error:
            if "no such key" in str(error):  # nothing was ever flushed
                return [], 0, 0, "0-0"
            raise
        return entries, info[b"entries-added"], info[b"length"], info[b"last-generated-id"].decode()


def _later(one: str, other: str) -> bool:
    """Tell whether a stream id is later than another."""
    return [int(part) for part in one.split("-")] > [int(part) for part in other.split("-")]


class Extent(NamedTuple):
    """What a numbered stream holds: see `Numbered.extent`."""

    last: int
    """The number of the last entry there ever was, 0 for none."""
    length: int
    """How many entries are kept."""
    cursors: dict[str, int]
    """The committed cursor of each consumer group: the number of the last entry that it is done with."""


class Numbered:
    """A stream whose writer numbers its entries: ids `<number>-0`, from 1 on, each once, with durable cursors.

    A cursor is the last-delivered id of a consumer group: as durable as the entries, and trimming can wait for it.

    Args:
        connection: of one thread of this program.
        key: the stream's.
    """

    def __init__(self, connection: Connection, key: str) -> None:
        self._connection = connection
        self.key = key
        self._head = b"*5\r\n" + bulk("XADD") + bulk(key)

    def entry(self, number: int, field: bytes, value: bytes) -> bytes:
        """Return the command that appends one entry."""
        text = b"%d-0" % number
        return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            *(self._head, len(text), text, len(field), field, len(value), value),
        )

    def extent(self) -> Extent:
        """Return what the stream holds; nothing and no cursors when it does not exist.

        Redis: MULTI, XINFO STREAM, XINFO GROUPS, EXEC.
        """
        self._connection.settle()
        request = transaction([pack("XINFO", "STREAM", self.key), pack("XINFO", "GROUPS", self.key)])
        try:
            info, groups = self._connection.read(request, [self.key] * 2)
        except ServerRefused as error:
            if "no such key" in str(error):
                return Extent(0, 0, {})
            raise
        cursors = {group[b"name"].decode(): _number(group[b"last-delivered-id"]) for group in groups}
        return Extent(_number(info[b"last-generated-id"]), info[b"length"], cursors)

    def read(self, after: int, count: int, beside: bytes = b"") -> tuple[list[tuple[int, bytes, bytes]], Any]:
        """Return entries after a number: number, field and value of each.

        Args:
            after: the number.
            count: how many at most.
            beside: another command of the same transaction, whose answer is returned too.

        Redis: MULTI, XRANGE, EXEC.
        """
        self._connection.settle()
        commands = [pack("XRANGE", self.key, f"({after}-0" if after else "-", "+", "COUNT", count)]
        commands += [beside] if beside else []
        entries, *more = self._connection.read(transaction(commands), [self.key] * len(commands))
        return [(_number(i), fields[0], fields[1]) for i, fields in entries], more[0] if more else None

    def wait(self, after: int, seconds: float) -> bool:
        """Wait until there is an entry after a number; False when none came in that time, a second at most.

        Redis: XREAD.
        """
        pause = max(1, int(1000 * min(_BLOCK, self._connection.timeout / 2, seconds)))
        return bool(self._connection.ask("XREAD", "COUNT", 1, "BLOCK", pause, "STREAMS", self.key, f"{after}-0"))

    def make_cursor(self, name: str) -> None:
        """Make a cursor at the beginning, if there is none of this name.

        Redis: XGROUP CREATE.
        """
        try:
            self._connection.call("XGROUP", "CREATE", self.key, name, "0", "MKSTREAM")
        except ServerRefused as error:
            if "BUSYGROUP" not in str(error):
                raise

    def move_cursor(self, name: str, number: int) -> None:
        """Commit a cursor; it never goes back.

        Redis: XINFO GROUPS, XGROUP SETID.
        """
        if number > self.extent().cursors.get(name, 0):
            self._connection.call("XGROUP", "SETID", self.key, name, f"{number}-0")

    def trim(self, below: int) -> int:
        """Drop the entries below a number; return how many.

        Redis: XTRIM.
        """
        return int(self._connection.call("XTRIM", self.key, "MINID", "=", f"{below}-0"))


def _number(identity: bytes) -> int:
    return int(identity.partition(b"-")[0])
