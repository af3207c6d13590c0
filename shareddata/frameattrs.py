"""Attributes of a frame file, its groups and datasets: small values beside the arrays.

It knows which values attributes may be and how they stand in Redis. It must not know chunks or transactions.
Invariants:

1. What is read is the caller's own: changing it changes nothing.
2. An array reads back as an array of the same type, a JSON value as itself.
"""

import base64
import copy
import json
from collections.abc import Iterator, MutableMapping
from typing import Any

from shareddata.codec import encode_any, numpy
from shareddata.elements import element_type
from shareddata.errors import FieldError
from shareddata.frameaccess import Access

_LARGEST = 65536  # bytes of an object's attributes
_ARRAY = "__array__"


class Attributes(MutableMapping[str, Any]):
    """The attributes of a file, a group or a dataset: JSON values, numpy's numbers and small arrays.

    As of the last `refresh`. Setting one is a transaction.

    Args:
        access: the file's.
        path: of the object.
    """

    def __init__(self, access: Access, path: str) -> None:
        self._access = access
        self._path = path

    def __repr__(self) -> str:
        return f"<Attributes of {self._path}: {', '.join(self)}>"

    @property
    def _values(self) -> dict[str, Any]:
        return self._access.store.description.attrs.get(self._path, {})

    def __getitem__(self, name: str) -> Any:
        return _attribute_back(self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __setitem__(self, name: str, value: Any) -> None:
        """Set an attribute.

        Raises:
            FieldError: the value is neither JSON nor a small array of numbers, or there is no room.

        Redis: MULTI, HSET, XADD, EXEC.
        """
        self._write({**self._values, name: _attribute(name, value)})

    def __delitem__(self, name: str) -> None:
        values = dict(self._values)
        del values[name]
        self._write(values)

    def _write(self, values: dict[str, Any]) -> None:
        writer = self._access.writing()
        writer.describe("attrs", self._path, attributes_text(values, f"{self._access.store.subject}, {self._path}"))
        writer.settle()


def attributes_text(values: dict[str, Any], what: str) -> bytes:
    """Return attributes as they stand in Redis.

    Raises:
        FieldError: they are too large.
    """
    text = json.dumps(values).encode()
    if len(text) > _LARGEST:
        raise FieldError(f"{what}: {len(text)} bytes of attributes, expected {_LARGEST} at most: make it a dataset")
    return text


def attributes(metadata: Any) -> dict[str, Any]:
    """Return a mapping as the attributes of an object.

    Raises:
        FieldError: see `Attributes`.
    """
    return {name: _attribute(name, value) for name, value in dict(metadata or {}).items()}


def _attribute(name: Any, value: Any) -> Any:
    """Return a value as JSON has it; an array as an object with its type, shape and bytes."""
    if not isinstance(name, str):
        raise FieldError(f"attribute {name!r}: its name is {type(name).__name__}, expected a str")
    if type(value).__module__ == "numpy" and hasattr(value, "dtype") and (value.shape or value.dtype.kind == "c"):
        dtype = element_type(value.dtype, f"attribute {name!r}")
        data = base64.b64encode(numpy().ascontiguousarray(value, dtype).tobytes()).decode()
        return {_ARRAY: [dtype.str, list(value.shape), data]}
    if isinstance(value, dict) and _ARRAY in value:
        raise FieldError(f"attribute {name!r}: the key {_ARRAY!r} is used for arrays: choose another one")
    try:
        return json.loads(encode_any(value))
    except (TypeError, ValueError) as error:
        raise FieldError(f"attribute {name!r}: {error}") from None


def _attribute_back(value: Any) -> Any:
    """Return an attribute's value, the caller's own."""
    if not isinstance(value, dict) or _ARRAY not in value:
        return copy.deepcopy(value)
    dtype, shape, data = value[_ARRAY]
    array = numpy().frombuffer(base64.b64decode(data), dtype).reshape(shape)
    return array if shape else array[()]
