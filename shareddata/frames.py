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

import difflib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from shareddata import framefiles, memory
from shareddata.codec import numpy
from shareddata.dataset import (
    Access,
    Attributes,
    Dataset,
    attributes,
    attributes_text,
    converted,
    element_type,
    keep_of,
)
from shareddata.errors import FieldError, ServerTimeout, ServerUnreachable, UnknownData
from shareddata.framefiles import FILES, Info, files, remove
from shareddata.framestore import SEALED, WRITING, Extent, FrameStore, Layout
from shareddata.framewriter import FrameWriter
from shareddata.grid import default_chunks
from shareddata.large import LargeValues
from shareddata.memory import SharedMemory
from shareddata.stream import Place

__all__ = ["FILES", "Attributes", "Created", "Dataset", "FrameFile", "Group", "Info", "created", "files", "remove"]

_CHUNK_LARGEST = 2**29  # the server's limit for a value
_BLOCK = 1.0  # seconds, or half of the time-out


class Group(Mapping[str, Any]):
    """A group of a frame file: a mapping from names to groups and datasets, sorted by name.

    What there is is as of the file's last `refresh`.

    Args:
        file: the frame file.
        access: what it reads and writes through.
        path: the absolute path.
    """

    def __init__(self, file: Any, access: Access, path: str) -> None:
        self._file = file
        self._access = access
        self._path = path

    def __repr__(self) -> str:
        return f"<Group {self._path}: {len(self)} members>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and (self._access, self._path) == (other._access, other._path)

    def __hash__(self) -> int:
        return hash((id(self._access), self._path))

    def __bool__(self) -> bool:
        """Tell whether its file is open, as h5py does."""
        return not self._access.closed

    @property
    def id(self) -> bool:
        """Whether its file is open: all that h5py's users ask of an `id`."""
        return not self._access.closed

    @property
    def name(self) -> str:
        """The absolute path."""
        return self._path

    @property
    def file(self) -> "FrameFile":
        """The frame file that it is in."""
        found: FrameFile = self._file
        return found

    @property
    def parent(self) -> "Group":
        """The group that it is in; the root's is the root."""
        found: Group = self.file[self._path.rpartition("/")[0] or "/"]
        return found

    @property
    def attrs(self) -> Attributes:
        """The group's attributes."""
        return Attributes(self._access, self._path)

    # -- looking ------------------------------------------------------------------------------------------------------

    def _absolute(self, path: Any) -> str:
        if not isinstance(path, str):
            raise TypeError(f"{self._access.store.subject}: {path!r} is no path: give a name like 'keys/key_1'")
        start = "" if path.startswith("/") else self._path
        return "/" + "/".join(part for part in f"{start}/{path}".split("/") if part not in ("", "."))

    def __getitem__(self, path: str) -> Any:
        """Return the group or dataset at a path.

        Raises:
            KeyError: there is none; the message names near ones.
        """
        self._access.check_open()
        absolute = self._absolute(path)
        description = self._access.store.description
        if absolute in description.extents and absolute in description.layouts:
            return Dataset(self.file, self._access, absolute)
        if absolute in description.groups:
            return self.file if absolute == "/" else Group(self.file, self._access, absolute)
        near = difflib.get_close_matches(absolute, [*description.layouts, *description.groups], 3)
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        raise KeyError(f"{self._access.store.subject}: there is no {absolute}{hint}")

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, str):
            return False
        description, absolute = self._access.store.description, self._absolute(path)
        return absolute in description.groups or absolute in description.layouts

    def __iter__(self) -> Iterator[str]:
        self._access.check_open()
        description = self._access.store.description
        begin = self._path.rstrip("/") + "/"
        paths = [path[len(begin) :] for path in (*description.groups, *description.layouts) if path.startswith(begin)]
        return iter(sorted(path for path in paths if path and "/" not in path))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def visititems(self, function: Callable[[str, Any], Any]) -> Any:
        """Call a function with the path and the object of everything below this group, until it returns something.

        Args:
            function: gets the path from this group, and the group or dataset.
        """
        for name in self:
            found = self[name]
            result = function(name, found)
            if result is None and isinstance(found, Group):
                below = found.visititems(lambda path, each, name=name: function(f"{name}/{path}", each))  # type: ignore[misc]
                result = below
            if result is not None:
                return result
        return None

    def visit(self, function: Callable[[str], Any]) -> Any:
        """Call a function with the path of everything below this group, until it returns something."""
        return self.visititems(lambda path, _: function(path))

    # -- making -------------------------------------------------------------------------------------------------------

    def create_group(self, name: str) -> "Group":
        """Make a group, and those on the way to it.

        Raises:
            ValueError: there is something of this name, or the file is open for reading.

        Redis: MULTI, HSET, XADD, EXEC.
        """
        writer = self._access.writing()
        absolute = self._new(name)
        self._make_groups(writer, absolute)
        writer.settle()
        return Group(self.file, self._access, absolute)

    def require_group(self, name: str) -> "Group":
        """Return a group, made if there is none."""
        found = self[name] if name in self else self.create_group(name)
        if not isinstance(found, Group):
            raise TypeError(f"{self._access.store.subject}: {found.name} is a dataset, expected a group")
        return found

    def create_dataset(
        self,
        name: str,
        shape: int | Sequence[int] | None = None,
        dtype: Any = None,
        data: Any = None,
        maxshape: int | Sequence[int | None] | None = None,
        chunks: Sequence[int] | bool | None = None,
        keep: int | None = None,
    ) -> Dataset:
        """Make a dataset, and the groups on the way to it.

        Args:
            name: its path.
            shape: the number of elements in each dimension; that of `data` if None.
            dtype: the type of its elements: numbers or bools; that of `data`, or `f4`, if None.
            data: what is written into it at once.
            maxshape: how far it may grow, None in a dimension without an end; `shape` if None.
            chunks: the shape of what is stored together. If None a frame, the last two dimensions (three of pictures
                with colours, one of two); smaller frames share a chunk of 1 KiB, unless `keep` is given.
            keep: how many chunks are kept, those that were written last: with the default chunks, how many frames. If
                None as many as fit into 128 MiB.

        Raises:
            ValueError: there is something of this name, or the file is open for reading.
            FieldError: the arguments don't fit each other; nothing was made.

        Redis: MULTI, HSET, XADD, EXEC.
        """
        writer = self._access.writing()
        absolute = self._new(name)
        what = f"{self._access.store.subject}, dataset {absolute}"
        source = None if data is None else numpy().asarray(data)
        elements = element_type("f4" if source is None else source.dtype, what) if dtype is None else None
        elements = elements if dtype is None else element_type(dtype, what)
        extent = _shape(shape, what) if shape is not None else source.shape if source is not None else None
        if extent is None:
            raise FieldError(f"{what}: neither shape nor data were given")
        layout = _layout(absolute, extent, elements, maxshape, chunks, keep, what)
        values = None if source is None else _reshaped(converted(data, elements, what), extent, what)
        with writer.together(at_once=True):
            parent = absolute.rpartition("/")[0]
            if parent:
                self._make_groups(writer, parent)
            writer.describe("dataset", absolute, layout.as_json())
            writer.extend(absolute, Extent(extent))
            made = Dataset(self.file, self._access, absolute)
            if values is not None and values.size:
                made[...] = values
        return made

    def _new(self, name: str) -> str:
        absolute = self._absolute(name)
        if absolute in self or absolute == "/":
            raise ValueError(f"{self._access.store.subject}: there is {absolute} already")
        return absolute

    def _make_groups(self, writer: FrameWriter, path: str) -> None:
        description = self._access.store.description
        parts = path.strip("/").split("/")
        for end in range(1, len(parts) + 1):
            group = "/" + "/".join(parts[:end])
            if group in description.layouts:
                raise ValueError(f"{self._access.store.subject}: {group} is a dataset, expected a group")
            if group not in description.groups:
                writer.describe("group", group, b"{}")


