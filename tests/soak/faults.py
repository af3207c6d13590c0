"""What can happen to programs, to their server and to what is between them.

Each fault is a context manager: it does its harm, yields who is affected, and mends on leaving. It knows the world, not
the oracle. Invariant: a fault that was left is mended, whatever was raised meanwhile.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from proxy import Proxy
from world import Slot, World

Fault = Callable[[World], AbstractContextManager[list[Slot]]]


@contextmanager
def server_killed(world: World) -> Iterator[list[Slot]]:
    """SIGKILL, and the server starts again on the same folder."""
    world.kill_server()
    try:
        yield world.slots
    finally:
        world.start_server()


@contextmanager
def server_stopped(world: World) -> Iterator[list[Slot]]:
    """SIGSTOP: silent, connections stay open; then SIGCONT."""
    pid, world.server_expected = world.server.pid, False
    os.kill(pid, signal.SIGSTOP)
    try:
        yield world.slots
    finally:
        os.kill(pid, signal.SIGCONT)
        world.server_expected = True


def _on_link(world: World) -> tuple[str, list[Slot]]:
    name = world.chance.choice(sorted(world.links))
    return name, [slot for slot in world.slots if slot.link == name]


@contextmanager
def link_cut(world: World) -> Iterator[list[Slot]]:
    """Every connection over one link is reset; new ones are welcome."""
    name, slots = _on_link(world)
    world.links[name].cut()
    yield slots


@contextmanager
def link_away(world: World) -> Iterator[list[Slot]]:
    """Connections over one link are reset, and so is each new one."""
    name, slots = _on_link(world)
    world.links[name].refuse()
    try:
        yield slots
    finally:
        world.links[name].heal()


@contextmanager
def link_silent(world: World) -> Iterator[list[Slot]]:
    """A black hole: all is taken, nothing arrives; then the connections are reset, as the machines' own would be."""
    with _disturbed(world, Proxy.swallow) as slots:
        yield slots


@contextmanager
def answers_lost(world: World) -> Iterator[list[Slot]]:
    """Requests arrive, answers don't: every outcome is unknown."""
    with _disturbed(world, Proxy.half_open) as slots:
        yield slots


@contextmanager
def _disturbed(world: World, disturb: Callable[[Proxy], None]) -> Iterator[list[Slot]]:
    """Do something to a link, heal it in the end, and cut what went over it meanwhile."""
    name, slots = _on_link(world)
    disturb(world.links[name])
    try:
        yield slots
    finally:
        world.links[name].heal()
        world.links[name].cut()


@contextmanager
def link_slow(world: World) -> Iterator[list[Slot]]:
    """Each piece of data waits on its way."""
    name, slots = _on_link(world)
    world.links[name].latency = world.chance.uniform(0.01, 0.2)
    try:
        yield slots
    finally:
        world.links[name].heal()


@contextmanager
def program_killed(world: World) -> Iterator[list[Slot]]:
    """SIGKILL of one to three programs; each is started again."""
    able = [slot for slot in world.slots if slot.killable]
    chosen = world.chance.sample(able, world.chance.choice((1, 1, 2, 3)))
    for slot in chosen:
        if slot.process is not None and slot.process.poll() is None:
            slot.killed = True
            slot.process.kill()
    yield chosen


@contextmanager
def program_stopped(world: World) -> Iterator[list[Slot]]:
    """SIGSTOP of one to four programs, then SIGCONT."""
    chosen = world.chance.sample(world.slots, world.chance.randint(1, 4))
    processes = [slot.process for slot in chosen if slot.process is not None and slot.process.poll() is None]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield chosen
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@contextmanager
def writer_replaced(world: World) -> Iterator[list[Slot]]:
    """Another copy of a handler takes its records while the first one runs."""
    chosen = world.chance.choice([slot for slot in world.slots if slot.name == "HDL_TWO"])
    world.replace(chosen)
    yield [chosen]


@contextmanager
def disk_full(world: World) -> Iterator[list[Slot]]:
    """The disk of the server's file has no room: with fsync=always the server ends; then there is room again."""
    filler, world.server_expected = world.disk / "filler", False
    try:
        _fill(filler)
        yield world.slots
    finally:
        filler.unlink()
        world.run(0.05)
        if world.server.server.ended():
            world.start_server()
        world.server_expected = True


def _fill(filler: Path) -> None:
    with filler.open("wb") as file:
        room, size = os.statvfs(filler.parent).f_bavail * os.statvfs(filler.parent).f_frsize, 0
        while room > 4096:
            try:
                os.posix_fallocate(file.fileno(), size, room)
                size += room
            except OSError:  # the server was quicker
                pass
            room = os.statvfs(filler.parent).f_bavail * os.statvfs(filler.parent).f_frsize


@contextmanager
def disk_slow(world: World) -> Iterator[list[Slot]]:
    """Each fsync takes 20 ms to half a second longer, or longer than programs wait for an answer."""
    world.control("server").sync(world.chance.choice((0.02, 0.1, 0.3, 0.5, 1.5)))
    try:
        yield world.slots
    finally:
        world.control("server").sync(0)


@contextmanager
def server_clock_set(world: World) -> Iterator[list[Slot]]:
    """The server's wall clock is set by up to an hour, forward or back, and stays so."""
    world.control("server").clock(_step(world))
    yield world.slots


@contextmanager
def program_clock_set(world: World) -> Iterator[list[Slot]]:
    """The wall clock of some programs is set by up to an hour, forward or back, and stays so."""
    chosen = world.chance.sample(world.slots, 4)
    for slot in chosen:
        world.control(slot.name).clock(_step(world))
    yield chosen


def _step(world: World) -> float:
    return world.chance.choice((-1, 1)) * world.chance.choice((0.5, 5, 60, 3600)) * world.chance.random()


FAULTS: Mapping[str, tuple[Fault, float, float]] = {
    "server killed": (server_killed, 0.0, 2.5),
    "server stopped": (server_stopped, 0.2, 4.0),
    "link cut": (link_cut, 0.0, 0.2),
    "link away": (link_away, 0.3, 3.0),
    "link silent": (link_silent, 0.3, 4.0),
    "answers lost": (answers_lost, 0.3, 4.0),
    "link slow": (link_slow, 0.5, 3.0),
    "program killed": (program_killed, 0.0, 0.1),
    "program stopped": (program_stopped, 0.3, 5.0),
    "writer replaced": (writer_replaced, 0.0, 0.5),
    "disk full": (disk_full, 0.3, 2.0),
    "disk slow": (disk_slow, 0.5, 3.0),
    "server's clock set": (server_clock_set, 0.5, 1.0),
    "programs' clocks set": (program_clock_set, 0.2, 0.5),
}
"""What can happen, and for how many seconds at least and at most."""

ON_SERVERS = ("server killed", "server stopped", "disk full", "disk slow", "server's clock set")
"""Of these only one at a time happens."""


_PRELOADED = ("disk slow", "server's clock set", "programs' clocks set")
NEEDS = {"disk full": "small disk"} | dict.fromkeys(_PRELOADED, "preload")


def possible(world: World) -> list[str]:
    """Return the faults that can be made here."""
    return [name for name in FAULTS if NEEDS.get(name) not in world.skipped]
