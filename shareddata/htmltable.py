"""Tables in HTML, as notebooks show them.

It knows rows of texts, and HTML's characters. It must not know what they mean. Invariant: a text stays a text, whatever
it holds.
"""

from collections.abc import Iterable, Sequence
from html import escape


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a title.

    Args:
        title: what it is; "" for none.
        head: the columns' names; empty for none.
        rows: their cells, of which `str` is shown.

    >>> table("Tank", ["field", "value"], [["level", "<1>"]])
    '<table><caption>Tank</caption><tr><th>field</th><th>value</th></tr><tr><td>level</td><td>&lt;1&gt;</td></tr></table>'

    Redis: none.
    """
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(_short(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{caption}{f'<tr>{names}</tr>' if names else ''}{body}</table>"


def _short(cell: object) -> str:
    text = str(cell)
    return text if len(text) <= 200 else text[:199] + "…"
