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

_handles: "list[weakref.ref[Handle]]" = []
_lock = threading.Lock()


class Handle:
    """A dataset that all readers of this program share.

    Attributes:
        dataset: it, as h5py or `FrameFile` has it. Another one when a reader is given its own: there is only one.
        name: its file and path, for messages.
        maxshape: its greatest shape, which never changes.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.name = describe(dataset)
        self.maxshape: tuple[int | None, ...] = tuple(dataset.maxshape)

    @property
    def remembers(self) -> bool:
        """Whether the dataset goes on showing what it held when it was last looked at, as HDF5's do."""
        return _is_hdf5(self.dataset)

    def refresh(self) -> None:
        """Look at the dataset anew: what others have written since is seen from now on.

        Raises:
            FrameError: HDF5 cannot.

        Redis: none on HDF5 files; MULTI, HGETALL, XREVRANGE, EXEC.
        """
        if not self.remembers:
            self.dataset.refresh()
            return
        _require_single(self.dataset, self.name)
        try:
            self.dataset.refresh()
        except RuntimeError as error:
            raise _unreadable(self.name, error) from error


def given(dataset: Any) -> Handle:
    """Return the handle of a dataset that its user has open.

    Args:
        dataset: as h5py or `FrameFile` has it.
    """
    return _handle(dataset, mine=False)


def opened(file: Any, path: str) -> Any:
    """Return the group, or the handle of the dataset, at a path.

    Raises:
        KeyError: there is none.
        FrameError: HDF5 cannot open it.
    """
    try:
        found = file[path]
    except KeyError as error:
        if _UNREADABLE in str(error):
            raise _unreadable(f"{getattr(file, 'filename', file)}: {path}", error) from error
        raise
    return _handle(found, mine=True) if hasattr(found, "shape") else found


def _handle(dataset: Any, mine: bool) -> Handle:
    """Return the handle of a dataset, made if there is none.

    Args:
        dataset: as h5py or `FrameFile` has it.
        mine: whether it was opened here: it is dropped then if there is a handle already, else it replaces that one's.
    """
    if not _is_hdf5(dataset):
        return Handle(dataset)
    with _lock:
        _handles[:] = [each for each in _handles if (handle := each()) and handle.dataset]  # a closed one is false
        for each in _handles:
            if (handle := each()) and handle.dataset.id == dataset.id:
                handle.dataset = handle.dataset if mine else dataset
                return handle
        handle = Handle(dataset)
        _handles.append(weakref.ref(handle))
    return handle


def _is_hdf5(dataset: Any) -> bool:
    return type(dataset).__module__.startswith("h5py.")


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
            "other handles, or give the one that there is to KeyFollower, DataSource or FrameReader"
        )


def describe(dataset: Any) -> str:
    """Return a dataset's name and file, for messages."""
    file = getattr(getattr(dataset, "file", None), "filename", None)
    name = getattr(dataset, "name", None) or "a dataset"
    return f"{file}: {name}" if file else str(name)
