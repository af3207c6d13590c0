"""Large values: a reference in Redis, the bytes in a file in memory, where everybody is on one machine.

It knows which values go by reference, how a reference is spelt, and when a file is not needed any more. It must not
know what values mean or which commands carry them. Invariants:

1. Each reference has a file of its own (a second one to the same bytes is a hard link): whoever takes a reference out
   of Redis unlinks exactly that file.
2. A file is there before its reference is in Redis, and loses its name only after its reference is out of Redis.
3. A value is copied out of its file, and counts if the file then still has its name: what was read is whole.
4. Files that were left behind, by killed programs or by writes of unknown outcome, are found by comparing with Redis:
   see `sweep`. Files of a living process are never swept by another one.

References stand as whole values only: a field's value in a hash, or in an entry of a stream.

A reference is `@file:HOST/UID/SERVER/KEY/FILE/SIZE`. Bytes that begin like one by chance have `@data:` before them.
"""

import hashlib
import itertools
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from shareddata import tmpfs
from shareddata.address import Address
from shareddata.codec import Buffer
from shareddata.connection import Connection
from shareddata.errors import DecodeError, ServerError, ServerRefused, ServerSetupError, SharedDataError
from shareddata.memory import SharedMemory

log = logging.getLogger("shareddata")

LIMIT = 65536
"""Bytes above which a value goes by reference."""

_FILE, _DATA = b"@file:", b"@data:"
_SAFE = re.compile(r"[A-Za-z0-9_.~%-]+")
_KEY_LONGEST = 240  # bytes of a folder's name; the system's limit is 255
_PAGE = 100  # entries of a stream looked through at once
_VOLATILE = ("/run/", "/var/run/")  # folders that the system removes while a server is stopped

_flying: set[str] = set()  # files of this process whose transactions are not over
_uncertain: set[str] = set()  # folders of keys in which this process left a transaction of unknown outcome
_swept: set[str] = set()  # folders of servers in which this process has begun to write


def _forget_in_child() -> None:
    _flying.clear()
    _uncertain.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class Gone(LookupError):
    """The file of a reference is not there: read the place in Redis again."""


@lru_cache
def _root(uid: int) -> str:
    return str(tmpfs.root(uid))


class _Reference(NamedTuple):
    host: str
    uid: int
    server: str
    key: str
    file: str
    size: int

    @property
    def path(self) -> str:
        return f"{_root(self.uid)}/large/{self.server}/{self.key}/{self.file}"


def is_reference(stored: Buffer) -> bool:
    """Tell whether what is in Redis is a reference."""
    return bytes(stored[:6]) == _FILE


def size(stored: Buffer) -> int:
    """Return how many bytes a stored value has, wherever they are."""
    return _parsed(stored).size if is_reference(stored) else len(stored)


def read(stored: bytes) -> bytes:
    """Return a stored value: the bytes themselves, or what its file holds.

    Raises:
        Gone: its file is not there any more.
        ServerSetupError: its file is another user's.
        DecodeError: it begins like a reference and is none.

    Redis: none.
    """
    if not stored.startswith((_FILE, _DATA)):
        return stored
    if stored.startswith(_DATA):
        return stored[len(_DATA) :]
    reference = _parsed(stored)
    try:
        data = tmpfs.read(reference.path, reference.size)
    except FileNotFoundError:
        raise Gone(f"{reference.path} is not there any more") from None
    except PermissionError:
        raise ServerSetupError(
            f"the value is in {reference.path}, which only user {reference.uid} of {reference.host} may read: run the "
            "programs as one user, or let the writer use a redis:// address: values then go through the server"
        ) from None
    if len(data) != reference.size:
        raise DecodeError(
            f"{reference.path}: found {len(data)} bytes, expected {reference.size}: another program changed it"
        )
    return data


def lost(stored: bytes, what: str) -> SharedDataError:
    """Return the exception for a reference that stands in Redis and whose file is not there.

    Args:
        stored: the reference.
        what: whose value it is, for the message.
    """
    reference = _parsed(stored)
    if reference.host != socket.gethostname():
        return ServerSetupError(
            f"{what}: the value is in the memory of {reference.host}, and this is {socket.gethostname()}: let the "
            "writer use a redis:// address: values then go through the server"
        )
    return DecodeError(
        f"{what}: found a reference to {reference.path}, which is not there: the machine was started anew since it was "
        "written, or somebody removed the file; write the value again"
    )


def _parsed(stored: Buffer) -> _Reference:
    text = bytes(stored[: 6 * 300]).decode(errors="replace")
    parts = text.removeprefix(_FILE.decode()).split("/")
    host, uid, server, key, file, length = parts if len(parts) == 6 else [""] * 6
    if not (uid.isdecimal() and length.isdecimal() and all(map(_SAFE.fullmatch, (server, key, file)))):
        raise DecodeError(f"found {text[:60]!r}, expected a reference to a large value: another program wrote it")
    if ".." in (server, key, file) or "." in (server, key, file):
        raise DecodeError(f"found {text[:60]!r}, a reference that leads elsewhere: another program wrote it")
    return _Reference(host, int(uid), server, key, file, int(length))


