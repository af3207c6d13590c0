"""One sensor in Redis, to be written: values, the stream of writes, what is packed, and its end.

It knows which commands go into one transaction. It must not know threads, callbacks or files on disk. Invariants:

1. A write is one transaction: all values of a nested dictionary, and the entry that tells of them.
2. What was packed is whole: one entry holds all values. The newest entry is what was packed last.
3. A large value that is replaced, trimmed or removed is removed by whoever does it.
4. A sensor is in the registry as long as it has values.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from shareddata import bounded, cbor, large, sensorlarge, tree
from shareddata.bounded import Bounded
from shareddata.codec import Buffer
from shareddata.errors import DecodeError, FieldError, SensorNotInitializedError, ServerError
from shareddata.large import Gone
from shareddata.memory import SharedMemory
from shareddata.sensorlarge import SensorChange
from shareddata.sensorvalues import ABOUT, DEFLATED, MEASUREMENT, STORED, SensorValues, millisecond, texts
from shareddata.wire import pack, pieces, spread, transaction

log = logging.getLogger("shareddata")

_TRIES = 20  # of packing values that are replaced meanwhile


class SensorStore(SensorValues):
    """One sensor, to be written. Nothing is sent when it is made. It may be shared by threads.

    Args:
        shm: the shared memory.
        name: the sensor's, from `tree.sensor_name`.
        entries: how many writes, and packs of each name, are kept for watchdogs that are behind.
        size: bytes of these.
    """

    def __init__(
        self, shm: SharedMemory, name: str, entries: int = bounded.ENTRIES, size: int = bounded.BYTES
    ) -> None:
        super().__init__(shm, name)
        self._bounds = (entries, size)
        self._writes = Bounded(shm.keys.sensor_writes(name), entries, size)
        self._packs: dict[str, Bounded] = {}
        self._order: int | None = None
        self._known: set[str] | None = None
        self._last: dict[str, bytes] = {}

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, values: Mapping[str, Any]) -> None:
        """Write values, and tell of them in the sensor's stream.

        What was below a name that is a value now, or above one, is removed with it.

        Args:
            values: what is written, by names: a dictionary replaces all that is below its name.

        Raises:
            FieldError: a value cannot be written; nothing was.

        Redis: MULTI, HMGET, HSET, HDEL, ZADD, XADD, XRANGE, XTRIM, EXEC; for large values over TCP SET, COPY,
        SADD, UNLINK, SREM too; at first INCR, HKEYS, XRANGE.
        """
        leaves: dict[str, Any] = {}
        for name, data in values.items():
            leaves |= tree.flatten(name, data, self.name)
        if not leaves:
            return
        encoded = {name: self._encoded(name, value) for name, value in leaves.items()}
        with self.lock:
            self.connection.settle()
            try:
                known = self._begin(self._writes)
                stale = _stale(known, values, leaves)
                stored = self._replace(encoded, stale)
            except BaseException:
                self._forget()
                raise
            known.difference_update(stale)
            known.update(stored)
            for name in (*stale, *stored):
                self._last.pop(name, None)
            for name, value in stored.items():
                if sum(map(len, value)) <= large.LIMIT:
                    self._last[name] = b"".join(value)

    def _encoded(self, name: str, value: Any) -> list[Buffer]:
        try:
            return cbor.encode(value)
        except (TypeError, ValueError) as error:
            raise FieldError(f"sensor {self.name}, value {name!r}: {type(value).__name__}: {error}") from None

    def _begin(self, stream: Bounded) -> set[str]:
        """Return the names of the sensor's values, as far as this program knows; look at what there is at first.

        Args:
            stream: that is to be written: what it holds is known then.

        Redis: INCR, HKEYS, XRANGE; SMEMBERS, HVALS.
        """
        if self._order is None:
            self._order = int(self.connection.call("INCR", self.shm.keys.sensors_created()))
            self._sweep()
        stream.learn(self.connection)
        return self._names_known()

    def _names_known(self) -> set[str]:
        if self._known is None:
            self._known = texts(self.connection.ask("HKEYS", self.key))
        return self._known

    def _forget(self) -> None:
        """Know nothing any more of what is in Redis."""
        self._known = None
        self._last.clear()
        for stream in (self._writes, *self._packs.values()):
            stream.forget()

    def _replace(self, encoded: Mapping[str, Sequence[Buffer]], stale: Sequence[str]) -> dict[str, list[Buffer]]:
        """Write encoded values and remove others; return the values as they are stored, in pieces."""
        with self.large.change() as change:
            stored = {name: change.pieces(self.key, parts) for name, parts in encoded.items()}
            told = {name: _linked(change, self._writes.key, value) for name, value in stored.items()}
            commands: list[list[Buffer]] = [*change.commands, [pack("HMGET", self.key, *stored, *stale)]]
            commands.append(spread(["HSET", self.key], stored))
            commands += [[pack("HDEL", self.key, *stale)]] if stale else []
            commands.append([pack("ZADD", self.shm.keys.sensors(), "NX", self._order or 0, self.name)])
            answers = self._transact(commands + self._writes.add(told))
            change.replaced(*answers[len(change.commands)])
            change.replaced(*self._writes.added(answers[len(commands) :]))
        return stored

    def _transact(self, commands: Sequence[Sequence[Buffer]]) -> list[Any]:
        parts = [part for command in commands for part in command]
        whole = all(len(part) <= large.LIMIT for part in parts)
        request = transaction(parts) if whole else pieces(parts)  # type: ignore[arg-type]
        return self.connection.transact(request, [f"sensor {self.name}"] * len(commands))

    def close(self) -> None:
        """Remove what was replaced last, and close the connection; the next call opens another one.

        Where the server is away, the next program that writes the sensor removes it.

        Redis: MULTI, UNLINK, SREM, EXEC after large values over TCP.
        """
        with self.lock:
            try:
                commands = self.large.leftover()
                if commands and self.connection.connected:
                    self.connection.settle()
                    self._transact([[each] for each in commands])
            except ServerError as error:
                log.debug("sensor %s: values that were replaced stay for now: %s", self.name, error)
            super().close()

    def _sweep(self) -> None:
        """Remove the keys of large values that programs which were killed have left.

        Redis: SMEMBERS; HVALS, XRANGE, UNLINK, SREM where there are such.
        """
        keys = self.shm.keys
        streams = [self._writes.key, *(keys.sensor_packed(self.name, each) for each in self.zipnames())]
        tokens = self.large.unused(self.connection, self._references(streams))
        if tokens:
            self._transact([[each] for each in self.large.removal(tokens)])

    def _references(self, streams: Iterable[str]) -> Iterable[bytes]:
        yield from self.connection.ask("HVALS", self.key)
        for key in streams:
            yield from chain.from_iterable(
                fields[1::2] for _, fields in bounded.all_entries(self.connection, key)
            )

    # -- packing --------------------------------------------------------------------------------------------------

    def pack(self, names: Iterable[str], zipname: str = MEASUREMENT, deflated: bool = False) -> None:
        """Pack values together as they are now.

        Args:
            names: of values, or of dictionaries of such.
            zipname: what they are packed under.
            deflated: whether snapshots of it are to be deflated in any case.

        Raises:
            SensorNotInitializedError: a value was never written.

        Redis: MULTI, SADD, XADD, XRANGE, XTRIM, EXEC; for large values over TCP WATCH, HMGET before it, COPY,
        SADD, UNLINK, SREM in it; HKEYS, HMGET for values that this program does not hold.
        """
        wanted = [tree.value_name(name, self.name) for name in names]
        with self.lock:
            self.connection.settle()
            stream = self._packs.get(zipname)
            if stream is None:
                stream = Bounded(self.shm.keys.sensor_packed(self.name, zipname), *self._bounds)
                self._packs[zipname] = stream
            try:
                self._begin(stream)
                self._pack(stream, zipname, wanted, deflated)
            except SensorNotInitializedError:
                raise
            except BaseException:
                self._forget()
                raise

    def _pack(self, stream: Bounded, zipname: str, names: Sequence[str], deflated: bool) -> None:
        values = self._values_to_pack(names)
        for _ in range(_TRIES):
            try:
                if any(map(sensorlarge.in_key, values.values())):
                    self.connection.call("WATCH", self.key)  # while it is not written, its large values are there
                    values = self._values_to_pack(names, fresh=True)
                if self._put(stream, zipname, values, deflated):
                    return
            except (Gone, SensorNotInitializedError):
                self.connection.close()  # and with it the WATCH
            gone = {name: stored for name, stored in values.items() if self._is_gone(stored)}
            values = self._values_to_pack(names, fresh=True)
            for name, stored in gone.items() & values.items():
                raise self.lost(name, stored)
        raise DecodeError(f"sensor {self.name}: its values are replaced faster than they can be packed")

    def _is_gone(self, stored: bytes) -> bool:
        try:
            self.read(stored)
            return False
        except Gone:
            return True

    def _put(self, stream: Bounded, zipname: str, values: Mapping[str, bytes], deflated: bool) -> bool:
        """Add a packed entry; tell whether it was: not when the values were replaced meanwhile."""
        with self.large.change() as change:
            entry: dict[str, list[Buffer]] = {ABOUT: [DEFLATED if deflated else STORED]}
            entry |= {name: change.link(stream.key, stored) for name, stored in values.items()}
            listing: list[Buffer] = [pack("SADD", self.shm.keys.sensor_packs(self.name), zipname)]
            answers = self._transact([*change.commands, listing, *stream.add(entry)])
            if not answers:
                stream.forget()
                stream.learn(self.connection)
                return False
            added = answers[len(change.commands) + 1 :]
            change.replaced(*stream.added(added))
        if not all(answers[place] for place in change.copies):  # the connection was opened anew, without its WATCH
            self.connection.call("XDEL", stream.key, added[0])
            return False
        return True

    def _values_to_pack(self, names: Sequence[str], fresh: bool = False) -> dict[str, bytes]:
        """Return values as they are stored: those that this program wrote last, the others from Redis.

        Args:
            names: of values, or what they are below.
            fresh: all of them from Redis.

        Redis: HKEYS, HMGET.
        """
        if fresh or any(not tree.below(self._names_known(), name) for name in names):
            self._known = None
            self._last.clear()
        known = self._names_known()
        wanted: dict[str, None] = {}
        for name in names:
            found = [name] if name in known else sorted(tree.below(known, name))
            if not found:
                raise SensorNotInitializedError(
                    f"sensor {self.name} at {self.shm.url}: no value {name!r} was written, nothing was packed"
                    f"{tree.near(name, known)}"
                )
            wanted |= dict.fromkeys(found)
        values = {name: self._last[name] for name in wanted if name in self._last}
        missing = [name for name in wanted if name not in values]
        if missing:
            answers = self.connection.ask("HMGET", self.key, *missing)
            if None in answers:  # removed since
                return self._values_to_pack(names, fresh=True)
            values |= dict(zip(missing, answers))
        return {name: values[name] for name in wanted}

    # -- the end --------------------------------------------------------------------------------------------------

    def remove(self) -> bool:
        """Take the sensor out, with its values, writes and packs; tell whether it was there.

        Redis: SMEMBERS; MULTI, HVALS, XRANGE, DEL, ZREM, TIME, EXEC; SMEMBERS, UNLINK, SREM; TIME.
        """
        with self.lock:
            keys = self.shm.keys
            packs = keys.sensor_packs(self.name)
            streams = [self._writes.key, *(keys.sensor_packed(self.name, each) for each in self.zipnames())]
            looks = [pack("HVALS", self.key), *(pack("XRANGE", key, "-", "+") for key in streams)]
            ends = [pack("DEL", self.key, packs, *streams), pack("ZREM", keys.sensors(), self.name), pack("TIME")]
            self.connection.settle()
            with self.large.change() as change:
                values, *rest = self._transact([[each] for each in (*looks, *ends)])
                change.replaced(*values)
                entries = chain.from_iterable(rest[: len(streams)])
                change.replaced(*[each for _, fields in entries for each in fields[1::2]])
            self.large.replaced.clear()
            self._sweep()
            self._forget()
            self._order = None
            gone, listed, removed_at = rest[len(streams) :]
            while millisecond(self.connection.ask("TIME")) <= millisecond(removed_at):
                pass  # the ids of a stream that is made anew have to be later: who hears it would leave them out
            return bool(gone or listed)


def _linked(change: SensorChange, key: str, value: list[Buffer]) -> list[Buffer]:
    """Return a stored value, in pieces, for another place in Redis."""
    return change.link(key, bytes(value[0])) if len(value) == 1 and sensorlarge.is_reference(value[0]) else value


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
