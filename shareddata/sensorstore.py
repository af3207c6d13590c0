"""One sensor in Redis: its values, the stream of its writes, what was packed of it, and the registry of all sensors.

It knows these keys, and which commands go into one transaction. It must not know threads, callbacks or files on disk.
Invariants:

1. A write is one transaction: all values of a nested dictionary, and the entry that tells of them.
2. What was packed is whole: one entry holds all values. The newest entry is what was packed last.
3. A large value that is replaced, trimmed or removed is unlinked by whoever does it.
4. A sensor is in the registry as long as it has values.

Layout in Redis, for a sensor `camera/front`: the hash `sensor:camera/front` (field: a value's name, value: CBOR or a
reference to a large value); the stream `sensor:camera/front:writes` (an entry a write: names and values); for each name
that something was packed under a stream `sensor:camera/front:packed:measurement` (an entry a pack: `.` and `stored` or
`deflated`, then names and values), and the set `sensor:camera/front:packed` of these names; the sorted set
`shareddata:sensors` of all sensors in order of creation, counted by `shareddata:sensors:created`.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from shareddata import bounded, cbor, large, tree
from shareddata.bounded import Bounded
from shareddata.codec import Buffer
from shareddata.connection import Connection
from shareddata.errors import DecodeError, FieldError, SensorNotInitializedError
from shareddata.large import Change, LargeValues
from shareddata.memory import SharedMemory
from shareddata.wire import pack, pieces, question, spread, transaction

MEASUREMENT, METADATA = "measurement", "metadata"

ABOUT = "."
"""The first field of a packed entry, which no value can have as its name: whether snapshots of it are deflated."""

_STORED, _DEFLATED = b"stored", b"deflated"


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


class SensorStore:
    """One sensor, as it is in Redis. Nothing is sent when it is made. It may be shared by threads.

    Args:
        shm: the shared memory.
        name: the sensor's, from `tree.sensor_name`.
        entries: how many writes, and packs of each name, are kept for watchdogs that are behind.
        size: bytes of these.
    """

    def __init__(
        self, shm: SharedMemory, name: str, entries: int = bounded.ENTRIES, size: int = bounded.BYTES
    ) -> None:
        self.shm = shm
        self.name = name
        self.key = shm.keys.sensor(name)
        self.lock = threading.RLock()
        self._bounds = (entries, size)
        self._large = LargeValues(shm)
        self._connection = shm.connect(f"sensor {name}")
        self._writes = self._stream(shm.keys.sensor_writes(name))
        self._packs: dict[str, Bounded] = {}
        self._order: int | None = None
        self._names: set[str] | None = None
        self._last: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<SensorStore {self.name} at {self.shm.url}>"

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        self._connection.close()

    def _stream(self, key: str) -> Bounded:
        return Bounded(key, *self._bounds, self._large.by_reference)

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, values: Mapping[str, Any]) -> None:
        """Write values, and tell of them in the sensor's stream.

        What was below a name that is a value now, or above one, is removed with it.

        Args:
            values: what is written, by names: a dictionary replaces all that is below its name.

        Raises:
            FieldError: a value cannot be written; nothing was.

        Redis: MULTI, HMGET (by reference), HSET, HDEL, ZADD, XADD, XRANGE, XTRIM, EXEC; at first INCR, HKEYS, XRANGE.
        """
        leaves: dict[str, Any] = {}
        for name, data in values.items():
            leaves |= tree.flatten(name, data, self.name)
        encoded = {name: self._encoded(name, value) for name, value in leaves.items()}
        with self.lock:
            self._connection.settle()
            known = self._begin(self._writes)
            stale = _stale(known, values, leaves)
            try:
                stored = self._replace(encoded, stale)
            except BaseException:
                self._forget()
                raise
            known.difference_update(stale)
            known.update(stored)
            for name in stale:
                self._last.pop(name, None)
            for name, pieces_of_it in stored.items():
                self._last.pop(name, None)
                if sum(map(len, pieces_of_it)) <= large.LIMIT:
                    self._last[name] = b"".join(pieces_of_it)

    def _encoded(self, name: str, value: Any) -> list[Buffer]:
        try:
            return cbor.encode(value)
        except (TypeError, ValueError) as error:
            raise FieldError(f"sensor {self.name}, value {name!r}: {type(value).__name__}: {error}") from None

    def _begin(self, stream: Bounded) -> set[str]:
        """Return the names of the sensor's values; at first also take a place in the order of creation.

        Args:
            stream: that is to be written: what it holds is known then.

        Redis: INCR, HKEYS, XRANGE.
        """
        stream.learn(self._connection)
        return self._known()

    def _known(self) -> set[str]:
        """Return the names of the sensor's values, as far as this program knows.

        Redis: INCR, HKEYS.
        """
        if self._order is None:
            self._order = int(self._connection.call("INCR", self.shm.keys.sensors_created()))
        if self._names is None:
            self._names = {name.decode(errors="replace") for name in self._connection.ask("HKEYS", self.key)}
        return self._names

    def _forget(self) -> None:
        """Know nothing any more of what is in Redis."""
        self._names = None
        self._last.clear()
        for stream in (self._writes, *self._packs.values()):
            stream.forget()

    def _replace(self, encoded: Mapping[str, Sequence[Buffer]], stale: Sequence[str]) -> dict[str, list[Buffer]]:
        """Write encoded values and remove others; return the values as they are stored, in pieces."""
        with self._large.change() as change:
            stored = {name: change.pieces(self.key, parts) for name, parts in encoded.items()}
            told = {name: _linked(change, self._writes.key, value) for name, value in stored.items()}
            commands: list[list[Buffer]] = []
            if self._large.by_reference:
                commands.append([pack("HMGET", self.key, *stored, *stale)])
            commands.append(spread(["HSET", self.key], stored))
            commands += [[pack("HDEL", self.key, *stale)]] if stale else []
            commands.append([pack("ZADD", self.shm.keys.sensors(), "NX", self._order or 0, self.name)])
            answers = self._transact(commands + self._writes.add(told))
            if self._large.by_reference:
                change.replaced(*answers[0])
            change.replaced(*self._writes.added(answers[len(commands) :]))
        return stored

    def _transact(self, commands: Sequence[Sequence[Buffer]]) -> list[Any]:
        parts = [part for command in commands for part in command]
        large_ones = any(len(part) > large.LIMIT for part in parts)
        request = pieces(parts) if large_ones else transaction(parts)  # type: ignore[arg-type]
        return self._connection.transact(request, [f"sensor {self.name}"] * len(commands))

    # -- packing --------------------------------------------------------------------------------------------------

    def pack(self, names: Iterable[str], zipname: str = MEASUREMENT, deflated: bool = False) -> None:
        """Pack values together as they are now.

        Args:
            names: of values, or of dictionaries of such.
            zipname: what they are packed under.
            deflated: whether snapshots of it are to be deflated in any case.

        Raises:
            SensorNotInitializedError: a value was never written.

        Redis: MULTI, SADD, XADD, XRANGE, XTRIM, EXEC; HMGET for values that this program does not hold.
        """
        wanted = [tree.value_name(name, self.name) for name in names]
        with self.lock:
            self._connection.settle()
            stream = self._packs.setdefault(zipname, self._stream(self.shm.keys.sensor_packed(self.name, zipname)))
            self._begin(stream)
            for attempt in range(_TRIES):
                values = self._values_to_pack(wanted, fresh=attempt > 0)
                try:
                    return self._put(stream, zipname, values, deflated)
                except large.Gone:
                    if attempt + 1 == _TRIES:
                        raise self._lost(values) from None
                except BaseException:
                    self._forget()
                    raise

    def _put(self, stream: Bounded, zipname: str, values: Mapping[str, bytes], deflated: bool) -> None:
        with self._large.change() as change:
            entry: dict[str, list[Buffer]] = {ABOUT: [_DEFLATED if deflated else _STORED]}
            entry |= {name: _linked(change, stream.key, [stored]) for name, stored in values.items()}
            listing: list[Buffer] = [pack("SADD", self.shm.keys.sensor_packs(self.name), zipname)]
            answers = self._transact([listing, *stream.add(entry)])
            change.replaced(*stream.added(answers[1:]))

    def _values_to_pack(self, names: Sequence[str], fresh: bool) -> dict[str, bytes]:
        """Return values as they are stored: those that this program wrote last, the others from Redis.

        Redis: HKEYS, HMGET.
        """
        if fresh or any(not tree.below(self._names or (), name) for name in names):
            self._names = None
            self._last.clear()
        known = self._known()
        wanted: dict[str, None] = {}
        for name in names:
            found = sorted(tree.below(known, name)) if name not in known else [name]
            if not found:
                raise SensorNotInitializedError(
                    f"sensor {self.name} at {self.shm.url}: no value {name!r} was written, nothing was packed"
                    f"{tree.near(name, known)}"
                )
            wanted |= dict.fromkeys(found)
        values = {name: self._last[name] for name in wanted if name in self._last}
        missing = [name for name in wanted if name not in values]
        if missing:
            answers = self._connection.ask("HMGET", self.key, *missing)
            if None in answers:  # removed since
                return self._values_to_pack(names, fresh=True)
            values |= dict(zip(missing, answers))
        return {name: values[name] for name in wanted}

    def _lost(self, values: Mapping[str, bytes]) -> Exception:
        for name, stored in values.items():
            try:
                large.read(stored)
            except large.Gone:
                return large.lost(stored, f"sensor {self.name}, value {name!r}")
        return DecodeError(f"sensor {self.name}: its values are replaced faster than they can be read")

    # -- reading --------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of the values that there are, sorted.

        Redis: HKEYS.
        """
        with self.lock:
            return sorted(name.decode(errors="replace") for name in self._connection.ask("HKEYS", self.key))

    def zipnames(self) -> list[str]:
        """Return the names that something was packed under, sorted.

        Redis: SMEMBERS.
        """
        with self.lock:
            found = self._connection.ask("SMEMBERS", self.shm.keys.sensor_packs(self.name))
            return sorted(name.decode(errors="replace") for name in found)

    def stored(self, name: str) -> dict[str, bytes]:
        """Return values as they are stored: one, or as of one moment all that are below a name; none if there is none.

        Args:
            name: `""` for all.

        Redis: HGET; HGETALL.
        """
        with self.lock:
            if name and (value := self._connection.ask("HGET", self.key, name)) is not None:
                return {name: value}
            found = self._connection.ask("HGETALL", self.key)
        names = {each.decode(errors="replace"): value for each, value in found.items()}
        return {each: names[each] for each in sorted(tree.below(names, name))}

    def stored_at(self, name: str) -> tuple[dict[str, bytes], int]:
        """Return all values below a name as they are stored, and the server's time in milliseconds since 1970.

        Redis: MULTI, HGETALL, TIME, EXEC.
        """
        with self.lock:
            self._connection.settle()
            commands = [pack("HGETALL", self.key), pack("TIME")]
            found, now = self._connection.read(question(commands), [f"sensor {self.name}"] * 2)
        names = {each.decode(errors="replace"): value for each, value in found.items()}
        values = {each: names[each] for each in sorted(tree.below(names, name))}
        return values, _millisecond(now)

    def packed(self, zipname: str) -> Packed | None:
        """Return what was packed last under a name, None if nothing was.

        Redis: XREVRANGE.
        """
        with self.lock:
            key = self.shm.keys.sensor_packed(self.name, zipname)
            entries = self._connection.ask("XREVRANGE", key, "+", "-", "COUNT", 1)
        return packed_of(*entries[0]) if entries else None

    def unblock(self, client: int) -> None:
        """Wake another connection that waits in the server.

        Raises:
            ServerRefused: the rights don't suffice.

        Redis: CLIENT UNBLOCK.
        """
        with self.lock:
            self._connection.call("CLIENT", "UNBLOCK", client)

    # -- the end --------------------------------------------------------------------------------------------------

    def remove(self) -> bool:
        """Take the sensor out, with its values, writes and packs; tell whether it was there.

        Redis: SMEMBERS; MULTI, HVALS and XRANGE (by reference), DEL, ZREM, TIME, EXEC; TIME.
        """
        with self.lock:
            keys = self.shm.keys
            packs = keys.sensor_packs(self.name)
            streams = [self._writes.key, *(keys.sensor_packed(self.name, each) for each in self.zipnames())]
            looks = [pack("HVALS", self.key), *(pack("XRANGE", key, "-", "+") for key in streams)]
            looks = looks if self._large.by_reference else []
            ends = [pack("DEL", self.key, packs, *streams), pack("ZREM", keys.sensors(), self.name), pack("TIME")]
            self._connection.settle()
            with self._large.change() as change:
                answers = self._transact([[each] for each in (*looks, *ends)])
                for values, *entries in [answers[: len(looks)]] if looks else ():
                    change.replaced(*values)
                    change.replaced(*[each for _, fields in chain.from_iterable(entries) for each in fields[1::2]])
            self._forget()
            self._order = None
            gone, listed, removed_at = answers[len(looks) :]
            while _millisecond(self._connection.ask("TIME")) <= _millisecond(removed_at):
                pass  # the ids of a stream that is made anew have to be later: who hears it would leave them out
            return bool(gone or listed)


