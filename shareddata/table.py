"""Records as text: values, ages and limits, one line a record, aligned columns, and a table that fits a terminal.

It knows descriptions, trames and the width of characters. It must not know sockets, files or terminals. Invariants:

1. Nothing that comes from a server reaches a terminal as a control character, in JSON neither.
2. No line is wider than it was asked to be, and no table higher.
3. What is out of limits, old or missing is told in words, never by colour alone.
4. The JSON forms are strict JSON: NaN and infinities are the strings "NaN", "Infinity" and "-Infinity".
"""

import json
import math
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from shareddata.datadesc import Field, Record

_GAP = "  "
_DEEPEST = 100  # lists and objects within each other that are shown
_TOO_DEEP = "nested too deeply to be shown"
_AHEAD = 0.5  # seconds that a time stamp may be in the future before it is told
_AGES = ((1, "s", 100), (60, "min", 6000), (3600, "h", 172800), (86400, "d", math.inf))  # size, unit, used up to


@dataclass
class View:
    """What is known of a record at one moment.

    Attributes:
        record: its description.
        trame: its value, None when there is none.
        damage: why its value cannot be read, "" when it can.
        rate: writes per second, None when not known.
        received: when the server got the value, by its own clock, None when not known.
    """

    record: Record
    trame: Any = None
    damage: str = ""
    rate: float | None = None
    received: float | None = None

    @property
    def written(self) -> bool:
        """Whether anybody has written the record since it was described."""
        return self.trame is not None and self.trame.ts > 0

    def age(self, now: float) -> float | None:
        """Return the seconds since the record was written, None when it never was.

        By the writer's time stamp and by the server's time of receipt, whichever is longer ago.
        """
        return self.record.age(self.trame, now, self.received) if self.written else None

    def stale(self, now: float) -> bool:
        """Tell whether the record is older than its `max_age`; one that was never written is not."""
        return self.written and self.record.stale(self.trame, now, self.received)

    def notes(self, now: float) -> str:
        """Return in words what is wrong with the whole record, "" when nothing is.

        Args:
            now: the server's time.
        """
        if self.damage:
            return clean(self.damage)
        if self.trame is None:
            return "no value"
        if not self.written:
            return "never written"
        old = f"old: over {age_text(self.record.max_age)}" if self.stale(now) else ""
        return ", ".join(filter(None, (old, self._skew(now))))

    def _skew(self, now: float) -> str:
        """Return in words how the writer's clock is wrong, as far as can be told."""
        ahead = self.trame.ts - (now if self.received is None else self.received)
        if ahead > _AHEAD:
            return f"the writer's clock is {age_text(ahead)} ahead"
        fresh = self.received is not None and not self.record.stale(self.trame._replace(ts=self.received), now)
        if fresh and self.stale(now):
            return f"received {age_text(now - (self.received or 0))} ago: late, or the writer's clock is behind"
        return ""


class Line(NamedTuple):
    """A line of a table: its text, and what it is: `title`, `record`, `value` or `alarm`."""

    text: str
    kind: str


# -- values ---------------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    r"""Return a text with everything that is not printable escaped.

    >>> print(clean("12 V" + chr(27) + "[2J"))
    12 V\x1b[2J
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def value_text(field: Field, value: Any, exact: bool = False) -> str:
    """Return a value for a person to read: floats with ten digits unless `exact`, large arrays as their range."""
    if field.dtype:
        return _array_text(field, value, exact)
    if isinstance(value, float):
        return repr(value) if exact else format(value, ".10g")
    if isinstance(value, str) and field.type != "any":
        return clean(value)
    try:
        return clean(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return _TOO_DEEP


def _array_text(field: Field, value: Any, exact: bool) -> str:
    if exact or value.size <= 8:
        return " ".join(str(value.tolist()).split())
    shape = "x".join(map(str, field.shape))
    return f"{field.dtype} {shape}" if value.dtype.kind in "bc" else f"{shape}: {value.min():g} .. {value.max():g}"


def limit_text(field: Field, value: Any) -> str:
    """Return in words how a value is out of its field's limits, "" when it is not."""
    if field.dtype or not isinstance(value, int | float) or not field.outside(value):
        return ""
    if math.isnan(value):
        return "not a number"
    return f"above {field.max:.10g}" if field.max is not None and value > field.max else f"below {field.min:.10g}"


def range_text(field: Field) -> str:
    """Return a field's limits in words, "" for none.

    >>> range_text(Field("level", "float", 0.0, min=0, max=1.9))
    '0 to 1.9'
    """
    if field.min is not None and field.max is not None:
        return f"{field.min:.10g} to {field.max:.10g}"
    if field.min is not None:
        return f"at least {field.min:.10g}"
    return f"at most {field.max:.10g}" if field.max is not None else ""


def age_text(seconds: float | None) -> str:
    """Return a time that passed, as short as a column wants it.

    >>> [age_text(each) for each in (0.04, 59, 150, 7200, 400000, None)]
    ['0.0 s', '59 s', '2.5 min', '2.0 h', '4.6 d', '-']
    """
    if seconds is None:
        return "-"
    size, unit = next((each for each in _AGES if seconds < each[2]), _AGES[-1])[:2]
    return f"{seconds / size:.0f} {unit}" if unit == "s" and seconds >= 10 else f"{seconds / size:.1f} {unit}"


def rate_text(rate: float | None) -> str:
    """Return a rate: `9.8/s`."""
    return "" if rate is None else f"{rate:.1f}/s" if rate < 100 else f"{rate:.0f}/s"


def time_text(ts: float) -> str:
    """Return a time stamp as UTC, with milliseconds; what no calendar holds as a number.

    >>> time_text(1.5)
    '1970-01-01T00:00:01.500Z'
    """
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ts)) + f".{int(ts % 1 * 1000):03d}Z"
    except (ValueError, OverflowError, OSError):
        return repr(ts)


