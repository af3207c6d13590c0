"""Plots as files: a record's or a log's numbers over time, drawn by matplotlib.

It knows rows, units and how they are laid out on a picture. It must not know where rows come from, servers or
terminals; matplotlib is imported only when something is drawn. Invariants:

1. What is measured in the same unit stands in one plot, as far as colours tell it apart; times are below each other, in
   UTC.
2. Memory is bounded: rows are thinned while they are read, and the picture says so.
3. A picture has its name only when it is whole.
"""

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shareddata.codec import numpy
from shareddata.columns import Column, Table, write_whole
from shareddata.errors import FieldError
from shareddata.extras import needed
from shareddata.rowsources import Source
from shareddata.thinned import Thinned, drawable

FORMATS = (".svg", ".png", ".pdf")
"""What a picture may be, by its file's extension."""

_MOST = 20_000  # points of a line
_MOST_PLOTS = 100  # of a picture
_DRAWN = ("float", "int", "bool")
_COLOURS = ("#0f6b6b", "#c2571a", "#5b4b9a", "#8a6d00", "#a8326b", "#2f6db3", "#5d7a1f", "#6b4a3a")
_STYLE = {
    **{"font.family": "sans-serif", "font.size": 9.0, "axes.titlesize": 8.5, "axes.titlecolor": "#5f676f"},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#c9cbc5", "axes.titlelocation": "left"},
    **{"axes.grid": True, "grid.color": "#e6e6e0", "axes.axisbelow": True, "legend.edgecolor": "none"},
    **{"xtick.color": "#5f676f", "ytick.color": "#5f676f", "axes.labelcolor": "#5f676f", "lines.linewidth": 1.2},
    **{"axes.xmargin": 0.01, "svg.hashsalt": "shareddata", "svg.fonttype": "none", "path.simplify": True},
}


@dataclass
class Drawing:
    """What is to be drawn, read and thinned.

    Attributes:
        name: the record's or the log's.
        doc: what it is.
        columns: the columns that are drawn.
        timed: whether the first number of each row is a time; else it is a sequence number.
        rows: that number, and the values of the columns.
        stretch: how many rows each pair of rows stands for; 1: each is drawn.
        read: how many rows there were.
        first, last: the first number of the first and the last row; NaN without rows.
    """

    name: str
    doc: str
    columns: Sequence[Column]
    timed: bool
    rows: Sequence[Sequence[float | None]] = ()
    stretch: int = 1
    read: int = 0
    first: float = math.nan
    last: float = math.nan
    limits: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)


def choose(table: Table, names: Sequence[str]) -> list[Column]:
    """Return the columns of these names; all numbers and truth values if none is given.

    Raises:
        FieldError: no such field, or one that cannot be drawn.
    """
    there = {column.name: column for column in table.columns if not column.own}
    can = [column for column in there.values() if column.type in _DRAWN and column.name != "ts"]
    for name in names:
        if name not in there:
            raise FieldError(f"{table.name} has no field {name!r}: it has {', '.join(there)}")
        if there[name] not in can:
            numbers = ", ".join(column.name for column in can) or "none"
            raise FieldError(f"{table.name}, field {name!r} is no number over time: these are: {numbers}")
    if not can:
        raise FieldError(f"{table.name} has no numbers to draw")
    return [there[name] for name in dict.fromkeys(names)] if names else can


def read(source: Source, names: Sequence[str] = (), table: int = 0) -> Drawing:
    """Read what is to be drawn.

    Args:
        source: a `HistorySource`, `LogSource` or `RecordingSource`.
        names: the fields; all numbers if empty.
        table: which of the source's tables.

    Raises:
        FieldError: see `choose`.

    Redis: as the source's.
    """
    chosen = source.tables[table]
    columns = choose(chosen, names)
    at = [each.name for each in chosen.columns]
    place = 0 if chosen.published is None else chosen.published
    timed = chosen.published is not None
    positions = [at.index(column.name) for column in columns]
    drawing, kept = Drawing(chosen.name, chosen.doc, columns, timed, limits=_limits(chosen)), Thinned(_MOST)
    for row in source.rows():
        if row.table != table or row.values[place] is None:
            continue
        when = row.values[place] / 1e9 if timed else float(row.values[place])
        kept.add([when, *(drawable(row.values[i]) for i in positions)])
        drawing.first = when if drawing.read == 0 else drawing.first
        drawing.last, drawing.read = when, drawing.read + 1
    drawing.rows, drawing.stretch = kept.rows(), kept.stretch
    return drawing


def _limits(table: Table) -> dict[str, tuple[float | None, float | None]]:
    """Return the limits that the table's description has for fields."""
    fields = table.description.get("description", {}).get("fields", ())
    return {each[0]: (each[2].get("min"), each[2].get("max")) for each in fields if len(each) > 2}


def save(drawing: Drawing, target: str | Path) -> Path:
    """Draw into a file, which is replaced if it is there.

    Args:
        drawing: from `read`.
        target: its extension says what it is: `FORMATS`.

    Returns:
        The file.

    Raises:
        FieldError: another extension.
        ModuleNotFoundError: matplotlib is not installed; the message holds the remedy.

    Redis: none.
    """
    path = Path(target)
    check(path)
    matplotlib = _matplotlib()
    with matplotlib.rc_context(_STYLE):
        figure = _figure(matplotlib, drawing)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        picture = io.BytesIO()  # matplotlib tells of a full disk in words that nobody understands
        figure.savefig(picture, format=path.suffix[1:].lower(), dpi=150, metadata=metadata)
    write_whole(path, picture.getvalue())
    return path


