"""What a test must not leave behind: threads, child processes, open files and sockets.

It knows the process table of Linux (`/proc`); elsewhere only threads are watched. Invariants:

1. Only what is new since `Snapshot()` counts.
2. Orphans count too: this process adopts what its descendants leave behind, so a daemon that outlives its starter is
   found as a child.
"""

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path

LINUX = sys.platform == "linux"
PR_SET_CHILD_SUBREAPER = 36
# Files that a library opens once and keeps: counters of the machine, time zones, the cache of the tests themselves.
KEPT = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/usr/share/zoneinfo")


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends (Linux: a child subreaper)."""
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> dict[int, str]:
    """Return this process's running children: pid -> command line. A dead one does not count."""
    found = {}
    for task in Path("/proc/self/task").iterdir() if LINUX else ():
        try:
            pids = (task / "children").read_text().split()
        except FileNotFoundError:
            continue  # the thread ended meanwhile
        for pid in map(int, pids):
            command = _command(pid)
            if command is not None:
                found[pid] = command
    return found


def _command(pid: int) -> str | None:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return None if state == "Z" else Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except FileNotFoundError:
        return None


def open_files() -> dict[tuple[int, str], str]:
    """Return this process's open descriptors: (number, target) -> target."""
    found = {}
    for entry in os.listdir("/proc/self/fd") if LINUX else ():
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # the listing's own descriptor
        if not target.startswith(KEPT):
            found[int(entry), target] = target
    return found


class Snapshot:
    """What there is now, to be compared with later."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.children = set(children())
        self.files = set(open_files())

    def leaked(self) -> list[str]:
        """Return, in words, what is there now and was not then."""
        threads = [f"thread {thread.name!r}" for thread in threading.enumerate() if thread not in self.threads]
        processes = [f"process {pid}: {command}" for pid, command in children().items() if pid not in self.children]
        files = [f"descriptor {key[0]}: {target}" for key, target in open_files().items() if key not in self.files]
        return threads + processes + files

    def end_processes(self) -> None:
        """End the processes that leaked, so that nothing outlives the tests."""
        for pid in children():
            if pid not in self.children:
                os.kill(pid, signal.SIGKILL)

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
