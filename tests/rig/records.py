"""Descriptions for tests, and what a plain client sees of records.

It knows data descriptions and redis-py, nothing of the library's inside.
"""

from typing import Any

import redis

HEAD = [["ts", 0.0], ["sender", ""]]

PAIR: dict[str, Any] = {
    "LEFT": [*HEAD, ["number", 0], ["text", ""]],
    "RIGHT": [*HEAD, ["number", 0], ["text", ""]],
}
"""Two records with histories."""

PLAIN: dict[str, Any] = {
    "ALONE": {"history": 0, "fields": [*HEAD, ["number", 0]]},
    "LOGGED": {"history": 100, "fields": [*HEAD, ["number", 0]]},
}
"""A record without history, and one with a small one."""


def calls(client: redis.Redis, command: str) -> int:
    """Return how often the server carried out a command."""
    return int(client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])
