"""TSLog: time series of fixed-length records that survive: numbered, committed, read through durable cursors.

It knows formats, sequence numbers, buckets and commits. It must not know RESP or sockets, nor how a writer survives
an outage (`logwriter`) or how a reader reads (`logreader`). Invariants:

1. Sequence numbers begin at 1, grow by one, and go on after a restart. A record is readable only when it is committed.
2. A commit is one transaction: a crash loses at most what was not committed, and leaves no gap.
3. A record whose `store` raised was not taken; one whose `store` returned is committed once, in order, or the error
   that ends the log says that it was not.
4. Buckets that a reader still needs are kept, up to `max_buckets`; what that bound drops, the reader counts.

Layout in Redis: the stream `tslog:NAME` with ids `<sequence number>-0` and one field: its name is the index of the
format, or `raw`, its value the record's bytes; a consumer group `reader:N` for each reader, whose last-delivered id is
its committed cursor; `tslog:NAME:log`, what the log was made with; `tslog:NAME:writer`, who stores.
"""

import json
import logging
import os
import struct
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shareddata.connection import Connection
from shareddata.errors import FieldError, LogFormatError, ServerError, ServerRefused, ServerSetupError, WriterConflict
from shareddata.formats import Format, rows
from shareddata.htmltable import table
from shareddata.logreader import RAW, TSReader
from shareddata.logwriter import PAGE, LogWriter, token
from shareddata.memory import SharedMemory
from shareddata.names import check_log_name, made_key, writer_key
from shareddata.numbered import Numbered, tail_head
from shareddata.wire import pack, transaction

__all__ = ["Stats", "TSLog", "TSReader", "durability"]

log = logging.getLogger("shareddata")

MOST_READERS = 4
DEFAULT_MAX_BUCKETS = 64
MOST_PENDING = 100_000
"""Records that `store` holds in memory while the server is away, unless `max_pending` says otherwise."""

_RETRY_EVERY = 0.5  # seconds between attempts to commit while the server is away

_logs: "weakref.WeakSet[TSLog]" = weakref.WeakSet()


def _discard_in_child() -> None:
    for each in list(_logs):
        each._forget()


