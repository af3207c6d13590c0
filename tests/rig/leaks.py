"""What a test must not leave behind: threads, child processes, open files and sockets.

It knows the process table of Linux (`/proc`); elsewhere only threads are watched. Invariants:

1. Only what is new since `Snapshot()` counts.
2. Orphans count too: every process that a test starts inherits a mark, so a daemon that outlives its starter is found
   although it is nobody's child any more.

The mark is an odd resource limit, that of POSIX message queues, which nobody here uses. A variable in the environment
would not do: a server that writes its title over its arguments writes over the environment too.
"""

import gc
import os
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from shareddata import tmpfs

LINUX = sys.platform == "linux"
# Files that a library opens once and keeps: counters of the machine, time zones, the cache of the tests themselves.
KEPT = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/usr/share/zoneinfo")
FONTS = "/mpl-data/fonts/"  # so does matplotlib with its fonts
MARKS = str(tmpfs.root() / "large")  # a process's mark among the writers of large values is kept as long as it lives
_LIMIT = re.compile(r"^Max msgqueue size +(\S+)", re.MULTILINE)


def set_mark() -> None:
    """Mark this process, and so its descendants, wherever they end up."""
    if LINUX:
        highest = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1]
        mark = 100_000 + os.getpid() % 600_000
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (mark, highest))


def processes() -> set[int]:
    """Return the process numbers of this machine."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()} if LINUX else set()


def ours(pid: int) -> str | None:
    """Return the command line of a running process that descends from this one, else None."""
    process = Path(f"/proc/{pid}")
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z" or _mark(process) != _mark(Path("/proc/self")):
            return None
        return (process / "cmdline").read_text().replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # it ended meanwhile, or is another user's


def _mark(process: Path) -> str:
    found = _LIMIT.search((process / "limits").read_text())
    return found[1] if found else ""


def open_files() -> dict[tuple[int, str], str]:
    """Return this process's open descriptors: (number, target) -> target."""
    found = {}
    for entry in os.listdir("/proc/self/fd") if LINUX else ():
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # the listing's own descriptor
        if not target.startswith((*KEPT, MARKS)) and FONTS not in target:
            found[int(entry), target] = target
    return found


class Snapshot:
    """What there is now, to be compared with later."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.processes = processes()
        self.files = set(open_files())

    def new_processes(self) -> dict[int, str]:
        """Return this process's descendants that are new: process number -> command line."""
        found = {pid: ours(pid) for pid in processes() - self.processes}
        return {pid: command for pid, command in found.items() if command is not None}

    def leaked(self) -> list[str]:
        """Return, in words, what is there now and was not then."""
        threads = [f"thread {thread.name!r}" for thread in threading.enumerate() if thread not in self.threads]
        started = [f"process {pid}: {command}" for pid, command in self.new_processes().items()]
        files = [f"descriptor {key[0]}: {target}" for key, target in open_files().items() if key not in self.files]
        return threads + started + files

    def leaked_after(self, patience: float) -> list[str]:
        """Return what is still left after at most `patience` seconds, given to what ends by itself."""
        deadline = time.monotonic() + patience
        leaked = self.leaked()
        if leaked:
            gc.collect()
        while leaked and time.monotonic() < deadline:
            time.sleep(0.01)
            leaked = self.leaked()
        return leaked

    def end_processes(self) -> None:
        """End the descendants that are new: by SIGTERM, and after five seconds by SIGKILL."""
        for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            for pid in self.new_processes():
                for each in (number, signal.SIGCONT):
                    try:
                        os.kill(pid, each)
                    except ProcessLookupError:
                        break  # it ended meanwhile
            deadline = time.monotonic() + patience
            while self.new_processes() and time.monotonic() < deadline:
                time.sleep(0.01)
