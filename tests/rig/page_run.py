"""Run a page of the docs as its reader would: in one folder, one shell and one Python, block after block.

It knows processes and expected output; `pages` knows Markdown. Invariants:

1. The shell is one bash for the page: variables, the directory and background jobs go on from block to block.
2. The Python blocks of a page share one namespace, and the shell's variables.
3. Nothing that a page started runs after `close()`.
"""

import doctest
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from leaks import Snapshot
from pages import RUN, Block, PageError, blocks

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PATIENCE = 60.0
_EXIT = re.compile(r"\[exit (\d+)\]")


def run_page(page: Path, folder: Path, environ: dict[str, str]) -> int:
    """Run every block of a page in `folder` and return how many were run or written.

    Raises:
        PageError: a block fails, prints something else than the page says, or takes more than a minute.
    """
    done = 0
    with Reader(page, folder, environ) as reader:
        for block in blocks(page):
            done += reader.take(block)
    return done


def commands(text: str) -> list[tuple[str, str, int]]:
    """Return a `sh` block's commands: (command, expected output, expected exit code).

    A command begins with `$ `; lines that begin with `> ` continue it, as does the line after a backslash.
    """
    found: list[tuple[str, str, int]] = []
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        if not line.startswith("$ "):
            if line.strip():
                raise PageError(f"a sh block begins with a command (`$ ...`), not with {line!r}")
            continue
        command = [line[2:]]
        while lines and (lines[0].startswith("> ") or command[-1].endswith("\\")):
            command.append(lines.pop(0).removeprefix("> "))
        expected: list[str] = []
        while lines and not lines[0].startswith("$ "):
            expected.append(lines.pop(0))
        codes = [int(match[1]) for each in expected if (match := _EXIT.fullmatch(each.strip()))]
        output = "\n".join(each for each in expected if not _EXIT.fullmatch(each.strip())).strip()
        found.append(("\n".join(command), output, codes[0] if codes else 0))
    return found


class Reader:
    """Somebody who types a page's blocks. A context manager."""

    def __init__(self, page: Path, folder: Path, environ: dict[str, str]) -> None:
        self.page, self.folder, self.environ = page, folder, dict(environ)
        self._control = folder / ".page"  # commands and their output, out of the page's sight
        self._control.mkdir()
        self._count = 0
        self._before = Snapshot()
        self._shell: subprocess.Popen[str] | None = None
        self._python: subprocess.Popen[str] | None = None
        self._answers: dict[int, int] = {}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, block: Block) -> bool:
        """Run, write or leave out one block; return whether something was done."""
        if block.not_run or (block.needs and not shutil.which(block.needs, path=self.environ["PATH"])):
            return False
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            path.chmod(0o755 if block.text.startswith("#!") else 0o644)
        elif block.language == "python":
            self._run_python(block)
        elif block.language == "sh":
            self._run_shell(block)
        return bool(block.file) or block.language in RUN

    def _fail(self, block: Block, what: str) -> PageError:
        return PageError(f"{self.page}:{block.line}: {what}")

    def _start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program that takes requests on standard input; its last argument is the descriptor for answers."""
        ours, theirs = os.pipe()
        with open(self._control / f"{Path(command[0]).name}.out", "w") as output:
            process = subprocess.Popen(
                [*command, str(theirs)],
                cwd=self.folder,
                env=self.environ,
                text=True,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
                start_new_session=True,
            )
        os.close(theirs)
        self._answers[process.pid] = ours
        return process

    def _ask(self, process: subprocess.Popen[str], request: str, block: Block, what: str) -> str:
        """Send a request and wait for its answer, one line."""
        assert process.stdin is not None
        process.stdin.write(request + "\n")
        process.stdin.flush()
        answer, deadline = b"", time.monotonic() + PATIENCE
        while not answer.endswith(b"\n"):
            if not select.select([self._answers[process.pid]], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise self._fail(block, f"no end after {PATIENCE} s: {what}")
            part = os.read(self._answers[process.pid], 65536)
            if not part:
                raise self._fail(block, f"ended the session with {process.wait(5)}: {what}")
            answer += part
        return answer.decode()

    def _run_python(self, block: Block) -> None:
        if self._python is None:
            worker = Path(__file__).with_name("page_python.py")
            self._python = self._start(sys.executable, str(worker))
        request = {"text": block.text, "page": str(self.page), "line": block.line, "environ": self.environ}
        error = json.loads(self._ask(self._python, json.dumps(request), block, block.text))
        if error:
            raise self._fail(block, error)

    def _run_shell(self, block: Block) -> None:
        try:
            todo = commands(block.text)
        except PageError as error:
            raise self._fail(block, str(error)) from None
        for command, expected, code in todo:
            self._run_command(block, command, expected, code)

    def _run_command(self, block: Block, command: str, expected: str, code: int) -> None:
        if self._shell is None:
            self._shell = self._start("bash", "--noprofile", "--norc", "-s")
            self._send_shell_options()
        self._count += 1
        script, output = self._control / f"{self._count}.sh", self._control / f"{self._count}.out"
        environ = self._control / "environ"
        script.write_text(command + "\n", encoding="utf-8")
        quoted = [shlex.quote(str(path)) for path in (script, output, environ)]
        request = ". {} >{} 2>&1 </dev/null; echo $? $(env -0 >{}) >&$1".format(*quoted)
        found = int(self._ask(self._shell, request, block, command))
        said = output.read_text(encoding="utf-8", errors="replace")
        pairs = environ.read_text(encoding="utf-8").split("\0")
        self.environ = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if found != code:
            raise self._fail(block, f"$ {command}\nexit code {found}, expected {code}; it said:\n{said}")
        if expected and not doctest.OutputChecker().check_output(expected + "\n", said, FLAGS):
            raise self._fail(block, f"$ {command}\nexpected:\n{indented(expected)}\nsaid:\n{indented(said)}")

    def _send_shell_options(self) -> None:
        """Give background jobs a process group each, as a terminal does: `kill -INT %1` reaches them."""
        assert self._shell is not None and self._shell.stdin is not None
        self._shell.stdin.write("set -m\n")

    def close(self) -> None:
        """End the shell, the Python and every process of theirs, daemons too."""
        started = [process for process in (self._shell, self._python) if process is not None]
        self._before.end_processes()
        for process in started:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(5)
            os.close(self._answers.pop(process.pid))
        self._shell = self._python = None


def indented(text: str) -> str:
    """Return output set off from what is said about it."""
    return textwrap.indent(text.rstrip(), "    ")
