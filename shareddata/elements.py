"""Elements of arrays: which types there are, and values as arrays of such a type.

Pure conversions. It must not know datasets, records or files. Invariants:

1. No element is changed silently by a conversion, but by the rounding of floats.
2. Types are little-endian: what is stored reads the same everywhere.
"""

from typing import Any

from shareddata.codec import numpy
from shareddata.errors import FieldError

SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
"""Kinds of elements, and how many bytes they may have."""


def converted(value: Any, dtype: Any, what: str) -> Any:
    """Return a value as an array of a type; no element is changed but by the rounding of floats.

    Raises:
        FieldError: it cannot be.
    """
    np = numpy()
    if isinstance(value, np.ma.MaskedArray):
        raise FieldError(f"{what}: the value is masked: fill it first")
    try:
        source = np.asarray(value)
    except ValueError as error:
        raise FieldError(f"{what}: the value is no array: {error}") from None
    if source.dtype == dtype:
        return source
    kind, wanted = source.dtype.kind, dtype.kind
    if source.size == 0 and kind in "biufc":
        return source.astype(dtype)
    if kind in "bui" and wanted in "bui":
        least, most = (0, 1) if wanted == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if least <= int(source.min()) and int(source.max()) <= most:
            return source.astype(dtype)
        raise FieldError(f"{what}: elements from {source.min()} to {source.max()} for {dtype}, {least} to {most}")
    if kind in "biufc" and wanted in "fc" and (kind != "c" or wanted == "c"):
        with np.errstate(over="ignore"):
            result = source.astype(dtype)
        if not np.array_equal(np.isfinite(result), np.isfinite(source)):
            raise FieldError(f"{what}: an element is too large for {dtype}")
        return result
    raise FieldError(
        f"{what}: elements of the type {source.dtype}, expected {dtype}: convert them with `astype` if that is meant"
    )


def element_type(dtype: Any, what: str) -> Any:
    """Return a type of elements, little-endian.

    Raises:
        FieldError: elements of this type can't be stored.
    """
    try:
        found = numpy().dtype(dtype)
    except TypeError as error:
        raise FieldError(f"{what}: {error}") from None
    if found.itemsize not in SIZES.get(found.kind, ()):
        raise FieldError(
            f"{what}: elements of the type {found} can't be stored: use numbers or bools; texts and the like go into "
            "attributes"
        )
    return found.newbyteorder("<")
