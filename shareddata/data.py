"""Staged values: what a program has set and not flushed yet.

It knows the values of one record on the writer's side. It must not know sockets. Invariants:

1. `set` stages a whole record or nothing: a FieldError leaves everything as it was.
2. Values are checked and encoded when they are set; `flush` only joins bytes.
3. The CSV row is the only side effect of `set`, and it never makes it fail.
"""

from collections.abc import Mapping, Sequence
from time import time
from typing import Any

from shareddata.codec import plain
from shareddata.csvlog import CsvLog
from shareddata.errors import FieldError
from shareddata.wire import Layout, shown

LONGEST_EXPIRE = 1e9
"""Seconds after which a record may expire at the latest: some thirty years."""


class Data:
    """One record that a program writes. Made by `DataDict.set_datas_to_write`.

    Args:
        layout: the record's prepared bytes.
        sender: the program's name.
        values: what fields that are not named in `set` keep: the record's values in Redis now.
        staged: where a set record is put until the next flush, in order.
        csv: the record's CSV file, None for none.

    Attributes:
        ts: the measurement's time for the next `set`, in seconds since 1970; None, as it is again after each `set`,
            for the time of the call.
        sender: who writes; a keyword `sender=` counts for its `set` only.

    A Data belongs to one thread at a time, as its DataDict does.
    """

    __slots__ = (
        *("ts", "sender", "layout", "body", "expire", "may_expire", "csv"),
        *("_values", "_count", "_staged", "_pack"),
    )

    def __init__(
        self, layout: Layout, sender: str, values: Sequence[Any], staged: "dict[Data, None]", csv: CsvLog | None
    ) -> None:
        self.ts: float | None = None
        self.sender = sender
        self.layout = layout
        self.body = b""
        self.expire: float | None = None
        self.may_expire = True
        self.csv = csv
        self._values = tuple(values)
        self._count = len(self._values) - 2
        self._staged = staged
        self._pack = layout.pack

    def __repr__(self) -> str:
        state = "staged" if self in self._staged else "flushed or unset"
        return f"<Data {self.name}, {state}: {self.values!r}>"

    @property
    def name(self) -> str:
        """The record's name."""
        return self.layout.record.name

    @property
    def values(self) -> Any:
        """What was set last, as a trame; before the first `set` the record's value in Redis."""
        return self.layout.record.trame._make(self._values)

    def set(self, /, *values: Any, **named: Any) -> None:
        """Stage a value of the whole record for the next flush, and log it to the record's CSV file.

        Args:
            *values: all fields but ts and sender, in order; fewer when the others are named.
            **named: fields by name; `ts=` (seconds since 1970), `sender=`, and `expire=` (seconds after which the
                record is gone unless it is flushed again). Fields not given keep this Data's last value, so a list
                that was given is this Data's from then on.

        Raises:
            FieldError: wrong count, unknown or doubled field, wrong type, or out of limits where the description
                says `"on_limit": "refuse"`. Nothing was staged.

        Redis: none; the next `flush` writes.
        """
        ts, sender, expire = self.ts, self.sender, None
        if named or len(values) != self._count:
            values, ts, sender, expire = self._with_names(values, named)
        row = (time() if ts is None else ts, sender, *values)
        body = self._pack(row)
        if not sender:
            raise FieldError(f"record {self.name}: the sender is empty, expected the name of the program that writes")
        if self.layout.refused:
            self._check_limits(row)
        self._values = row
        self.body = body
        self.expire = expire
        self.ts = None
        self._staged[self] = None
        if self.csv is not None:
            self.csv.row(row)

    def restamp(self, ts: float) -> None:
        """Give the staged value another time."""
        self.body = self.layout.restamp(self.body, ts)
        self._values = (ts, *self._values[1:])

    def adopt(self, layout: Layout) -> None:
        """Go on with other limits, units or history, or with new fields, which are written with their defaults."""
        self.body = self.body.removesuffix(self.layout.tail) + layout.tail
        self.layout = layout
        self._pack = layout.pack

    def _with_names(self, values: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
        """Return values, ts, sender and expire of a `set` with keywords or fewer positions than fields."""
        fields = self.layout.record.fields[2:]
        if len(values) > len(fields) or not named:
            expected = ", ".join(f.name for f in fields)
            raise FieldError(
                f"record {self.name}: {len(values)} values, expected {len(fields)}: {expected} "
                "(ts and sender are given by name)"
            )
        rest = dict(named)
        ts, sender, expire = rest.pop("ts", self.ts), rest.pop("sender", self.sender), rest.pop("expire", None)
        expire = plain(expire)
        if expire is not None and (type(expire) not in (int, float) or not 0 < expire <= LONGEST_EXPIRE):
            raise FieldError(
                f"record {self.name}: expire is {shown(expire)}, expected seconds, up to {LONGEST_EXPIRE:g}"
            )
        row = list(values) + list(self._values[2 + len(values) :])
        positions = {f.name: i for i, f in enumerate(fields)}
        for name, value in rest.items():
            position = positions.get(name)
            if position is None:
                raise FieldError(f"record {self.name} has no field {name!r}; it has {', '.join(positions)}")
            if position < len(values):
                raise FieldError(f"record {self.name}, field {name!r}: given twice, by position and by name")
            row[position] = value
        return row, ts, sender, expire

    def _check_limits(self, row: Sequence[Any]) -> None:
        for position, field in self.layout.refused:
            if field.outside(row[position]):
                raise FieldError(
                    f"record {self.name}, field {field.name!r}: {row[position]!r} is out of limits, expected "
                    f"{'' if field.min is None else f'{field.min} <= '}{field.type_text()}"
                    f"{'' if field.max is None else f' <= {field.max}'}"
                )
