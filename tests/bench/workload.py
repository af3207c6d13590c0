"""What every contender does: the same records, values, operations.

It knows the records and the values that are written, nothing of servers or clients. Invariants:

1. Every contender writes records of its own (a letter in their names), so that none pays for another's subscriptions.
2. Half of the values are short decimals, as from a converter (24.183), half are full doubles, as from a computation.
"""

import random

RECORDS = 8
FIELDS = tuple(f"field_{i}" for i in range(8))
SENDER = "BENCH"
HISTORY = 256
_random = random.Random(1)
_full = [[_random.uniform(-100, 100) for _ in FIELDS] for _ in range(256)]
ROWS = [tuple([round(v, 3) for v in row[:4]] + row[4:]) for row in _full]


def prefix(letter: str, history: int) -> str:
    """Return what a contender's record names begin with, the same length for each."""
    return f"BENCH_{letter}{history}__"


def names(letter: str, history: int) -> list[str]:
    """Return a contender's record names."""
    return [f"{prefix(letter, history)}{i}" for i in range(RECORDS)]


def description(letter: str, history: int) -> dict[str, object]:
    """Return the data description of a contender's records: 10 fields each."""
    fields = [["ts", 0.0], ["sender", ""], *[[field, 0.0] for field in FIELDS]]
    return {name: {"history": HISTORY * history, "fields": fields} for name in names(letter, history)}
