"""What an archiver has done with its events: payloads read, names noted, events acknowledged.

It knows notes, acknowledgements and trimming. It must not know how events are waited for, nor anything of files but
their names. Invariants:

1. A file's name is noted in Redis before the file has it, by whoever still has to acknowledge the event.
2. An event's notes are dropped in the transaction that acknowledges it.
3. Two files of this machine never have a note of the same name, whichever archivers they are of.

In the hash `shareddata:archived`, `event:ARCHIVER:FILE` holds a path and `path:HOST:PATH` holds `event:ARCHIVER:FILE`,
with a `+` behind when a second process works on that file. `whole:event:...` holds the path of a file that is whole
and whose source is still there.
"""

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shareddata import large
from shareddata.connection import Connection
from shareddata.errors import DecodeError
from shareddata.eventstream import EventStream
from shareddata.memory import SharedMemory
from shareddata.subscription import Event, decoded
from shareddata.wire import pack, transaction

_ADOPTED = b"+"  # behind the owner of a name: whoever is not the first to work on that file
_TRIM_EVENTS, _TRIM_BYTES = 200, 1 << 23  # acknowledged since the last trimming, while more comes


class Settled(Exception):
    """Another process of the same name was given the event too, and has acknowledged it: nothing is to be done."""


def note_of(archiver: str, identity: str) -> str:
    """Return the field that says which file an archiver gives to an event."""
    return f"event:{archiver}:{identity}"