os.register_at_fork(after_in_child=_discard_in_child)


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
        recreate: begin an empty log, with number 1, and be its writer.
        shm: the shared memory; the default address if None.
        commit_interval: seconds after which stored records are committed in any case, None for never.
        max_buckets: buckets that are kept for slow readers at the most.
        max_pending: records that `store` holds in memory while the server is away.
        require: `"fsynced"` refuses a server that can lose a commit at a power cut.

    Attributes:
        lost: committed records that the server lost, and that this program could not send again.

    Raises:
        LogFormatError: the log was made with other formats or sizes; the message names both.
        ServerSetupError: the server is not as durable as required.

    A log belongs to one thread at a time, and is a context manager. A forked child discards what was not committed.

    Redis: GET, XINFO STREAM, XINFO GROUPS; for a new one MULTI, SETNX, EXEC, XGROUP CREATE; with recreate DEL, SET.
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
        max_pending: int = MOST_PENDING,
        require: str | None = None,
    ) -> None:
        self.name = name
        self.formats = tuple(map(Format, [formats] if isinstance(formats, str) else formats))
        self.record_size = max((form.size for form in self.formats), default=record_size)
        self.bucket_size = bucket_size
        self.commit_delta = commit_delta
        self.nreaders = nreaders
        self.max_buckets = max_buckets
        self.max_pending = max_pending
        self._interval = commit_interval
        self._check_arguments(record_size, require)
        self._made = json.dumps(
            {
                "formats": [form.text for form in self.formats],
                "record_size": self.record_size,
                "bucket_size": self.bucket_size,
            }
        ).encode()
        self._owned = shm is None
        self._shm = shm or SharedMemory()
        self._prepare()
        try:
            self._open(recreate)
            if require:
                self._require_fsync()
        except BaseException:
            self.close()
            raise
        if not self._owned:
            self._shm.attach(self)
        _logs.add(self)

    def _check_arguments(self, record_size: int, require: str | None) -> None:
        check_log_name(self.name)
        if not 0 <= self.nreaders <= MOST_READERS:
            raise LogFormatError(f"log {self.name}: {self.nreaders} readers, expected 0 to {MOST_READERS}")
        sizes = {"bucket_size": self.bucket_size, "commit_delta": self.commit_delta, "record_size": record_size}
        sizes |= {"max_buckets": self.max_buckets, "max_pending": self.max_pending}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise LogFormatError(f"log {self.name}: {name}={value!r}, expected an integer of 1 or more")
        if self._interval is not None and not self._interval > 0:
            raise LogFormatError(f"log {self.name}: commit_interval={self._interval!r}, expected seconds above 0")
        if require not in (None, "fsynced"):
            raise LogFormatError(f"log {self.name}: require={require!r}, expected 'fsynced'")

    def __repr__(self) -> str:
        return f"<TSLog {self.name}: {self._seqn} stored, {self._writer.committed} committed>"

    def _repr_html_(self) -> str:
        shape = " ".join(form.text for form in self.formats) or "bytes"
        facts: list[tuple[str, object]] = [
            *(("formats", shape), ("record size", self.record_size), ("bucket size", self.bucket_size)),
            *(("readers", self.nreaders), ("last number", self._seqn), ("not committed yet", len(self._pending))),
        ]
        return table(f"log {self.name}", [], facts)

    def __enter__(self) -> "TSLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- opening --------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._readers: weakref.WeakSet[TSReader] = weakref.WeakSet()
        self._connection = self._shm.connect(f"log {self.name}")
        self._commits = self._shm.connect(f"log {self.name} writer")
        self._stream = Numbered(self._connection, self._shm.keys.log(self.name))
        self._writer = LogWriter(self._commits, self._stream, f"log {self.name}", self.bucket_size, self._restore)
        self._pending = self._writer.pending
        self._made_key = made_key(self._stream.key)
        self._heads = [tail_head(b"%d" % i, form.size) for i, form in enumerate(self.formats)]
        self._pack = self.formats[0].pack_quickly if len(self.formats) == 1 else None
        self._careful_from = 0  # records before this number are only put into memory
        self._seqn = 0
        self._trimmed = 1
        self._retry_at = 0.0
        self._trouble: ServerError | None = None
        self._untold: WriterConflict | None = None

    def _open(self, recreate: bool) -> None:
        """Make the log, or check that it was made as this program wants it; to open it takes no right to write.

        Redis: GET; MULTI, SETNX, GET, EXEC for a new one; with recreate MULTI, DEL, SET, GET, EXEC.
        """
        found = None if recreate else self._connection.ask("GET", self._made_key)
        if found is None:
            found = self._make(recreate)
        if found != self._made:
            raise LogFormatError(
                f"log {self.name}: made with {_shape(found)}, opened with {_shape(self._made)}: open it as it was "
                "made, or begin it anew with recreate=True"
            )
        self._make_cursors()

    def _make(self, recreate: bool) -> bytes:
        """Make the log if nobody else does, or begin it anew; return what it was made with."""
        commands = [pack("SETNX", self._made_key, self._made)]
        if recreate:
            beginning = token([], 1)
            commands = [
                pack("DEL", self._stream.key),
                pack("SET", self._made_key, self._made),
                pack("SET", writer_key(self._stream.key), beginning),
            ]
        commands.append(pack("GET", self._made_key))
        self._connection.settle()
        found: bytes = self._connection.transact(transaction(commands), [f"log {self.name}"] * len(commands))[-1]
        if recreate:
            self._writer.adopt(beginning, 0)
            self._warn_if_volatile()
        return found

    def _make_cursors(self) -> None:
        """Make the cursors that are missing.

        Redis: XINFO STREAM, XINFO GROUPS, XGROUP CREATE.
        """
        wanted = [f"reader:{n}" for n in range(self.nreaders)]
        there = self._stream.extent().cursors
        for name in wanted:
            if name not in there:
                self._stream.make_cursor(name)

    @property
    def durability(self) -> str:
        """What a commit means on this server, in words.

        Redis: INFO persistence, CONFIG GET.
        """
        with self._lock:
            return durability(self._connection)

    def _require_fsync(self) -> None:
        found = self.durability
        if not found.startswith("fsynced"):
            raise ServerSetupError(
                f"{self._shm.url}, log {self.name}: a commit is {found}; 'fsynced' is required: "
                "CONFIG SET appendonly yes, CONFIG SET appendfsync always, or embedded:///folder?fsync=always"
            )

    # -- storing --------------------------------------------------------------------------------------------------

    def store(self, *args: Any) -> int:
        """Store values according to the log's only format.

        Returns:
            The record's sequence number. It can be read after the next commit.

        Raises:
            LogFormatError: the log has no or several formats.
            FieldError: the values don't fit the format.
            ServerUnreachable, ServerTimeout, ServerRefused: the first record needs the server; later ones wait in
                memory while it is away, until that is full. The record was not stored.
            WriterConflict: another program stores into this log now.

        Redis: as `commit` after `commit_delta` records; for the first record GET, SET, WATCH, INFO, CONFIG GET.
        """
        if self._pack is None:
            raise LogFormatError(f"log {self.name} has {len(self.formats)} formats: use store_with_tag or store_record")
        try:
            data = self._pack(*args)
        except (struct.error, OverflowError):
            data = self.formats[0].pack(*args)  # raises, and says what does not fit
        return self._store(self._heads[0], data)

    def store_with_tag(self, tag: int, *args: Any) -> int:
        """Store values according to one of the log's formats; see `store`.

        Args:
            tag: its index.
            *args: the values.
        """
        if len(self.formats) < 2:
            raise LogFormatError(f"log {self.name} has {len(self.formats)} formats: use store or store_record")
        return self._store(self._heads[self._check_tag(tag)], self.formats[tag].pack(*args))

    def store_record(self, data: bytes) -> int:
        """Store raw bytes, up to `record_size`; see `store`."""
        try:
            data = bytes(memoryview(data))
        except TypeError:
            raise FieldError(f"log {self.name}: {type(data).__name__} is no bytes: encode it first") from None
        if len(data) > self.record_size:
            raise FieldError(f"log {self.name}: {len(data)} bytes, expected {self.record_size} at the most")
        return self._store(tail_head(RAW, len(data)), data)

    def store_many(self, records: Any, tag: int = 0) -> int:
        """Store many records at once; see `store`. Unless values don't fit, all or the first ones were stored.

        Args:
            records: a structured array whose types are the format's, or a list of tuples.
            tag: the index of the format.

        Returns:
            The sequence number of the last one.
        """
        head = self._heads[self._check_tag(tag)]
        parts = rows(records, self.formats[tag])
        with self._lock:
            self._make_room()
            for start in range(0, len(parts), PAGE):
                self._make_room()
                page = parts[start : start + PAGE]
                self._pending += [head + data for data in page]
                self._seqn += len(page)
                self._after_store()
            return self._seqn

    def _check_tag(self, tag: int) -> int:
        if not isinstance(tag, int) or not 0 <= tag < len(self.formats):
            raise FieldError(f"log {self.name}: tag {tag!r}, expected 0 to {len(self.formats) - 1}")
        return tag

    def _store(self, head: bytes, data: bytes) -> int:
        """Take a record; look at the writer, the clock and the server only where that can be needed."""
        number = self._seqn + 1
        if number < self._careful_from:
            self._pending.append(head + data)
            self._seqn = number
            return number
        with self._lock:
            self._make_room()
            self._pending.append(head + data)
            self._seqn = number = self._seqn + 1
            self._after_store()
            return number

    def _make_room(self) -> None:
        """Be the writer; raise when the memory for records is full and the server still away."""
        if not self._writer.token:
            self._writer.begin()
            self._seqn = self._writer.committed
            self._warn_if_volatile()
        if len(self._pending) >= self.max_pending:
            self._try_commit()
        if len(self._pending) >= self.max_pending and self._trouble:
            raise type(self._trouble)(
                f"log {self.name}: {len(self._pending)} records wait for the server, as many as memory may hold; this "
                f"one was not stored: {self._trouble}: stop storing, or log into an embedded:// server and forward it"
            )

    def _after_store(self) -> None:
        if len(self._pending) >= self.commit_delta:
            self._try_commit()
        if self._interval and self._pending and self._timer is None:
            self._timer = threading.Timer(self._interval, self._on_time)
            self._timer.daemon = True
            self._timer.start()

    def commit(self) -> int:
        """Write all stored records to the server.

        Returns:
            The sequence number of the last record.

        Raises:
            ServerUnreachable, ServerTimeout, ServerRefused: they are kept, and sent again with the next commit; they
                land once.
            WriterConflict: another program stores into this log now.
            Unconfirmed: committed, and too few replicas have it (`SharedMemory(confirm=...)`). As long as it runs, this
                program sends again what a failover loses, as far as it holds it: the last bucket.

        Redis: MULTI, XADD for each record, EXEC, WATCH, GET; at the end of a bucket XINFO GROUPS, XTRIM.
        """
        with self._lock:
            self._commit()
            self._commits.check()
            return self._seqn if self._writer.token else self._stream.extent().last

    def _commit(self) -> None:
        before = self._bucket()
        self._careful_from = 0
        try:
            self._writer.commit()
            if self._bucket() != before:
                self._clean()
        except ServerError as error:
            if self._trouble is None:
                log.warning("log %s: %d records wait for the server: %s", self.name, len(self._pending), error)
            self._trouble, self._retry_at = error, time.monotonic() + _RETRY_EVERY
            raise
        self._trouble, self._retry_at = None, 0.0
        if self._writer.token and not self._interval:
            self._careful_from = self._writer.committed + self.commit_delta

    def _try_commit(self) -> None:
        """Commit, or go on in memory; `_trouble` says why."""
        if time.monotonic() >= self._retry_at:
            try:
                self._commit()
            except ServerError:
                pass  # it was logged, and is raised when the memory is full, by `commit` and by `close`

    def _on_time(self) -> None:
        with self._lock:
            self._timer = None
            try:
                self._try_commit()
                self._after_store()
            except WriterConflict as error:  # nobody calls this: the next store, commit or close raises it
                log.error("%s", error)
                self._untold = error

    def _bucket(self) -> int:
        return max(0, self._writer.committed - 1) // self.bucket_size

    def _clean(self) -> None:
        """Drop the buckets below every reader's committed cursor, and those above `max_buckets`.

        Redis: XINFO STREAM, XINFO GROUPS, XTRIM.
        """
        done = min(self._stream.extent().cursors.values(), default=self._writer.committed)
        kept = max(done // self.bucket_size, self._bucket() - self.max_buckets + 1)
        below = kept * self.bucket_size + 1
        if below > self._trimmed:
            self._stream.trim(below)
            self._trimmed = below

    def _restore(self) -> None:
        """Make again what belongs to the log, on a server that lost records.

        Redis: SETNX, XGROUP CREATE.
        """
        self._connection.call("SETNX", self._made_key, self._made)
        self._make_cursors()

    def _warn_if_volatile(self) -> None:
        try:
            found = self.durability
        except ServerRefused:
            return  # this user may not ask
        if found.startswith("in memory"):
            log.warning("%s, log %s: a commit is %s", self._shm.url, self.name, found)

    # -- looking --------------------------------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """Committed records that the server lost, and that this program could not send again."""
        return self._writer.lost

    def stats(self) -> Stats:
        """Return the last sequence number, its bucket and how far the slowest reader is behind.

        A reader that is open in this program counts with what it has read, others with what they have committed.

        Redis: XINFO STREAM, XINFO GROUPS.
        """
        with self._lock:
            extent = self._stream.extent()
            last = self._seqn if self._writer.token else extent.last
            places = {name: number for name, number in extent.cursors.items() if name.startswith("reader:")}
            for reader in self._readers:
                places[reader.cursor] = max(reader.position, places.get(reader.cursor, 0))
            lag = max(0, last - min(places.values(), default=last))
            return Stats(last, max(0, last - 1) // self.bucket_size, lag)

    def reader(self, n: int) -> TSReader:
        """Return a reader; it begins behind its committed cursor.

        Args:
            n: which one, from 0.

        Raises:
            LogFormatError: the log was opened with fewer readers.

        Redis: GET, XINFO STREAM, XINFO GROUPS.
        """
        if not isinstance(n, int) or not 0 <= n < self.nreaders:
            raise LogFormatError(
                f"log {self.name}: reader {n!r}, expected 0 to {self.nreaders - 1}: open it with more nreaders"
            )
        connection = self._shm.connect(f"log {self.name} reader {n}")
        reader = TSReader(connection, self._stream.key, f"reader:{n}", self.formats, self._made, self._forget_reader)
        with self._lock:
            self._readers.add(reader)
        return reader

    def _forget_reader(self, reader: TSReader) -> None:
        with self._lock:
            self._readers.discard(reader)

    def close(self) -> None:
        """Commit what was stored, and close the log and its readers.

        Raises:
            ServerUnreachable, ServerTimeout, ServerRefused: stored records could not be committed; they are lost.
            WriterConflict: the same, and no store or commit has raised it before.
            Unconfirmed: they were committed, and too few replicas have them.
        """
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            untold, self._untold = self._untold, None
            try:
                if self._writer.token:
                    self._commit()
                    self._commits.check()
                elif untold is not None:
                    raise untold
            finally:
                self._careful_from = 0
                self._writer.forget()
                for reader in list(self._readers):
                    reader.close()
                self._commits.close()
                self._connection.close()
                if self._owned:
                    self._shm.close()

    def _forget(self) -> None:
        """In a forked child: nothing is this program's to commit."""
        self._lock = threading.RLock()
        self._timer = None
        self._careful_from = 0
        self._writer.forget()


def _shape(made: bytes) -> str:
    shape: Mapping[str, Any] = json.loads(made)
    return ", ".join(f"{name}={value!r}" for name, value in shape.items())


def durability(connection: Connection) -> str:
    """Return in words what a completed write means on a server.

    Redis: INFO persistence, CONFIG GET.
    """
    info = connection.ask("INFO", "persistence")
    text = info if isinstance(info, str) else info.decode()
    try:
        found = connection.ask("CONFIG", "GET", "appendfsync", "no-appendfsync-on-rewrite", "save")
    except (ServerRefused, ServerSetupError):
        found = {}
    settings = {name.decode(): value.decode() for name, value in found.items()}
    if "aof_enabled:1" not in text:
        if settings.get("save"):
            return "in memory until the next snapshot: a server that is killed, or a power cut, loses what came since"
        return "in memory only: a server that ends loses it"
    if not settings:
        return "in the append-only file; the server does not tell how often that is put on disk"
    policy = settings["appendfsync"]
    if policy == "always" and settings["no-appendfsync-on-rewrite"] == "yes":
        return "on disk before it is acknowledged, but not while the server rewrites its append-only file"
    return {
        "always": "fsynced: on disk before it is acknowledged",
        "everysec": "on disk within about a second: a power cut loses that much, a killed server nothing",
    }.get(policy, "on disk when the system writes it: a power cut loses some 30 seconds, a killed server nothing")
