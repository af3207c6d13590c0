"""Rows as tables: for the terminal, in Markdown, and as JSON.

It knows rows and how they are shown, nothing of how they were taken. The three say the same: the terminal has a line
for each row and contender, Markdown a column for each contender.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from peers import OURS, PEERS
from rows import Row, Spread, spread

SECTIONS = {
    "operations": ("Operations", "Microseconds a call; unix socket, server and client on one core."),
    "conditions": ("The same under other conditions", "Microseconds a call, without history."),
    "latencies": ("From a write to the values elsewhere", "Microseconds, p50 and p99 of all updates; unix sockets."),
    "flood": ("Flood", "Microseconds. A writer writes as fast as it can, a listener needs 10 ms for each update."),
    "logs": ("Logs", "Microseconds a record, numbered records of 16 bytes; one core."),
    "frames": ("Arrays", "Microseconds from just before the write to the acknowledgement of another process."),
}
NOTES = (
    "Median of all rounds (least..greatest). The rounds are interleaved: each contender once, then all of them again.",
    f"x: a contender's figure divided by {OURS}'s in the same round. Below 1 the contender is ahead.",
    "cpu: microseconds a call in the process that calls + in the server or the program that answers; "
    "of latencies: in the writer and all listeners + in the Redis server, for each update.",
    "goal: what C's (or redis-py's) x is to be at least.",
    "All write text that reads back exactly or bytes, and read values as doubles.",
    "C, redis-py and walrus read a record that did not change as any other, by asking the server.",
    "pyzmq, eclipse-zenoh and p4p hand a value over and wait for nobody; their rounds end when the other side has the "
    "last one.",
)


def number(value: float) -> str:
    """Return a figure with as many digits as tell something."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def shown(figures: Spread) -> str:
    """Return the median and the range."""
    middle, low, high = map(number, figures)
    return f"{middle} ({low}..{high})"


def cpu(row: Row, name: str) -> str:
    """Return the CPU time a call in client and server, an empty text where it was not taken."""
    if name not in row.client:
        return ""
    sides = (row.client[name], row.server[name])
    return " + ".join(number(spread(side).middle) if any(side) else "0" for side in sides)


def goal(row: Row) -> str:
    """Return what is to be reached, and what was."""
    texts = []
    for name, wanted in row.goals.items():
        ratio = row.ratio(name)
        texts.append(f"{name} x {number(wanted)}{f': {number(ratio.middle)}' if ratio else ''}")
    return ", ".join(texts)


def remarks(row: Row, name: str) -> list[str]:
    """Return what is to be known of a contender's figure."""
    heard = min(row.heard.get(name, [1.0]))
    return [
        *([f"heard {100 * heard:.1f} %"] if heard < 1 else []),
        *([row.marks[name]] if name in row.marks else []),
    ]


