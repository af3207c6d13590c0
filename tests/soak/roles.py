"""The programs of a soak, each as its users would write it, and each keeping a journal of what it knows.

    python roles.py ROLE NAME URL FOLDER [OPTION=VALUE ...]

Whoever writes notes a number before it is sent (I), and then what came of it: acknowledged (A), of unknown outcome (U),
or refused (X). Whoever reads notes what it saw (R), and what was wrong with it (T). It knows the library's front rooms
and journals, nothing of faults or of what is expected. Invariants:

1. A number is noted as acknowledged only after the library said so, as seen only after the library returned it.
2. An error that the library names is noted, and the program goes on; any other ends it, which the soak reports.
"""

import ctypes
import gc
import os
import random
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import journal
from journal import BEGIN, CURSOR, DONE, END, FAILED, INTENT, REFUSED, SEEN, UNKNOWN, WRONG, Journal
from shareddata import DataDict, ServerError, SharedMemory, WriterConflict
from shareddata.archive import Emitter
from shareddata.archive import start as start_archivers
from shareddata.sensors import SensorReader, SensorWriter
from shareddata.tslog import TSLog

REPLACED = 3
"""The exit code of a writer that was told that another one has its records."""

LOG = {"formats": ["<QQd"], "bucket_size": 256, "commit_delta": 8, "nreaders": 2, "max_buckets": 64}
LARGE = 40_000  # elements of every twentieth array: a file of its own where everybody is on one machine


class Stop(BaseException):
    """The soak wants the program to end."""


class Program:
    """What every role has: its name, its journal, its options, and when to stop."""

    def __init__(self, role: str, name: str, url: str, folder: Path, options: dict[str, str]) -> None:
        self.role, self.name, self.url, self.folder, self.options = role, name, url, folder, options
        path = folder / f"{name}.journal"
        self.before = journal.read(path) if path.exists() else []
        self.note = Journal(path).note
        self.stopping = False
        self.began = any(line.kind == SEEN for line in self.before)
        self.chance = random.Random(f"{name} {len(self.before)}")
        self.pause = 1 / float(options.get("rate", 20))
        self._next = time.monotonic()

    def last(self, kind: str) -> int:
        """Return the highest number of this kind that an earlier copy of this program has noted."""
        return max((line.number for line in self.before if line.kind == kind), default=0)

    def memory(self) -> SharedMemory:
        """Connect, waiting for the server as long as it takes."""
        while True:
            try:
                return SharedMemory(url=self.url, timeout=1.0, wait=2.0)
            except ServerError:
                self.note(FAILED, "connect")
                self.rest()

    def rest(self) -> None:
        time.sleep(self.pause)

    def turns(self) -> Iterator[None]:
        """Yield at the program's rate until it is to stop."""
        while not self.stopping:
            yield
            self._next = max(self._next + self.pause, time.monotonic() - 1)
            time.sleep(max(0.0, self._next - time.monotonic()))


def values(number: int) -> dict[str, Any]:
    """Return a record's values, all of one number."""
    return {
        "number": number,
        "square": number * number,
        "seventh": number / 7,
        "text": f"n{number}",
        "crc": zlib.crc32(str(number).encode()),
    }


def torn(trame: Any) -> str:
    """Return what is wrong with a trame, in words; empty when it is whole."""
    if trame is None:
        return "no value"
    wanted = values(trame.number)
    if trame.ts == 0.0 and trame.number == 0:
        return ""
    return "" if trame._asdict() | wanted == trame._asdict() else str(trame)


def outcome(error: ServerError) -> str:
    return UNKNOWN if error.outcome_unknown else REFUSED


# -- records ----------------------------------------------------------------------------------------------------------


def writer(it: Program) -> None:
    """Write two records in one flush, again and again; repeat half of what failed, give up the other half."""
    number = max(it.last(INTENT), int(it.options.get("first", 0)))
    with it.memory() as shm, DataDict(it.name, shm, take_over="take_over" in it.options) as dd:
        records = claimed(it, dd)
        for _ in it.turns():
            number += 1
            for record in records:
                record.set(**values(number))
            while not flushed(it, dd, number) and it.chance.random() < 0.5:
                it.rest()
        it.note(END)


def claimed(it: Program, dd: DataDict) -> list[Any]:
    """Become the writer, waiting for another one to be gone."""
    while True:
        try:
            return dd.set_datas_to_write([f"{it.options['records']}__a", f"{it.options['records']}__b"])
        except (ServerError, WriterConflict) as error:
            it.note(FAILED, type(error).__name__)
            it.rest()


def flushed(it: Program, dd: DataDict, number: int) -> bool:
    it.note(INTENT, number)
    try:
        dd.flush()
    except WriterConflict as error:
        it.note(REFUSED, number, "WriterConflict")
        it.note(END, error)
        sys.exit(REPLACED)
    except ServerError as error:
        it.note(outcome(error), number, type(error).__name__)
        return False
    it.note(DONE, number)
    return True


