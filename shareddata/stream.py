"""One history followed: every flushed trame of a record, in order, and what was missed counted.

It knows a record's history. It must not know who writes it, nor what a trame is for. Invariants:

1. Trames come in the order of their entries, each once; what a sender repeated after a lost answer is dropped.
2. While nothing is there to read, the reader waits in the server (XREAD BLOCK) and the entry itself wakes it: one hop.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from shareddata.eras import Decode
from shareddata.errors import ServerTimeout, ServerUnreachable
from shareddata.memory import SharedMemory
from shareddata.place import PAGE, Place, block
from shareddata.wire import Layout, bulk, head

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
        self._block = block(shm.timeout)
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
        return head(8, "XREAD", "COUNT", str(PAGE), "BLOCK", str(pause), "STREAMS", self._key)

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
