"""Frame files: growing arrays in Redis, or beside it, used like an HDF5 file.

It knows what users of h5py expect of a file and its groups, and hands out frame files as they are created. It must not
know chunks, keys in Redis or transactions. Invariants:

1. A file that is open for reading changes nothing.
2. Each open file has its own connection, and belongs to one thread at a time.
3. What is read of a file is of one generation: when its name is created anew, it ends.

    >>> with FrameFile("scan_7", shm, "w", metadata={"sample": "Si"}) as file:
    ...     data = file.create_dataset("data", shape=(0, 2, 3), maxshape=(None, 2, 3), dtype="u2")
    ...     keys = file.create_dataset("keys/key_1", shape=(0, 1, 1), maxshape=(None, 1, 1), dtype="i8")
    ...     with file.together():
    ...         index = data.append([[1, 2, 3], [4, 5, 6]])
    ...         index = keys.append(index + 1)
    ...     file.seal()
    >>> with FrameFile("scan_7", shm) as file:
    ...     file["data"][0].tolist(), file["keys/key_1"].shape, file.attrs["sample"], file.sealed
    ([[1, 2, 3], [4, 5, 6]], (1, 1, 1), 'Si', True)
"""

import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from shareddata import framefiles, memory
from shareddata.codec import numpy
from shareddata.dataset import Dataset
from shareddata.errors import ServerTimeout, ServerUnreachable, UnknownData
from shareddata.frameaccess import Access
from shareddata.frameattrs import Attributes, attributes, attributes_text
from shareddata.framefiles import FILES, Info, files, remove
from shareddata.framegroup import Group
from shareddata.framestore import SEALED, WRITING, FrameStore
from shareddata.framewriter import FrameWriter
from shareddata.large import LargeValues
from shareddata.memory import SharedMemory
from shareddata.place import Place

__all__ = ["FILES", "Attributes", "Created", "Dataset", "FrameFile", "Group", "Info", "created", "files", "remove"]

_BLOCK = 1.0  # seconds, or half of the time-out


class FrameFile(Group):
    """A frame file: groups and growing datasets, written by one program, read by many while they grow.

    Args:
        name: letters, digits and `_.-/`.
        shm: the shared memory; without it this process's own one at the default address.
        mode: `r` reads, `w` creates (a file of this name is replaced, and its readers' end), `x` and `w-` create what
            is not there, `r+` goes on writing what is there (another writer of it can't any more), `a` does that or
            creates.
        metadata: the file's attributes, there from the beginning on; for the modes that create.
        generation: for reading: a certain generation instead of the newest.

    Raises:
        UnknownData: there is no such file; the message names near ones.
        FileExistsError: mode `x`: there is one.

    A context manager; it belongs to one thread at a time. In a forked child it can be read on, and not written.

    Redis: GET; MULTI, HGETALL, XREVRANGE, EXEC; those of `framefiles.create` and `take_over`.
    """

    def __init__(
        self,
        name: str,
        shm: SharedMemory | None = None,
        mode: str = "r",
        *,
        metadata: Mapping[str, Any] | None = None,
        generation: str | None = None,
    ) -> None:
        if isinstance(shm, str):
            raise TypeError(f"FrameFile({name!r}, {shm!r}): the second argument is a SharedMemory: write mode={shm!r}")
        if mode not in ("r", "r+", "a", "w", "w-", "x"):
            raise ValueError(f"FrameFile({name!r}): mode is {mode!r}, expected 'r', 'r+', 'a', 'w', 'w-' or 'x'")
        numpy()
        self._name = name
        self.mode = mode if mode == "r" else "r+"
        memory_used = memory.default(shm)
        text = attributes_text(attributes(metadata), f"frame file {name!r}")
        access = Access(*_opened(memory_used, name, mode, text, generation))
        super().__init__(None, access, "/")  # not itself: what nobody refers to is closed at once
        memory_used.attach(self)

    @property
    def file(self) -> "FrameFile":
        """The file itself."""
        return self

    def __repr__(self) -> str:
        return f"<FrameFile {self._name!r} (mode {self.mode}{', closed' if self._access.closed else ''})>"

    def __enter__(self) -> "FrameFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def filename(self) -> str:
        """The name that it was opened by."""
        return self._name

    @property
    def generation(self) -> str:
        """Which creation of the name this is."""
        return self._access.store.generation

    @property
    def metadata(self) -> dict[str, Any]:
        """The attributes of the file."""
        return dict(self.attrs)

    @property
    def created(self) -> float:
        """When it was created, in seconds since 1970."""
        return self._access.store.description.created

    @property
    def state(self) -> str:
        """As of the last `refresh` or `wait`: `writing`, `sealed`, `replaced` by a newer one, or `removed`."""
        return self._access.store.description.state

    @property
    def sealed(self) -> bool:
        """Whether its writer said that no more will come, as of the last `refresh` or `wait`."""
        return self.state == SEALED

    @property
    def ended(self) -> bool:
        """Whether no more will come: it was sealed, replaced or removed, as of the last `refresh` or `wait`."""
        return self.state != WRITING

    @property
    def swmr_mode(self) -> bool:
        """True: it may always be read while it is written. Setting it, as h5py's writers do, changes nothing."""
        return True

    @swmr_mode.setter
    def swmr_mode(self, value: bool) -> None:
        if not value:
            raise ValueError(f"{self._access.store.subject}: a frame file can always be read while it is written")

    def refresh(self) -> None:
        """Learn what there is now, how far the datasets reach, and the state.

        Redis: MULTI, HGETALL, XREVRANGE, EXEC.
        """
        self._access.refresh()

    def wait(self, seconds: float) -> bool:
        """Wait until something is written after the last `refresh` or `wait`, then refresh.

        Args:
            seconds: for how long at most.

        Returns:
            False when nothing was written in that time; True at once when the file has ended.

        Raises:
            ServerUnreachable, ServerTimeout: the server is away; a later call goes on.

        Redis: XREAD; MULTI, HGETALL, XREVRANGE, EXEC.
        """
        self._access.check_open()
        if self._access.writer is not None:
            raise ValueError(f"{self._access.store.subject}: it is open for writing: open it again to wait for news")
        if self.ended:
            return True
        if not self._access.store.wait(seconds):
            return False
        self._access.refresh()
        return True

    def together(self) -> AbstractContextManager[None]:
        """Return the context of one transaction: all that is written in it is seen at once, or nothing.

            >>> with FrameFile("scan_8", shm, "w") as file:
            ...     with file.together():
            ...         data = file.create_dataset("data", data=[[1, 2], [3, 4]])
            ...         data.attrs["unit"] = "V"

        Arrays are copied meanwhile. An exception in the block drops all of it.

        Redis: MULTI, HSET, XADD, EXEC, at its end.
        """
        return self._access.writing().together()

    def flush(self) -> None:
        """Do nothing: what is written is visible to all when the assignment, or the `together` block, is over."""

    def seal(self) -> None:
        """Say that no more will come: followers end when they have read what there is.

        Redis: MULTI, HSET, XADD, EXEC.
        """
        writer = self._access.writing()
        writer.describe("state", "", SEALED.encode())
        writer.settle()

    def close(self) -> None:
        """Close the connection; nothing is written. What is open for reading elsewhere stays so."""
        self._access.closed = True
        self._access.store.connection.close()


