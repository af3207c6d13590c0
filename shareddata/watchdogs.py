"""Watchdogs of a sensor: functions that are called with each value that is written, or packed, in order.

It knows which stream a watchdog hears, and that functions may raise, or end their own watchdog. It must not know how
streams are read, or what attributes a reader has. Invariants:

1. A function is called for every write of its value from when it was attached until it is disabled, in order, in a
   thread that all watchdogs of the same stream share.
2. What a function raises is logged; it is called for the next write.
3. `disable` returns when the functions were called for all that was written before, and the last one ends the thread.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shareddata import tree
from shareddata.errors import DecodeError, FieldError
from shareddata.hearing import Hearing
from shareddata.large import Gone
from shareddata.sensorvalues import MEASUREMENT, METADATA, SensorValues, entry_values, packed_of

log = logging.getLogger("shareddata")

Callback = Callable[[Any], object]


class Watchdogs:
    """The watchdogs of one reader. It may be shared by threads.

    Args:
        store: the sensor.
    """

    def __init__(self, store: SensorValues) -> None:
        self._store = store
        self._watches: dict[str, _Watch] = {}  # by zipname, "" for the stream of writes
        self._missed = 0

    @property
    def missed(self) -> int:
        """How many entries were dropped before they could be heard."""
        return self._missed + sum(watch.hearing.missed for watch in list(self._watches.values()))

    def attach(self, name: str, callback: Callback) -> None:
        """Call a function from now on; see `SensorReader.attach_watchdog`."""
        zipname = packed_name(name)
        watch = self._watches.get(zipname)
        if watch is not None:
            watch.hearing.settle()  # what was written before is not for the new one
        with self._store.lock:
            if zipname not in self._watches:
                self._watches[zipname] = _Watch(self._store, zipname)
            self._watches[zipname].callbacks.setdefault("" if zipname else name, []).append(callback)

    def disable(self, name: str) -> None:
        """Call the functions of a name no more, after all that was written before; see `disable_watchdog`.

        Raises:
            FieldError: there is none.
        """
        zipname = packed_name(name)
        watch = self._watches.get(zipname)
        if watch is None or ("" if zipname else name) not in watch.callbacks:
            known = [each for every in self._watches.values() for each in every.shown()]
            raise FieldError(
                f"sensor {self._store.name}: no watchdog is attached to {name!r}{tree.near(name, known)}"
            )
        try:
            watch.hearing.settle()
        finally:
            with self._store.lock:
                watch.callbacks.pop("" if zipname else name, None)
                last = not watch.callbacks and self._watches.get(zipname) is watch
                if last:
                    del self._watches[zipname]
                    self._missed += watch.hearing.missed
            if last:
                watch.hearing.end(settle=False)

    def close(self) -> None:
        """Disable all."""
        failed: Exception | None = None
        for watch in list(self._watches.values()):
            for name in watch.shown():
                try:
                    self.disable(name)
                except Exception as error:  # noqa: BLE001  raised below, when all are ended
                    failed = error
        if failed is not None:
            raise failed


class _Watch:
    """The functions that hear one stream, by the names of values; its thread is started."""

    def __init__(self, store: SensorValues, zipname: str) -> None:
        self._store = store
        self._zipname = zipname
        self.callbacks: dict[str, list[Callback]] = {}
        keys = store.shm.keys
        key = keys.sensor_packed(store.name, zipname) if zipname else keys.sensor_writes(store.name)
        self.hearing = Hearing(store.shm, key, f"watchdogs of sensor {store.name}", self._heard, store.unblock)
        self.hearing.start()

    def shown(self) -> list[str]:
        """Return the names as `disable` takes them."""
        return [f"{self._zipname}.zip" if self._zipname else name for name in self.callbacks]

    def _heard(self, identity: str, fields: Sequence[bytes]) -> None:
        """Take an entry, in the thread."""
        stored = packed_of(identity.encode(), fields).values if self._zipname else entry_values(fields)
        found = {name: names for name in list(self.callbacks) if (names := tree.below(stored, name)) or not stored}
        values: dict[str, Any] = {}
        for name, names in list(found.items()):
            try:
                values |= {each: self._store.decode(each, stored[each]) for each in names if each not in values}
            except Gone:
                self.hearing.lose(1, f"the value of {name!r} was dropped before it could be read")
                del found[name]
            except DecodeError as error:
                log.error("watchdog of %r: %s", name or ".", error)
                del found[name]
        for name, names in found.items():
            for callback in list(self.callbacks.get(name, ())):
                if callback in self.callbacks.get(name, ()):  # a function before it may have ended it
                    self._call(name, callback, {each: values[each] for each in names})

    def _call(self, name: str, callback: Callback, values: Mapping[str, Any]) -> None:
        try:
            callback(tree.nest(values, name))
        except Exception:
            log.exception("sensor %s: a watchdog of %r failed", self._store.name, name or ".")


def packed_name(name: str) -> str:
    """Return what was packed that a name speaks of, `""` for the name of a value.

    >>> packed_name("measurement"), packed_name("odd.zip"), packed_name("number")
    ('measurement', 'odd', '')
    """
    return name.removesuffix(".zip") if name in (MEASUREMENT, METADATA) or name.endswith(".zip") else ""
