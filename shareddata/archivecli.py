"""The command of archivers: archive.

As in `cli`, it parses its arguments, calls the library and prints what it says. It knows what the command is for; it
must not know keys, sockets, files or formats. Invariants:

1. Ctrl-C and SIGTERM end it after what was emitted until then is stored; a second one interrupts it.
2. What could not be stored is told on standard error, with the dead letter that holds it.
"""

import json as json_text
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from shareddata import archive, arguments, backlog, table
from shareddata.archiver import DataArchiver
from shareddata.command import UsageError, Where, command
from shareddata.memory import SharedMemory

_EVERY = 60.0  # seconds between two tables where nobody watches


@command(
    json=arguments.JSON,
    retry_dead_letters=("Try again what became dead letters, and end", "flag", "t"),
    list_=("List sources, what waits there, and for which archivers", "flag", "l"),
    forget=("Give an archiver up: events don't wait for it any more", "option", "f", str, None, "NAME"),
    files=("Configurations of archivers (JSON)", "positional", None, str, None, "FILE"),
)
def archive_(
    where: Where,
    json: bool = False,
    retry_dead_letters: bool = False,
    list_: bool = False,
    forget: str | None = None,
    *files: str,
) -> int:
    """Store what is emitted in files: arrays, JSON, HDF5.

    Each configuration is an object with _id, classname and arguments, or a list of such. All archivers run in this one
    process. What was emitted while it did not run is stored first. Ctrl-C ends it, with exit code 0, after what was
    emitted until then is stored. An event that cannot be stored becomes a dead letter, which is told.

    Examples:
      shareddata archive my-camera.json spectrometer.json
      shareddata archive --list
      shareddata archive --retry-dead-letters my-camera.json
      shareddata archive --forget my-old-camera
    """
    if bool(files) + list_ + bool(forget) != 1 or retry_dead_letters and not files:
        raise UsageError("give configurations (JSON files), or --list, or --forget NAME")
    if list_ or forget:
        with where.open(arguments.SOON) as shm:
            return _listed(shm, json) if list_ else _forgotten(shm, str(forget))
    archive.configured(files)  # before the server is waited for
    with where.open() as shm, _stopping() as stop:
        if retry_dead_letters:
            return _retried(archive.start(files, shm, subscribe=False), stop, json)
        with archive.start(files, shm) as archivers:
            _watch(archivers, stop, json)
        _tell(archivers, json)
    return 0


def _watch(archivers: archive.Archivers, stop: threading.Event, json: bool) -> None:
    """Show what is stored, until it is time to stop."""
    if not json:
        _tell(archivers, False)
    told, shown = time.monotonic(), [each.status for each in archivers]
    with arguments.progress(lambda: _line(archivers)) as show:
        while not stop.wait(0.5):
            show(None)
            now = [each.status for each in archivers]
            if not json and not sys.stderr.isatty() and now != shown and time.monotonic() - told > _EVERY:
                _tell(archivers, False)
                told, shown = time.monotonic(), now


def _retried(archivers: archive.Archivers, stop: threading.Event, json: bool) -> int:
    """Try dead letters again; the exit code is 1 when some are left."""
    with archivers:
        count = sum(each.retry_dead_letters() for each in archivers if not stop.is_set())
    _tell(archivers, json)
    left = count - sum(each.status.stored for each in archivers)
    if not json:
        print(f"{arguments.count(count, 'dead letter')} tried again, {left} left")
    return int(left > 0)


def _line(archivers: Sequence[DataArchiver]) -> str:
    words = []
    for each in archivers:
        done = each.status
        state = f"waits: {done.paused}" if done.paused else f"{done.waiting} in hand"
        words.append(f"{each.name} {done.stored} stored, {done.dead} dead, {state}")
    return "   ".join(words)


def _tell(archivers: Sequence[DataArchiver], json: bool) -> None:
    if json:
        found = [{"name": each.name, **each.status._asdict()} for each in archivers]
        print(json_text.dumps(found, ensure_ascii=False), flush=True)
        return
    rows = [("ARCHIVER", "EVENTS", "STORED", "FAILED", "DEAD", "LAST FILE")]
    for each in archivers:
        done = each.status
        events = f"{each.event_name} of {each.object_selector}"
        numbers = (str(done.stored), str(done.failed), str(done.dead))
        rows.append((each.name, events, *numbers, table.clean(done.paused or done.last or "-")))
    print("\n".join(table.grid(rows, right=[2, 3, 4])), flush=True)


def _listed(shm: SharedMemory, json: bool) -> int:
    found = backlog.backlogs(shm)
    if json:
        print(json_text.dumps([each._asdict() for each in found], ensure_ascii=False))
        return 0
    rows = [("SOURCE", "EVENT", "KEPT", "MB", "DROPPED", "NOT YET ARCHIVED BY")]
    for each in found:
        waiting = ", ".join(f"{name} ({count})" for name, count in each.archivers.items())
        numbers = (str(each.events), f"{each.bytes / 1e6:.1f}", str(each.dropped))
        rows.append((each.source, each.event, *numbers, waiting or "- (no archiver)"))
    print("\n".join(table.grid(rows, right=[2, 3, 4])))
    return 0


def _forgotten(shm: SharedMemory, name: str) -> int:
    count = backlog.forget(shm, name)
    print(f"{name} is given up: events of {arguments.count(count, 'source')} don't wait for it any more")
    return 0


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Give an event that the first SIGINT or SIGTERM sets; a second one interrupts the program as usual."""
    stop = threading.Event()
    before: dict[int, Any] = {}

    def set_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, set_stop)
        yield stop
    finally:
        restore()
