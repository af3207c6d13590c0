"""Logs from outside: which there are, what they hold, whether they are whole, and dropping what is not needed any more.

It knows what `tslog` keeps in Redis, and reads it without being a writer or a reader of the log. It must not know files
or terminals. Invariants:

1. Looking changes nothing: no log is made, no cursor moved.
2. A log is read in pages; nothing here grows with its length, but the list of gaps that are found.
3. Trimming stops at the committed cursor of the slowest reader, unless it is told to go on; then it says what each
   reader loses.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shareddata.errors import (
    DecodeError,
    LogFormatError,
    ServerRefused,
    ServerTimeout,
    ServerUnreachable,
    SharedDataError,
    UnknownData,
)
from shareddata.formats import Format
from shareddata.htmltable import table
from shareddata.logreader import RAW
from shareddata.logwriter import newer, parted
from shareddata.memory import SharedMemory
from shareddata.names import is_log_name, made_key, writer_key
from shareddata.numbered import Numbered
from shareddata.tslog import durability

_PAGE = 1000
_PAGE_BYTES = 4_000_000
_PLAIN = ("name", "record_size", "bucket_size", "first", "last", "length", "size", "durability")


class Entry(NamedTuple):
    """One record of a log."""

    seqn: int
    tag: bytes
    data: bytes


@dataclass(frozen=True)
class State:
    """What there is to know of a log.

    Attributes:
        name: its name.
        formats: its formats; none also when the server has lost what the log was made with (`made` is False then).
        record_size: bytes of a record.
        bucket_size: records that are dropped together.
        made: whether the server knows what the log was made with.
        first: the number of the oldest record that is kept, `last + 1` for none.
        last: the number of the last record there ever was, 0 for none.
        length: how many records are kept.
        cursors: the committed cursor of each reader, by its name.
        size: bytes that it takes in the server's memory, None where the server does not tell.
        writer: who stored last: host, pid, program, since; nothing when nobody has.
        durability: what a commit means on this server.
        damage: why there is no more to know, "" where there is.
    """

    name: str
    formats: tuple[Format, ...]
    record_size: int
    bucket_size: int
    made: bool
    first: int
    last: int
    length: int
    cursors: Mapping[str, int]
    size: int | None
    writer: Mapping[str, Any]
    durability: str
    damage: str = ""

    @property
    def shape(self) -> str:
        """The formats in one text, "" for none."""
        return " ".join(form.text for form in self.formats)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it, each reader with its committed cursor, lag and what it misses."""
        readers = {
            name: {"committed": cursor, "lag": self.lag(name), "missing": self.missing(name)}
            for name, cursor in self.cursors.items()
        }
        own = {name: getattr(self, name) for name in _PLAIN} | ({"damage": self.damage} if self.damage else {})
        return {**own, "formats": [form.text for form in self.formats], "readers": readers, "writer": dict(self.writer)}

    def _repr_html_(self) -> str:
        own = [(name.replace("_", " "), getattr(self, name)) for name in _PLAIN[1:]]
        readers = [(f"reader {name}", f"{self.lag(name)} behind, {self.missing(name)} missed") for name in self.cursors]
        return table(f"log {self.name}", [], [("formats", self.shape), *own, *readers])

    def lag(self, cursor: str) -> int:
        """Return how many records a reader has not committed yet."""
        return self.last - self.cursors[cursor]

    def missing(self, cursor: str) -> int:
        """Return how many records were dropped that a reader has not committed."""
        return max(0, self.first - 1 - self.cursors[cursor])


@dataclass
class Verified:
    """What `verify` found.

    Attributes:
        first: the number of the first record that was read.
        last: the number that the last one has to have.
        records: how many were read.
        gaps: numbers that are missing, as (first, last).
        wrong: records that are not as the log's formats say: number and what is wrong.
        trimmed: records that were dropped while they were read, by the log's own cleaning.
    """

    first: int = 0
    last: int = 0
    records: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    trimmed: int = 0

    @property
    def whole(self) -> bool:
        """Whether there is neither a gap nor a wrong record."""
        return not self.gaps and not self.wrong


class Trimmed(NamedTuple):
    """What `trim` did."""

    below: int
    """Records below this number are gone."""
    dropped: int
    """How many that were."""
    lost: dict[str, int]
    """How many of them each reader had not committed."""


