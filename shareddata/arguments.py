"""What commands have in common in what they take and tell: times, counts, a line of progress.

It knows texts; it must not know any command, server or record. Invariants:

1. A text that cannot be understood is a UsageError that names the option and shows one that can.
"""

import argparse
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from shareddata import datadesc, table
from shareddata.command import UsageError

SOON = 2.0  # seconds that commands wait for a server when somebody sits before them
JSON = ("Print JSON, for programs", "flag", "j")


def _between(kind: Callable[[str], float], least: float, most: float = math.inf) -> Callable[[str], float]:
    """Return what makes a number of an option's text, for its annotation."""

    def number(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            rest = "or more" if most == math.inf else f"to {most}"
            raise argparse.ArgumentTypeError(f"{text!r}: expected {least} {rest}")
        return value

    number.__name__ = kind.__name__  # for argparse's own message
    return number


COUNT = _between(int, 0)
SECONDS = _between(float, 0)
PORT = _between(int, 0, 65535)


def count(number: int, what: str) -> str:
    """Return a number with its noun, in the plural where that is due."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def since(text: str | None) -> float | None:
    """Return seconds since 1970 of a text like `0`, `1700000000.5` or `10min`."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return time.time() - datadesc.parse_span(text)
    except ValueError as error:
        raise UsageError(f"--since: {error}, or seconds since 1970") from None


def span(text: str, option: str) -> float:
    """Return the seconds of a time like `90s` or `2h`."""
    try:
        return datadesc.parse_span(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def time_in(text: str | None, option: str, first: float) -> float | None:
    """Return seconds since 1970 of a text like `2026-07-20T12:00:00Z`, `1784540000.5` or, after the first, `+10min`."""
    if text is None:
        return None
    if text.startswith("+"):
        return first + span(text[1:], option)
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        expected = "a time like 2026-07-20T12:00:00Z, seconds since 1970, or +10min"
        raise UsageError(f"{option}: {text!r}: expected {expected}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def ago(text: str | None, option: str) -> float | None:
    """Return seconds since 1970 of a text like `2h` ago, `1784540000.5` or `2026-07-20T12:00` (UTC)."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        try:
            return since(text)
        except UsageError:
            expected = "a time ago like 2h, 2026-07-20T12:00, or seconds since 1970"
            raise UsageError(f"{option}: {text!r}: expected {expected}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def check_order(begin: float | None, end: float | None, option: str) -> None:
    """Check that something begins, as an option says, before it ends, as --to says."""
    if begin is not None and end is not None and begin > end:
        raise UsageError(f"--to: {when(end)} is before {option}, {when(begin)}")


def when(ts: float | None) -> str:
    """Return a time for a table, `-` for none."""
    return "-" if ts is None else table.time_text(ts)


def at(nanos: int | None) -> str:
    """Return a time in nanoseconds for a table, `-` for none."""
    return "-" if nanos is None else table.time_text(nanos / 10**9)


def tell_missed(told: int, missed: int, what: str = "updates: the history") -> int:
    """Say what was missed since it was last told; return how many that is in all."""
    if missed > told:
        print(f"missed {missed - told} {what} had dropped them ({missed} so far)", file=sys.stderr)
    return missed


@contextmanager
def progress(text: Callable[[], str]) -> Iterator[Callable[[object], None]]:
    """Give what shows a line that is written over and over, on a terminal and nowhere else."""
    shows = sys.stderr.isatty()

    def show(_: object) -> None:
        if shows:
            width = shutil.get_terminal_size().columns
            print("\r" + table.clip(text(), width - 1) + "\033[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shows:
            print(file=sys.stderr)


class Live:
    """Lines for a user: those that stay, and one that is written over.

    A terminal shows each line that is written over, anything else one a second.
    """

    def __init__(self) -> None:
        self._over = sys.stdout.isatty()
        self._open = False
        self._shown = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        print("\n" * self._open + text, flush=True)
        self._open = False

    def show(self, text: str) -> None:
        """Print a line that the next one may replace."""
        if self._over:
            width = shutil.get_terminal_size().columns
            print("\r" + table.clip(text, width - 1) + "\033[K", end="", flush=True)
            self._open = True
        elif time.monotonic() - self._shown >= 1:
            print(text, flush=True)
            self._shown = time.monotonic()
