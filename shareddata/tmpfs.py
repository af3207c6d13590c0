"""Files in memory: a private folder of this user in a tmpfs, and who is writing there.

It knows folders, files and locks. It must not know Redis or what the files hold. Invariants:

1. Only this user may enter the folder: it is checked each time that it is used first.
2. A file is written before anybody can know its name, and not changed as long as it has that name; no name is given
   twice.
3. A process that writes holds the lock of its mark (a `flock`) as long as it lives: however it ends, others can tell.
"""

import atexit
import fcntl
import itertools
import mmap
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shareddata.codec import Buffer
from shareddata.errors import ServerSetupError

_MARKS = "writing"  # the folder of the marks
_SPARES = "spare"  # the folder of files that are written again
_SPARE_FILES, _SPARE_BYTES = 4, 64_000_000  # such files of one process, at most
_KEPT_FILES, _KEPT_BYTES = 4096, 256_000_000  # mappings of files in use, of one process: their memory is in use anyway
_WASTE = 4  # times its size that a value may take
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


def read(path: str, size: int) -> bytes:
    """Return the first bytes of a file, if it still had its name after they were read.

    They are copied: 2 MB take 0.10 ms, and a mapping 0.16, most of it to tell the system about each page.

    Raises:
        FileNotFoundError: there is no such file, or not any more.
        PermissionError: it is another user's.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, size)
        while len(data) < size and (more := os.read(descriptor, size - len(data))):
            data += more
        if os.stat(path).st_ino != os.fstat(descriptor).st_ino:
            raise FileNotFoundError(path)
        return data
    finally:
        os.close(descriptor)


def link(old: str, new: str) -> None:
    """Give a file another name; the new one's folder is made if it is missing.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        os.link(old, new)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(new), 0o700, exist_ok=True)
        os.link(old, new)


def unlink(path: str) -> bool:
    """Remove a file; False if there is none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_if_empty(folder: str) -> None:
    """Remove a folder if nothing is in it."""
    try:
        os.rmdir(folder)
    except OSError:
        pass  # it is in use, or another process removed it


def listed(folder: str, beginning: str = "") -> list[str]:
    """Return the paths of a folder's files whose names begin so; none if there is no such folder."""
    try:
        return [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.startswith(beginning)]
    except FileNotFoundError:
        return []


class Spare(NamedTuple):
    """A file that nobody refers to any more, to be written again."""

    path: str
    content: mmap.mmap


