"""Pages of a numbered stream whose entries are alike, as one block of bytes: no object for each entry.

It knows how a server answers an XRANGE, and numpy. It must not know sockets, or what a value means. Invariants:

1. Only what is byte for byte as expected is taken: consecutive numbers, the one field, values of one size.
2. Everything else is left as it came, for the parser; nothing is waited for that is not sure to come.
"""

import re
from functools import lru_cache
from typing import Any

from shareddata.codec import numpy
from shareddata.wire import bulk

_HEAD = re.compile(rb"(\*[0-9]+\r\n)\*([0-9]+)\r\n")  # of EXEC's answer, and of the entries in it
_DIGITS = 18  # numbers of more do not fit 64 bits with a sign


class Uniform:
    r"""What takes the values of alike entries out of an answer, while it comes: see `Connection.read`.

    Args:
        first: the first entry's number; the others follow without a gap.
        count: how many entries are asked for at most.
        field: the field that each entry has.
        size: the bytes of each value.

    Attributes:
        count: how many may be asked for: up to the last number that has as many digits as the first.
        values: the values, one after the other; None while the answer is not taken.

    >>> page = Uniform(7, 100, b"0", 4)
    >>> page.count
    3
    >>> page(b"*2\r\n*1\r\n*2\r\n$3\r\n7-0\r\n*2\r\n$1\r\n0\r\n$4\r\nabcd\r\n$2\r\nme\r\n")
    b'*2\r\n*0\r\n$2\r\nme\r\n'
    >>> page.values
    b'abcd'
    """

    def __init__(self, first: int, count: int, field: bytes, size: int) -> None:
        digits = len(str(first))
        self.count = min(count, 10**digits - first)
        self.values: bytes | None = None
        self._first = first
        self._possible = digits <= _DIGITS
        self._before = b"*2\r\n$%d\r\n" % (digits + 2)
        self._behind = b"-0\r\n*2\r\n" + bulk(field) + b"$%d\r\n" % size
        self._digits, self._size = digits, size

    def __call__(self, data: bytes | bytearray) -> bytes | bytearray | None:
        """Return what is left to parse: without the entries if they are as expected, else all; None to be given more.

        Args:
            data: what came of EXEC's answer, from its first byte; the entries are the first answer in it.
        """
        self.values = None
        head = _HEAD.match(data)
        if not head or not self._possible:
            return data
        count, start = int(head[2]), head.end()
        row = _row(len(self._before), self._digits, len(self._behind), self._size)
        here = min(count, (len(data) - start) // row.itemsize)
        rows, end = numpy().frombuffer(data, row, here, start), start + here * row.itemsize
        if not self._are_expected(rows):
            return data
        if here < count:  # one is not whole: as long as it begins as it should, the rest of it will come
            beginning = self._before + b"%d" % (self._first + here) + self._behind
            return None if beginning.startswith(data[end : end + len(beginning)]) else data
        self.values = rows["value"].tobytes()
        return head[1] + b"*0\r\n" + data[end:]

    def _are_expected(self, rows: Any) -> bool:
        if not (
            (rows["before"] == self._before).all()
            and (rows["behind"] == self._behind).all()
            and (rows["end"] == b"\r\n").all()
        ):
            return False
        powers, zeros = _powers(self._digits)
        numbers = rows["digits"] @ powers - zeros
        return bool((numbers == numpy().arange(self._first, self._first + len(rows))).all())


@lru_cache(64)
def _row(before: int, digits: int, behind: int, size: int) -> Any:
    """Return the type of an entry as it is answered."""
    fields = [("before", f"S{before}"), ("digits", "u1", (digits,)), ("behind", f"S{behind}")]
    return numpy().dtype([*fields, ("value", f"V{size}"), ("end", "S2")])


@lru_cache(32)
def _powers(digits: int) -> tuple[Any, int]:
    """Return what each digit of a number counts, and what the character 0 in all places would count."""
    powers = [10**place for place in reversed(range(digits))]
    return numpy().array(powers), ord("0") * sum(powers)
