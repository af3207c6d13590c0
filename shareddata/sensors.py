"""Sensors: named values of any kind, arrays too, written by one program and read, watched and recorded by others.

It knows what a sensor's writer asks for, and is the door to what its readers do (`SensorReader`, `read`). It must not
know commands or keys. Invariants:

1. What is written is whole: a value, all of a nested dictionary, all that was packed together.
2. A value that cannot be written is refused before anything is sent, and named.
3. An error in `writer_worker` ends its loop, is logged, and raised by `stop`; a server that went away does not end it.

    >>> with SensorWriter("camera", "front", shm) as writer:
    ...     writer.write("exposure", 0.02)
    ...     writer.write("pose", {"x": 1.5, "y": 0.0})
    ...     pack_to_zip(["exposure", "pose"], writer.data_path)
    >>> with SensorReader("camera", shm=shm) as reader:
    ...     reader.exposure, reader.get_data("pose/x"), reader.measurement
    (0.02, 1.5, {'exposure': 0.02, 'pose': {'x': 1.5, 'y': 0.0}})
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from shareddata import bounded, memory, tmpfs, tree
from shareddata.errors import DescriptionError, FieldError, SensorNotInitializedError, ServerTimeout, ServerUnreachable
from shareddata.memory import SharedMemory
from shareddata.sensorreader import SensorReader
from shareddata.sensorstore import SensorStore
from shareddata.sensorvalues import MEASUREMENT, listed, registered
from shareddata.snapshots import read

__all__ = [
    "SensorNotInitializedError",
    "SensorReader",
    "SensorWriter",
    "find",
    "listed",
    "pack_to_zip",
    "read",
    "remove",
]

log = logging.getLogger("shareddata")

PERIOD = 1.0
"""Seconds from one call of `writer_worker` to the next, unless `start` or `run` is told otherwise."""

_writers: "weakref.WeakSet[SensorWriter]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for writer in list(_writers):
        writer._forget_thread()


os.register_at_fork(after_in_child=_forget_in_child)


class DataPath(str):
    """What names a sensor, for `pack_to_zip`: a text, `directory/name`, that knows its writer."""

    store: SensorStore

    def __new__(cls, store: SensorStore) -> "DataPath":
        """Name a sensor."""
        path = super().__new__(cls, store.name)
        path.store = store
        return path


class SensorWriter:
    """A sensor, to be written. Its readers can find it as soon as it has written something.

    Args:
        directory: what sort of sensor it is; readers may ask for the first in a directory.
        name: its name there; `.` for the directory itself.
        shm: the shared memory; the default address if None, which is connected to now.
        keep: how many writes are kept for watchdogs that are behind, and how many packs.
        keep_bytes: bytes of these, each.

    Attributes:
        data_path: names the sensor for `pack_to_zip`.
        filename: its name.
        stop_event: set when `writer_worker` is to be called no more.

    Raises:
        DescriptionError: these cannot be names.
        FieldError: nothing would be kept.

    It may be shared by threads, and is a context manager.
    """

    def __init__(
        self,
        directory: str,
        name: str,
        shm: SharedMemory | None = None,
        *,
        keep: int = bounded.ENTRIES,
        keep_bytes: int = bounded.BYTES,
    ) -> None:
        path = tree.sensor_name(directory, name)
        if keep < 1 or keep_bytes < 0:
            raise FieldError(f"sensor {path}: keep={keep}, keep_bytes={keep_bytes}: expected 1 or more, and 0 or more")
        self._shm = memory.default(shm)
        self._store = SensorStore(self._shm, path, keep, keep_bytes)
        self.data_path = DataPath(self._store)
        self.filename = name
        self.stop_event = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._shm.attach(self)
        _writers.add(self)

    def __repr__(self) -> str:
        return f"<SensorWriter {self.data_path} at {self._shm.url}>"

    def __enter__(self) -> "SensorWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and close the connection. The values stay for readers."""
        try:
            self.stop()
        finally:
            self._store.close()

    def _forget_thread(self) -> None:
        """Forget the parent's thread and locks, in a forked child."""
        self._thread = None
        self.stop_event = threading.Event()

    def write(self, name: str, data: Any, attributes: Mapping[str, Any] | None = None) -> None:
        """Write a value; readers see it at once, and watchdogs hear it.

        Args:
            name: the value's. `outer/inner` is the value `inner` of the dictionary `outer`; `.` is the sensor itself,
                of which each key of a dictionary is a value.
            data: a number, text, bool, None, bytes, a numpy array, or a list of such; or a dictionary, nested as one
                likes: it replaces the one that was there, whole.
            attributes: what is to be known of the value: written as the dictionary `NAME_attr`, in the same moment.

        Raises:
            FieldError: the data cannot be written; the message names sensor, value and type. Nothing was written.
            ServerError: not written, or, with `outcome_unknown`, perhaps.

        Redis: MULTI, HMGET (where large values go by reference), HSET, HDEL, ZADD, XADD, XRANGE, XTRIM, EXEC; at first
        INCR, HKEYS.
        """
        name = tree.value_name(name, self.data_path)
        values = {name: data}
        if attributes is not None:
            values[tree.value_name(f"{name}_attr", self.data_path)] = attributes
        self._store.write(values)

    def remove(self) -> None:
        """Stop, and take the sensor out with all its values; a later write creates it anew, as the last one.

        Redis: SMEMBERS; MULTI, HVALS, XRANGE, DEL, ZREM, EXEC.
        """
        self.stop()
        self._store.remove()

    # -- the loop -------------------------------------------------------------------------------------------------

    def writer_worker(self) -> None:
        """Measure and write once: overridden by sensors that are started.

        Raises:
            NotImplementedError: it was not.

        Redis: none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no writer_worker of its own: define it, then start")

    def start(self, period: float = PERIOD) -> None:
        """Call `writer_worker` again and again, in a thread that ends with the program.

        Args:
            period: seconds from one call to the next; 0 for at once.

        Raises:
            FieldError: it is started already.

        Redis: none.
        """
        if self._thread is not None and self._thread.is_alive():
            raise FieldError(f"sensor {self.data_path}: is started already: stop it first")
        self._error = None
        self.stop_event.clear()
        name = f"shareddata: sensor {self.data_path}"
        self._thread = threading.Thread(target=self._guarded, args=(period,), name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the loop, when the call of `writer_worker` that is going on has ended.

        Raises:
            Exception: what `writer_worker` raised, which has ended the loop before.

        Redis: none.
        """
        self.stop_event.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def run(self, period: float = PERIOD) -> None:
        """Call `writer_worker` again and again, until `stop` is called or it raises.

        A call that takes longer than the period is followed by the next at once; the ones left out are not made up for.
        While the server is away calls go on: what it refused or lost is not written later.

        Args:
            period: seconds from one call to the next; 0 for at once.

        Redis: none.
        """
        due = time.monotonic()
        while not self.stop_event.is_set():
            try:
                self.writer_worker()
            except (ServerUnreachable, ServerTimeout) as error:
                log.debug("sensor %s: %s", self.data_path, error)  # the connection has said that the server went
            due = max(due + period, time.monotonic())
            self.stop_event.wait(due - time.monotonic())

    def _guarded(self, period: float) -> None:
        try:
            self.run(period)
        except BaseException as error:
            log.error("sensor %s: writer_worker failed, the loop has ended", self.data_path, exc_info=True)
            self._error = error  # raised by stop