def _opened(
    shm: SharedMemory, name: str, mode: str, metadata: bytes, generation: str | None
) -> tuple[FrameStore, FrameWriter | None]:
    """Open or create a generation."""
    large = LargeValues(shm)
    if mode in ("w", "w-", "x"):
        return framefiles.create(shm, name, large, metadata, only_new=mode != "w")
    store = FrameStore(shm, name)
    try:
        while True:
            store.use(generation or framefiles.current(shm, name, store.connection))
            if mode != "r":
                return store, framefiles.take_over(store, large)
            store.refresh()
            if store.description.state in (WRITING, SEALED):
                return store, None
            if generation:
                raise UnknownData(f"{store.subject}: its generation {generation} was {store.description.state}")
    except UnknownData:
        store.connection.close()
        if mode != "a":
            raise
        return framefiles.create(shm, name, large, metadata, only_new=False)
    except BaseException:
        store.connection.close()
        raise


class Created:
    """An iterator over frame files as they are created, each open for reading. Made by `created`.

    It belongs to one thread at a time; a context manager. The files are the caller's to close.

    Attributes:
        missed: files that were replaced or removed before they could be handed out.

    Redis: XREAD; MULTI, XRANGE, XINFO STREAM, EXEC; those of `FrameFile`.
    """

    def __init__(self, shm: SharedMemory, since: float | str | None = None, timeout: float | None = None) -> None:
        self._shm = shm
        self._timeout = timeout
        self._key = shm.keys.frame_files()
        self._place = Place(self._key, "the list of frame files")
        self._buffer: deque[framefiles.Listed] = deque()
        self._vanished = 0
        self._connection = shm.connect("shareddata frame files")
        try:
            self._connection.open()
            self._place.begin(self._connection, since)
        except BaseException:
            self._connection.close()
            raise
        shm.attach(self)

    def __repr__(self) -> str:
        return f"<Created frame files, at {self._place.id}: {self.missed} missed>"

    def __iter__(self) -> "Created":
        return self

    def __enter__(self) -> "Created":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def missed(self) -> int:
        """How many files were replaced or removed before they could be handed out."""
        return self._place.missed + self._vanished

    def close(self) -> None:
        """Close the connection; the next step of the iteration would open another one."""
        self._connection.close()

    def __next__(self) -> FrameFile:
        """Return the next file, waiting for it.

        Raises:
            StopIteration: none was created for `timeout` seconds.
            ServerUnreachable, ServerTimeout: with a timeout only: the server is away.
        """
        end = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            if not self._buffer:
                self._fill(end)
                continue
            each = self._buffer.popleft()
            try:
                return FrameFile(each.name, self._shm, generation=each.generation)
            except UnknownData:
                self._vanished += 1

    def _fill(self, end: float | None) -> None:
        over = end is not None and time.monotonic() >= end
        try:
            self._connection.open()
            self._connection.settle()
            if self._place.behind:
                self._buffer += map(framefiles.entry, self._place.catch_up(self._connection))
            elif over:
                raise StopIteration
            else:
                self._wait(end)
        except (ServerUnreachable, ServerTimeout):
            self._place.behind = True
            if over:
                raise

    def _wait(self, end: float | None) -> None:
        """Wait in the server for the next entry, a second at most.

        Redis: XREAD.
        """
        pause = min(_BLOCK, self._shm.timeout / 2, _BLOCK if end is None else end - time.monotonic())
        block = max(1, int(1000 * pause))
        if self._connection.ask("XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", self._key, self._place.id):
            self._place.behind = True


def created(shm: SharedMemory | None = None, since: float | str | None = None, timeout: float | None = None) -> Created:
    """Return an iterator over frame files as they are created, each open for reading.

    Args:
        shm: the shared memory; without it this process's own one at the default address.
        since: None from now on, 0 those that there are first, seconds since 1970 those created since then.
        timeout: seconds without a new file after which the iteration ends, None for never.

    Redis: see `Created`.
    """
    return Created(memory.default(shm), since, timeout)
