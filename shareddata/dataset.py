"""A dataset of a frame file, as h5py's users know it: shape, slices in both directions, resize, attributes.

It knows how indices, chunks and arrays go together. It must not know keys in Redis or who may write. Invariants:

1. An assignment is one transaction: whoever reads sees all of it or nothing.
2. What was never written reads as zero; what is not kept any more raises.
3. An array that is exactly one chunk is read without a copy, and is read-only; any other is the reader's own.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from shareddata.codec import numpy
from shareddata.elements import converted
from shareddata.errors import FieldError
from shareddata.frameaccess import Access
from shareddata.frameattrs import Attributes
from shareddata.framestore import Extent
from shareddata.framewriter import FrameWriter
from shareddata.grid import Piece, Selection, Shape, covers, cut, select


class Dataset:
    """An array in a frame file, made by `create_dataset` and found by `file["group/name"]`.

    It is read and written by numpy's basic indices: integers, slices, `...`, `()`. See the module's head for what is
    guaranteed. A number of frames is read with one question: `dataset[10:20]`.

    Shapes are as of the last `refresh`, of the file or of any of its datasets; elements are always read from Redis.

    Args:
        file: the frame file.
        access: what it reads and writes through.
        path: the absolute path.
    """

    def __init__(self, file: Any, access: Access, path: str) -> None:
        self.file = file
        self._access = access
        self.name = path
        self._layout = access.store.description.layouts[path]
        self._dtype = numpy().dtype(self._layout.dtype)
        self._what = f"{access.store.subject}, dataset {path}"

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: shape {self.shape}, type {self.dtype.str}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dataset) and (self._access, self.name) == (other._access, other.name)

    def __hash__(self) -> int:
        return hash((id(self._access), self.name))

    def __bool__(self) -> bool:
        """Tell whether its file is open, as h5py does."""
        return not self._access.closed

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def _extent(self) -> Extent:
        return self._access.store.description.extents[self.name]

    @property
    def shape(self) -> Shape:
        """The number of elements in each dimension."""
        return self._extent.shape

    @property
    def dtype(self) -> Any:
        """Numpy's type of the elements, little-endian."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self._layout.chunks)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self._layout.itemsize

    @property
    def maxshape(self) -> tuple[int | None, ...]:
        """The greatest shape, None in a dimension that grows without end."""
        return self._layout.maxshape

    @property
    def chunks(self) -> Shape | None:
        """The shape of a chunk, what is stored and kept together; None without dimensions."""
        return self._layout.chunks or None

    @property
    def keep(self) -> int:
        """How many chunks are kept, those that were written last."""
        return self._layout.keep

    @property
    def fillvalue(self) -> Any:
        """What elements are that were never written."""
        return self._dtype.type(0)

    @property
    def attrs(self) -> "Attributes":
        """The dataset's attributes."""
        return Attributes(self._access, self.name)

    @property
    def parent(self) -> Any:
        """The group that it is in."""
        return self.file[self.name.rpartition("/")[0] or "/"]

    def left(self) -> list[Shape]:
        """Return the first index of each chunk that is there, in order.

        Redis: HKEYS.
        """
        chunks = self._access.store.chunks(self._layout)
        return [tuple(n * length for n, length in zip(chunk, self._layout.chunks)) for chunk in chunks]

    def stored(self, index: int | Sequence[int]) -> bool:
        """Tell whether the chunk that holds an element is there: written, and kept.

        Args:
            index: of the element; of the last dimensions 0 where it is shorter.

        Raises:
            IndexError: it is out of range.

        Redis: HEXISTS.
        """
        place = tuple(index) if isinstance(index, Sequence) else (index,)
        ranges = select(self.shape, (*place, *(0,) * (self.ndim - len(place))), self._what).ranges
        self._access.check_open()
        return self._access.store.has(self._layout, tuple(r[0] // size for r, size in zip(ranges, self._layout.chunks)))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self._what}: it has no dimensions")
        return self.shape[0]

    def refresh(self) -> None:
        """Learn how far this and the file's other datasets reach now.

        Redis: MULTI, HGETALL, XREVRANGE, EXEC.
        """
        self._access.refresh()

    def flush(self) -> None:
        """Do nothing: an assignment is visible to all when it returns."""

    # -- reading ------------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        """Return a part of the array, as numpy does.

        Raises:
            IndexError: an integer is out of range.
            NoSuchFrame: a part of it is not kept any more; the message says what is left.
            NoMoreFrames: the file was replaced or removed.

        Redis: HMGET.
        """
        selection = select(self.shape, index, self._what)
        pieces = list(selection.pieces(self._layout.chunks))
        arrays = self._access.read(self._layout, [piece.chunk for piece in pieces])
        if len(pieces) == 1 and arrays[0] is not None and covers(pieces[0], self._layout.chunks):
            result = arrays[0] if arrays[0].flags.writeable is False else arrays[0].copy()
        else:
            result = numpy().zeros(selection.full, self._dtype)
            for piece, array in zip(pieces, arrays):
                if array is not None:
                    result[piece.outside] = array[piece.inside]
        return result.reshape(selection.shape) if selection.shape else result.reshape(-1)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = numpy().asarray(self[...])
        return array if dtype is None else array.astype(dtype)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    # -- writing ------------------------------------------------------------------------------------------------------

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write a part of the array in one transaction, or with the others of a `file.together()` block.

        Writing whole chunks needs no reading. Writing the same again after an error of unknown outcome is harmless.

        Raises:
            IndexError: an integer is out of range; `resize` first, or `append`.
            FieldError: the value's shape or type does not fit; nothing was written.
            WriterConflict: another program is the writer now.

        Redis: MULTI, HSET, XADD, EXEC.
        """
        writer = self._access.writing()
        selection = select(self.shape, index, self._what)
        self._stage(writer, selection, value)
        writer.settle()

    def append(self, value: Any) -> int:
        """Lengthen the first dimension by one and write there, in one transaction; return the new index.

        Redis: MULTI, HSET, XADD, EXEC.
        """
        with self._access.writing().together(at_once=True):
            index = len(self)
            self.resize(index + 1, axis=0)
            self[index] = value
        return index

    def _stage(self, writer: FrameWriter, selection: Selection, value: Any) -> None:
        array = self._fitted(value, selection)
        pieces = list(selection.pieces(self._layout.chunks))
        writer.check_room(self._layout, len(pieces))
        staged = []
        for piece in pieces:
            part = array[piece.outside]
            if covers(piece, self._layout.chunks):
                staged.append((piece.chunk, self._kept_as_is(part, writer)))
            else:
                staged.append((piece.chunk, self._merged(writer, piece, part)))
        for chunk, whole in staged:
            writer.stage(self._layout, chunk, whole)

    def _kept_as_is(self, part: Any, writer: FrameWriter) -> Any:
        """Return a whole chunk's elements, contiguous; the caller's own array only where it is written at once."""
        return writer.copied(self._layout, part) if writer.grouping else numpy().ascontiguousarray(part)

    def _merged(self, writer: FrameWriter, piece: Piece, part: Any) -> Any:
        """Return a chunk's elements with a part of them replaced.

        Redis: HMGET for a chunk that is there and is not the one written last.
        """
        whole = writer.part(self._layout, piece.chunk)
        if whole is None:
            there = self._access.read(self._layout, [piece.chunk])[0]
            whole = numpy().zeros(self._layout.chunks, self._dtype) if there is None else there.copy()
            writer.begin_part(self._layout, piece.chunk, whole)
        whole[piece.inside] = part
        return whole

    def _fitted(self, value: Any, selection: Selection) -> Any:
        """Return a value as an array of the selection's full shape.

        Raises:
            FieldError: its shape or type does not fit.
        """
        array = converted(value, self._dtype, self._what)
        while array.ndim > len(selection.shape) and array.shape[0] == 1:
            array = array[0]
        try:
            return numpy().broadcast_to(array, selection.shape).reshape(selection.full)
        except ValueError:
            raise FieldError(
                f"{self._what}: a value of the shape {array.shape} for a selection of the shape {selection.shape}"
            ) from None

    def resize(self, size: int | Sequence[int], axis: int | None = None) -> None:
        """Change the shape, within `maxshape`. What is cut off is gone; what is new reads as zero.

        Args:
            size: the new shape, or the new length of one dimension.
            axis: which one.

        Raises:
            FieldError: it is beyond `maxshape`, or has another number of dimensions.

        Redis: MULTI, HSET, HDEL, XADD, EXEC.
        """
        writer = self._access.writing()
        shape = self._new_shape(size, axis)
        before, gone = self._extent
        if shape == before:
            return
        if any(new < old for new, old in zip(shape, before)):
            for chunk in writer.remove_outside(self._layout, shape):
                rest = cut(shape, self._layout.chunks, chunk)
                if rest is not None and rest != cut(before, self._layout.chunks, chunk):
                    self._blank(writer, chunk, rest)
        writer.extend(self.name, Extent(shape, gone))
        writer.settle()

    def _new_shape(self, size: int | Sequence[int], axis: int | None) -> Shape:
        numbers = [*self.shape] if axis is not None else [int(n) for n in size]  # type: ignore[union-attr]
        if axis is not None:
            if not -self.ndim <= axis < self.ndim:
                raise FieldError(f"{self._what}: there is no dimension {axis}, there are {self.ndim}")
            numbers[axis] = int(size)  # type: ignore[arg-type]
        fits = len(numbers) == self.ndim and all(
            number >= 0 and (largest is None or number <= largest) for number, largest in zip(numbers, self.maxshape)
        )
        if not fits:
            raise FieldError(f"{self._what}: it cannot have the shape {tuple(numbers)}: maxshape is {self.maxshape}")
        return tuple(numbers)

    def _blank(self, writer: FrameWriter, chunk: Shape, rest: tuple[slice, ...]) -> None:
        """Stage a chunk of which only a part remains within the array: the rest becomes zero."""
        whole = numpy().zeros(self._layout.chunks, self._dtype)
        known = writer.part(self._layout, chunk)
        there = known if known is not None else self._access.read(self._layout, [chunk])[0]
        if there is not None:
            whole[rest] = there[rest]
            writer.stage(self._layout, chunk, whole)
