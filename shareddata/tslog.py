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
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from shareddata import formats
from shareddata.errors import FieldError, LogFormatError, ServerError, ServerRefused, ServerUnreachable, WriterConflict
from shareddata.formats import Format
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
            raise LogFormatError(f"log {name}: sizes are {bucket_size=}, {commit_delta=}, {record_size=}, {max_buckets=}: each is at least 1")
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
        self._connection = self._shm.connect(f"log {name}")
        self._stream = Numbered(self._connection, self._shm.keys.log(name))
        self._made_key, self._writer_key = f"{self._stream.key}:log", f"{self._stream.key}:writer"
        self._guard = pack("WATCH", self._writer_key) + pack("GET", self._writer_key)
        self._readers: weakref.WeakSet[TSReader] = weakref.WeakSet()
        self._token = b""
        self._pending: list[tuple[bytes, bytes]] = []
        self._held: deque[tuple[bytes, bytes]] = deque(maxlen=bucket_size)
        self._committed = 0
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
