"""Programs that are started together and end together, however their starter ends.

It knows processes, groups and pipes; it must not know what the programs do. Invariants:

1. A guard waits for the end of a pipe that only the starter holds open, and then ends the group of all the programs and
   removes what they leave behind: also after the starter was killed.
2. What a program says is kept in a file, and is told when it ended though it should run.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from shareddata.errors import SharedDataError

_GRACE = 2.0  # seconds that programs have to end by themselves

# Ends its process group when its standard input ends; a member that hangs is killed. Then removes the folders.
_GUARD = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdin.buffer.read()
os.killpg(0, signal.SIGTERM)
time.sleep(1)
import shutil
for folder in sys.argv[1:]:
    shutil.rmtree(folder, ignore_errors=True)
os.killpg(0, signal.SIGKILL)
"""


class Troupe:
    """Programs that end together: with this block, or with this program, however it ends. A context manager.

    Args:
        folder: where each program's messages go, `NAME.log`.
        environ: their environment.
        leftovers: folders that are removed if this program is killed; else it removes them itself.
    """

    def __init__(self, folder: Path, environ: dict[str, str], leftovers: Sequence[str | Path] = ()) -> None:
        self._folder = folder
        self._environ = environ
        self._leftovers = [str(each) for each in leftovers]
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        guard = [sys.executable, "-I", "-S", "-c", _GUARD, *self._leftovers]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, process_group=0)
        return self

    def __exit__(self, *_: object) -> None:
        """Ask all to end, wait, and end what is left."""
        group = self._guard.pid
        os.killpg(group, signal.SIGTERM)  # the guard itself does not mind
        deadline = time.monotonic() + _GRACE
        for program in self._programs.values():
            try:
                program.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
        os.killpg(group, signal.SIGKILL)
        for program in (*self._programs.values(), self._guard):
            program.wait()
        for pipe in (self._guard.stdin, *(program.stdout for program in self._programs.values())):
            if pipe is not None:
                pipe.close()

    def start(self, name: str, *arguments: str, answers: bool = False) -> None:
        """Start a module of the package as a program.

        Args:
            name: the program's name, for its log.
            arguments: of `python -m`.
            answers: whether its output is read with `answer`, instead of going to the log.
        """
        with (self._folder / f"{name}.log").open("ab") as log:
            self._programs[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if answers else log,
                stderr=log,
                env=self._environ,
                process_group=self._guard.pid,
            )

    def answer(self, name: str) -> str:
        """Wait for the first line that a program prints, and return it.

        Raises:
            SharedDataError: it ended without printing one.
        """
        program = self._programs[name]
        line = program.stdout.readline() if program.stdout else b""
        if not line:
            program.wait()
            self.check()
        return line.decode().strip()

    def end(self, name: str, wait: float = 10.0) -> None:
        """Ask a program to end, and wait until it has.

        Raises:
            SharedDataError: it did not end in that time, or with an exit code other than 0; with its last messages.
        """
        program = self._programs[name]
        program.terminate()
        try:
            code = program.wait(wait)
        except subprocess.TimeoutExpired:
            raise SharedDataError(f"{name} does not end: {self.last_messages(name)}") from None
        if code:
            raise SharedDataError(f"{name} ended with code {code}: {self.last_messages(name)}")
        self._ended.add(name)

    def check(self) -> None:
        """Check that all programs run.

        Raises:
            SharedDataError: one has ended; with its last messages.
        """
        for name, program in self._programs.items():
            if name not in self._ended and program.poll() is not None:
                raise SharedDataError(f"{name} ended with code {program.returncode}: {self.last_messages(name)}")

    def last_messages(self, name: str) -> str:
        """Return the end of a program's log."""
        lines = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-4:]) or "it said nothing"
