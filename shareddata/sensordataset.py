"""Recording a sensor: a snapshot of each pack, in a thread, and once the metadata.

It knows what is written when. It must not know how snapshots are written, or who asked. Invariants:

1. One snapshot for each pack from when it was begun until it is ended: none missed, none double. What was dropped
   before it could be written is counted.
2. Where the disk is full it waits, and goes on.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shareddata import snapshots
from shareddata.errors import ServerTimeout, ServerUnreachable
from shareddata.hearing import Hearing
from shareddata.large import Gone
from shareddata.sensorvalues import MEASUREMENT, METADATA, Packed, SensorValues, packed_of

log = logging.getLogger("shareddata")

_AGAIN = 1.0  # seconds after which a snapshot that could not be written is tried again


class SensorDataset:
    """A folder into which snapshots are written; begun when it is made.

    Args:
        store: the sensor.
        folder: where to, made if it is missing.
        name: what the snapshots are named after.
        level: of compression, from `snapshots.check_level`.
        saved: called with each snapshot's file, in the thread.

    Raises:
        OSError: the folder cannot be made, or the metadata not be written.
    """

    def __init__(
        self, store: SensorValues, folder: str, name: str, level: int, saved: Callable[[Path], None]
    ) -> None:
        self._store = store
        self._folder, self._name, self._level, self._saved = folder, name, level, saved
        self._subject = f"snapshots of sensor {store.name}"
        self._ending = threading.Event()
        self._lost: Exception | None = None
        self._metadata = False
        os.makedirs(folder, exist_ok=True)
        key = store.shm.keys.sensor_packed(store.name, MEASUREMENT)
        self.hearing = Hearing(store.shm, key, self._subject, self._take, store.unblock)
        try:
            self._write_metadata(patient=False)
        except BaseException:
            self.hearing.end(settle=False)
            raise
        self.hearing.start()

    def end(self) -> None:
        """Write what was packed before this call, and end.

        Raises:
            OSError: a snapshot could not be written.
            ServerError: the server is away.
            Exception: what else has hindered a snapshot.
        """
        self._ending.set()
        self.hearing.end()
        self._write_metadata()
        if self._lost is not None:
            raise self._lost

    def _take(self, identity: str, fields: Sequence[bytes]) -> None:
        """Write the snapshot of a pack, in the thread; again where the server went before it was written."""
        try:
            self._write(packed_of(identity.encode(), fields))
        except (ServerUnreachable, ServerTimeout):
            raise
        except Gone:
            self.hearing.lose(1, "its values were dropped before they could be read")
        except Exception as error:
            self._lost = error
            self.hearing.lose(1, f"it could not be written: {error}")
            log.debug("%s", self._subject, exc_info=True)

    def _write(self, packed: Packed) -> None:
        values = {name: self._store.read(stored) for name, stored in packed.values.items()}
        self._write_metadata()
        self._saved(self._save(f"{packed.milliseconds}_{self._name}", packed, values))

    def _write_metadata(self, patient: bool = True) -> None:
        if self._metadata:
            return
        found = self._store.packed(METADATA)
        if found is not None:
            self._save(f"{self._name}_{METADATA}", *found, once=True, patient=patient)
            self._metadata = True

    def _save(
        self, stem: str, packed: Packed, values: Mapping[str, bytes], once: bool = False, patient: bool = True
    ) -> Path:
        """Write a file; where that fails again and again until it can be, at the end only once more.

        Raises:
            OSError: it cannot be.
        """
        waited = False
        while True:
            last = not patient or self._ending.is_set()
            try:
                when, deflated = packed.milliseconds, packed.deflated
                file = snapshots.save(self._folder, stem, values, when, self._level, deflated, once)
            except OSError as error:
                if last:
                    raise
                if not waited:
                    log.error("%s: one cannot be written: %s: tried again until it can", self._subject, error)
                waited = True
                self._ending.wait(_AGAIN)
            else:
                if waited:
                    log.warning("%s: they are written again", self._subject)
                return file
