"""The rows of large arrays, from `arrays` (which measures them), as rows of the one table.

Contenders are named there as here, but for those in the table below.
"""

import tempfile
from collections.abc import Iterator

from arrays import WANTED
from arrays import measure as measure_arrays
from machine import say
from peers import FLOOR, PEERS
from rows import Row

NAMES = {"file": "files"}
NOT_MEASURED = "not measured with arrays"


def measure(executable: str, rounds: int) -> Iterator[Row]:
    """Yield the rows of arrays: from just before a write to the acknowledgement of a reader elsewhere."""
    say("arrays, writer to reader ...")
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        found = measure_arrays(folder, executable, rounds)
    for measured in found:
        row = Row("frame", f"array {measured.title}, writer to reader", "frames", measured.where)
        row.goals = {FLOOR: WANTED[measured.where]}
        row.figures = {NAMES.get(name, name): figures for name, figures in measured.figures.items()}
        row.cannot = {name: NOT_MEASURED for name in PEERS if name not in row.figures}
        yield row
