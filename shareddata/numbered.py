"""Streams whose writer numbers their entries, with durable cursors: what logs are made of.

It knows how numbered entries are spelt, read and trimmed, and that a consumer group's last-delivered id is a cursor.
It must not know what an entry's value means. Invariants:

1. Entries have the ids `<number>-0`, from 1 on, each once.
2. A cursor is as durable as the entries, and never goes back.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from shareddata.connection import Connection
from shareddata.errors import ServerRefused
from shareddata.uniform import Uniform
from shareddata.wire import bulk, pack, question, transaction

_BLOCK = 1.0  # seconds, or half of the time-out


class Extent(NamedTuple):
    """What a numbered stream holds: see `Numbered.extent`."""

    last: int
    """The number of the last entry there ever was, 0 for none."""
    length: int
    """How many entries are kept."""
    cursors: dict[str, int]
    """The committed cursor of each consumer group: the number of the last entry that it is done with."""


class Numbered:
    """A stream whose writer numbers its entries: ids `<number>-0`, from 1 on, each once, with durable cursors.

    A cursor is the last-delivered id of a consumer group: as durable as the entries, and trimming can wait for it.

    Args:
        connection: of one thread of this program.
        key: the stream's.
    """

    def __init__(self, connection: Connection, key: str) -> None:
        self._connection = connection
        self.key = key
        self._head = b"*5\r\n" + bulk("XADD") + bulk(key)
        self._template = (0, 0, b"")  # of the last commit: the next one has often as many entries

    def _commands(self, digits: int, count: int) -> bytes:
        """Return commands that append entries whose numbers have so many digits; numbers and tails are left out."""
        if self._template[:2] != (digits, count):
            command = self._head.replace(b"%", b"%%") + b"$%d\r\n%%d%%b\r\n" % (digits + 2)
            self._template = (digits, count, command * count)
        return self._template[2]

    @staticmethod
    def tail(field: bytes, value: bytes) -> bytes:
        """Return an entry's bytes behind its number."""
        return tail_head(field, len(value)) + value

    def appends(self, first: int, tails: Sequence[bytes]) -> bytes:
        """Return the commands that append entries, the first one's number given; the numbers grow by one."""
        numbers = range(first, first + len(tails))
        digits = len(str(first))
        if not tails or len(str(numbers[-1])) > digits:
            return b"".join([self._commands(len(str(n)), 1) % (n, tail) for n, tail in zip(numbers, tails)])
        return self._commands(digits, len(tails)) % tuple(chain.from_iterable(zip(numbers, tails)))

    def extent(self) -> Extent:
        """Return what the stream holds; nothing and no cursors when it does not exist.

        Redis: MULTI, XINFO STREAM, XINFO GROUPS, EXEC.
        """
        self._connection.settle()
        request = transaction([pack("XINFO", "STREAM", self.key), pack("XINFO", "GROUPS", self.key)])
        try:
            info, groups = self._connection.read(request, [self.key] * 2)
        except ServerRefused as error:
            if "no such key" in str(error):
                return Extent(0, 0, {})
            raise
        names = [group[b"name"].decode(errors="backslashreplace") for group in groups]
        cursors = {name: _number(group[b"last-delivered-id"]) for name, group in zip(names, groups)}
        return Extent(_number(info[b"last-generated-id"]), info[b"length"], cursors)

    def read(self, after: int, count: int, beside: bytes = b"") -> tuple[list[tuple[int, bytes, bytes]], Any]:
        """Return entries after a number: number, field and value of each.

        Args:
            after: the number.
            count: how many at most.
            beside: another command of the same transaction, whose answer is returned too.

        Redis: MULTI, XRANGE, EXEC.
        """
        entries, answer = self.entries(after, count, beside)
        return [(_number(i), fields[0], fields[1]) for i, fields in entries], answer

    def entries(self, after: int, count: int, beside: bytes = b"") -> tuple[list[Any], Any]:
        """Do as `read`, but return the entries as they came: `[id, [field, value]]` each.

        Redis: MULTI, XRANGE, EXEC.
        """
        self._connection.settle()
        commands = [self._range(after, count)]
        commands += [beside] if beside else []
        entries, *more = self._connection.read(question(commands), [self.key] * len(commands))
        return entries, more[0] if more else None

    def values(self, after: int, count: int, alike: tuple[bytes, int], beside: bytes) -> tuple[bytes, list[Any], Any]:
        """Do as `entries`, but where all entries are alike and without a gap, return their values in one piece.

        Args:
            after: the number.
            count: how many at most; fewer are read where the numbers get another digit.
            alike: the field of each entry, and the bytes of each value.
            beside: another command of the same transaction.

        Returns:
            The values one after the other, or the entries; and the other command's answer.

        Redis: MULTI, XRANGE, EXEC.
        """
        self._connection.settle()
        page = Uniform(after + 1, count, *alike)
        request = transaction([self._range(after, page.count), beside])
        entries, answer = self._connection.read(request, [self.key] * 2, page)
        taken = page.values if not entries else None  # of an answer that broke off and was asked for again: parsed then
        return taken or b"", entries, answer

    def _range(self, after: int, count: int) -> bytes:
        return pack("XRANGE", self.key, f"({after}-0" if after else "-", "+", "COUNT", count)

    def wait(self, after: int, seconds: float) -> bool:
        """Wait until there is an entry after a number; False when none came in that time, a second at most.

        Redis: XREAD.
        """
        pause = max(1, int(1000 * min(_BLOCK, self._connection.timeout / 2, seconds)))
        return bool(self._connection.ask("XREAD", "COUNT", 1, "BLOCK", pause, "STREAMS", self.key, f"{after}-0"))

    def make_cursor(self, name: str) -> None:
        """Make a cursor at the beginning, if there is none of this name.

        Redis: XGROUP CREATE.
        """
        try:
            self._connection.call("XGROUP", "CREATE", self.key, name, "0", "MKSTREAM")
        except ServerRefused as error:
            if "BUSYGROUP" not in str(error):
                raise

    def move_cursor(self, name: str, number: int) -> None:
        """Commit a cursor; it never goes back, and never behind the last entry that the server has.

        Redis: XINFO STREAM, XINFO GROUPS, XGROUP SETID; XGROUP CREATE for a cursor that the server lost.
        """
        extent = self.extent()
        if name not in extent.cursors:
            self.make_cursor(name)
        number = min(number, extent.last)  # numbers that the server lost may be given again, to other records
        if number > extent.cursors.get(name, 0):
            self._connection.call("XGROUP", "SETID", self.key, name, f"{number}-0")

    def trim(self, below: int) -> int:
        """Drop the entries below a number; return how many.

        Redis: XTRIM.
        """
        return int(self._connection.call("XTRIM", self.key, "MINID", "=", f"{below}-0"))


@lru_cache(64)
def tail_head(field: bytes, size: int) -> bytes:
    """Return what stands between an entry's number and a value of so many bytes: see `Numbered.tail`."""
    return b"-0\r\n" + bulk(field) + b"$%d\r\n" % size


def _number(identity: bytes) -> int:
    return int(identity.partition(b"-")[0])
