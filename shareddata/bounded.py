"""A stream that its writer keeps within a number of entries and of bytes.

It knows how entries are added and which of the oldest are dropped for them. It must not know what entries are for, or
in which transactions they are added: it makes commands and takes their answers. Invariants:

1. At least so many entries are kept as the bound says, unless their bytes are above theirs; at most a sixteenth more.
2. Bytes count where they are: of a large value, those in its file.
3. What is dropped is what the writer knows: its own entries, and those that were there before it. Their values are
   answered in the same transaction, so that the files of large ones are unlinked with them.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shareddata import sensorlarge
from shareddata.codec import Buffer
from shareddata.connection import Connection
from shareddata.wire import pack, spread

ENTRIES = 10_000
"""Entries that a stream keeps, unless it is said otherwise."""

BYTES = 64_000_000
"""Bytes that a stream keeps, unless it is said otherwise."""

_OVERHEAD = 40  # bytes of an entry beside its names and values
_PAGE_BYTES = 1_000_000  # of what is there already: about so many at once
_PAGE = 1000  # and so many entries at most


class _Piece:
    """Entries that are dropped together: how many, their bytes, and the id of the last one."""

    __slots__ = ("count", "size", "last")

    def __init__(self) -> None:
        self.count = self.size = 0
        self.last = ""

    def add(self, identity: str, size: int) -> None:
        self.count += 1
        self.size += size
        self.last = identity


class Bounded:
    """A stream and what its writer knows of it.

    Args:
        key: the stream's.
        entries: how many are kept.
        size: bytes that are kept at most, but for an entry that alone is larger.

    It belongs to one thread at a time.
    """

    def __init__(self, key: str, entries: int = ENTRIES, size: int = BYTES) -> None:
        self.key = key
        self._entries, self._size = entries, size
        self.forget()

    def __repr__(self) -> str:
        return f"<Bounded {self.key}: {self.count} entries, {self.held} bytes known>"

    def forget(self) -> None:
        """Know nothing of the stream any more: after a transaction of unknown outcome."""
        self._pieces: deque[_Piece] = deque()
        self.count = self.held = 0
        self.known = False

    def learn(self, connection: Connection) -> None:
        """Look at what is in the stream, unless it is known.

        Redis: XRANGE.
        """
        if self.known:
            return
        for identity, fields in all_entries(connection, self.key):
            size = sum(map(len, fields[::2])) + sum(map(sensorlarge.size, fields[1::2]))
            self._note(identity.decode(), _OVERHEAD + size)
        self.known = True

    def add(self, values: Mapping[str, Sequence[Buffer]]) -> list[list[Buffer]]:
        """Return the commands that add an entry and drop the oldest; give their answers to `added`.

        Args:
            values: of the entry, by names, each in pieces.

        Redis: XADD; where something is dropped XRANGE, XTRIM.
        """
        self._adding = _OVERHEAD + sum(len(name) + sensorlarge.size_of(value) for name, value in values.items())
        commands = [spread(["XADD", self.key, "*"], values)]
        if cut := self._cut():
            commands.append([pack("XRANGE", self.key, "-", f"({cut}")])
            commands.append([pack("XTRIM", self.key, "MINID", "=", cut)])
        return commands

    def added(self, answers: Sequence[Any]) -> list[bytes]:
        """Take the answers, and return the values of the entries that were dropped."""
        self._note(answers[0].decode(), self._adding)
        dropped = answers[1] if len(answers) > 1 else []
        return [value for _, fields in dropped for value in fields[1::2]]

    def _cut(self) -> str:
        """Forget the oldest pieces that have to go for the next entry; return the first id that stays, or `""`."""
        cut = ""
        while self._pieces and (
            self.held + self._adding > self._size or self.count + 1 - self._pieces[0].count >= self._entries
        ):
            piece = self._pieces.popleft()
            self.count -= piece.count
            self.held -= piece.size
            milliseconds, number = piece.last.split("-")
            cut = f"{milliseconds}-{int(number) + 1}"
        return cut

    def _note(self, identity: str, size: int) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is None or last.count >= self._entries // 16 or last.size + size > self._size // 16:
            last = _Piece()
            self._pieces.append(last)
        last.add(identity, size)
        self.count += 1
        self.held += size


def all_entries(connection: Connection, key: str) -> Iterator[Any]:
    """Yield the entries of a stream, asked for in pages of a moderate size.

    Redis: XRANGE.
    """
    after, page = "-", 10
    while entries := connection.ask("XRANGE", key, after, "+", "COUNT", page):
        yield from entries
        after = f"({entries[-1][0].decode()}"
        size = sum(len(each) for _, fields in entries for each in fields)
        page = max(10, min(_PAGE, _PAGE_BYTES * len(entries) // max(1, size)))
