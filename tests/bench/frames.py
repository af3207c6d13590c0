"""The rows of large arrays, from `arrays` (which measures them), as rows of the one table.

The library hands arrays over in two ways, which are two rows beside the same figures of the others.
"""

import os
import tempfile
from collections.abc import Iterator

from arrays import WANTED
from arrays import Row as Measured
from arrays import measure as measure_arrays
from machine import place, say
from peers import FLOOR, OURS, PEERS
from rows import Row

NAMES = {"file": "files"}
WAYS = {"FrameFile": ("frame", "appended to a FrameFile"), "sensor": ("sensor", "a sensor's value")}


def put(server: int, cores: set[int]) -> None:
    """Put the server, this process and what it starts on these cores."""
    place(server, cores)
    place(os.getpid(), cores)


def row_of(measured: Measured, way: str) -> Row:
    """Return a row of what was measured: one of our ways beside the others."""
    key, words = WAYS[way]
    row = Row(key, f"array {measured.title}, {words}", "frames", f"{measured.where}, {measured.cores}")
    row.goals = {FLOOR: WANTED[measured.where]}
    figures = {NAMES.get(name, name): figures for name, figures in measured.figures.items()} | {
        OURS: measured.figures[way]
    }
    if measured.where == "TCP":
        row.cannot["files"] = PEERS["files"].cannot["tcp"]
    row.figures = {name: figures[name] for name in PEERS if name not in row.cannot}
    return row


def measure(executable: str, quick: bool) -> Iterator[Row]:
    """Yield the rows of arrays: from just before a write to the acknowledgement of a reader elsewhere."""
    say("arrays, writer to reader ...")
    cores = os.sched_getaffinity(0)
    try:
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            found = measure_arrays(folder, executable, quick, put)
    finally:
        place(os.getpid(), cores)
    for measured in found:
        yield from (row_of(measured, way) for way in WAYS)
