"""Values to bytes and back, one pair of functions for each type of field.

It knows how a value of a type is written in Redis, and nothing of records, keys or commands. It must not know sockets
or descriptions; numpy is imported only when a field is an array. Invariants:

1. `decode(encode(value)) == value`, and of the same type, for every value that `encode` takes (NaN reads back as NaN).
2. An encoder that cannot take a value raises TypeError (wrong type) or ValueError (right type, value that cannot be
   written); the caller adds where. It never converts silently, but for an int in a float field and numpy's scalars.
3. Everything but arrays is UTF-8 text that a person reads with `redis-cli`.

The types and how they are written:

    float   Python's repr: the shortest text that reads back exactly; `nan`, `inf`, `-inf`; what others write is read
            as Python's float() does
    int     decimal digits, of any size up to Python's limit of 4300
    bool    `true`, `false`
    str     as it is
    list, object, any   JSON, with `NaN`, `Infinity` and `-Infinity` for what JSON has no word for
    array   raw little-endian bytes in C order; dtype and shape are in the description
"""

import json
from collections.abc import Callable
from typing import Any

from shareddata.extras import needed

Buffer = bytes | bytearray | memoryview
"""Bytes, wherever they are."""

Encoder = Callable[[Any], bytes]
Decoder = Callable[[bytes], Any]

TYPES = ("float", "int", "bool", "str", "list", "object", "any", "array")

_BOOLS = {True: b"true", False: b"false"}
_BOOLS_BACK = {b"true": True, b"false": False}


def plain(value: Any) -> Any:
    """Return numpy's numbers and bools as their Python type, anything else as it is."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and value.dtype.kind in "biuf":
        return value.item()
    return value


def encode_float(value: Any) -> bytes:
    """Write a float (or an int, as the nearest float) so that it reads back exactly."""
    if type(value) is float:
        return b"%a" % value
    value = plain(value)
    if isinstance(value, float):
        return float.__repr__(value).encode()
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return b"%a" % float(value)
        except OverflowError:
            raise ValueError("the integer is too large for a float") from None
    raise TypeError


def encode_int(value: Any) -> bytes:
    """Write an int of any size."""
    if type(value) is int:
        return b"%d" % value
    value = plain(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value).encode()
    raise TypeError


def encode_bool(value: Any) -> bytes:
    """Write a bool."""
    if value is True:
        return b"true"
    if value is False:
        return b"false"
    return _BOOLS[_require(plain(value), bool)]


def encode_str(value: Any) -> bytes:
    """Write a text as it is, in UTF-8."""
    if isinstance(value, str):
        return str.encode(value)
    raise TypeError


def _require(value: Any, wanted: type) -> Any:
    if isinstance(value, wanted):
        return value
    raise TypeError


def _check_json(value: Any) -> Any:
    """Return the value with numpy scalars and tuples replaced, or raise TypeError naming what JSON cannot hold."""
    value = plain(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_check_json(item) for item in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} of an object must be a str")
        return {key: _check_json(item) for key, item in value.items()}
    raise TypeError(f"JSON has no {type(value).__name__}")


def encode_any(value: Any) -> bytes:
    """Write any JSON value."""
    try:
        return json.dumps(_check_json(value), ensure_ascii=False, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("the value is nested too deeply") from None


def encode_list(value: Any) -> bytes:
    """Write a list as JSON; a tuple is read back as a list."""
    return encode_any(_require(value, (list | tuple)))  # type: ignore[arg-type]


def encode_object(value: Any) -> bytes:
    """Write a dictionary with str keys as JSON."""
    return encode_any(_require(value, dict))


def decode_int(data: bytes) -> int:
    """Read an int; Python's underscores and blanks are refused."""
    if data.isdigit() or data[:1] == b"-" and data[1:].isdigit():
        return int(data)
    raise ValueError


def _decode_list(data: bytes) -> Any:
    return _require(_decode_any(data), list)


def _decode_object(data: bytes) -> Any:
    return _require(_decode_any(data), dict)


