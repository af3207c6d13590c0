"""The demonstration: live data of recorded devices, and nothing of it left, however it ends."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from leaks import Snapshot
from shareddata import DataDict, SharedDataError, SharedMemory, demo
from shareddata.demo import Device
from waiting import eventually
from web import ask

pytestmark = pytest.mark.xdist_group("demo")

NO_LINE = Device("hdl_gps", "GPS__position", "SOURCES.md", 115200)
NO_START = Device("hdl_dacs", "PROP__consignes")


@contextmanager
def demonstration(logs: Path, *options: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run `shareddata demo` as a program, and kill it if it is still there at the end."""
    command = [sys.executable, "-m", "shareddata", "demo", "--logs", str(logs), *options]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=os.environ | environ, **streams) as running:
        try:
            yield running
        finally:
            running.kill()


def until(running: subprocess.Popen[str], word: str) -> None:
    assert running.stdout is not None
    for line in running.stdout:
        if word in line:
            return
    pytest.fail(f"it ended without saying {word!r}: {running.communicate()[1]}")


def test_live_data_and_logs(tmp_path: Path) -> None:
    before = Snapshot()
    begin = time.monotonic()
    with demonstration(tmp_path / "logs", "--seconds", "2", PATH=str(tmp_path)) as running:
        out, err = running.communicate(timeout=50)
    assert (running.returncode, err) == (0, "")
    assert not before.new_processes(), "nothing of it runs when it has ended"
    assert "\x1b" not in out, "not a terminal: plain lines"
    for record in (
        "BATTERY__measures  HDL_BATTERY  voltage=12.0",
        "GPS__position  HDL_GPS  valid=true  latitude=41.57",
    ):
        assert record in out
    assert str(tmp_path / "logs") in out.splitlines()[-3]
    assert "shareddata demo page" in out.splitlines()[-2]
    assert "Try next:  install it (README.md), then  shareddata new tank" in out.splitlines()[-1]
    assert time.monotonic() - begin < 20
    (measures,) = (tmp_path / "logs").glob("*_HDL_BATTERY_BATTERY__measures.csv")
    rows = list(csv.DictReader(measures.read_text().splitlines()))
    assert len(rows) > 3 and all(11 < float(row["voltage"]) < 13 for row in rows)


def test_ctrl_c_ends_it_early(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with demonstration(tmp_path, "--seconds", "600", PATH=path) as running:
        until(running, "BATTERY__measures")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (0, "")
    assert "Done" in out and "Try next:  shareddata new tank" in out


def test_page_shows_it_until_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("cbor2")
    before = Snapshot()
    with demonstration(tmp_path, "page") as running:
        assert running.stdout is not None
        said = next(line for line in running.stdout if line.startswith("Open http"))
        url = said.split()[1]
        eventually(lambda: "HDL_BATTERY" in ask(url).text)
        eventually(lambda: "frame.png?file=camera" in ask(f"{url}frames").text, timeout=20)
        eventually(lambda: "camera/camera" in ask(f"{url}sensors").text)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (0, "")
    assert out.startswith("Done")
    assert not before.new_processes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_it_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    before = Snapshot()
    with demonstration(tmp_path, "--seconds", "600", PATH="/nothing/there") as running:
        until(running, "Live after")
        assert len(before.new_processes()) > 5, "server, players, handlers"
        running.send_signal(number)
        running.wait(20)
        eventually(lambda: not before.new_processes(), timeout=10, message="the end of all that it started")


def test_it_is_killed_while_it_starts(tmp_path: Path) -> None:
    before = Snapshot()
    with demonstration(tmp_path, "--seconds", "600") as running:
        until(running, "A private server runs")
        running.kill()
        running.wait()
        eventually(lambda: not before.new_processes(), timeout=10, message="the end of all that it started")


def show_nothing(shm: SharedMemory, names: Sequence[str], seconds: float) -> None:
    """Stand in for the table."""


def run(tmp_path: Path, *devices: Device, show: demo.Show = show_nothing) -> list[str]:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "DEVICES", devices)
        patch.setattr(demo, "_FIRST_DATA", 2.0)
        patch.setattr(demo, "_NEXT_DATA", 1.0)
        demo.run(show, said.append, seconds=0.0, logs=tmp_path)
    return said


def test_a_handler_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(SharedDataError, match=r"hdl_dacs ended with code 2: .*required: "):
        run(tmp_path, NO_START)


def test_a_handler_without_data(tmp_path: Path) -> None:
    with pytest.raises(SharedDataError, match=r"hdl_gps wrote no GPS__position in 2 s"):
        run(tmp_path, NO_LINE)


def test_a_recording_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SharedDataError, match=r"play_gps ended with code 1: .*No such file"):
        run(tmp_path, Device("hdl_gps", "GPS__position", "gpsd/none.log", 4800))


def test_a_handler_that_dies_while_it_is_shown(tmp_path: Path) -> None:
    before = Snapshot()

    def show(shm: SharedMemory, names: Sequence[str], seconds: float) -> None:
        handler = next(pid for pid, command in before.new_processes().items() if "hdl_battery" in command)
        os.kill(handler, signal.SIGKILL)
        eventually(lambda: handler not in before.new_processes(), message="its end")

    with pytest.raises(SharedDataError, match=r"hdl_battery ended with code -9"):
        run(tmp_path, demo.DEVICES[0], show=show)


def test_a_handler_that_hangs_is_told_of_and_ended(tmp_path: Path) -> None:
    before = Snapshot()

    def show(shm: SharedMemory, names: Sequence[str], seconds: float) -> None:
        handler = next(pid for pid, command in before.new_processes().items() if "hdl_battery" in command)
        os.kill(handler, signal.SIGSTOP)

    with pytest.raises(SharedDataError, match=r"hdl_battery wrote no BATTERY__measures in 1 s"):
        run(tmp_path, demo.DEVICES[0], show=show)
    assert not before.new_processes()


def test_what_is_shown_is_there(tmp_path: Path) -> None:
    shown: list[Any] = []

    def show(shm: SharedMemory, names: Sequence[str], seconds: float) -> None:
        with DataDict("TEST", shm) as dd:
            dd.set_datas_to_read(names)
            shown.extend(dd.next())

    said = run(tmp_path, demo.DEVICES[0], show=show)
    assert [type(trame).__name__ for trame in shown] == ["BATTERY__measures"]
    assert said[0].startswith("A private server runs at unix://")
    assert said[-1].endswith("hdl_battery.")
