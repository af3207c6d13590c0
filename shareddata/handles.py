"""Handles of datasets: looking at one again, and why HDF5 then wants it to be the only one.

It knows what `refresh` does to a dataset of h5py and of `FrameFile`, and where it fails. It must not know what a
dataset holds. Invariants:

1. However many followers, grabbers and sources of this program read a dataset of an HDF5 file, it is open once.
2. Where somebody else in this program has it open too, that is an error, not old data: `H5Drefresh` closes and opens a
   dataset, and while another handle keeps it alive, HDF5 (1.14.2, 2.0.0) goes on with its old list of chunks: new
   frames then read as whatever is in memory.

h5py is imported only where a dataset of its kind was given.
"""

import threading
import weakref
from typing import Any

from shareddata.errors import FrameError

_UNREADABLE = "invalid dataset size"  # what HDF5 1.14.4 and later say of a dataset behind what was the file's end

_handles: "list[weakref.ref[Any]]" = []
_lock = threading.Lock()


def remembers(dataset: Any) -> bool:
    """Tell whether a dataset goes on showing what it held when it was last looked at, as HDF5's do."""
    return type(dataset).__module__.startswith("h5py.")


def shared(dataset: Any) -> Any:
    """Return the handle of a dataset that all readers of this program use.

    Args:
        dataset: a handle, to be dropped where another one is used already.
    """
    if not remembers(dataset):
        return dataset
    with _lock:
        _handles[:] = [handle for handle in _handles if handle()]  # those of closed files are false
        for handle in _handles:
            if (used := handle()) and used.id == dataset.id:
                return used
        _handles.append(weakref.ref(dataset))
    return dataset


def opened(file: Any, path: str) -> Any:
    """Return the group, or the handle of the dataset, at a path.

    Raises:
        KeyError: there is none.
        FrameError: HDF5 cannot open it.
    """
    try:
        return shared(file[path])
    except KeyError as error:
        if _UNREADABLE in str(error):
            raise _unreadable(f"{getattr(file, 'filename', file)}: {path}", error) from error
        raise


def refresh(dataset: Any) -> None:
    """Look at a dataset anew: what others have written since is seen from now on.

    Raises:
        FrameError: HDF5 cannot.

    Redis: none on HDF5 files; MULTI, HGETALL, XREVRANGE, EXEC.
    """
    if not remembers(dataset):
        dataset.refresh()
        return
    name = describe(dataset)
    _require_single(dataset, name)
    try:
        dataset.refresh()
    except RuntimeError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> FrameError:
    return FrameError(
        f"{name}: HDF5 cannot read it ({error.args[0]}): of a file that is being written it reads only datasets with "
        "chunks, or filled before the writer set swmr_mode: let its writer make it with chunks"
    )


def _require_single(dataset: Any, name: str) -> None:
    """Refuse to go on where HDF5 would show old data; 24 us for a file that is written by SWMR."""
    from h5py import h5f, h5i

    file = h5i.get_file_id(dataset.id)
    if not file.get_intent() & h5f.ACC_SWMR_READ:
        return
    count = sum(other == dataset.id for other in h5f.get_obj_ids(file, h5f.OBJ_DATASET))
    if count > 1:
        raise FrameError(
            f"{name}: open {count} times in this program: HDF5 cannot show what is written to it meanwhile: drop the "
            "other handles, or give KeyFollower, DataSource or FrameReader the one that there is"
        )


def describe(dataset: Any) -> str:
    """Return a dataset's name and file, for messages."""
    file = getattr(getattr(dataset, "file", None), "filename", None)
    name = getattr(dataset, "name", None) or "a dataset"
    return f"{file}: {name}" if file else str(name)
