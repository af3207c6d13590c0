"""Records in the words of the page: what its templates and its scripts are given.

It knows views of records and states of logs, what of them can be drawn, and how events are spelt for a browser. It must
not know sockets, threads or HTTP. Invariants:

1. Everything is strict JSON; a number that is not finite is no point of a plot.
2. Texts are made as `table` makes them: nothing that comes from a record holds a control character.
3. The newest state tells all: whoever skips one misses nothing but the moment.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from shareddata import datadesc, table
from shareddata.datadesc import Field, Record
from shareddata.logs import State
from shareddata.table import View
from shareddata.thinned import drawable

_DRAWN = ("float", "int", "bool")
_LONGEST = 2000  # characters of a value that are shown
_LAST = 253402300800.0  # 10000-01-01: what is later is no time that a plot could show


class Shown(NamedTuple):
    """A field as the page shows it."""

    name: str
    unit: str
    doc: str
    type: str
    limits: str
    drawn: bool
    min: float | None
    max: float | None


def fields(record: Record) -> list[Shown]:
    """Return what the page tells of a record's fields, ts and sender left out."""
    return [
        Shown(
            *(f.name, "" if f.unit == "1" else table.clean(f.unit), table.clean(f.doc), _type_text(f)),
            *(table.range_text(f), is_drawn(f), f.min, f.max),
        )
        for f in record.fields[2:]
    ]


def _type_text(field: Field) -> str:
    if field.dtype:
        return f"array {field.dtype} {'x'.join(map(str, field.shape))}"
    return "JSON value" if field.type == "any" else field.type


def is_drawn(field: Field) -> bool:
    """Tell whether a field's values can be drawn over time."""
    return field.type in _DRAWN and field.name != "ts"


def drawn(record: Record) -> list[tuple[int, str]]:
    """Return the fields that can be drawn: position and name."""
    return [(i, f.name) for i, f in enumerate(record.fields) if is_drawn(f)]


# -- what is now ----------------------------------------------------------------------------------------------------


def state(view: View, now: float) -> dict[str, Any]:
    """Return what a browser shows of a record: texts for all fields but ts and sender, what is out of limits.

    What is wrong with it as a whole is told as of `now`, the server's time; a browser that is told nothing goes on
    counting by itself.
    """
    trame, pairs = view.trame, []
    if trame is not None:
        pairs = list(zip(view.record.fields, trame))[2:]
    limits = {i: note for i, (field, value) in enumerate(pairs) if (note := table.limit_text(field, value))}
    return {
        "name": view.record.name,
        "ts": table.strict(trame.ts) if view.written else None,
        "received": view.received if view.written else None,
        "sender": table.clean(trame.sender) if view.written else "",
        "rate": table.rate_text(view.rate),
        "texts": [table.clip(table.value_text(field, value), _LONGEST) for field, value in pairs],
        "limits": limits,
        "note": view.notes(now),
    }


def same(one: View | None, other: View) -> bool:
    """Tell, cheaply, that a view is as it was; False may also mean that it is not known."""
    if one is None or one.record is not other.record or one.damage != other.damage or one.rate != other.rate:
        return False
    return datadesc.same(one.trame, other.trame)


def values(view: View, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return a record's values by name, as strict JSON has them; all if no names are given, none if it has no value."""
    if view.trame is None:
        return {}
    found = view.trame._asdict()
    return {name: table.strict(found[name]) for name in names or found}


def fingerprint(records: Iterable[Record]) -> str:
    """Return a text that changes when the descriptions do."""
    content = [(record.name, record.as_json()) for record in records]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def log(state: State) -> dict[str, Any]:
    """Return what a browser shows of a log."""
    readers = [
        [table.clean(name), cursor, state.lag(name), state.missing(name)] for name, cursor in state.cursors.items()
    ]
    return {
        **{"name": state.name, "length": state.length, "first": state.first, "last": state.last, "size": state.size},
        **{"shape": state.shape or "bytes", "writer": table.clean(str(state.writer.get("program", "nobody yet")))},
        **{"durability": state.durability, "readers": readers, "note": table.clean(state.damage)},
    }


# -- points of a plot -----------------------------------------------------------------------------------------------


def point(record: Record, trame: Any) -> list[float | None]:
    """Return a trame's time and its values that can be drawn, in the order of `drawn`.

    None stands for what is not finite, and for a time that no calendar holds: of a writer that counts nanoseconds, say.
    """
    ts = drawable(trame[0])
    timed = ts is not None and 0 <= ts < _LAST
    return [ts if timed else None, *(drawable(trame[i]) for i, _ in drawn(record))]


def columns(record: Record, rows: Sequence[Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Return points as a list for each field, the times first."""
    names = ["ts", *(name for _, name in drawn(record))]
    return dict(zip(names, map(list, zip(*rows)))) if rows else {name: [] for name in names}


# -- events ---------------------------------------------------------------------------------------------------------


def text(content: Any) -> bytes:
    """Return JSON for a script; half of a surrogate pair, which UTF-8 cannot hold, is escaped."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")


def event(content: bytes, kind: str = "", identity: str = "") -> bytes:
    r"""Return a server-sent event.

    Args:
        content: JSON, so that it holds no line's end.
        kind: the name that a script listens to, "" for `message`.
        identity: what the browser gives back when it connects again.

    >>> event(b'{"a":1}', "state")
    b'event: state\ndata: {"a":1}\n\n'
    """
    head = (f"event: {kind}\n" if kind else "") + (f"id: {identity}\n" if identity else "")
    return head.encode() + b"data: " + content + b"\n\n"


def joined(states: Iterable[bytes], **more: Any) -> bytes:
    """Return states, which are JSON already, with more beside them, as one JSON object."""
    head: Mapping[str, Any] = more
    return text(head)[:-1] + b',"records":[' + b",".join(states) + b"]}"
