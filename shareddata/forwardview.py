"""How a forwarding goes, for eyes: a status line, and a table at the end.

It knows terminals, and what a forwarding tells of itself. It must not know servers. Invariant: what is logged meanwhile
stands above the status line, and a file gets plain lines.
"""

import logging
import os
import time
from collections.abc import Sequence
from typing import Self, TextIO

from shareddata.copies import Progress
from shareddata.forward import Forward
from shareddata.table import clean, clip, grid

log = logging.getLogger("shareddata")

_PLAIN_EVERY = 10.0  # seconds between two plain lines


class Display:
    """Says how a forwarding goes: a status line on a terminal, else a plain line every ten seconds.

    A context manager: what the library logs meanwhile stands above the status line.

    Args:
        out: where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._told_at = 0.0
        self._sent: int | None = None
        self._trouble = ""
        self._handler = _Above(out) if self._terminal else None
        self._rate = 0.0

    def __enter__(self) -> Self:
        if self._handler is not None:
            self._propagate, log.propagate = log.propagate, False
            log.addHandler(self._handler)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            log.removeHandler(self._handler)
            log.propagate = self._propagate
            self._out.write("\r\x1b[K")
        self._out.flush()

    def tell(self, forward: Forward) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        over = now - self._told_at
        if over < (0.2 if self._terminal else _PLAIN_EVERY) and (self._terminal or forward.trouble == self._trouble):
            return
        progress = forward.progress
        sent = sum(each.sent for each in progress)
        if self._sent is not None and over > 0:
            self._rate = (sent - self._sent) / over
        self._sent, self._told_at, self._trouble = sent, now, forward.trouble
        text = f"{time.strftime('%H:%M:%S', time.gmtime())} UTC  {self._text(progress, sent)}"
        if forward.trouble:
            text += f"  {clean(forward.trouble)}"
        if self._terminal:
            columns = os.get_terminal_size(self._out.fileno()).columns or 80
            self._out.write(f"\r\x1b[K{clip(text, columns - 1)}")
        else:
            self._out.write(f"{text}\n")
        self._out.flush()

    def _text(self, progress: Sequence[Progress], sent: int) -> str:
        behind = [each.behind for each in progress if not each.trouble]
        known = "not known yet" if None in behind else f"{sum(each or 0 for each in behind):,}"
        missed = sum(each.missed for each in progress)
        return f"{sent:,} sent, {missed:,} missed, {known} behind, {max(0.0, self._rate):,.0f}/s"


class _Above(logging.Handler):
    """Writes what is logged above the status line."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        self._out.write(f"\r\x1b[K{record.getMessage()}\n")


def summary(progress: Sequence[Progress]) -> list[str]:
    """Return a table: for each record and log what was sent, missed and is behind, and why it is not forwarded.

    Redis: none.
    """
    rows = [["WHAT", "NAME", "SENT", "MISSED", "BEHIND", ""]]
    for each in progress:
        behind = "?" if each.behind is None else str(each.behind)
        rows.append([each.kind, each.name, str(each.sent), str(each.missed), behind, each.trouble])
    return grid(rows, right=[2, 3, 4])
