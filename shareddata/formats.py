"""Fixed-length records as bytes: struct formats, and the same as numpy's structured types.

It knows formats; it must not know logs or sockets. Invariants:

1. A format without a byte order is little-endian with standard sizes and no padding: the same on every machine.
2. What does not fit a format is a FieldError that shows the format and the values; nothing is cut or wrapped.
"""

import re
import struct
from collections.abc import Sequence
from typing import Any

from shareddata.codec import numpy
from shareddata.errors import FieldError, LogFormatError

LARGEST = 1 << 24
"""Bytes of a record, at the most: a log is read by the thousand."""

_ORDERS = tuple("@=<>!")
_ITEM = re.compile(r"\s*(\d*)([^\d\s])")
_NUMPY = {
    **{"b": "i1", "B": "u1", "?": "?", "h": "i2", "H": "u2", "i": "i4", "I": "u4", "l": "i4", "L": "u4"},
    **{"q": "i8", "Q": "u8", "e": "f2", "f": "f4", "d": "f8", "c": "S1"},
}


class Format:
    """One struct format.

    Args:
        text: as the module `struct` takes it: `"Qff"`, `"<Q8s"`.

    Raises:
        LogFormatError: when it is no format, or one of no bytes.

    >>> Format("Qff").size
    16
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._struct = struct.Struct(text if text[:1] in _ORDERS else "<" + text)
        except (struct.error, TypeError, ValueError) as error:
            raise LogFormatError(f"{text!r} is no format: {error}: see Python's module struct") from None
        self.size = self._struct.size
        if self.size > LARGEST:
            raise LogFormatError(f"the format {text!r} has {self.size} bytes, expected {LARGEST} at the most")
        if not self.size:
            raise LogFormatError(f"the format {text!r} holds nothing: see Python's module struct")
        self.unpack = self._struct.unpack
        self._texts = _texts(self._items())
        self.pack_quickly = self.pack if self._texts else self._struct.pack  # its errors are those of struct

    def __repr__(self) -> str:
        return f"<Format {self.text!r}, {self.size} bytes>"

    def _items(self) -> list[tuple[str, str]]:
        """Return the format's parts: count and character of each."""
        return _ITEM.findall(self.text[1:] if self.text[:1] in _ORDERS else self.text)

    def pack(self, *values: Any) -> bytes:
        """Return values as bytes.

        Raises:
            FieldError: wrong count or type, or a value that does not fit; also a text that is too long.
        """
        try:
            data = self._struct.pack(*values)
        except (struct.error, OverflowError) as error:
            raise FieldError(f"{values!r} does not fit the format {self.text!r}: {error}") from None
        for position, room in self._texts:  # struct would cut them
            if len(values[position]) > room:
                raise FieldError(
                    f"{values!r} does not fit the format {self.text!r}: value {position} has "
                    f"{len(values[position])} bytes, expected {room} at the most"
                )
        return data

    def dtype(self) -> Any:
        """Return numpy's type of such a record, its fields named f0, f1, ...

        Raises:
            LogFormatError: for native alignment (`@`), which is not the same on every machine, and for padding.
        """
        order = self.text[0] if self.text[:1] in _ORDERS else "<"
        if order == "@":
            raise LogFormatError(f"the format {self.text!r} has native alignment: use '<' to read and write arrays")
        order = {"!": ">"}.get(order, order)
        kinds: list[str] = []
        for count, character in self._items():
            if character == "s" and count != "0":
                kinds.append(f"S{count or 1}")
            elif character in _NUMPY:
                kinds += [order + _NUMPY[character]] * int(count or 1)
            else:
                raise LogFormatError(
                    f"the format {self.text!r} holds {count + character!r}, which arrays cannot: store one by one"
                )
        return numpy().dtype([(f"f{i}", kind) for i, kind in enumerate(kinds)])


def _texts(items: Sequence[tuple[str, str]]) -> tuple[tuple[int, int], ...]:
    """Return which values are texts, and how many bytes each has room for."""
    found: list[tuple[int, int]] = []
    position = 0
    for count, character in items:
        number = int(count or 1)
        if character in "sp":
            found.append((position, number if character == "s" else max(0, min(number - 1, 255))))
            position += 1
        elif character != "x":
            position += number
    return tuple(found)


def rows(records: Any, form: Format) -> list[bytes]:
    """Return many records as bytes.

    Args:
        records: a structured array whose records have the format's types, or a list of tuples.
        form: the format.

    Raises:
        FieldError: other types, or values that do not fit.
    """
    if not hasattr(records, "dtype"):
        try:
            return [form.pack(*row) for row in records]
        except TypeError:
            raise FieldError(f"{records!r:.60} is no list of tuples for the format {form.text!r}") from None
    dtype = form.dtype()
    found = records.dtype
    if found.names is None or [found[i] for i in range(len(found))] != [dtype[i] for i in range(len(dtype))]:
        raise FieldError(f"an array of {found}, expected records of {dtype} for the format {form.text!r}")
    data = (records if found == dtype else records.astype(dtype)).tobytes()
    return [data[i : i + form.size] for i in range(0, len(data), form.size)]


def table(records: Sequence[bytes], dtype: Any) -> Any:
    """Return records, or many in one piece, as a structured array of a format's type."""
    return numpy().frombuffer(b"".join(records), dtype)
