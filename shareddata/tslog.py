"""TSLog: time series of fixed-length records that survive: numbered, committed, read through durable cursors.

It knows formats, sequence numbers, buckets, commits and readers. It must not know RESP or sockets. Invariants:

1. Sequence numbers begin at 1, grow by one, and go on after a restart. A record is readable only when it is committed.
2. A commit is one transaction: a crash loses at most what was not committed, and leaves no gap.
3. One program writes: the one that stored last. Another one's next commit is void (WriterConflict), never mixed in.
4. A commit of unknown outcome is sent again and lands once: records carry their own numbers.
5. What a reader cannot get any more (dropped at `max_buckets`, or lost by the server) is counted in `missed`.

Layout in Redis: the stream `tslog:NAME` with ids `<sequence number>-0` and one field, the index of the format, whose
value is the record's bytes; a consumer group `reader:N` for each reader, whose last-delivered id is its committed
cursor; the hash `tslog:NAME:log` with what the log was made with; `tslog:NAME:writer`, the program that stored last.
"""

import json
import logging
import os
import socket
import struct
import sys
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from shareddata.connection import Connection
from shareddata.errors import (
    DecodeError,
    FieldError,
    LogFormatError,
    ServerRefused,
    ServerSetupError,
    ServerTimeout,
    ServerUnreachable,
    WriterConflict,
)
from shareddata.formats import Format, rows, table
from shareddata.memory import SharedMemory
from shareddata.stream import Numbered
from shareddata.wire import pack, transaction

log = logging.getLogger("shareddata")

MOST_READERS = 4
DEFAULT_MAX_BUCKETS = 64
MOST_PENDING = 100_000
"""Records that `store` holds in memory while the server is away."""

_PAGE = 1000
_RETRY_EVERY = 0.5  # seconds between attempts to commit while the server is away


class Stats(NamedTuple):
    """What `TSLog.stats` returns: also the plain tuple (last sequence number, bucket, lag)."""

    seqn: int
    """The sequence number of the last record that was stored, committed or not."""
    bucket: int
    """The index of the bucket that it is in, from 0."""
    lag: int
    """How far the slowest reader is behind it."""


