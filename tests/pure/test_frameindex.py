"""Indices of frames: positions and back, rows that differ in length, and what a key array says is complete."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shareddata import frameindex

EXTENTS = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@given(EXTENTS, st.data())
def test_positions_are_numpys(shape: tuple[int, ...], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, math.prod(shape) - 1))
    place = frameindex.position(index, shape[1:])
    assert place == np.unravel_index(index, shape)
    assert frameindex.flat(place, shape[1:]) == index


@given(EXTENTS, st.integers(0, 3), st.data())
def test_slices_cut_one_frame(scan: tuple[int, ...], frame_dimensions: int, data: st.DataObject) -> None:
    shape = (*scan, *[3] * frame_dimensions)
    index = data.draw(st.integers(0, math.prod(scan) - 1))
    stack = np.arange(math.prod(scan)).reshape((*scan, *[1] * frame_dimensions)) * np.ones(shape)
    frame = stack[frameindex.frame_slices(index, shape, len(scan))]
    assert frame.shape == (*[1] * len(scan), *[3] * frame_dimensions)
    assert (frame == index).all()


def test_no_scan_dimension_is_one_frame() -> None:
    assert frameindex.frame_slices(0, (1, 1), 0) == ()


@given(arrays.arrays(np.int8, EXTENTS, elements=st.integers(0, 3)), st.data())
def test_leading_counts_as_a_loop_does(keys: np.ndarray, data: st.DataObject) -> None:
    """Rows may be shorter than the scan's: what is not there is zero."""
    inner = tuple(extent + data.draw(st.integers(0, 2)) for extent in keys.shape[1:])
    whole = np.zeros((keys.shape[0], *inner), np.int8)
    whole[tuple(map(slice, keys.shape))] = keys
    flat = [*whole.reshape(-1).tolist(), 0]
    assert frameindex.leading(keys, inner) == flat.index(0)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0)])
def test_nothing_is_complete_where_nothing_is(shape: tuple[int, ...]) -> None:
    assert frameindex.leading(np.zeros(shape), (4,) * (len(shape) - 1)) == 0


@given(EXTENTS, st.data())
def test_unchanged_says_how_many_indices_keep_their_place(inner: tuple[int, ...], data: st.DataObject) -> None:
    now = tuple(extent + data.draw(st.integers(0, 2)) for extent in inner)
    same = frameindex.unchanged(inner, now)
    count = 3 * math.prod(now)
    moved = [i for i in range(count) if frameindex.position(i, inner) != frameindex.position(i, now)]
    assert same == (moved[0] if moved else None)


@given(st.lists(st.one_of(st.none(), st.integers(1, 3)), max_size=5).map(tuple))
def test_trailing_ones_are_no_scan(maxshape: tuple[int | None, ...]) -> None:
    rank = frameindex.scan_rank(maxshape)
    assert all(extent == 1 for extent in maxshape[rank:])
    assert not rank or maxshape[rank - 1] != 1


@pytest.mark.parametrize(
    ("maxshape", "room"), [((2, 4), 8), ((2, None), None), ((), 1), ((0, 4), 0)], ids=["grid", "open", "one", "none"]
)
def test_capacity(maxshape: tuple[int | None, ...], room: int | None) -> None:
    assert frameindex.capacity(maxshape) == room


GRID = ((2, 4), (2, 4))
GROWING_GRID = ((1, 3), (None, None))
STACK = ((8,), (8,))
GROWING_STACK = ((3,), (None,))


@pytest.mark.parametrize(
    ("shape", "maxshape", "keys", "rank"),
    [
        ((2, 4, 9, 9), (2, 4, 9, 9), [GRID], 2),
        ((2, 4, 9), (2, 4, 9), [GRID], 2),
        ((2, 4), (2, 4), [GRID], 2),
        ((1, 5, 9, 9), (None, None, 9, 9), [GROWING_GRID], 2),
        ((3, 9, 9), (None, 9, 9), [GROWING_STACK], 1),
        ((3, 3, 9, 9), (None, 3, 9, 9), [GROWING_STACK], 1),
        ((3, 9), (None, 9), [GROWING_STACK], 1),
        ((3,), (None,), [GROWING_STACK], 1),
        ((8, 1, 9), (8, 1, 9), [GRID, STACK], 1),
        ((2, 4, 1, 9), (2, 4, 1, 9), [STACK, GRID], 2),
        ((2, 4, 9, 9), (2, 4, 9, 9), [STACK], 2),
        ((4, 9, 9), (None, 9, 9), [], 1),
        ((4, 9), (None, 9), [], 1),
    ],
    ids=[
        "pictures of a grid",
        "spectra of a grid",
        "numbers of a grid",
        "a grid that grows",
        "pictures",
        "coloured pictures",
        "spectra",
        "numbers",
        "a stack beside keys of a grid",
        "a grid beside keys of a stack",
        "a grid with keys of a stack",
        "no keys: pictures",
        "no keys: spectra",
    ],
)
def test_the_keys_tell_what_a_frame_is(
    shape: tuple[int, ...],
    maxshape: tuple[int | None, ...],
    keys: list[tuple[tuple[int, ...], tuple[int | None, ...]]],
    rank: int,
) -> None:
    assert frameindex.frame_rank(shape, maxshape, keys) == rank


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 3))
def test_counting_on_is_counting_anew(growth: list[int], last: int) -> None:
    """What grows row by row is counted the same from the row where counting stopped."""
    complete = rows = 0
    for more in growth:
        rows += more
        keys = np.ones((rows, 4))
        keys[-1, last:] = 0
        row = complete // 4
        complete = row * 4 + frameindex.leading(keys[row:], (4,))
        assert complete == frameindex.leading(keys, (4,)) == (rows - 1) * 4 + last
