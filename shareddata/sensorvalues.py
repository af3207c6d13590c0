"""One sensor in Redis, to be read: its values, what was packed of it, and the registry of all sensors.

It knows the keys of sensors and what they hold. It must not know how they are written, nor threads or callbacks.
Invariants:

1. What is returned together is as of one moment.
2. A value that is replaced while it is read is read again: who asks sees the old one or the new one, whole.

Layout in Redis, for a sensor `camera/front`: the hash `sensor:camera/front` (field: a value's name, value: CBOR or a
reference to a large value); the stream `sensor:camera/front:writes` (an entry a write: names and values); for each name
that something was packed under a stream `sensor:camera/front:packed:measurement` (an entry a pack: `.` and `stored` or
`deflated`, then names and values), and the set `sensor:camera/front:packed` of these names; the set
`sensor:camera/front:large` of the tokens of large values, and each of these in `sensor:camera/front:large:TOKEN`; the
sorted set `shareddata:sensors` of all sensors in order of creation, counted by `shareddata:sensors:created`.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from shareddata import cbor, sensorlarge, tree
from shareddata.connection import Connection
from shareddata.errors import DecodeError, SharedDataError
from shareddata.large import Gone
from shareddata.memory import SharedMemory
from shareddata.sensorlarge import SensorLarge
from shareddata.wire import pack, question

MEASUREMENT, METADATA = "measurement", "metadata"

ABOUT = "."
"""The first field of a packed entry, which no value can have as its name: whether snapshots of it are deflated."""

STORED, DEFLATED = b"stored", b"deflated"

_TRIES = 50  # of reading values that are replaced meanwhile

T = TypeVar("T")

_all: "weakref.WeakSet[SensorValues]" = weakref.WeakSet()


def _begin_anew_in_child() -> None:
    for each in list(_all):
        each.lock = threading.RLock()
        each.large = SensorLarge(each.shm, each.large.key)  # with tokens of its own


os.register_at_fork(after_in_child=_begin_anew_in_child)


class Packed(NamedTuple):
    """Values that were packed together."""

    identity: str
    """The id of the entry."""
    milliseconds: int
    """When, by the server's clock, in milliseconds since 1970."""
    deflated: bool
    """Whether snapshots of it are deflated in any case."""
    values: dict[str, bytes]
    """The values as they are stored, by their names."""


class Size(int):
    """The bytes of a value that was not read: see `SensorValues.glance`."""