class TSLog:
    """A log of fixed-length records. Opening it is reading; the first `store` makes this program its writer.

    Args:
        name: the log's: letters, digits and `_.-/`.
        formats: struct formats of the records; little-endian and without padding unless they say otherwise.
        record_size: bytes of a record, without formats.
        bucket_size: records that are dropped together.
        commit_delta: stored records after which they are committed.
        nreaders: how many readers it has, 4 at most.
        recreate: begin an empty log, with number 1.
        shm: the shared memory; the default address if None.
        commit_interval: seconds after which stored records are committed in any case, None for never.
        max_buckets: buckets that are kept for slow readers at the most.
        require: `"fsynced"` refuses a server that can lose a commit at a power cut.

    Raises:
        LogFormatError: the log was made with other formats or sizes; the message names both.
        ServerSetupError: the server is not as durable as required.

    A log belongs to one thread at a time, and is a context manager.

    Redis: MULTI, HSETNX, HGETALL, EXEC, XGROUP CREATE; with recreate DEL.
    """

    def __init__(
        self,
        name: str,
        formats: Sequence[str] = (),
        record_size: int = 128,
        bucket_size: int = 1024,
        commit_delta: int = 16,
        nreaders: int = 1,
        recreate: bool = False,
        *,
        shm: SharedMemory | None = None,
        commit_interval: float | None = None,
        max_buckets: int = DEFAULT_MAX_BUCKETS,
        require: str | None = None,
    ) -> None:
        if not 0 <= nreaders <= MOST_READERS:
            raise LogFormatError(f"log {name}: {nreaders} readers, expected 0 to {MOST_READERS}")
        if min(bucket_size, commit_delta, record_size, max_buckets) < 1:
            raise LogFormatError(
                f"log {name}: {bucket_size=}, {commit_delta=}, {record_size=}, {max_buckets=}: each is at least 1"
            )
        self.name = name
        self.formats = tuple(Format(text) for text in formats)
        self.record_size = max((form.size for form in self.formats), default=record_size)
        self.bucket_size = bucket_size
        self.commit_delta = commit_delta
        self.nreaders = nreaders
        self.max_buckets = max_buckets
        self.lost = 0
        self._owns = shm is None
        self._shm = shm or SharedMemory()
        self._lock = threading.RLock()
        self._writer = self._shm.connect(f"log {name}")  # only for commits: an EXEC of another kind would end its WATCH
        self._connection = self._shm.connect(f"log {name}")
        self._stream = Numbered(self._connection, self._shm.keys.log(name))
        self._made_key, self._writer_key = f"{self._stream.key}:log", f"{self._stream.key}:writer"
        self._guard = pack("WATCH", self._writer_key) + pack("GET", self._writer_key)
        self._readers: weakref.WeakSet[TSReader] = weakref.WeakSet()
        self._token = b""
        self._pending: list[tuple[bytes, bytes]] = []
        self._held: deque[tuple[bytes, bytes]] = deque(maxlen=bucket_size)
        self._seqn = self._committed = 0
        self._trimmed = 1
        self._opened = 0
        self._retry_at = 0.0
        self._interval = commit_interval
        self._timer: threading.Timer | None = None
        try:
            self._made = self._open(recreate)
            if require is not None:
                self._require(require)
        except BaseException:
            self._connection.close()
            raise
        self._shm.attach(self)

    def __repr__(self) -> str:
        return f"<TSLog {self.name}: {self._seqn} stored, {self._committed} committed>"

    def __enter__(self) -> "TSLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- opening --------------------------------------------------------------------------------------------------

    def _open(self, recreate: bool) -> bytes:
        """Make the log, or check that it was made as this program wants it; return what it was made with.

        Redis: MULTI, SETNX, GET, EXEC, XGROUP CREATE; with recreate DEL and SET.
        """
        shape = {
            "formats": [form.text for form in self.formats],
            "record_size": self.record_size,
            "bucket_size": self.bucket_size,
        }
        made = json.dumps(shape | {"incarnation": uuid.uuid4().hex}).encode()
        if recreate:
            commands = [pack("DEL", self._stream.key, self._writer_key), pack("SET", self._made_key, made)]
        else:
            commands = [pack("SETNX", self._made_key, made)]
        commands.append(pack("GET", self._made_key))
        self._connection.settle()
        found: bytes = self._connection.transact(transaction(commands), [f"log {self.name}"] * len(commands))[-1]
        there = json.loads(found)
        if {name: there.get(name) for name in shape} != shape:
            raise LogFormatError(
                f"log {self.name}: made with {_shape_text(there)}, opened with {_shape_text(shape)}: open it as it was "
                "made, or begin it anew with recreate=True"
            )
        for n in range(self.nreaders):
            self._stream.make_cursor(f"reader:{n}")
        return found

    @property
    def durability(self) -> str:
        """What a commit means on this server, in words.

        Redis: INFO persistence, CONFIG GET.
        """
        return durability(self._connection)

    def _require(self, required: str) -> None:
        if required != "fsynced":
            raise LogFormatError(f"log {self.name}: require is {required!r}, expected 'fsynced'")
        found = self.durability
        if not found.startswith("fsynced"):
            raise ServerSetupError(
                f"{self._shm.url}, log {self.name}: a commit is {found}; 'fsynced' is required: "
                "CONFIG SET appendonly yes, CONFIG SET appendfsync always, or embedded:///folder?fsync=always"
            )

    # -- writing --------------------------------------------------------------------------------------------------

    def store(self, *args: Any) -> int:
        """Store values according to the log's only format.

        Returns:
            The record's sequence number. It can be read after the next commit.

        Raises:
            LogFormatError: the log has no or several formats.
            FieldError: the values don't fit the format.
            ServerUnreachable: the server is away and the memory for records is full.
            WriterConflict: another program stores into this log now.
        """
        if len(self.formats) != 1:
            raise LogFormatError(f"log {self.name} has {len(self.formats)} formats: use store_with_tag or store_record")
        return self._store(b"0", self.formats[0].pack(*args))

    def store_with_tag(self, tag: int, *args: Any) -> int:
        """Store values according to one of the log's formats.

        Args:
            tag: its index.
            *args: the values.
        """
        if len(self.formats) < 2:
            raise LogFormatError(f"log {self.name} has {len(self.formats)} formats: use store or store_record")
        if not isinstance(tag, int) or not 0 <= tag < len(self.formats):
            raise FieldError(f"log {self.name}: tag {tag!r}, expected 0 to {len(self.formats) - 1}")
        return self._store(b"%d" % tag, self.formats[tag].pack(*args))

    def store_record(self, data: bytes) -> int:
        """Store raw bytes, up to `record_size`."""
        data = bytes(data)
        if len(data) > self.record_size:
            raise FieldError(f"log {self.name}: {len(data)} bytes, expected {self.record_size} at the most")
        return self._store(b"0", data)

    def store_many(self, records: Any, tag: int = 0) -> int:
        """Store many records at once.

        Args:
            records: a structured array whose types are the format's, or a list of tuples.
            tag: the index of the format.

        Returns:
            The sequence number of the last one.
        """
        with self._lock:
            number = self._seqn
            for data in rows(records, self.formats[tag]):
                number = self._store(b"%d" % tag, data)
            return number

    def _store(self, tag: bytes, data: bytes) -> int:
        with self._lock:
            if not self._token:
                self._become_writer()
            self._seqn += 1
            self._pending.append((tag, data))
            if len(self._pending) >= self.commit_delta:
                self._try_commit()
            elif self._interval is not None and self._timer is None:
                self._timer = threading.Timer(self._interval, self._on_time)
                self._timer.daemon = True
                self._timer.start()
            return self._seqn

    def commit(self) -> int:
        """Write all stored records to the server.

        Returns:
            The sequence number of the last record.

        Raises:
            ServerUnreachable, ServerTimeout: they are kept, and sent again with the next commit; they land once.
            WriterConflict: another program stores into this log now.

        Redis: MULTI, XADD for each record, EXEC, WATCH, GET; at the end of a bucket XINFO GROUPS, XTRIM.
        """
        with self._lock:
            if self._pending:
                self._commit()
            return self._seqn

    def _on_time(self) -> None:
        with self._lock:
            self._timer = None
            if self._pending:
                self._try_commit()

    def _try_commit(self) -> None:
        """Commit, or go on in memory while the server is away."""
        if time.monotonic() >= self._retry_at:
            try:
                return self._commit()
            except (ServerUnreachable, ServerTimeout):
                self._retry_at = time.monotonic() + _RETRY_EVERY
        if len(self._pending) >= MOST_PENDING:
            raise ServerUnreachable(
                f"{self._shm.url}, log {self.name}: the server is away and {len(self._pending)} records wait, as many "
                "as memory may hold: stop storing, or log into an embedded:// server and forward it"
            )

    def _commit(self) -> None:
        self._writer.settle()
        if self._opened != self._writer.opened:
            self._resume()
        while self._pending:
            self._send(self._pending[:_PAGE])
        self._retry_at = 0.0

    def _send(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """Append a batch in one transaction that is void when another program has become the writer."""
        first = self._committed + 1
        entries = [self._stream.entry(first + i, tag, data) for i, (tag, data) in enumerate(batch)]
        answers = self._writer.transact(transaction(entries), [f"log {self.name}"] * len(entries), self._guard)
        if self._writer.guarded != self._token:
            self._conflict(self._writer.guarded)
        if not answers:
            return  # void, and this program is the writer still: its key was touched without being changed
        before = (self._committed - 1) // self.bucket_size
        self._committed += len(batch)
        self._held.extend(batch)
        del self._pending[: len(batch)]
        if (self._committed - 1) // self.bucket_size != before:
            self._clean()

    def _conflict(self, now: bytes | None) -> None:
        """Stop being the writer."""
        who = json.loads(now) if now else {}
        self._token = b""
        raise WriterConflict(
            f"{self._shm.url}, log {self.name}: {who.get('program', 'another program')}, process {who.get('pid')} on "
            f"{who.get('host')}, stores into it since {who.get('since')}: {len(self._pending)} records of this program "
            "were not written; run one writer only"
        )

    def _become_writer(self) -> None:
        """Take the writer's role over from whoever had it, and go on with the next number.

        Redis: SET, WATCH, GET, XINFO STREAM.
        """
        self._token = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "program": os.path.basename(sys.argv[0]) or "python",
                "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
                "id": uuid.uuid4().hex,
            }
        ).encode()
        try:
            self._writer.call("SET", self._writer_key, self._token)
            self._opened = self._writer.opened
            self._watch()
            self._seqn = self._committed = self._stream.extent().last
        except BaseException:
            self._token = b""
            raise
        self._held.clear()

    def _watch(self) -> None:
        self._writer.call("WATCH", self._writer_key)
        found = self._writer.call("GET", self._writer_key)
        if found is None:  # the server lost it
            self._writer.call("UNWATCH")
            self._writer.call("SET", self._writer_key, self._token)
            self._writer.call("WATCH", self._writer_key)
        elif found != self._token:
            self._conflict(found)

    def _resume(self) -> None:
        """After a reconnection, find out what the server has, and send again what it lost.

        A commit of unknown outcome is either there, whole, or it is not: the records it would have are compared.

        Redis: WATCH, GET, XINFO STREAM, XRANGE.
        """
        self._watch()
        last = self._stream.extent().last
        if last > self._committed:
            self._recognise(last)
        elif last < self._committed:
            self._send_again(last)
        self._opened = self._writer.opened

    def _recognise(self, last: int) -> None:
        """Take records that are there as the ones of the commit whose outcome was unknown, if they are the same."""
        there, _ = self._stream.read(self._committed, last - self._committed)
        ours = self._pending[: last - self._committed]
        if [(tag, data) for _, tag, data in there] != ours:
            raise WriterConflict(
                f"{self._shm.url}, log {self.name}: the records from {self._committed + 1} on are not those that "
                "this program stored: another program writes this log; run one writer only"
            )
        self._held.extend(ours)
        del self._pending[: len(ours)]
        self._committed = last

    def _send_again(self, last: int) -> None:
        """Put what the server lost (a power cut, without fsync) back among the stored records, as far as it is held."""
        missing = self._committed - last
        again = list(self._held)[-missing:] if missing < len(self._held) else list(self._held)
        self._pending[:0] = again
        for _ in again:
            self._held.pop()
        lost = missing - len(again)
        self._committed -= len(again)
        self.lost += lost
        log.warning(
            "%s, log %s: the server lost %d committed records; %d are sent again, %d are lost",
            *(self._shm.url, self.name, missing, len(again), lost),
        )
        for n in range(self.nreaders):
            self._stream.make_cursor(f"reader:{n}")
        if lost == 0 and last == 0:
            self._connection.call("SETNX", self._made_key, self._made)

    def _clean(self) -> None:
        """Drop the buckets below every reader's committed cursor, and those above `max_buckets`.

        Redis: XINFO GROUPS, XTRIM.
        """
        cursors = self._stream.extent().cursors.values()
        done = min(cursors, default=self._committed)
        below = done // self.bucket_size * self.bucket_size + 1
        newest = (self._committed - 1) // self.bucket_size
        below = max(below, (newest - self.max_buckets + 1) * self.bucket_size + 1)
        if below > self._trimmed:
            self._stream.trim(below)
            self._trimmed = below

    # -- looking --------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Return the last sequence number, its bucket and how far the slowest reader is behind.

        A reader that is open in this program counts with what it has read, others with what they have committed.

        Redis: XINFO STREAM, XINFO GROUPS.
        """
        with self._lock:
            extent = self._stream.extent()
            last = self._seqn if self._token else extent.last
            places = {name: number for name, number in extent.cursors.items() if name.startswith("reader:")}
            for reader in self._readers:
                places[reader.cursor] = max(reader.position, places.get(reader.cursor, 0))
            return Stats(last, max(0, last - 1) // self.bucket_size, last - min(places.values(), default=last))

    def reader(self, n: int) -> "TSReader":
        """Return a reader; it begins behind its committed cursor.

        Args:
            n: which one, from 0.

        Raises:
            LogFormatError: the log was opened with fewer readers.

        Redis: XINFO STREAM, XINFO GROUPS.
        """
        if not isinstance(n, int) or not 0 <= n < self.nreaders:
            raise LogFormatError(
                f"log {self.name}: reader {n!r}, expected 0 to {self.nreaders - 1}: open it with more nreaders"
            )
        reader = TSReader(self, n)
        self._readers.add(reader)
        return reader

    def close(self) -> None:
        """Commit what was stored, and close the log and its readers.

        Raises:
            ServerUnreachable, ServerTimeout, WriterConflict: stored records could not be committed; they are lost.
        """
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            try:
                if self._pending and self._token:
                    self._commit()
            finally:
                self._pending.clear()
                for reader in list(self._readers):
                    reader.close()
                self._writer.close()
                self._connection.close()
                if self._owns:
                    self._shm.close()


def _shape_text(shape: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={shape.get(name)!r}" for name in ("formats", "record_size", "bucket_size"))


def durability(connection: Connection) -> str:
    """Return in words what a completed write means on a server.

    Redis: INFO persistence, CONFIG GET.
    """
    info = connection.ask("INFO", "persistence")
    if b"aof_enabled:1" not in (info.encode() if isinstance(info, str) else info):
        return "in memory only: a server that ends without saving loses it"
    try:
        policy = connection.ask("CONFIG", "GET", "appendfsync")[b"appendfsync"].decode()
    except (ServerRefused, ServerSetupError):
        return "in the append-only file; the server does not tell how often that is on disk"
    return {
        "always": "fsynced: on disk before it is acknowledged",
        "everysec": "on disk within about a second: a power cut loses that much, a killed server nothing",
    }.get(policy, "on disk when the system writes it: a power cut loses some 30 seconds")


class TSReader:
    """A reader of a log, with a durable cursor. Made by `TSLog.reader`, never directly.

    It has its own connection, belongs to one thread at a time, is a context manager, and an iterator over what is
    committed now.

    Attributes:
        position: the sequence number of the last record that was read.
        missed: records that were dropped or lost before this reader could read them.
        restarts: how often the log was begun anew (`recreate`) under this reader.

    Redis: MULTI, XRANGE, GET, EXEC.
    """

    def __init__(self, tslog: TSLog, n: int, format: str = "") -> None:
        self._log = tslog
        self._formats = tslog.formats
        self.cursor = f"reader:{n}"
        self.missed = 0
        self.restarts = 0
        self._made = tslog._made
        self._made_key = tslog._made_key
        self._connection = tslog._shm.connect(f"log {tslog.name} reader {n}")
        self._stream = Numbered(self._connection, tslog._stream.key)
        self._buffer: deque[tuple[int, bytes, bytes]] = deque()
        try:
            self.position = self._stream.extent().cursors.get(self.cursor, 0)
        except BaseException:
            self._connection.close()
            raise
        self._fetched = self.position

    def __repr__(self) -> str:
        return f"<TSReader {self.cursor} of {self._log.name} at {self.position}, {self.missed} missed>"

    def __enter__(self) -> "TSReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (record := self.next()) is not None:
            yield record

    def next(self) -> tuple[Any, ...] | None:
        """Return the next record's values; with several formats `(tag, values)`; None when there is no more yet.

        Raises:
            LogFormatError: the log has no format: use `next_record`.
            DecodeError: raw bytes that do not have the format's length.
        """
        if not self._formats:
            raise LogFormatError(f"log {self._log.name} has no format: use next_record")
        entry = self._next()
        if entry is None:
            return None
        number, tag, data = entry
        try:
            values = self._formats[int(tag)].unpack(data)
        except (struct.error, ValueError, IndexError):
            raise DecodeError(
                f"log {self._log.name}, record {number}: {len(data)} bytes with the tag {tag!r} are no record of the "
                f"formats {[form.text for form in self._formats]}: it was stored with store_record; use next_record"
            ) from None
        return values if len(self._formats) == 1 else (int(tag), values)

    def next_record(self) -> bytearray | None:
        """Return the next record's bytes, None when there is no more yet."""
        entry = self._next()
        return None if entry is None else bytearray(entry[2])

    def read_many(self, n: int, tag: int = 0) -> Any:
        """Return up to n records of one format as a structured array; it may be empty.

        Args:
            n: how many at most.
            tag: the index of the format; the array ends before a record of another one.
        """
        records: list[bytes] = []
        wanted = b"%d" % tag
        while len(records) < n and (self._buffer or self._fetch(n - len(records))):
            if self._buffer[0][1] != wanted:
                break
            records.append(self._take()[2])
        return table(records, self._formats[tag])

    def follow(self, timeout: float | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield records as they are committed.

        Args:
            timeout: seconds without a new one after which it ends, None for never.
        """
        heard = time.monotonic()
        while True:
            for record in self:
                yield record
                heard = time.monotonic()
            rest = 1.0 if timeout is None else heard + timeout - time.monotonic()
            if rest <= 0:
                return
            try:
                self._stream.wait(self._fetched, rest)
            except (ServerUnreachable, ServerTimeout):
                if timeout is not None and heard + timeout <= time.monotonic():
                    raise

    def commit(self) -> None:
        """Save the number of the last read record as the cursor: a later reader begins behind it.

        Redis: XINFO GROUPS, XGROUP SETID.
        """
        self._stream.move_cursor(self.cursor, self.position)

    def close(self) -> None:
        """Close the reader; its cursor stays where it was committed."""
        self._connection.close()

    def _next(self) -> tuple[int, bytes, bytes] | None:
        return self._take() if self._buffer or self._fetch() else None

    def _take(self) -> tuple[int, bytes, bytes]:
        entry = self._buffer.popleft()
        number = entry[0]
        if number != self.position + 1:
            self.missed += number - self.position - 1
        self.position = number
        return entry

    def _fetch(self, count: int = _PAGE) -> bool:
        """Read the next records into the buffer; begin at 1 when the log was begun anew."""
        entries, made = self._stream.read(self._fetched, max(1, min(count, _PAGE)), pack("GET", self._made_key))
        if made is not None and made != self._made:
            log.warning("log %s was begun anew: its readers begin at 1", self._log.name)
            self._made, self.position, self._fetched = made, 0, 0
            self.restarts += 1
            return self._fetch(count)
        if entries:
            self._fetched = entries[-1][0]
            self._buffer.extend(entries)
        return bool(entries)
