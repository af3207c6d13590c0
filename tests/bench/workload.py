"""What every contender does: the same records and values, and where it finds its server.

It knows the records, the values that are written and addresses, nothing of servers or clients. Invariants:

1. Every contender writes records of its own (a letter in their names), so that none pays for another's subscriptions.
2. Half of the values are short decimals, as from a converter (24.183), half are full doubles, as from a computation.
"""

import json
import random
from collections import namedtuple
from dataclasses import asdict, dataclass

RECORDS = 64
FIELDS = tuple(f"field_{i}" for i in range(8))
SENDER = "BENCH"
HISTORY = 256
Trame = namedtuple("Trame", ["ts", "sender", *FIELDS])
_random = random.Random(1)
_full = [[_random.uniform(-100, 100) for _ in FIELDS] for _ in range(256)]
ROWS = [tuple([round(v, 3) for v in row[:4]] + row[4:]) for row in _full]


def prefix(letter: str, history: int) -> str:
    """Return what a contender's record names begin with, the same length for each."""
    return f"BENCH_{letter}{history}__"


def names(letter: str, history: int, records: int = RECORDS) -> list[str]:
    """Return a contender's record names."""
    return [f"{prefix(letter, history)}{i}" for i in range(records)]


def description(letter: str, history: int) -> dict[str, object]:
    """Return the data description of a contender's records: 10 fields each."""
    fields = [["ts", 0.0], ["sender", ""], *[[field, 0.0] for field in FIELDS]]
    return {name: {"history": HISTORY * history, "fields": fields} for name in names(letter, history)}


@dataclass(frozen=True)
class Where:
    """Where a contender finds the others.

    Attributes:
        folder: a private folder in memory (a tmpfs), with a short path.
        transport: `unix` or `tcp`.
        port: of the Redis server; the next ones are free for contenders that have servers of their own.
        pid: of the other side's process, whose CPU time counts as the server's; 0 where there is none.
    """

    folder: str
    transport: str
    port: int
    pid: int = 0

    @property
    def socket(self) -> str:
        """The path of the Redis server's socket."""
        return f"{self.folder}/s"

    @property
    def url(self) -> str:
        """The Redis server's address."""
        return f"unix://{self.socket}" if self.transport == "unix" else f"redis://127.0.0.1:{self.port}"

    @property
    def plain(self) -> str:
        """The same as the C programs take it."""
        return self.socket if self.transport == "unix" else f"127.0.0.1:{self.port}"

    def text(self) -> str:
        """Return it as a word of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Where":
        """Return what `text` made a word of."""
        return cls(**json.loads(text))
