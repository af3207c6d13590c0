"""The array rows: large values from a writer to a reader in another process, on one machine and over TCP.

    scripts/bench --arrays [--quick] [--server redis-server] [--json FILE] [--markdown FILE]

A figure is the time from just before the write to the reader's acknowledgement: writer and reader take turns, the
writer says through a pipe that there is a value, the reader answers through another one with the sum of every 4096th
byte, which is compared. C sends SET and GET (arrayfloor.c). Rounds are interleaved. Server, writer and reader are on
one core, so that a figure is the work that they do, and in the long form again where the system puts them. TCP is the
loopback.
"""

import gc
import itertools
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from arraypeers import CONTENDERS, SUM, VALUES, arrays, touched
from report import environment

from shareddata.server import Server

HERE = Path(__file__).parent
TITLES = {"frame": "1024 x 1024 uint16, 2 MB", "picture": "2000 x 1000 RGB, 6 MB"}
WANTED = {"one machine": 5.0, "TCP": 0.9}
FLOOR = "C"
PER_ROUND = 60_000_000  # bytes handed over by each contender


@dataclass
class Row:
    """One line of the table: microseconds a value for each contender, one figure a round."""

    title: str
    where: str
    cores: str
    figures: dict[str, list[float]]

    def cells(self) -> list[str]:
        """Return the row's texts, in the order of `header`."""
        times = [f"{statistics.median(values):.0f}" for values in self.figures.values()]
        ratios = []
        for name in CONTENDERS:
            found = [floor / own for floor, own in zip(self.figures[FLOOR], self.figures[name])]
            ratios.append(f"{statistics.median(found):.2f} ({min(found):.2f}..{max(found):.2f})")
        return [self.title, f"{self.where}, {self.cores}", *times, *ratios, f"{WANTED[self.where]:g}"]


def header() -> list[str]:
    """Return the titles of the columns."""
    return ["value", "where", f"{FLOOR} us", *[f"{name} us" for name in CONTENDERS], *[
        f"{name} x {FLOOR}" for name in CONTENDERS], "wanted"]


class Pair:
    """A contender's writer, here, and its reader, a process of its own: a context manager."""

    def __init__(self, name: str, address: str, kind: str) -> None:
        self.peer = CONTENDERS[name](address, kind)
        self.values = [(value, touched(value)) for value in arrays(kind)]
        command = [sys.executable, str(HERE / "arraypeers.py"), name, address, kind]
        self.reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.communicate()
        self.peer.close()

    def hand_over(self, turn: int) -> None:
        """Write a value and wait until the reader has it."""
        value, expected = self.values[turn % len(self.values)]
        self.peer.write(value)
        os.write(self.reader.stdin.fileno(), b"x")  # type: ignore[union-attr]
        answer = os.read(self.reader.stdout.fileno(), SUM.size)  # type: ignore[union-attr]
        if not answer:
            sys.exit(f"bench: the reader of {self.peer} ended")
        assert SUM.unpack(answer)[0] == expected, "the reader has other bytes"

    def timed(self, count: int) -> float:
        """Return the microseconds a value takes."""
        for turn in range(len(self.values)):
            self.hand_over(turn)
        gc.collect()
        start = time.perf_counter()
        for turn in range(count):
            self.hand_over(turn)
        return (time.perf_counter() - start) / count * 1e6


def build_floor(folder: str) -> str:
    """Compile arrayfloor.c and return its path."""
    program = f"{folder}/arrayfloor"
    subprocess.run(["cc", "-O2", "-o", program, str(HERE / "arrayfloor.c"), "-lhiredis"], check=True)
    return program


def measure_row(floor: str, addresses: tuple[str, str], row: Row, kind: str, rounds: int) -> None:
    """Time every contender, one after the other in each round; the first one, with cold memory, does not count."""
    of_floor, address = addresses
    shape, dtype = VALUES[kind]
    size = math.prod(shape) * dtype.itemsize
    count = PER_ROUND // size
    with ExitStack() as stack:
        pairs = {name: stack.enter_context(Pair(name, address, kind)) for name in CONTENDERS}
        for number in range(rounds + 1):
            figures = {FLOOR: float(subprocess.check_output([floor, of_floor, str(size), str(count)]))}
            figures |= {name: pair.timed(count) for name, pair in pairs.items()}
            for name, figure in figures.items():
                row.figures[name] += [figure] if number else []


def free_port() -> int:
    """Return a TCP port that nobody listens to just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(folder: str, executable: str, quick: bool, place: Callable[[int, set[int]], None]) -> list[Row]:
    """Return the rows.

    Args:
        folder: for the server and the C program.
        executable: the server's.
        quick: fewer rounds, and on one core only.
        place: puts the server, this process and what it starts on these cores.
    """
    floor, port, cores = build_floor(folder), free_port(), os.sched_getaffinity(0)
    options = ("--appendonly", "no", "--bind", "127.0.0.1", "--port", str(port))
    rows = []
    with Server(f"{folder}/server", executable=executable, options=options) as server:
        ways = {
            "one machine": (f"unix:{server.socket_path}", server.url),
            "TCP": (f"tcp:{port}", f"redis://127.0.0.1:{port}"),
        }
        for used in [{max(cores)}] if quick else [{max(cores)}, cores]:
            place(server.pid, used)
            named = f"{len(used)} core{'s' * (len(used) > 1)}"
            for kind, (where, addresses) in itertools.product(VALUES, ways.items()):
                rows.append(Row(TITLES[kind], where, named, {name: [] for name in (FLOOR, *CONTENDERS)}))
                measure_row(floor, addresses, rows[-1], kind, 5 if quick else 15)
    return rows


NOTES = (
    "x C: C's time divided by the contender's in the same round: 1 is as fast as C; median (least..greatest).",
    "From just before the write to the acknowledgement of another process, which adds up every 4096th byte.",
    "FrameFile and sensor keep two values here; more take more memory than the processor's caches have, and more time.",
    "C and redis-py SET and GET the bytes; the file is written to memory, renamed and mapped, and knows no server.",
)


def about(executable: str) -> dict[str, str]:
    """Return what the figures depend on."""
    return environment(executable) | {"server": f"{Path(executable).name}, no persistence, unix socket and loopback"}


def markdown(rows: list[Row], executable: str) -> str:
    """Return the table in Markdown, with what it depends on."""
    table = [header(), ["---"] * len(header()), *[row.cells() for row in rows]]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    notes = [f"- {text}" for text in NOTES] + [f"- {name}: {value}" for name, value in about(executable).items()]
    return "\n".join([*lines, "", *notes, ""])


def save(path: str, rows: list[Row], executable: str) -> None:
    """Write every figure of every round to a file."""
    content = {"environment": about(executable), "rows": [asdict(row) for row in rows]}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
