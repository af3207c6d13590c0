"""A row of the table: what every contender needed, round by round, and who is ahead.

It knows figures and nothing of how they were taken or are shown. A ratio is a contender's figure divided by ours in the
same round: below 1 the contender is ahead. Invariant: a contender has figures or a reason why not, and never both.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from peers import OURS, PEERS

LEVEL = 0.97
"""The ratio below which somebody counts as ahead: less is within what one run differs from another."""


class Spread(NamedTuple):
    """The median of all rounds, the least and the greatest."""

    middle: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Return the median, least and greatest of some figures."""
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found))


@dataclass
class Row:
    """One line of the table.

    Attributes:
        key: what is measured, in a word: reasons and goals are kept by it.
        title: the same for readers.
        section: `operations`, `conditions`, `latencies`, `flood`, `logs` or `frames`.
        conditions: what was different from the first rows, for readers.
        unit: of the figures: less is better.
        figures: of each contender, one a round; of latencies each round's p50.
        tails: of latencies: each round's p99.
        client, server: microseconds of CPU a call, in the process that calls and in the one that answers.
        heard: of latencies: the share of the updates that were heard by those who heard the fewest of them.
        cannot: why a contender has no figures.
        marks: what is to be known of a contender's figure.
        goals: by contender, what its ratio is to be at least.
        ranked: whether who has the least is ahead.
    """

    key: str
    title: str
    section: str
    conditions: str = ""
    unit: str = "us"
    figures: dict[str, list[float]] = field(default_factory=dict)
    tails: dict[str, list[float]] = field(default_factory=dict)
    client: dict[str, list[float]] = field(default_factory=dict)
    server: dict[str, list[float]] = field(default_factory=dict)
    heard: dict[str, list[float]] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    goals: dict[str, float] = field(default_factory=dict)
    ranked: bool = True

    def add(self, name: str, figure: float, cpu: tuple[float, float] | None = None) -> None:
        """Note one round's figure of a contender."""
        self.figures.setdefault(name, []).append(figure)
        if cpu:
            self.client.setdefault(name, []).append(cpu[0])
            self.server.setdefault(name, []).append(cpu[1])

    def fails(self, name: str, why: str) -> None:
        """Note that a contender could not do it after all."""
        for table in (self.figures, self.tails, self.client, self.server, self.heard):
            table.pop(name, None)
        self.cannot[name] = why

    def spread(self, name: str) -> Spread:
        """Return a contender's figures."""
        return spread(self.figures[name])

    def ratio(self, name: str, to: str = OURS) -> Spread | None:
        """Return how many times as much as another's (ours) a figure is; None where they can't be compared."""
        if not self.ranked or name not in self.figures or to not in self.figures:
            return None
        return spread(own / other for own, other in zip(self.figures[name], self.figures[to]))

    def ahead(self) -> list[str]:
        """Return the contenders that are ahead of us, by more than LEVEL."""
        ratios = {name: self.ratio(name) for name in self.figures if name != OURS}
        return [name for name, ratio in ratios.items() if ratio and ratio.middle < LEVEL]

    def as_json(self) -> dict[str, Any]:
        """Return all of it, figures with four digits."""
        content = asdict(self)
        for name in ("figures", "tails", "client", "server", "heard"):
            content[name] = {peer: [float(f"{v:.4g}") for v in values] for peer, values in content[name].items()}
        return {name: value for name, value in content.items() if value not in ("", {}, True)}


def interleave(row: Row, rounds: int, names: Iterable[str], take: Callable[[str], None]) -> Row:
    """Take every contender's figure, one after the other in each round."""
    taken = [name for name in names if name not in row.cannot]
    for _ in range(rounds):
        for name in taken:
            if name not in row.cannot:
                take(name)
    return row


def reasons(what: str, history: int = 0, transport: str = "unix") -> dict[str, str]:
    """Return why contenders can't do something, of those that can't."""
    found = {name: peer.reason(what, history, transport) for name, peer in PEERS.items()}
    return {name: reason for name, reason in found.items() if reason}
