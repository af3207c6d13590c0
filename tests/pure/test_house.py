"""The house is as its plan says: style, types, the direction of imports, heads, documented public names.

The plan is in setup.cfg (mypy, import-linter) and pyproject.toml (ruff); what those tools cannot say stands here.
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import shareddata
from pages import all_pages

ROOT = Path(__file__).parents[2]
HOUSE = sorted((ROOT / "shareddata").glob("*.py"))
APPS = sorted((ROOT / "apps").glob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py"))
SILENT = {"shareddata.errors", "shareddata.data", "shareddata.datadesc"}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "manager"}


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{' '.join(command[:3])} says:\n{done.stdout}{done.stderr}", pytrace=False)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["-m", "ruff", "check", "."], id="ruff"),
        pytest.param(["-m", "mypy", "--no-error-summary"], id="mypy"),
        pytest.param(["-c", "from importlinter.cli import lint_imports_command as c; c(['--no-logo'])"], id="imports"),
    ],
)
def test_tool(command: list[str]) -> None:
    run(*command)


def test_no_room_imports_the_front_door() -> None:
    graph = grimp.build_graph("shareddata")
    assert graph.find_modules_that_directly_import("shareddata") <= {"shareddata.testing"}


@pytest.mark.parametrize("path", HOUSE, ids=short)
def test_module_head(path: Path) -> None:
    head = ast.get_docstring(ast.parse(path.read_text()))
    assert head, "a module begins with its head"
    assert path.stem not in FORBIDDEN_NAMES, "a function without a home is a missing concept"
    head = " ".join(head.split())
    if path.name not in ("__init__.py", "__main__.py"):
        assert "must not" in head, "a head says what the module must not know"
        assert re.search(r"\binvariants?\b", head, re.IGNORECASE), "a head names the module's invariants"


@pytest.mark.parametrize("path", [path for path in APPS if path.name != "__init__.py"], ids=short)
def test_app_head_names_its_source(path: Path) -> None:
    head = ast.get_docstring(ast.parse(path.read_text()))
    assert head, "a handler begins with what it drives"
    assert re.search(r"https?://|[Pp]rotocol|[Ss]ource", head), "a handler names the source of its protocol"


@pytest.mark.parametrize("path", HOUSE + APPS, ids=short)
def test_no_traps(path: Path) -> None:
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    sources = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    assert "__del__" not in defined, "what holds a resource is a context manager with close()"
    assert not {"plac", "__future__"} <= imported | sources, "plac reads annotations when the program runs"


@pytest.mark.parametrize("path", TESTS, ids=short)
def test_every_raises_has_a_match(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
            names = {keyword.arg for keyword in node.keywords}
            assert names & {"match", "check"}, f"line {node.lineno}: pytest.raises without match="


def test_public_names_are_sorted() -> None:
    assert shareddata.__all__ == sorted(shareddata.__all__)
    for name in shareddata.__all__:
        getattr(shareddata, name)


@pytest.mark.parametrize("name", sorted(shareddata.__all__))
def test_public_name_is_documented(name: str) -> None:
    thing = getattr(shareddata, name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert inspect.getdoc(thing), "a public name has a docstring"
    assert any(re.search(rf"\b{name}\b", page.read_text()) for page in all_pages()), "no page of the docs names it"


@pytest.mark.parametrize("name", sorted(shareddata.__all__))
def test_public_methods_say_what_they_send(name: str) -> None:
    """Each says it in a line `Redis:`, or its class does for all of them. What knows no server need not."""
    thing = getattr(shareddata, name)
    if not inspect.isclass(thing) or thing.__module__ in SILENT or "Redis:" in (inspect.getdoc(thing) or ""):
        return
    for method, function in inspect.getmembers(thing, inspect.isfunction):
        if not method.startswith("_") and function.__module__.startswith("shareddata"):
            assert "Redis:" in (inspect.getdoc(function) or ""), f"{name}.{method} has no line `Redis:`"