def _shape(shape: Any, what: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in ((shape,) if not isinstance(shape, Sequence) else shape))
    except (TypeError, ValueError):
        raise FieldError(f"{what}: {shape!r} is no shape") from None
    if any(number < 0 for number in numbers):
        raise FieldError(f"{what}: the shape {numbers} has a negative length")
    return numbers


def _reshaped(values: Any, shape: tuple[int, ...], what: str) -> Any:
    try:
        return values.reshape(shape)
    except ValueError:
        raise FieldError(f"{what}: data of the shape {values.shape}, expected {shape}") from None


def _layout(
    path: str, shape: tuple[int, ...], dtype: Any, maxshape: Any, chunks: Any, keep: int | None, what: str
) -> Layout:
    largest: tuple[int | None, ...] = shape
    if maxshape is not None:
        largest = tuple(maxshape) if isinstance(maxshape, Sequence) else (maxshape,)
    if len(largest) != len(shape) or any(most is not None and most < size for most, size in zip(largest, shape)):
        raise FieldError(f"{what}: maxshape {largest} for the shape {shape}")
    largest = tuple(None if most is None else int(most) for most in largest)
    if chunks is None or isinstance(chunks, bool):
        parts = default_chunks(shape, largest, dtype.itemsize, single=keep is not None)
    else:
        parts = _shape(chunks, what)
        if len(parts) != len(shape) or 0 in parts:
            raise FieldError(f"{what}: chunks {parts} for the shape {shape}")
    size = dtype.itemsize * math.prod(parts)
    if size > _CHUNK_LARGEST:
        raise FieldError(f"{what}: chunks of {size} bytes, expected {_CHUNK_LARGEST} at most: give smaller `chunks`")
    return Layout(path, dtype.str, dtype.itemsize, largest, parts, keep_of(keep, size, what))


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
        self._connection.listening = True
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
