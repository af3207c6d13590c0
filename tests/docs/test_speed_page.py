"""The figures in the docs are those of a run: nothing else is between the comments, and who is ahead has a reason."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench"


def test_figures_are_those_of_the_run() -> None:
    done = subprocess.run([sys.executable, str(BENCH / "page.py")], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert "no reason why" not in done.stderr


def test_scale_figures_are_those_of_the_run() -> None:
    done = subprocess.run([sys.executable, str(BENCH / "scale.py"), "--checks"], capture_output=True, text=True)
    assert not done.returncode, done.stderr
