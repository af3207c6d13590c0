"""Whole files: what is there under a name is whole and nobody else's, on file systems with and without hard links."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shareddata.errors import TemplateError
from shareddata.wholefile import Draft, numbered


@pytest.fixture(params=["links", "no links"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder on a file system with hard links, or without."""
    if request.param == "no links":

        def link(*_: Any, **__: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
    return tmp_path


def draft(disk: Path, content: bytes = b"new", again: bool = False) -> Draft:
    return Draft(str(disk), str(disk / "a.txt"), lambda file: file.write(content), "owner", again)


def test_a_file_gets_its_name(disk: Path) -> None:
    path = str(disk / "a.txt")
    with draft(disk) as whole:
        assert not whole.exists(path) and os.listdir(disk) != ["a.txt"]
        assert whole.publish(path, noted=False)
        assert whole.exists(path)
    assert os.listdir(disk) == ["a.txt"] and Path(path).read_bytes() == b"new"


@pytest.mark.parametrize(
    ("there", "noted", "expected"),
    [
        *((b"mine", False, False), (b"mine", True, False), (b"new", False, False), (b"new", True, True)),
        *((b"ne", True, False), (b"news", True, False), (b"", False, False)),
    ],
)
def test_what_is_there_is_not_written_over(disk: Path, there: bytes, noted: bool, expected: bool) -> None:
    """But it is the file itself, when it was noted and is the same."""
    (disk / "a.txt").write_bytes(there)
    with draft(disk) as whole:
        assert whole.publish(str(disk / "a.txt"), noted) is expected
    assert (disk / "a.txt").read_bytes() == there and os.listdir(disk) == ["a.txt"]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_what_is_there_is_no_file(disk: Path, make: Callable[[Path], object]) -> None:
    make(disk / "a.txt")
    with draft(disk) as whole:
        assert not whole.publish(str(disk / "a.txt"), noted=True)
    assert os.listdir(disk) == ["a.txt"]


def test_an_empty_file_that_was_noted(disk: Path) -> None:
    """Without hard links it is what a killed program took its name with."""
    (disk / "a.txt").write_bytes(b"")
    with draft(disk) as whole:
        done = whole.publish(str(disk / "a.txt"), noted=True)
    assert (disk / "a.txt").read_bytes() == (b"new" if done else b"")


def test_what_fails_leaves_nothing(disk: Path) -> None:
    def fail(file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Draft(str(disk), str(disk / "a.txt"), fail, "owner")
    assert os.listdir(disk) == []


def test_what_a_killed_program_left(tmp_path: Path) -> None:
    """It is removed for the same owner; what a living one writes is not."""
    code = f"""
import os, signal
from shareddata.wholefile import Draft
Draft({str(tmp_path)!r}, {str(tmp_path / "a.txt")!r}, lambda file: os.kill(os.getpid(), signal.SIGKILL), "owner")
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (left,) = os.listdir(tmp_path)
    with draft(tmp_path) as living:
        with draft(tmp_path, again=True):
            assert left not in os.listdir(tmp_path) and len(os.listdir(tmp_path)) == 2
        assert len(os.listdir(tmp_path)) == 1
        assert living.publish(str(tmp_path / "a.txt"), noted=False)


def test_folders_are_made_below_the_root(tmp_path: Path) -> None:
    path = tmp_path / "root" / "b" / "c" / "a.txt"
    with Draft(str(tmp_path / "root"), str(path), lambda file: file.write(b"x"), "owner") as whole:
        assert whole.publish(str(path), noted=False)
    assert path.read_bytes() == b"x"
    with pytest.raises(OSError, match="Not a directory"):
        Draft(str(tmp_path), str(path / "d" / "e.txt"), lambda file: None, "owner")


def test_links_that_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name, target in {"up": "..", "out": "/", "here": str(root), "loop": "loop"}.items():
        (root / name).symlink_to(target)
    for name in ("up", "out", "loop"):
        with pytest.raises(TemplateError, match=f"{name}: .*(leads out of|too many symbolic links)"):
            Draft(str(root), str(root / name / "a.txt"), lambda file: None, "owner")
    with Draft(str(root), str(root / "here" / "a.txt"), lambda file: None, "owner") as whole:
        assert whole.publish(str(root / "here" / "a.txt"), noted=False)
    assert (root / "a.txt").exists()


def test_numbers() -> None:
    names = numbered("/d/a.b.npy")
    assert [next(names) for _ in range(3)] == ["/d/a.b.npy", "/d/a.b_2.npy", "/d/a.b_3.npy"]
    assert next(numbered("/d/a", 7)) == "/d/a_7"
