"""Indices mean what they mean to numpy, and pieces cover selections exactly."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata.grid import covers, cut, default_chunks, outside, select
from slicing import indices, shapes


@given(st.data())
def test_a_selection_is_numpys(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    index = data.draw(indices(shape))
    chunks = tuple(data.draw(st.integers(1, 5)) for _ in shape)
    array = np.arange(int(np.prod(shape))).reshape(shape)
    selection = select(shape, index, "x")
    assert selection.shape == array[index].shape
    found = np.full(selection.full, -1)
    for piece in selection.pieces(chunks):
        begin = tuple(number * length for number, length in zip(piece.chunk, chunks))
        chunk = array[tuple(slice(at, at + length) for at, length in zip(begin, chunks))]
        assert (found[piece.outside] == -1).all(), "each element once"
        found[piece.outside] = chunk[piece.inside]
        if covers(piece, chunks):
            assert chunk.shape == chunks and found[piece.outside].shape == chunks
    assert found.reshape(selection.shape).tolist() == array[index].tolist()


@given(st.data())
def test_chunks_of_an_array(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    chunks = tuple(data.draw(st.integers(1, 5)) for _ in shape)
    array = np.zeros(shape, bool)
    every = [piece.chunk for piece in select(shape, ..., "x").pieces(chunks)]
    assert len(every) == len(set(every))
    for chunk in every:
        assert not outside(shape, chunks, chunk)
        there = cut(shape, chunks, chunk) or tuple(slice(0, length) for length in chunks)
        place = tuple(slice(n * length, n * length + part.stop) for n, length, part in zip(chunk, chunks, there))
        assert array[place].shape == tuple(part.stop for part in there)
        array[place] = True
    assert array.all()
    for axis, length in enumerate(chunks):
        beyond = tuple(-(-size // length) if axis == other else 0 for other, size in enumerate(shape))
        assert outside(shape, chunks, beyond)


@pytest.mark.parametrize(
    ("index", "error", "why"),
    [
        (10, IndexError, "x: index 10 is out of range: there are 0 to 9; `resize` makes it longer"),
        (-11, IndexError, "index -11 is out of range"),
        ((0, 0, 0), TypeError, "3 indices for 2 dimensions"),
        ((..., ...), TypeError, "only one '...'"),
        (slice(None, None, -1), ValueError, "step -1: read it forwards"),
        ([1, 2], TypeError, r"list \[1, 2\] is no index here"),
        (None, TypeError, "NoneType None is no index"),
        (True, TypeError, "bool True is no index"),
        (1.0, TypeError, "float 1.0 is no index"),
        ("keys", TypeError, "str 'keys' is no index"),
    ],
)
def test_what_is_no_index(index: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        select((10, 4), index, "x")


def test_an_empty_dimension_has_no_index() -> None:
    with pytest.raises(IndexError, match="there are none yet"):
        select((0, 4), 0, "x")
    assert list(select((0, 4), ..., "x").pieces((1, 4))) == []


@pytest.mark.parametrize(
    ("shape", "maxshape", "itemsize", "single", "expected"),
    [
        ((0, 1024, 1024), (None, 1024, 1024), 2, False, (1, 1024, 1024)),
        ((5, 5, 480, 640), (5, 5, 480, 640), 2, False, (1, 1, 480, 640)),
        ((0, 480, 640, 3), (None, 480, 640, 3), 1, False, (1, 480, 640, 3)),
        ((5, 480, 640, 4), (None, 480, 640, 4), 1, True, (1, 480, 640, 4)),
        ((0, 640, 3), (None, 640, 3), 1, False, (1, 640, 3)),
        ((5, 5, 100, 5), (5, 5, 100, 5), 8, False, (1, 1, 100, 5)),
        ((0, 2048), (None, 2048), 4, False, (1, 2048)),
        ((0, 1, 1), (None, 1, 1), 8, False, (128, 1, 1)),
        ((0, 1, 1), (None, 1, 1), 8, True, (1, 1, 1)),
        ((2, 4, 1, 1), (2, 4, 1, 1), 8, False, (2, 4, 1, 1)),
        ((0, 40, 1, 1), (None, 40, 1, 1), 8, False, (3, 40, 1, 1)),
        ((0, 1000, 1, 1), (None, 1000, 1, 1), 8, False, (1, 128, 1, 1)),
        ((0,), (None,), 8, False, (128,)),
        ((), (), 8, False, ()),
        ((3, 0, 0), (3, 0, 0), 8, False, (3, 1, 1)),
    ],
)
def test_default_chunks(shape: Any, maxshape: Any, itemsize: int, single: bool, expected: Any) -> None:
    assert default_chunks(shape, maxshape, itemsize, single) == expected
