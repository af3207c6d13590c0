"""Pages of alike entries: taken as they are, however they come; everything else is left as it came."""

import struct

import pytest

from shareddata.uniform import Uniform
from shareddata.wire import bulk

WRITER = bulk("the writer")


def answer(first: int, values: list[bytes], field: bytes = b"0", numbers: list[int] | None = None) -> bytes:
    """Return EXEC's answer to an XRANGE of such entries and a GET."""
    numbers = numbers or list(range(first, first + len(values)))
    entries = [b"*2\r\n" + bulk(f"{n}-0") + b"*2\r\n" + bulk(field) + bulk(value) for n, value in zip(numbers, values)]
    return b"*2\r\n*%d\r\n%b" % (len(values), b"".join(entries)) + WRITER


def values(count: int, size: int = 8) -> list[bytes]:
    return [struct.pack("<Q", number * 0x0D0A2A24)[:size].ljust(size, b"\n") for number in range(count)]


def test_taken_however_it_comes() -> None:
    """More is asked for until the entries are whole, and what comes behind them is left."""
    data = answer(95, values(5))
    entries = data[: -len(WRITER)]
    head = len(b"*2\r\n*5\r\n")
    for end in range(head, len(entries)):
        assert Uniform(95, 10, b"0", 8)(data[:end]) is None
    for end in range(len(entries), len(data) + 1):
        page = Uniform(95, 10, b"0", 8)
        assert page(data[:end]) == b"*2\r\n*0\r\n" + data[len(entries) : end]
        assert page.values == b"".join(values(5))
    for end in range(head):
        assert Uniform(95, 10, b"0", 8)(data[:end]) == data[:end]


@pytest.mark.parametrize(
    ("other", "at"),
    [
        (answer(1, values(9), field=b"1"), 0),
        (answer(1, values(9), field=b"raw"), 0),
        (answer(2, values(9)), 0),
        (answer(1, values(9), numbers=[1, 2, 3, 4, 5, 6, 8, 9, 7]), 6),
        (answer(1, values(9, size=7)), 0),
        (answer(1, [*values(8), b"short"]), 8),
        (answer(1, [*values(4), b"", *values(4)]), 4),
        (answer(1, values(20)), 9),
        (b"*2\r\n*2\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\n0\r\n$8\r\n12345678\r\n", 0),
        (b"*2\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*4\r\n$1\r\n0\r\n$1\r\n1\r\n$1\r\n0\r\n$1\r\n1\r\n", 0),
        (b"*2\r\n-ERR\r\n", 0),
        (b"*2\r\n_\r\n", 0),
        (b"_\r\n", 0),
        (b"-EXECABORT\r\n", 0),
    ],
)
def test_left_as_it_came(other: bytes, at: int) -> None:
    """Never is more waited for than a server sends that has begun so."""
    page = Uniform(1, 100, b"0", 8)
    assert page(other) == other
    assert page.values is None
    ends = [end for end in range(len(other) + 1) if page(other[:end]) is None]
    entry = len(b"*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\n0\r\n$8\r\n12345678\r\n")
    assert not ends or ends[-1] < len(b"*2\r\n*9\r\n") + (at + 1) * entry + 2


def test_a_page_ends_where_the_digits_change() -> None:
    for first, count, expected in ((1, 1000, 9), (9, 5, 1), (10, 1000, 90), (999, 9, 1), (1000, 1000, 1000)):
        assert Uniform(first, count, b"0", 1).count == expected


def test_large_numbers() -> None:
    for digits in (17, 18, 19, 20):
        first = 10**digits - 3
        page, data = Uniform(first, 1000, b"0", 8), answer(first, values(3))
        assert page.count == 3
        if digits <= 18:
            assert page(data) == b"*2\r\n*0\r\n" + WRITER and page.values == b"".join(values(3))
        else:
            assert page(data) == data and page.values is None


def test_no_entries() -> None:
    page = Uniform(5, 10, b"0", 8)
    assert page(answer(5, [])) == b"*2\r\n*0\r\n" + WRITER
    assert page.values == b""
