"""Archivers in tests: what was stored, and waiting for it.

It knows files and the status of an archiver, nothing of servers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shareddata.archive import DataArchiver
from shareddata.eventstream import EventStream
from shareddata.memory import SharedMemory
from waiting import eventually


def files(folder: Path) -> list[str]:
    """Return the files below a folder, sorted, unfinished ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def arrays(folder: Path) -> dict[str, Any]:
    """Return the arrays below a folder, as lists."""
    return {name: np.load(folder / name, allow_pickle=False).tolist() for name in files(folder)}


def values(folder: Path) -> dict[str, Any]:
    """Return the JSON values below a folder."""
    return {name: json.loads((folder / name).read_text()) for name in files(folder)}


def stored(archiver: DataArchiver, count: int, timeout: float = 15.0) -> None:
    """Wait until so many events are stored or dead letters."""
    eventually(
        lambda: archiver.status.stored + archiver.status.dead >= count and archiver.status,
        timeout,
        f"{count} events to be stored",
    )


def waiting(shm: SharedMemory, source: str, event: str) -> Mapping[str, int]:
    """Return what Redis holds of a source's events: entries, payloads, bytes."""
    stream = EventStream(shm, source, event)
    connection = shm.connect("test")
    try:
        return {
            "events": connection.ask("XLEN", stream.key),
            "values": connection.ask("HLEN", stream.place("values")),
            "files": connection.ask("HLEN", stream.place("files")),
            "bytes": int(connection.ask("HGET", stream.state, "bytes") or 0),
        }
    finally:
        connection.close()


NOTHING = {"events": 0, "values": 0, "files": 0, "bytes": 0}