def pack_to_zip(
    names: Iterable[str], data_path: str, zipname: str = MEASUREMENT, compress: bool = False
) -> None:
    """Pack values of a sensor together, as they are now, in one piece: `reader.measurement`, and what snapshots hold.

    Args:
        names: of values, or of dictionaries of such.
        data_path: a writer's; or `directory/name` of any sensor at the default address, also below `TMPFS_PATH`.
        zipname: what they are packed as; `metadata` is what a dataset's snapshots have in common.
        compress: whether the snapshots are to be deflated in any case.

    Raises:
        SensorNotInitializedError: one of the values was never written; nothing was packed.
        DescriptionError, FieldError: these cannot be names.

    Redis: MULTI, SADD, XADD, XRANGE, XTRIM, EXEC; HKEYS, HMGET for values that another program has written.
    """
    if isinstance(names, str):
        raise TypeError(f"names is the text {names!r}: give a list of names")
    zipname = zipname.removesuffix(".zip")
    if not tree.is_plain(zipname):
        raise FieldError(f"zipname {zipname!r}: expected a name without slashes")
    if isinstance(data_path, DataPath):
        data_path.store.pack(names, zipname, compress)
        return
    store = SensorStore(memory.default(), _sensor_of(data_path))
    try:
        store.pack(names, zipname, compress)
    finally:
        store.close()


def find(name: str, shm: SharedMemory | None = None) -> SensorReader:
    """Return the reader of a sensor that is named in one piece.

    Args:
        name: `directory/name`; or a directory, for its first sensor.
        shm: the shared memory; the default address if None.

    Raises:
        SensorNotInitializedError: there is none.

    Redis: ZRANGE; see `SensorReader`.
    """
    shm = memory.default(shm)
    if tree.sensor_name(name, ".") not in registered(shm):
        return SensorReader(name, None, shm)
    directory, _, last = name.strip("/").rpartition("/")
    return SensorReader(directory, last, shm) if directory else SensorReader(last, ".", shm)


def remove(name: str, shm: SharedMemory | None = None) -> bool:
    """Take a sensor out with all that belongs to it; tell whether it was there.

    Args:
        name: `directory/name`.
        shm: the shared memory; the default address if None.

    Redis: SMEMBERS; MULTI, HVALS, XRANGE, DEL, ZREM, EXEC.
    """
    store = SensorStore(memory.default(shm), tree.sensor_name(name, "."))
    try:
        return store.remove()
    finally:
        store.close()


def _sensor_of(path: str) -> str:
    """Return the sensor that a path names, with or without the folder that the original keeps them in."""
    place = PurePosixPath(path)
    if place.is_absolute():
        root = PurePosixPath(_tmpfs_path())
        if not place.is_relative_to(root):
            raise DescriptionError(f"sensor {str(path)!r}: expected directory/name, or a path below {root}")
        place = place.relative_to(root)
    return tree.sensor_name(str(place.parent), place.name)


def _tmpfs_path() -> str:
    """Return the folder in memory for a program's own files, made if it is missing: see `TMPFS_PATH`."""
    given = os.environ.get("TMPFS_PATH")
    if given:
        os.makedirs(given, exist_ok=True)
        return given
    return str(tmpfs.make("files"))


def __getattr__(name: str) -> str:
    """Return `TMPFS_PATH`: the environment's, else a private folder in memory; made when it is first asked for."""
    if name == "TMPFS_PATH":
        return _tmpfs_path()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
