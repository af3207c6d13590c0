"""Files of data descriptions: JSON texts, with the lines in which mistakes stand.

It knows files, JSON and what must not stand twice in it; what a declaration may hold is `datadesc`'s. It must not know
sockets or keys. Invariants:

1. All sources are read and checked before any record is returned.
2. A mistake is a DescriptionError that names file and line, and then what `datadesc` says of it.
3. A name given twice is never taken silently, in one object, in one file or in two.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shareddata.datadesc import Record, json_type, parse_record
from shareddata.errors import DescriptionError

Source = str | Path | Mapping[str, Any]
"""A description: the path of a JSON file, or what such a file holds, as a dictionary."""


def load(*sources: Source) -> dict[str, Record]:
    """Read descriptions from files or dictionaries.

    Args:
        sources: paths of JSON files, or dictionaries of the same content.

    Returns:
        The records by name, in the order of the sources.

    Raises:
        DescriptionError: for the first mistake, with file, line, record, field and remedy; also when two sources
            describe the same record.

    Redis: none.

        >>> load({"GPS__fix": [["ts", 0.0], ["sender", ""], ["lat", 0.0, {"unit": "deg"}]]})["GPS__fix"].fields[2].unit
        'deg'
    """
    records: dict[str, Record] = {}
    origin: dict[str, str] = {}
    for source in sources:
        where = "description" if isinstance(source, Mapping) else str(source)
        for record in parse(source):
            if record.name in records:
                raise DescriptionError(
                    f"{where}: record {record.name} is described in {origin[record.name]} already: keep one of them"
                )
            records[record.name] = record
            origin[record.name] = where
    return records


def parse(source: Source) -> Iterator[Record]:
    """Read the records of one source; see `load`."""
    if isinstance(source, Mapping):
        yield from _parse_mapping(source, "description", "")
        return
    where = str(source)
    try:
        text = Path(source).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DescriptionError(f"{where}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DescriptionError(f"{where}: byte {error.start} is no UTF-8 text: save the file as UTF-8") from None
    except ValueError as error:
        raise DescriptionError(f"{where!r}: is no path: {error}") from None
    try:
        content = json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        raise DescriptionError(f"{where}:{error.lineno}: no valid JSON, column {error.colno}: {error.msg}") from None
    except _Doubled:
        path, line = next(_doubled(text))
        what = f"record {path[0]}" if len(path) == 1 else f"record {path[0]}: {path[-1]!r}"
        raise DescriptionError(f"{where}:{line}: {what} is given twice: rename or delete one of them") from None
    except ValueError as error:
        raise DescriptionError(f"{where}: {error}: a number is too long") from None
    except RecursionError:
        raise DescriptionError(f"{where}: nested too deeply to be a description") from None
    yield from _parse_mapping(content, where, text)


class _Doubled(Exception):
    """A key stands twice in one JSON object."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _Doubled
    return result


def _keys(text: str) -> Iterator[tuple[tuple[str, ...], int, set[str]]]:
    """Yield each key of a JSON text: its path from the top, its line, and the keys before it in its object."""
    path: list[str] = []
    before: list[set[str]] = []
    word, start = "", 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"|[{}\[\]:]', text):
        if token[0] in "{[":
            path.append(word)
            before.append(set())
        elif token[0] in "}]":
            path.pop()
            before.pop()
        elif token[0] == ":":
            yield (*path[1:], word), text.count("\n", 0, start) + 1, before[-1]
            before[-1].add(word)
        else:
            word, start = json.loads(token[0], strict=False), token.start()


def _doubled(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    return ((path, line) for path, line, before in _keys(text) if path[-1] in before)


def _line_of(text: str, record: str) -> int:
    """Return the line in which a record's declaration begins."""
    return next((line for path, line, _ in _keys(text) if path == (record,)), 1)


def _parse_mapping(content: Any, where: str, text: str) -> Iterator[Record]:
    if not isinstance(content, Mapping):
        raise DescriptionError(
            f"{where}: found {json_type(content)}, expected an object of records: "
            '{"NAME": [["ts", 0.0], ["sender", ""], ...]}'
        )
    for name, declaration in content.items():
        try:
            yield parse_record(name, declaration)
        except DescriptionError as error:
            line = f":{_line_of(text, str(name))}" if text else ""
            raise DescriptionError(f"{where}{line}: {error}") from None