def folder(address: Address) -> Path | None:
    """Return where this user's large values of a server are; None where values go through the server."""
    if address.socket_path is None:
        return None
    name = hashlib.sha256(os.fsencode(address.socket_path) + b"/%d" % address.database).hexdigest()[:16]
    return tmpfs.root() / "large" / name


def forget(address: Address) -> None:
    """Remove all large values of a server that will not be used again, such as one of a demonstration.

    Redis: none.
    """
    place = folder(address)
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
        tmpfs.end_writing(str(place))
        _swept.discard(str(place))


class LargeValues:
    """The large values of one writer.

    Args:
        shm: the shared memory; nothing is done yet.

    Attributes:
        by_reference: whether large values go by reference.

    It belongs to one thread at a time.
    """

    def __init__(self, shm: SharedMemory) -> None:
        self._shm = shm
        place = folder(shm.address)
        self._folder = "" if place is None else str(place)
        self._heads: dict[str, bytes] = {}
        self.by_reference = place is not None

    def change(self) -> "Change":
        """Return the context of one transaction that puts values into Redis, or takes some out.

        Redis: at a process's first change, and after one of unknown outcome, as `sweep`.
        """
        if self._folder and self._folder not in _swept:
            self._begin(Path(self._folder))
        if self._folder and _uncertain:
            self._settle()
        return Change(self)

    def head(self, key: str) -> bytes:
        """Return the beginning of the references that stand in a key; empty where its values go through the server."""
        head = self._heads.get(key)
        if head is None:
            name = quote(key, safe="~")
            words = (socket.gethostname(), os.getuid(), os.path.basename(self._folder), name, "")
            head = _FILE + "/".join(map(str, words)).encode() if self._folder and len(name) <= _KEY_LONGEST else b""
            self._heads[key] = head
        return head

    def _begin(self, place: Path) -> None:
        """Make the folder, and remove what was left behind in it before this process was started."""
        tmpfs.make(f"large/{place.name}")
        (place / "server").write_text(f"{self._shm.address.socket_path}\n{self._shm.address.folder}\n")
        tmpfs.writer(self._folder)
        _swept.add(self._folder)
        self.sweep()
        for sibling in place.parent.iterdir():
            if sibling != place and _is_deserted(sibling):
                shutil.rmtree(sibling, ignore_errors=True)

    def sweep(self) -> int:
        """Unlink the files of dead programs that no reference in Redis speaks of; return how many.

        Done by itself at a process's first change.

        Redis: PING, TYPE, HVALS or XRANGE for each key with such files; none if there are no such files.
        """
        return self._unlink_unused(tmpfs.abandoned(self._folder)) if os.path.isdir(self._folder) else 0

    def _settle(self) -> None:
        """Unlink what this process's changes of unknown outcome have left: their files, or those that they replaced."""
        places = {place for place in _uncertain if os.path.dirname(place) == self._folder}
        try:
            name = tmpfs.writer(self._folder).name
            files = [path for place in places for path in tmpfs.listed(place, f"{name}.")]
            self._unlink_unused(path for path in files if path not in _flying)
            self.sweep()
        except ServerError:
            return  # the change that follows tells
        _uncertain.difference_update(places)

    def _unlink_unused(self, files: Iterable[str]) -> int:
        """Unlink those files that Redis does not refer to.

        What their dead writers, or our own broken connections, had sent was in the server's hands before the PING: it
        is carried out before the questions that follow its answer.
        """
        by_folder: dict[str, list[str]] = {}
        for path in files:
            by_folder.setdefault(os.path.dirname(path), []).append(path)
        if not by_folder:
            return 0
        count = 0
        connection = self._shm.connect("shareddata large values")
        try:
            connection.ask("PING")
            for place, paths in by_folder.items():
                used = {_parsed(stored).path for stored in _references(connection, unquote(os.path.basename(place)))}
                unused = set(paths) - used
                count += sum(map(tmpfs.unlink, unused))
                tmpfs.remove_if_empty(place)
        except ServerRefused as error:
            log.warning("%s: large values that were left behind cannot be cleared away: %s", self._shm.url, error)
        finally:
            connection.close()
        return count


