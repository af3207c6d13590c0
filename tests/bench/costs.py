"""How a cost grows with the work: figures at growing sizes, and whether they grow faster than the work does.

It knows figures and sizes, nothing of how they are taken. A cost that is *for each* piece of work, or *bounded*, should
not grow at all; any other may grow as the work does. Invariant: a verdict is on the two largest sizes.
"""

import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FLAT = 1.25  # a cost that should not grow may grow by this between two sizes that are ten apart
PROPORTIONAL = 1.25  # another may grow by this more than the work
SHOULD = {True: "not", False: "x {:.3g} at most"}
NOISE = {"us": 3.0, "ms": 2.0, "kB": 64.0, "bytes": 16.0}  # differences below are none


@dataclass
class Cost:
    """A cost at growing sizes.

    Attributes:
        what: in words.
        unit: of the figures.
        work: what grows: `records`, `programs` ...
        flat: whether it should not grow; None for a cost that is shown and not judged.
        sizes: the work, growing.
        figures: of each size, one a round.
    """

    what: str
    unit: str
    work: str
    flat: bool | None
    sizes: list[int] = field(default_factory=list)
    figures: list[list[float]] = field(default_factory=list)

    def middle(self, index: int) -> float:
        """Return the median of a size's rounds."""
        return statistics.median(self.figures[index])

    @property
    def growth(self) -> float | None:
        """How many times as much it is at the largest size as at the one before."""
        if len(self.sizes) < 2 or self.middle(-2) <= 0:
            return None
        return self.middle(-1) / self.middle(-2)

    @property
    def works_growth(self) -> float:
        """How many times as much the work is."""
        return self.sizes[-1] / self.sizes[-2] if len(self.sizes) > 1 else 1.0

    @property
    def fits(self) -> bool:
        """Whether it grows as it should, or less."""
        if self.growth is None or self.flat is None:
            return True
        expected = FLAT if self.flat else PROPORTIONAL * self.works_growth
        allowed = self.middle(-2) * expected + NOISE.get(self.unit, 0.0)
        return self.middle(-1) <= allowed

    def as_json(self) -> dict[str, Any]:
        """Return all of it, figures with four digits."""
        return asdict(self) | {"figures": [[float(f"{v:.4g}") for v in rounds] for rounds in self.figures]}


class Costs:
    """The costs of a run, by what they are of."""

    def __init__(self) -> None:
        self.all: dict[str, Cost] = {}

    def add(self, what: str, figure: float, unit: str, work: str, size: int, flat: bool | None = False) -> None:
        """Note a round's figure of a cost at a size."""
        cost = self.all.setdefault(f"{work}: {what}", Cost(what, unit, work, flat))
        if size not in cost.sizes:
            cost.sizes.append(size)
            cost.figures.append([])
        cost.figures[cost.sizes.index(size)].append(figure)


# -- taking figures ---------------------------------------------------------------------------------------------------


class Stopwatch:
    """Seconds between two looks: wall time, CPU of this process and of the server. A context manager."""

    def __init__(self, server: int) -> None:
        self._clock = ((~server) << 3) | 2

    def __enter__(self) -> "Stopwatch":
        self._served, self._own, self._start = time.clock_gettime(self._clock), time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._start
        self.cpu = time.process_time() - self._own
        self.server = time.clock_gettime(self._clock) - self._served


def own_memory() -> float:
    """Return the kB of memory that are this process's alone."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        sizes = {words[0]: words[1] for line in file if len(words := line.split()) == 3}
    return float(sizes["Private_Clean:"]) + float(sizes["Private_Dirty:"])


def _fork(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[int, int]:
    """Run a function in a forked process; return its process id and where to read what it returned."""
    answer, says = os.pipe()
    if pid := os.fork():
        os.close(says)
        return pid, answer
    gc.freeze()  # the collector writes into what it looks at: the parent's memory would become ours
    try:
        with os.fdopen(says, "w") as file:
            file.write(json.dumps(work(*arguments)))
    except BaseException:  # noqa: BLE001  whatever it is, it is shown, and this process ends
        traceback.print_exc()
    finally:
        os._exit(0)


def each_in_a_fork(
    work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], meanwhile: Callable[[], object] | None = None
) -> list[Any]:
    """Run a function in forked processes, all at once, and return what each returned: JSON.

    Args:
        work: the function.
        arguments: for each process.
        meanwhile: called in this process as soon as all run.
    """
    children = [_fork(work, argument) for argument in arguments]
    if meanwhile:
        meanwhile()
    texts = []
    for pid, answer in children:
        with os.fdopen(answer) as file:
            texts.append(file.read())
        os.waitpid(pid, 0)
    if not all(texts):
        sys.exit(f"bench: {texts.count('')} of {len(texts)} processes failed, see above")
    return [json.loads(text) for text in texts]


def in_a_fork(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a forked process, whose memory is its own, and return what it returned: JSON."""
    return each_in_a_fork(work, [arguments])[0]


# -- showing ----------------------------------------------------------------------------------------------------------


def shown(value: float) -> str:
    """Return a figure with three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(costs: Sequence[Cost]) -> list[str]:
    """Return a table for each kind of work."""
    lines = []
    for work in dict.fromkeys(cost.work for cost in costs):
        of_work = [cost for cost in costs if cost.work == work]
        sizes = sorted({size for cost in of_work for size in cost.sizes})
        lines += [f"### {work}", ""]
        lines.append(f"| cost | {' | '.join(f'{size:,}' for size in sizes)} | grows | should grow | |")
        lines.append(f"| --- |{' --- |' * (len(sizes) + 3)}")
        lines += [_line(cost, sizes) for cost in of_work]
        lines.append("")
    return lines


def _line(cost: Cost, sizes: Sequence[int]) -> str:
    cells = [shown(cost.middle(cost.sizes.index(size))) if size in cost.sizes else "" for size in sizes]
    growth = "" if cost.growth is None else f"x {cost.growth:.2g}"
    should = "" if cost.growth is None or cost.flat is None else SHOULD[cost.flat].format(cost.works_growth)
    verdict = "" if cost.fits else "**faster**"
    return f"| {cost.what}{cost.unit and f', {cost.unit}'} | {' | '.join(cells)} | {growth} | {should} | {verdict} |"
