"""Reading a log: record after record, behind a durable cursor.

It knows positions, cursors and what a record's tag says. It must not know who may write, or buckets. Invariants:

1. Records come in the order of their numbers, each once; a later reader begins behind the committed cursor.
2. What cannot be read any more (dropped, or lost by the server) is counted in `missed`.
3. Numbers that were given anew, to other records, are read again from there on, and that is counted in `restarts`.
"""

import gc
import logging
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from shareddata.connection import Connection
from shareddata.errors import DecodeError, LogFormatError, ServerTimeout, ServerUnreachable, SharedDataError
from shareddata.formats import Format, table
from shareddata.logwriter import newer, parted
from shareddata.names import made_key, writer_key
from shareddata.numbered import Numbered
from shareddata.wire import pack

log = logging.getLogger("shareddata")

RAW = b"raw"
"""The tag of a record that was stored as bytes."""

_PAGE = 1000


def decoders(formats: Sequence[Format]) -> dict[bytes, Callable[[bytes], Any]]:
    """Return for each tag what makes a record of bytes: the values, or `(tag, values)` of several formats."""
    if len(formats) == 1:
        return {b"0": formats[0].unpack}
    return {b"%d" % i: lambda data, i=i: (i, formats[i].unpack(data)) for i in range(len(formats))}  # type: ignore[misc]


