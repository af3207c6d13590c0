"""The reference of the command line is what the commands' help says."""

import runpy
from pathlib import Path

from shareddata.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def test_page_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "cli_page.py"))["page"]()
    written = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert written == page, "run scripts/docs"


def test_every_command_teaches() -> None:
    for command in COMMANDS.values():
        assert command.parser.epilog, f"{command.name} has no examples"
        described = [action for action in command.parser._actions if not action.help]
        assert not described, f"{command.name}: {described} without a help text"
