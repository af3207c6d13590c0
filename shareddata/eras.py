"""How records were described until when, so that what a history holds is read as it was written.

It knows the stream in which `SharedMemory.init` notes how a record was described until then. It must not know
connections, nor which entries are read and what for. Invariants:

1. An entry is read with the types of the description that was in force when the server received it, by its own clock.
2. Where all descriptions that are kept agree in types, reading an entry costs what it costs without them.
3. What another program put into the stream is left out, with a warning: it keeps nobody from reading a history.
"""

import json
import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from shareddata.datadesc import Record, parse_record
from shareddata.errors import DecodeError, DescriptionError
from shareddata.names import Names
from shareddata.wire import Layout, pack

log = logging.getLogger("shareddata")

MOST = 100
"""Descriptions of a record that are kept beside the newest one."""

_FIELD = b"description"
_ON_ITS_WAY = 10_000  # milliseconds for which a program that had not noticed may still have flushed as before

Decode = Callable[[Sequence[bytes], str], Any]
"""What makes a trame of an entry's names and values, and its id."""


class Era(NamedTuple):
    """How a record was described until it was described anew."""

    until: str
    """The id of the note, of the same clock as the ids of the history."""
    record: Record

    @property
    def end(self) -> int:
        """Milliseconds since 1970: what came then or later came under a newer description."""
        return milliseconds(self.until)


def note(keys: Names, name: str, text: str | bytes, identity: str = "*") -> bytes:
    """Return the command that notes how a record was described until now.

    Args:
        keys: of the namespace.
        name: the record.
        text: its description so far, as it stands in Redis.
        identity: the note's id, where it was made elsewhere.
    """
    return pack("XADD", keys.described(name), "MAXLEN", MOST, identity, _FIELD, text)


def question(keys: Names, name: str) -> bytes:
    """Return the command that asks for a record's notes; `answered` takes the answer."""
    return pack("XREVRANGE", keys.described(name), "+", "-", "COUNT", MOST)


def answered(keys: Names, name: str, entries: Sequence[Any]) -> list[Era]:
    """Return a record's eras, the oldest first, without the one that lasts."""
    found = []
    for identity, fields in reversed(entries):
        try:
            if len(fields) != 2 or fields[0] != _FIELD:
                raise ValueError(f"found {fields!r:.60}")
            found.append(Era(identity.decode(), parse_record(name, json.loads(fields[1]))))
        except (DescriptionError, ValueError, RecursionError) as error:
            log.warning(
                "key %s, entry %s: no description, it is ignored: another program wrote it: %s",
                *(keys.described(name), identity.decode(), error),
            )
    return found


def milliseconds(identity: str) -> int:
    """Return the time in an entry's id, in milliseconds since 1970.

    >>> milliseconds("1784540000123-7")
    1784540000123
    """
    return int(identity.partition("-")[0])


def in_force(eras: Sequence[Era], now: Record, at: int) -> Record:
    """Return how a record was described at a time.

    Args:
        eras: from `answered`.
        now: how it is described now.
        at: milliseconds since 1970.
    """
    number = bisect_right([era.end for era in eras], at)
    return eras[number].record if number < len(eras) else now


def as_then(eras: Sequence[Era], now: Record, at: int) -> Record:
    """Return a record with its fields of now, in their order, each described as it was at a time, if it was there then.

    Args:
        eras: from `answered`.
        now: how the record is described now.
        at: milliseconds since 1970.
    """
    fields = {field.name: field for field in in_force(eras, now, at).fields}
    return replace(now, fields=tuple(fields.get(field.name, field) for field in now.fields))


def retyped(then: Record, now: Record) -> bool:
    """Tell whether a field that both descriptions know has another type.

    >>> parse = lambda *fields: parse_record("R", [["ts", 0.0], ["sender", ""], *fields])
    >>> retyped(parse(["a", 0], ["b", 0]), parse(["a", 1], ["c", ""])), retyped(parse(["a", 0]), parse(["a", 0.0]))
    (False, True)
    """
    kinds = {field.name: field.kind for field in now.fields}
    return any(kinds.get(field.name, field.kind) != field.kind for field in then.fields)


def decoder(layout: Layout, keys: Names, eras: Sequence[Era]) -> Decode:
    """Return what decodes the entries of a record's history: each with the types of its time.

    The trames are those of the record as the layout knows it. Fields that an entry does not have get their default,
    those that are not described any more are left out.

    Raises:
        DescriptionError: a record had arrays, and numpy is missing.
    """
    if not any(retyped(era.record, layout.record) for era in eras):
        return layout.decode_entry
    return _Past(layout, keys, eras).decode_entry


class _Past:
    """Decodes the entries of a history in which a field's type changed."""

    def __init__(self, layout: Layout, keys: Names, eras: Sequence[Era]) -> None:
        self._ends = [era.end for era in eras]
        self._layouts = [*(layout.under(era.record, keys) for era in eras), layout]

    def decode_entry(self, fields: Sequence[bytes], identity: str) -> Any:
        """Return an entry's trame.

        A flush that was on its way when the record was described anew came behind the note: what does not fit the newer
        description is then read by the one before.

        Raises:
            DecodeError: it fits neither.
        """
        at = milliseconds(identity)
        number = bisect_right(self._ends, at)
        try:
            return self._layouts[number].decode_entry(fields, identity)
        except DecodeError:
            for earlier in range(number - 1, -1, -1):
                if at - self._ends[earlier] > _ON_ITS_WAY:
                    break
                try:
                    return self._layouts[earlier].decode_entry(fields, identity)
                except DecodeError:
                    continue
            raise