class TSReader:
    """A reader of a log, with a durable cursor. Made by `TSLog.reader`, never directly.

    It has its own connection, belongs to one thread at a time, is a context manager, and an iterator over what is
    committed now.

    Attributes:
        missed: records that were dropped or lost before this reader could read them.
        restarts: how often numbers were given anew under this reader: by `recreate`, or by a new writer after the
            server had lost committed records.

    Redis: MULTI, XRANGE, GET, EXEC.
    """

    def __init__(
        self,
        connection: Connection,
        key: str,
        cursor: str,
        formats: Sequence[Format],
        made: bytes,
        on_close: Callable[["TSReader"], object],
    ) -> None:
        self.cursor = cursor
        self.missed = 0
        self.restarts = 0
        self._formats = formats
        self._decode: Mapping[bytes, Callable[[bytes], Any]] = decoders(formats)
        self._made = made
        self._on_close = on_close
        self._connection = connection
        self._stream = Numbered(connection, key)
        self._ask_writer = pack("GET", writer_key(key))
        self._tags: list[bytes] = []  # of a page of records, and their bytes
        self._data: list[bytes] = []
        self._at = 0  # the index of the next one
        try:
            connection.settle()
            self._writer: bytes | None = connection.command(self._ask_writer)
            self._before = self._stream.extent().cursors.get(cursor, 0)  # the number before the page's first one
        except BaseException:
            connection.close()
            raise

    def __repr__(self) -> str:
        return f"<TSReader {self.cursor} of {self._stream.key} at {self.position}, {self.missed} missed>"

    def __enter__(self) -> "TSReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (record := self.next()) is not None:
            yield record

    @property
    def position(self) -> int:
        """The sequence number of the last record that was read."""
        return self._before + self._at

    def next(self) -> tuple[Any, ...] | None:
        """Return the next record's values; with several formats `(tag, values)`; None when there is no more yet.

        Raises:
            LogFormatError: the log has no format: use `next_record`; or it was begun anew with other formats.
            DecodeError: a record that was stored as bytes; `next_record` returns it.
        """
        at = self._at
        if at == len(self._data):
            if self._fetch() is None:
                return None
            at = 0
        try:
            values: tuple[Any, ...] = self._decode[self._tags[at]](self._data[at])
        except (struct.error, KeyError):
            raise self._no_record(self._tags[at], self._data[at]) from None
        self._at = at + 1
        return values

    def next_record(self) -> bytearray | None:
        """Return the next record's bytes, None when there is no more yet."""
        if self._at == len(self._data) and self._fetch() is None:
            return None
        self._at += 1
        return bytearray(self._data[self._at - 1])

    def read_many(self, n: int, tag: int = 0) -> Any:
        """Return up to n records of one format as a structured array; it may be empty.

        Args:
            n: how many at most.
            tag: the index of the format; the array ends before a record of another one.

        Raises:
            LogFormatError: no such format, or one that arrays cannot have; see also `next`.
            ServerError: when nothing was read yet; else the array ends there, and the next call asks again.
        """
        if not 0 <= tag < len(self._formats):
            raise LogFormatError(f"{self._stream.key}: tag {tag!r}, expected 0 to {len(self._formats) - 1}")
        records: list[bytes] = []  # or many of them in one piece
        wanted, form, rest = b"%d" % tag, self._formats[tag], n
        dtype = form.dtype()  # at first: what cannot be returned is not read
        while rest > 0:
            if self._at == len(self._data):
                try:
                    values = self._fetch(rest, (wanted, form.size))
                except SharedDataError:
                    if not records:
                        raise
                    break  # what was read is not lost
                if values is None:
                    break
                records.append(values)
                rest -= len(values) // form.size
            page, good = self._alike(rest, wanted, form.size)
            records += page[:good]
            self._at += good
            rest -= good
            if good < len(page):
                break
        return table(records, dtype)

    def _alike(self, count: int, wanted: bytes, size: int) -> tuple[list[bytes], int]:
        """Return what is next of the page's records, and how many of these have this tag and this size."""
        what = slice(self._at, self._at + count)
        page, tags = self._data[what], self._tags[what]
        if tags.count(wanted) == len(page) and set(map(len, page)) <= {size}:
            return page, len(page)
        return page, [tag == wanted and len(data) == size for tag, data in zip(tags, page)].index(False)

    def follow(self, timeout: float | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield records as they are committed; while the server is away, wait for it.

        Args:
            timeout: seconds without a new one after which it ends, None for never.

        Raises:
            ServerUnreachable, ServerTimeout: with a timeout only: the server is still away when it is over.

        Redis: MULTI, XRANGE, GET, EXEC, XREAD.
        """
        heard = time.monotonic()
        while True:
            rest = 1.0 if timeout is None else heard + timeout - time.monotonic()
            try:
                self._connection.open()
                record = self.next()
                if record is None and rest <= 0:
                    return
                if record is None:
                    self._stream.wait(self.position, rest)
            except (ServerUnreachable, ServerTimeout):
                if rest <= 0:
                    raise
                continue
            if record is not None:
                yield record
                heard = time.monotonic()

    def commit(self) -> None:
        """Save the number of the last read record as the cursor: a later reader begins behind it.

        Redis: XINFO STREAM, XINFO GROUPS, XGROUP SETID.
        """
        self._stream.move_cursor(self.cursor, self.position)

    def close(self) -> None:
        """Close the reader; its cursor stays where it was committed."""
        self._on_close(self)
        self._connection.close()

    def _no_record(self, tag: bytes, data: bytes) -> Exception:
        if not self._formats:
            return LogFormatError(f"{self._stream.key} has no format: use next_record")
        return DecodeError(
            f"{self._stream.key}, record {self.position + 1}: {len(data)} bytes with the tag {tag.decode()!r} are no "
            f"record of the formats {[form.text for form in self._formats]}: read it with next_record"
        )

    def _fetch(self, count: int = _PAGE, alike: tuple[bytes, int] | None = None) -> bytes | None:
        """Read the next records; they have consecutive numbers.

        Args:
            count: how many at most.
            alike: a tag and a size: records that all have them, none missing, need not become a page.

        Returns:
            None when there are none yet; else the bytes of such records, which are thereby read, or `b""` for a page.
        """
        collecting = gc.isenabled()
        gc.disable()  # thousands of lists that end here: looking through them takes a third of the time (measured)
        what, values = (self.position, min(count, _PAGE)), b""
        try:
            if alike:
                values, entries, writer = self._stream.values(*what, alike, self._ask_writer)
            else:
                entries, writer = self._stream.entries(*what, self._ask_writer)
            if writer == self._writer or not self._begun_anew(writer):
                if alike and values:
                    self._before, self._at, self._tags, self._data = self.position + len(values) // alike[1], 0, [], []
                    return values
                return b"" if self._take(entries) else None
        finally:
            if collecting:
                gc.enable()
        return self._fetch(count, alike)

    def _take(self, entries: list[Any]) -> bool:
        if not entries:
            return False
        first = _number(entries[0])
        if _number(entries[-1]) - first + 1 > len(entries):  # a gap: what is behind it is read next time
            entries = [entry for i, entry in enumerate(entries) if _number(entry) == first + i]
        self.missed += first - self.position - 1
        self._before, self._at = first - 1, 0
        flat = list(chain.from_iterable(map(itemgetter(1), entries)))  # tag, bytes, tag, bytes ...
        self._tags, self._data = flat[::2], flat[1::2]
        entries.clear()
        return True

    def _begun_anew(self, writer: bytes | None) -> bool:
        """Take note of a new writer; go back when it gave numbers anew that were read before."""
        if not newer(self._writer, writer):
            return False  # the server lost the newer one: the writer will send again what is missing, or another comes
        first = parted(self._writer, writer) if self._writer else None
        if first is not None and first <= self.position:
            self._check_made()
            log.warning("%s: the numbers from %d on are other records now: reading them", self._stream.key, first)
            self._before, self._at, self._tags, self._data = first - 1, 0, [], []
            self.restarts += 1
            self._writer = writer
            return True
        self._writer = writer
        return False

    def _check_made(self) -> None:
        """Refuse a log that was begun anew with other formats or sizes.

        Redis: GET.
        """
        found = self._connection.ask("GET", made_key(self._stream.key))
        if found is not None and found != self._made:
            raise LogFormatError(
                f"{self._stream.key}: begun anew with {found.decode()}, opened with {self._made.decode()}: open it as "
                "it is now"
            )


def _number(entry: Sequence[Any]) -> int:
    return int(entry[0].partition(b"-")[0])
