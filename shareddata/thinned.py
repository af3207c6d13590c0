"""Points of a plot, thinned: of many, as many are kept as can be told apart.

It knows times and numbers. It must not know records, or how anything is drawn. Invariants:

1. What is kept shows each column's least and greatest value of every stretch of time, in the order in which they came:
   what falls is seen to fall.
2. Memory is bounded, however many points come; they are looked at once, in order.
"""

from collections.abc import Sequence
from typing import Any

_MOST = 1e300  # of which there are still twice as large ones: a range of a plot has room around its values


class Thinned:
    """Points of which only so many are kept as can be told apart, while they come in.

    When there are too many, stretches of them are put together: two points each, with each field's least value of the
    stretch and its greatest. Stretches grow as more points come.

    Args:
        most: how many points are kept at most.

    Attributes:
        stretch: how many points each kept pair stands for; 1: all are kept as they are.
    """

    def __init__(self, most: int) -> None:
        self._most = max(4, most // 4 * 4)  # so that no pair ever stands for fewer points than the others
        self._rows: list[Sequence[float | None]] = []
        self._open: list[Sequence[float | None]] = []
        self.stretch = 1

    def add(self, row: Sequence[float | None]) -> None:
        """Take a point: its time, then its values."""
        if self.stretch == 1:
            self._rows.append(row)
        else:
            self._open.append(row)
            if len(self._open) == self.stretch:
                self._rows += _extremes(self._open)
                self._open = []
        if len(self._rows) >= self._most:
            self._put_together()

    def rows(self) -> list[Sequence[float | None]]:
        """Return what is kept."""
        return [*self._rows, *(_extremes(self._open) if self._open else ())]

    def _put_together(self) -> None:
        rows, four = self._rows, 4
        self._rows = [each for i in range(0, len(rows), four) for each in _extremes(rows[i : i + four])]
        self.stretch = 4 if self.stretch == 1 else self.stretch * 2


def _extremes(rows: Sequence[Sequence[float | None]]) -> list[Sequence[float | None]]:
    """Return two points that stand for several: the least and the greatest of each value, as they came."""
    if len(rows) < 2:
        return list(rows)
    ends = [_ends(column) for column in list(zip(*rows))[1:]]
    return [[rows[0][0], *(first for first, _ in ends)], [rows[-1][0], *(last for _, last in ends)]]


def _ends(column: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in column if value is not None]
    if not known:
        return None, None
    least, greatest = min(known), max(known)
    return (least, greatest) if known.index(least) < known.index(greatest) else (greatest, least)


def drawable(value: Any) -> float | None:
    """Return a number as a plot takes it; None for what has no place there: NaN, infinities, and about as large."""
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) < _MOST else None
