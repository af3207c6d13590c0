"""The rows of latencies: from just before a write to the values in other processes; and of the flood.

Writer, server and listeners are where the system puts them, but for the rows of one core. Everybody writes until all
listeners have heard something; then the clock starts. A repeated update does not count, the first tenth neither.
"""

import json
import statistics
import subprocess
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from machine import Machine, cpu_of, expect, place, running, say
from peers import FLOOR, PEERS
from rows import Row, interleave, reasons

ENDLESS = 10**9  # the last number of a flood, which nobody knows before


@dataclass(frozen=True)
class Hearing:
    """A row: how updates are heard, with history or without, at which pace, by how many.

    Attributes:
        count: how many updates.
        one_core: whether all processes are on one core.
        goals: see `Row`.
    """

    how: str
    history: int
    hertz: int
    listeners: int
    count: int
    one_core: bool = False
    goals: tuple[tuple[str, float], ...] = ()

    @property
    def key(self) -> str:
        """The row's key."""
        return f"{self.how}-{self.hertz}-{self.listeners}"

    @property
    def title(self) -> str:
        """What happens, in words."""
        who = "1 listener" if self.listeners == 1 else f"{self.listeners} listeners"
        what = "the newest values" if self.how == "listen" else "every update"
        pace = f"{self.hertz // 1000} kHz" if self.hertz > 999 else f"{self.hertz} Hz"
        return f"write -> {what} elsewhere, {who}, {pace}"


GOAL = (("redis-py", 1 / 0.35),)
HEARINGS = [
    Hearing("listen", 0, 200, 1, 400, goals=GOAL),
    Hearing("listen", 1, 200, 1, 400, goals=GOAL),
    Hearing("follow", 1, 200, 1, 400, goals=GOAL),
    Hearing("listen", 0, 200, 1, 400, one_core=True),
    Hearing("follow", 1, 200, 1, 400, one_core=True),
    Hearing("listen", 0, 5000, 1, 10000),
    Hearing("follow", 1, 5000, 1, 10000),
    Hearing("listen", 0, 200, 50, 400),
    Hearing("follow", 1, 200, 50, 400),
    Hearing("listen", 0, 5000, 50, 5000),
]


@dataclass
class Heard:
    """What came of one round: of each listener latencies and so on; CPU seconds in clients and server."""

    reports: list[dict[str, Any]]
    last: int
    client: float
    server: float


def listener_commands(machine: Machine, name: str, how: str, history: int, last: int, count: int) -> list[list[str]]:
    """Return the command lines that make so many listeners: one process forks them, C is started for each."""
    if name == FLOOR:
        return [machine.command(name, "unix", how, history, last)] * count
    return [machine.command(name, "unix", how, history, last, count)]


def hear(machine: Machine, name: str, commands: list[list[str]], write: list[str], cores: set[int]) -> Heard:
    """Run listeners and a writer of one contender."""
    server = machine.where.pid
    place(server, cores)
    with ExitStack() as stack:
        pipe = {"stdout": subprocess.PIPE}
        writer = stack.enter_context(running(write, cores, stdin=subprocess.PIPE, **pipe))
        expect(writer, f"the writer of {name}", "writing")
        listeners = [stack.enter_context(running(command, cores, **pipe)) for command in commands]
        for listener in listeners:
            expect(listener, f"a listener of {name}", "ready")
        before, served = cpu_of(writer.pid), cpu_of(server)
        writer.stdin.write("go\n")  # type: ignore[union-attr]
        writer.stdin.flush()  # type: ignore[union-attr]
        last = int(expect(writer, f"the writer of {name}"))
        client, served = cpu_of(writer.pid) - before, cpu_of(server) - served
        said = [listener.communicate()[0] for listener in listeners]
    place(server, machine.cores)
    reports = [json.loads(line) for text in said for line in text.splitlines() if line]
    return Heard(reports, last, client + sum(report["cpu"] for report in reports), served)


