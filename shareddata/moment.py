"""All records at one moment.

It knows trames by the names of their records. It must not know where they are from. Invariant: it is a dictionary like
any other; only a notebook shows it otherwise.
"""

from typing import Any

from shareddata.htmltable import table


class Moment(dict[str, Any]):
    """Trames by name; None for a record that nobody had written. A notebook shows it as a table."""

    def _repr_html_(self) -> str:
        rows = [
            (name, *(trame[:2] if trame is not None else ("", "")), _values(trame))
            for name, trame in sorted(self.items())
        ]
        return table("", ["record", "ts", "sender", "values"], rows)


def _values(trame: Any) -> str:
    if trame is None:
        return "never written"
    return "  ".join(f"{name}={value}" for name, value in list(trame._asdict().items())[2:])
