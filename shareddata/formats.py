"""Fixed-length records as bytes: struct formats, and the same as numpy's structured types.

It knows formats; it must not know logs or sockets. Invariants:

1. A format without a byte order is little-endian with standard sizes and no padding: the same on every machine.
2. What does not fit a format is a FieldError that shows the format and the values; nothing is cut or wrapped.
"""

import struct
from collections.abc import Sequence
from typing import Any

from shareddata.codec import numpy
from shareddata.errors import FieldError, LogFormatError

_NUMPY = {
    **{"b": "i1", "B": "u1", "?": "?", "h": "i2", "H": "u2", "i": "i4", "I": "u4", "l": "i4", "L": "u4"},
    **{"q": "i8", "Q": "u8", "e": "f2", "f": "f4", "d": "f8", "c": "S1"},
}


class Format:
    """One struct format.

    Args:
        text: as the module `struct` takes it: `"Qff"`, `"<Q8s"`.

    Raises:
        LogFormatError: when it is no format.

    >>> Format("Qff").size
    16
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._struct = struct.Struct(text if text[:1] in tuple("@=<>!") else "<" + text)
        except (struct.error, TypeError) as error:
            raise LogFormatError(f"{text!r} is no format: {error}: see Python's module struct") from None
        self.size = self._struct.size
        self.unpack = self._struct.unpack

    def __repr__(self) -> str:
        return f"<Format {self.text!r}, {self.size} bytes>"

    def pack(self, *values: Any) -> bytes:
        """Return values as bytes.

        Raises:
            FieldError: wrong count or type, or a value that does not fit.
        """
        try:
            return self._struct.pack(*values)
        except (struct.error, OverflowError) as error:
            raise FieldError(f"{values!r} does not fit the format {self.text!r}: {error}") from None

    def dtype(self) -> Any:
        """Return numpy's type of such a record, its fields named f0, f1, ...

        Raises:
            LogFormatError: for native alignment (`@`), which is not the same on every machine.
        """
        order = self.text[0] if self.text[:1] in tuple("@=<>!") else "<"
        if order == "@":
            raise LogFormatError(f"the format {self.text!r} has native alignment: use '<' to read and write arrays")
        fields = [(f"f{i}", kind) for i, kind in enumerate(_kinds(self.text.lstrip("@=<>!"), order))]
        return numpy().dtype(fields)


def _kinds(text: str, order: str) -> list[str]:
    """Return numpy's name of each value of a format."""
    kinds: list[str] = []
    count = ""
    prefix = {"=": "=", "!": ">"}.get(order, order)
    for character in text:
        if character.isdigit():
            count += character
            continue
        if character == "s":
            kinds.append(f"S{count or 1}")
        elif character in _NUMPY:
            kinds += [prefix + _NUMPY[character]] * int(count or 1)
        elif not character.isspace():
            raise LogFormatError(f"the format {text!r} holds {character!r}, which arrays cannot: store one by one")
        count = ""
    return kinds


def rows(array: Any, form: Format) -> list[bytes]:
    """Return the records of an array as bytes.

    Args:
        array: a structured array whose records have the format's types, or a list of tuples.
        form: the format.

    Raises:
        FieldError: other types.
    """
    dtype = form.dtype()
    np = numpy()
    if not isinstance(array, np.ndarray):
        return [form.pack(*row) for row in array]
    if array.dtype.names is None or [array.dtype[i] for i in range(len(array.dtype))] != [
        dtype[i] for i in range(len(dtype))
    ]:
        raise FieldError(f"an array of {array.dtype}, expected records of {dtype} for the format {form.text!r}")
    data = array.astype(dtype, copy=False).tobytes() if array.dtype != dtype else array.tobytes()
    return [data[i : i + form.size] for i in range(0, len(data), form.size)]


def table(records: Sequence[bytes], form: Format) -> Any:
    """Return records as a structured array."""
    return numpy().frombuffer(b"".join(records), form.dtype())
