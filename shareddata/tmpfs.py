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
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shareddata.codec import Buffer
from shareddata.errors import ServerSetupError

_MARKS = "writing"  # the folder of the marks
_SPARES = "spare"  # the folder of files that are written again
_SPARE_FILES, _SPARE_BYTES = 4, 64_000_000  # such files of one process, at most
# Mappings of files in use, of one process: their memory is in use anyway, but each holds a descriptor, and many systems
# give a process 1024 of these.
_KEPT_FILES, _KEPT_BYTES = 256, 256_000_000
_READ_FILES, _READ_BYTES = 16, 64_000_000  # mappings of files that are read again and again, of one process
_SEEN_FILES = 256  # inodes among which such a file is recognised
_KEPT_UNSEEN = 4  # up to so many, nobody looks whether they are still there
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

    They are copied: 2 MB take 0.10 ms, and a mapping 0.16, most of it to tell the system about each page. So only a
    file that was read before, under another name, is mapped, and kept so: a copy out of it takes 0.04.

    Raises:
        FileNotFoundError: there is no such file, or not any more.
        PermissionError: it is another user's.
    """
    status = os.stat(path)
    content = _read_again.get(status.st_ino)
    known = content is not None and size <= len(content) <= status.st_size
    data = content[:size] if content is not None and known else _read_once(path, size)
    if os.stat(path).st_ino != status.st_ino:
        raise FileNotFoundError(path)
    return data


_read_before: OrderedDict[int, None] = OrderedDict()  # inodes
_read_again: OrderedDict[int, mmap.mmap] = OrderedDict()
_reading = threading.Lock()


def _read_once(path: str, size: int) -> bytes:
    """Read a file's first bytes, and map it when its inode is known."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = min(size, os.fstat(descriptor).st_size)  # which may be announced as anything, and is made room for
        data = os.read(descriptor, size)
        while len(data) < size and (more := os.read(descriptor, size - len(data))):
            data += more
        _remember(descriptor)
        return data
    finally:
        os.close(descriptor)


def _remember(descriptor: int) -> None:
    """Keep the mapping of a file that was read before: its writer writes it again and again."""
    status = os.fstat(descriptor)
    with _reading:
        if status.st_ino in _read_before:
            _read_again[status.st_ino] = mmap.mmap(descriptor, status.st_size, prot=mmap.PROT_READ)
            while len(_read_again) > _READ_FILES or sum(map(len, _read_again.values())) > _READ_BYTES:
                _read_again.popitem(last=False)
        _read_before[status.st_ino] = None
        if len(_read_before) > _SEEN_FILES:
            _read_before.popitem(last=False)


def link(old: str, new: str) -> None:
    """Give a file another name; the new one's folder is made if it is missing.

    Raises:
        FileNotFoundError: there is no such file.
    """
    _placed(os.link, old, new)


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
        self._contents: dict[int, Spare] = {}  # the files written last, by their inode
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
        self._keep(path, content)

    def give_back(self, path: str) -> None:
        """Take a file's name away, and keep it to be written again when it has no other name.

        The name goes first: whoever reads it meanwhile looks, afterwards, whether the file still has its name.
        """
        spare = f"{self._spare}/{self.new_name()}"
        try:
            _placed(os.rename, path, spare)
        except FileNotFoundError:
            return  # another process was faster
        status = os.stat(spare)
        with self._lock:
            known = self._contents.get(status.st_ino)
            if known is not None and status.st_nlink == 1:
                content = known.content
                self._forget(status.st_ino)
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
            _placed(os.rename, spare, path)
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

    def _keep(self, path: str, content: mmap.mmap) -> None:
        """Keep the content of a file that was written, so that it can be written again.

        What another process has unlinked is let go: nobody gives it back, and it would hold memory and a descriptor.
        """
        inode = os.stat(path).st_ino
        with self._lock:
            self._contents[inode] = Spare(path, content)
            self._contents_size += len(content)
            for oldest in list(itertools.islice(self._contents, 2)) if len(self._contents) > _KEPT_UNSEEN else ():
                if os.path.exists(self._contents[oldest].path):
                    self._contents[oldest] = self._contents.pop(oldest)  # it has its turn again behind the others
                else:
                    self._forget(oldest)
            while self._contents_size > _KEPT_BYTES or len(self._contents) > _KEPT_FILES:
                self._forget(next(iter(self._contents)))

    def _forget(self, inode: int) -> None:
        self._contents_size -= len(self._contents.pop(inode).content)


_writers: dict[str, Writer] = {}
_lock = threading.Lock()


def _forget_in_child() -> None:
    global _lock, _reading
    _lock, _reading = threading.Lock(), threading.Lock()
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


def _placed(place: Callable[[str, str], None], old: str, new: str) -> None:
    """Link or rename a file; its new folder is made if it is missing: another process may have removed it, empty.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        place(old, new)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(new), 0o700, exist_ok=True)
        place(old, new)


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
