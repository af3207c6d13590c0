"""Emitting events: a payload and metadata, kept until every archiver has taken them.

It knows what an event is, its bounds, and what to do when the outcome is unknown. It must not know how events are taken
out (`eventstream`), who reads them (`subscription`) or what becomes of them. Invariants:

1. An event is there whole or not at all.
2. At the bound `emit` refuses while an archiver has not acknowledged what is there; where nobody ever archived, the
   newest are kept.
3. An `emit` of unknown outcome that the program repeats is there once.
"""

import hashlib
import os
import secrets
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shareddata import cbor, memory
from shareddata.errors import EventsFull, FieldError, ServerError
from shareddata.eventstream import EventStream
from shareddata.large import LIMIT, LargeValues
from shareddata.memory import SharedMemory
from shareddata.wire import pack, shown, transaction

MAX_EVENTS = 10_000
"""How many events of one source wait at most, unless it is said otherwise."""
MAX_BYTES = 1 << 28
"""How many bytes they have at most (256 MiB)."""

_REPEAT = 3600  # seconds within which an emit of unknown outcome may be repeated
_SLACK = 32  # where nobody archives, this part of the bound is made free at once


class Emitter:
    """Emits the events of one source. It has its own connection and belongs to one thread at a time; a context manager.

    Args:
        source: who emits: letters, digits and `_.-/`.
        event: letters, digits and `_.-`.
        shm: the shared memory; None for this process's own at the default address.
        max_events: how many events wait at most for archivers.
        max_bytes: how many bytes they have at most.
        by_reference: False: payloads go through the server always, and survive the machine as everything there does;
            else large ones are files in memory where everybody is on one machine.

    The bounds are looked at before each event: several emitters of one source may exceed them by one event each.

    Redis: none.
    """

    def __init__(
        self,
        source: str,
        event: str,
        shm: SharedMemory | None = None,
        *,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        by_reference: bool = True,
    ) -> None:
        shm = memory.default(shm)
        self.stream = EventStream(shm, source, event)
        self.max_events, self.max_bytes = max_events, max_bytes
        self._large = LargeValues(shm)
        self._by_reference = by_reference and self._large.by_reference
        self._registry, self._member = shm.keys.events(), f"{source}:{event}"
        self._mark, self._pid = "", 0
        self._connection = shm.connect(f"events of {source}")
        self._seen = -1  # how often the connection was opened when the server's state was looked at last
        self._length = self._bytes = 0
        self._uncertain: tuple[bytes, bytes] | None = None  # token and digest of an event of unknown outcome
        shm.attach(self)

    def __enter__(self) -> "Emitter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection.

        Redis: none.
        """
        self._connection.close()

    def emit(self, payload: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Emit an event: it is kept until every archiver has taken it.

        Args:
            payload: any JSON value, bytes, or a numpy array.
            metadata: what it is about; file names are made of it.

        Raises:
            FieldError: a payload or metadata that cannot be written, or that exceed `max_bytes` by themselves.
            EventsFull: archivers have not taken what waits for them; the message names them.
            ServerTimeout, ServerUnreachable: not written, or of unknown outcome (`outcome_unknown`): emitting the same
                again writes it once.
            ServerRefused, ServerSetupError.

        Redis: MULTI, HSET, XADD, HINCRBY, XLEN, SET, SADD, EXEC; at the bound as `EventStream.trim`.
        """
        parts, about = self._encoded(payload, metadata)
        size = sum(memoryview(part).nbytes for part in parts) + len(about)
        if size > self.max_bytes:
            raise FieldError(f"{self.stream}: an event of {size} bytes: give max_bytes={size} or more")
        self._connection.settle()
        if self._seen != self._connection.opened:
            self._look()
        uncertain = self._uncertain is not None and self._pid == os.getpid()
        token, written = self._repeated(parts, about) if uncertain else (secrets.token_hex(9).encode(), False)
        if written:
            return
        if self._is_full(size):
            self._make_room(size)
        try:
            self._write(token, parts, about, size)
        except ServerError as error:
            if error.outcome_unknown:
                self._uncertain = token, _digest(parts, about)
            raise
        self._uncertain = None

    def _encoded(self, payload: Any, metadata: Mapping[str, Any] | None) -> tuple[list[Any], bytes]:
        metadata = {} if metadata is None else metadata
        try:
            about = dict(metadata)
            if not all(isinstance(name, str) for name in about):
                raise TypeError
        except (TypeError, ValueError):
            raise FieldError(
                f"{self.stream}: the metadata are {shown(metadata)}, expected a dictionary with str keys"
            ) from None
        try:
            return cbor.encode(payload), b"".join(cbor.encode(about))
        except (TypeError, ValueError) as error:
            raise FieldError(f"{self.stream}: {error}") from None

    def _write(self, token: bytes, parts: Sequence[Any], about: bytes, size: int) -> None:
        stream = self.stream
        if self._pid != os.getpid():  # a forked child's events are its own
            self._mark, self._pid = f"{stream.key}:last:{secrets.token_hex(6)}", os.getpid()
        place = "files" if self._by_reference and size > LIMIT else "values"
        head = ("token", token, "size", size, "metadata", about, "place", place)
        with self._large.change() as change:
            stored = change.store(stream.place(place), parts) if place == "files" else b"".join(parts)
            commands = [
                pack("XLEN", stream.key),
                pack("HINCRBY", stream.state, "bytes", size),
                pack("HSET", stream.place(place), token, stored),
                pack("XADD", stream.key, "*", *head),
                pack("SET", self._mark, token, "EX", _REPEAT),
                pack("SADD", self._registry, self._member),
            ]
            length, self._bytes, *_ = self._connection.transact(transaction(commands), [str(stream)] * len(commands))
            self._length = length + 1

    def _is_full(self, size: int) -> bool:
        return self._length >= self.max_events or self._bytes + size > self.max_bytes

    def _look(self) -> None:
        """Ask how many events there are: at the beginning, and when the connection was opened anew.

        Redis: XLEN, HGET.
        """
        self._length = self._connection.ask("XLEN", self.stream.key)
        self._bytes = int(self._connection.ask("HGET", self.stream.state, "bytes") or 0)
        self._seen = self._connection.opened

    def _make_room(self, size: int) -> None:
        """Drop what is not needed any more, or refuse."""
        events = 1 + self.max_events // _SLACK
        while True:
            self._look()
            if not self._is_full(size):
                return
            more = self._length + events - self.max_events, self._bytes + size - self.max_bytes
            if not self.stream.trim(self._connection, more):
                break
        self._look()
        if self._is_full(size):
            groups = self.stream.groups(self._connection)
            waits = [f"{group.name} ({self.stream.behind(self._connection, group)} events)" for group in groups]
            raise EventsFull(
                f"{self.stream}: {self._length} events of {self._bytes} bytes wait for {', '.join(waits)}, the bound "
                f"is {self.max_events} events and {self.max_bytes} bytes: nothing was written; start what takes them, "
                "`shareddata archive FILE`, or give it up, `shareddata archive --forget NAME`"
            )

    def _repeated(self, parts: Sequence[Any], about: bytes) -> tuple[bytes, bool]:
        """Return the token of an event after one of unknown outcome, and whether it is the same and was written.

        Redis: PING, GET.
        """
        assert self._uncertain is not None
        token, digest = self._uncertain
        if digest != _digest(parts, about):
            return secrets.token_hex(9).encode(), False
        self._connection.ask("PING")  # what the broken connection had sent is carried out before what follows
        written = bool(self._connection.ask("GET", self._mark) == token)
        if written:
            self._uncertain = None
        return token, written


