"""Make docs/reference/cli.md of the commands' own help, the same on every version of Python."""

import sys
from argparse import Action
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout's, installed or not

from shareddata.cli import COMMANDS  # noqa: E402
from shareddata.command import Command  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "cli.md"

HEAD = """<!-- Made by scripts/docs from the commands' help: change that, not this page. -->
# Command line

```text
shareddata COMMAND [options] [arguments]
python -m shareddata [-i ENV] FILE...
```

`shareddata` and `python -m shareddata` are the same. Without a command it is `init`:
`python -m shareddata -i INIT_MSG a.json b.json`. `shareddata COMMAND --help` shows what stands here.

| command | does |
|---|---|
{summaries}

Commands that talk to a server take these options, as handlers do:

| option | meaning |
|---|---|
{common}

All commands take:

| option | meaning |
|---|---|
{all}

| exit code | when |
|---|---|
| 0 | done; `watch` and `tail` also when Ctrl-C ended them |
| 1 | an error that you can mend, told in one line on standard error (`--debug` shows where it came from) |
| 2 | wrong usage |
| 130, 143 | stopped by Ctrl-C, by SIGTERM |
| 141 | whoever read the output went away (`shareddata list \\| head -1`) |
"""
EVERYWHERE = ("help", "debug")
SERVER = ("redis_server", "redis_port", "url", "namespace")


def option(action: Action) -> str:
    """Return a row of a table of options."""
    metavar = f" {action.metavar}" if action.nargs != 0 and action.metavar else ""
    names = ", ".join(f"`{name}{metavar}`" for name in action.option_strings)
    return f"| {names} | {str(action.help).replace('|', chr(92) + '|')} |"


def options(command: Command, wanted: tuple[str, ...]) -> str:
    """Return rows for some of a command's options."""
    return "\n".join(option(each) for each in command.parser._actions if each.option_strings and each.dest in wanted)


def usage(command: Command) -> str:
    """Return the command in one line."""
    words = ["shareddata", command.name, "[options]"]
    for action in command.parser._actions:
        if not action.option_strings:
            name = str(action.metavar or action.dest.upper())
            words.append({None: name, "?": f"[{name}]"}.get(action.nargs, f"[{name} ...]"))
    return " ".join(words)


def section(command: Command) -> str:
    """Return what stands under a command's heading."""
    parser = command.parser
    own = [each for each in parser._actions if each.option_strings and each.dest not in EVERYWHERE + SERVER]
    arguments = [each for each in parser._actions if not each.option_strings]
    parts = [f"## {command.name}", f"```text\n{usage(command)}\n```", parser.description.strip()]
    rows = [f"| `{each.metavar or each.dest.upper()}` | {each.help} |" for each in arguments] + [option(e) for e in own]
    if rows:
        parts.append("\n".join(["| | meaning |", "|---|---|", *dict.fromkeys(rows)]))
    if parser.epilog:
        lines = [line.removeprefix("  ") for line in parser.epilog.splitlines()[1:]]
        parts.append("\n".join(["```text", *lines, "```"]))
    return "\n\n".join(parts)


def page() -> str:
    """Return the page."""
    a_command = COMMANDS["get"]
    head = HEAD.format(
        summaries="\n".join(f"| [`{name}`](#{name}) | {each.summary} |" for name, each in COMMANDS.items()),
        common=options(a_command, SERVER),
        all=options(a_command, EVERYWHERE),
    )
    return "\n\n".join([head.rstrip(), *map(section, COMMANDS.values())]) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")
