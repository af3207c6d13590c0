"""The commands for looking: the page, plots, documents and names made of descriptions.

It knows what each command is for; it must not know keys, sockets or how anything is done. Invariants:

1. What needs an extra is imported when it is used, and its absence named with the remedy.
"""

import math
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shareddata import arguments, demo, descfile, interface, plot, rowsources, stubs, uses
from shareddata.columns import write_whole
from shareddata.command import UsageError, Where, command
from shareddata.datadesc import Record
from shareddata.errors import SharedDataError
from shareddata.extras import needed
from shareddata.memory import SharedMemory

_TOKEN = "SHAREDDATA_PAGE_TOKEN"


@command(
    host=("Address to serve on; other than this machine's own it demands a token", "option", "H", str, None, "ADDRESS"),
    port=("Port to serve on; 0 for one that is free", "option", "P", arguments.PORT, None, "8000"),
    write=("Let who has the token write records", "flag", "w"),
    token=(f"File with the token; default: ${_TOKEN}, else a new token", "option", "t", str, None, "FILE"),
    names=("More names that this machine is called by, joined by commas", "option", "N", str, None, "NAMES"),
)
def page_(
    where: Where,
    host: str = "localhost",
    port: int = 8000,
    write: bool = False,
    token: str | None = None,
    names: str | None = None,
) -> None:
    """Show all records to browsers: live values, plots, logs; at http://localhost:8000/ unless it is said otherwise.

    Everything comes from this machine: it works without internet. Nothing can be changed from a browser, unless --write
    is given; who writes needs the token. With --host 0.0.0.0 other machines can look, and each request needs the token:
    the address that is printed holds it. The way there is not encrypted. Ctrl-C ends it, with exit code 0.

    Examples:
      shareddata page
      shareddata page --port 8080 --write
      shareddata page --host 0.0.0.0 --names robot7.example
    """
    page = _page()
    given = Path(token).read_text().strip() if token else os.environ.get(_TOKEN)
    called = [name for name in (names or "").split(",") if name]
    with where.open(timeout=1.0) as shm:
        shown = page.Page(shm, host=host, port=port, write=write, token=given, names=called)
        way = f"login?token={shown.token}" if not given and (write or shown.guarded) else ""
        print(f"{shown.url}{way}", flush=True)
        told = f"shows the records of {shm.url}; Ctrl-C ends it"
        print(f"{told}; who has this address may write" if way and write else told, file=sys.stderr)
        try:
            shown.run()
        except KeyboardInterrupt:
            pass  # the usual way to end it


def _page() -> Any:
    """Return the page's module.

    Raises:
        ModuleNotFoundError: what it needs is not installed; the message holds the remedy.
    """
    return needed("shareddata.page", "the page needs", "web")


def demo_page(seconds: float | None, logs: str | None) -> None:
    """Show the demonstration's devices and camera in browsers, until Ctrl-C or for some seconds."""
    page = _page()
    page.plotting_library()  # before anything is started

    def show(shm: SharedMemory, _: Sequence[str], seconds: float) -> None:
        with _opened(page, shm) as shown:
            print(f"Open {shown.url} in a browser; Ctrl-C ends all of it.", flush=True)
            try:
                threading.Event().wait(min(seconds, threading.TIMEOUT_MAX))
            except KeyboardInterrupt:
                pass  # the usual way to end it

    said = arguments.Live().say
    folder = demo.run(show, said, seconds=math.inf if seconds is None else seconds, logs=logs, camera=True)
    print(f"Done; nothing of it runs any more. The CSV logs are in {folder}")


def _opened(page: Any, shm: SharedMemory) -> Any:
    """Return a page at the usual port, or at one that is free."""
    try:
        return page.Page(shm)
    except OSError:
        return page.Page(shm, port=0)


# -- pictures ---------------------------------------------------------------------------------------------------------


@command(
    name=("Name of a record, or with --log of a log", "positional", None, str, None, "NAME"),
    since=(
        "Where to begin: a time ago like 10m or 2h, seconds since 1970, 2026-07-20T12:00; without it everything",
        *("option", "s", str, None, "WHEN"),
    ),
    to=("Where to end, likewise", "option", "e", str, None, "WHEN"),
    output=(f"The picture: {', '.join(plot.FORMATS)}", "option", "o", str, None, "FILE"),
    log=("NAME is a log", "flag", "l"),
    time=("Which value of a log's records is their time, and its unit: f0:ms", "option", "c", str, None, "VALUE:UNIT"),
    recording=("Draw what is in this recording, a folder or a CSV file", "option", "g", str, None, "FOLDER"),
    fields=("Fields; all numbers if none is given", "positional", None, str, None, "FIELD"),
)
def plot_(
    where: Where,
    name: str,
    since: str | None = None,
    to: str | None = None,
    output: str | None = None,
    log: bool = False,
    time: str | None = None,
    recording: str | None = None,
    *fields: str,
) -> int:
    """Draw numbers over time: of a record's history, a log, a recording or a CSV log.

    What has the same unit shares a plot; dashed lines are limits. With --output the picture is written there, and what
    was there is replaced. Without it a window opens, where there is a display; else a new file is written, and its name
    printed. Times are UTC.

    Examples:
      shareddata plot BATTERY__measures voltage current
      shareddata plot GPS__motion --since 10m -o motion.svg
      shareddata plot --recording /var/log/run7 BATTERY__measures -o run7.pdf
      shareddata plot --log engine --time f0:ms f1
    """
    if log and recording:
        raise UsageError("give one of --log and --recording")
    if time and not log:
        raise UsageError("--time is for logs: records have their own")
    if output:
        plot.check(Path(output))  # before anything is waited for
    begin, end = arguments.ago(since, "--since"), arguments.ago(to, "--to")
    arguments.check_order(begin, end, "--since")
    if recording:
        return _plot(rowsources.RecordingSource([recording], [name], begin, end), fields, output)
    with where.open(arguments.SOON) as shm:
        if log:
            return _plot(rowsources.LogSource(shm, name, time, begin, end), fields, output)
        return _plot(rowsources.HistorySource(shm, [name], begin, end), fields, output)


