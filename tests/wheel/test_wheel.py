"""The built wheel, installed in an empty environment outside the tree, is the whole package: its demo runs there."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

from leaks import MARK

ROOT = Path(__file__).parents[2]
PARTS = ("apps", "descriptions", "recordings")
LOOK_UP = f"""
import json
from importlib.resources import files
print(json.dumps({{part: sorted(file.name for file in files("shareddata." + part).iterdir()) for part in {PARTS}}}))
"""
pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("wheel")]


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run a command that must succeed, with no environment but what is given, and return what it printed."""
    kept = {name: os.environ[name] for name in (MARK,) if name in os.environ}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a source distribution: what that lacks, the wheel lacks."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder, **os.environ)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel, its extra `embedded` and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    pip = sys.executable if find_spec("pip") else sys._base_executable  # type: ignore[attr-defined]
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    what = f"shareddata[embedded] @ {wheel.as_uri()}"
    run(pip, "-m", "pip", "--python", python, "install", "--quiet", what, cwd=folder, **os.environ)
    return folder / "bin"


def test_wheel_holds_the_package(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    assert {"shareddata/py.typed", "shareddata/datadesc.schema.json", "shareddata/recordings/SOURCES.md"} <= names
    assert [name for name in names if name.startswith("tests/")] == []
    assert wheel.stat().st_size < 1_000_000


def test_parts_are_found_in_wheel_and_checkout(installed: Path, tmp_path: Path) -> None:
    in_wheel = json.loads(run(installed / "python", "-c", LOOK_UP, cwd=tmp_path))
    in_checkout = json.loads(run(sys.executable, "-c", LOOK_UP, cwd=tmp_path))
    for part in ("apps", "descriptions"):
        assert set(in_wheel[part]) - {"__pycache__"} == set(in_checkout[part]) - {"__pycache__"}
    assert {"__init__.py", "SOURCES.md"} < set(in_wheel["recordings"]) <= set(in_checkout["recordings"])


def test_demo_runs_without_a_server_on_the_machine(installed: Path, short_path: Path) -> None:
    """PATH is the environment's alone: no redis-server, no terminal, no variable of ours."""
    alone = {"PATH": str(installed), "HOME": str(short_path), "TMPDIR": str(short_path)}
    shown = run(installed / "shareddata", "demo", cwd=short_path, **alone)
    assert "\x1b" not in shown, "not a terminal: plain lines"
    for record in ("BATTERY__measures", "GPS__position", "HOST__load"):
        assert record in shown
        assert list(short_path.rglob(f"*_{record}.csv")), f"no CSV log of {record}"