def _decode_any(data: bytes) -> Any:
    try:
        return json.loads(str(data, "utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def numpy() -> Any:
    """Return the numpy module, for descriptions with arrays.

    Raises:
        ModuleNotFoundError: when it is not installed; the message holds the remedy.
    """
    return needed("numpy", "array fields need", "arrays")


def _array_encoder(dtype: str, shape: tuple[int, ...]) -> Encoder:
    np = numpy()
    target = np.dtype(dtype)

    def encode_array(value: Any) -> bytes:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError("it is masked: fill it first")
        source = np.asarray(value)
        if target.kind in "iu" and source.dtype.kind == "f" and not isinstance(value, np.ndarray):
            source = _exact_integers(np, value, source)
        if source.shape != shape:
            raise ValueError(f"its shape is {source.shape}")
        if source.dtype != target:
            source = _cast(np, source, target)
        return source.astype(target, copy=False).tobytes()  # type: ignore[no-any-return]

    return encode_array


def _cast(np: Any, source: Any, target: Any) -> Any:
    """Convert an array where no element changes but by rounding of floats; else raise."""
    if source.dtype.kind == "O" and target.kind in "iu":
        return _from_objects(source, target)
    if source.dtype.kind not in "biufc" or (source.dtype.kind == "b") != (target.kind == "b"):
        raise TypeError(f"its elements are {source.dtype}")
    if not np.can_cast(source.dtype, target, "same_kind") and not (source.dtype.kind in "iu" and target.kind in "iu"):
        raise TypeError(f"its elements are {source.dtype}")
    with np.errstate(all="ignore"):
        result = source.astype(target)
    if target.kind in "iu" and not np.array_equal(result.astype(object), source.astype(object)):
        raise ValueError("an element is too large for the type")
    for was, became in ((source.real, result.real), (source.imag, result.imag)) if target.kind in "fc" else ():
        if not np.array_equal(np.isfinite(became), np.isfinite(was)):
            raise ValueError("an element is too large for the type")
    return result


def _exact_integers(np: Any, value: Any, source: Any) -> Any:
    """Return a list's integers as objects where numpy made floats of them (it does of `[1, 2**63]`)."""
    objects = np.array(value, dtype=object)
    return objects if all(type(item) is int for item in objects.flat) else source


def _from_objects(source: Any, target: Any) -> Any:
    try:
        return source.astype(target)
    except OverflowError:
        raise ValueError("an element is too large for the type") from None


def _array_decoder(dtype: str, shape: tuple[int, ...]) -> Decoder:
    np = numpy()
    target = np.dtype(dtype)

    def decode_array(data: bytes) -> Any:
        if target.kind == "b" and data.strip(b"\0\1"):
            raise ValueError("a byte that is neither 0 nor 1")
        return np.frombuffer(data, target).reshape(shape)

    return decode_array


_ENCODERS: dict[str, Encoder] = {
    "float": encode_float,
    "int": encode_int,
    "bool": encode_bool,
    "str": encode_str,
    "list": encode_list,
    "object": encode_object,
    "any": encode_any,
}
_DECODERS: dict[str, Decoder] = {
    "float": float,  # also what another program wrote as `5` or `1e-3`
    "int": decode_int,
    "bool": _BOOLS_BACK.__getitem__,
    "str": bytes.decode,
    "list": _decode_list,
    "object": _decode_object,
    "any": _decode_any,
}


def encoder(kind: str, dtype: str | None = None, shape: tuple[int, ...] = ()) -> Encoder:
    """Return the function that writes values of a type.

    Args:
        kind: one of `TYPES`.
        dtype: for arrays, one of `datadesc.DTYPES`.
        shape: for arrays, the number of elements in each dimension.

    Returns:
        A function from a value to bytes. It raises TypeError or ValueError, with the reason where it isn't plain.
    """
    return _array_encoder(dtype, shape) if dtype else _ENCODERS[kind]


def decoder(kind: str, dtype: str | None = None, shape: tuple[int, ...] = ()) -> Decoder:
    """Return the function that reads values of a type; arrays come back read-only, without a copy.

    It raises ValueError, TypeError or KeyError for bytes that are no such value.
    """
    return _array_decoder(dtype, shape) if dtype else _DECODERS[kind]
