"""Files in a tmpfs: each record a file, written beside and renamed; inotify tells of the renames."""

import ctypes
import os
import select
import struct
from collections.abc import Callable

from workload import ROWS, Where, names

from peers import SILENCE, Heard
from peers.packed import SIZE, pack, unpack

(NAME,) = names("F", 0, 1)
MOVED_TO = 0x80
_event = struct.Struct("iIII")


class Contender:
    def __init__(self, where: Where) -> None:
        self.folder = f"{where.folder}/files"
        os.makedirs(self.folder, exist_ok=True)
        self.path, self.beside = f"{self.folder}/{NAME}", f"{self.folder}/.{NAME}.new"

    def operation(self, what: str, records: int, history: int) -> Callable[[int], object]:
        self._write(ROWS[0])
        made: Callable[[int], object] = getattr(self, what)
        return made

    def _write(self, values: tuple[float, ...]) -> None:
        file = os.open(self.beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(file, pack(values))
        os.close(file)
        os.rename(self.beside, self.path)

    def write(self, turn: int) -> None:
        self._write(ROWS[turn % 256])

    def _read(self) -> object:
        file = os.open(self.path, os.O_RDONLY)
        data = os.read(file, SIZE)
        os.close(file)
        return unpack(data)

    def one(self, turn: int) -> object:
        return self._read()

    _seen: tuple[int, int] = (0, 0)
    _latest: object = None

    def unchanged(self, turn: int) -> object:
        status = os.stat(self.path)
        if (seen := (status.st_ino, status.st_mtime_ns)) != self._seen:
            self._seen, self._latest = seen, self._read()
        return self._latest

    def settle(self) -> None:
        """Do nothing: what was renamed is there."""

    def writer(self, history: int) -> Callable[[tuple[float, ...]], object]:
        return self._write

    def hear(self, how: str, history: int, heard: Heard) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        watch: int = libc.inotify_init1(os.O_CLOEXEC)
        libc.inotify_add_watch(watch, self.folder.encode(), MOVED_TO)
        name = NAME.encode()
        try:
            while select.select([watch], [], [], SILENCE)[0]:
                if name in os.read(watch, 65536) and heard(self._read()[2:]):  # type: ignore[index]
                    return
        finally:
            os.close(watch)

    def close(self) -> None:
        """Leave the files to who made the folder."""
