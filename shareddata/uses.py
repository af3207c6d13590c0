"""Who reads and writes which records, seen on a running server.

It knows the server's slow log, which can be made to hold every command with the name of the program that sent it. It
must not know what descriptions hold, or how what it found is shown. Invariants:

1. What was changed at the server to look is put back, however the looking ends; what its slow log held is gone.
2. Only what happened while it looked is told: a program that was silent is not there.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shareddata.connection import Connection
from shareddata.memory import SharedMemory
from shareddata.names import Names
from shareddata.wire import pack, transaction

NAME = "shareddata docs"
SECONDS = 5.0
"""For how long it is looked, unless it is said otherwise."""

_PAUSE = 0.2  # seconds between two looks into the slow log
_KEPT = 20_000  # commands between two looks: more are not all seen
_SETTINGS = {"slowlog-log-slower-than": "0", "slowlog-max-len": str(_KEPT)}
_LOOKING_ON = frozenset(("shareddata", "shareddata_watch", "shareddata_page", "shareddata_docs"))  # people, no programs
_READ = (b"HMGET", b"HGETALL", b"HGET")
_WRITTEN = (b"HSET", b"HMSET")
_HISTORY = ":history"


@dataclass
class Uses:
    """Which programs were seen to use records.

    Attributes:
        writers: the programs that wrote a record, by its name.
        readers: those that read it, listened to it or followed its history, and were not seen to write it.
    """

    writers: dict[str, set[str]] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)


def look(shm: SharedMemory, seconds: float = SECONDS) -> Uses:
    """Look on for some seconds at what programs do with records.

    Args:
        shm: the shared memory.
        seconds: for how long.

    Raises:
        ServerRefused: CONFIG or SLOWLOG are not allowed there.

    Redis: CONFIG GET, CONFIG SET, MULTI, SLOWLOG GET, SLOWLOG RESET, EXEC.
    """
    uses, names = Uses(), frozenset(shm.names())
    connection = shm.connect(NAME)
    try:
        before = {name: _setting(connection, name) for name in _SETTINGS}
        try:
            _set(connection, _SETTINGS)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(min(_PAUSE, max(0.0, end - time.monotonic())))
                for entry in _entries(connection):
                    _note(uses, shm.keys, names, entry)
        finally:
            _set(connection, before)
            connection.call("SLOWLOG", "RESET")
    finally:
        connection.close()
    for name, writers in uses.writers.items():  # who writes a record has read it once, to know what it keeps
        uses.readers[name] = uses.readers.get(name, set()) - writers
    return Uses(uses.writers, {name: readers for name, readers in uses.readers.items() if readers})


def _setting(connection: Connection, name: str) -> str:
    value: bytes = connection.ask("CONFIG", "GET", name)[name.encode()]
    return value.decode()


def _set(connection: Connection, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        connection.call("CONFIG", "SET", name, value)


def _entries(connection: Connection) -> Sequence[Any]:
    """Return the commands that were carried out since the last call: id, time, duration, words, address, name."""
    request = transaction([pack("SLOWLOG", "GET", _KEPT), pack("SLOWLOG", "RESET")])
    connection.settle()
    entries: Sequence[Any] = connection.transact(request, ["slow log"] * 2)[0]
    return entries


def _note(uses: Uses, keys: Names, names: frozenset[str], entry: Sequence[Any]) -> None:
    """Take note of what a command used, and who sent it."""
    words, program = entry[3], entry[5].decode(errors="replace") or "(no name)"
    if program in _LOOKING_ON or len(words) < 2:
        return
    command = words[0].upper()
    found = uses.readers if command in _READ or command == b"XREAD" else uses.writers if command in _WRITTEN else None
    if found is None:
        return
    for word in words[1:] if command == b"XREAD" else words[1:2]:
        key = word.decode(errors="replace")
        if command == b"XREAD" and not key.endswith(_HISTORY):
            continue
        name = keys.record_of(key.removesuffix(_HISTORY))
        if name in names:
            found.setdefault(str(name), set()).add(program)