def _millisecond(time: Sequence[bytes]) -> int:
    """Return the answer to TIME in milliseconds since 1970."""
    return int(time[0]) * 1000 + int(time[1]) // 1000


_TRIES = 20  # of reading values that are replaced meanwhile


def _linked(change: Change, key: str, value: list[Buffer]) -> list[Buffer]:
    """Return a stored value, in pieces, for another place in Redis."""
    return [change.link(key, bytes(value[0]))] if len(value) == 1 and large.is_reference(value[0]) else value


def packed_of(identity: bytes, fields: Sequence[bytes]) -> Packed:
    """Return what an entry of a stream of packs holds."""
    values = {name.decode(errors="replace"): value for name, value in zip(fields[::2], fields[1::2])}
    about = values.pop(ABOUT, _STORED)
    return Packed(identity.decode(), int(identity.partition(b"-")[0]), about == _DEFLATED, values)


def decoded(stored: bytes, what: str) -> Any:
    """Return the value that is stored.

    Args:
        stored: CBOR, or a reference.
        what: whose value it is, for messages.

    Raises:
        Gone: it was replaced meanwhile.
        DecodeError: it is no CBOR.
    """
    data = large.read(stored)
    try:
        return cbor.decode(data)
    except ValueError as error:
        raise DecodeError(
            f"{what}: found {bytes(data[:20])!r}, expected a value in CBOR: another program wrote it: {error}"
        ) from None


def _stale(known: set[str], values: Mapping[str, Any], leaves: Mapping[str, Any]) -> list[str]:
    """Return the names of values that go when others are written: those that stand where there is no place any more."""
    if leaves.keys() == values.keys() <= known:
        return []
    gone: set[str] = set()
    for name, data in values.items():
        for top in [name] if name else [tree.value_name(str(key), "") for key in data]:
            gone.update(tree.below(known, top))
            gone.update(each for each in tree.ancestors(top) if each in known)
    return sorted(gone - leaves.keys())


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
            found.append(Listed(name, _texts(values), when, _texts(packs), kept))
    finally:
        connection.close()
    return found


def _texts(names: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(sorted(name.decode(errors="replace") for name in names))


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
