"""Indices of frames: from a number to a place in a dataset, and from keys to how many frames are complete.

Pure arithmetic on shapes and arrays. It must not know files, servers or waiting, and does not import numpy. The words:
a dataset's *scan* dimensions are the leading ones, over which frames are counted row by row, the last one fastest; the
others are the frame's. *Inner* dimensions are the scan dimensions but for the first: they make the rows' length.
Invariants:

1. `position` and `flat` undo each other.
2. A frame counts as complete only when all frames before it do.

    >>> position(5, (4,))
    (1, 1)
    >>> flat((1, 1), (4,))
    5
"""

import math
from collections.abc import Sequence
from typing import Any

Shape = Sequence[int]
MaxShape = Sequence[int | None]
"""As h5py says it: None for a dimension that grows without bound."""


def scan_rank(maxshape: MaxShape) -> int:
    """Return how many scan dimensions a key dataset has: all but the last ones whose greatest extent is 1.

    >>> scan_rank((2, 4, 1, 1)), scan_rank((None, 1)), scan_rank((1, 1))
    (2, 1, 0)
    """
    rank = len(maxshape)
    while rank and maxshape[rank - 1] == 1:
        rank -= 1
    return rank


def capacity(maxshape: MaxShape) -> int | None:
    """Return how many frames fit into scan dimensions at the most, None without a bound.

    >>> capacity((2, 4)), capacity((None, 4))
    (8, None)
    """
    product = 1
    for extent in maxshape:
        if extent is None:
            return None
        product *= extent
    return product


def position(index: int, inner: Shape) -> tuple[int, ...]:
    """Return a frame's place along the scan dimensions.

    Args:
        index: the frame's, from 0.
        inner: the extents of the inner dimensions, each 1 or more.
    """
    place: list[int] = []
    for extent in reversed(inner):
        index, rest = divmod(index, extent)
        place.append(rest)
    return (index, *reversed(place))


def flat(place: Sequence[int], inner: Shape) -> int:
    """Return the index of a place."""
    index = place[0]
    for coordinate, extent in zip(place[1:], inner, strict=True):
        index = index * extent + coordinate
    return index


def frame_slices(index: int, shape: Shape, rank: int) -> tuple[slice, ...]:
    """Return what cuts one frame out of a dataset, with every dimension kept.

    >>> frame_slices(5, (2, 4, 480, 640), 2)
    (slice(1, 2, None), slice(1, 2, None))
    """
    return tuple(slice(at, at + 1) for at in position(index, shape[1:rank])[:rank])


def unchanged(before: Shape, now: Shape) -> int | None:
    """Return how many indices still mean the same place when inner extents have changed; None: all of them.

    >>> unchanged((2, 3), (2, 4)), unchanged((2, 3), (5, 3)), unchanged((3,), (3,))
    (3, 6, None)
    """
    changed = [axis for axis in range(len(before)) if before[axis] != now[axis]]
    return math.prod(before[changed[-1] :]) if changed else None


def leading(keys: Any, inner: Shape) -> int:
    """Return how many frames are complete from the first row on: up to the first key that is zero or not there.

    Args:
        keys: an array whose dimensions are the scan's; None of its extents is beyond `inner`'s.
        inner: the extents of the inner dimensions.
    """
    if not keys.size:
        return 0
    missing = _first_missing(keys.shape, inner)
    zeros = keys.reshape(-1) == 0
    if not zeros.any():
        return missing
    place = position(int(zeros.argmax()), keys.shape[1:])
    return min(missing, flat(place, inner))


def _first_missing(shape: Shape, inner: Shape) -> int:
    """Return the index of the first place that is outside a shape whose rows may be shorter than they should be."""
    for axis in range(len(inner) - 1, -1, -1):
        if shape[axis + 1] < inner[axis]:
            return shape[axis + 1] * math.prod(inner[axis + 1 :])
    return shape[0] * math.prod(inner)


def frame_rank(shape: Shape, maxshape: MaxShape, keys: Sequence[tuple[Shape, MaxShape]]) -> int:
    """Return how many of a dataset's dimensions are the scan's, from the shapes of the keys that tell of its frames.

    The dimensions of a scan are those of a key dataset that agrees with it. Where none does, a frame is a picture: the
    last two dimensions.

    Args:
        shape: the dataset's.
        maxshape: its greatest one.
        keys: shape and greatest shape of each key dataset, its scan dimensions only.

    >>> frame_rank((2, 4, 1024), (2, 4, 1024), [((2, 4), (2, 4))])
    2
    >>> frame_rank((8, 480, 640), (None, 480, 640), [((8,), (8,))])
    1
    """
    for key_shape, key_max in sorted(keys, key=lambda key: -len(key[0])):
        rank = len(key_shape)
        if not 0 < rank <= len(shape):
            continue
        room = capacity(maxshape[:rank])
        if _agree(shape[1:rank], maxshape[1:rank], key_shape[1:], key_max[1:]) and (
            room is None or room >= math.prod(key_shape)
        ):
            return rank
    return max(1, len(shape) - 2)


def _agree(shape: Shape, maxshape: MaxShape, key_shape: Shape, key_max: MaxShape) -> bool:
    """Tell whether inner dimensions may be the same: equal now, or when both have grown."""
    return all(
        extent == key_extent or most is None or key_most is None or most == key_most
        for extent, most, key_extent, key_most in zip(shape, maxshape, key_shape, key_max, strict=True)
    )
