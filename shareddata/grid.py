"""Which part of an array an index means, and which chunks of it hold that part.

It knows shapes, numpy's basic indices and the division of an array into chunks of one shape. It must not know arrays,
Redis or files. Invariants:

1. An index means what it means to numpy; what h5py refuses (steps backwards, `None`) is refused with its remedy.
2. The pieces of a selection cover it, each element once.
3. A chunk has the same shape everywhere: at the array's end a part of it is unused.
"""

import math
import operator
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

SMALL = 1024
"""Bytes up to which what is written one by one shares a chunk: each write sends the whole chunk again."""

_FRAME = 2  # trailing dimensions that are written together
_COLOURS = (3, 4)  # lengths of a last dimension that is colours, of four dimensions or more

Shape = tuple[int, ...]
Slices = tuple[slice, ...]


class Piece(NamedTuple):
    """The part of a selection that is in one chunk."""

    chunk: Shape
    """The chunk's place in the grid of chunks."""
    inside: Slices
    """The part within the chunk."""
    outside: Slices
    """The part within the selection, all dimensions kept."""


class Selection(NamedTuple):
    """What an index means."""

    ranges: tuple[range, ...]
    """The indices in each dimension; one index where an integer was given."""
    shape: Shape
    """The shape of the result: without the dimensions where an integer was given."""

    @property
    def full(self) -> Shape:
        """The shape with all dimensions."""
        return tuple(map(len, self.ranges))

    def pieces(self, chunks: Shape) -> Iterator[Piece]:
        """Yield the pieces of the selection, in the order of the chunks.

        Args:
            chunks: the shape of a chunk.
        """
        for parts in product(*map(_split, self.ranges, chunks)):
            yield Piece(*zip(*parts)) if parts else Piece((), (), ())


def select(shape: Shape, index: Any, what: str) -> Selection:
    """Return what an index of an array means: integers, slices and `...`, or a tuple of them.

    Args:
        shape: the array's.
        index: what stood in the brackets.
        what: the array, for messages.

    Raises:
        IndexError: an integer is out of range; the message says which there are.
        TypeError: it is no basic index, or has too many parts.
        ValueError: a slice goes backwards.

    >>> select((10, 4, 4), (-1, ..., slice(1, 3)), "x")
    Selection(ranges=(range(9, 10), range(0, 4), range(1, 3)), shape=(4, 2))
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [place for place, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise TypeError(f"{what}: an index may hold only one '...'")
    missing = len(shape) - len(parts) + len(dots)
    if missing < 0:
        raise TypeError(f"{what}: {len(parts) - len(dots)} indices for {len(shape)} dimensions")
    place = dots[0] if dots else len(parts)
    parts[place : place + len(dots)] = [slice(None)] * missing
    ranges = tuple(_range(part, size, what) for part, size in zip(parts, shape))
    return Selection(ranges, tuple(len(r) for r, part in zip(ranges, parts) if isinstance(part, slice)))


def _range(part: Any, size: int, what: str) -> range:
    if isinstance(part, slice):
        indices = range(*part.indices(size))
        if indices.step < 1:
            raise ValueError(f"{what}: a slice with the step {indices.step}: read it forwards and turn the result")
        return indices
    try:
        if isinstance(part, bool):
            raise TypeError
        number = operator.index(part)
    except TypeError:
        raise TypeError(
            f"{what}: {type(part).__name__} {part!r:.60} is no index here: use integers, slices and '...'; for lists "
            "and masks index the array that a slice returns"
        ) from None
    if not -size <= number < size:
        there = f"0 to {size - 1}" if size else "none yet"
        raise IndexError(f"{what}: index {number} is out of range: there are {there}; `resize` makes it longer")
    return range(number % size, number % size + 1)


def _split(indices: range, length: int) -> list[tuple[int, slice, slice]]:
    """Return the parts of one dimension by chunk: the chunk's number, the part within it, within the selection."""
    if not indices:
        return []
    found = []
    start, step = indices.start, indices.step
    for number in range(start // length, indices[-1] // length + 1):
        first = max(0, -(-(number * length - start) // step))
        end = min(len(indices), -(-((number + 1) * length - start) // step))
        if first < end:
            begin = indices[first] - number * length
            found.append((number, slice(begin, indices[end - 1] - number * length + 1, step), slice(first, end)))
    return found


def covers(piece: Piece, chunks: Shape) -> bool:
    """Tell whether a piece is its whole chunk."""
    return all(part.stop - part.start == length and part.step == 1 for part, length in zip(piece.inside, chunks))


def outside(shape: Shape, chunks: Shape, chunk: Shape) -> bool:
    """Tell whether a chunk is wholly beyond an array's end."""
    return any(number * length >= size for number, length, size in zip(chunk, chunks, shape))


def cut(shape: Shape, chunks: Shape, chunk: Shape) -> Slices | None:
    """Return the part of a chunk that is within the array, None for one that is so wholly."""
    ends = [min(length, size - number * length) for number, length, size in zip(chunk, chunks, shape)]
    return None if ends == list(chunks) else tuple(slice(0, end) for end in ends)


def default_chunks(shape: Shape, maxshape: Sequence[int | None], itemsize: int, single: bool) -> Shape:
    """Return the shape of chunks for an array whose maker leaves it open.

    A chunk is a frame: the last two dimensions (three of pictures with colours, one of two) at one index of those
    before. Of smaller ones so many share a chunk that it has 1 KiB at most, unless each is to be a chunk.

    Args:
        shape: the array's.
        maxshape: the greatest shape, None in a dimension that grows without end.
        itemsize: bytes of an element.
        single: whether a chunk is to be one frame, however small.

    >>> default_chunks((0, 1024, 1024), (None, 1024, 1024), 2, False), default_chunks((0, 1, 1), (None, 1, 1), 8, False)
    ((1, 1024, 1024), (128, 1, 1))
    """
    frame = _FRAME + (len(shape) > _FRAME + 1 and shape[-1] in _COLOURS)
    scan = max(1, len(shape) - frame) if shape else 0
    chunks = [1] * scan + [max(1, size) for size in shape[scan:]]
    for axis in range(scan - 1, -1, -1) if not single else ():
        room = SMALL // (itemsize * math.prod(chunks[axis + 1 :]))
        largest = maxshape[axis]
        chunks[axis] = max(1, room if largest is None else min(room, largest))
        if largest is None or chunks[axis] < largest:
            break
    return tuple(chunks)