def check(path: Path) -> None:
    """Check that a picture can have this name.

    Raises:
        FieldError: its extension is none of `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise FieldError(f"{path}: end the picture's name with {', '.join(FORMATS)}")


def show(drawing: Drawing) -> bool:
    """Draw into a window, and wait until it is closed.

    Returns:
        False where there is no display, or nothing that could draw on it.

    Redis: none.
    """
    matplotlib = _matplotlib()
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        figure = pyplot.figure()
        if figure.canvas.required_interactive_framework is None:  # no toolkit is installed, or it cannot be used
            pyplot.close(figure)
            return False
        _figure(matplotlib, drawing, figure)
        pyplot.show()
    return True


def _matplotlib() -> Any:
    for module in ("matplotlib.dates", "matplotlib.figure", "matplotlib"):
        found = needed(module, "plots need", "plot")
    return found


def _figure(matplotlib: Any, drawing: Drawing, figure: Any = None) -> Any:
    groups = _groups(drawing.columns)
    if len(groups) > _MOST_PLOTS:
        raise FieldError(f"{drawing.name}: {len(groups)} plots are too many for a picture: name the fields to draw")
    figure = figure or matplotlib.figure.Figure()
    heights = [0.45 if drawing.columns[group[0]].type == "bool" else 1.0 for group in groups]
    figure.set_size_inches(9, 1.2 + 1.9 * sum(heights))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    times = _times(drawing)
    if drawing.timed and drawing.first == drawing.last:
        second = numpy().timedelta64(1, "s")
        axes[-1].set_xlim(times[0] - second, times[-1] + second)
    colours = (colour for _ in range(len(drawing.columns)) for colour in _COLOURS)
    for group, each in zip(groups, axes):
        _draw(each, drawing, group, times, colours)
    figure.suptitle(drawing.name, x=0.01, ha="left", fontsize=11, fontweight="bold", parse_math=False)
    axes[0].set_title(drawing.doc if len(drawing.doc) <= 110 else drawing.doc[:109] + "…", parse_math=False)
    if drawing.timed:
        locator = matplotlib.dates.AutoDateLocator(tz="UTC")
        axes[-1].xaxis.set_major_locator(locator)
        axes[-1].xaxis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(locator, tz="UTC"))
    what = "UTC" if drawing.timed else "sequence number"
    thinned = f"; thinned: two points show the least and the greatest of {drawing.stretch}" * (drawing.stretch > 1)
    axes[-1].set_xlabel(what + thinned)
    return figure


def _groups(columns: Sequence[Column]) -> list[list[int]]:
    """Return the positions of the columns that share a plot: those of one unit; what has none stands alone."""
    groups: dict[str | int, list[int]] = {}
    for i, column in enumerate(columns):
        groups.setdefault(column.unit or i, []).append(i)
    step = len(_COLOURS)
    return [group[i : i + step] for group in groups.values() for i in range(0, len(group), step)]


def _times(drawing: Drawing) -> Any:
    numbers = numpy().array([row[0] for row in drawing.rows], "f8")
    return (numbers * 1e6).astype("M8[us]") if drawing.timed else numbers


def _draw(axes: Any, drawing: Drawing, group: Sequence[int], times: Any, colours: Any) -> None:
    truth = drawing.columns[group[0]].type == "bool"
    for i, colour in zip(group, colours):
        column = drawing.columns[i]
        values = [math.nan if value is None else value for value in (row[i + 1] for row in drawing.rows)]
        axes.plot(times, values, color=colour, label=column.name, drawstyle="steps-post" if truth else "default")
        axes.plot(times, _alone(values), ".", color=colour)
        for limit in drawing.limits.get(column.name, ()):
            low, high = axes.get_ylim()
            if limit is not None and low < limit < high:
                axes.axhline(limit, color=colour, linestyle=(0, (4, 3)), linewidth=0.8)
    unit = drawing.columns[group[0]].unit
    label = f"[{unit}]" if unit not in ("", "1") else ""
    if len(group) == 1:
        axes.set_ylabel(f"{drawing.columns[group[0]].name} {label}".strip(), parse_math=False)
    else:
        axes.set_ylabel(label, parse_math=False)
        axes.legend(loc="upper left", ncols=min(4, len(group)), fontsize=8)
    if truth:
        axes.set_yticks([0, 1], ["false", "true"])
        axes.set_ylim(-0.15, 1.15)


def _alone(values: Sequence[float]) -> list[float]:
    """Return the values without neighbours, of which no line can be drawn; NaN for the others."""
    known = [False, *(not math.isnan(value) for value in values), False]
    return [value if not known[i] and not known[i + 2] else math.nan for i, value in enumerate(values)]


def has_display() -> bool:
    """Tell whether a window may be opened: not over a plain SSH line, nor in a service."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) or os.uname().sysname == "Darwin"


def free_name(name: str, folder: Path) -> Path:
    """Return the name of a picture that is not there yet: `NAME.svg`, `NAME_2.svg`, ..."""
    plain = name.replace("/", "_")
    names = (folder / f"{plain}{f'_{i}' if i > 1 else ''}.svg" for i in range(1, 1_000_000))
    return next(path for path in names if not path.exists())
