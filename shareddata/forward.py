"""Store and forward: logs and histories are copied to another server whenever the link is there.

It knows the source, and when what is read and sent. It must not know how entries are counted (`copies`), nor what the
destination holds (`destination`). Invariants:

1. An entry keeps its id. The entries and how far they reach are written at the destination in one transaction: after
   any fault the destination itself tells where to go on, and each entry is there once, in order.
2. The source keeps a cursor for each log, which its cleaning waits for up to the log's `max_buckets`; a history waits
   for nobody. What was dropped before it could be sent is counted exactly, with the entry that comes behind it.
3. What cannot be forwarded, because somebody else writes it, does not hinder the others.

In Redis, at the source: the hash `shareddata:forward` holds the source's identity and where each forwarding began; in
each log's stream is a consumer group `forward:NAME`.
"""

import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from shareddata import logs
from shareddata.address import Address
from shareddata.copies import Entry, HistoryCopy, LogCopy, Place, Progress, Stream, order
from shareddata.destination import Destination, End
from shareddata.errors import (
    LogFormatError,
    ServerRefused,
    ServerTimeout,
    ServerUnreachable,
    UnknownData,
)
from shareddata.login import TO_PREFIX
from shareddata.numbered import Numbered
from shareddata.wire import question

log = logging.getLogger("shareddata")

DEFAULT_MAX_BUCKETS = 64
"""Buckets of each log that are kept at the destination for readers there."""

_LEAST_BYTES, _MOST_BYTES = 1 << 12, 1 << 20  # of one transaction: what the link carries within the time-out
_LOOK_AGAIN = 2.0  # seconds between two looks for new logs
_ACKNOWLEDGE_EVERY = 0.5  # seconds between two moves of the source's cursors
_PAUSE = 0.2  # seconds after a failed attempt
_BLOCK = 0.5  # seconds that one wait for new entries takes at the most


