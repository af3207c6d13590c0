"""Sensors for tests: over the ways that a program reaches its server; and what they leave in Redis and in memory.

It knows where sensors keep their values, nothing of how they are written.
"""

from pathlib import Path

from servers import plain_client
from shareddata import SharedMemory, large

ASIDE = ("writing", "spare")
"""The folders of files that no reference speaks of: marks of writers, files to be written again."""


def keys(shm: SharedMemory) -> list[str]:
    """Return the keys of sensors, but for the one that counts them."""
    with plain_client(shm.address.url) as client:
        return sorted(key.decode() for key in client.keys("*sensor*") if not key.endswith(b":created"))


def files(shm: SharedMemory) -> list[Path]:
    """Return the files of a server's large values."""
    place = large.folder(shm.address)
    if place is None or not place.exists():
        return []
    return [path for path in place.glob("*/*") if path.parent.name not in ASIDE]


def large_keys(shm: SharedMemory) -> list[str]:
    """Return the keys of large values that go through the server."""
    return [key for key in keys(shm) if ":large:" in key]


def references(shm: SharedMemory, begin: bytes = b"@file:") -> int:
    """Return how many references to large values stand in sensors.

    Args:
        shm: the shared memory.
        begin: how they begin: `@file:` or `@key:`.
    """
    values: list[bytes] = []
    with plain_client(shm.address.url) as client:
        for key in keys(shm):
            kind = client.type(key)
            if kind == b"hash":
                values += client.hvals(key)
            elif kind == b"stream":
                values += [each for _, entry in client.xrange(key) for each in entry.values()]
    return sum(value.startswith(begin) for value in values)
