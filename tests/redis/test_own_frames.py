"""The data path stays short: how many own Python frames an operation takes, and how many commands.

Figures that are the same each time: a frame is a call of a function of the library, or a step of one of its generators.
Who needs more for a good reason raises the budget here, in the change that needs it, and shows the benchmark's row.
"""

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import redis

from shareddata import DataDict, SharedMemory

FIELDS = [["ts", 0.0], ["sender", ""], *[[f"field_{i}", 0.0] for i in range(8)]]
PLAIN = {f"PLAIN{i}": {"history": 0, "fields": FIELDS} for i in range(8)}
KEPT = {f"KEPT{i}": {"history": 256, "fields": FIELDS} for i in range(8)}
VALUES = [1.5] * 8

BUDGETS = [  # most frames; a test for each below
    ("set and flush one", 9),
    ("set and flush one with history", 9),
    ("set and flush eight", 30),  # three for each record's set
    ("set and flush eight with history", 30),
    ("read one that did not change", 2),
    ("read one that changed", 18),
    ("read one, asking the server", 13),
    ("read eight, asking the server", 26),  # two for each record
    ("hear of one", 20),  # two of them where the announcement comes before the answer
    ("follow one", 18),  # two of them look whether it is the same server
]
COMMANDS = {  # what the server carries out for it
    "set and flush one": 1,
    "set and flush one with history": 4,
    "set and flush eight": 10,
    "set and flush eight with history": 18,
    "read one that did not change": 0,
    "read one that changed": 1,
    "read one, asking the server": 1,
    "read eight, asking the server": 10,
    "hear of one": 1,
    "follow one": 1,
}


def frames_of(work: Callable[[], object]) -> list[str]:
    """Return the library's functions that a piece of work calls, in order."""
    seen: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.partition(".")[0] == "shareddata":
            seen.append(f"{module.removeprefix('shareddata.')}.{frame.f_code.co_name}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return seen


class Work:
    """The operations: what comes before each, and the operation itself, which is counted."""

    def __init__(self, shm: SharedMemory, client: redis.Redis) -> None:
        shm.init(PLAIN, KEPT)
        self.client = client
        self.writer, self.reader = DataDict("WRITER", shm), DataDict("READER", shm)
        self.plain = self.writer.set_datas_to_write(list(PLAIN))
        self.kept = self.writer.set_datas_to_write(list(KEPT))

    def flush(self, datas: list[Any]) -> None:
        for data in datas:
            data.set(*VALUES)
        self.writer.flush()

    def change(self) -> None:
        """Write what the reader has read, and wait until it is told."""
        self.flush(self.plain[:1])
        assert self.reader._reader.wait(1.0)

    def write_kept(self) -> None:
        self.flush(self.kept[:1])

    def operation(self, what: str) -> tuple[Callable[[], object], Callable[[], object]]:
        """Return what comes before an operation each time, and the operation."""
        nothing = int
        if what.startswith("set"):
            datas = self.kept if "with history" in what else self.plain
            datas = datas[:1] if "one" in what else datas
            return nothing, lambda: self.flush(datas)
        if what.startswith("read"):
            self.reader.set_datas_to_read(list(PLAIN) if "eight" in what else list(PLAIN)[:1])
            if "asking" in what:
                return nothing, lambda: self.reader.read(fresh=True)
            self.reader.next()
            return (self.change if "that changed" in what else nothing), self.reader.next
        name = self.kept[0].name
        waiting: Any = self.writer.listen_to_datas([name]) if "hear" in what else self.writer.follow_data(name)
        return self.write_kept, lambda: next(waiting)

    def commands(self) -> int:
        """Return how many commands the server has carried out."""
        return int(self.client.info("stats")["total_commands_processed"])

    def measure(self, what: str) -> tuple[list[str], int]:
        """Return the frames of an operation in its usual case, and how many commands it sends."""
        before, work = self.operation(what)
        for _ in range(2):
            before()
            work()
        before()
        so_far = self.commands()
        frames = frames_of(work)
        return frames, self.commands() - so_far - 1  # INFO is one

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


@pytest.fixture
def work(shm: SharedMemory, client: redis.Redis) -> Iterator[Work]:
    made = Work(shm, client)
    yield made
    made.close()


@pytest.mark.parametrize(("what", "most"), BUDGETS)
def test_frames(work: Work, what: str, most: int) -> None:
    frames, _ = work.measure(what)
    assert len(frames) <= most, f"{what}: {len(frames)} frames, {most} are its budget: {' '.join(frames)}"


@pytest.mark.parametrize(("what", "commands"), COMMANDS.items())
def test_commands(work: Work, what: str, commands: int) -> None:
    assert work.measure(what)[1] == commands


def test_a_frame_too_many_is_seen() -> None:
    """The counting itself: a function of the library's counts, ours and the interpreter's do not."""
    from shareddata.wire import bulk

    assert frames_of(lambda: bulk("text")) == ["wire.bulk"]
    assert frames_of(lambda: sorted([2, 1])) == []
