"""Reading a sensor: values that are always live, watchdogs that hear every write, snapshots.

It knows what a reader's program asks for. It must not know how values are written, or commands. Invariants:

1. Each attribute and each call of `get_data` asks the server: nothing is remembered. What is returned is whole: of one
   write, or of one pack.
2. A watchdog hears every write of its value from when it was attached until it is disabled, in order.
3. `start_write` makes one snapshot of each pack from when it was called until `stop_watchdog`.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shareddata import cbor, memory, snapshots, tree
from shareddata.errors import DecodeError, FieldError, SensorNotInitializedError
from shareddata.memory import SharedMemory
from shareddata.sensordataset import SensorDataset
from shareddata.sensorvalues import MEASUREMENT, METADATA, Packed, SensorValues, registered
from shareddata.watchdogs import Callback, Watchdogs, packed_name


class SensorReader:
    """A sensor, to be read. Each of its values is an attribute: `reader.number` is what it is now.

    Blanks and dots in a value's name are underscores in the attribute's. Names of methods, and what is nested, are had
    by `get_data`. Arrays are read-only.

    Args:
        directory: where the sensor's writer put it.
        filename: the sensor's name in it; a number counts the sensors of the directory in order of their creation; None
            is the first one that is still there.
        shm: the shared memory; the default address if None.
        sensor_name: what snapshots are named after; the filename with underscores for blanks if None.
        data_dir: where `start_write` writes, if it is not told.

    Attributes:
        filename: the sensor's name in its directory.
        sensor_name: what snapshots are named after.
        attributes: the names of the attributes that there were when the reader was made, or at `update_attributes`.
        snapshots: how many snapshots this reader has written.
        last_snapshot: the file of the last one, None before the first.

    Raises:
        SensorNotInitializedError: there is no such sensor, or nothing was written yet.

    A reader may be shared by threads. It is a context manager.

    Redis: ZRANGE, HKEYS; SMEMBERS.
    """

    def __init__(
        self,
        directory: str,
        filename: str | int | None = None,
        shm: SharedMemory | None = None,
        *,
        sensor_name: str | None = None,
        data_dir: str = "collected_data",
    ) -> None:
        self._shm = memory.default(shm)
        self._writing: SensorDataset | None = None
        self._missed = 0
        self.data_dir = data_dir
        self.snapshots = 0
        self.last_snapshot: Path | None = None
        path = self._chosen(directory, filename)
        self._store, self._under = self._located(path)
        self._watchdogs = Watchdogs(self._store)
        top = tree.sensor_name(directory, ".")
        self.filename = path.removeprefix(top).lstrip("/") or "."
        named = self.filename if self.filename != "." else path
        self.sensor_name = (sensor_name or named).replace(" ", "_").replace("/", "_")
        self.attributes: list[str] = []
        self.update_attributes()
        self._shm.attach(self)

    def __repr__(self) -> str:
        return f"<SensorReader {self._store.name}{'/' + self._under if self._under else ''} at {self._shm.url}>"

    def __enter__(self) -> "SensorReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End watchdogs and snapshots, which still take what was written before this call; close the connection."""
        try:
            self._watchdogs.close()
        finally:
            try:
                self.stop_watchdog()
            finally:
                self._store.close()

    @property
    def missed(self) -> int:
        """How many writes and packs were dropped before the watchdogs, or `start_write`, could take them."""
        writing = self._writing
        return self._missed + self._watchdogs.missed + (writing.hearing.missed if writing else 0)

    # -- finding --------------------------------------------------------------------------------------------------

    def _chosen(self, directory: str, filename: str | int | None) -> str:
        """Return the name of the sensor that is meant.

        Redis: ZRANGE.
        """
        if isinstance(filename, str):
            return tree.sensor_name(directory, filename)
        top = tree.sensor_name(directory, ".")
        if filename is not None and (isinstance(filename, bool) or not isinstance(filename, int)):
            raise FieldError(f"sensor {directory}: {filename!r} is no name and no number")
        found = tree.below(registered(self._shm), top)
        try:
            return found[filename or 0]
        except IndexError:
            raise self._nothing(top, f"{len(found)} sensors" if found else "no sensor") from None

    def _located(self, path: str) -> tuple[SensorValues, str]:
        """Return the sensor of a name, or the one that has values below it, and how these begin.

        Redis: HKEYS.
        """
        for name in (path, *reversed(list(tree.ancestors(path)))):
            store = SensorValues(self._shm, name)
            under = path[len(name) + 1 :]
            names = store.names()
            if any(each.startswith(under + "/") for each in names) if under else names:
                return store, under
            store.close()
        raise self._nothing(path, "no value")

    def _nothing(self, name: str, found: str) -> SensorNotInitializedError:
        known = registered(self._shm)
        return SensorNotInitializedError(
            f"sensor {name} at {self._shm.url}: found {found}: its writer has to write something first"
            f"{tree.near(name, known)}"
        )

    # -- values ---------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """Return the value that an attribute stands for, as it is now.

        Raises:
            AttributeError: there is no such value.

        Redis: HGET; HKEYS for names with blanks or dots.
        """
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        try:
            if name in (MEASUREMENT, METADATA):
                return self._packed(name)
            return self._value(name)
        except SensorNotInitializedError as error:
            actual = next((each for each in self._tops() if _attribute(each) == name), None)
            if actual is None:
                raise AttributeError(str(error), name=name, obj=self) from None
            return self._value(actual)

    def get_data(self, name: str = "") -> Any:
        """Return a value as it is now; without a name all of them, as of one moment.

        Args:
            name: of a value, or of a nested dictionary, or of a value in one (`outer/inner`); `measurement` and
                `metadata`, also with `.zip`, are what was packed last.

        Raises:
            SensorNotInitializedError: there is none.
            DecodeError: another program wrote something else there.

        Redis: HGET; HGETALL; XREVRANGE.
        """
        name = tree.value_name(name, self._store.name) if name else ""
        if name.endswith(".zip"):
            return self._packed(name.removesuffix(".zip"))
        try:
            return self._value(name)
        except SensorNotInitializedError:
            if name not in (MEASUREMENT, METADATA):
                raise
            return self._packed(name)

    get_value = get_data

    def get_binary(self, name: str) -> bytes:
        """Return a value undecoded: CBOR; of `measurement` and `metadata` a zip file.

        Args:
            name: see `get_data`.

        Raises:
            SensorNotInitializedError: there is none.

        Redis: HGET; XREVRANGE.
        """
        name = tree.value_name(name, self._store.name)
        if name.endswith(".zip") or name in (MEASUREMENT, METADATA):
            packed, values = self._whole_pack(name.removesuffix(".zip"))
            file = io.BytesIO()
            snapshots.write_zip(file, values, packed.milliseconds, snapshots.DEFLATE_LEVEL if packed.deflated else 0)
            return file.getvalue()
        found = self._found(name, self._store.undecoded)
        return found.get(self._full(name)) or b"".join(cbor.encode(self._value(name)))

    def update_attributes(self) -> None:
        """Look again which values there are, for `attributes`; reading them does not need it.

        Redis: HKEYS, SMEMBERS.
        """
        packs = [name for name in self._store.zipnames() if name in (MEASUREMENT, METADATA) and not self._under]
        self.attributes = [*dict.fromkeys(map(_attribute, self._tops())), "attributes", *packs]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.attributes})

    def _full(self, name: str) -> str:
        return "/".join(part for part in (self._under, name) if part)

    def _tops(self) -> list[str]:
        """Return the names of the values and dictionaries that this reader has, without what is in these."""
        start = len(self._under) + 1 if self._under else 0
        names = [name for name in self._store.names() if not start or name.startswith(self._under + "/")]
        return list(dict.fromkeys(name[start:].partition("/")[0] for name in names))

    def _value(self, name: str) -> Any:
        try:
            return tree.nest(self._found(name, self._store.values), self._full(name))
        except ValueError as error:
            raise DecodeError(f"sensor {self._store.name}, value {error}: another program wrote it") from None

    def _found(self, name: str, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """Return what there is of a value.

        Raises:
            SensorNotInitializedError: nothing.
        """
        found = read(self._full(name))
        if not found:
            raise SensorNotInitializedError(
                f"sensor {self._store.name} at {self._shm.url}: no value {name!r} was written"
                f"{tree.near(name, self._tops())}"
            )
        return found

    # -- what was packed ------------------------------------------------------------------------------------------

    def _packed(self, zipname: str) -> Any:
        values = self._whole_pack(zipname)[1]
        try:
            return tree.nest({name: self._store.decode(name, value) for name, value in values.items()})
        except DecodeError:
            raise
        except ValueError as error:
            raise DecodeError(f"sensor {self._store.name}, packed value {error}: another program wrote it") from None

    def _whole_pack(self, zipname: str) -> tuple[Packed, dict[str, bytes]]:
        """Return what was packed last under a name, its values in CBOR.

        Raises:
            SensorNotInitializedError: nothing was.

        Redis: XREVRANGE.
        """
        found = self._store.packed(zipname)
        if found is None:
            raise SensorNotInitializedError(
                f"sensor {self._store.name} at {self._shm.url}: nothing was packed as {zipname!r}: its writer has to "
                "call pack_to_zip first"
            )
        return found

    def take_snapshot(self, path: str | os.PathLike[str], compresslevel: int = 0) -> bool:
        """Write what was packed last into a zip file `<epoch ms>_<sensor name>.zip`; where nothing was, all values.

        The time is that of the pack, by the server's clock; `_1`, `_2` are added where the name is taken.

        Args:
            path: the folder.
            compresslevel: 0 as they are, 1 to 9 deflated.

        Returns:
            True: it is written, whole.

        Raises:
            OSError: it cannot be written.

        Redis: XREVRANGE; MULTI, HGETALL, TIME, EXEC.
        """
        level = snapshots.check_level(compresslevel)
        if not os.path.isdir(path):
            raise FileNotFoundError(f"{os.fspath(path)}: there is no such folder: make it first")
        try:
            packed, values = self._whole_pack(MEASUREMENT)
            milliseconds, deflated = packed.milliseconds, packed.deflated
        except SensorNotInitializedError:
            found, milliseconds = self._store.undecoded_at(self._under)
            start, deflated = len(self._under) + 1 if self._under else 0, False
            values = {name[start:]: data for name, data in found.items()}
        stem = f"{milliseconds}_{self.sensor_name}"
        self._saved(snapshots.save(path, stem, values, milliseconds, level, deflated))
        return True

    def _saved(self, file: Path) -> None:
        with self._store.lock:
            self.snapshots += 1
            self.last_snapshot = file

    # -- watchdogs ------------------------------------------------------------------------------------------------

    def attach_watchdog(self, name: str, callback: Callback) -> None:
        """Call a function with each value that is written from now on, in order, in a thread.

        All watchdogs of a reader share one thread: a slow function holds the others up. What it raises is logged, and
        it is called again for the next value.

        Args:
            name: of a value, also one that was never written; of a nested dictionary: what of it was written; `.`: all;
                `measurement`, `metadata`, `NAME.zip`: what is packed.
            callback: called with the value.

        Raises:
            ServerError: the server is away.

        Redis: CLIENT ID; XINFO STREAM, XRANGE; in the thread XREAD.
        """
        self._watchdogs.attach(self._watched(name), callback)

    def disable_watchdog(self, name: str) -> None:
        """Call the functions of a value no more; what was written before this call they still get, before it returns.

        Raises:
            FieldError: there is no watchdog of this name.
            ServerError: the server is away: what was written last may not have been heard.

        Redis: CLIENT UNBLOCK; in the thread XINFO STREAM, XRANGE.
        """
        self._watchdogs.disable(self._watched(name))

    def _watched(self, name: str) -> str:
        name = tree.value_name(name, self._store.name)
        return name if packed_name(name) else self._full(name)

    # -- datasets -------------------------------------------------------------------------------------------------

    def start_write(self, path: str | os.PathLike[str] | None = None, compresslevel: int = 0) -> None:
        """Write a snapshot of each pack from now on into a folder, in a thread; see `take_snapshot` for their names.

        What was packed as metadata, before or meanwhile, is written once: `<sensor name>_metadata.zip`.

        Args:
            path: the folder, made if it is missing; the reader's `data_dir` if None.
            compresslevel: 0 as they are, 1 to 9 deflated.

        Raises:
            OSError: the folder cannot be made.
            FieldError: snapshots are written already.

        Redis: CLIENT ID; XINFO STREAM, XRANGE; XREVRANGE; in the thread XREAD.
        """
        if self._writing is not None:
            raise FieldError(f"sensor {self._store.name}: snapshots are written already: call stop_watchdog first")
        folder = os.path.abspath(self.data_dir if path is None else path)
        level = snapshots.check_level(compresslevel)
        self._writing = SensorDataset(self._store, folder, self.sensor_name, level, self._saved)

    def stop_watchdog(self) -> None:
        """End what `start_write` began; what was packed before this call is written before it returns.

        Raises:
            OSError: a snapshot could not be written.
            ServerError: the server is away: what was packed last may not be written.

        Redis: CLIENT UNBLOCK; in the thread XINFO STREAM, XRANGE.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.end()
            finally:
                self._missed += writing.hearing.missed


def _attribute(name: str) -> str:
    """Return the attribute that stands for a value's name."""
    return name.replace(" ", "_").replace(".", "_")
