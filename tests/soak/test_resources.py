"""What grows is told from what is level."""

import random

from resources import Sample, level, slope


def test_slope() -> None:
    assert abs(slope([(0, 1), (1, 3), (2, 5)]) - 2) < 1e-9
    assert slope([(1, 3), (1, 5)]) == 0


def samples(growth: float, descriptors: int, seconds: int = 300) -> list[Sample]:
    """Return what a process has that grows by so many KiB and descriptors, and warms up before."""
    chance = random.Random(4)
    warm_up = [Sample(i, 1000 * i, 5) for i in range(50)]
    return warm_up + [
        Sample(i, int(50_000 + growth * (i - 50) / (seconds - 50) + chance.gauss(0, 90)), 9 + descriptors * i // 300)
        for i in range(50, seconds)
    ]


def test_what_is_level() -> None:
    found = level("P", samples(0, 0), 50, (1024, 2))
    assert found is not None and found.level and abs(found.growth) < 100 and found.descriptors == (9, 9)


def test_memory_that_grows() -> None:
    found = level("P", samples(2000, 0), 50, (1024, 2))
    assert found is not None and not found.level and 1800 < found.growth < 2200


def test_descriptors_that_grow() -> None:
    found = level("P", samples(0, 10), 50, (1024, 2))
    assert found is not None and not found.level


def test_who_lived_too_short() -> None:
    assert level("P", samples(0, 0, 90), 50, (1024, 2)) is None
