"""The figures in the docs: blocks of the speed page and of the README, the picture, and the figures themselves.

    python tests/bench/page.py      ends with an error if they are not what docs/explain/speed.json says

It knows pages and their blocks, which stand between two comments, and nothing of how figures were taken. Invariant:
what is between the comments is made of docs/explain/speed.json alone, so that no figure is there that a run did not
print.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import plot
import reasons
import report
from peers import FLOOR, OURS, PEERS
from rows import Row

DOCS = Path(__file__).parents[2] / "docs" / "explain"
PAGE, PICTURE, FIGURES = DOCS / "speed.md", DOCS / "speed.svg", DOCS / "speed.json"
README = DOCS.parents[1] / "README.md"
SHORT = [
    *("write", "flush-8", "read-8", "unchanged", "listen-200-1", "follow-200-1"),
    *("log-append-128", "log-read", "log-bulk"),
]
DRAWN = [
    *("write", "flush-2", "flush-8", "flush-64", "one", "read-8", "read-64", "unchanged"),
    *("listen-200-1", "follow-200-1", "listen-5000-1", "follow-5000-1", "listen-200-50", "flood-age"),
    *("log-append-1", "log-append-128", "log-read", "log-bulk", "frame", "sensor"),
]


def first(rows: Sequence[Row], key: str) -> list[Row]:
    """Return the first row of a key, if there is one."""
    return [row for row in rows if row.key == key][:1]


def drawn(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the picture."""
    found = [row for key in DRAWN for row in first(rows, key)]
    return [row for row in found if OURS in row.figures]


def contenders() -> Iterator[str]:
    """Yield who is compared."""
    yield "| contender | what it does |"
    yield "| --- | --- |"
    for name, peer in PEERS.items():
        yield f"| {name} | {peer.about} |"


def lost(rows: Sequence[Row]) -> Iterator[str]:
    """Yield who is ahead of us, and why."""
    texts: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name in row.ahead():
            text = reasons.why(row, name)
            if not text:
                print(f"bench: no reason why {name} is ahead: {row.key}, {row.conditions}", file=sys.stderr)
            ratio = row.ratio(name)
            shown = f"{row.title}, {row.conditions} (x {report.number(ratio.middle)})" if ratio else row.title
            texts.setdefault((name, text or "Nobody has found out why yet."), []).append(shown)
    for (name, text), titles in texts.items():
        yield f"- **{name}**: {text}"
        yield from (f"    - {title}" for title in titles)


def short(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the table of the README: few rows, the floor and who speaks to the same server."""
    names = (FLOOR, OURS, "redis-py", "walrus")
    yield f"| microseconds | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for row in (row for key in SHORT for row in first(rows, key)):
        cells = [report.number(row.spread(name).middle) if name in row.figures else "-" for name in names]
        yield f"| {row.title} | {' | '.join(cells)} |"


def with_block(page: str, name: str, lines: Iterator[str] | list[str], by: str = "scripts/bench --page") -> str:
    """Return a page with other lines between the comments of a block."""
    begin, end = f"<!-- {name}: begin (written by {by}) -->", f"<!-- {name}: end -->"
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    changed, count = re.subn(pattern, lambda _: "\n".join([begin, "", *lines, "", end]), page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has {count} blocks {begin!r}, expected one")
    return changed


def speed_page(page: str, rows: Sequence[Row], about: dict[str, str]) -> str:
    """Return the speed page with these figures."""
    page = with_block(page, "contenders", contenders())
    page = with_block(page, "figures", [report.markdown(rows, about).strip()])
    return with_block(page, "lost", lost(rows))


def readme(page: str, rows: Sequence[Row]) -> str:
    """Return the README with these figures."""
    return with_block(page, "figures", short(rows))


def made() -> dict[Path, str]:
    """Return what the picture and the pages hold, made of the figures that are kept."""
    rows, about = report.load(str(FIGURES))
    return {
        PICTURE: plot.svg(drawn(rows)),
        PAGE: speed_page(PAGE.read_text(encoding="utf-8"), rows, about),
        README: readme(README.read_text(encoding="utf-8"), rows),
    }


def write(rows: Sequence[Row], about: dict[str, str]) -> None:
    """Write the figures, the picture and the blocks of the pages."""
    report.save(str(FIGURES), rows, about)
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")


def check() -> None:
    """End with an error if a page or the picture is not what the figures say."""
    other = [path.name for path, text in made().items() if path.read_text(encoding="utf-8") != text]
    if other:
        sys.exit(f"{', '.join(other)}: not what {FIGURES.name} holds: scripts/bench --source {FIGURES.name} --page")


if __name__ == "__main__":
    check()
