"""One end of a row, a process of its own: a client whose calls are timed, a writer, listeners, or the other program.

    python worker.py CONTENDER WHERE operate              rows of operations, as lines of JSON
    python worker.py CONTENDER WHERE hold                 the other program, until its standard input ends
    python worker.py CONTENDER WHERE pace HISTORY COUNT HERTZ
    python worker.py CONTENDER WHERE flood HISTORY SECONDS
    python worker.py CONTENDER WHERE listen|follow|slow HISTORY LAST LISTENERS

It knows how times are taken, and no contender. Writers put time.monotonic() into field_0 just before they write, and
a number into field_1: below 0 while they warm up (they say "writing"), until a line comes on the standard input. At
the end they say the last number. A listener says "ready" when it has heard something, and at the end one line of JSON
for each listener. floor.c has the same interface. Invariant: every CPU time is that of whole processes, all their
threads.
"""

import gc
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from peers import PEERS, SILENCE, load
from workload import ROWS, Where

WARM_UP_EVERY = 0.02
SLOW = 0.01  # seconds that a slow listener takes for each update


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has had, all its threads; 0 for none."""
    return time.clock_gettime(((~pid) << 3) | 2) if pid else 0.0


# -- operations -----------------------------------------------------------------------------------------------------


def timed(operation: Callable[[int], object], settle: Callable[[], None], count: int, pid: int) -> list[float]:
    """Return microseconds, those of CPU in this process and those in the other one, of a call; over at least 50 ms."""
    for turn in range(count // 10):
        operation(turn)
    settle()
    gc.collect()
    done, others, own, start = 0, cpu_of(pid), time.process_time(), time.perf_counter()
    while (elapsed := time.perf_counter() - start) < 0.05 or not done:
        for turn in range(count):
            operation(turn)
        settle()
        done += count
    figures = (elapsed, time.process_time() - own, cpu_of(pid) - others)
    return [figure / done * 1e6 for figure in figures]


def operate(contender: Any, where: Where) -> None:
    """Time operations, as asked for on the standard input."""
    made: dict[str, Callable[[int], object]] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        what, records, history, count = json.loads(line)
        if line not in made:
            made[line] = contender.operation(what, records, history)
        print(json.dumps(timed(made[line], contender.settle, count, where.pid)), flush=True)


# -- writers --------------------------------------------------------------------------------------------------------


def warm_up(write: Callable[[tuple[float, ...]], object]) -> None:
    """Say that values come, and write until everybody listens: until a line comes."""
    write((time.monotonic(), number := -1.0, *ROWS[0][2:]))
    print("writing", flush=True)
    while not select.select([sys.stdin], [], [], WARM_UP_EVERY)[0]:
        number -= 1
        write((time.monotonic(), number, *ROWS[0][2:]))


def pace(write: Callable[[tuple[float, ...]], object], count: int, hertz: float) -> int:
    """Write at a steady pace; return the last number."""
    start = time.monotonic()
    for turn in range(count):
        rest = ROWS[turn % 256][2:]
        if (pause := start + (turn + 1) / hertz - time.monotonic()) > 0:
            time.sleep(pause)
        write((time.monotonic(), float(turn), *rest))
    return count - 1


def flood(write: Callable[[tuple[float, ...]], object], seconds: float) -> int:
    """Write as fast as it goes; return the last number."""
    end, turn = time.monotonic() + seconds, -1
    while time.monotonic() < end:
        turn += 1
        write((time.monotonic(), float(turn), *ROWS[turn % 256][2:]))
    return turn


# -- listeners ------------------------------------------------------------------------------------------------------


class Ear:
    """What one listener has heard: latencies in us and the numbers of the updates; repeated ones do not count."""

    def __init__(self, last: int, slow: bool, ready: Callable[[], None]) -> None:
        self.last, self.slow, self.ready = last, slow, ready
        self.latencies: list[float] = []
        self.number, self.backwards, self.repeated = -1, 0, 0
        self.cpu = self.news_at = 0.0

    def heard(self, values: tuple[float, ...]) -> bool:
        """Note an update; tell whether it is the last one, or nothing new has come for long."""
        now = time.monotonic()
        sent, number = values[0], int(values[1])
        if number < 0:
            if not self.cpu:
                self.ready()
                self.cpu = time.process_time()
        elif number > self.number:
            self.latencies.append((now - sent) * 1e6)
            self.number, self.news_at = number, now
        else:
            self.backwards += number < self.number
            self.repeated += number == self.number
        if self.slow:
            time.sleep(SLOW)
        return self.number == self.last or bool(self.news_at and now - self.news_at > SILENCE)

    def report(self) -> str:
        """Return what it heard as a line of JSON."""
        cpu = time.process_time() - self.cpu
        figures = [round(figure, 1) for figure in self.latencies]
        counts = {"last": self.number, "backwards": self.backwards, "repeated": self.repeated}
        return json.dumps({"us": figures, "cpu": cpu, **counts})


def hear(name: str, where: Where, how: str, history: int, last: int, say_ready: Callable[[], object]) -> str:
    """Be one listener; return its report."""
    contender = load(name)(where)
    ear = Ear(last, how == "slow", say_ready)
    contender.hear(how, history, ear.heard)
    report = ear.report()
    contender.close()
    return report


def fork(hear: Callable[[Callable[[], object]], str], is_ready: int) -> tuple[int, int]:
    """Start a listener by a fork; return its process id and where its report will be read."""
    report, says = os.pipe()
    if pid := os.fork():
        os.close(says)
        return pid, report
    with os.fdopen(says, "w") as file:
        file.write(hear(lambda: os.write(is_ready, b".")))
    os._exit(0)


def forked(hear: Callable[[Callable[[], object]], str], count: int) -> None:
    """Be so many listeners, each a process of its own, forked when all is loaded."""
    ready, is_ready = os.pipe()
    children = [fork(hear, is_ready) for _ in range(count)]
    for _ in children:
        os.read(ready, 1)
    print("ready", flush=True)
    for pid, report in children:
        with os.fdopen(report) as file:
            print(file.read())
        os.waitpid(pid, 0)


def spawned(words: list[str], count: int) -> None:
    """Be so many listeners, each a process of its own, started anew: for who cannot be forked."""
    command = [sys.executable, __file__, *words, "1"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    for child in children:
        child.stdout.readline()  # type: ignore[union-attr]
    print("ready", flush=True)
    for child in children:
        print(child.communicate()[0].strip())


def listeners(words: list[str]) -> None:
    """Be as many listeners as the words of the command line say."""
    name, text, how, history, last, count = words
    hear_one = partial(hear, name, Where.from_text(text), how, int(history), int(last))
    if count == "1":
        print(hear_one(lambda: print("ready", flush=True)))
    elif PEERS[name].forks:
        load(name)
        forked(hear_one, int(count))
    else:
        spawned(words[:-1], int(count))


def main() -> None:
    """Play the part that the command line asks for."""
    name, text, part, *rest = sys.argv[1:]
    where = Where.from_text(text)
    if part == "hold":
        load(name).hold(where, lambda: print("ready", flush=True))
    elif part in ("listen", "follow", "slow"):
        listeners(sys.argv[1:])
    else:
        contender = load(name)(where)
        if part == "operate":
            operate(contender, where)
        else:
            write = contender.writer(int(rest[0]))
            warm_up(write)
            last = flood(write, float(rest[1])) if part == "flood" else pace(write, int(rest[1]), float(rest[2]))
            print(last, flush=True)
            sys.stdin.read()  # what it holds must last until the others have it
        contender.close()


if __name__ == "__main__":
    main()
