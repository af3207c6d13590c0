"""Counting what a bridge passes on and what not, and telling why without flooding the log.

It knows what is counted. It must not know what is passed on, nor where to. Invariant: everything is counted; of one
kind and subject it is told once a minute.
"""

import logging
import threading
import time
from collections import Counter

from shareddata.table import clean

log = logging.getLogger("shareddata")

COUNTS = ("sent", "replaced", "missed", "returned", "received", "written", "known", "refused")
"""What is counted; a bridge's status record has a field for each.

sent: handed to the other side; replaced: not passed on, a newer value of the record came before it could be; missed:
written and gone before it could be read, or still waiting for the other side at the end; returned: written by this
bridge, so not sent back; received: came from the other side; written: of these, written; known: the record has the same
or a later one; refused: wrong.
"""

_COMPLAIN_EVERY = 60.0
_LONGEST = 1000  # characters of what came from the other side in one message


class Tally:
    """Counts what happened, and tells of it without flooding the log. It may be shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._told: dict[tuple[str, str], float] = {}

    def add(self, what: str, count: int = 1) -> None:
        """Count something: one of `COUNTS`."""
        with self._lock:
            self._counts[what] += count

    def complain(self, what: str, subject: str, text: str, count: int = 1) -> None:
        """Count something, and log why: once a minute for each subject, with how many there were in all."""
        with self._lock:
            self._counts[what] += count
            now, key = time.monotonic(), (what, subject)
            total, due = self._counts[what], now >= self._told.get(key, 0.0)
            if due:
                self._told[key] = now + _COMPLAIN_EVERY
        told = clean(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...")
        log.log(logging.WARNING if due else logging.DEBUG, "%s (%s so far: %d)", told, what, total)

    def counts(self) -> dict[str, int]:
        """Return all counts."""
        with self._lock:
            return {name: self._counts[name] for name in COUNTS}
