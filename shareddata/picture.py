"""Arrays as pictures for eyes: PNG files, grey from the least to the greatest value, no larger than a screen.

It knows arrays of numbers. It must not know what they are of. Invariant: whatever an array holds, a picture comes of
it; what is not finite is black or white.
"""

from collections.abc import Callable, Hashable
from typing import Any

from shareddata import png
from shareddata.codec import numpy

_SIDE = 1024  # pixels of a picture's longer side at most
_REMEMBERED = 32


class Pictures:
    """Pictures that were asked for, each remembered until it is of something else; for one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[object, bytes]] = {}

    def get(self, name: Hashable, state: object, take: Callable[[], Any]) -> bytes:
        """Return a picture as a PNG file.

        Args:
            name: which one.
            state: what the picture is of: the same one is good as long as this is equal; None for never.
            take: returns the array.

        Redis: none.
        """
        known = self._known.pop(name, None)
        if known is None or state is None or known[0] != state:
            known = state, encoded(take())
        self._known[name] = known  # the newest is the last
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return known[1]


def encoded(frame: Any) -> bytes:
    """Return a frame as PNG: grey from its least to its greatest value, as large as a screen at most.

    Redis: none.
    """
    np = numpy()
    step = -(-max(frame.shape[:2]) // _SIDE)
    pixels = np.asarray(frame)[::step, ::step]
    if pixels.dtype == np.uint8 and pixels.ndim == 3:
        return png.encode(pixels)
    values = pixels.astype("f8")
    finite = values[np.isfinite(values)]
    least, greatest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scaled = np.nan_to_num((values - least) * (255.0 / ((greatest - least) or 1.0)), nan=0.0, posinf=255.0, neginf=0.0)
    return png.encode(scaled.clip(0, 255).astype("u1"))