def _digest(parts: Iterable[Any], about: bytes) -> bytes:
    digest = hashlib.sha256(about)
    for part in parts:
        digest.update(part)
    return digest.digest()


# -- without an emitter of one's own ----------------------------------------------------------------------------------


class _Emitters:
    """One thread's emitters on one shared memory, until that is closed."""

    def __init__(self, shm: SharedMemory) -> None:
        self.known: dict[tuple[str, str], Emitter] = {}
        shm.attach(self)

    def close(self) -> None:
        for emitter in list(self.known.values()):
            emitter.close()
        self.known.clear()


_own = threading.local()


def emit(
    source: str,
    event: str,
    payload: Any,
    metadata: Mapping[str, Any] | None = None,
    shm: SharedMemory | None = None,
) -> None:
    """Emit an event: see `Emitter.emit`. Each thread keeps an emitter for each source and event.

    Args:
        source: who emits: letters, digits and `_.-/`.
        event: letters, digits and `_.-`.
        payload: any JSON value, bytes, or a numpy array.
        metadata: what it is about; file names are made of it.
        shm: the shared memory; None for this process's own at the default address.

    Raises:
        FieldError, EventsFull, ServerTimeout, ServerUnreachable, ServerRefused, ServerSetupError: see `Emitter.emit`.

        >>> emit("my-camera", "acquisition_data", [[1, 2], [3, 4]], {"frame": 0}, shm)

    Redis: as `Emitter.emit`.
    """
    shm = memory.default(shm)
    if not hasattr(_own, "emitters"):
        _own.emitters = weakref.WeakKeyDictionary()
    emitters = _own.emitters.get(shm) or _own.emitters.setdefault(shm, _Emitters(shm))
    emitter = emitters.known.get((source, event))
    if emitter is None:
        emitter = emitters.known[source, event] = Emitter(source, event, shm)
    emitter.emit(payload, metadata)
