"""Other programs in tests: some lines of Python in a process of their own, to be spoken with, interrupted or killed.

It knows processes and pipes, nothing of servers. Invariants:

1. A program that ended with an error fails the test that asks it for more, with the end of its traceback.
2. Nothing of it is left after `close()`.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping

PRELUDE = """
import os, sys, time
from shareddata import *
def say(*words):
    print(*words, flush=True)
"""


class Program:
    """A process that runs `code`, in which `shareddata` is imported and `say(...)` prints a line.

    Args:
        code: Python, indented as one likes.
        args: its `sys.argv[1:]`.
        env: variables to add to its environment; None removes one.
    """

    def __init__(self, code: str, *args: object, env: Mapping[str, str | None] | None = None) -> None:
        environment = {**os.environ, **(env or {})}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by close()
        self._buffer = b""
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", PRELUDE + textwrap.dedent(code), *map(str, args)],
            env={name: value for name, value in environment.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def line(self, timeout: float = 15.0) -> str:
        """Return the next line that it prints.

        Raises:
            AssertionError: it ended, or is silent for so long.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            rest = deadline - time.monotonic()
            assert rest > 0 and select.select([self._out], [], [], rest)[0], (
                f"waited {timeout} s for a line of the program; {self.errors()}"
            )
            data = os.read(self._out, 65536)
            assert data, f"the program ended; {self.errors()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def tell(self, text: str = "") -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def finish(self, timeout: float = 30.0) -> list[str]:
        """Close its input, wait until it has ended without an error, and return the lines it printed meanwhile."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        deadline = time.monotonic() + timeout
        while select.select([self._out], [], [], max(0, deadline - time.monotonic()))[0]:
            if not (data := os.read(self._out, 65536)):
                break
            self._buffer += data
        code = self.process.wait(max(0.1, deadline - time.monotonic()))
        assert code == 0, f"the program ended with {code}; {self.errors()}"
        return self._buffer.decode().splitlines()

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait()

    def errors(self) -> str:
        """Return the end of what it wrote to its standard error."""
        self._errors.seek(0)
        return "its errors end with:\n" + self._errors.read().decode(errors="replace")[-2000:]

    def close(self) -> None:
        """End it, whatever it does."""
        self.kill()
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it ended before it read what was sent
        self.process.stdout.close()
        self._errors.close()

    @property
    def _out(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()
