"""Looks that all browsers share, and the doctor's report.

It knows when something is looked at. It must not know HTTP, streams or templates. Invariants:

1. A look is shared: however many browsers ask, the server is asked once in that time.
2. What nobody looks at is not read.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from shareddata import doctor, pageview
from shareddata.memory import SharedMemory


class Look(NamedTuple):
    """What was found, and the same as JSON."""

    content: dict[str, Any]
    text: bytes


class Shared:
    """Something that is looked at again when it is older than some seconds and anybody asks.

    Args:
        look: what looks; it may wait.
        seconds: for how long what was found is good.
    """

    def __init__(self, look: Callable[[], dict[str, Any]], seconds: float) -> None:
        self._look = look
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._found: Look | None = None
        self._looked_at = float("-inf")

    async def get(self) -> Look:
        """Return what there is, at most so many seconds old.

        Raises:
            SharedDataError: as the look does.
        """
        async with self._lock:
            if self._found is None or time.monotonic() - self._looked_at > self._seconds:
                self._found = await asyncio.to_thread(self._work)
                self._looked_at = time.monotonic()
            return self._found

    def _work(self) -> Look:
        content = self._look()
        return Look(content, pageview.text(content))


class Report(NamedTuple):
    """What the doctor found, and when: by the server's clock."""

    findings: list[doctor.Finding]
    at: float


class Doctor:
    """The doctor's last report: one for all.

    Args:
        shm: whose server is examined.
    """

    AGAIN = 5.0
    """Seconds within which the report that is there is good enough."""

    def __init__(self, shm: SharedMemory) -> None:
        self._shm = shm
        self._lock = asyncio.Lock()
        self.report: Report | None = None

    async def examine(self, now: Callable[[], float]) -> Report:
        """Look at everything, unless somebody else did just now.

        Redis: as `doctor.examine`.
        """
        async with self._lock:
            if self.report is None or now() - self.report.at > self.AGAIN:
                self.report = Report(await asyncio.to_thread(doctor.examine, self._connect), now())
            return self.report

    def _connect(self) -> SharedMemory:
        return SharedMemory(
            url=self._shm.address, namespace=self._shm.namespace, wait=1.0, timeout=self._shm.timeout
        )
