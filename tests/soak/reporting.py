"""What a soak tells: load, faults, recovery times, what was lost, memory and file descriptors.

It knows the world when all is over, and how tables look. Invariant: each figure was counted or measured in this run.
"""

import json
import os
import platform
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import resources
from world import World

Say = Callable[[str], None]

WARM_UP = 45.0
"""Seconds of a process that don't count: it imports, fills its buffers, and histories fill up."""
BOUND = (5120.0, 2)
"""KiB that a process may grow (an archiver remembers 10,000 events of a stream), and descriptors."""


@dataclass
class Event:
    """Something that happened: what, for how long, and how long each took to get on, from when it was mended."""

    name: str
    seconds: float
    back: dict[str, float]

    @property
    def recovery(self) -> float:
        """Seconds until the last one got on."""
        return max(self.back.values(), default=0.0)

    def __str__(self) -> str:
        slowest = max(self.back, key=self.back.__getitem__, default="nobody")
        return f"{self.name:38} {self.seconds:4.1f} s, all back after {self.recovery:5.2f} s ({slowest})"


def so_far(world: World) -> str:
    """Return in some words what was found until now."""
    wrong = [f"{count} {kind}" for kind, count in world.findings.counts.items() if count]
    wrong += [f"{len(world.troubles)} troubles"] if world.troubles else []
    return ", ".join(wrong) or "nothing wrong"


def keep(world: World, folder: Path) -> None:
    """Copy journals and errors."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*world.folder.glob("*.journal"), *world.folder.glob("*.errors"), world.server.folder / "server.log"]:
        shutil.copy(path, folder)


def write_page(text: str) -> None:
    """Put a report between the comments of its page."""
    page = Path(__file__).parents[2] / "docs" / "explain" / "soak.md"
    before, rest = page.read_text().split("<!-- figures: begin", 1)
    begin, _, end = rest.partition("-->")
    page.write_text(f"{before}<!-- figures: begin{begin}-->\n\n{text}\n<!-- figures: end -->\n")


@dataclass
class Result:
    """All that a soak found."""

    server: str
    seed: int
    seconds: float
    machine: str
    programs: int
    load: dict[str, tuple[int, int]]
    outcomes: dict[str, int]
    events: list[Event]
    findings: dict[str, int]
    cases: list[str]
    troubles: list[str]
    levels: list[resources.Level]
    skipped: list[str]
    samples: dict[str, list[tuple[float, int, int]]]  # of each process, every fifth: seconds, KiB, descriptors

    @classmethod
    def of(cls, world: World, seed: int, seconds: float, events: list[Event]) -> "Result":
        """Gather what the world knows."""
        with world.server.client() as client:
            info = client.info("server")
        version = f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info['redis_version']}"
        levels = [resources.level(name, found, WARM_UP, BOUND) for (name, _), found in world.samples.items()]
        outcomes: dict[str, int] = defaultdict(int)
        for slot in world.slots:
            for kind, count in slot.series.counts.items() if slot.series else ():
                outcomes[{"A": "acknowledged", "U": "unknown", "X": "refused"}[kind]] += count
        return cls(
            version,
            seed,
            seconds,
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {sys.version.split()[0]}",
            len(world.slots),
            world.counted(),
            dict(outcomes),
            events,
            dict(world.findings.counts),
            world.findings.cases,
            world.troubles,
            [level for level in levels if level is not None],
            list(world.skipped.values()),
            {f"{name} {pid}": _thinned(found) for (name, pid), found in world.samples.items()},
        )

    @property
    def good(self) -> bool:
        """Whether all was held."""
        return not any(self.findings.values()) and not self.troubles and all(each.level for each in self.levels)

    def json(self) -> str:
        return json.dumps({"good": self.good} | asdict(self), indent=1)

    def markdown(self) -> str:
        """Return the report."""
        verdict = "Everything was held." if self.good else "**Not everything was held.**"
        head = (
            f"{verdict} {self.programs} programs, {self.server} with fsync=always, {self.seconds:.0f} s, "
            f"{len(self.events)} times something happened; seed {self.seed}. {self.machine}."
        )
        parts = [head, self._found(), self._load(), self._faults(), self._levels()]
        if self.skipped:
            parts.append("Not done here: " + "; ".join(self.skipped) + ".")
        return "\n\n".join(part for part in parts if part) + "\n"

    def _found(self) -> str:
        lines = [" | ".join(self.findings), " | ".join("---:" for _ in self.findings)]
        lines.append(" | ".join(f"{count}" for count in self.findings.values()))
        text = "\n".join(f"| {line} |" for line in lines)
        wrong = [*self.cases, *self.troubles, *(str(each) for each in self.levels if not each.level)]
        return text + ("\n\n" + "\n".join(f"- {each}" for each in wrong) if wrong else "")

    def _load(self) -> str:
        lines = ["| programs | writes acknowledged | a second | values seen | a second |", "|---|---:|---:|---:|---:|"]
        for role, (wrote, saw) in self.load.items():
            lines.append(
                f"| {role.replace('_', ' ')} | {_number(wrote)} | {_rate(wrote / self.seconds)} "
                f"| {_number(saw)} | {_rate(saw / self.seconds)} |"
            )
        tries = ", ".join(f"{count} {name}" for name, count in self.outcomes.items())
        return "\n".join(lines) + f"\n\nOutcomes of all tries to write: {tries}."

    def _faults(self) -> str:
        kinds: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            kinds["two at once" if " and " in event.name else event.name].append(event)
        lines = [
            "| what happened | times | for, at most | all back after: half of the times | at most | the slowest |",
            "|---|---:|---:|---:|---:|---|",
        ]
        for name, events in sorted(kinds.items()):
            worst = max(events, key=lambda event: event.recovery)
            slowest = max(worst.back, key=worst.back.__getitem__, default="")
            half = median(event.recovery for event in events)
            longest = max(event.seconds for event in events)
            lines.append(
                f"| {name} | {len(events)} | {longest:.1f} s | {half:.2f} s | {worst.recovery:.2f} s | {slowest} |"
            )
        return "\n".join(lines) if self.events else ""

    def _levels(self) -> str:
        if not self.levels:
            return f"Memory and descriptors: no process lived for {2 * WARM_UP:.0f} s, nothing can be told."
        lines = ["| process | counted for | memory of its own | grew by | descriptors, first and last third |"]
        lines.append("|---|---:|---:|---:|---:|")
        for each in self.levels:
            lines.append(
                f"| {each.name} | {each.seconds:.0f} s | {each.kib / 1024:.1f} MiB | {each.growth:+.0f} KiB "
                f"| {each.descriptors[0]}, {each.descriptors[1]} |"
            )
        return (
            "\n".join(lines)
            + f"\n\nEach process that lived for {2 * WARM_UP:.0f} s or longer, after its first {WARM_UP:.0f} s: the "
            "memory that it has written and shares with nobody. Growth is that of the straight line that fits best. "
            f"Level means: less than {BOUND[0] / 1024:.0f} MiB, and no more than {BOUND[1]} descriptors, by medians."
        )


def _thinned(samples: list[resources.Sample]) -> list[tuple[float, int, int]]:
    begin = samples[0].when
    return [(round(each.when - begin, 1), each.kib, each.descriptors) for each in samples[::5]]


def _number(count: int) -> str:
    return f"{count:,}" if count else ""


def _rate(rate: float) -> str:
    return f"{rate:.1f}" if rate else ""