def fields_text(view: View, alarms_first: bool = False) -> str:
    """Return a record's values in one line: `voltage=12.065 V  current=-7.6 A`."""
    parts = []
    pairs = list(zip(view.record.fields, view.trame or ()))[2:]
    for field, value in sorted(pairs, key=lambda pair: not limit_text(*pair)) if alarms_first else pairs:
        unit = f" {clean(field.unit)}" if field.unit not in ("", "1") else ""
        limit = limit_text(field, value)
        parts.append(f"{field.name}={value_text(field, value)}{unit}{f' ({limit})' if limit else ''}")
    return _GAP.join(parts)


def line(view: View, now: float | None = None, name: bool = True) -> str:
    """Return a record in one line: time, name, sender, values, what is wrong with it; without `now` it is never old."""
    parts = [time_text(view.trame.ts) if view.written else "-", *([view.record.name] if name else [])]
    parts += [clean(view.trame.sender)] if view.trame is not None else []
    notes = view.notes(view.trame.ts if now is None and view.trame is not None else now or 0.0)
    return _GAP.join(part for part in (*parts, fields_text(view), f"({notes})" if notes else "") if part)


# -- JSON -----------------------------------------------------------------------------------------------------------


def strict(value: Any, depth: int = 0) -> Any:
    """Return a value that strict JSON can hold: arrays as lists, complex numbers as pairs, NaN as a string.

    Args:
        value: of a field, or made of such.
        depth: how deeply it is nested in another one; a text stands for what is nested more deeply than anybody reads.
    """
    if depth > _DEEPEST:
        return _TOO_DEEP
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, complex):
        return [strict(value.real), strict(value.imag)]
    if isinstance(value, dict):
        return {key: strict(item, depth + 1) for key, item in value.items()}
    return [strict(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value


def dumps(value: Any, indent: int | None = None) -> str:
    r"""Return a value as strict JSON that may be shown on a terminal: what is not printable is escaped.

    >>> print(dumps({"voltage": "12 V" + chr(0x9b) + "2J", "charge": float("nan")}))
    {"voltage": "12 V\u009b2J", "charge": "NaN"}
    """
    text = json.dumps(strict(value), ensure_ascii=False, allow_nan=False, indent=indent)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def as_json(view: View, fields: Sequence[str] = (), **more: Any) -> str:
    """Return a record as one line of JSON: record, values (null when there are none), out_of_limits, what is wrong.

    Args:
        view: the record.
        fields: those to hold; all if empty.
        **more: what else is to be told of it: see `ages`.
    """
    values = view.trame and {name: strict(each) for name, each in view.trame._asdict().items() if _in(name, fields)}
    outside = [name for name in view.record.out_of_limits(view.trame) if _in(name, fields)] if view.trame else []
    content = {"record": view.record.name, "values": values, "out_of_limits": outside}
    return dumps(content | more | ({"damage": view.damage} if view.damage else {}))


def ages(view: View, now: float) -> dict[str, Any]:
    """Return for JSON how old a record is: age in seconds, stale, received (by the server's clock); null: not known."""
    return {"age": view.age(now), "stale": view.stale(now), "received": view.received}


def _in(name: str, fields: Sequence[str]) -> bool:
    return not fields or name in fields


# -- columns --------------------------------------------------------------------------------------------------------


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def clip(text: str, width: int) -> str:
    """Return a text that is at most so wide; what was cut ends in `~`.

    >>> clip("BATTERY__measures", 10)
    'BATTERY__~'
    """
    if text.isascii() and len(text) <= width:
        return text
    used = kept = 0  # columns so far; characters that leave room for the ~
    for count, character in enumerate(text, 1):
        used += width_of(character)
        if used > width:
            return text[:kept] + "~" if width > 0 else ""
        if used < width:
            kept = count
    return text


def pad(text: str, width: int, right: bool = False) -> str:
    """Return a text that is exactly so wide."""
    text = clip(text, width)
    blanks = " " * (width - width_of(text))
    return blanks + text if right else text + blanks


def grid(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return rows as lines with aligned columns; what is not printable is escaped.

    Args:
        rows: of the same length.
        right: the columns that are aligned to the right.
    """
    rows = [[*map(clean, row)] for row in rows]
    widths = [max(map(width_of, column)) for column in zip(*rows)]
    padded = ((pad(cell, width, i in right) for i, (cell, width) in enumerate(zip(row, widths))) for row in rows)
    return [_GAP.join(cells).rstrip() for cells in padded]


# -- the table ------------------------------------------------------------------------------------------------------


def lay_out(views: Sequence[View], width: int, height: int, now: float) -> list[Line]:
    """Return a table: for each record a line with sender, age and rate, and below it a line for each field.

    Where there is no room for all, the first records keep their fields, the others have one line each, and what does
    not fit even so is counted in the last line.

    Args:
        views: the records, the most important first.
        width: columns at most.
        height: lines at most.
        now: seconds since 1970.
    """
    alarms = [bool(view.notes(now)) or _outside(view) for view in views]
    heads = _heads(views, alarms, now)
    shown = len(views) if len(views) < height else max(0, height - 2)
    free = height - 1 - shown - (shown < len(views))
    lines = [Line(clip(heads[0], width), "title")]
    for view, head, alarm in zip(views[:shown], heads[1:], alarms):
        details = _details(view, width) if view.trame is not None else []
        if details and len(details) <= free:
            free -= len(details)
            lines += [Line(clip(head, width), "alarm" if view.notes(now) else "record"), *details]
        else:
            text = clip(head + _GAP + fields_text(view, True), width) if details else clip(head, width)
            lines.append(Line(text, "alarm" if alarm else "record"))
    if shown < len(views):
        lines.append(Line(clip(f"... and {len(views) - shown} records more: name those to be shown", width), "title"))
    return lines[:height]


def _outside(view: View) -> bool:
    return view.trame is not None and bool(view.record.out_of_limits(view.trame))


def _heads(views: Sequence[View], alarms: Sequence[bool], now: float) -> list[str]:
    """Return the title and each record's own line, which begins with `!` where something is wrong with it."""
    rows = [["  RECORD", "SENDER", "AGE", "RATE"]]
    for view, alarm in zip(views, alarms):
        sender = clean(view.trame.sender) if view.trame is not None and view.written else ""
        rows.append(
            [("! " if alarm else "  ") + view.record.name, sender, age_text(view.age(now)), rate_text(view.rate)]
        )
    notes = [""] + [view.notes(now) for view in views]
    # Ages and rates change all the time: columns of one width, so that nothing jumps.
    widths = [max(width_of(row[i]) for row in rows) for i in (0, 1)]
    texts = [_GAP.join([pad(a, widths[0]), pad(b, widths[1]), pad(c, 7, True), pad(d, 7, True)]) for a, b, c, d in rows]
    return [text + (f"{_GAP}({note})" if note else "") for text, note in zip(texts, notes)]


def _details(view: View, width: int) -> list[Line]:
    """Return a line for each field: name, value, unit, and how it is out of limits."""
    cells = [
        (field.name, value_text(field, value), clean(field.unit) if field.unit != "1" else "", limit_text(field, value))
        for field, value in list(zip(view.record.fields, view.trame))[2:]
    ]
    names = max((width_of(cell[0]) for cell in cells), default=0)
    result = []
    for name, value, unit, limit in cells:
        tail = _GAP.join(part for part in (unit, f"! {limit}" if limit else "") if part)
        room = width - 4 - names - 2 - (width_of(tail) + 2 if tail else 0)
        shown = pad(value, 14) if width_of(value) < 14 <= room else clip(value, max(4, room))
        text = f"    {pad(name, names)}  {shown}{_GAP}{tail}".rstrip()
        result.append(Line(clip(text, width), "alarm" if limit else "value"))
    return result