def tables(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """Return the rows of each section, with its title and what is said of it."""
    found = [(title, text, [row for row in rows if row.section == name]) for name, (title, text) in SECTIONS.items()]
    return [(title, text, section) for title, text, section in found if section]


def terminal(rows: Sequence[Row], about: dict[str, str]) -> str:
    """Return the table for a terminal: a line for each row and contender."""
    lines = []
    for title, text, section in tables(rows):
        lines += ["", f"== {title}", text]
        for row in section:
            wanted = f"   goal: {goal(row)}" if row.goals else ""
            lines += ["", f"{row.title}, {row.conditions} [{row.unit}]{wanted}"]
            lines += [_line(row, name) for name in PEERS]
    return "\n".join([*lines, "", *NOTES, *[f"{name}: {value}" for name, value in about.items()]])


def _line(row: Row, name: str) -> str:
    if name in row.cannot:
        return f"  {name:14}-  {row.cannot[name]}"
    ratio = row.ratio(name)
    cells = [f"{shown(row.spread(name)):24}"]
    if row.tails:
        cells.append(f"p99 {number(spread(row.tails[name]).middle):8}")
    cells.append(f"{f'x {shown(ratio)}' if ratio else '':24}")
    if text := cpu(row, name):
        cells.append(f"cpu {text:14}")
    return f"  {name:14}{'  '.join([*cells, *remarks(row, name)])}".rstrip()


def markdown(rows: Sequence[Row], about: dict[str, str]) -> str:
    """Return the table in Markdown."""
    lines = []
    for title, text, section in tables(rows):
        lines += [f"### {title}", "", text, "", *_matrix(section), ""]
    return "\n".join([*lines, *[f"- {text}" for text in NOTES], *[f"- {k}: {v}" for k, v in about.items()], ""])


def _matrix(rows: Sequence[Row]) -> Iterable[str]:
    """Yield a table with a column for each contender that has a figure in it, and below it why others have none."""
    names = [name for name in PEERS if any(name in row.figures for row in rows)]
    reasons: list[str] = []
    yield f"| what | {' | '.join(names)} | goal |"
    yield f"| --- |{' --- |' * (len(names) + 1)}"
    for row in rows:
        cells = [_cell(row, name, reasons) for name in names]
        yield f"| {row.title}, {row.conditions} | {' | '.join(cells)} | {goal(row)} |"
    for name in PEERS:
        if name not in names:
            for reason in {row.cannot[name]: None for row in rows if name in row.cannot}:
                _noted(f"{name}: {reason}", reasons)
    if reasons:
        yield ""
    for index, reason in enumerate(reasons, 1):
        yield f"{index}. {reason}"


def _noted(reason: str, reasons: list[str]) -> int:
    """Return a reason's number, a new one if it was not given yet."""
    if reason not in reasons:
        reasons.append(reason)
    return reasons.index(reason) + 1


def _cell(row: Row, name: str, reasons: list[str]) -> str:
    if name in row.cannot:
        return f"- <sup>{_noted(f'{name}: {row.cannot[name]}', reasons)}</sup>"
    middle = shown(row.spread(name))
    cells = [f"**{middle}**" if name == OURS else middle]
    if row.tails:
        cells.append(f"p99 {number(spread(row.tails[name]).middle)}")
    if name != OURS and (ratio := row.ratio(name)):
        cells.append(f"x {shown(ratio)}")
    if text := cpu(row, name):
        cells.append(f"cpu {text}")
    return "<br>".join([*cells, *remarks(row, name)])


# -- keeping and reading figures --------------------------------------------------------------------------------------


def save(path: str, rows: Sequence[Row], about: dict[str, str]) -> None:
    """Write every figure of every round to a file, a row a line."""
    lines = ",\n".join(json.dumps(row.as_json(), ensure_ascii=False) for row in rows)
    head = json.dumps(about, ensure_ascii=False, indent=1)
    Path(path).write_text(f'{{"environment": {head},\n"rows": [\n{lines}\n]}}\n', encoding="utf-8")


def load(path: str) -> tuple[list[Row], dict[str, str]]:
    """Return what `save` wrote."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    known = {each.name for each in fields(Row)}
    rows = [Row(**{name: value for name, value in row.items() if name in known}) for row in content["rows"]]
    return rows, content["environment"]


# -- what the figures depend on ---------------------------------------------------------------------------------------


def environment(server: str) -> dict[str, Any]:
    """Return what the figures depend on."""
    version = subprocess.check_output([server, "--version"], text=True).split(" sha=")[0].strip()
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    packages = ("redis", "hiredis", "walrus", "pyzmq", "eclipse-zenoh", "p4p", "numpy")
    return {
        "server": f"{version}, no persistence",
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
        "libhiredis": _libhiredis(),
        "machine": f"{cpu or platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load at the end": f"{os.getloadavg()[0]:.1f} (about 1 is this run's own; with more, do not trust the figures)",
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def _libhiredis() -> str:
    words = {words[1]: words[2] for line in _lines("/usr/include/hiredis/hiredis.h") if len(words := line.split()) == 3}
    return ".".join(words.get(f"HIREDIS_{part}", "?") for part in ("MAJOR", "MINOR", "PATCH"))
