"""Streams on their way to a copy elsewhere: what is asked of the source, what is under way, what is written.

It knows ids and numbers, how entries are counted that a stream has dropped, and the commands of both ends. It must not
know sockets, nor when anything is sent. Invariants:

1. A copy's entries have the source's ids. What has an id that the copy has passed already is counted as missed.
2. Every entry that the source ever had behind `Place.at` is sent or counted as missed, once; that is in the Place which
   is written with the entry.
"""

import json
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from shareddata.datadesc import Record
from shareddata.eras import Era
from shareddata.errors import DecodeError
from shareddata.logwriter import newer, parted
from shareddata.names import Names, made_key, writer_key
from shareddata.wire import Layout, pack

log = logging.getLogger("shareddata")

_FIRST_PAGE, _MOST_PAGE = 64, 1000  # entries read at once
_PAGE_BYTES = 1 << 20  # a page larger than that is followed by smaller ones


@dataclass(frozen=True)
class Place:
    """How far a record or log was forwarded: what the destination knows, as JSON."""

    id: str = "0-0"
    """The last entry that was written there."""
    at: str = "0-0"
    """The source's id up to which all was sent or counted as missed."""
    ordinal: int = 0
    """How many entries the source ever had up to there; of a log its number."""
    sent: int = 0
    missed: int = 0
    writer: str = ""
    """Who wrote the log at the source, as its writer's key says."""


class Entry(NamedTuple):
    """An entry of the source on its way, or (without fields) only a gap."""

    id: str
    ordinal: int
    missed: int
    """How many entries before it were dropped before they could be sent."""
    fields: Sequence[bytes]

    @property
    def size(self) -> int:
        """About how many bytes of a transaction it takes."""
        return 64 + sum(map(len, self.fields))


class Progress(NamedTuple):
    """How far one record or log is: see `Forward.progress`."""

    name: str
    kind: str
    """`log` or `history`."""
    sent: int
    """Entries that were sent since this forwarding began, in earlier runs too."""
    missed: int
    """Entries that were dropped before they could be sent, likewise."""
    behind: int | None
    """Entries that the source has and the destination has not; None while the destination was not reached yet."""
    trouble: str
    """Why it is not forwarded now."""


