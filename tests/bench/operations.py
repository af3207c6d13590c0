"""The rows of operations: one call after the other, by one client.

Server and client are on one core for most of them: there a figure is the work that both do, not the time that a wake-up
on another core takes. Where a contender only hands a value over, its rounds end when the other side has the last one.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from machine import Machine, Worker, say
from peers import PEERS
from rows import Row, interleave, reasons


@dataclass(frozen=True)
class Operation:
    """Something that every contender is asked to do.

    Attributes:
        what: see `peers`.
        records: of the group.
        count: repetitions a round.
        histories: without (0) and with (1).
        goals: see `Row`.
    """

    what: str
    title: str
    records: int
    count: int
    histories: tuple[int, ...]
    goals: tuple[tuple[str, float], ...] = ()

    @property
    def key(self) -> str:
        """The row's key."""
        return f"{self.what}-{self.records}" if self.what in ("flush", "read") else self.what


OPERATIONS = [
    Operation("write", "write one record of 10 fields", 1, 4000, (0, 1), (("C", 0.85),)),
    Operation("flush", "flush two records atomically", 2, 2000, (0, 1)),
    Operation("flush", "flush eight records atomically", 8, 1000, (0, 1), (("C", 0.85),)),
    Operation("flush", "flush 64 records atomically", 64, 150, (0, 1)),
    Operation("one", "read one record, asking the server", 1, 4000, (0,)),
    Operation("read", "read eight records as one group", 8, 1000, (0,), (("C", 0.40),)),
    Operation("read", "read 64 records as one group", 64, 150, (0,)),
    Operation("unchanged", "read a record that did not change", 1, 4000, (0,), (("C", 20.0),)),
    Operation("turn", "write one of eight, read the eight", 8, 1000, (0, 1)),
]
AGAIN = ("write", "flush-8", "one", "read-8")  # without history, under the other conditions
CONDITIONS = [(cores, transport) for cores in ("one core", "apart") for transport in ("unix", "tcp")]
SHOWN = {"unix": "unix socket", "tcp": "TCP"}
ONLY_TCP = "by TCP: it has no unix sockets"


class Workers:
    """The contenders' processes, each started when it is first needed: a context manager."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._open = ExitStack()
        self._made: dict[tuple[str, str], Worker] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def get(self, name: str, transport: str, cores: str) -> Worker:
        """Return a contender's process, put where it is wanted."""
        transport = transport if PEERS[name].has_unix else "tcp"
        if (name, transport) not in self._made:
            self._made[name, transport] = self._open.enter_context(Worker(self._machine, name, transport))
        worker = self._made[name, transport]
        client = self._machine.one_core
        worker.place(client, client if cores == "one core" else self._machine.cores - client or client)
        return worker


def measure_row(
    workers: Workers, row: Row, operation: Operation, history: int, way: tuple[str, str], rounds: int
) -> Row:
    """Take all contenders' figures of one row."""
    cores, transport = way
    row.cannot = reasons(operation.what, history, transport)
    row.marks = {n: ONLY_TCP for n, peer in PEERS.items() if transport == "unix" and not peer.has_unix}
    row.marks = {name: mark for name, mark in row.marks.items() if name not in row.cannot}
    say(f"{row.title}, {row.conditions} ...")

    def take(name: str) -> None:
        worker = workers.get(name, transport, cores)
        figure, client, server = worker.operate(operation.what, operation.records, history, operation.count)
        row.add(name, figure, (client, server))

    return interleave(row, rounds, PEERS, take)


def measure(machine: Machine, rounds: int, wanted: Callable[[str], bool]) -> Iterable[Row]:
    """Yield the rows whose keys are wanted: all under the first conditions, some of them under the others."""
    operations = [operation for operation in OPERATIONS if wanted(operation.key)]
    with Workers(machine) as workers:
        for operation in operations:
            for history in operation.histories:
                with_it = "with history" if history else "without history"
                row = Row(operation.key, operation.title, "operations", with_it, goals=dict(operation.goals))
                yield measure_row(workers, row, operation, history, CONDITIONS[0], rounds)
        for operation in (o for o in operations if o.key in AGAIN):
            for way in CONDITIONS[1:]:
                row = Row(operation.key, operation.title, "conditions", f"{way[0]}, {SHOWN[way[1]]}")
                yield measure_row(workers, row, operation, 0, way, rounds)
