"""A source's events in Redis: bounded, and kept until every archiver has acknowledged them.

It knows how an event stands there, who has acknowledged it, and how it is taken out. It must not know who emits, who
archives, or what an event is for. Invariants:

1. What an archiver (a consumer group) has not acknowledged is never taken out, unless the archiver is given up.
2. An entry, its payload and the count of bytes change in one transaction; nobody takes the same entry out twice.
3. Where nobody archives, the oldest are taken out to make room; how many is counted.

The stream `event:SOURCE:EVENT` has an entry for each event: `token`, `size` in bytes, `metadata` in CBOR, `place`. The
hash `...:values` holds the payloads in CBOR by token, the hash `...:files` references to those that are in files
(`place` tells which), the hash `...:state` the `bytes` of all and how many were `dropped`. The key `...:turn` changes
with each trimming and each new archiver. The set `shareddata:events` names the streams.
"""

from collections.abc import Sequence
from typing import NamedTuple

from shareddata.connection import Connection
from shareddata.errors import ServerRefused
from shareddata.large import LargeValues
from shareddata.memory import SharedMemory
from shareddata.wire import pack, transaction

_LAST = 2**64 - 1  # the greatest number within a millisecond
_PAGE = 500  # entries taken out in one transaction


class Entry(NamedTuple):
    """An event as it stands in its stream."""

    id: str
    token: bytes
    size: int
    metadata: bytes
    place: str
    """`values` or `files`: the hash that holds the payload."""


class Group(NamedTuple):
    """An archiver, as a stream knows it."""

    name: str
    begin: str
    """The id below which it has acknowledged everything."""
    pending: int
    """How many events were delivered to it and not acknowledged."""
    delivered: str
    """The last event that was delivered to it."""


class EventStream:
    """The events of one source under one name. It holds no connection: each call names one.

    Args:
        shm: the shared memory.
        source: who emits: letters, digits and `_.-/`.
        event: letters, digits and `_.-`.
    """

    def __init__(self, shm: SharedMemory, source: str, event: str) -> None:
        self.source, self.event = source, event
        self.key = shm.keys.event(source, event)
        self.state, self.turn = f"{self.key}:state", f"{self.key}:turn"
        self._large = LargeValues(shm)

    def __str__(self) -> str:
        return f"events {self.event} of {self.source}"

    def place(self, name: str) -> str:
        """Return the key of the hash that holds payloads: of `values` or of `files`."""
        return f"{self.key}:{name}"

    def groups(self, connection: Connection) -> list[Group]:
        """Return the archivers that the stream knows.

        Redis: XINFO GROUPS, XPENDING for each that has something pending.
        """
        try:
            answer = connection.ask("XINFO", "GROUPS", self.key)
        except ServerRefused as error:
            if "no such key" in str(error):
                return []
            raise
        found = []
        for each in answer:
            delivered, name = each[b"last-delivered-id"].decode(), each[b"name"].decode()
            begin = _after(delivered)
            if each[b"pending"]:
                count, first, *_ = connection.ask("XPENDING", self.key, name)
                begin = first.decode() if count else begin
            found.append(Group(name, begin, each[b"pending"], delivered))
        return found

    def behind(self, connection: Connection, group: Group) -> int:
        """Return how many events an archiver has not acknowledged.

        Redis: XRANGE.
        """
        return group.pending + len(connection.ask("XRANGE", self.key, f"({group.delivered}", "+"))

    def trim(self, connection: Connection, room: tuple[int, int] | None = None) -> int:
        """Drop what every archiver has acknowledged; return how many events that were.

        Args:
            connection: of this thread.
            room: where nobody archives, drop the oldest until so many events and bytes more have room.

        Redis: WATCH, XINFO GROUPS, XPENDING, XRANGE; MULTI, HMGET, XTRIM, HDEL, HINCRBY, INCR, EXEC; UNWATCH.
        """
        connection.settle()
        opened = connection.opened
        connection.call("WATCH", self.turn)
        try:
            groups = self.groups(connection)
            if groups:
                first = min(groups, key=lambda group: _number(group.begin)).begin
                entries = self._entries(connection, f"({first}")
            else:
                entries = self._oldest(connection, room) if room else []
            if not entries or connection.opened != opened:
                connection.call("UNWATCH")
                return 0
            return self._drop(connection, entries, counted=not groups)
        except BaseException:
            connection.close()  # so that no WATCH is left to void another transaction
            raise

    def _entries(self, connection: Connection, until: str) -> list[Entry]:
        return [entry_of(*each) for each in connection.ask("XRANGE", self.key, "-", until, "COUNT", _PAGE)]

    def _oldest(self, connection: Connection, room: tuple[int, int]) -> list[Entry]:
        events, size = room
        found = []
        for entry in self._entries(connection, "+"):
            if events <= 0 and size <= 0:
                break
            found.append(entry)
            events, size = events - 1, size - entry.size
        return found

    def _drop(self, connection: Connection, entries: Sequence[Entry], counted: bool) -> int:
        """Take the oldest entries out, with their payloads, unless somebody else has done so meanwhile."""
        files = [entry.token for entry in entries if entry.place == "files"]
        values = [entry.token for entry in entries if entry.place == "values"]
        commands = [
            pack("XTRIM", self.key, "MINID", "=", _after(entries[-1].id)),
            pack("HINCRBY", self.state, "bytes", -sum(entry.size for entry in entries)),
            pack("HINCRBY", self.state, "dropped", len(entries) if counted else 0),
            pack("INCR", self.turn),
        ]
        commands += [pack("HDEL", self.place("values"), *values)] if values else []
        commands += [pack("HMGET", self.place("files"), *files)] if files else []
        commands += [pack("HDEL", self.place("files"), *files)] if files else []
        unwatch = pack("UNWATCH") + pack("GET", self.turn)
        with self._large.change() as change:
            answers = connection.transact(transaction(commands), [str(self)] * len(commands), unwatch)
            if answers and files:
                change.replaced(*answers[-2])
        return len(entries)  # also when somebody else did it


def entry_of(identity: bytes, fields: Sequence[bytes]) -> Entry:
    """Return what an entry of a stream says."""
    values = dict(zip(fields[::2], fields[1::2]))
    size = int(values.get(b"size", b"0"))
    place = values.get(b"place", b"values").decode()
    return Entry(identity.decode(), values.get(b"token", b""), size, values.get(b"metadata", b"\xa0"), place)


def _after(identity: str) -> str:
    """Return the id that follows an id."""
    milliseconds, number = _number(identity)
    return f"{milliseconds}-{number + 1}" if number < _LAST else f"{milliseconds + 1}-0"


def _number(identity: str) -> tuple[int, int]:
    milliseconds, _, number = identity.partition("-")
    return int(milliseconds), int(number)
