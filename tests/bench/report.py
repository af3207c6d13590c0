"""Figures as tables: for the terminal, in Markdown, and raw as JSON.

It knows rows of figures and nothing of how they were taken. A ratio is C's time divided by a contender's in the same
round, so 1.0 is as fast as C and more is faster; the median of the rounds, and the least and the greatest.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OPERATION, LATENCY = "operation", "latency"
FLOOR, OURS, PEER = "C", "shareddata", "redis-py"
HEADER = ("operation", "history", "C us", "shareddata us", "redis-py us", "shareddata x C", "redis-py x C", "wanted")


@dataclass
class Row:
    """One line of the table: microseconds for each contender, one figure a round (latencies: each round's p50)."""

    title: str
    history: int
    kind: str
    wanted: float | None
    figures: dict[str, list[float]]
    wanted_of_redis_py: float | None = None
    tails: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, name: str, to: str = FLOOR) -> tuple[float, float, float]:
        """Return the median, least and greatest of how many times as fast as another a contender is."""
        ratios = [a / b for a, b in zip(self.figures[to], self.figures[name])]
        return statistics.median(ratios), min(ratios), max(ratios)

    def cells(self) -> list[str]:
        """Return the row's texts, in the order of HEADER."""
        history = "with" if self.history else "without"
        times, ratios = map(self._time, (FLOOR, OURS, PEER)), map(self._ratio, (OURS, PEER))
        return [self.title, history, *times, *ratios, self._goal()]

    def _time(self, name: str) -> str:
        text = _number(statistics.median(self.figures[name]))
        return f"{text} (p99 {_number(statistics.median(self.tails[name]))})" if name in self.tails else text

    def _ratio(self, name: str) -> str:
        middle, low, high = map(_number, self.ratio(name))
        return f"{middle} ({low}..{high})"

    def _goal(self) -> str:
        if self.wanted_of_redis_py:
            reached = 1 / self.ratio(OURS, PEER)[0]
            return f"{self.wanted_of_redis_py} of redis-py: {reached:.2f}"
        return f"{self.wanted:g}" if self.wanted else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def environment(server: str) -> dict[str, str]:
    """Return what the figures depend on."""
    version = subprocess.check_output([server, "--version"], text=True).split(" sha=")[0].strip()
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "server": f"{version}, no persistence, unix socket",
        "Python": platform.python_version(),
        "redis-py": importlib.metadata.version("redis"),
        "hiredis": importlib.metadata.version("hiredis"),
        "libhiredis": _libhiredis(),
        "machine": f"{cpu or platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load at the end": f"{os.getloadavg()[0]:.1f} (about 1 is this run's own; with more, do not trust the figures)",
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def _libhiredis() -> str:
    words = {words[1]: words[2] for line in _lines("/usr/include/hiredis/hiredis.h") if len(words := line.split()) == 3}
    return ".".join(words.get(f"HIREDIS_{part}", "?") for part in ("MAJOR", "MINOR", "PATCH"))


NOTES = (
    "x C: C's time divided by the contender's in the same round: 1 is as fast as C; median (least..greatest).",
    "Operations: server and client on one core. All write text that reads back exactly, and read values as doubles.",
    "C reads the record that did not change as any other, by asking the server.",
    "Latencies: p50 from just before the write to the values in another process, 200 Hz, writer and listener alike.",
)


def terminal(rows: list[Row], about: dict[str, str]) -> str:
    """Return the table with its columns aligned."""
    table = [list(HEADER), *[row.cells() for row in rows]]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *NOTES, *[f"{name}: {value}" for name, value in about.items()]])


def markdown(rows: list[Row], about: dict[str, str]) -> str:
    """Return the table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADER, ["---"] * len(HEADER), *[row.cells() for row in rows])]
    return "\n".join([*lines, "", *[f"- {text}" for text in NOTES], *[f"- {k}: {v}" for k, v in about.items()], ""])


def save(path: str, rows: list[Row], about: dict[str, str]) -> None:
    """Write every figure of every round to a file."""
    content: dict[str, Any] = {"environment": about, "rows": [asdict(row) for row in rows]}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
