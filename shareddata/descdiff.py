"""How two data descriptions differ, and what that means for programs that run.

It knows which changes a running program accepts (`datadesc.check_compatible`), and which it accepts without noticing
what they mean. It must not know files, servers or terminals. Invariants:

1. `STOPS` is said exactly where a running program would stop with an error.
2. Each difference is told once, and nothing else.

    >>> from shareddata.datadesc import parse_record
    >>> old = parse_record("TANK", [["ts", 0.0], ["sender", ""], ["level", 0.0]])
    >>> new = parse_record("TANK", [["ts", 0.0], ["sender", ""], ["level", 0], ["open", False]])
    >>> for each in differences({"TANK": old}, {"TANK": new}):
    ...     print(each)
    TANK: field 'level' is int, was float: running programs that use the record stop
    TANK: field 'open' is new: running programs go on
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from shareddata.datadesc import Field, Record

STOPS, BEWARE, FINE = "incompatible", "beware", "compatible"
"""A running program stops; it goes on, and something means something else; it goes on."""


class Difference(NamedTuple):
    """One difference between two descriptions."""

    record: str
    field: str
    """The field, "" for the record itself."""
    verdict: str
    """`STOPS`, `BEWARE` or `FINE`."""
    what: str
    """What is different."""
    so: str
    """What follows from it."""

    def __str__(self) -> str:
        where = f"field {self.field!r} " if self.field else ""
        return f"{self.record}: {where}{self.what}: {self.so}"


_GO_ON = "running programs go on"
_STOP = "running programs that use the record stop"


def differences(old: Mapping[str, Record], new: Mapping[str, Record]) -> list[Difference]:
    """Return how descriptions differ, record by record, in the order of the old one.

    Redis: none.
    """
    found: list[Difference] = []
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            so = f"with `init --prune` {_STOP}, without it nothing changes"
            found.append(Difference(name, "", STOPS, "is not described any more", so))
        elif name not in old:
            found.append(Difference(name, "", FINE, "is new", _GO_ON))
        else:
            found += [*_of_fields(old[name], new[name]), *_of_record(old[name], new[name])]
    return found


def compatible(found: list[Difference]) -> bool:
    """Tell whether running programs go on."""
    return all(each.verdict != STOPS for each in found)


def _of_fields(old: Record, new: Record) -> Iterator[Difference]:
    before, after = ({field.name: field for field in record.fields} for record in (old, new))
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            yield Difference(old.name, name, STOPS, "is gone", _STOP)
        elif name not in before:
            yield Difference(old.name, name, FINE, "is new", _GO_ON)
        else:
            yield from _of_field(old.name, before[name], after[name])
    kept = [name for name in before if name in after]
    if kept != [name for name in after if name in before]:
        so = f"{_GO_ON}; programs that are started anew and set values by position have to be changed"
        yield Difference(old.name, "", BEWARE, "has its fields in another order", so)


def _of_field(record: str, old: Field, new: Field) -> Iterator[Difference]:
    if old.kind != new.kind:
        yield Difference(record, old.name, STOPS, f"is {_kind(new)}, was {_kind(old)}", _STOP)
        return
    if old.unit != new.unit:
        so = f"{_GO_ON}, and take the numbers for what they were: start them again"
        yield Difference(record, old.name, BEWARE, f"has the unit {new.unit!r}, had {old.unit!r}", so)
    if _limits(old) != _limits(new):
        refuses = new.on_limit == "refuse" and new != old
        so = "writers get a FieldError for what is out of limits now" if refuses else _GO_ON
        verdict = BEWARE if refuses else FINE
        yield Difference(record, old.name, verdict, f"has the limits {_limits(new)}, had {_limits(old)}", so)
    if repr(old.default) != repr(new.default):
        so = f"{_GO_ON}; `init` without --keep sets it"
        yield Difference(record, old.name, FINE, f"has the default {new.default!r}, had {old.default!r}", so)
    if old.doc != new.doc:
        yield Difference(record, old.name, FINE, "has another text", _GO_ON)


def _kind(field: Field) -> str:
    return f"array {field.dtype} {list(field.shape)}" if field.dtype else field.type


def _limits(field: Field) -> str:
    if field.min is None and field.max is None:
        return "none"
    low, high = ("" if each is None else f"{each:g}" for each in (field.min, field.max))
    return f"{low}..{high}{' (refused)' if field.on_limit == 'refuse' else ''}"


def _of_record(old: Record, new: Record) -> Iterator[Difference]:
    if old.history != new.history:
        short, so = not new.history, f"{_GO_ON}, and trim it with their next flush"
        if short:
            so = "nothing is added to it any more: whoever follows or records the record hears nothing"
        elif not old.history:
            so = f"{_GO_ON}, and fill it"
        shown = _history(new.history), _history(old.history)
        verdict = BEWARE if short or _shorter(old, new) else FINE
        yield Difference(old.name, "", verdict, f"has a history of {shown[0]}, had {shown[1]}", so)
    if old.owner != new.owner:
        so = "it has one writer at a time from now on: a second one stops" if not old.owner else _GO_ON
        so = "several programs may write it from now on" if not new.owner else so
        what = f"belongs to {new.owner or 'nobody'}, belonged to {old.owner or 'nobody'}"
        yield Difference(old.name, "", BEWARE, what, f"{so}; make the ACL file anew")
    for option, word in (("max_age", "max_age"), ("doc", "text")):
        before, after = getattr(old, option), getattr(new, option)
        if before != after:
            what = f"has the max_age {after}, had {before}" if option == "max_age" else f"has another {word}"
            yield Difference(old.name, "", FINE, what, _GO_ON)


def _history(history: Any) -> str:
    return f"{history} trames" if isinstance(history, int) else history


def _shorter(old: Record, new: Record) -> bool:
    if old.history_span is None and new.history_span is None:
        return int(new.history) < int(old.history)
    return old.history_span is None or new.history_span is None or new.history_span < old.history_span
