"""Files that grow while they are read: waiting until there is news, and what ends the wait.

It knows how an open HDF5 file (`h5py.File`, SWMR) and a `FrameFile` are waited for. It must not know keys, nor what a
frame is used for. Invariants:

1. Whether a file is finished is asked before its data are looked at: what was written before the end is never missed.
2. The last look is at the end of the time, not before it.
3. A FrameFile wakes its reader; an HDF5 file is looked at after pauses that grow with the silence, from 2 ms to 0.2 s.
4. A server that went away is waited for, up to the end of the time.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from shareddata.errors import FrameError, ServerTimeout, ServerUnreachable
from shareddata.handles import Handle, given, opened

log = logging.getLogger("shareddata")

SHORTEST, LONGEST = 0.002, 0.2
"""Seconds between two looks at an HDF5 file."""

_SHARE = 0.25  # of the silence so far: news is seen late by a quarter of its distance at the most
_NOTIFIED = 1.0  # seconds to wait for a notification before looking all the same


def file_of(datasets: Iterable[Any]) -> Any:
    """Return the file that datasets are in, the first one's if there are several HDF5 files.

    Raises:
        FrameError: they are of several FrameFiles, of which only one could be waited for.
    """
    files = [dataset.file for dataset in datasets]
    names = sorted({repr(file.filename) for file in files if any(file is not other for other in files)})
    if names and any(map(wakes, files)):
        raise FrameError(
            f"datasets of several frame files, {', '.join(names)}, opened each for itself: follow one file"
        )
    return files[0] if files else None


def wakes(file: Any) -> bool:
    """Tell whether a file wakes its reader, as a `FrameFile` does."""
    return hasattr(file, "wait")


def gone(file: Any) -> bool:
    """Tell whether a file was replaced by a newer generation of its name, or removed."""
    return getattr(file, "state", "") in ("replaced", "removed")


class Finish:
    """What says that nothing more will be written: a finished-dataset, or the end of a FrameFile.

    Args:
        file: an open file, or None.
        dataset: a dataset of one number that becomes other than zero, its path, or None.
    """

    def __init__(self, file: Any, dataset: Any = None) -> None:
        self._file = file
        self._path = dataset if isinstance(dataset, str) else None
        self._handle: Handle | None = None if isinstance(dataset, str) or dataset is None else given(dataset)
        self._told = False

    def __call__(self) -> bool:
        """Look, and tell whether nothing more will be written."""
        return self.ended or self._says()

    @property
    def ended(self) -> bool:
        """Whether a FrameFile has ended, as of its last refresh."""
        return bool(getattr(self._file, "ended", False))

    def _says(self) -> bool:
        if self._path and not self._handle:
            with suppress(KeyError):  # it isn't there yet
                self._handle = opened(self._file, self._path)
        if not self._handle:
            return False
        if self._handle.remembers:
            self._handle.refresh()
        dataset = self._handle.dataset
        if math.prod(dataset.shape) == 1:
            return bool(dataset[(0,) * len(dataset.shape)])
        if not self._told:
            self._told = True
            log.warning("%s: shape %s, a finished-dataset has one number", self._handle.name, dataset.shape)
        return False


class Patience:
    """How long to wait for news of a file, and what ends it.

    Args:
        file: the open file, None for datasets that don't say theirs.
        timeout: seconds, None for ever.
        finish: what says that nothing more comes.
        at_once: whether to end as soon as there is no news.

    Attributes:
        timed_out, finished: why the last wait ended without news.
    """

    def __init__(self, file: Any, timeout: float | None, finish: Finish, at_once: bool = False) -> None:
        self.file = file
        self.timeout = timeout
        self.finish = finish
        self.at_once = at_once
        self.timed_out = False
        self.finished = False

    def reset(self) -> None:
        """Forget how the last wait ended."""
        self.timed_out = self.finished = False

    def refresh(self) -> None:
        """Learn how far a FrameFile reaches now; of an HDF5 file each dataset is looked at by whoever reads it.

        Redis: none on HDF5 files; MULTI, HGETALL, XREVRANGE, EXEC.
        """
        if wakes(self.file):
            self.file.refresh()

    def wait(self, news: Callable[[], bool]) -> bool:
        """Look until there is news.

        Args:
            news: looks, and tells; a FrameFile was refreshed then.

        Returns:
            False when the time is over, or nothing more will come.

        Raises:
            ServerUnreachable, ServerTimeout: the time is over, and the server is away.
        """
        begun = time.monotonic()
        renew: Callable[[], object] = self.refresh
        while True:
            away: Exception | None = None
            try:
                renew()
                self.finished = self.finish()
                if self.finished:
                    self.refresh()  # it may have grown between the last refresh and this answer
                if news():
                    return True
            except (ServerUnreachable, ServerTimeout) as error:
                away = error
            silence = time.monotonic() - begun
            over = self.timeout is not None and silence >= self.timeout
            if away and (over or self.at_once):
                raise away
            self.timed_out = over and not self.finished
            if over or self.at_once or (self.finished and not away):
                return False
            rest = math.inf if self.timeout is None else self.timeout - silence
            renew = self._renewal(silence, rest, away is not None)

    def _renewal(self, silence: float, rest: float, away: bool) -> Callable[[], object]:
        """Pause before the next look, and return what has to be done first then."""
        if wakes(self.file) and not away:
            return lambda: self.file.wait(min(rest, _NOTIFIED))
        time.sleep(min(rest, LONGEST, max(SHORTEST, _SHARE * silence)))
        return self.refresh