class Stream:
    """One history or log: what is asked of the source, what is on its way, what is written."""

    kind = ""

    def __init__(self, name: str, field: str, key: str, to_key: str) -> None:
        self.name, self.field, self.key, self.to_key = name, field, key, to_key
        self.there = False  # at the source, as a stream
        self.trouble = ""
        self.known = False  # the place was read at the destination
        self.place = Place()
        self.begun = 0  # the ordinal behind which forwarding began
        self.total = 0  # the last ordinal of the source
        self.whole = False  # nothing more was at the source when it was last read
        self.buffer: deque[Entry] = deque()
        self.page = _FIRST_PAGE

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def progress(self) -> Progress:
        """How far it is."""
        behind = max(0, self.total - self.place.ordinal) if self.known else None
        return Progress(self.name, self.kind, self.place.sent, self.place.missed, behind, self.trouble)

    def questions(self, wanted: bool) -> list[bytes]:
        """Return what the source is asked, in one transaction for all streams."""
        if not self.there:
            return [pack("TYPE", self.key)]
        page = [pack("XRANGE", self.key, f"({self.place.at}", "+", "COUNT", self.page)] if wanted else []
        return [pack("XINFO", "STREAM", self.key), *page]

    def take(self, answers: Iterator[Any], wanted: bool) -> None:
        """Take the source's answers to `questions`."""
        raise NotImplementedError

    def found(self, kind: bytes) -> None:
        """Take the type of the source's key."""
        self.there = kind == b"stream"
        self.whole = kind == b"none"
        if not self.there and not self.whole:
            self.trouble = f"{self}: the source's key {self.key} is a {kind.decode()}, expected a stream"

    def sized(self, entries: Sequence[Any]) -> None:
        """Read fewer entries at once where they are large, more where they are small."""
        size = sum(len(value) for _, fields in entries for value in fields)
        if size > _PAGE_BYTES:
            self.page = max(1, self.page // 2)
        elif len(entries) == self.page:
            self.page = min(_MOST_PAGE, 2 * self.page)

    def begin(self) -> Place:
        """Return the place of a destination that has nothing."""
        return Place(ordinal=self.begun)

    def settle(self, place: Place) -> None:
        """Go on from a place."""
        self.place, self.known, self.whole = place, True, False
        self.buffer.clear()

    def append(self, entry: Entry) -> None:
        """Put an entry on its way; it is missed if the destination has passed its id."""
        if entry.fields and order(entry.id) <= order(self.place.id):
            entry = Entry(entry.id, entry.ordinal, entry.missed + 1, ())
        self.buffer.append(entry)

    def commands(self, entries: Sequence[Entry]) -> list[bytes]:
        """Return what writes entries at the destination."""
        return [pack("XADD", self.to_key, entry.id, *entry.fields) for entry in entries if entry.fields]

    def after(self, entries: Sequence[Entry]) -> Place:
        """Return the place behind entries."""
        last = entries[-1]
        sent = [entry for entry in entries if entry.fields]
        return replace(
            self.place,
            id=sent[-1].id if sent else self.place.id,
            at=last.id,
            ordinal=last.ordinal,
            sent=self.place.sent + len(sent),
            missed=self.place.missed + sum(entry.missed for entry in entries),
        )


class HistoryCopy(Stream):
    """The history of a record."""

    kind = "history"

    def __init__(self, name: str, source: Names, destination: Names) -> None:
        super().__init__(name, name, source.history(name), destination.history(name))
        self._names = destination
        self.record: Record | None = None
        self.eras: Sequence[Era] = ()
        self._layout: Layout | None = None

    def described(self, record: Record, eras: Sequence[Era] = ()) -> None:
        """Take a description, and the earlier ones."""
        self.record, self.eras = record, eras
        self._layout = Layout(record, self._names)

    def take(self, answers: Iterator[Any], wanted: bool) -> None:
        """Take the source's answers: Follower's counting of what was dropped, over restarts of both ends."""
        if not self.there:
            self.total = 0
            return self.found(next(answers))
        info, at, ordinal = next(answers), self.place.at, self.place.ordinal
        added = self.total = info[b"entries-added"]
        if not wanted:
            return
        entries = next(answers)
        last = info[b"last-generated-id"].decode()
        self.whole = len(entries) < self.page
        if order(last) < order(at):  # the source has lost entries, or its clock went back
            if added != ordinal:
                self.append(Entry(at, added, max(0, added - ordinal), ()))
            return
        start = added - len(entries) if self.whole else added - info[b"length"]
        ordinal = min(ordinal, added - len(entries))  # larger only where the source lost entries
        gap = max(0, start - ordinal)
        ordinal += gap
        self.sized(entries)
        if gap and not entries:
            self.append(Entry(at, ordinal, gap, ()))
        for identity, fields in entries:
            ordinal += 1
            self.append(Entry(identity.decode(), ordinal, gap, fields))
            gap = 0

    def commands(self, entries: Sequence[Entry]) -> list[bytes]:
        """Return what writes entries, and the record's newest values, at the destination."""
        layout = self._layout
        assert layout is not None, "described before it is sent"
        result = []
        sent = [entry for entry in entries if entry.fields]
        for entry in sent:
            if layout.span:
                bound = ("MINID", "~", max(0, order(entry.id)[0] - int(layout.span * 1000)))
            else:
                bound = ("MAXLEN", "~", int(layout.record.history))
            result.append(pack("XADD", self.to_key, *bound, entry.id, *entry.fields))
        if sent and (newest := self._newest(layout, sent[-1])):
            result.append(pack("HSET", layout.key, *newest))
        return result

    @staticmethod
    def _newest(layout: Layout, entry: Entry) -> list[bytes]:
        """Return the record's newest values; nothing if they are older than an incompatible description."""
        try:
            layout.decode_entry(entry.fields, entry.id)
        except DecodeError:
            return []
        fields = {field.name.encode() for field in layout.record.fields}
        pairs = zip(entry.fields[::2], entry.fields[1::2])
        return [part for name, value in pairs if name in fields for part in (name, value)]


class LogCopy(Stream):
    """A log.

    Attributes:
        made: what the source made it with.
        writer: who writes it at the source.
        anew: it was begun anew at the source (`recreate`), so the copy is to be begun anew.
        token: what the destination's writer key holds while nobody else writes it there.
        claim: what it is to hold from now on.
    """

    kind = "log"

    def __init__(self, name: str, source: Names, destination: Names) -> None:
        super().__init__(name, f"tslog:{name}", source.log(name), destination.log(name))
        self.made_key, self.to_made_key = made_key(self.key), made_key(self.to_key)
        self.writer_key, self.to_writer_key = writer_key(self.key), writer_key(self.to_key)
        self.made = b""
        self.writer = b""
        self.anew = False
        self.token = self.claim = b""
        self._seen = b""  # the writer under which `total` was seen last
        self._old_total = 0  # what was seen before this writer

    @property
    def bucket_size(self) -> int:
        """How many records are dropped together."""
        return int(json.loads(self.made)["bucket_size"])

    def questions(self, wanted: bool) -> list[bytes]:
        """Return what the source is asked: also what the log was made with, and who writes it."""
        return [pack("GET", self.made_key), pack("GET", self.writer_key), *super().questions(wanted)]

    def take(self, answers: Iterator[Any], wanted: bool) -> None:
        """Take the source's answers; numbers tell what was dropped, and its writers whether numbers were given anew."""
        made, writer = next(answers), next(answers)
        there = self.there
        if not there:
            self.found(next(answers))
        info = next(answers) if there else None
        entries = next(answers) if there and wanted else ()
        if not made:  # the source has lost it
            self.there, self.whole = False, True
            return
        self.made, self.writer = made, writer or b""
        if info is None:
            return
        if newer(self._seen, self.writer):
            self._seen, self._old_total = self.writer, self.total
        self.total = order(info[b"last-generated-id"])[0]
        if not wanted:
            return
        if self._parted() is not None:
            self.known = self.whole = False  # it is settled first where to go on
            return
        if newer(self.place.writer.encode(), self.writer):
            self.place = replace(self.place, writer=self.writer.decode())
        self.whole = len(entries) < self.page
        number = self.place.ordinal
        self.sized(entries)
        for identity, fields in entries:
            before, number = number, order(identity)[0]
            self.append(Entry(identity.decode(), number, number - before - 1, fields))
        if not entries and self.total > number:
            self.append(Entry(f"{self.total}-0", self.total, self.total - number, ()))

    def _parted(self) -> int | None:
        """Return the first number up to the place that the source has given to another record since."""
        if not self.place.writer:
            return None
        first = parted(self.place.writer.encode(), self.writer)
        return first if first is not None and first <= self.place.ordinal else None

    def begin(self) -> Place:
        """Return the place of a destination that has nothing."""
        return replace(super().begin(), writer=self.writer.decode())

    def settle(self, place: Place) -> None:
        """Go on from a place; from further back where the source has given numbers to other records since.

        After `recreate` that is the beginning. A server that lost records (a power cut, without fsync) had the next
        writer give their numbers again: the copy keeps what it has, and what the source has instead is missed.
        """
        super().settle(place)
        first = self._parted()
        self.anew = first == 1
        if first is None:
            return
        if self.anew:
            log.warning("%s was begun anew at the source: it is begun anew at the destination too", self)
            unsent = max(0, self._old_total - place.ordinal)
            if unsent:
                log.warning("%s: %d records of the old one were not sent", self, unsent)
            self.begun = 0
            self.place = replace(self.begin(), sent=place.sent, missed=place.missed + unsent)
        else:
            log.warning(
                "%s: the source lost records that were sent already, and has given their numbers to others, from %d on",
                *(self, first),
            )
            writer = self.writer.decode()
            self.place = replace(place, at=f"{first - 1}-0", ordinal=first - 1, writer=writer)


def order(identity: str | bytes) -> tuple[int, int]:
    """Return a stream's id as numbers, to be compared."""
    first, _, second = (identity if isinstance(identity, str) else identity.decode()).partition("-")
    return int(first), int(second or 0)
