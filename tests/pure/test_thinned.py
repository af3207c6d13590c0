"""Thinned points keep their order and each stretch's least and greatest value."""

import math

from hypothesis import given
from hypothesis import strategies as st

from shareddata.thinned import Thinned, drawable

values = st.one_of(st.none(), st.floats(-1e6, 1e6))


@given(st.lists(values, max_size=300), st.integers(4, 40))
def test_thinned_points_keep_order_and_extremes(column: list[float | None], most: int) -> None:
    thinned = Thinned(most)
    for ts, value in enumerate(column):
        thinned.add([float(ts), value])
        assert len(thinned.rows()) <= most + 2
    rows = thinned.rows()
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    known = [value for value in column if value is not None]
    kept = [row[1] for row in rows if row[1] is not None]
    assert (min(kept, default=None), max(kept, default=None)) == (min(known, default=None), max(known, default=None))
    if len(column) < most // 4 * 4:
        assert rows == [[float(ts), value] for ts, value in enumerate(column)] and thinned.stretch == 1


@given(st.lists(values, min_size=400, max_size=400))
def test_each_pair_stands_for_a_stretch(column: list[float | None]) -> None:
    thinned = Thinned(50)
    for ts, value in enumerate(column):
        thinned.add([float(ts), value])
    rows, stretch = thinned.rows(), thinned.stretch
    for i in range(0, len(column) // stretch * 2, 2):
        part = [v for v in column[i // 2 * stretch : (i // 2 + 1) * stretch] if v is not None]
        assert {rows[i][1], rows[i + 1][1]} == {min(part, default=None), max(part, default=None)}


def test_what_has_no_place_on_a_plot() -> None:
    assert [drawable(each) for each in (math.nan, math.inf, -1.7e308, 10**400)] == [None] * 4
    assert [drawable(each) for each in (-1.5, 10**18, True, 5e-324)] == [-1.5, 1e18, 1.0, 5e-324]


def test_what_falls_is_seen_to_fall() -> None:
    """Also where nothing came for a while: a counter that began anew did so behind the silence."""
    thinned = Thinned(16)
    for ts in range(1000):
        thinned.add([float(ts if ts < 502 else ts + 10000), float(-ts), float(ts if ts < 502 else ts - 502)])
    rows = thinned.rows()
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    rest = [row[2] for row in rows if row[0] > 10000]
    assert max(rest[:2]) < 501, "behind the silence nothing is as great as before"
