"""The demonstration of arrays: everything it tells of is there, and nothing of it stays, however it ends."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from leaks import Snapshot
from shareddata import SharedDataError, arguments, arraydemo, large
from shareddata.address import Address
from shareddata.sensors import read
from waiting import eventually

pytestmark = pytest.mark.xdist_group("demo")


@contextmanager
def demonstration(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `shareddata demo arrays` as a program, and kill it if it is still there at the end."""
    command = [sys.executable, "-m", "shareddata", "demo", "arrays", "--logs", str(folder), *options]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **streams) as running:
        try:
            yield running
        finally:
            running.kill()


def until(running: subprocess.Popen[str], pattern: str) -> str:
    assert running.stdout is not None
    text = ""
    for line in running.stdout:
        text += line
        if re.search(pattern, line):
            return text
    pytest.fail(f"it ended without saying {pattern!r}: {running.communicate()[1]}")


def in_memory(said: str) -> Path:
    """Return the folder of its large values, and check that its server's folder is gone."""
    found = re.search(r"unix://\S+sock", said)
    assert found
    folder = large.folder(Address(found[0]))
    assert folder
    return folder


def test_everything_is_seen(tmp_path: Path) -> None:
    before = Snapshot()
    begin = time.monotonic()
    with demonstration(tmp_path / "out", "--seconds", "2") as running:
        out, err = running.communicate(timeout=50)
    assert (running.returncode, err) == (0, "")
    assert time.monotonic() - begin < 20
    assert not before.new_processes(), "nothing of it runs when it has ended"
    assert not in_memory(out).exists(), "nothing of it is in memory"
    assert "\x1b" not in out and "\r" not in out, "not a terminal: plain lines"
    assert len(re.findall(r"^frame +\d+  mean 0\.\d{3}  \|.{32}\|$", out, re.MULTILINE)) in (2, 3)
    followed = re.search(r"Followed: frames 0 to (\d+), 512 x 256 uint16", out)
    assert followed and int(followed[1]) > 5
    assert (tmp_path / "out" / "picture.png").read_bytes()[16:24] == bytes([0, 0, 2, 0, 0, 0, 1, 0])
    archived = re.search(r"Archived: (\d+) files, each \(256, 512\) uint16: (\S+)", out)
    assert archived and int(archived[1]) > int(followed[1])
    paths = sorted((tmp_path / "out" / "frames").glob("*.npy"))
    assert len(paths) == int(archived[1]) and str(paths[0]) == archived[2]
    assert np.load(paths[-1]).max() > 30000
    with h5py.File(tmp_path / "out" / "camera.h5") as file:
        data = file["entry/data/data"]
        assert data.shape == (int(archived[1]), 256, 512) and (data[-1] == np.load(paths[-1])).all()
    recorded = re.search(r"A dataset: (\d+) snapshots, frames (\d+) to (\d+): (\S+)", out)
    assert recorded and int(recorded[1]) == int(recorded[3]) - int(recorded[2]) + 1 >= 10
    snapshots = sorted(Path(recorded[4]).iterdir())
    assert len(snapshots) == int(recorded[1])
    assert read(str(snapshots[0]))["about"]["frame"] == int(recorded[2])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_nothing_is_left_when_it_is_stopped(tmp_path: Path, number: signal.Signals, code: int) -> None:
    before = Snapshot()
    with demonstration(tmp_path, "--seconds", "600") as running:
        said = until(running, r"^frame ")
        folder, data = in_memory(said), Path(said.partition("unix://")[2].partition("/redis.sock")[0])
        assert len(before.new_processes()) > 3, "server, archiver, camera"
        assert folder.is_dir() and data.is_dir()
        running.send_signal(number)
        assert running.wait(20) == code
        eventually(lambda: not before.new_processes(), timeout=10, message="the end of all that it started")
        assert not folder.exists() and not data.exists()


def run(tmp_path: Path, say: Callable[[str], Any], live: Callable[[str], Any] = lambda _: None) -> None:
    arraydemo.run(say, live, seconds=0.5, folder=tmp_path)


def test_a_camera_that_dies_is_told(tmp_path: Path) -> None:
    before = Snapshot()

    def live(text: str) -> None:
        camera = [pid for pid, command in before.new_processes().items() if "hdl_camera" in command]
        if camera:
            os.kill(camera[0], signal.SIGKILL)

    with pytest.raises(SharedDataError, match=r"hdl_camera ended with code -9"):
        arraydemo.run(lambda _: None, live, seconds=600, folder=tmp_path)
    assert not before.new_processes()


def test_a_camera_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arraydemo, "_RATE", 0)
    with pytest.raises(SharedDataError, match=r"hdl_camera ended with code 2: .*the frequency must be positive"):
        run(tmp_path, lambda _: None)


def test_without_h5py_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arraydemo, "find_spec", lambda name: None)
    said: list[str] = []
    run(tmp_path, said.append)
    assert said[-1] == "Not archived as HDF5: h5py is not installed (pip install 'shareddata[hdf5]')."
    assert not (tmp_path / "camera.h5").exists()


def test_rows_that_are_missing_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = arraydemo._config

    def config(folder: Path) -> list[dict[str, Any]]:
        first, second = begin(folder)
        second["arguments"]["rows"] = 5
        return [first, second]

    monkeypatch.setattr(arraydemo, "_config", config)
    with pytest.raises(SharedDataError, match=r"camera\.h5: found 5 frames, expected \d+, the last one too"):
        run(tmp_path, lambda _: None)


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    def say(text: str) -> None:
        if text.startswith("A dataset"):
            eventually((tmp_path / "frames" / "0003.npy").exists)
            (tmp_path / "frames" / "0003.npy").unlink()

    with pytest.raises(SharedDataError, match=r"frames: found \d+ files, expected one for each of \d+ frames"):
        run(tmp_path, say)


def test_a_dataset_with_a_gap_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([*range(100, 105), *range(106, 200)])
    monkeypatch.setattr(arraydemo, "read", lambda path: {"about": {"frame": next(numbers)}})
    with pytest.raises(SharedDataError, match=r"dataset: snapshots of the frames \[100, .*: expected each one once"):
        run(tmp_path, lambda _: None)


def test_nothing_is_mixed_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(SharedDataError, match=r"is not empty: name a new folder"):
        run(tmp_path, lambda _: None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_each_line_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    live = arguments.Live()
    live.say("begin")
    live.show("one")
    live.show("two")
    live.say("end")
    assert sys.stdout.getvalue() == "begin\n\rone\x1b[K\rtwo\x1b[K\nend\n"  # type: ignore[attr-defined]


def test_a_file_gets_a_line_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    times = iter([10.0, 10.0, 10.9, 11.1, 11.1])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    live = arguments.Live()
    for text in ("one", "two", "three"):
        live.show(text)
    live.say("end")
    assert sys.stdout.getvalue() == "one\nthree\nend\n"  # type: ignore[attr-defined]
