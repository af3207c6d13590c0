"""What the page shows of frame files: their datasets, and the newest frames as pictures.

It knows how frame files are looked at for a browser. It must not know HTTP, streams or templates. Invariants:

1. A picture is made when the first browser asks for it, and is the same one for the others.
2. A file that cannot be read is told of, and does not hide the others.
"""

import threading
from typing import Any

from shareddata import table
from shareddata.errors import SharedDataError, UnknownData
from shareddata.frames import FrameFile, files
from shareddata.memory import SharedMemory
from shareddata.picture import Pictures

MOST_FILES = 24
"""Frame files of which more than the name is shown: those that were written last."""

_MOST_PIXELS = 1 << 26  # of a frame that is shown


class FrameFiles:
    """All frame files, and the newest frames of their datasets as pictures. May be used by several threads."""

    def __init__(self, shm: SharedMemory) -> None:
        self._shm = shm
        self._lock = threading.Lock()
        self._open: dict[str, FrameFile] = {}
        self._pictures = Pictures()

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
            state = (file.generation, place, file.state, dataset.shape) if place else None
            return self._pictures.get((name, path), state, lambda: dataset[place])


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
