"""The server's time, told by this machine's clock.

It knows how the server's clock is asked and how long an answer is good for. It must not know records, nor what an age
is compared with. Invariants:

1. Telling the time opens no connection and raises nothing: while the server is away the last measurement counts, and
   before the first one this machine's own time.
2. Steps of this machine's clock and its sleep change nothing; a step of the server's is noticed within a minute.
"""

import logging
import math
import threading
import time
from functools import partial

from shareddata.connection import Connection
from shareddata.errors import ServerError

log = logging.getLogger("shareddata")

EVERY = 60.0
"""Seconds after which the server is asked again: clocks drift by a few milliseconds in that time."""

_TRIES = 3  # the quickest answer counts
_AGAIN = 1.0  # seconds after which it is tried again where it failed

# Linux's monotonic clock stands still while the machine sleeps; this one does not.
_steady = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic


class ServerClock:
    """What the server's clock shows, in seconds since 1970. Made by `SharedMemory`, as its `clock`.

    Args:
        connection: what the server is asked on.
        lock: who else uses that connection.

    Attributes:
        lock: the same.
        uncertainty: by how many seconds it was wrong at the most when it was measured; infinite before that.

    It may be shared by threads.

    Redis: TIME, three times, once a minute.
    """

    def __init__(self, connection: Connection, lock: "threading.RLock") -> None:
        self._connection = connection
        self.lock = lock
        self._base = 0.0  # what this machine's steady clock lacks
        self._due = 0.0
        self.uncertainty = math.inf

    def __repr__(self) -> str:
        return f"<ServerClock of {self._connection.address.shown}: within {self.uncertainty:.6f} s>"

    def now(self) -> float:
        """Return the server's time in seconds since 1970.

        Once a minute this asks the server; where that is silent, it takes a time-out.
        """
        if _steady() >= self._due:
            self._measure()
        return _steady() + self._base if self.uncertainty < math.inf else time.time()

    @property
    def offset(self) -> float:
        """By how many seconds the server's clock is ahead of this machine's; negative when it is behind."""
        now = self.now()
        return now - time.time()

    def _measure(self) -> None:
        """Ask the server, if it is connected; keep what is known where it doesn't answer."""
        with self.lock:
            self._due = _steady() + _AGAIN
            if not self._connection.connected:
                return
            try:
                self.uncertainty, self._base = min(self._ask() for _ in range(_TRIES))
            except ServerError as error:
                log.debug("the server's time was not told: %s", error)
                return
            self._due = _steady() + EVERY

    def _ask(self) -> tuple[float, float]:
        """Return half of the time that a question took, and what the steady clock lacked in the middle of it."""
        begin = _steady()
        seconds, microseconds = self._connection.ask("TIME")
        end = _steady()
        return (end - begin) / 2, int(seconds) + int(microseconds) / 1e6 - (begin + end) / 2
