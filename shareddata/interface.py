"""The interface document: what a team has to know of the records, made of their descriptions.

It knows descriptions, who was seen to use them, and the templates; it must not know sockets or files. Invariants:

1. Every record and every field is in it, with unit, limits, default and meaning.
2. Texts from descriptions stay texts, in HTML and in Markdown.
3. The same descriptions give the same document.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from shareddata import table
from shareddata.datadesc import Field, Record
from shareddata.uses import Uses

FORMATS = {".html": "interface.html.jinja", ".md": "interface.md.jinja"}
"""The template for a document, by its file's extension."""

_LINE, _WIDTH, _GAP = 26, 230, 150  # of a diagram: the height of a line, the width of a box, what is between two boxes
_EDGES, _CHARACTERS = 500, 49_000  # what Mermaid draws, unless it is told to draw more


class FieldRow(NamedTuple):
    """A field as the document shows it."""

    name: str
    type: str
    unit: str
    limits: str
    default: str
    doc: str


class Chapter(NamedTuple):
    """A record as the document shows it."""

    name: str
    record: Record
    history: str
    fields: list[FieldRow]
    writers: list[str]
    readers: list[str]


class Diagram(NamedTuple):
    """Who writes to whom, laid out: boxes (x, y, text, kind) and lines from point to point."""

    width: int
    height: int
    boxes: list[tuple[int, int, str, str]]
    lines: list[tuple[int, int, int, int]]


def document(
    records: Mapping[str, Record], template: str = ".md", title: str = "Interface", uses: Uses | None = None
) -> str:
    """Return the document.

    Args:
        records: the descriptions.
        template: `.md` or `.html`.
        title: what stands above.
        uses: who was seen to write and read, where a running system was looked at.

    Redis: none.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shareddata"),
        autoescape=template == ".html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(md=_markdown, anchor=_anchor)
    chapters = [_chapter(record, uses or Uses()) for record in sorted(records.values(), key=lambda each: each.name)]
    groups: dict[str, list[Chapter]] = {}
    for chapter in chapters:
        groups.setdefault(chapter.name.partition("__")[0], []).append(chapter)
    words: dict[str, Any] = {"title": title, "groups": groups, "chapters": chapters, "seen": uses is not None}
    words |= {"diagram": diagram(chapters), "flowchart": flowchart(chapters)}
    return environment.get_template(FORMATS[template]).render(words)


def _chapter(record: Record, uses: Uses) -> Chapter:
    history = "none"
    if record.history:
        history = record.history if isinstance(record.history, str) else f"the last {record.history}"
    writers = set(uses.writers.get(record.name, ()))
    return Chapter(
        *(record.name, record, history, [_row(each) for each in record.fields]),
        sorted(writers | ({record.owner} if record.owner else set())),
        sorted(uses.readers.get(record.name, ())),
    )


def _row(field: Field) -> FieldRow:
    kind = {"any": "any JSON value", "bool": "true or false", "str": "text"}.get(field.type, field.type)
    if field.dtype:
        kind = f"array {field.dtype} {'x'.join(map(str, field.shape))}"
    default = json.dumps(field.default, ensure_ascii=False)
    default = default if len(default) <= 40 else default[:37] + "..."
    return FieldRow(field.name, kind, "" if field.unit == "1" else field.unit, _limits(field), default, field.doc)


def _limits(field: Field) -> str:
    text = table.range_text(field)
    return f"{text}, others are refused" if text and field.on_limit == "refuse" else text


def diagram(chapters: Sequence[Chapter]) -> Diagram | None:
    """Return who writes to whom: writers, records and readers in three columns; None when nobody is known."""
    writers = _in_order(name for chapter in chapters for name in chapter.writers)
    readers = _in_order(name for chapter in chapters for name in chapter.readers)
    if not writers and not readers:
        return None
    shown = [chapter for chapter in chapters if chapter.writers or chapter.readers]
    shown.sort(key=lambda chapter: writers.index(chapter.writers[0]) if chapter.writers else len(writers))
    rows = {name: [i for i, chapter in enumerate(shown) if name in chapter.readers] for name in readers}
    readers.sort(key=lambda name: sum(rows[name]) / len(rows[name]))  # so that lines cross little
    columns = [writers, [chapter.name for chapter in shown], readers]
    most = max(map(len, columns))
    places = {}
    for column, names in enumerate(columns):
        for i, name in enumerate(names):
            y = round((i + 0.5) * most * _LINE / len(names))
            places[column, name] = column * (_WIDTH + _GAP), y
    lines = []
    for chapter in shown:
        x, y = places[1, chapter.name]
        for name in chapter.writers:
            lines.append((places[0, name][0] + _WIDTH, places[0, name][1], x, y))
        for name in chapter.readers:
            lines.append((x + _WIDTH, y, *places[2, name]))
    kinds = ("program", "record", "program")
    boxes = [(x, y, name, kinds[column]) for (column, name), (x, y) in places.items()]
    width = 3 * _WIDTH + 2 * _GAP if readers else 2 * _WIDTH + _GAP
    return Diagram(width, most * _LINE, boxes, lines)


def _line(text: str) -> str:
    """Return a text in one line, and nothing that is not printable: it may be shown on a terminal."""
    return table.clean(" ".join(text.split()))


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


# -- Markdown ---------------------------------------------------------------------------------------------------------


def _markdown(text: str) -> str:
    r"""Return a text that Markdown shows as it is, also within a table.

    >>> print(_markdown("a|b_c <i>"))
    a\|b\_c \<i\>
    """
    plain = re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", _line(text))
    return re.sub(r"^(\d*)([-+.)])(?=[\s-]|$)", r"\1\\\2", plain)  # else it begins a list, or is a rule


def _anchor(name: str) -> str:
    """Return the anchor that a heading of this name gets."""
    return re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-")


def flowchart(chapters: Sequence[Chapter]) -> list[str]:
    """Return who writes to whom as the lines of a Mermaid flowchart; none when they are more than Mermaid draws."""
    writers = _in_order(name for chapter in chapters for name in chapter.writers)
    readers = _in_order(name for chapter in chapters for name in chapter.readers)
    lines = [f"w{i}[{_label(name)}]" for i, name in enumerate(writers)]
    lines += [f"d{i}[{_label(name)}]" for i, name in enumerate(readers)]
    for number, chapter in enumerate(chapters):
        if chapter.writers or chapter.readers:
            lines.append(f"r{number}[({_label(chapter.name)})]")
            lines += [f"w{writers.index(name)} --> r{number}" for name in chapter.writers]
            lines += [f"r{number} --> d{readers.index(name)}" for name in chapter.readers]
    edges, size = sum(" --> " in line for line in lines), sum(map(len, lines)) + 5 * len(lines)
    return lines if edges <= _EDGES and size < _CHARACTERS else []


def _label(name: str) -> str:
    return '"' + re.sub(r'["#;<>&`\\]', lambda found: f"#{ord(found[0])};", _line(name)) + '"'
