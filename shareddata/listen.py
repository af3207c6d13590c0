"""Waiting for change: wake-ups from the server, and the newest values of a group.

It knows keyspace notifications, their switch in the server, and tracking invalidations where that switch is out of
reach. It must not know how values are staged or flushed. Invariants:

1. The subscription stands before anything is read, on the same connection: an answer knows of every write that was
   announced before it, so each write wakes at most once, and none between subscription and first read is missed.
2. A listener never yields older values than it has yielded.
3. When nothing was announced for a second the group is read all the same, and yielded if anything differs: a lost
   connection, or notifications that somebody switched off, never hide the last update.
"""

import time
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from shareddata.connection import Connection
from shareddata.errors import ServerRefused, ServerSetupError, ServerTimeout, ServerUnreachable, UnknownData
from shareddata.memory import SharedMemory
from shareddata.names import Names, key_of_channel
from shareddata.wire import Group, Layout, pack

WATCH_EVERY = 1.0
"""Seconds of silence after which a listener reads the group without being told to."""

_NEEDED_FLAGS = "Khx"  # keyspace channels, hash commands, expiry: the smallest set (each event costs the server time)
_NO_NEWS = (b"expire", b"persist")  # events that accompany a write


class Listener:
    """An iterator that yields a group of records whenever the first of them is written by anybody.

    Made by `DataDict.listen_to_datas`; subscribed when it is made. It belongs to one thread at a time.

    Args:
        shm: the shared memory.
        layouts: the records.
        pattern: a glob of record names that are heard instead of the first record.
        timeout: seconds of silence after which the iteration ends, None for never.
        name: the application, for `CLIENT LIST`.

    Attributes:
        heard: how many writes of each record were announced.

    When the server goes, the iteration waits for it, and yields if anything differs when it is back. With a timeout,
    it raises instead when that time is over and the server is not back.

    Redis: CONFIG GET, CONFIG SET, SUBSCRIBE or PSUBSCRIBE (where CONFIG is refused: CLIENT TRACKING); MULTI, HMGET for
    each record, EXEC.
    """

    def __init__(
        self,
        shm: SharedMemory,
        layouts: Sequence[Layout],
        pattern: str | None = None,
        timeout: float | None = None,
        name: str = "shareddata",
    ) -> None:
        if not layouts:
            raise UnknownData("nothing to listen to was named: give listen_to_datas a list of record names")
        self._shm = shm
        self._keys: Names = shm.keys
        self._group = Group(layouts)
        self._tracking = False
        self._pattern = pattern
        self._glob = (pattern or "").replace("[^", "[!")  # as Python's fnmatch has it
        self._timeout = timeout
        self.heard: Counter[str] = Counter()
        self._first, self._name = layouts[0].key.encode(), layouts[0].record.name
        self._connection = shm.connect(name, self._subscribe)
        self._connection.listening = True
        self._ask = self._connection.single if len(layouts) == 1 else self._connection.transact
        try:
            self._connection.open()
            self._seen = self._ask(self._group.request, self._group.layouts)
        except BaseException:
            self._connection.close()
            raise
        self._told()  # what was announced before this answer is no news
        heard = [fnmatchcase(layout.record.name, self._glob) for layout in layouts] if pattern else [True]
        self._compared = [i for i, is_heard in enumerate(heard) if is_heard]

    def __repr__(self) -> str:
        return f"<Listener of {self._pattern or self._group.layouts[0].record.name}>"

    def __iter__(self) -> "Listener":
        return self

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next step of the iteration would open another one."""
        self._connection.close()

    def __next__(self) -> list[Any]:
        """Wait for the next news and return the group's trames.

        Raises:
            StopIteration: nothing was written for `timeout` seconds.
            ServerUnreachable, ServerTimeout: with a timeout only: the server is away.
            ServerRefused, ServerSetupError, DescriptionError, DecodeError: waiting would not help.
        """
        end = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            try:
                if self._wait(end):
                    return self._group.decode(self._seen)
            except (ServerUnreachable, ServerTimeout):
                if end is not None and time.monotonic() >= end:
                    raise
                continue
            if end is not None and time.monotonic() >= end:
                raise StopIteration

    def _wait(self, end: float | None) -> bool:
        """Wait for one wake-up, or a second; read the group, and tell whether there is news.

        The question is sent before what woke us is even looked at: most times it is the announcement of a write, and
        the server reads while we parse.
        """
        connection = self._connection
        opened = connection.opened
        if connection.connected and not connection.messages:
            connection.wait(WATCH_EVERY if end is None else min(WATCH_EVERY, max(0.0, end - time.monotonic())))
        connection.open()
        if connection.epoch_news:
            self._shm.recheck(connection, self._group.layouts)
        before = self._seen
        self._seen = self._ask(self._group.request, self._group.layouts)
        if self._told():
            return True
        if connection.opened > opened:
            return self._seen != before
        return any(self._seen[i] != before[i] for i in self._compared)

    def _told(self) -> bool:
        """Tell whether one of the messages that the last answer knows of speaks of what is heard here; count them."""
        told = False
        for message in self._connection.covered:
            for name in self._news(message):
                self.heard[name] += 1
                told = True
        return told

    def _news(self, message: Sequence[Any]) -> list[str]:
        """Return the names of the records that are heard here, of those that a message says were written."""
        kind = message[0]
        if kind == b"message":  # from the first record's channel, the only one
            return [] if message[2] in _NO_NEWS else [self._name]
        if kind == b"pmessage" and message[3] not in _NO_NEWS:
            keys = [key_of_channel(message[2])]
        elif kind == b"invalidate" and self._tracking:
            keys = message[1] or []
        else:
            return []
        if self._pattern is None:
            return [self._name] if self._first in keys else []
        names = [self._keys.record_of(key.decode(errors="replace")) for key in keys]
        return [name for name in names if name and fnmatchcase(name, self._glob)]

    # -- subscription ---------------------------------------------------------------------------------------------

    def _subscribe(self, connection: Connection) -> None:
        """Ask to be told of writes (called each time the connection was opened)."""
        self._tracking = not _switch_on(connection)
        if self._tracking:
            self._track(connection)
            return
        database = connection.address.database
        if self._pattern is None:
            command = pack("SUBSCRIBE", self._keys.channel(self._first.decode(), database))
        else:
            command = pack("PSUBSCRIBE", self._keys.channel_pattern(self._pattern, database))
        connection.subscribe(command)

    def _track(self, connection: Connection) -> None:
        """Hear by tracking: for one record each read asks to be told; for a pattern all keys of a prefix are told.

        Redis: CLIENT TRACKING.
        """
        if self._pattern is None:
            connection.track("NOLOOP")  # of its own writes there are none: the same as plain tracking
            return
        prefix = self._keys.prefix + self._pattern[: _literal_length(self._pattern)]
        prefixes = [prefix] if self._keys.epoch.startswith(prefix) else [prefix, self._keys.epoch]
        connection.track("BCAST", *[word for p in prefixes for word in ("PREFIX", p)])


def _literal_length(pattern: str) -> int:
    """Return how many characters of a glob stand for themselves."""
    return next((i for i, character in enumerate(pattern) if character in "*?[\\"), len(pattern))


def _switch_on(connection: Connection) -> bool:
    """Switch the notifications on that are needed, keeping those that are set.

    Returns:
        False when the server refuses CONFIG.

    Redis: CONFIG GET, CONFIG SET.
    """
    try:
        answer = connection.call("CONFIG", "GET", "notify-keyspace-events")
        flags = answer[b"notify-keyspace-events"].decode()
        missing = [flag for flag in _NEEDED_FLAGS if flag not in flags and (flag == "K" or "A" not in flags)]
        if missing:
            connection.call("CONFIG", "SET", "notify-keyspace-events", flags + "".join(missing))
    except (ServerRefused, ServerSetupError, KeyError):
        return False
    return True