def percentiles(reports: list[dict[str, Any]]) -> tuple[float, float]:
    """Return p50 and p99 of all listeners' latencies together, without the first tenth of each."""
    pooled = [figure for report in reports for figure in report["us"][len(report["us"]) // 10 :]]
    return statistics.median(pooled), statistics.quantiles(pooled, n=100)[98]


def measure_hearing(machine: Machine, hearing: Hearing, rounds: int) -> Row:
    """Take all contenders' latencies of one row."""
    where = "one core" if hearing.one_core else f"{len(machine.cores)} cores"
    conditions = f"{'with' if hearing.history else 'without'} history, {where}"
    row = Row(hearing.key, hearing.title, "latencies", conditions, goals=dict(hearing.goals))
    cores = machine.one_core if hearing.one_core else machine.cores
    # Who hears every update without a server has no history, and needs none.
    row.cannot = reasons(hearing.how, hearing.history if hearing.how == "listen" else 0)
    say(f"{row.title}, {row.conditions} ...")

    def take(name: str) -> None:
        history = hearing.history if not PEERS[name].reason("write", 1) else 0
        last = hearing.count - 1
        commands = listener_commands(machine, name, hearing.how, history, last, hearing.listeners)
        write = machine.command(name, "unix", "pace", history, hearing.count, hearing.hertz)
        heard = hear(machine, name, commands, write, cores)
        fewest = min(len(report["us"]) for report in heard.reports)
        if fewest < 20:
            row.fails(name, f"a listener heard {fewest} of {hearing.count} updates")
            return
        p50, p99 = percentiles(heard.reports)
        is_redis = not PEERS[name].holds and name != "files"
        each = 1e6 / hearing.count
        row.add(name, p50, (heard.client * each, heard.server * each if is_redis else 0.0))
        row.tails.setdefault(name, []).append(p99)
        row.heard.setdefault(name, []).append(fewest / hearing.count)

    return interleave(row, rounds, PEERS, take)


def measure_flood(machine: Machine, rounds: int, seconds: float) -> list[Row]:
    """Take what a listener sees that needs 10 ms for each update, while a writer writes as fast as it can."""
    conditions = f"without history, {len(machine.cores)} cores"
    age = Row("flood-age", "flood: age of the values that a slow listener sees", "flood", conditions)
    end = Row("flood-last", "flood: the last value comes after (the listener's 10 ms in it)", "flood", conditions)
    end.ranked = False
    for row in (age, end):
        row.cannot = reasons("listen")
    say(f"{age.title} ...")

    def take(name: str) -> None:
        commands = listener_commands(machine, name, "slow", 0, ENDLESS, 1)
        heard = hear(machine, name, commands, machine.command(name, "unix", "flood", 0, seconds), machine.cores)
        (report,) = heard.reports
        age.marks[name] = f"sees {len(report['us'])} of {heard.last + 1}"
        if report["backwards"]:
            age.marks[name] += f", {report['backwards']} of them older than one before"
        if report["repeated"]:
            age.marks[name] += f"; woke {report['repeated']} times for nothing new"
        if len(report["us"]) < 20:
            age.fails(name, f"saw {len(report['us'])} of {heard.last + 1}")
            end.cannot[name] = age.cannot[name]
            return
        p50, p99 = percentiles([report])
        age.add(name, p50)
        age.tails.setdefault(name, []).append(p99)
        if report["last"] != heard.last:
            end.fails(name, "the last value did not come")
        elif name not in end.cannot:
            end.add(name, report["us"][-1])

    interleave(age, rounds, PEERS, take)
    return [age, end]


def measure(machine: Machine, rounds: int, wanted: Callable[[str], bool], flood_seconds: float) -> Iterable[Row]:
    """Yield the rows of latencies whose keys are wanted, and of the flood."""
    for hearing in HEARINGS:
        if wanted(hearing.key):
            yield measure_hearing(machine, hearing, rounds)
    if wanted("flood"):
        yield from measure_flood(machine, rounds, flood_seconds)

