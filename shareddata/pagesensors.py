"""What the page shows of sensors: their values in words, and pictures.

It knows how sensors are looked at for a browser. It must not know HTTP, streams or templates. Invariants:

1. Texts hold no control characters; what is large is summed up.
2. A sensor that cannot be read is told of, and does not hide the others.
3. A picture is made when the first browser asks for it, and is the same one for the others.
"""

import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from shareddata import table
from shareddata.codec import numpy
from shareddata.errors import SharedDataError, UnknownData
from shareddata.memory import SharedMemory
from shareddata.picture import Pictures
from shareddata.sensorvalues import Listed, SensorValues, Size, listed

MOST_VALUES = 200
"""Values of a sensor that are shown."""

_LARGEST = 1 << 22  # bytes of a sensor's value that is read in order to be shown
_LONGEST = 160  # characters of a value
_FEW = 8  # elements of an array that is shown whole
_LEAST_SIDE = 16  # an array that is smaller is a table


class Sensors:
    """All sensors with their values. `look` belongs to one thread at a time; `picture` may be called by several."""

    def __init__(self, shm: SharedMemory) -> None:
        self._shm = shm
        self._known: dict[str, tuple[Listed, dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._pictures = Pictures()

    def look(self) -> dict[str, Any]:
        """Return the sensors in order of creation; those that were not written since are not read again.

        Redis: as `sensorvalues.listed`; HGETALL for each that was written.
        """
        found = {each.name: each for each in listed(self._shm)}
        self._known = {name: self._known[name] for name in found.keys() & self._known.keys()}
        for name, each in found.items():
            if name not in self._known or self._known[name][0] != each:
                self._known[name] = each, self._read(each)
        return {"sensors": [self._known[name][1] for name in found]}

    def _read(self, sensor: Listed) -> dict[str, Any]:
        values: Mapping[str, Any] = {}
        note = ""
        try:
            with closing(SensorValues(self._shm, sensor.name)) as store:
                values = store.glance(_LARGEST)
        except (SharedDataError, ModuleNotFoundError) as error:
            note = table.clean(str(error))
        first = list(values.items())[:MOST_VALUES]
        shown = [[table.clean(name), value_text(value)] for name, value in first]
        return {
            **{"path": sensor.name, "name": table.clean(sensor.name), "written": sensor.written, "kept": sensor.kept},
            **{"packed": ", ".join(map(table.clean, sensor.packed)), "values": shown},
            **{"more": max(0, len(values) - MOST_VALUES), "note": note},
            "pictures": [name for name, value in first if is_picture(value)],
        }

    def picture(self, name: str, value: str) -> bytes:
        """Return a value as a PNG file; the same again until the sensor is written.

        Args:
            name: the sensor.
            value: the value's name.

        Raises:
            UnknownData: there is no such sensor, or no picture in that value.

        Redis: HGET.
        """
        none = UnknownData(f"sensor {table.clean(name)}: no picture in {table.clean(value)!r}")

        def take() -> Any:
            with closing(SensorValues(self._shm, name)) as store:
                array = store.glance(_LARGEST, value).get(value)
            if not is_picture(array):
                raise none
            return array

        with self._lock:
            sensor, _ = self._known.get(name, (None, None))
            if sensor is None:
                raise none
            return self._pictures.get((name, value), sensor, take)


def is_picture(value: Any) -> bool:
    """Tell whether a value is a picture: numbers of some size in both directions, grey or in three colours."""
    if not hasattr(value, "dtype") or value.dtype.kind not in "biuf":
        return False
    flat = value.ndim == 2 or value.ndim == 3 and value.shape[2] == 3
    return bool(flat and min(value.shape[:2]) >= _LEAST_SIDE)


def value_text(value: Any) -> str:
    r"""Return a sensor's value for a person: an array by its kind, shape and range.

    >>> value_text(12.5), value_text(Size(8000000)), value_text("a" + chr(27))
    ('12.5', '8,000,000 bytes', 'a\\x1b')
    """
    if isinstance(value, Size):
        return f"{value:,} bytes"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _array_text(value)
    if isinstance(value, bytes):
        return f"{len(value):,} bytes: {value[:16].hex(' ')}{' ...' if len(value) > 16 else ''}"
    if isinstance(value, float):
        return format(value, ".10g")
    return table.clip(table.clean(value if isinstance(value, str) else repr(value)), _LONGEST)


def _array_text(array: Any) -> str:
    if array.size <= _FEW:
        return table.clip(" ".join(str(array.tolist()).split()), _LONGEST)
    kind = f"{array.dtype} array of {' x '.join(map(str, array.shape))}"
    if array.dtype.kind not in "iuf":
        return kind
    finite = array[numpy().isfinite(array)] if array.dtype.kind == "f" else array
    return f"{kind}: {finite.min():.5g} to {finite.max():.5g}" if finite.size else f"{kind}: none finite"
