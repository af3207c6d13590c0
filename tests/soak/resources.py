"""Memory and file descriptors of the processes of a soak, over its time.

It knows /proc and a straight line through points. Invariant: what a process had while it warmed up does not count.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple


class Sample(NamedTuple):
    """What a process had at a time."""

    when: float
    kib: int
    descriptors: int


class Level(NamedTuple):
    """How a process went: over how many seconds, at how much, growing how fast, and whether that is level."""

    name: str
    seconds: float
    kib: float
    kib_a_minute: float
    growth: float
    descriptors: tuple[int, int]
    level: bool


def sample(pid: int, when: float) -> Sample | None:
    """Return what a process has now, None when it has ended: the memory that it has written and shares with nobody.

    Pages of libraries don't count: whether they are shared depends on which other programs run at that moment.
    """
    try:
        kib = 0
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty"):
                kib += int(line.split()[1])
        return Sample(when, kib, len(os.listdir(f"/proc/{pid}/fd")))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the straight line that fits best."""
    middle = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
    width = sum((x - middle[0]) ** 2 for x, _ in points)
    return sum((x - middle[0]) * (y - middle[1]) for x, y in points) / width if width else 0.0


def level(name: str, samples: Sequence[Sample], warm_up: float, bound: tuple[float, int]) -> Level | None:
    """Return how a process went after it was warm; None when it did not live long enough to tell.

    Args:
        name: the process's.
        samples: of one process.
        warm_up: seconds that don't count.
        bound: KiB that its memory may grow over what is counted (by the fitted line), and descriptors.
    """
    warm = [each for each in samples if each.when >= samples[0].when + warm_up]
    if len(warm) < 10 or warm[-1].when - warm[0].when < warm_up:
        return None
    seconds = warm[-1].when - warm[0].when
    rate = slope([(each.when, each.kib) for each in warm])
    third = max(1, len(warm) // 3)
    first, last = (int(median(each.descriptors for each in part)) for part in (warm[:third], warm[-third:]))
    middle = sorted(each.kib for each in warm)[len(warm) // 2]
    growth = rate * seconds
    is_level = growth <= bound[0] and last - first <= bound[1]
    return Level(name, seconds, middle, rate * 60, growth, (first, last), is_level)