class Ledger:
    """What an archiver has done with its events. It has its own connection and belongs to one thread at a time.

    Args:
        shm: the shared memory.
        name: the archiver's.
    """

    def __init__(self, shm: SharedMemory, name: str) -> None:
        self._key = shm.keys.archived()
        self._host = socket.gethostname()
        self._name = name
        self._connection: Connection = shm.connect(f"archiver {name}: files")
        self._acknowledged: dict[str, tuple[EventStream, int, int]] = {}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def payload(self, event: Event) -> Any:
        """Return an event's payload: arrays are views of the bytes that are read.

        Raises:
            DecodeError: it is not there any more, or is none.
            Settled: another process of this archiver's name has acknowledged the event.
            ServerSetupError: it is in the memory of another machine or user.

        Redis: HGET, XPENDING.
        """
        stream, entry = event.stream, event.entry
        seen = None
        while True:
            stored = self._connection.ask("HGET", stream.place(entry.place), entry.token)
            if stored is None:
                if not self._connection.single(self._is_pending(event), [str(event)])[0]:
                    raise Settled(f"{event} was acknowledged by another process")
                raise DecodeError(f"{event}: its payload is not there any more: somebody removed it")
            try:
                return decoded(large.read(stored), str(event))
            except large.Gone:
                if stored == seen:
                    raise large.lost(stored, str(event)) from None
                seen = stored

    def claim(self, event: Event | None, identity: str, path: str) -> tuple[str, bool] | None:
        """Note that a file will have this name, unless another name is noted for it already.

        Args:
            event: whose file it is; None for an event that is in no stream.
            identity: what the file is called in the notes.
            path: the name.

        Returns:
            The name that is noted for this file, and whether that was done now and here. None: the name is another
            file's.

        Raises:
            Settled: another process of this archiver's name has acknowledged the event.

        Redis: MULTI, HGET, HSETNX, HGET, XPENDING, EXEC; MULTI, HSETNX, HGET, EXEC; HDEL and HSET where another process
        was first.
        """
        mine, theirs = self._fields(identity, path)
        commands = [pack("HGET", self._key, mine), pack("HSETNX", self._key, theirs, mine)]
        commands.append(pack("HGET", self._key, theirs))
        commands += [self._is_pending(event)] if event else []
        before, _, owner, *pending = self._transact(commands)
        own = owner.rstrip(_ADOPTED) == mine.encode()
        if event and not pending[0]:
            if own:
                self._connection.call("HDEL", self._key, theirs)
            raise Settled(f"{event} was acknowledged by another process")
        if before is None:
            if not own:
                return None
            first, before = self._transact([pack("HSETNX", self._key, mine, path), pack("HGET", self._key, mine)])
            if first:
                return path, True
        name = str(before, "utf-8")
        if own and name != path:
            self._connection.call("HDEL", self._key, theirs)
        self._adopt(identity, name)
        return name, False

    def noted(self, identity: str) -> str | None:
        """Return the name that is noted for a file, and take it over; None when there is none.

        Redis: HGET, HSET.
        """
        path = self._connection.ask("HGET", self._key, note_of(self._name, identity))
        if path is None:
            return None
        name = str(path, "utf-8")
        self._adopt(identity, name)
        return name

    def notes(self, identity: str) -> dict[str, str]:
        """Return the files that are noted under names that begin like this, and their names.

        Redis: HGETALL.
        """
        mark = note_of(self._name, "").encode()
        found = self._connection.ask("HGETALL", self._key)
        return {
            str(name.removeprefix(mark), "utf-8"): str(path, "utf-8")
            for name, path in found.items()
            if name.startswith(mark + identity.encode())
        }

    def complete(self, identity: str, path: str) -> None:
        """Note that a file is whole, for good: until `forgotten`.

        Redis: MULTI, HDEL, HSET, EXEC.
        """
        fields = self._fields(identity, path)
        self._transact([pack("HDEL", self._key, *fields), pack("HSET", self._key, f"whole:{fields[0]}", path)])

    def completed(self, identity: str) -> set[str]:
        """Return which files are whole, of those whose names begin like this.

        Redis: HGETALL.
        """
        mark = f"whole:{note_of(self._name, '')}".encode()
        found = self._connection.ask("HGETALL", self._key)
        names = {str(name.removeprefix(mark), "utf-8") for name in found if name.startswith(mark)}
        return {name for name in names if name.startswith(identity)}

    def forget(self, identities: Iterable[str]) -> None:
        """Drop notes of files that are whole.

        Redis: HDEL.
        """
        fields = [f"whole:{note_of(self._name, identity)}" for identity in identities]
        if fields:
            self._connection.call("HDEL", self._key, *fields)

    def _adopt(self, identity: str, path: str) -> None:
        mine, theirs = self._fields(identity, path)
        self._connection.call("HSET", self._key, theirs, mine.encode() + _ADOPTED)

    def is_adopted(self, identity: str, path: str) -> bool:
        """Tell whether another process of this archiver's name has taken over a name that this one noted.

        Redis: HGET.
        """
        mine, theirs = self._fields(identity, path)
        return bool(self._connection.ask("HGET", self._key, theirs) == mine.encode() + _ADOPTED)

    def _fields(self, identity: str, path: str) -> tuple[str, str]:
        """Return the fields of a note: of the file, which holds its name, and of the name, which holds whose it is."""
        return note_of(self._name, identity), f"path:{self._host}:{path}"

    def _is_pending(self, event: Event) -> bytes:
        return pack("XPENDING", event.stream.key, self._name, event.entry.id, event.entry.id, 1)

    def _transact(self, commands: Sequence[bytes]) -> Sequence[Any]:
        self._connection.settle()
        return self._connection.transact(transaction(commands), [f"notes of archiver {self._name}"] * len(commands))

    def release(self, identity: str, path: str) -> None:
        """Forget the name of a file: somebody else's file has it.

        Redis: HDEL.
        """
        self._connection.call("HDEL", self._key, *self._fields(identity, path))

    def acknowledge(self, event: Event | None, notes: Mapping[str, str]) -> None:
        """Say that an event is done with, and drop its notes.

        Args:
            event: None for one that is in no stream.
            notes: the names that were noted, by identity.

        Redis: MULTI, XACK, HDEL, EXEC.
        """
        commands = [pack("XACK", event.stream.key, self._name, event.entry.id)] if event else []
        fields = [field for note in notes.items() for field in self._fields(*note)]
        commands += [pack("HDEL", self._key, *fields)] if fields else []
        if not commands:
            return
        if event:
            self.look_at(event.stream, 1, event.entry.size)
        self._connection.settle()
        self._connection.transact(transaction(commands), [f"archiver {self._name}"] * len(commands))

    def look_at(self, stream: EventStream, count: int = 0, size: int = 0) -> None:
        """Let `trim` look at a stream, of which so many events and bytes were acknowledged."""
        _, before, bytes_before = self._acknowledged.get(stream.key, (stream, 0, 0))
        self._acknowledged[stream.key] = stream, before + count, bytes_before + size

    def trim(self, idle: bool) -> None:
        """Drop what every archiver has acknowledged.

        Args:
            idle: whether there is nothing else to do; else it is done when it is worth while.

        Redis: as `EventStream.trim`.
        """
        for key, (stream, count, size) in list(self._acknowledged.items()):
            if idle or count >= _TRIM_EVENTS or size >= _TRIM_BYTES:
                while stream.trim(self._connection):
                    pass
                del self._acknowledged[key]
