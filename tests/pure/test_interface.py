"""The interface document: everything of the descriptions is in it, as text, in HTML and in Markdown."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shareddata import descfile, interface
from shareddata.datadesc import Record, parse_record
from shareddata.table import clean
from shareddata.uses import Uses

ROOT = Path(__file__).parents[2]
HEAD = [["ts", 0.0], ["sender", ""]]
TANK = parse_record(
    "TANK__measures",
    {
        **{"doc": "What is <in> the | tank.", "owner": "HDL_TANK", "history": "2h", "max_age": 2.5},
        "fields": [
            *(
                *HEAD,
                ["level", 0.5, {"unit": "m", "min": 0, "max": 1.9, "on_limit": "refuse", "doc": "above_the *bottom*"}],
            ),
            *(["image", 0.0, {"dtype": "<f4", "shape": [2, 3]}], ["anything", None], ["share", 1.0, {"unit": "1"}]),
        ],
    },
)
USES = Uses({"TANK__measures": {"HDL_TANK", 'A "B" <c>'}}, {"TANK__measures": {"PILOT"}})


def shipped() -> dict[str, Record]:
    return descfile.load(*sorted((ROOT / "datadesc").glob("*.json")))


class Balanced(HTMLParser):
    """Fails on tags that are not closed, and collects the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "rect", "path", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> str:
    parser = Balanced()
    parser.feed(re.sub(r"<(rect|path)([^>]*)/>", r"<\1\2>", text))
    assert not parser.open
    return parser.text


@pytest.mark.parametrize("template", [".md", ".html"])
def test_everything_is_in_it(template: str) -> None:
    records = shipped()
    text = interface.document(records, template)
    plain = parsed(text) if template == ".html" else re.sub(r"\\(.)", r"\1", text)
    for record in records.values():
        assert record.name in plain and " ".join(record.doc.split()) in plain and record.owner in plain
        for field in record.fields[2:]:
            assert field.name in plain and " ".join(field.doc.split()) in plain


def test_one_record_in_markdown() -> None:
    text = interface.document({"TANK__measures": TANK}, ".md", "USV 1", USES)
    assert text.startswith("# USV 1\n\n1 record. Every")
    assert "| level | float | m | 0 to 1.9, others are refused | 0.5 | above\\_the \\*bottom\\* |" in text
    assert "| image | array \\<f4 2x3 |  |  | 0.0 |  |" in text
    assert "What is \\<in\\> the \\| tank." in text
    assert "| read by | PILOT |" in text and "| old after | 2.5 s |" in text and "| history | 2h |" in text
    assert "r0 --> d0" in text and 'w0["A #34;B#34; #60;c#62;"]' in text
    assert "\n\n\n" not in text


def test_one_record_in_html() -> None:
    text = interface.document({"TANK__measures": TANK}, ".html", "<USV>", USES)
    assert "<title>&lt;USV&gt;</title>" in text and "<in>" not in text and "<c>" not in text
    plain = parsed(text)
    assert "0 to 1.9, others are refused" in plain and 'A "B" <c>' in plain
    assert "http" not in text and "<script" not in text
    assert text.count("<path") == 3, "two writers, a reader"
    long = interface.document({"A": parse_record("A", {"owner": "O" * 40, "fields": HEAD})}, ".html")
    assert f"<title>{'O' * 40}</title>" in long and f">{'O' * 31}…</text>" in long
    assert html.escape("What is <in> the | tank.") in text


HOSTILE = (
    "- item", "1. first", "10) tenth", "+", "---", "> quote", "# head", "a | b", "```", "*b*", "~~s~~", "<script>",
    "&lt;", "a&copy;", "[x](y)", "\\", "a\\|b", "$x$", "one\ntwo", "<!-- c -->", "-1.5 or 0.5", "\x1b[2J \x9b\x00",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_stay_texts_in_markdown(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    fields = [*HEAD, ["x", 0.0, {"unit": "m", "doc": text}]]
    made = interface.document({"A": parse_record("A", {"doc": text, "owner": text, "fields": fields})}, ".md", text)
    assert made.replace("\n", "").isprintable(), "it may be shown on a terminal"
    parser = Shown()
    parser.feed(markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(made))
    assert not parser.strange
    assert parser.text.count(clean(" ".join(text.split()))) >= 5, "title, table, chapter, its field"


class Shown(HTMLParser):
    """What a reader of a page sees, and what else is in it than the template has."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.strange = "", set[str]()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("h1", "h2", "h3", "p", "a", "code", "pre", "table", "thead", "tbody", "tr", "th", "td"):
            self.strange.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_diagram_that_mermaid_would_not_draw_is_left_out() -> None:
    records = {f"R{n}": parse_record(f"R{n}", {"owner": "HDL", "fields": [*HEAD, ["x", 0]]}) for n in range(501)}
    assert "```mermaid" in interface.document(dict(list(records.items())[:500]), ".md")
    text = interface.document(records, ".md")
    assert "```" not in text and "more lines than Mermaid draws" in text and text.count("| HDL |") == 2 * 501
    assert interface.document(records, ".html").count("<path") == 501


@pytest.mark.parametrize("template", [".md", ".html"])
def test_nobody_knows_who_writes(template: str) -> None:
    text = interface.document({"A": parse_record("A", [*HEAD, ["x", 0]])}, template)
    assert "anybody" in text and "Who writes to whom" not in text and "read by" not in text.lower()


def test_same_descriptions_give_the_same_document() -> None:
    records = shipped()
    again = dict(reversed(list(records.items())))
    assert interface.document(records, ".html") == interface.document(again, ".html")


def test_boxes_of_a_diagram_do_not_lie_on_each_other() -> None:
    chapters = [interface._chapter(record, USES) for record in [*shipped().values(), TANK]]
    found = interface.diagram(chapters)
    assert found is not None
    columns: dict[int, list[int]] = {}
    for x, y, _, _ in found.boxes:
        columns.setdefault(x, []).append(y)
    for heights in columns.values():
        heights.sort()
        assert all(below - above >= 22 for above, below in zip(heights, heights[1:]))
        assert heights[0] >= 10 and heights[-1] <= found.height - 10
