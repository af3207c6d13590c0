"""A page of the docs as blocks: what is run, written or only shown.

It knows Markdown's fences and the comments before them, and runs nothing. The comments, each on a line of its own:

    <!-- file: name.json -->   the next block is written to that file instead of run
    <!-- not run: reason -->   the next block is left out; the reasons are few (`REASONS`)
    <!-- needs: redis-cli -->  the next block is left out on a machine without this program
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("python", "sh")
# Other spellings of the languages that are run: a block under such a name would be left out unseen.
MISSPELT = {"bash": "sh", "shell": "sh", "console": "sh", "py": "python", "python3": "python", "pycon": "python"}
REASONS = (
    "is output",
    "needs a second machine",
    "needs root",
    "needs the device",
    "needs the internet",
    "runs until stopped",
)
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^`\s]*)[^`]*$")
_COMMENT = re.compile(r"^ *<!-- *(?P<word>file|not run|needs): *(?P<value>.*?) *-->\s*$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


class PageError(AssertionError):
    """A page of the docs does not do what it says."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line where the text begins, and what the comments before it say."""

    language: str
    text: str
    line: int
    file: str | None = None
    not_run: str | None = None
    needs: str | None = None


def all_pages() -> list[Path]:
    """Return the pages whose blocks are run: README.md and everything under docs/."""
    readme = [page for page in [ROOT / "README.md"] if page.exists()]
    return readme + sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order.

    Raises:
        PageError: a fence is not closed, a language is spelt otherwise than here, a reason is not one of `REASONS`.
    """
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    notes: dict[str, str] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if comment := _COMMENT.match(line):
            notes[comment["word"]] = comment["value"]
        elif fence := _FENCE.match(line):
            end = _closing(page, lines, number, fence["ticks"])
            text = textwrap.dedent("\n".join(lines[number:end]) + "\n")
            found.append(_block(page, fence["language"].lower(), text, number + 1, notes))
            number, notes = end + 1, {}
        elif line.strip():
            notes = {}
    return found


def _closing(page: Path, lines: list[str], start: int, ticks: str) -> int:
    for number in range(start, len(lines)):
        if re.fullmatch(rf" *{ticks}`*\s*", lines[number]):
            return number
    raise PageError(f"{page}:{start}: this block is never closed")


def _block(page: Path, language: str, text: str, line: int, notes: dict[str, str]) -> Block:
    if language in MISSPELT:
        raise PageError(f"{page}:{line}: {language} blocks are not run: call it {MISSPELT[language]}, or text")
    reason = notes.get("not run")
    if reason is not None and reason not in REASONS:
        raise PageError(f"{page}:{line}: {reason!r} is no reason to leave a block out; these are: {REASONS}")
    return Block(language, text, line, notes.get("file"), reason, notes.get("needs"))


def links(page: Path) -> list[str]:
    """Return the targets of a page's relative links, code left out."""
    text = re.sub(r"^ *(`{3,}).*?^ *\1`*\s*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    targets = [match["target"] for match in _LINK.finditer(text)]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings get, spelt as GitHub spells them."""
    text = re.sub(r"^(`{3,}).*?^\1`*\s*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*?)\s*#*$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
