"""What the page shows of sensors and frame files, and the doctor's report: looked at by one for all who look on.

It knows how these are read and put into words for a browser. It must not know HTTP, streams or templates. Invariants:

1. A look is shared: however many browsers ask, the server is asked once in that time.
2. What nobody looks at is not read; a picture is made when the first one asks for it.
3. A sensor or a file that cannot be read is told of, and does not hide the others.
4. Texts hold no control characters; what is large is summed up.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple

from shareddata import doctor, pageview, png, table
from shareddata.codec import numpy
from shareddata.errors import SharedDataError, UnknownData
from shareddata.frames import FrameFile, files
from shareddata.memory import SharedMemory
from shareddata.sensorvalues import Listed, SensorValues, Size, listed

MOST_VALUES = 200
"""Values of a sensor that are shown."""

MOST_FILES = 24
"""Frame files of which more than the name is shown: those that were written last."""

_LARGEST = 1 << 22  # bytes of a sensor's value that is read in order to be summed up
_LONGEST = 160  # characters of a value
_FEW = 8  # elements of an array that is shown whole
_SIDE = 1024  # pixels of a picture's longer side at most
_MOST_PIXELS = 1 << 26  # of a frame that is shown
_PICTURES = 32  # that are remembered


class Look(NamedTuple):
    """What was found, and the same as JSON."""

    content: dict[str, Any]
    text: bytes


class Shared:
    """Something that is looked at again when it is older than some seconds and anybody asks.

    Args:
        look: what looks; it may wait.
        seconds: for how long what was found is good.
    """

    def __init__(self, look: Callable[[], dict[str, Any]], seconds: float) -> None:
        self._look = look
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._found: Look | None = None
        self._looked_at = float("-inf")

    async def get(self) -> Look:
        """Return what there is, at most so many seconds old.

        Raises:
            SharedDataError: as the look does.
        """
        async with self._lock:
            if self._found is None or time.monotonic() - self._looked_at > self._seconds:
                self._found = await asyncio.to_thread(self._work)
                self._looked_at = time.monotonic()
            return self._found

    def _work(self) -> Look:
        content = self._look()
        return Look(content, pageview.text(content))


# -- sensors ----------------------------------------------------------------------------------------------------------


class Sensors:
    """All sensors with their values. `look` belongs to one thread at a time."""

    def __init__(self, shm: SharedMemory) -> None:
        self._shm = shm
        self._known: dict[str, tuple[Listed, dict[str, Any]]] = {}

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
        shown = [[table.clean(name), value_text(value)] for name, value in list(values.items())[:MOST_VALUES]]
        return {
            **{"name": sensor.name, "shown": table.clean(sensor.name), "written": sensor.written, "kept": sensor.kept},
            **{"packed": ", ".join(map(table.clean, sensor.packed)), "values": shown},
            **{"more": max(0, len(values) - MOST_VALUES), "note": note},
        }


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


# -- frames -----------------------------------------------------------------------------------------------------------


class FrameFiles:
    """All frame files, and the newest frames of their datasets as pictures. May be used by several threads."""

    def __init__(self, shm: SharedMemory) -> None:
        self._shm = shm
        self._lock = threading.Lock()
        self._open: dict[str, FrameFile] = {}
        self._pictures: dict[tuple[str, str], tuple[Any, bytes]] = {}

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()

    def look(self) -> dict[str, Any]:
        """Return the files, those that were written last first, with their datasets.

        Redis: as `frames.files`; as `FrameFile.refresh` for each of the newest.
        """
        found = sorted(files(self._shm), key=lambda info: (info.changed or info.created, info.name), reverse=True)
        newest = found[:MOST_FILES]
        with self._lock:
            for name in self._open.keys() - {info.name for info in newest}:
                self._open.pop(name).close()
            shown = [
                {
                    **{"name": info.name, "state": info.state, "written": info.changed or info.created},
                    "writer": table.clean(str(info.writer.get("program", ""))),
                    **self._datasets(info.name, info.generation),
                }
                for info in newest
            ]
        return {"files": shown, "others": [info.name for info in found[MOST_FILES:]]}

    def _datasets(self, name: str, generation: str) -> dict[str, Any]:
        try:
            file = self._opened(name, generation)
        except (SharedDataError, ModuleNotFoundError) as error:
            return {"datasets": [], "note": table.clean(str(error))}
        paths: list[str] = []
        file.visititems(lambda path, member: paths.append(path) if hasattr(member, "shape") else None)
        return {"datasets": [_dataset(file, path) for path in paths], "note": ""}

    def _opened(self, name: str, generation: str = "") -> FrameFile:
        """Return an open file, as it is now.

        Raises:
            UnknownData: it is not there any more.
        """
        file = self._open.get(name)
        if file is not None and generation in ("", file.generation):
            file.refresh()
            if file.state not in ("replaced", "removed"):
                return file
        if file is not None:
            self._open.pop(name).close()
        file = self._open[name] = FrameFile(name, self._shm)
        return file

    def picture(self, name: str, path: str) -> bytes:
        """Return the newest frame of a dataset as a PNG file; the same again when no other came since.

        Raises:
            UnknownData: there is no such file, or no such dataset of pictures in it.
            FrameError: it was trimmed before it could be read.

        Redis: as `FrameFile.refresh`; HKEYS for datasets of more than three dimensions; HMGET.
        """
        with self._lock:
            file = self._opened(name)
            try:
                dataset = file[path]
            except KeyError:
                dataset = None
            if dataset is None or not is_picture(dataset) or (place := newest(dataset)) is None:
                raise UnknownData(f"frame file {table.clean(name)}: no picture in {table.clean(path)!r}")
            key = (file.generation, place, file.state, dataset.shape)
            known = self._pictures.pop((name, path), None)
            if known is None or known[0] != key or not place:
                known = key, encoded(dataset[place])
            self._pictures[name, path] = known  # the newest is the last
            while len(self._pictures) > _PICTURES:
                del self._pictures[next(iter(self._pictures))]
            return known[1]


def _dataset(file: FrameFile, path: str) -> dict[str, Any]:
    dataset = file[path]
    number = dataset.shape[0] - 1 if dataset.shape and dataset.maxshape[0] is None else 0
    return {
        **{"path": path, "shown": table.clean(path), "number": number, "picture": is_picture(dataset)},
        "about": f"{dataset.dtype} {' x '.join(map(str, dataset.shape)) or 'scalar'}",
    }


def _depth(dataset: Any) -> int:
    """Return how many of a dataset's last dimensions are a picture's: three of coloured ones."""
    coloured = dataset.ndim >= 4 or dataset.ndim == 3 and dataset.maxshape[0] is not None
    return 3 if coloured and dataset.shape[-1] == 3 else 2


def is_picture(dataset: Any) -> bool:
    """Tell whether a dataset holds pictures: numbers, of some size in both directions; tables that grow are none."""
    if dataset.dtype.kind not in "biuf" or dataset.ndim < 2 or dataset.ndim == 2 and dataset.maxshape[0] is None:
        return False
    depth = _depth(dataset)
    height, width = dataset.shape[-depth:][:2]
    return bool(min(height, width) >= 4 and height * width <= _MOST_PIXELS)


def newest(dataset: Any) -> tuple[int, ...] | None:
    """Return the index of the newest frame, () of a dataset that is one picture, None where there is none yet.

    Redis: HKEYS where there are more than one dimension of frames.
    """
    leading = dataset.ndim - _depth(dataset)
    if leading == 0:
        return ()
    if leading == 1:
        return (dataset.shape[0] - 1,) if dataset.shape[0] else None
    there = dataset.left()
    return tuple(there[-1][:leading]) if there else None


def encoded(frame: Any) -> bytes:
    """Return a frame as PNG: grey from its least to its greatest value, as large as a screen at most.

    Redis: none.
    """
    np = numpy()
    step = -(-max(frame.shape[:2]) // _SIDE)
    pixels = np.asarray(frame)[::step, ::step]
    if pixels.dtype == np.uint8 and pixels.ndim == 3:
        return png.encode(pixels)
    values = pixels.astype("f8")
    finite = values[np.isfinite(values)]
    least, greatest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scaled = np.nan_to_num((values - least) * (255.0 / ((greatest - least) or 1.0)), nan=0.0, posinf=255.0, neginf=0.0)
    return png.encode(scaled.clip(0, 255).astype("u1"))


# -- the doctor -------------------------------------------------------------------------------------------------------


class Report(NamedTuple):
    """What the doctor found, and when: by the server's clock."""

    findings: list[doctor.Finding]
    at: float


class Doctor:
    """The doctor's last report: one for all.

    Args:
        shm: whose server is examined.
    """

    AGAIN = 5.0
    """Seconds within which the report that is there is good enough."""

    def __init__(self, shm: SharedMemory) -> None:
        self._shm = shm
        self._lock = asyncio.Lock()
        self.report: Report | None = None

    async def examine(self, now: Callable[[], float]) -> Report:
        """Look at everything, unless somebody else did just now.

        Redis: as `doctor.examine`.
        """
        async with self._lock:
            if self.report is None or now() - self.report.at > self.AGAIN:
                self.report = Report(await asyncio.to_thread(doctor.examine, self._connect), now())
            return self.report

    def _connect(self) -> SharedMemory:
        return SharedMemory(
            url=self._shm.address, namespace=self._shm.namespace, wait=1.0, timeout=self._shm.timeout
        )

