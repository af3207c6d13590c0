"""The soak itself: thirty seconds of it, and how it is ended early."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RUN = str(Path(__file__).with_name("run.py"))


def test_help_teaches() -> None:
    """It shows examples, and every fault with what it is."""
    done = subprocess.run([sys.executable, RUN, "--help"], capture_output=True, text=True, check=True)
    assert "scripts/soak --seconds 600 --report soak.md" in done.stdout
    assert re.search(r"server killed +SIGKILL, and the server starts again", done.stdout)


def test_an_unknown_fault_is_named() -> None:
    done = subprocess.run([sys.executable, RUN, "--only", "server kiled"], capture_output=True, text=True)
    assert done.returncode == 1 and "no fault server kiled: there are server killed, " in done.stderr


@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", ["valkey", pytest.param("redis", marks=pytest.mark.full)])
def test_thirty_seconds(tmp_path: Path, server: str) -> None:
    """Nothing acknowledged is lost, torn, doubled or out of order; everybody gets on after every fault."""
    figures, report = tmp_path / "soak.json", tmp_path / "soak.md"
    asked = ["--seconds", "22", "--seed", "6", "--server", server, "--rate", "0.5"]
    done = subprocess.run(
        [sys.executable, RUN, *asked, "--json", str(figures), "--report", str(report)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout
    result = json.loads(figures.read_text())
    assert result["good"] and set(result["findings"].values()) == {0} and result["troubles"] == []
    assert len(result["events"]) >= 4 and all(event["back"] for event in result["events"])
    written = {"writer", "log_writer", "emitter", "pusher", "sensor"}
    for role, (wrote, saw) in result["load"].items():
        assert (wrote if role in written else saw) > 10, role
    assert report.read_text() == done.stdout and "Everything was held." in done.stdout


@pytest.mark.full
@pytest.mark.timeout(240)
def test_control_c_ends_it_with_a_report() -> None:
    asked = ["--seconds", "600", "--seed", "3", "--only", "link cut,program killed", "--rate", "0.5"]
    soak = subprocess.Popen([sys.executable, RUN, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with soak:
        assert soak.stdout is not None and soak.stderr is not None
        while "all back after" not in (line := soak.stderr.readline()):
            assert line, "the soak ended"
        os.kill(soak.pid, signal.SIGINT)
        text, errors = soak.communicate()
    assert soak.returncode == 0, errors + text
    assert "ending early" in errors and "Everything was held." in text