class Look:
    """A log, looked at from outside. It has its own connection and is a context manager.

    Args:
        shm: the shared memory.
        name: the log's.

    Raises:
        UnknownData: there is no such log; the message names near ones.
        LogFormatError: another program wrote what tells of its format.

    Attributes:
        missed: records that were dropped before `tail` could read them.
        restarts: how often numbers were given anew under it.

    Redis: GET, EXISTS.
    """

    def __init__(self, shm: SharedMemory, name: str) -> None:
        self.name = name
        self.missed = self.restarts = 0
        self._shm = shm
        self._connection = shm.connect(f"log {name}")
        self.stream = Numbered(self._connection, shm.keys.log(name))
        try:
            made = self._read_made()
            self._writer = self._read_writer()
            shape = self._parsed(made, made_key, formats=list, record_size=int, bucket_size=int)
            self.formats = tuple(map(Format, shape.get("formats", ())))
        except BaseException:
            self._connection.close()
            raise
        self._made = made is not None
        self.record_size: int = shape.get("record_size", 0)
        self.bucket_size: int = shape.get("bucket_size", 0)

    def __enter__(self) -> "Look":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _read_made(self) -> bytes | None:
        made: bytes | None = self._connection.ask("GET", made_key(self.stream.key))
        if made is None and not self._connection.ask("EXISTS", self.stream.key):
            there = names(self._shm)
            near = difflib.get_close_matches(self.name, there, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {len(there)}: `shareddata log list`"
            raise UnknownData(f"{self._shm.url}: no log {self.name!r}: {hint}")
        return made

    def _parsed(self, text: bytes | None, key: Callable[[str], str], **kinds: type) -> dict[str, Any]:
        """Return what one of the log's keys holds.

        Raises:
            LogFormatError: it holds something else than a log's.
        """
        try:
            found = json.loads(text or b"{}")
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and all(isinstance(found.get(name, kind()), kind) for name, kind in kinds.items()):
            return found
        raise LogFormatError(
            f"log {self.name}: found {(text or b'')[:60]!r} in the key {key(self.stream.key)}: another program wrote it"
        )

    def _read_writer(self) -> bytes | None:
        writer: bytes | None = self._connection.ask("GET", writer_key(self.stream.key))
        return writer

    def given_anew(self, position: int) -> int | None:
        """Return the number from which on other records stand now than before, None when there is none.

        The log was begun anew (`recreate`), or the server lost records and another writer went on where it stood.

        Args:
            position: the number of the last record that was read.

        Redis: GET.
        """
        before, found = self._writer, self._read_writer()
        if not newer(before, found):
            return None
        self._writer = found
        first = parted(before, found) if before else None
        return first if first is not None and first <= position else None

    def first(self) -> int:
        """Return the number of the oldest record that is kept, 0 for none.

        Redis: XRANGE.
        """
        entries, _ = self.stream.read(0, 1)
        return entries[0][0] if entries else 0

    def state(self) -> State:
        """Return what there is to know.

        Redis: MULTI, XINFO STREAM, XINFO GROUPS, EXEC, XRANGE, MEMORY USAGE, GET, INFO, CONFIG GET.
        """
        extent, first = self.stream.extent(), self.first()
        return State(
            *(self.name, self.formats, self.record_size, self.bucket_size, self._made),
            *(first or extent.last + 1, extent.last, extent.length, extent.cursors, self._size()),
            writer=self._parsed(self._read_writer(), writer_key),
            durability=durability(self._connection),
        )

    def _size(self) -> int | None:
        try:
            size: int | None = self._connection.ask("MEMORY", "USAGE", self.stream.key)
        except ServerRefused:  # MEMORY is forbidden on some managed servers
            return None
        return size

    def records(self, after: int = 0, until: int | None = None) -> Iterator[Entry]:
        """Yield records that are committed, in order.

        Args:
            after: a number: the first one is the next that is there.
            until: the number of the last one; None for what there is at each page.

        Redis: MULTI, XRANGE, EXEC for each page.
        """
        page = max(1, min(_PAGE, _PAGE_BYTES // max(1, self.record_size)))
        strange = 0  # ids with the last number, but not `<number>-0`: a stranger's, which the next page begins with
        while until is None or after < until:
            count = page if until is None else min(page, until - after)
            entries, _ = self.stream.entries(after, count + strange)
            if not entries[strange:]:
                return
            for identity, (tag, data, *_) in entries[strange:]:
                after = int(identity.partition(b"-")[0])
                if until is not None and after > until:
                    return
                yield Entry(after, tag, data)
            usual, same = b"%d-0" % after, b"%d-" % after
            strange = sum(identity.startswith(same) and identity != usual for identity, _ in entries)

    def decode(self, entry: Entry) -> tuple[int | None, tuple[Any, ...]]:
        """Return the index of a record's format and its values; None and the bytes when it was stored as bytes.

        Raises:
            DecodeError: it is none of the log's formats.
        """
        if fault := self._fault(entry):
            raise DecodeError(f"log {self.name}, record {entry.seqn}: {fault}")
        if entry.tag == RAW or not self._made:
            return None, (entry.data,)
        return int(entry.tag), self.formats[int(entry.tag)].unpack(entry.data)

    def _fault(self, entry: Entry) -> str:
        """Return what is wrong with a record, "" when nothing is."""
        size = len(entry.data)
        if not self._made:
            return ""
        if entry.tag == RAW:
            return f"{size} bytes, expected {self.record_size} at the most" if size > self.record_size else ""
        if not entry.tag.isdigit() or int(entry.tag) >= len(self.formats):
            return f"the tag {entry.tag.decode(errors='replace')!r}, and the log has {len(self.formats)} formats"
        form = self.formats[int(entry.tag)]
        return f"{size} bytes, expected {form.size} for the format {form.text!r}" if size != form.size else ""

    def tail(self, count: int, follow: bool = False) -> Iterator[Entry]:
        """Yield the last records, then, if asked to, those that are committed later, without an end.

        While the server is away, following waits for it. What was dropped before it could be read is counted in
        `missed`; when numbers were given anew, to other records, it goes back to the first of them and counts that in
        `restarts`.

        Args:
            count: how many of those that are there.
            follow: whether to go on.

        Redis: MULTI, XINFO STREAM, XINFO GROUPS, EXEC; MULTI, XRANGE, EXEC for each page; GET, XREAD.
        """
        last = self.stream.extent().last
        position = max(last - count, self.first() - 1, 0)
        yield from self.records(position, last)
        position = last
        while follow:
            try:
                self._connection.open()
                if (first := self.given_anew(position)) is not None:
                    position = first - 1
                    self.restarts += 1
                for entry in self.records(position):
                    self.missed += entry.seqn - position - 1
                    position = entry.seqn
                    yield entry
                self.stream.wait(position, 1.0)
            except (ServerUnreachable, ServerTimeout):
                continue

    # -- checking and dropping ------------------------------------------------------------------------------------

    def verify(self) -> Verified:
        """Read every record that is there now, and find what is missing or wrong.

        Redis: MULTI, XINFO STREAM, XINFO GROUPS, EXEC; MULTI, XRANGE, EXEC for each page.
        """
        extent, expected = self.stream.extent(), self.first()
        found = Verified(first=expected, last=extent.last)
        for entry in self.records(until=extent.last):
            expected = expected or entry.seqn
            if entry.seqn < expected:
                found.wrong.append((entry.seqn, "its number was there already"))
                continue
            if entry.seqn > expected:
                self._missing(found, expected, entry.seqn - 1)
            expected = entry.seqn + 1
            found.records += 1
            if fault := self._fault(entry):
                found.wrong.append((entry.seqn, fault))
        if found.first and expected <= extent.last:
            self._missing(found, expected, extent.last)
        return found

    def _missing(self, found: Verified, first: int, last: int) -> None:
        """Note missing numbers: dropped by cleaning while they were read, or a gap."""
        oldest = self.first() or last + 1
        below = min(oldest, last + 1) if oldest > found.first else first
        found.trimmed += max(0, below - first)
        if (begin := max(first, below)) <= last:
            found.gaps.append((begin, last))

    def trim(self, below: int | None = None, buckets: int | None = None, force: bool = False) -> Trimmed:
        """Drop old records.

        Args:
            below: a number: those below it.
            buckets: how many buckets to keep, the newest.
            force: go past the committed cursors of readers: what they have not committed is lost to them.

        Raises:
            SharedDataError: a reader has not committed all of it; nothing was dropped.

        Redis: MULTI, XINFO STREAM, XINFO GROUPS, EXEC, XRANGE, XTRIM.
        """
        extent, first = self.stream.extent(), self.first()
        if buckets is not None:
            if not self.bucket_size:
                raise LogFormatError(f"log {self.name}: the server has lost its bucket size: give a number")
            newest = max(0, extent.last - 1) // self.bucket_size
            below = (newest - buckets + 1) * self.bucket_size + 1
        below = max(1, min(below or 1, extent.last + 1))
        if not first or below <= first:
            return Trimmed(below, 0, {})
        lost = {
            name: below - 1 - max(cursor, first - 1) for name, cursor in extent.cursors.items() if cursor < below - 1
        }
        if lost and not force:
            who = ", ".join(f"{name} ({count})" for name, count in lost.items())
            slowest = min(extent.cursors[name] for name in lost)
            rest = f"drop below {slowest + 1} only, or" if slowest >= first else "wait for them, or drop them"
            raise SharedDataError(
                f"log {self.name}: records below {below} are not committed by {who}: nothing was dropped; {rest} "
                "all the same with --force"
            )
        return Trimmed(below, self.stream.trim(below), lost)


def names(shm: SharedMemory) -> list[str]:
    """Return the names of the logs, sorted; keys whose names no log can have are left out.

    Redis: SCAN.
    """
    prefix = shm.keys.log("x")[:-1]
    pattern = "".join(f"\\{character}" if character in "*?[]^\\" else character for character in prefix)
    connection = shm.connect("logs")
    found: set[str] = set()
    try:
        cursor: bytes | str = "0"
        while True:
            cursor, keys = connection.ask("SCAN", cursor, "MATCH", f"{pattern}*", "COUNT", 1000)
            found |= {key.decode(errors="backslashreplace").removeprefix(prefix).partition(":")[0] for key in keys}
            if cursor in (b"0", "0"):
                return sorted(name for name in found if is_log_name(name))
    finally:
        connection.close()


def states(shm: SharedMemory) -> list[State]:
    """Return what there is to know of each log; one that cannot be looked at is told of, and does not hide the others.

    Redis: SCAN, and as `Look.state`.
    """
    found = []
    for name in names(shm):
        try:
            with Look(shm, name) as log:
                found.append(log.state())
        except UnknownData:
            continue  # removed just now, or a key that only begins like a log's
        except (ServerRefused, LogFormatError) as error:
            found.append(State(name, (), 0, 0, False, 1, 0, 0, {}, None, {}, "", damage=str(error)))
    return found
