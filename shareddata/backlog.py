"""What waits for archivers: the streams of events, how full they are, and who has not taken what.

It knows all streams of a namespace, from outside. It must not know how events are stored or by whom. Invariants:

1. Looking changes nothing.
2. Giving an archiver up drops what only it had not acknowledged, and nothing else.
"""

from typing import NamedTuple

from shareddata.connection import Connection
from shareddata.errors import UnknownData
from shareddata.eventstream import EventStream
from shareddata.ledger import note_of
from shareddata.memory import SharedMemory
from shareddata.wire import pack, transaction


class Backlog(NamedTuple):
    """The events of one source under one name."""

    source: str
    event: str
    events: int
    """How many are kept."""
    bytes: int
    dropped: int
    """How many were dropped to make room, while nobody archived."""
    archivers: dict[str, int]
    """How many events each archiver has not acknowledged."""


def streams(shm: SharedMemory, connection: Connection) -> list[EventStream]:
    """Return the streams of events that were ever emitted, sorted.

    Redis: SMEMBERS.
    """
    members = sorted(member.decode() for member in connection.ask("SMEMBERS", shm.keys.events()))
    return [EventStream(shm, *member.rsplit(":", 1)) for member in members]


def backlogs(shm: SharedMemory) -> list[Backlog]:
    """Return what waits, of each source.

    Redis: SMEMBERS; XLEN, HMGET, XINFO GROUPS, XPENDING, XRANGE for each stream.
    """
    connection = shm.connect("backlogs")
    try:
        return [_backlog(connection, stream) for stream in streams(shm, connection)]
    finally:
        connection.close()


def _backlog(connection: Connection, stream: EventStream) -> Backlog:
    length = connection.ask("XLEN", stream.key)
    size, dropped = (int(each or 0) for each in connection.ask("HMGET", stream.state, "bytes", "dropped"))
    waiting = {group.name: stream.behind(connection, group) for group in stream.groups(connection)}
    return Backlog(stream.source, stream.event, length, size, dropped, waiting)


def forget(shm: SharedMemory, archiver: str) -> int:
    """Give an archiver up: events don't wait for it any more; return how many sources it had.

    One that is running, or is started again, begins anew.

    Raises:
        UnknownData: no stream knows it; the message names those that are known.

    Redis: SMEMBERS; XINFO GROUPS, MULTI, XGROUP DESTROY, INCR, EXEC for each stream; HGETALL, HDEL; as
    `EventStream.trim`.
    """
    connection = shm.connect("backlogs")
    try:
        known: set[str] = set()
        count = 0
        for stream in streams(shm, connection):
            names = {group.name for group in stream.groups(connection)}
            known |= names
            if archiver in names:
                commands = [pack("XGROUP", "DESTROY", stream.key, archiver), pack("INCR", stream.turn)]
                connection.transact(transaction(commands), [str(stream)] * 2)
                count += 1
                while stream.trim(connection):
                    pass
        if not count:
            raise UnknownData(f"{shm.url}: no archiver {archiver!r}: there are {', '.join(sorted(known)) or 'none'}")
        notes = connection.ask("HGETALL", shm.keys.archived())
        mark = note_of(archiver, "").encode()
        gone = [name for name, value in notes.items() if name.startswith(mark) or value.startswith(mark)]
        if gone:
            connection.call("HDEL", shm.keys.archived(), *gone)
        return count
    finally:
        connection.close()