def _plot(source: rowsources.Source, fields: Sequence[str], output: str | None) -> int:
    drawing = plot.read(source, fields)
    if not drawing.read:
        raise SharedDataError(f"{drawing.name}: there is nothing to draw in that time")
    if output or not plot.has_display() or not plot.show(drawing):
        path = plot.save(drawing, output or plot.free_name(drawing.name, Path()))
        span = f"{_place(drawing, drawing.first)} to {_place(drawing, drawing.last)}"
        print(f"{path}: {arguments.count(drawing.read, 'row')}, {span}")
    if source.missed:
        print(f"{source.missed} rows were not there any more: trimmed, or lost", file=sys.stderr)
    if source.damaged:
        print(f"{source.damaged} rows were left out: they cannot be read: {source.damage}", file=sys.stderr)
    return int(source.damaged > 0)


def _place(drawing: plot.Drawing, number: float) -> str:
    return arguments.when(number) if drawing.timed else f"{number:.0f}"


# -- documents and names of the description ---------------------------------------------------------------------------


@command(
    output=("Where to write: .html or .md; without it Markdown is printed", "option", "o", str, None, "FILE"),
    title=("What stands above it", "option", "t", str, None, "TITLE"),
    live=(
        "Look for so many seconds at who reads and writes on the server",
        *("option", "l", arguments.SECONDS, None, "SECONDS"),
    ),
    files=("Data descriptions; without any, those on the server", "positional", None, str, None, "FILE"),
)
def docs_(
    where: Where, output: str | None = None, title: str = "Interface", live: float | None = None, *files: str
) -> None:
    """Make the interface document of the descriptions: each record, its fields, units, limits, and who writes it.

    With --live the server is asked for some seconds who reads and who writes each record: its slow log is set to hold
    every command for that time, and is empty afterwards.

    Examples:
      shareddata docs datadesc/*.json -o interface.html
      shareddata docs --live 5 -o interface.md
    """
    template = Path(output).suffix.lower() if output else ".md"
    if template not in interface.FORMATS:
        raise UsageError(f"-o {output}: end the document's name with .html or .md")
    seen = None
    if files and live is None:
        records = descfile.load(*files)
    else:
        with where.open(arguments.SOON) as shm:
            records = descfile.load(*files) if files else _described(shm)
            seen = uses.look(shm, live) if live is not None else None
    _write(interface.document(records, template, title, seen), output, len(records))


@command(
    output=("Where to write: .py or .h; without it Python is printed", "option", "o", str, None, "FILE"),
    files=("Data descriptions; without any, those on the server", "positional", None, str, None, "FILE"),
)
def stubs_(where: Where, output: str | None = None, *files: str) -> None:
    """Make typed names of the descriptions: a Python class a record, or a C header with fields and units.

    With the Python module an editor completes `trame.voltage`, and mypy finds a wrong field. The keys in a C header are
    those of the namespace that -n names.

    Examples:
      shareddata stubs datadesc/*.json -o records.py
      shareddata stubs -n usv1 datadesc/*.json -o records.h
    """
    language = Path(output).suffix.lower() if output else ".py"
    if language not in (".py", ".h"):
        raise UsageError(f"-o {output}: end the file's name with .py or .h")
    if files:
        records = descfile.load(*files)
    else:
        with where.open(arguments.SOON) as shm:
            records = _described(shm)
    _write(stubs.text_of(records, language, where.namespace), output, len(records))


def _described(shm: SharedMemory) -> dict[str, Record]:
    names = shm.names()
    if not names:
        raise SharedDataError(f"{shm.url}: no record is described there: shareddata init FILE..., or name the files")
    return {name: shm.describe(name) for name in names}


def _write(text: str, output: str | None, records: int) -> None:
    if output is None:
        print(text, end="")
        return
    write_whole(Path(output), text.encode())
    print(f"{output}: {arguments.count(records, 'record')}")
