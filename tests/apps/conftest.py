"""Handlers and players as real processes, and the descriptions that they need."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shareddata import SharedMemory

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """A running program, with its messages in a file."""

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self._log = log
        with log.open("w") as messages:
            self.process = subprocess.Popen(
                command, stdout=messages, stderr=messages, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
            )

    def log(self, pattern: str = "") -> str:
        """Return the messages so far; with a pattern, empty when it is not in them."""
        text = self._log.read_text()
        return text if re.search(pattern, text) else ""

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start a program: `start("apps/hdl_battery.py", *arguments, **environment)`; it is killed after the test."""
    programs: list[Program] = []

    def begin(script: str, *arguments: object, **environment: str) -> Program:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        programs.append(Program(command, tmp_path / f"{Path(script).stem}.{len(programs)}.log", **environment))
        return programs[-1]

    yield begin
    for program in programs:
        program.process.kill()
        program.process.wait()
        print(program.process.args, program.log(), sep="\n")  # shown when the test fails


@pytest.fixture
def described(shm: SharedMemory) -> SharedMemory:
    """A shared memory initialised with all descriptions of the package."""
    shm.init(*sorted((ROOT / "datadesc").glob("*.json")))
    return shm


@pytest.fixture
def recordings() -> Path:
    """Where the recordings are."""
    return ROOT / "tests" / "data"
