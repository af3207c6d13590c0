"""Values with names like paths: nested dictionaries taken apart, and put together again.

It knows names of sensors and of their values, and which of them are refused. It must not know where values are kept or
how they are encoded. Invariants:

1. A name that this module hands out leads nowhere else: no `..`, no beginning slash, nothing that a terminal or a file
   system would take for more than a name.
2. No value stands where others stand below it: `pose` and `pose/x` exclude each other.

    >>> flatten("pose", {"x": 1, "axis": {"name": "z"}})
    {'pose/x': 1, 'pose/axis/name': 'z'}
    >>> nest({"number": 1, "pose/x": 2})
    {'number': 1, 'pose': {'x': 2}}
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from shareddata.errors import DescriptionError, FieldError

LONGEST = 200
"""Bytes of a sensor's name, directory included: its snapshots' file names begin with the time and hold the rest."""

LONGEST_VALUE = 1000
"""Bytes of a value's name, with those of the dictionaries that it is in."""

_DEEPEST = 32  # nested dictionaries
_RESERVED = re.compile(r":(writes|packed|large)(:|$)")  # what the keys beside a sensor's own end with


def sensor_name(directory: str, name: str) -> str:
    """Return the name of a sensor, `directory/name`; a name of `.` stands for the directory itself.

    Raises:
        DescriptionError: it cannot be one.
    """
    for part, what in ((directory, "directory"), (name, "sensor")):
        if not isinstance(part, str):
            raise DescriptionError(f"{what} {part!r} is {type(part).__name__}, expected a text")
        if wrong := trouble(part, LONGEST):
            raise DescriptionError(f"{what} {_shown(part)}: {wrong}")
    if not _parts(directory):
        raise DescriptionError(f"directory {_shown(directory)}: names nothing")
    found = "/".join(_parts(f"{directory}/{name}"))
    if len(found.encode()) > LONGEST:
        raise DescriptionError(f"sensor {_shown(found)}: is longer than {LONGEST} bytes")
    if _RESERVED.search(found):
        raise DescriptionError(f"sensor {_shown(found)}: ':writes', ':packed', ':large' belong to others' keys")
    return found


def value_name(name: str, sensor: str) -> str:
    """Return the name of a value as it is kept; `""` for all of the sensor (`.`).

    Raises:
        FieldError: it cannot be one.
    """
    if not isinstance(name, str):
        raise FieldError(f"sensor {sensor}, value {name!r}: its name is {type(name).__name__}, expected a text")
    if wrong := trouble(name):
        raise FieldError(f"sensor {sensor}, value {_shown(name)}: {wrong}")
    return cleaned(name)


def cleaned(name: str) -> str:
    """Return a name without parts that mean nothing: empty ones and dots.

    >>> cleaned("./a//b/")
    'a/b'
    """
    return "/".join(_parts(name))


def is_plain(name: str) -> bool:
    """Tell whether a name is a single one, that can be a file's."""
    return isinstance(name, str) and "/" not in name and name != "." and not trouble(name, LONGEST)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def trouble(path: str, longest: int = LONGEST_VALUE) -> str:
    """Say why a path cannot be a name; `""` if it can."""
    if not path:
        return "the name is empty"
    if not path.isprintable():
        return "characters that cannot be printed are not allowed in a name"
    if path.startswith("/"):
        return "the name begins with a slash: give a relative one"
    if ".." in path.split("/"):
        return "the name leads elsewhere: '..' is not allowed in it"
    if len(path.encode()) > longest:
        return f"the name is longer than {longest} bytes"
    if any(len(part.encode()) > LONGEST for part in path.split("/")):
        return f"a part of the name is longer than {LONGEST} bytes"
    return ""


def _shown(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 60 else text[:57] + "..."


def flatten(name: str, data: Any, sensor: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries by their names; of anything else, the value itself.

    An empty dictionary is a value. Keys of dictionaries that are no texts are written as texts.

    Args:
        name: what the data are called, from `value_name`; `""` for the sensor itself.
        data: what was given.
        sensor: for messages.

    Raises:
        FieldError: a key cannot be a name; two values have one name, or one stands where others stand below it.
    """
    if not isinstance(data, dict) or (not data and name):
        if not name:
            kind = type(data).__name__
            raise FieldError(f"sensor {sensor}, value '.': found {kind}, expected a dictionary of values")
        return {name: data}
    found: dict[str, Any] = {}
    for path, value in _leaves(name, data, sensor, 1):
        if path in found:
            raise FieldError(f"sensor {sensor}, value {_shown(path)}: two keys of the dictionary have this name")
        found[path] = value
    for path in found:
        if above := next((each for each in ancestors(path) if each in found), ""):
            raise FieldError(f"sensor {sensor}: {_shown(above)} is a value, and {_shown(path)} would be below it")
    return found


def _leaves(name: str, data: Mapping[Any, Any], sensor: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEEPEST:
        raise FieldError(f"sensor {sensor}, value {_shown(name)}: dictionaries are nested deeper than {_DEEPEST}")
    for key, value in data.items():
        below = value_name(str(key), sensor)
        path = value_name(f"{name}/{below}" if name else below, sensor) if below else ""
        if not below:
            raise FieldError(f"sensor {sensor}, value {_shown(name)}: the key {key!r} is no name")
        if isinstance(value, dict) and value:
            yield from _leaves(path, value, sensor, depth + 1)
        else:
            yield path, value


def ancestors(path: str) -> Iterator[str]:
    """Yield the names above a name, the nearest last.

    >>> list(ancestors("a/b/c"))
    ['a', 'a/b']
    """
    for place, character in enumerate(path):
        if character == "/":
            yield path[:place]


def below(names: Iterable[str], name: str) -> list[str]:
    """Return the names that stand below a name, or are it; `""` stands above all."""
    return [each for each in names if each == name or not name or each.startswith(name + "/")]


def near(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about a name that is not there: which ones are like it, or how many there are."""
    known = sorted(names)
    found = difflib.get_close_matches(name, known, 3)
    if found:
        return f": did you mean {' or '.join(map(repr, found))}?"
    return f": there are {', '.join(known[:8])}{' ...' if len(known) > 8 else ''}" if known else ": there are none"


def nest(values: Mapping[str, Any], under: str = "") -> Any:
    """Return values by their names as nested dictionaries.

    Args:
        values: names and values.
        under: only what stands below this name, named from there; the value itself if it is one.

    Raises:
        ValueError: a value stands where others stand below it.
    """
    if under in values:
        return values[under]
    found: dict[str, Any] = {}
    for path, value in values.items():
        if under and not path.startswith(under + "/"):
            continue
        *above, last = path[len(under) + 1 if under else 0 :].split("/")
        place: Any = found
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{path!r}: {part!r} is a value itself")
        if isinstance(place.get(last), dict):
            raise ValueError(f"{path!r} is a value, and others stand below it")
        place[last] = value
    return found
