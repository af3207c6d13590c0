"""Whole files below a folder: written aside, put on disk, and only then given a name that nobody else has.

It knows folders, symbolic links and temporary names. It must not know sockets, who the files are for or what is in
them. Invariants:

1. Under its name a file is whole, and on disk (fsync of the file and of its folder) unless that was not asked for.
2. A file that is there is never written over.
3. No symbolic link leads out of the root, also when somebody changes links meanwhile: each folder is opened from the
   one above it.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from shareddata.errors import TemplateError

_BLOCK = 1 << 20  # bytes compared at once
_LINKS = 40  # symbolic links followed for one name
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # a file system without hard links

Write = Callable[[BinaryIO], object]


class Draft:
    """A whole file that has no name yet: a context manager; what was not published is removed.

    Args:
        root: the folder that it stays below.
        path: the name that it wants, absolute; other names must be in the same folder.
        write: writes its content; None where somebody else does so under the temporary name.
        owner: whose file it is: what a killed program left for the same owner is removed.
        again: whether there may be such.
        durable: False: leave it to the system when it is put on disk.

    Raises:
        TemplateError: a symbolic link leads out of the root.
        OSError: it cannot be written.

    Attributes:
        path: the temporary name.
    """

    def __init__(
        self, root: str, path: str, write: Write | None, owner: str, again: bool = False, durable: bool = True
    ) -> None:
        place = PurePosixPath(path)
        self._durable = durable
        self._folder, folder = _open_folder(root, place.relative_to(root).parts[:-1])
        self._file: BinaryIO | None = None
        mark = f".shareddata-{hashlib.sha256(owner.encode()).hexdigest()[:16]}-"
        self._name = f"{mark}{os.getpid()}-{secrets.token_hex(4)}.part"
        self.path = os.path.join(folder, self._name)
        try:
            if again:
                self._remove_left(mark)
            if write is None:
                return
            file = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._folder)
            self._file = open(file, "w+b")  # noqa: SIM115  closed by close()
            write(self._file)
            self._file.flush()
            if durable:
                os.fsync(file)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary name."""
        try:
            os.unlink(self._name, dir_fd=self._folder)
        except FileNotFoundError:
            pass
        finally:
            os.close(self._folder)
            if self._file:
                self._file.close()

    def exists(self, path: str) -> bool:
        """Tell whether something has a name."""
        try:
            os.stat(PurePosixPath(path).name, dir_fd=self._folder, follow_symlinks=False)
            return True
        except FileNotFoundError:
            return False

    def replace(self, path: str) -> None:
        """Give the file its name, also where another file has it."""
        os.replace(self._name, PurePosixPath(path).name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        if self._durable:
            _sync(self._folder)

    def publish(self, path: str, noted: bool) -> bool:
        """Give the file its name; tell whether it has it now.

        Args:
            path: the name.
            noted: whether it was noted for this owner before it was anybody's: a file of the same content is then what
                an earlier try has made.
        """
        name = PurePosixPath(path).name
        try:
            os.link(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder, follow_symlinks=False)
        except FileExistsError:
            if not (noted and self._is_same(name)):
                return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not self._publish_without_links(name, noted):
                return False
        if self._durable:
            _sync(self._folder)
        return True

    def _publish_without_links(self, name: str, noted: bool) -> bool:
        """Take the name with an empty file, then put the whole one in its place."""
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._folder))
        except FileExistsError:
            there = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
            empty = stat.S_ISREG(there.st_mode) and not there.st_size
            if not (noted and empty):  # an empty one is what a killed program of this owner left
                return noted and self._is_same(name)
        os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        return True

    def _is_same(self, name: str) -> bool:
        if self._file is None:
            return False
        self._file.seek(0)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            there = os.open(name, flags, dir_fd=self._folder)
        except OSError:
            return False  # a link, another user's file
        if not stat.S_ISREG(os.fstat(there).st_mode):
            os.close(there)
            return False
        with open(there, "rb") as other:
            while block := self._file.read(_BLOCK):
                if block != other.read(_BLOCK):
                    return False
            return not other.read(1)

    def _remove_left(self, mark: str) -> None:
        """Remove what dead processes have left."""
        for name in os.listdir(self._folder):
            if name.startswith(mark) and not _is_alive(name.removeprefix(mark).partition("-")[0]):
                os.unlink(name, dir_fd=self._folder)


def numbered(path: str, first: int = 1) -> Iterator[str]:
    """Yield a name and others for the same: `a.npy`, `a_2.npy`, `a_3.npy` ...

    Args:
        path: the name.
        first: the number to begin with.
    """
    place = PurePosixPath(path)
    number = first
    while True:
        yield str(place.with_stem(f"{place.stem}_{number}")) if number > 1 else path
        number += 1


def _is_alive(pid: str) -> bool:
    """Tell whether a process of this machine lives; on another machine's files it errs, and that try is made again."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        pass  # another user's
    return True


def _open_folder(root: str, names: tuple[str, ...]) -> tuple[int, str]:
    """Return a descriptor of a folder below the root, and its path; folders that are missing are made.

    Symbolic links are followed as long as they stay below the root. What is above the root is the user's own affair.
    """
    os.makedirs(root, exist_ok=True)
    top = os.path.realpath(root)
    opened = [os.open(top, _FOLDER)]
    path = [top]
    left = list(reversed(names))
    links = 0
    try:
        while left:
            name = left.pop()
            if name == "..":
                if len(opened) == 1:
                    raise TemplateError(f"{'/'.join(names)}: a symbolic link there leads out of {root}")
                os.close(opened.pop())
                path.pop()
                continue
            target = _enter(opened, name)
            if target is None:
                path.append(name)
                continue
            links += 1
            if links > _LINKS:
                raise TemplateError(f"{'/'.join(names)}: too many symbolic links below {root}")
            parts = PurePosixPath(target)
            if parts.is_absolute():
                if not parts.is_relative_to(top):
                    raise TemplateError(f"{'/'.join(names)}: the link {name!r} leads out of {root}, to {target}")
                parts = parts.relative_to(top)
                while len(opened) > 1:
                    os.close(opened.pop())
                del path[1:]
            left += reversed(parts.parts)
        return os.dup(opened[-1]), os.path.join(*path)
    finally:
        for each in opened:
            os.close(each)


def _enter(opened: list[int], name: str) -> str | None:
    """Open a folder, made if it is missing; or return where a symbolic link of this name leads."""
    try:
        opened.append(os.open(name, _FOLDER, dir_fd=opened[-1]))
    except FileNotFoundError:
        try:
            os.mkdir(name, dir_fd=opened[-1])
            _sync(opened[-1])
        except FileExistsError:
            pass  # another archiver was quicker
        opened.append(os.open(name, _FOLDER, dir_fd=opened[-1]))
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        try:
            return os.readlink(name, dir_fd=opened[-1])
        except OSError:
            raise error from None
    return None


def _sync(folder: int) -> None:
    """Put a folder's names on disk, where its file system can do that."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