class Change:
    """One transaction that changes which large values Redis refers to: a context manager, made by `LargeValues.change`.

    When it ends in an exception the new files stay until it is known whether the server applied the transaction.
    """

    def __init__(self, values: LargeValues) -> None:
        self._head = values.head
        self._folder = values._folder
        self._keys: set[str] = set()
        self._new: list[str] = []
        self._replaced: list[str] = []

    def __enter__(self) -> "Change":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        _flying.difference_update(self._new)
        if kind is not None:
            places = [self._place(key) for key in self._keys if self._head(key)]
            _uncertain.update(place for place in places if os.path.isdir(place))
            return
        for path in self._replaced:
            _give_back(path)
        for place in {os.path.dirname(path) for path in self._replaced} - {os.path.dirname(path) for path in self._new}:
            tmpfs.remove_if_empty(place)

    def store(self, key: str, data: Buffer | Sequence[Buffer]) -> bytes:
        """Return what goes into Redis for a value: the value, or a reference to a new file that holds it.

        Args:
            key: of the hash or stream that it goes into: there it is looked for before the file is ever swept.
            data: the value's bytes, in one piece or several.

        Raises:
            ServerSetupError: the folder cannot be used.
        """
        return b"".join(self.pieces(key, data))

    def pieces(self, key: str, data: Buffer | Sequence[Buffer]) -> list[Buffer]:
        """Do as `store`, without copying what goes through the server.

        Returns:
            The bytes for one argument of a command, in pieces.
        """
        parts = [data] if isinstance(data, bytes | bytearray | memoryview) else list(data)
        length = sum(memoryview(part).nbytes for part in parts)
        self._keys.add(key)
        if length > LIMIT and (head := self._head(key)):
            try:
                return [self._put(key, head, parts, length)]
            except OSError as error:
                log.warning("%s: a value of %d bytes goes through the server: %s", self._folder, length, error)
        return [_DATA, *parts] if _looks_special(parts) else parts

    def link(self, key: str, stored: bytes) -> bytes:
        """Return another reference to a stored value, for another place in Redis.

        Args:
            key: of the hash or stream that it goes into.
            stored: the value, or a reference.

        Raises:
            Gone: its file is not there any more.
        """
        self._keys.add(key)
        if not is_reference(stored):
            return stored
        head, old = self._head(key), _parsed(stored)
        if not head:
            return self.store(key, read(stored))
        path, name = self._next(key)
        try:
            tmpfs.link(old.path, path)
        except FileNotFoundError:
            raise Gone(f"{old.path} is not there any more") from None
        return b"%b%b/%d" % (head, name.encode(), old.size)

    def replaced(self, *stored: Buffer | None) -> None:
        """Say which stored values this transaction has taken out of Redis; their files are unlinked at its end."""
        self._replaced += [_parsed(each).path for each in stored if each and is_reference(each)]

    def _put(self, key: str, head: bytes, parts: Sequence[Buffer], length: int) -> bytes:
        path, name = self._next(key)
        tmpfs.writer(self._folder).write(path, parts, length)
        return b"%b%b/%d" % (head, name.encode(), length)

    def _place(self, key: str) -> str:
        """Return the folder of a key's files."""
        return f"{self._folder}/{quote(key, safe='~')}"

    def _next(self, key: str) -> tuple[str, str]:
        """Return path and name of a new file."""
        name = tmpfs.writer(self._folder).new_name()
        path = f"{self._place(key)}/{name}"
        _flying.add(path)
        self._new.append(path)
        return path, name


def _looks_special(parts: Sequence[Buffer]) -> bool:
    """Tell whether bytes begin like a reference."""
    head = b""
    for part in parts:
        head += bytes(memoryview(part).cast("B")[: 6 - len(head)])
        if len(head) == 6:
            break
    return head in (_FILE, _DATA)


def _give_back(path: str) -> None:
    """Take a file's name away, whoever wrote it."""
    place = os.path.dirname(os.path.dirname(path))
    if place in _swept:
        tmpfs.writer(place).give_back(path)
    else:
        tmpfs.unlink(path)


def _references(connection: Connection, key: str) -> Iterator[bytes]:
    """Yield the references that a hash or a stream holds.

    Redis: TYPE, HVALS or XRANGE.
    """
    kind = connection.ask("TYPE", key)
    values: Iterable[Any] = ()
    if kind == b"hash":
        values = connection.ask("HVALS", key)
    elif kind == b"stream":
        values = itertools.chain.from_iterable(fields[1::2] for _, fields in _entries(connection, key))
    return (value for value in values if is_reference(value) and _is_ours(value))


def _entries(connection: Connection, key: str) -> Iterator[Any]:
    first = "-"
    while entries := connection.ask("XRANGE", key, first, "+", "COUNT", _PAGE):
        yield from entries
        first = f"({entries[-1][0].decode()}"


def _is_ours(stored: bytes) -> bool:
    try:
        return _parsed(stored).uid == os.getuid()
    except DecodeError:
        return False


def _is_deserted(place: Path) -> bool:
    """Tell whether the server of a folder can't come back: its data are gone, and no program of it lives."""
    try:
        _, data = (place / "server").read_text().splitlines()
    except (OSError, ValueError):
        return False  # it is just being made, or none of ours
    return not Path(data).exists() and not data.startswith(_VOLATILE) and not tmpfs.living(str(place))
