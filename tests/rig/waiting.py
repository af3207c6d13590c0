"""Waiting in tests: for a condition, never for a time.

It knows the clock and nothing of shareddata. Invariant: what was waited for and the last value seen are in the message.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    condition: Callable[[], T], timeout: float = 15.0, message: str = "the condition", interval: float = 0.005
) -> T:
    """Call `condition` until what it returns is true, and return that.

    Args:
        condition: called again and again; an AssertionError in it counts as "not yet".
        timeout: seconds after which the wait fails.
        message: what is waited for, in words.
        interval: seconds between two calls.

    Raises:
        AssertionError: the time is over; it says what was waited for and what was seen last.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            seen: object = (value := condition())
            if value:
                return value
        except AssertionError as error:
            seen = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout} s for {message}; seen last: {seen!r}")
        time.sleep(interval)
