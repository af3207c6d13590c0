"""The plot of the speed page: a picture in SVG, written without any library.

It knows ratios and how they are drawn. Each row is a line; a mark is a contender's ratio to ours, on a logarithmic
scale: right of the middle line we are ahead. The picture has its own background and follows the reader's light or
dark setting.
"""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from peers import OURS, PEERS
from rows import Row

ROW, HEAD, FOOT = 26, 74, 40
LEFT, WIDTH, RIGHT = 440, 560, 30
LEAST, MOST = 0.01, 100.0
COLOURS = {  # on white, on black
    "C": ("#1a1a1a", "#f0f0f0"),
    "redis-py": ("#c1272d", "#ff7b72"),
    "walrus": ("#b8610a", "#f0a24b"),
    "pyzmq": ("#0d6b3c", "#56d364"),
    "eclipse-zenoh": ("#0a5cad", "#79c0ff"),
    "p4p": ("#7a3aa8", "#d2a8ff"),
    "files": ("#6a6a6a", "#a8a8a8"),
}
SHAPES = {  # as paths around 0, 0: told apart without colours too
    "C": "M-5,-5H5V5H-5Z",
    "redis-py": "M0,-6A6,6 0 1 1 -0.01,-6Z",
    "walrus": "M0,-6.5L6.5,5H-6.5Z",
    "pyzmq": "M0,-7L6,0L0,7L-6,0Z",
    "eclipse-zenoh": "M0,6.5L6.5,-5H-6.5Z",
    "p4p": "M-6,-2H-2V-6H2V-2H6V2H2V6H-2V2H-6Z",
    "files": "M-6,-4L-4,-6L0,-2L4,-6L6,-4L2,0L6,4L4,6L0,2L-4,6L-6,4L-2,0Z",
}


def style() -> str:
    """Return the rules for light and for dark readers."""

    def rules(index: int, paper: str, ink: str, faint: str) -> str:
        colours = [pair[index] for pair in COLOURS.values()]
        own = "".join(f".p{i}{{fill:{colour};stroke:{colour}}}" for i, colour in enumerate(colours))
        return f".paper{{fill:{paper}}}text{{fill:{ink}}}.grid{{stroke:{faint}}}.one{{stroke:{ink}}}{own}"

    light, dark = rules(0, "#ffffff", "#1a1a1a", "#d5d5d5"), rules(1, "#14171c", "#e6e6e6", "#3a3f47")
    usual = (
        "text{font-family:system-ui,'DejaVu Sans',sans-serif;font-size:13px}.one{stroke-width:1.5}"
        ".range{stroke-width:2;stroke-opacity:.6}.mark{stroke:none}"
    )
    return f"<style>{usual}{light}@media(prefers-color-scheme:dark){{{dark}}}</style>"


def across(ratio: float) -> float:
    """Return where a ratio is drawn."""
    bounded = min(max(ratio, LEAST), MOST)
    return LEFT + WIDTH * math.log(bounded / LEAST) / math.log(MOST / LEAST)


def mark(name: str, x: float, y: float) -> str:
    """Return a contender's mark."""
    index = list(COLOURS).index(name)
    return f'<path class="mark p{index}" transform="translate({x:.1f},{y:.1f})" d="{SHAPES[name]}"/>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Return a text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def legend(names: Sequence[str]) -> list[str]:
    """Return the marks and what they stand for, in one line."""
    parts, x = [], 24.0
    for name in names:
        parts += [mark(name, x, 22), text(x + 12, 27, name)]
        x += 45 + 7 * len(name)
    return parts


def scale(bottom: float) -> list[str]:
    """Return the lines of the scale and their numbers."""
    parts = []
    for ratio in (0.01, 0.1, 1, 10, 100):
        x = across(ratio)
        parts.append(f'<path class="{"one" if ratio == 1 else "grid"}" d="M{x:.1f},{HEAD - 12}V{bottom}"/>')
        parts.append(text(x, bottom + 18, f"{ratio:g}", "middle"))
    parts.append(text(across(1) - 8, HEAD - 20, f"\N{LEFTWARDS ARROW} ahead of {OURS}", "end"))
    parts.append(text(across(1) + 8, HEAD - 20, "takes longer \N{RIGHTWARDS ARROW}"))
    return parts


def line(row: Row, y: float) -> list[str]:
    """Return a row: its title, and each contender's range and mark."""
    parts = [text(LEFT - 16, y + 4, row.title, "end"), f'<path class="grid" d="M{LEFT},{y}H{LEFT + WIDTH}"/>']
    for index, name in enumerate(COLOURS):
        if ratio := row.ratio(name):
            low, high = across(ratio.low), across(ratio.high)
            parts.append(f'<path class="range p{index}" d="M{low:.1f},{y}H{high:.1f}"/>')
            parts.append(mark(name, across(ratio.middle), y))
    return parts


def svg(rows: Sequence[Row]) -> str:
    """Return the picture of some rows."""
    names = [name for name in PEERS if name in COLOURS and any(name in row.figures for row in rows)]
    bottom = HEAD + ROW * len(rows)
    width, height = LEFT + WIDTH + RIGHT, bottom + FOOT
    parts = [f'<rect class="paper" width="{width}" height="{height}"/>', *legend(names), *scale(bottom)]
    for index, row in enumerate(rows):
        parts += line(row, HEAD + ROW * (index + 0.5))
    said = f"Time that others take, as a multiple of what {OURS} takes"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{said}">'
    return "\n".join([head, style(), *parts, "</svg>", ""])