def listener(it: Program) -> None:
    """Listen to a group."""
    with it.memory() as shm, DataDict(it.name, shm) as dd:
        listening = patiently(it, lambda: dd.listen_to_datas(pair(it)))
        for trames in listening:
            look(it, trames)


def poller(it: Program) -> None:
    """Read a group at a rate, from memory where nobody changed it."""
    with it.memory() as shm, DataDict(it.name, shm) as dd:
        patiently(it, lambda: dd.set_datas_to_read(pair(it)))
        for _ in it.turns():
            try:
                look(it, dd.next())
            except ServerError as error:
                it.note(FAILED, type(error).__name__)


def pair(it: Program) -> list[str]:
    return [f"{it.options['records']}__a", f"{it.options['records']}__b"]


def look(it: Program, trames: list[Any]) -> None:
    """Note what a group holds, or that it is torn; before its writer began it holds nothing."""
    if not it.began and trames == [None, None]:
        return
    it.began = True
    wrong = next(filter(None, map(torn, trames)), "")
    if wrong or trames[0].number != trames[1].number:
        it.note(WRONG, wrong or f"a group of {trames[0].number} and {trames[1].number}")
    elif trames[0].number:
        it.note(SEEN, trames[0].number)


def patiently(it: Program, made: Callable[[], Any]) -> Any:
    """Call until the server answers."""
    while True:
        try:
            return made()
        except ServerError as error:
            it.note(FAILED, type(error).__name__)
            it.rest()


def follower(it: Program) -> None:
    """Follow every update of one record, going on where an earlier copy ended."""
    seen = [line for line in it.before if line.kind == SEEN]
    since: Any = seen[-1].words[1] if seen else 0
    with it.memory() as shm, DataDict(it.name, shm) as dd:
        following = patiently(it, lambda: dd.follow_data(it.options["record"], since=since))
        for trame in following:
            if wrong := torn(trame):
                it.note(WRONG, wrong)
            if following.missed:
                it.note(WRONG, f"{following.missed} missed")
            it.note(SEEN, trame.number, following.id)


# -- logs -------------------------------------------------------------------------------------------------------------


def log_writer(it: Program) -> None:
    """Store records, and commit every eighth."""
    number = it.last(INTENT)
    with it.memory() as shm:
        log = patiently(it, lambda: TSLog("soak", shm=shm, **LOG))
        for _ in it.turns():
            it.note(INTENT, number + 1)
            try:
                seqn = log.store(number + 1, (number + 1) ** 2, (number + 1) / 7)
            except ServerError as error:
                it.note(FAILED, type(error).__name__)
                continue
            number += 1
            if seqn % 8 == 0:
                committed(it, log, number)
        while not committed(it, log, number):
            it.rest()
        if log.lost:
            it.note(WRONG, f"{log.lost} records lost, says the log")
        log.close()
        it.note(END)


def committed(it: Program, log: TSLog, number: int) -> bool:
    try:
        log.commit()
    except ServerError as error:
        it.note(UNKNOWN, number, type(error).__name__)
        return False
    it.note(DONE, number)
    return True


def log_reader(it: Program) -> None:
    """Read the log behind its cursor, and move that after every 16 records."""
    with it.memory() as shm:
        log = patiently(it, lambda: TSLog("soak", shm=shm, **LOG))
        reader = patiently(it, lambda: log.reader(int(it.options["reader"])))
        told = (0, 0)
        for number, square, seventh in reader.follow():
            if square != number**2 or seventh != number / 7:
                it.note(WRONG, f"record {reader.position}: {number} {square} {seventh}")
            it.note(SEEN, number, reader.position)
            if (reader.missed, reader.restarts) != told:
                told = reader.missed, reader.restarts
                it.note(WRONG, f"at {reader.position}: missed {told[0]}, restarts {told[1]}")
            if reader.position % 16 == 0:
                it.note(CURSOR, "wanted", reader.position)
                try:
                    reader.commit()
                    it.note(CURSOR, "moved", reader.position)
                except ServerError as error:
                    it.note(FAILED, type(error).__name__)


# -- events -----------------------------------------------------------------------------------------------------------


def emitter(it: Program) -> None:
    """Emit arrays, or objects; repeat half of what failed, give up the other half."""
    number = it.last(INTENT)
    with it.memory() as shm, Emitter(it.options["source"], "news", shm) as out:
        for _ in it.turns():
            number += 1
            payload: Any = {"number": number, "square": number**2}
            if it.options["source"] == "arrays":
                payload = np.full(LARGE if number % 20 == 0 else 10, number, "<u4")
            while not emitted(it, out, number, payload) and it.chance.random() < 0.5:
                it.rest()
        it.note(END)


