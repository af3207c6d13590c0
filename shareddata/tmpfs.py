"""Files in memory: a private folder of this user in a tmpfs, and who is writing there.

It knows folders, files, locks and mappings. It must not know Redis or what the files hold. Invariants:

1. Only this user may enter the folder: it is checked each time that it is used first.
2. A file is written before anybody can know its name, and never changed afterwards.
3. A process that writes holds the lock of its mark (a `flock`) as long as it lives: however it ends, others can tell.
"""

import fcntl
import itertools
import mmap
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from shareddata.errors import ServerSetupError

Buffer = bytes | bytearray | memoryview

_MARKS = "writing"  # the folder of the marks
_PARTS = 512  # buffers written by one call; the system's limit is 1024


def root(uid: int | None = None) -> Path:
    """Return where a user's files are: in /dev/shm, or in /tmp where there is none; not made.

    It is the same for all programs of the machine, whatever their environment is.

    Args:
        uid: the user, this one if None.
    """
    place = Path("/dev/shm")
    return (place if place.is_dir() else Path("/tmp")) / f"shareddata-{os.getuid() if uid is None else uid}"


def make(folder: str) -> Path:
    """Return a folder under this user's root, made if it is missing.

    Raises:
        ServerSetupError: the root belongs to somebody else, or cannot be made.
    """
    private = root()
    try:
        private.mkdir(mode=0o700, exist_ok=True)
        status = private.lstat()
        if status.st_uid != os.getuid() or private.is_symlink():
            raise ServerSetupError(f"{private}: was made by another user: ask them, or root, to remove it")
        if status.st_mode & 0o077:
            private.chmod(0o700)
        (private / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServerSetupError(
            f"{private}: cannot be used: {error.strerror}: make room or correct its rights"
        ) from None
    return private / folder


def write(path: Path, parts: Sequence[Buffer]) -> int:
    """Write a new file; return its size. Nothing is left of one that could not be written.

    Raises:
        FileNotFoundError: its folder is not there.
        OSError: no room, or no right.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        size = 0
        rest = [memoryview(part).cast("B") for part in parts if len(part)]
        while rest:
            written = os.writev(descriptor, rest[:_PARTS])
            size += written
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if written:
                rest[0] = rest[0][written:]
        return size
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def mapped(path: Path) -> memoryview:
    """Return a file's content without a copy, read-only; it stays valid when the file is unlinked.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it is another user's.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ)) if size else memoryview(b"")
    finally:
        os.close(descriptor)


class Mark:
    """This process's mark in a folder: other processes see that it lives by the lock that it holds.

    The file stays when the process ends, until another one sees it: a thread may write until the very end.

    Args:
        folder: where processes write; it is there.

    Attributes:
        name: no other process has it.
        path: its file, empty.
        descriptor: what holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.name = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self.path = folder / _MARKS / self.name
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self._process = os.getpid()
        while True:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            if os.fstat(self.descriptor).st_nlink:
                break
            os.close(self.descriptor)  # another process took it for a dead one's, before it was locked

    def __repr__(self) -> str:
        return f"<Mark {self.name} of process {self._process}>"

    def new_name(self) -> str:
        """Return a name for a file of this process."""
        return f"{self.name}.{next(self._numbers)}"


_marks: dict[Path, Mark] = {}
_lock = threading.Lock()


def _forget_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for mark in _marks.values():
        os.close(mark.descriptor)  # the lock stays with the parent
    _marks.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def mark(folder: Path) -> Mark:
    """Return this process's mark in a folder, made when it is first needed; the same for all its threads."""
    with _lock:
        if folder not in _marks:
            _marks[folder] = Mark(folder)
        return _marks[folder]


def unmark(folder: Path) -> None:
    """Give this process's mark in a folder up, when nothing is written there any more."""
    with _lock:
        if (given := _marks.pop(folder, None)) is not None:
            os.close(given.descriptor)
            given.path.unlink(missing_ok=True)


def abandoned(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder whose writers are dead; their marks are removed behind them.

    Names of files begin with the name of their writer's mark, and a dot.
    """
    dead: dict[str, bool] = {}
    for place in sorted(folder.iterdir()):
        if place.name == _MARKS or not place.is_dir():
            continue
        for path in _listed(place):
            name = path.name.partition(".")[0]
            if name not in dead:
                dead[name] = _is_dead(folder / _MARKS / name)
            if dead[name]:
                yield path
    for path in _listed(folder / _MARKS):
        if path.name not in dead:
            _is_dead(path)


def living(folder: Path) -> bool:
    """Tell whether any process writes in a folder; marks of dead ones are removed."""
    dead = [_is_dead(path) for path in _listed(folder / _MARKS)]
    return not all(dead)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _is_dead(path: Path) -> bool:
    """Tell whether the process of a mark is dead, and remove the mark if so."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
