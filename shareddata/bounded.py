"""A stream that its writer keeps within a number of entries and of bytes.

It knows how entries are added and which of the oldest are dropped for them. It must not know what entries are for, or
sockets: it makes commands and takes their answers. Invariants:

1. At least so many entries are kept as the bound says, unless their bytes are above theirs; at most a sixteenth more.
2. Bytes count where they are: of a large value, those in its file.
3. What is dropped is what the writer knows: its own entries, and those that were there before it. Their values are
   answered in the same transaction, so that the files of large ones are unlinked with them.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from shareddata import large
from shareddata.wire import pack

ENTRIES = 10_000
"""Entries that a stream keeps, unless it is said otherwise."""

BYTES = 64_000_000
"""Bytes that a stream keeps, unless it is said otherwise."""

_OVERHEAD = 40  # bytes of an entry beside its names and values
_PAGE_BYTES = 1_000_000  # of what was there before: about so many at once
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
        answers: whether the values of what is dropped are to be answered: they may be references to files.

    It belongs to one thread at a time.
    """

    def __init__(self, key: str, entries: int = ENTRIES, size: int = BYTES, answers: bool = True) -> None:
        self.key = key
        self._entries, self._size, self._answers = entries, size, answers
        self.forget()

    def __repr__(self) -> str:
        return f"<Bounded {self.key}: {self.count} entries, {self.held} bytes known>"

    def forget(self) -> None:
        """Know nothing of the stream any more: after a transaction of unknown outcome."""
        self._before: deque[_Piece] = deque()
        self._own: deque[_Piece] = deque()
        self._after: str | None = "-"  # where the next page of what was there before begins; None: all is known
        self._first = ""
        self.count = self.held = 0

    def add(self, pairs: Sequence[str | bytes]) -> list[bytes]:
        """Return the commands that add an entry and drop the oldest; give their answers to `added`.

        Redis: XADD; where something is dropped XRANGE, XTRIM; at first XRANGE.
        """
        self._adding = entry_size(pairs)
        commands = [pack("XADD", self.key, "*", *pairs)]
        cut = self._cut()
        if cut:
            commands += [pack("XRANGE", self.key, "-", f"({cut}")] if self._answers else []
            commands.append(pack("XTRIM", self.key, "MINID", "=", cut))
        self._cuts = bool(cut)
        if self._after is not None:
            end = f"({self._first}" if self._first else "+"
            page = max(1, min(_PAGE, _PAGE_BYTES // self._average())) if self._before else 1
            commands.insert(0, pack("XRANGE", self.key, self._after, end, "COUNT", page))
        return commands

    def added(self, answers: Sequence[Any]) -> list[bytes]:
        """Take the answers, and return the values of the entries that were dropped, where these are answered."""
        rest = list(answers)
        if self._after is not None:
            self._learn(rest.pop(0))
        identity = rest.pop(0).decode()
        self._first = self._first or identity
        self._note(self._own, identity, self._adding)
        dropped = rest[0] if self._cuts and self._answers else []
        return [value for _, fields in dropped for value in fields[1::2]]

    def _cut(self) -> str:
        """Forget the oldest pieces that have to go for the next entry; return the first id that stays, or `""`."""
        cut = ""
        while (piece := self._oldest()) is not None and (
            self.held + self._adding > self._size or self.count + 1 - piece.count >= self._entries
        ):
            (self._before or self._own).popleft()
            self.count -= piece.count
            self.held -= piece.size
            milliseconds, number = piece.last.split("-")
            cut = f"{milliseconds}-{int(number) + 1}"
        return cut

    def _oldest(self) -> _Piece | None:
        pieces = self._before or self._own
        return pieces[0] if pieces else None

    def _learn(self, entries: Sequence[Any]) -> None:
        """Note a page of what was there before this writer."""
        for identity, fields in entries:
            self._note(self._before, identity.decode(), entry_size(fields))
        self._after = f"({entries[-1][0].decode()}" if entries else None

    def _note(self, pieces: deque[_Piece], identity: str, size: int) -> None:
        full = not pieces or pieces[-1].count >= max(1, self._entries // 16) or (
            pieces[-1].size + size > self._size // 16
        )
        if full:
            pieces.append(_Piece())
        pieces[-1].add(identity, size)
        self.count += 1
        self.held += size

    def _average(self) -> int:
        return max(1, sum(piece.size for piece in self._before) // sum(piece.count for piece in self._before))


def entry_size(pairs: Sequence[str | bytes]) -> int:
    """Return about how many bytes an entry takes: names and values, one after the other, wherever they are."""
    return _OVERHEAD + sum(large.size(each) if isinstance(each, bytes) else len(each) for each in pairs)
