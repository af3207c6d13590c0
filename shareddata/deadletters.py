"""Dead letters: events that could not be archived, whole, in a folder, until somebody has mended the cause.

It knows the files of that folder. It must not know archivers, servers or why an event failed beyond a text. Invariants:

1. A letter holds all of its event: source, event, id, payload, metadata; and what went wrong.
2. An event has one letter, however often it fails.
3. A letter is removed only after its event was archived.

A letter is one CBOR value, a dictionary, in a file `SOURCE_EVENT_ID.letter`.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shareddata import cbor
from shareddata.errors import DecodeError
from shareddata.wholefile import Draft


def usual_folder() -> Path:
    """Return the folder of dead letters where none is named: below $XDG_STATE_HOME, else ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "shareddata" / "dead-letters"


log = logging.getLogger("shareddata")


@dataclass(frozen=True)
class Letter:
    """An event that could not be archived.

    Attributes:
        archiver: which archiver could not.
        identity: what the event is called: `SOURCE:EVENT:ID`.
        source: who emitted it.
        metadata: what it is about, without the archiver's defaults.
        payload: its data.
        error: what went wrong.
    """

    archiver: str
    identity: str
    source: str
    metadata: dict[str, Any]
    payload: Any
    error: str

    def write(self, folder: Path) -> Path:
        """Write it whole; one that is there for the same event is replaced.

        Of objects that CBOR does not know it holds what `repr` says.

        Returns:
            The file.

        Raises:
            OSError: the folder cannot be written.
        """
        path = path_of(folder, self.archiver, self.identity)
        try:
            parts = cbor.encode(vars(self))
        except (TypeError, ValueError):  # what was fed need not be writable
            parts = cbor.encode(_writable(vars(self)))
        with Draft("/", str(path), lambda file: file.writelines(parts), self.identity, again=True) as draft:
            draft.replace(str(path))
        return path


def _writable(value: Any) -> Any:
    """Return a value with what CBOR cannot hold as text."""
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    try:
        cbor.encode(value)
        return value
    except (TypeError, ValueError):
        return _writable(repr(value))


def path_of(folder: Path, archiver: str, identity: str) -> Path:
    """Return the file of an event's letter."""
    safe = re.sub(r"[^A-Za-z0-9.-]", "_", identity)[:180]
    mark = hashlib.sha256(f"{archiver} {identity}".encode()).hexdigest()[:8]
    return folder.absolute() / f"{safe}-{mark}.letter"


def remove(folder: Path, archiver: str, identity: str) -> None:
    """Remove an event's letter, if there is one: it was archived."""
    path = path_of(folder, archiver, identity)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: its event was archived, and it cannot be removed: %s", path, error)


def read(path: Path) -> Letter:
    """Return what a letter's file holds.

    Raises:
        OSError: it cannot be read.
        DecodeError: it is no letter.
    """
    try:
        return Letter(**cbor.decode(path.read_bytes()))
    except (TypeError, ValueError) as error:
        raise DecodeError(f"{path}: no dead letter: {error}") from None


def letters(folder: Path, archiver: str) -> Iterator[tuple[Path, Letter]]:
    """Yield an archiver's letters, the oldest first.

    Raises:
        OSError: one cannot be read.
        DecodeError: one is no letter.
    """
    for path in sorted(folder.glob("*.letter"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        letter = read(path)
        if letter.archiver == archiver:
            yield path, letter
