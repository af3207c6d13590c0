"""Archiving frame files: each that is created becomes an HDF5 file, copied while it grows.

It knows which frame files there are, which were archived already, and what to do when the disk or the server fails. It
must not know what is in them (`framemirror`), nor what a name is made of. Invariants:

1. A generation of a frame file becomes one HDF5 file; what an earlier process has copied stays in it.
2. Which one is noted in Redis before the file has its name; that it is whole is noted until the frame file is gone.
3. Each file has a thread and a connection of its own: one that stalls holds up no other.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shareddata import framefiles
from shareddata.datadict import DataDict
from shareddata.errors import ServerError, ServerTimeout, ServerUnreachable, SharedDataError
from shareddata.framemirror import Mirror
from shareddata.frames import FrameFile, created
from shareddata.ledger import Ledger
from shareddata.memory import SharedMemory
from shareddata.occupied import check_left
from shareddata.subscription import selects
from shareddata.wholefile import Draft, numbered

log = logging.getLogger("shareddata")

_LISTEN = 0.25  # seconds that news are waited for at once: so soon a stop is noticed
_WAIT = 1.0  # seconds between two tries
_NOTE = "frames:"


class FrameArchive:
    """Copies frame files into HDF5 files, until it is stopped.

    Args:
        shm: the shared memory.
        name: the archiver's.
        selector: which frame files: a name, or a pattern.
        keys: paths of groups of key datasets, or of key datasets.
        path_of: returns the path of a file's HDF5 file, of its name and metadata.
        root: the folder that paths stay below.
        records: names of records that are noted at each file's start and end.
        compression: a filter of h5py; None for none.
        told: called with the path for each frame that was copied, in several threads.

    Redis: as `created`, `FrameFile` and `Ledger`.
    """

    def __init__(
        self,
        shm: SharedMemory,
        name: str,
        selector: str,
        keys: str | Sequence[str],
        path_of: Callable[[str, Mapping[str, Any]], str],
        root: str,
        records: Sequence[str],
        compression: str | None,
        told: Callable[[str], None],
    ) -> None:
        self._shm, self._name, self._selector, self._keys = shm, name, selector, keys
        self._path_of, self._root, self._told = path_of, root, told
        self._records, self._compression = list(records), compression
        self._stop = threading.Event()
        self._copying: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._watch, name=f"frame files for {name}", daemon=True)
        self._files = created(shm, since=0, timeout=_LISTEN)
        self._thread.start()

    def stop(self) -> None:
        """Copy what is complete, and end."""
        self._stop.set()
        self._thread.join()
        for thread in self._copying:
            thread.join()
        self._files.close()

    def _watch(self) -> None:
        """Begin to copy each file that is created."""
        ledger = Ledger(self._shm, f"{self._name}")
        try:
            self._forget(ledger)
            stopping = False
            while not stopping:
                stopping = self._stop.is_set()  # once more after it, for what was created until then
                try:
                    whole = ledger.completed(_NOTE)
                    for file in self._files:
                        self._begin(file, whole)
                except (ServerUnreachable, ServerTimeout):
                    self._stop.wait(_LISTEN)
                except SharedDataError as error:
                    log.error("archiver %s: frame files cannot be listed: %s: trying again", self._name, error)
                    self._stop.wait(_WAIT)
        finally:
            ledger.close()

    def _begin(self, file: FrameFile, whole: set[str]) -> None:
        if _note_of(file) in whole or not selects(self._selector, file.filename):
            file.close()
            return
        thread = threading.Thread(target=self._copy, args=(file,), name=f"copy of {file.filename}", daemon=True)
        self._copying = [each for each in self._copying if each.is_alive()] + [thread]
        thread.start()

    def _forget(self, ledger: Ledger) -> None:
        """Drop notes of frame files that are gone."""
        there = {f"{_NOTE}{info.name}@{info.generation}" for info in framefiles.files(self._shm)}
        ledger.forget(ledger.completed(_NOTE) - there)

    # -- one file -------------------------------------------------------------------------------------------------

    def _copy(self, file: FrameFile) -> None:
        """Copy a file to its end; what fails is tried again."""
        ledger, told = Ledger(self._shm, self._name), ""
        try:
            while True:
                try:
                    return self._copy_once(file, ledger)
                except BlockingIOError:
                    log.error("archiver %s: another process of this name copies %s", self._name, file.filename)
                    return
                except (OSError, RuntimeError, SharedDataError) as error:
                    if str(error) != told:
                        log.error("archiver %s: %s: %s: trying again", self._name, file.filename, error)
                    told = str(error)
                    if self._stop.wait(_WAIT):
                        return
        finally:
            file.close()
            ledger.close()

    def _copy_once(self, file: FrameFile, ledger: Ledger) -> None:
        records = [self._shm.describe(name) for name in self._records]
        mirror = Mirror(file, self._keys, records, self._compression)
        while not mirror.ready:
            if file.ended or self._stop.is_set():
                return
            file.wait(_LISTEN)
        try:
            path = self._open(file, mirror, ledger)
            self._follow(file, mirror, path)
            if mirror.missed:
                log.error("archiver %s: %s: %d frames were trimmed before they could be copied: give the frame file a "
                          "greater keep", self._name, path, mirror.missed)  # fmt: skip
            self._note(mirror)
            mirror.finish()
            if mirror.ended:
                ledger.complete(_note_of(file), path)
        finally:
            mirror.close()

    def _open(self, file: FrameFile, mirror: Mirror, ledger: Ledger) -> str:
        """Make the HDF5 file and give it its name, or go on with what an earlier process has made."""
        note = _note_of(file)
        before = ledger.notes(note).get(note)
        if before is not None:
            try:
                check_left(before)
                with Draft("/", before, None, f"{self._name} frames", again=True) as draft:
                    mirror.begin(draft.path, before)
                    draft.replace(before)
                return before
            except FileNotFoundError:
                ledger.release(note, before)  # it never got its name, or somebody took it away
        wanted = self._path_of(file.filename, file.metadata)
        with Draft(self._root, wanted, None, f"{self._name} frames", again=True) as draft:
            mirror.begin(draft.path)
            self._note(mirror)
            for name in numbered(wanted):
                if draft.exists(name) or not ledger.claim(None, note, name):
                    continue
                if draft.publish(name, noted=False):
                    return name
                ledger.release(note, name)
        raise AssertionError("there is always another number")

    def _follow(self, file: FrameFile, mirror: Mirror, path: str) -> None:
        """Copy frames as they come, until the file has ended or the archiver is stopped."""
        while True:
            try:
                copied = mirror.copied
                if mirror.step():
                    if mirror.copied > copied:
                        self._told(path)
                    continue
                if mirror.ended or self._stop.is_set():
                    return
                file.wait(_LISTEN)
            except (ServerUnreachable, ServerTimeout):
                if self._stop.wait(_LISTEN):
                    return

    def _note(self, mirror: Mirror) -> None:
        if not self._records:
            return
        try:
            with DataDict(f"archiver-{self._name}", self._shm) as dd:
                dd.set_datas_to_read(self._records)
                mirror.note(dd.read(fresh=True))
        except ServerError as error:
            log.warning("archiver %s: records are not noted: %s", self._name, error)


def _note_of(file: FrameFile) -> str:
    return f"{_NOTE}{file.filename}@{file.generation}"
