"""Files that are being written: a lock that tells others, and room on the disk that is kept free for their end.

It knows locks and room. It must not know what is written, or by whom. Invariants:

1. A lock ends with the process that holds it, however that ends.
2. What is kept free is not to be seen in the folder, and is gone with the process.
"""

import errno
import fcntl
import os
import tempfile


class Reserve:
    """Room on a disk that is kept free: HDF5 may crash the process when it cannot write what it has in hand.

    Args:
        folder: on that disk.
        size: bytes.

    Raises:
        OSError: there is no room.
    """

    def __init__(self, folder: str, size: int) -> None:
        self._size = size
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by release()
        try:
            _allocate(self._file.fileno(), 0, size)
        except BaseException:
            self._file.close()
            raise

    def check(self, size: int) -> None:
        """Raise OSError unless there is so much room beside what is kept."""
        try:
            _allocate(self._file.fileno(), self._size, size)
        finally:
            os.ftruncate(self._file.fileno(), self._size)

    def release(self) -> None:
        """Give the room free."""
        self._file.close()


def _allocate(file: int, offset: int, size: int) -> None:
    """Take room on a disk.

    Raises:
        OSError: there is none.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, offset, size)
        return
    disk = os.fstatvfs(file)
    if disk.f_bavail * disk.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def hold(path: str) -> int:
    """Return a descriptor that tells others that a file is being written: HDF5's own lock ends when SWMR begins."""
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _flock(lock, fcntl.LOCK_SH)
    return lock


def check_left(path: str) -> None:
    """Check that nobody writes a file any more.

    Raises:
        BlockingIOError: its writer lives.
        FileNotFoundError: there is none.
    """
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(lock)


def _flock(file: int, how: int) -> None:
    """Lock a file, where its file system can do that.

    Raises:
        BlockingIOError: another process has.
    """
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
