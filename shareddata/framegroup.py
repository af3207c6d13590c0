"""Groups of a frame file: finding what is in them, and making groups and datasets.

It knows paths, and what the arguments of a new dataset mean together. It must not know how a file is opened, chunks in
Redis or transactions. Invariants:

1. A path means one object; the groups on the way to it exist.
2. A dataset that cannot be is refused before anything is sent.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shareddata.codec import numpy
from shareddata.dataset import Dataset
from shareddata.elements import converted, element_type
from shareddata.errors import FieldError
from shareddata.frameaccess import Access
from shareddata.frameattrs import Attributes
from shareddata.framestore import Extent, Layout
from shareddata.framewriter import FrameWriter
from shareddata.grid import default_chunks

KEEP_BYTES = 128 * 1024 * 1024
"""Bytes of a dataset that are kept when its maker does not say how many chunks."""

_KEEP_LEAST, _KEEP_MOST = 4, 2**20
_CHUNK_LARGEST = 2**29  # the server's limit for a value


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
    def file(self) -> Any:
        """The frame file that it is in."""
        return self._file

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


def keep_of(keep: int | None, chunk_bytes: int, what: str) -> int:
    """Return how many chunks are kept.

    Raises:
        FieldError: less than one was wanted.
    """
    if keep is None:
        return min(max(_KEEP_LEAST, KEEP_BYTES // chunk_bytes), _KEEP_MOST)
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
        raise FieldError(f"{what}: keep is {keep!r}, expected a number of chunks from 1 on")
    return keep