class Forward:
    """Copies logs and histories from one server to another. Nothing is connected before the first `step`.

    Args:
        source: the address of the server that has them.
        destination: the address of the server that gets them; user and password are those that the environment tells
            of it ($SHAREDDATA_TO_USER and so on), where the address does not.
        names: names or globs of records and logs; all if empty.
        namespace: the source's.
        to_namespace: the destination's; the same if None.
        name: of the source's cursors; made of the destination's address and namespace if None. Two destinations need
            two names.
        max_buckets: buckets of each log that are kept at the destination for readers there.
        take_over: go on where somebody else has written at the destination; a log that is not this one is dropped.
        timeout: seconds within which each server has to answer.

    It belongs to one thread at a time, and is a context manager.

    Redis: at the source MULTI, XINFO STREAM, XRANGE, GET, EXEC, XREAD, XGROUP CREATE and SETID, SCAN, HSETNX; at the
    destination MULTI, XADD, HSET, EXEC, WATCH, HGET, XTRIM, and what `SharedMemory.init` sends.

        >>> with Forward("embedded:///var/lib/robot", "rediss://shore") as forward:      # doctest: +SKIP
        ...     forward.run(once=True)
    """

    def __init__(
        self,
        source: str,
        destination: str,
        names: Sequence[str] = (),
        *,
        namespace: str = "",
        to_namespace: str | None = None,
        name: str | None = None,
        max_buckets: int = DEFAULT_MAX_BUCKETS,
        take_over: bool = False,
        timeout: float = 5.0,
    ) -> None:
        if max_buckets < 1:
            raise LogFormatError(f"{max_buckets=}: the destination keeps at least 1 bucket")
        to_namespace = namespace if to_namespace is None else to_namespace
        self.streams: dict[str, Stream] = {}
        self._names = tuple(names)
        self._source = End(Address(source), namespace, timeout)
        self._destination = Destination(
            *(Address(destination, TO_PREFIX), to_namespace, timeout),
            source=self._source.url,
            max_buckets=max_buckets,
            take_over=take_over,
        )
        place = re.sub(r"//[^/@]*@|\?.*", lambda found: "//" if found[0].startswith("//") else "", destination)
        self._cursor = f"forward:{name or ' '.join(filter(None, (place, to_namespace)))}"
        self._identity = ""
        self._untold = set(names)
        self._synced = False
        self._opened = 0
        self._look_at = self._acknowledge_at = 0.0
        self._acknowledged: dict[str, str] = {}
        self._budget = _MOST_BYTES // 4
        self._turn = 0
        self.trouble = ""

    def __repr__(self) -> str:
        return f"<Forward from {self._source.url} to {self._destination.url}: {len(self.streams)} streams>"

    def __enter__(self) -> "Forward":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. What was not sent stays at the source."""
        self._source.close()
        self._destination.close()

    @property
    def progress(self) -> list[Progress]:
        """How far each record and log is, by name."""
        return [self.streams[field].progress for field in sorted(self.streams)]

    @property
    def done(self) -> bool:
        """Whether all that was at the source when it was last read is at the destination."""
        return self._synced and all(stream.whole and not stream.buffer for stream in self._active())

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, once: bool = False, tell: "Callable[[Forward], None]" = lambda forward: None) -> None:
        """Copy what is there, and what comes, for ever.

        A server that is away is waited for; `trouble` tells it.

        Args:
            once: end when all is sent that is there.
            tell: called after each step.

        Raises:
            UnknownData: with once, when a name is neither a record nor a log.
            WriterConflict: another program forwards the same source to the same destination now.
            ServerRefused, ServerSetupError: waiting would not help.
        """
        while True:
            try:
                moved, self.trouble = self.step(once), ""
            except (ServerUnreachable, ServerTimeout) as error:
                moved, self.trouble = False, str(error)
            except ServerRefused as error:
                if once:
                    raise
                self._synced, moved, self.trouble = False, False, str(error)
            tell(self)
            if once and self.done and not self.trouble:
                return
            if self.trouble:
                time.sleep(_PAUSE)
            elif not moved:
                self._wait()

    def step(self, strict: bool = False) -> bool:
        """Read once from the source and write once at the destination.

        Args:
            strict: a name that is neither a record nor a log is an error.

        Returns:
            Whether anything was sent.

        Raises:
            ServerUnreachable, ServerTimeout: one of them is away; the next step goes on.
        """
        try:
            self._look(strict)
            if not self._active():
                self._synced = True
                return False
            if not self._synced:
                self._read()  # which are there
                self._read()  # and how much: also when the destination is away
            self._open_destination()
            self._read()
            if not self._synced or any(not stream.known for stream in self._active()):
                self._synced = False  # a log was begun anew meanwhile
                return True
            moved = self._send()
            self._acknowledge()
            return moved
        except BaseException:
            self._synced = False
            raise

    def _active(self) -> list[Stream]:
        return [stream for stream in self.streams.values() if not stream.trouble]

    def _wait(self) -> None:
        """Wait in the source for a new entry, half a second at most.

        Redis: XREAD.
        """
        streams = [stream for stream in self._active() if stream.there]
        if not streams:
            time.sleep(_PAUSE)
            return
        connection = self._source.connection
        pause = int(1000 * min(_BLOCK, connection.timeout / 2))
        where = [*(stream.key for stream in streams), *(stream.place.at for stream in streams)]
        try:
            connection.ask("XREAD", "COUNT", 1, "BLOCK", pause, "STREAMS", *where)
        except (ServerUnreachable, ServerTimeout):
            pass  # the next step says so
        except ServerRefused:
            for stream in streams:
                stream.there = False

    # -- the source -----------------------------------------------------------------------------------------------

    def _look(self, strict: bool) -> None:
        """Find records and logs, after a reconnection at once, else now and then.

        Redis: HGETALL, SCAN, GET.
        """
        source = self._source
        source.open()
        connection = source.connection
        connection.settle()
        again = connection.opened != self._opened
        if again:
            self._synced = False
            for stream in self.streams.values():
                stream.there = False
        if not (again or connection.epoch_news or time.monotonic() >= self._look_at):
            return
        described = connection.epoch_news or again
        self._opened = connection.opened
        connection.refresh_epoch()
        self._identify()
        if described:
            self._look_at_records()
        self._look_at_logs()
        self._look_at = time.monotonic() + _LOOK_AGAIN
        self._miss_names(strict)

    def _identify(self) -> None:
        """Give the source an identity, once for ever: by it the destination knows whose copies it has.

        Redis: HSETNX, HGET.
        """
        connection, key = self._source.connection, self._source.keys.forward()
        connection.call("HSETNX", key, "identity", uuid.uuid4().hex)
        identity = connection.ask("HGET", key, "identity").decode()
        if identity != self._identity:
            self._identity, self._synced = identity, False

    def _look_at_records(self) -> None:
        shm = self._source.memory
        records = [shm.describe(name) for name in shm.names()]
        chosen = {r.name: r for r in records if r.history and self._selected(r.name)}
        for name, record in chosen.items():
            stream = self.streams.get(name)
            if not isinstance(stream, HistoryCopy):
                stream = self.streams[name] = HistoryCopy(name, self._source.keys, self._destination.keys)
                stream.begun = self._begin(stream)
            elif stream.trouble == _GONE:
                stream.trouble = ""
            stream.described(record, shm.eras(name))
            stream.known = False
        for stream in self.streams.values():
            if isinstance(stream, HistoryCopy) and stream.name not in chosen and not stream.trouble:
                stream.trouble = _GONE
        self._synced = False  # the destination gets the descriptions first

    def _look_at_logs(self) -> None:
        """Find new logs.

        Redis: SCAN, GET, XGROUP CREATE.
        """
        connection = self._source.connection
        for name in logs.names(self._source.memory):
            if not self._selected(name) or f"tslog:{name}" in self.streams:
                continue
            stream = LogCopy(name, self._source.keys, self._destination.keys)
            if made := connection.ask("GET", stream.made_key):
                stream.made = made
                Numbered(connection, stream.key).make_cursor(self._cursor)
                stream.begun = self._begin(stream)
                self.streams[stream.field] = stream
                self._synced = False

    def _begin(self, stream: Stream) -> int:
        """Return the ordinal behind which the forwarding of a stream began: noted when it is first seen.

        Redis: HGET, TYPE, XINFO STREAM, HSET.
        """
        connection, key = self._source.connection, self._source.keys.forward()
        field = f"{self._cursor} {stream.field}"
        if noted := connection.ask("HGET", key, field):
            return min(int(noted), self._oldest(stream))
        begun = self._oldest(stream)
        connection.call("HSET", key, field, begun)
        return begun

    def _oldest(self, stream: Stream) -> int:
        connection = self._source.connection
        if connection.ask("TYPE", stream.key) != b"stream":
            return 0
        info = connection.ask("XINFO", "STREAM", stream.key)
        if stream.kind == "history":
            return int(info[b"entries-added"] - info[b"length"])
        first = info[b"first-entry"]
        return order(first[0])[0] - 1 if first else order(info[b"last-generated-id"])[0]

    def _selected(self, name: str) -> bool:
        return not self._names or any(fnmatchcase(name, glob) for glob in self._names)

    def _miss_names(self, strict: bool) -> None:
        """Say which names are nothing at the source; it is an error when nobody waits for them."""
        there = [stream.name for stream in self.streams.values()]
        missing = [glob for glob in self._names if not any(fnmatchcase(name, glob) for name in there)]
        if missing and strict:
            raise UnknownData(
                f"{self._source.url}: {', '.join(missing)}: neither a record with a history nor a log: see "
                "`shareddata list` and `shareddata log list`"
            )
        for glob in self._untold.intersection(missing):
            log.warning("%s: %s is neither a record with a history nor a log: it is waited for", self._source.url, glob)
        self._untold.clear()

    def _read(self) -> None:
        """Read from the source what is not read yet, in one transaction.

        Redis: MULTI, XINFO STREAM, XRANGE, GET, TYPE, EXEC.
        """
        streams = self._active()
        wanted = [self._synced and stream.known and not stream.buffer for stream in streams]
        commands = [each for stream, want in zip(streams, wanted) for each in stream.questions(want)]
        try:
            answers = iter(self._source.connection.read(question(commands), ["the source"] * len(commands)))
        except ServerRefused:
            if not any(stream.there for stream in streams):
                raise
            for stream in streams:  # one was deleted, or is of another type now: look at each
                stream.there, stream.whole = False, False
            return
        for stream, want in zip(streams, wanted):
            stream.take(answers, want and stream.there)

    def _acknowledge(self) -> None:
        """Move the source's cursors to what the destination has; back, when that has lost something.

        Redis: XGROUP SETID, XGROUP CREATE.
        """
        idle = self.done
        if not idle and time.monotonic() < self._acknowledge_at:
            return
        self._acknowledge_at = time.monotonic() + _ACKNOWLEDGE_EVERY
        connection = self._source.connection
        for stream in self._active():
            if not isinstance(stream, LogCopy) or not stream.there:
                continue
            if self._acknowledged.get(stream.field) == stream.place.at:
                continue
            if stream.field not in self._acknowledged:
                Numbered(connection, stream.key).make_cursor(self._cursor)
            try:
                connection.call("XGROUP", "SETID", stream.key, self._cursor, stream.place.at)
            except ServerRefused as error:
                if "NOGROUP" not in str(error) and "requires the key" not in str(error):
                    raise
                self._acknowledged.pop(stream.field, None)  # begun anew at this moment
            else:
                self._acknowledged[stream.field] = stream.place.at

    # -- the destination ------------------------------------------------------------------------------------------

    def _open_destination(self) -> None:
        """Connect, and find out what the destination has, when that is not known."""
        if not self._destination.known or not self._synced:
            self._synced = False
            self._destination.look(self._active(), self._identity)
            self._acknowledged.clear()
            self._synced = True

    def _send(self) -> bool:
        """Write what was read, up to what the link carries, in one transaction.

        Redis: MULTI, XADD for each entry, HSET, EXEC, WATCH, HGET.
        """
        batches = self._batches()
        if not batches:
            return False
        places = {stream.field: stream.after(entries) for stream, entries in batches}
        commands: list[bytes] = []
        for stream, entries in batches:
            commands += [*stream.commands(entries), self._destination.note(stream, places[stream.field])]
        begun = time.monotonic()
        try:
            self._destination.write(commands)
        except (ServerTimeout, ServerUnreachable):
            self._budget = max(_LEAST_BYTES, self._budget // 2)
            raise
        if time.monotonic() - begun < self._destination.connection.timeout / 4:
            self._budget = min(_MOST_BYTES, 2 * self._budget)
        for stream, entries in batches:
            before, stream.place = stream.place, places[stream.field]
            for _ in entries:
                stream.buffer.popleft()
            self._tell_missed(stream, before)
            if isinstance(stream, LogCopy):
                self._destination.clean(stream, before.ordinal)
        return True

    def _batches(self) -> list[tuple[Stream, list[Entry]]]:
        """Return what goes into the next transaction, from each stream in turn."""
        streams = [stream for stream in self._active() if stream.buffer]
        self._turn += 1
        turn = self._turn % max(1, len(streams))
        room = self._budget
        batches: list[tuple[Stream, list[Entry]]] = []
        for stream in streams[turn:] + streams[:turn]:
            entries: list[Entry] = []
            for entry in stream.buffer:
                if (batches or entries) and entry.size > room:
                    break
                room -= entry.size
                entries.append(entry)
            if entries:
                batches.append((stream, entries))
        return batches

    def _tell_missed(self, stream: Stream, before: Place) -> None:
        if stream.place.missed > before.missed:
            log.warning(
                "%s: %d entries were dropped at the source before they could be sent (%d so far)",
                *(stream, stream.place.missed - before.missed, stream.place.missed),
            )


_GONE = "it is not described with a history any more"
