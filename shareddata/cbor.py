"""CBOR with numpy arrays: values of any shape as bytes that other programs and languages read.

It knows RFC 8949 through cbor2, and the typed arrays of RFC 8746: tags 64 to 86, tag 40 for more dimensions. It must
not know where the bytes go or come from. Invariants:

1. `decode(encode(value)) == value`, but for tuples, which come back as lists, and numpy's scalars, which come back as
   numbers. Arrays come back with their dtype and shape, in the machine's byte order, read-only.
2. A single big array is neither copied when it is encoded nor when it is decoded: the parts of the one and the result
   of the other are views.
3. A value that cannot be written is a TypeError or ValueError, bytes that cannot be read are a ValueError, which say
   why; the caller adds where.

    >>> b"".join(encode({"gain": 2, "on": True})).hex()
    'a2646761696e02626f6ef5'
    >>> decode(bytes.fromhex("83 01 02 f6"))
    [1, 2, None]
"""

import math
import struct
import sys
from collections.abc import Sequence
from typing import Any

from shareddata import codec
from shareddata.codec import Buffer
from shareddata.extras import needed

MOST_DIMENSIONS = 64
"""Dimensions of an array, numpy's own limit."""

_TYPED = {
    **{64: "u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8"},
    **{72: "i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8"},
    **{80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8"},
}
"""What the elements of a typed array are, by its tag. 68 is unsigned bytes whose arithmetic is to be clamped."""

_TAGS = {(kind[-2], int(kind[-1])): tag for tag, kind in _TYPED.items() if kind[0] != ">" and tag != 68}
_QUADRUPLE = (83, 87)  # 128-bit floats: no two machines agree on them

_ROWS, _COLUMNS, _ALIKE = 40, 1040, 41  # arrays of more dimensions, in row or column order; lists of one type

_UNSIGNED, _BYTES, _LIST, _TAG = 0, 2, 4, 6  # major types
_FALSE, _TRUE = 0xF4, 0xF5


def cbor2() -> Any:
    """Return the module cbor2.

    Raises:
        ModuleNotFoundError: when it is not installed; the message holds the remedy.
    """
    return needed("cbor2", "sensors need", "arrays")


# -- values to bytes ------------------------------------------------------------------------------------------------


def encode(value: Any) -> list[Buffer]:
    """Return a value as CBOR, in parts that belong one after the other; the data of an array are a view of it.

    Args:
        value: None, a bool, number, text, bytes, array of numbers or bools, or a list or dictionary of such; whatever
            else cbor2 writes, such as sets and times.

    Raises:
        TypeError, ValueError: it cannot be written.
    """
    if _is_array(value):
        return _array(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = memoryview(value).cast("B")
        return [_head(_BYTES, len(data)), data]
    try:
        return [cbor2().dumps(value, default=_other)]
    except (cbor2().CBORError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _other(encoder: Any, value: Any) -> None:
    """Write what cbor2 does not know: numpy's arrays and scalars."""
    plain = codec.plain(value)
    if isinstance(plain, float | int):
        encoder.encode(plain)
    elif not _is_array(value):
        raise TypeError(f"{type(value).__name__} cannot be written as CBOR")
    elif value.dtype.kind == "b":
        encoder.encode(cbor2().CBORTag(_ROWS, [list(value.shape), value.ravel().tolist()]))
    else:
        typed = cbor2().CBORTag(_tag_of(value), bytes(_little(value)))
        encoder.encode(typed if value.ndim == 1 else cbor2().CBORTag(_ROWS, [list(value.shape), typed]))


def _is_array(value: Any) -> bool:
    module = sys.modules.get("numpy")  # where there is an array, it is there
    return module is not None and isinstance(value, module.ndarray) and value.shape != ()


def _array(array: Any) -> list[Buffer]:
    shape = b"".join(_head(_UNSIGNED, length) for length in array.shape)
    head = _head(_TAG, _ROWS) + _head(_LIST, 2) + _head(_LIST, array.ndim) + shape
    if array.dtype.kind == "b":
        elements = codec.numpy().where(array, _TRUE, _FALSE).astype("u1")
        return [head + _head(_LIST, array.size), elements.reshape(-1).data]
    typed = _head(_TAG, _tag_of(array)) + _head(_BYTES, array.nbytes)
    return [typed if array.ndim == 1 else head + typed, _little(array)]


def _tag_of(array: Any) -> int:
    """Return the tag of an array's elements.

    Raises:
        TypeError: there is none.
    """
    tag = _TAGS.get((array.dtype.kind, array.dtype.itemsize))
    if tag is None:
        remedy = ": use .astype('f8')" if array.dtype.kind == "f" else ""
        raise TypeError(f"an array of {array.dtype} cannot be written: no typed array of CBOR holds it{remedy}")
    if hasattr(array, "mask"):
        raise TypeError("a masked array cannot be written: its mask would be lost; use .filled()")
    return tag


def _little(array: Any) -> memoryview:
    """Return the bytes of an array's elements, little-endian; a view where they stand so already."""
    view: memoryview = codec.numpy().ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view("u1").data
    return view


def _head(major: int, argument: int) -> bytes:
    """Return the first bytes of a data item: its major type and argument."""
    if argument < 24:
        return bytes([major << 5 | argument])
    for code, size in ((24, ">B"), (25, ">H"), (26, ">I")):
        if argument < 1 << 8 * struct.calcsize(size):
            return bytes([major << 5 | code]) + struct.pack(size, argument)
    return bytes([major << 5 | 27]) + struct.pack(">Q", argument)


# -- bytes to values ------------------------------------------------------------------------------------------------


def decode(data: Buffer) -> Any:
    """Return the value that bytes of CBOR hold. An array that is all they hold is a view of them.

    Raises:
        ValueError: they hold no value, or an array whose parts don't fit.
    """
    if data and data[0] >> 5 == _TAG and (found := _view(memoryview(data))) is not None:
        return found
    try:
        return cbor2().loads(bytes(data), tag_hook=_tagged, semantic_decoders=_REFUSED)
    except (cbor2().CBORError, UnicodeDecodeError) as error:
        raise ValueError(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """Return why bytes are refused: what was raised here at a tag, else what cbor2 says."""
    within = error
    while within.__cause__ is not None:
        within = within.__cause__
    return str(within) if type(within) is ValueError else f"no CBOR: {error}"


def _view(data: memoryview) -> Any:
    """Return the array that is all of the data, without a copy; None when they are anything else."""
    try:
        major, tag, at = _item(data, 0)
        shape = None
        if tag == _ROWS:
            shape, at = _shape(data, at)
            major, tag, at = _item(data, at)
        kind = _TYPED.get(tag) if major == _TAG else None
        major, length, at = _item(data, at)
    except (IndexError, struct.error):
        return None
    if kind is None or major != _BYTES or at + length != len(data):
        return None
    return _shaped(_elements(data[at:], kind), shape)


def _item(data: memoryview, at: int) -> tuple[int, int, int]:
    """Return the major type and argument of the item at a place, and the place behind its head."""
    major, short = data[at] >> 5, data[at] & 31
    if short < 24:
        return major, short, at + 1
    size = {24: ">B", 25: ">H", 26: ">I", 27: ">Q"}.get(short)
    if size is None:
        raise IndexError  # of indefinite length: no array of ours
    return major, struct.unpack_from(size, data, at + 1)[0], at + 1 + struct.calcsize(size)


def _shape(data: memoryview, at: int) -> tuple[list[int], int]:
    """Return the dimensions that stand at a place, in a list within a list of two, and the place behind them."""
    outer, two, at = _item(data, at)
    inner, count, at = _item(data, at)
    if (outer, two, inner) != (_LIST, 2, _LIST) or count > MOST_DIMENSIONS:
        raise IndexError
    shape = []
    for _ in range(count):
        major, length, at = _item(data, at)
        if major != _UNSIGNED:
            raise IndexError
        shape.append(length)
    return shape, at


def _tagged(*arguments: Any) -> Any:
    """Return the value of a tag that cbor2 does not know (its versions call this differently)."""
    tag = next(each for each in arguments if type(each) is cbor2().CBORTag)
    number, value = tag.tag, tag.value
    if number in _QUADRUPLE:
        raise ValueError(f"tag {number}, an array of 128-bit floats, cannot be read: let the writer use 64-bit ones")
    if number in _TYPED:
        if not isinstance(value, bytes):
            raise ValueError(f"tag {number}, a typed array, has no bytes but {type(value).__name__}")
        return _elements(value, _TYPED[number])
    if number in (_ROWS, _COLUMNS):
        if not isinstance(value, list | tuple) or len(value) != 2 or not isinstance(value[0], list | tuple):
            raise ValueError(f"tag {number}, an array, is no list of dimensions and elements")
        return _shaped(value[1], value[0], "C" if number == _ROWS else "F")
    if number == _ALIKE:
        return list(value) if isinstance(value, tuple) else value
    return tag


def _shared(*_: Any) -> Any:
    raise ValueError(
        "a value that holds itself, or another one several times (tags 28 and 29), cannot be read: who walks through "
        "it need not come to an end"
    )


_REFUSED = {28: _shared, 29: _shared}


def _elements(data: Buffer, kind: str) -> Any:
    numpy = codec.numpy()
    dtype = numpy.dtype(kind)
    if len(data) % dtype.itemsize:
        raise ValueError(f"{len(data)} bytes are no whole number of elements of {dtype.itemsize}")
    array = numpy.frombuffer(data, dtype)
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def _shaped(values: Any, shape: Sequence[int] | None, order: str = "C") -> Any:
    """Return elements as an array of a shape; None for as it is."""
    numpy = codec.numpy()
    if not isinstance(values, numpy.ndarray):
        values = numpy.asarray(values, None if values else bool)
        values.flags.writeable = False
    if shape is None:
        return values
    if not all(type(length) is int and length >= 0 for length in shape) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"an array of dimensions {shown(shape)}")
    if math.prod(shape) != values.size:
        raise ValueError(f"an array of dimensions {shown(shape)} with {values.size} elements")
    return values.reshape(tuple(shape), order=order)


def shown(shape: Sequence[Any]) -> str:
    """Return dimensions for a message.

    >>> shown([480, 640, 3])
    '480 x 640 x 3'
    """
    return " x ".join(map(str, shape[:MOST_DIMENSIONS])) or "none"