class SensorValues:
    """One sensor, as it is in Redis. Nothing is sent when it is made. It may be shared by threads.

    Args:
        shm: the shared memory.
        name: the sensor's, from `tree.sensor_name`.

    Attributes:
        key: the hash of its values.
        lock: is held while `connection` is used.
        connection: its own.
        large: its large values.
    """

    def __init__(self, shm: SharedMemory, name: str) -> None:
        self.shm = shm
        self.name = name
        self.key = shm.keys.sensor(name)
        self.lock = threading.RLock()
        self.connection = shm.connect(f"sensor {name}")
        self.large = SensorLarge(shm, shm.keys.sensor_large(name))
        _all.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self.shm.url}>"

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        self.connection.close()

    def unblock(self, client: int) -> None:
        """Wake another connection that waits in the server.

        Raises:
            ServerRefused: the rights don't suffice.

        Redis: CLIENT UNBLOCK.
        """
        with self.lock:
            self.connection.call("CLIENT", "UNBLOCK", client)

    # -- what there is --------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of the values that there are, sorted.

        Redis: HKEYS.
        """
        with self.lock:
            return sorted(texts(self.connection.ask("HKEYS", self.key)))

    def zipnames(self) -> list[str]:
        """Return the names that something was packed under, sorted.

        Redis: SMEMBERS.
        """
        with self.lock:
            return sorted(texts(self.connection.ask("SMEMBERS", self.shm.keys.sensor_packs(self.name))))

    def _stored(self, name: str) -> dict[str, bytes]:
        """Return values as they are stored: one, or all that are below a name; none if there is none.

        Redis: HGET; HGETALL.
        """
        with self.lock:
            if name and (value := self.connection.ask("HGET", self.key, name)) is not None:
                return {name: value}
            return _below(self.connection.ask("HGETALL", self.key), name)

    def _stored_at(self, name: str) -> tuple[dict[str, bytes], int]:
        """Return all values below a name as they are stored, and the server's time in milliseconds since 1970.

        Redis: MULTI, HGETALL, TIME, EXEC.
        """
        with self.lock:
            self.connection.settle()
            request = question([pack("HGETALL", self.key), pack("TIME")])
            found, now = self.connection.read(request, [f"sensor {self.name}"] * 2)
        return _below(found, name), millisecond(now)

    def last_packed(self, zipname: str) -> Packed | None:
        """Return what was packed last under a name, its values as they are stored; None if nothing was.

        Redis: XREVRANGE.
        """
        with self.lock:
            key = self.shm.keys.sensor_packed(self.name, zipname)
            entries = self.connection.ask("XREVRANGE", key, "+", "-", "COUNT", 1)
        return packed_of(*entries[0]) if entries else None

    # -- values ---------------------------------------------------------------------------------------------------

    def read(self, stored: bytes) -> bytes:
        """Return a stored value's bytes.

        Raises:
            Gone: it was replaced, or trimmed, meanwhile.

        Redis: GET for a large one in a key.
        """
        if not sensorlarge.is_reference(stored):
            return self.large.read(stored, self.connection)
        with self.lock:
            return self.large.read(stored, self.connection)

    def decode(self, name: str, stored: bytes) -> Any:
        """Return the value that is stored.

        Args:
            name: the value's.
            stored: CBOR, or a reference.

        Raises:
            Gone: see `read`.
            DecodeError: it is no CBOR.

        Redis: see `read`.
        """
        data = self.read(stored)
        try:
            return cbor.decode(data)
        except ValueError as error:
            raise DecodeError(
                f"sensor {self.name}, value {name!r}: found {data[:20]!r}, expected a value in CBOR: another program "
                f"wrote it: {error}"
            ) from None

    def values(self, name: str) -> dict[str, Any]:
        """Return values, decoded: one, or as of one moment all that are below a name; none if there is none.

        Args:
            name: `""` for all.

        Redis: HGET; HGETALL.
        """
        return self._again(lambda: self._stored(name), lambda found: found, self.decode)[1]

    def glance(self, most: int, name: str = "") -> dict[str, Any]:
        """Return values as `values` does; of those that have more than so many bytes their `Size` only.

        Redis: HGET; HGETALL.
        """

        def take(name: str, stored: bytes) -> Any:
            size = sensorlarge.size_of([stored])
            return Size(size) if size > most else self.decode(name, stored)

        return self._again(lambda: self._stored(name), lambda found: found, take)[1]

    def undecoded(self, name: str) -> dict[str, bytes]:
        """Do the same as `values` for values in CBOR."""
        return self._again(lambda: self._stored(name), lambda found: found, lambda _, stored: self.read(stored))[1]

    def undecoded_at(self, name: str) -> tuple[dict[str, bytes], int]:
        """Return all values below a name in CBOR, and the server's time in milliseconds since 1970.

        Redis: MULTI, HGETALL, TIME, EXEC.
        """
        read = self._again(lambda: self._stored_at(name), lambda found: found[0], lambda _, stored: self.read(stored))
        return read[1], read[0][1]

    def packed(self, zipname: str) -> tuple[Packed, dict[str, bytes]] | None:
        """Return what was packed last under a name, its values in CBOR; None if nothing was.

        Redis: XREVRANGE.
        """
        found, values = self._again(
            lambda: self.last_packed(zipname),
            lambda packed: packed.values if packed else {},
            lambda _, stored: self.read(stored),
        )
        return (found, values) if found else None

    def _again(
        self,
        ask: Callable[[], T],
        stored_in: Callable[[T], Mapping[str, bytes]],
        take: Callable[[str, bytes], Any],
    ) -> tuple[T, dict[str, Any]]:
        """Ask for values, and again as long as some of them are replaced before they can be taken."""
        gone = ("", b"")
        for _ in range(_TRIES):
            found = ask()
            values = stored_in(found)
            if gone in values.items():  # its value went before its reference did: nobody who writes does that
                raise self.lost(*gone)
            taken: dict[str, Any] = {}
            for name, stored in values.items():
                try:
                    taken[name] = take(name, stored)
                except Gone:
                    gone = (name, stored)
                    break
            else:
                return found, taken
        raise DecodeError(f"sensor {self.name}: its values are replaced faster than they can be read")

    def lost(self, name: str, stored: bytes) -> SharedDataError:
        """Return the exception for a reference that stands in Redis after its value was seen not to be there."""
        return sensorlarge.lost(stored, f"sensor {self.name}, value {name!r}", self.large.key)


def texts(names: Iterable[bytes]) -> set[str]:
    """Return names that Redis answered."""
    return {name.decode(errors="replace") for name in names}


def _below(values: Mapping[bytes, bytes], name: str) -> dict[str, bytes]:
    """Return those values whose names are below a name, sorted."""
    found = {each.decode(errors="replace"): value for each, value in values.items()}
    return {each: found[each] for each in sorted(tree.below(found, name))}


def millisecond(time: Sequence[bytes]) -> int:
    """Return the answer to TIME in milliseconds since 1970."""
    return int(time[0]) * 1000 + int(time[1]) // 1000


def entry_values(fields: Sequence[bytes]) -> dict[str, bytes]:
    """Return what an entry of a stream holds."""
    return {name.decode(errors="replace"): value for name, value in zip(fields[::2], fields[1::2])}


def packed_of(identity: bytes, fields: Sequence[bytes]) -> Packed:
    """Return what an entry of a stream of packs holds."""
    values = entry_values(fields)
    about = values.pop(ABOUT, STORED)
    return Packed(identity.decode(), int(identity.partition(b"-")[0]), about == DEFLATED, values)


# -- all sensors ----------------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """A sensor, as `listed` finds it."""

    name: str
    values: tuple[str, ...]
    """The names of its values, sorted."""
    written: float | None
    """When it was written last, by the server's clock, in seconds since 1970."""
    packed: tuple[str, ...]
    """What values were packed as, sorted."""
    kept: int
    """How many writes are kept for watchdogs."""