def emitted(it: Program, out: Emitter, number: int, payload: Any) -> bool:
    it.note(INTENT, number)
    try:
        out.emit(payload, {"number": number})
    except ServerError as error:
        it.note(outcome(error), number, type(error).__name__)
        return False
    it.note(DONE, number)
    return True


def archiver(it: Program) -> None:
    """Archive one source."""
    kind = "ArrayArchiver" if it.options["source"] == "arrays" else "JsonArchiver"
    suffix = "npy" if kind == "ArrayArchiver" else "json"
    place = it.folder / it.options["source"]
    config = {
        "_id": it.name,
        "classname": f"shareddata.archive.{kind}",
        "arguments": {
            "object_selector": it.options["source"],
            "event_name": "news",
            "save_template": f"{place}/{{{{ number // 500 }}}}/{{{{ number }}}}.{suffix}",
            "dead_letters": str(it.folder / f"{it.name}.dead"),
        },
    }
    with it.memory() as shm, patiently(it, lambda: start_archivers(config, shm)) as archivers:
        stored = 0
        while True:
            status = archivers[0].status
            if status.stored > stored:
                stored = status.stored
                it.note(SEEN, stored)
            if status.dead:
                it.note(WRONG, f"{status.dead} dead letters")
            time.sleep(0.05)


# -- queues and sensors -----------------------------------------------------------------------------------------------


def pusher(it: Program) -> None:
    """Push into a queue; never repeat."""
    number = it.last(INTENT)
    with it.memory() as shm, DataDict(it.name, shm) as dd:
        (queue,) = dd.declare_fifos(["soak"])
        for _ in it.turns():
            number += 1
            it.note(INTENT, number)
            try:
                queue.push(number, number**2)
                it.note(DONE, number)
            except ServerError as error:
                it.note(outcome(error), number, type(error).__name__)
        it.note(END)


def popper(it: Program) -> None:
    """Pop from a queue."""
    with it.memory() as shm, DataDict(it.name, shm) as dd:
        (queue,) = dd.declare_fifos(["soak"])
        while True:
            try:
                element = queue.pop(timeout=1)
            except ServerError as error:
                it.note(FAILED, type(error).__name__)
                it.rest()
                continue
            if element is not None:
                number, square = element
                it.note(SEEN if square == number**2 else WRONG, number)


def sensor(it: Program) -> None:
    """Write a sensor's value; never repeat."""
    number = it.last(INTENT)
    with it.memory() as shm, SensorWriter("soak", it.name, shm) as out:
        for _ in it.turns():
            number += 1
            it.note(INTENT, number)
            try:
                out.write("value", {"number": number, "array": np.full(20, number, "<u4")})
                it.note(DONE, number)
            except ServerError as error:
                it.note(outcome(error), number, type(error).__name__)
        it.note(END)


def watchdog(it: Program) -> None:
    """Hear every write of a sensor."""

    def heard(value: Any) -> None:
        number = int(value["number"])
        whole = list(value["array"]) == [number] * 20
        it.note(SEEN if whole else WRONG, number)

    with it.memory() as shm:
        while True:
            try:
                reader = SensorReader("soak", it.options["sensor"], shm)
                reader.attach_watchdog("value", heard)
                break
            except (ServerError, FileNotFoundError) as error:
                it.note(FAILED, type(error).__name__)
                it.rest()
        with reader:
            while True:
                if reader.missed:
                    it.note(WRONG, f"{reader.missed} missed")
                time.sleep(0.2)


ROLES = {
    each.__name__: each
    for each in (writer, listener, poller, follower, log_writer, log_reader, emitter, archiver, pusher, popper, sensor)
} | {"watchdog": watchdog}
PRODUCERS = {"writer", "log_writer", "emitter", "pusher", "sensor"}


def collect() -> None:
    """Collect garbage every few seconds, so that memory that grows is memory that somebody holds.

    Left to itself Python keeps cycles, as of connections that broke, for minutes.
    """
    while True:
        time.sleep(5)
        gc.collect()


def main(role: str, name: str, url: str, folder: str, *options: str) -> None:
    """Run a role until SIGTERM; who writes finishes what it is about, who reads stops at once."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a soak that is killed leaves no program behind
    it = Program(role, name, url, Path(folder), dict(each.split("=", 1) for each in options))

    def stop(*_: object) -> None:
        it.stopping = True
        if role not in PRODUCERS:
            raise Stop

    it.note(BEGIN, os.getpid())
    threading.Thread(target=collect, daemon=True).start()
    try:
        signal.signal(signal.SIGTERM, stop)
        ROLES[role](it)
    except Stop:
        it.note(END)


if __name__ == "__main__":
    main(*sys.argv[1:])
