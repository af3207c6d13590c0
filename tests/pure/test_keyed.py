"""Key datasets that grow, counted step by step: at every step as many frames as counting all of them anew says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shareddata.errors import FrameError
from shareddata.handles import Handle
from shareddata.keyed import Keys

ROWS, COLUMNS = 4, 5


class Growing:
    """Stands for a dataset: an array that may be replaced by a larger one."""

    name = "/keys/key"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.array = np.zeros(shape, np.int8)
        self.maxshape = tuple(None if extent != 1 or axis < 2 else 1 for axis, extent in enumerate(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def resize(self, rows: int, columns: int) -> None:
        larger = np.zeros((max(rows, self.shape[0]), max(columns, self.shape[1]), *self.shape[2:]), np.int8)
        larger[: self.shape[0], : self.shape[1]] = self.array
        self.array = larger


def expected(datasets: list[Growing]) -> int:
    """Count all keys anew: what is not there is zero."""
    columns = max(dataset.shape[1] for dataset in datasets)
    whole = np.ones((ROWS, columns), bool)
    for dataset in datasets:
        padded = np.zeros_like(whole)
        padded[: dataset.shape[0], : dataset.shape[1]] = dataset.array.reshape(dataset.shape[:2]) != 0
        whole &= padded
    return [*whole.reshape(-1).tolist(), False].index(False)


GROW = st.tuples(st.just("grow"), st.integers(0, 2), st.integers(0, ROWS), st.integers(0, COLUMNS))
WRITE = st.tuples(st.just("write"), st.integers(0, 2), st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1))
FILL = st.tuples(st.just("fill"), st.integers(0, 2), st.just(0), st.just(0))


def keys_of(datasets: list[Growing]) -> Keys:
    handles = {str(number): Handle(dataset) for number, dataset in enumerate(datasets)}
    return Keys(lambda: handles)


@given(st.lists(st.one_of(GROW, WRITE, FILL), max_size=30))
def test_counting_on_is_counting_anew(steps: list[tuple[str, int, int, int]]) -> None:
    datasets = [Growing((0, 0)), Growing((0, 0, 1)), Growing((1, 1, 1, 1))]
    keys = keys_of(datasets)
    for what, number, row, column in steps:
        dataset = datasets[number]
        if what == "grow":
            dataset.resize(row, column)
        elif what == "fill":
            dataset.array[...] = 1
        elif row < dataset.shape[0] and column < dataset.shape[1]:
            dataset.array[row, column] = 1
        assert keys.look(given=0) == expected(datasets)


@given(st.integers(1, COLUMNS), st.integers(0, ROWS * COLUMNS), st.integers(0, 2))
def test_given_indices_keep_their_meaning_or_it_is_an_error(columns: int, count: int, more: int) -> None:
    dataset = Growing((ROWS, columns))
    dataset.array.reshape(-1)[:count] = 1
    keys = keys_of([dataset])
    complete = keys.look(0)
    assert complete == min(count, ROWS * columns)
    dataset.resize(ROWS, columns + more)
    moved = more > 0 and complete > columns
    if moved:
        with pytest.raises(
            FrameError, match=r"/keys/key: the rows of the scan grew from \(\d,\) to \(\d,\) after index"
        ):
            keys.look(complete)
    else:
        assert keys.look(complete) == expected([dataset])


@pytest.mark.parametrize("find", [dict, lambda: {"a": Handle(Growing((0, 0)))}], ids=["no dataset", "an empty one"])
def test_nothing_is_complete_where_nothing_is(find: Callable[[], dict[str, Handle]]) -> None:
    keys = Keys(find)
    assert keys.look(0) == 0
    assert not keys.full()


def test_what_is_named_and_not_there_holds_all_back() -> None:
    dataset = Growing((2, 2))
    dataset.array[...] = 1
    handles, missing = {"a": Handle(dataset)}, "'b'"
    keys = Keys(lambda: handles, lambda: missing)
    assert keys.look(0) == 0
    missing = ""
    assert keys.look(0) == 4