def listed(shm: SharedMemory) -> list[Listed]:
    """Return all sensors in order of creation, and what is known of them.

    Redis: ZRANGE; MULTI, HKEYS, SMEMBERS, XLEN, XREVRANGE, EXEC for each.
    """
    found = []
    connection = shm.connect("sensors")
    try:
        for name in registered(shm, connection):
            writes = shm.keys.sensor_writes(name)
            commands = [
                pack("HKEYS", shm.keys.sensor(name)),
                pack("SMEMBERS", shm.keys.sensor_packs(name)),
                pack("XLEN", writes),
                pack("XREVRANGE", writes, "+", "-", "COUNT", 1),
            ]
            connection.settle()
            values, packs, kept, last = connection.read(question(commands), [f"sensor {name}"] * len(commands))
            when = int(last[0][0].partition(b"-")[0]) / 1000 if last else None
            found.append(Listed(name, tuple(sorted(texts(values))), when, tuple(sorted(texts(packs))), kept))
    finally:
        connection.close()
    return found


def registered(shm: SharedMemory, connection: Connection | None = None) -> list[str]:
    """Return the names of all sensors in order of creation.

    Redis: ZRANGE.
    """
    used = connection or shm.connect("sensors")
    try:
        return [name.decode(errors="replace") for name in used.ask("ZRANGE", shm.keys.sensors(), 0, -1)]
    finally:
        if connection is None:
            used.close()