class Writer:
    """What this process writes in a folder: its mark, and the files that it writes again.

    The mark is an empty file whose lock this process holds: others see by it that the process lives. It stays when the
    process ends, until another one sees it: a thread may write until the very end.

    Writing a new file of 2 MB takes 0.8 ms, because the system has to find and clear memory; writing one again takes
    0.04. So files that were given back are kept, a few, and written again under new names.

    Args:
        folder: where processes write; it is there.

    Attributes:
        name: no other process has it; the names of this process's files begin with it.

    It may be shared by threads.
    """

    def __init__(self, folder: str) -> None:
        self.name = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._spares: list[Spare] = []
        self._contents: dict[int, mmap.mmap] = {}  # of the files written last, by their inode
        self._contents_size = 0
        self._spare = f"{folder}/{_SPARES}"
        self._mark = f"{folder}/{_MARKS}/{self.name}"
        os.makedirs(os.path.dirname(self._mark), 0o700, exist_ok=True)
        while True:
            self._descriptor = os.open(self._mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if os.fstat(self._descriptor).st_nlink:
                break
            os.close(self._descriptor)  # another process took it for a dead one's, before it was locked

    def __repr__(self) -> str:
        return f"<Writer {self._mark}>"

    def close(self) -> None:
        """Give the mark and the spare files up."""
        os.close(self._descriptor)
        unlink(self._mark)
        self.discard()

    def drop(self) -> None:
        """Do the same in a forked child: the files, and the lock, stay with the parent."""
        os.close(self._descriptor)

    def discard(self) -> None:
        """Unlink the spare files."""
        with self._lock:
            for spare in self._spares:
                unlink(spare.path)
            self._spares.clear()
            self._contents.clear()
            self._contents_size = 0

    def new_name(self) -> str:
        """Return a name for a file of this process, never given before."""
        return f"{self.name}.{next(self._numbers)}"

    def write(self, path: str, parts: Sequence[Buffer], size: int) -> None:
        """Write a file under a new name; nothing is left of one that could not be written.

        Its folder is made if it is missing. It may be longer than what is written.

        Args:
            path: the file, whose name is from `new_name`.
            parts: the bytes, in one piece or several.
            size: how many there are.

        Raises:
            OSError: no room, or no right.
        """
        spare = self._take(size)
        if spare is None:
            try:
                content = _write_new(path, parts)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                content = _write_new(path, parts)
        else:
            content = spare.content
            start = 0
            for part in parts:
                view = memoryview(part).cast("B")
                content[start : start + len(view)] = view
                start += len(view)
            self._name(spare.path, path)
        self._keep(os.stat(path).st_ino, content)

    def give_back(self, path: str) -> None:
        """Take a file's name away, and keep it to be written again when it has no other name.

        The name goes first: whoever reads it meanwhile looks, afterwards, whether the file still has its name.
        """
        spare = f"{self._spare}/{self.new_name()}"
        try:
            _rename(path, spare)
        except FileNotFoundError:
            return  # another process was faster
        status = os.stat(spare)
        with self._lock:
            content = self._contents.get(status.st_ino)
            if content is not None and status.st_nlink == 1:
                del self._contents[status.st_ino]
                self._contents_size -= len(content)
                if len(content) <= _SPARE_BYTES:
                    self._spares.append(Spare(spare, content))
                    self._make_room()
                    return
        os.unlink(spare)

    def _make_room(self) -> None:
        """Unlink the spare files that were given back first, where there are too many: others are needed now."""
        size = sum(len(each.content) for each in self._spares)
        while len(self._spares) > _SPARE_FILES or size > _SPARE_BYTES:
            oldest = self._spares.pop(0)
            size -= len(oldest.content)
            os.unlink(oldest.path)

    @staticmethod
    def _name(spare: str, path: str) -> None:
        """Give a file that was written again its new name."""
        try:
            _rename(spare, path)
        except BaseException:
            unlink(spare)
            raise

    def _take(self, size: int) -> Spare | None:
        with self._lock:
            fitting = [each for each in self._spares if size <= len(each.content) <= _WASTE * size]
            found = min(fitting, key=lambda each: len(each.content), default=None)
            if found:
                self._spares.remove(found)
            return found

    def _keep(self, inode: int, content: mmap.mmap) -> None:
        """Keep the content of a file that was written, so that it can be written again."""
        with self._lock:
            self._contents[inode] = content
            self._contents_size += len(content)
            while self._contents_size > _KEPT_BYTES or len(self._contents) > _KEPT_FILES:
                self._contents_size -= len(self._contents.pop(next(iter(self._contents))))


_writers: dict[str, Writer] = {}
_lock = threading.Lock()


def _forget_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for each in _writers.values():
        each.drop()
    _writers.clear()


@atexit.register
def _discard_spares() -> None:
    for each in _writers.values():
        each.discard()


os.register_at_fork(after_in_child=_forget_in_child)


def writer(folder: str) -> Writer:
    """Return this process's writer in a folder, made when it is first needed; the same for all its threads."""
    found = _writers.get(folder)
    if found is None:
        with _lock:
            found = _writers.get(folder) or Writer(folder)
            _writers[folder] = found
    return found


def end_writing(folder: str) -> None:
    """Close this process's writer in a folder."""
    with _lock:
        if (given := _writers.pop(folder, None)) is not None:
            given.close()


def _rename(old: str, new: str) -> None:
    """Rename a file; the new name's folder is made if it is missing: another process may have removed it, empty.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        os.rename(old, new)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(new), 0o700, exist_ok=True)
        os.rename(old, new)


def _write_new(path: str, parts: Sequence[Buffer]) -> mmap.mmap:
    """Write a new file; return its content, writable."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = [memoryview(part).cast("B") for part in parts if len(part)]
        while rest:
            written = os.writev(descriptor, rest[:_PARTS])
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if written:
                rest[0] = rest[0][written:]
        return mmap.mmap(descriptor, 0)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def abandoned(folder: str) -> Iterator[str]:
    """Yield the files in a folder's folders whose writers are dead; their marks are removed behind them.

    Names of files begin with the name of their writer's mark, and a dot.
    """
    dead: dict[str, bool] = {}
    for place in listed(folder):
        if os.path.basename(place) == _MARKS or not os.path.isdir(place):
            continue
        for path in listed(place):
            name = os.path.basename(path).partition(".")[0]
            if name not in dead:
                dead[name] = _is_dead(f"{folder}/{_MARKS}/{name}")
            if dead[name]:
                yield path
    for path in listed(f"{folder}/{_MARKS}"):
        if os.path.basename(path) not in dead:
            _is_dead(path)


def living(folder: str) -> bool:
    """Tell whether any process writes in a folder; marks of dead ones are removed."""
    dead = [_is_dead(path) for path in listed(f"{folder}/{_MARKS}")]
    return not all(dead)


def _is_dead(mark: str) -> bool:
    """Tell whether the process of a mark is dead, and remove the mark if so."""
    try:
        descriptor = os.open(mark, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        unlink(mark)
        return True
    finally:
        os.close(descriptor)
