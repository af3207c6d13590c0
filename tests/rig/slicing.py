"""Shapes and basic indices, drawn at random, for tests that compare with numpy and h5py."""

from typing import Any

from hypothesis import strategies as st

shapes = st.lists(st.integers(1, 8), min_size=0, max_size=4).map(tuple)


@st.composite
def indices(draw: Any, shape: tuple[int, ...]) -> Any:
    """Return integers, slices and `...` that fit a shape, alone where one is enough."""
    parts: list[Any] = [draw(_part(size)) for size in shape[: draw(st.integers(0, len(shape)))]]
    if len(parts) < len(shape) or draw(st.booleans()):
        rest = len(shape) - len(parts)
        place = draw(st.integers(0, len(parts)))
        if place == len(parts) and draw(st.booleans()):
            return tuple(parts)
        moved = [draw(_part(size)) for size in shape[len(shape) - (len(parts) - place) :]] if rest else parts[place:]
        parts = [*parts[:place], ..., *moved]
    return parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


def _part(size: int) -> st.SearchStrategy[Any]:
    bound = st.none() | st.integers(-size - 2, size + 2)
    slices = st.builds(slice, bound, bound, st.none() | st.integers(1, 4))
    return slices | st.integers(-size, size - 1) if size else slices
