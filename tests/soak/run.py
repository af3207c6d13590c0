"""Run handlers, listeners, logs and archivers under random faults, and tell what was held.

Some twenty programs write and read through a private server with fsync=always, each in a process of its own and each
with a journal of what it knows. Meanwhile the server is killed, stopped, its disk is full or slow, its clock is set;
links are cut, silent, slow; programs are killed, stopped, replaced by a second copy. Who knows all journals compares
what was acknowledged with what everybody saw, all the time and at the end. Ends with 1 when anything was lost, torn,
doubled, out of order or late, when a program ended by itself, or when memory or file descriptors did not stay level.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "rig"))

import reporting
from faults import FAULTS, ON_SERVERS, possible
from reporting import Event, Result
from servers import EXECUTABLES
from world import Slot, World

EXAMPLES = """examples:
  scripts/soak                                  thirty seconds; a report on standard output
  scripts/soak --seconds 600 --report soak.md   ten minutes, the report into a file
  scripts/soak --seed 7 --only "server killed,link cut"
                                                the same faults in the same order as another run with seed 7
  scripts/soak --server redis --json soak.json  on Debian's redis-server; all figures, for a program

The seed settles which faults come in which order and for how long, not how far each program is at that moment.
Control-C ends it early, with a report of what was until then; a second one ends it at once. As root it also fills the
disk (a small one of its own); with a C compiler it also slows the disk down and sets clocks. What cannot be made here
is said in the report. One fault comes after another, some two at once; each time all have to get on with their work."""

BACK_WITHIN = 25.0
"""Seconds after a fault within which everybody must have got on."""


def faults(world: World, allowed: list[str]) -> Iterator[list[str]]:
    """Yield what happens next: one fault, or one of the server's and another one."""
    while True:
        names = world.chance.sample(allowed, len(allowed))
        for name in names:  # each once before any comes again
            others = [each for each in allowed if (each in ON_SERVERS) != (name in ON_SERVERS)]
            yield [name, world.chance.choice(others)] if others and world.chance.random() < 0.2 else [name]


def inject(world: World, names: list[str]) -> Event:
    """Let faults happen, and wait until all who were affected got on with their work."""
    affected: set[Slot] = set()
    hold = max(world.chance.uniform(*FAULTS[name][1:]) for name in names)
    with ExitStack() as stack:
        for name in names:
            affected |= set(stack.enter_context(FAULTS[name][0](world)))
        world.run(hold)
    mended = time.monotonic()
    back = world.wait(lambda: all(slot.progress > mended for slot in affected), BACK_WITHIN)
    for slot in affected:
        if not back and slot.progress <= mended:
            world.troubles.append(f"{slot}: did not get on within {BACK_WITHIN:g} s after: {' and '.join(names)}")
    times = {slot.name: slot.first_progress(mended) for slot in affected}
    return Event(" and ".join(names), hold, {name: at - mended for name, at in times.items() if at is not None})


def soak(world: World, seconds: float, allowed: list[str], say: reporting.Say) -> list[Event]:
    """Let faults happen for so long; a control-C ends it early."""
    events: list[Event] = []
    begin = time.monotonic()
    try:
        if not world.wait(lambda: all(slot.progress for slot in world.slots), 30):
            waiting = [slot.name for slot in world.slots if not slot.progress]
            world.troubles.append(f"did not begin within 30 s: {', '.join(waiting)}")
        coming = faults(world, allowed)
        while (now := time.monotonic() - begin) < seconds:
            world.run(world.chance.uniform(0.1, 1.0))
            names = next(coming)
            event = inject(world, names)
            events.append(event)
            say(f"{now:6.1f} s  {event}  {reporting.so_far(world)}")
    except KeyboardInterrupt:
        say("ending early ...")
    return events


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/soak", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30, help="how long (30); ends and reports come on top")
    parser.add_argument("--seed", type=int, help="of what is random; another one each time if not given")
    parser.add_argument("--server", choices=sorted(EXECUTABLES), default="valkey", help="which kind (valkey)")
    parser.add_argument("--rate", type=float, default=1.0, help="how much is written: a factor (1)")
    parser.add_argument("--only", metavar="FAULTS", help="only these, with commas between; see below")
    parser.add_argument("--without", metavar="FAULTS", help="all but these")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the report there")
    parser.add_argument("--page", action="store_true", help="write the report into docs/explain/soak.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep journals there, when anything is wrong")
    parser.epilog = f"{EXAMPLES}\n\nfaults:\n" + "\n".join(
        f"  {name:22} {fault.__doc__}" for name, (fault, *_) in FAULTS.items()
    )
    return parser.parse_args()


def chosen(asked: argparse.Namespace, world: World) -> list[str]:
    """Return the faults that were asked for and can be made here."""
    only = [name.strip() for name in asked.only.split(",")] if asked.only else list(FAULTS)
    without = [name.strip() for name in asked.without.split(",")] if asked.without else []
    return [name for name in possible(world) if name in only and name not in without]


def check(asked: argparse.Namespace) -> None:
    for text in (asked.only, asked.without):
        if unknown := [each for each in (text or "").split(",") if text and each.strip() not in FAULTS]:
            sys.exit(f"soak: no fault {', '.join(unknown)}: there are {', '.join(FAULTS)}")


def main() -> int:
    """Run it; return 1 when anything was wrong."""
    asked = arguments()
    check(asked)
    seed = asked.seed if asked.seed is not None else int.from_bytes(os.urandom(3), "big")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    say: reporting.Say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    say(f"seed {seed}, {asked.seconds:g} s, {asked.server}; control-C ends it early")
    with World(asked.server, seed, asked.rate) as world:
        allowed = chosen(asked, world)
        if not allowed:
            sys.exit("soak: none of these faults can be made here: " + "; ".join(world.skipped.values()))
        begin = time.monotonic()
        events = soak(world, asked.seconds, allowed, say)
        lasted = time.monotonic() - begin
        say("who writes ends, who reads catches up ...")
        world.finish()
        result = Result.of(world, seed, lasted, events)
        if asked.keep and not result.good:
            reporting.keep(world, asked.keep)
    text = result.markdown()
    print(text, end="")
    if asked.report:
        asked.report.write_text(text)
    if asked.page:
        reporting.write_page(text)
    if asked.json:
        asked.json.write_text(result.json())
    return 0 if result.good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("soak: ended at once")
