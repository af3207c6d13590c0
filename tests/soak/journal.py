"""What a program of the soak writes down, so that nothing it knows is lost when it is killed; and how that is read.

A line is a kind, the monotonic time, and words. It knows files, nothing of shareddata. Invariants:

1. A line is one write to the file: a program that is killed leaves whole lines, or at its very end a part of one.
2. The monotonic clock is the same in all processes of a machine; nobody sets it.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

INTENT, DONE, UNKNOWN, REFUSED = "I", "A", "U", "X"
SEEN, FAILED, WRONG, BEGIN, END, CURSOR = "R", "F", "T", "S", "E", "C"
PROGRESS = {DONE, SEEN}
"""Kinds that say that a program got on with its work."""


class Line(NamedTuple):
    """One line: what happened, when, and to which number."""

    kind: str
    when: float
    words: tuple[str, ...]

    @property
    def number(self) -> int:
        return int(self.words[0])


class Journal:
    """A journal to write in; it goes on where an earlier program of this name ended."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, kind: str, *words: object) -> None:
        text = " ".join([kind, f"{time.monotonic():.4f}", *map(str, words)])
        os.write(self._file, text.replace("\n", " ").encode() + b"\n")


class Tail:
    """Reads the lines that were added to a journal since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rest = b""
        self._file: int | None = None

    def news(self) -> Iterator[Line]:
        """Yield the new whole lines."""
        if self._file is None:
            if not self.path.exists():
                return
            self._file = os.open(self.path, os.O_RDONLY)
        while data := os.read(self._file, 1 << 20):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                if line:
                    kind, when, *words = line.decode().split(" ")
                    yield Line(kind, float(when), tuple(words))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read(path: Path) -> list[Line]:
    """Return what a journal holds now."""
    tail = Tail(path)
    try:
        return list(tail.news())
    finally:
        tail.close()
