"""A full disk: dead letters elsewhere or, where they can't be written either, a pause. Nothing is lost."""

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archiving import NOTHING, files, waiting
from servers import short_folder
from shareddata import SharedMemory, archive
from shareddata.deadletters import letters
from waiting import eventually

h5py: Any = pytest.importorskip("h5py")

FRAME = 300_000  # bytes


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder that holds 2 MB."""
    folder = short_folder()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def archiver_of(shm: SharedMemory, disk: Path, dead: Path, **options: Any) -> archive.ArrayArchiver:
    template = f"{disk}/frames/{{{{ n }}}}.npy"
    return archive.ArrayArchiver(template, False, "cam", "frame", name="one", dead_letters=dead, shm=shm, **options)


def emit(shm: SharedMemory, first: int, count: int) -> None:
    for number in range(first, first + count):
        archive.emit("cam", "frame", np.full(FRAME, number, "u1"), {"n": number}, shm)


def finished(folder: Path) -> list[str]:
    return [name for name in files(folder) if not name.startswith(".")]


def found(folder: Path) -> dict[int, int]:
    """Return how often each frame is there; each file that has its name is whole."""
    counts: dict[int, int] = {}
    for name in finished(folder):
        array = np.load(folder / name)
        assert array.shape == (FRAME,) and (array == array[0]).all()
        counts[int(array[0])] = counts.get(int(array[0]), 0) + 1
    return counts


def test_dead_letters_elsewhere(
    shm: SharedMemory, small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What has no room is a dead letter; when there is room it goes on, and the letters are tried again."""
    dead = tmp_path / "dead"
    with archiver_of(shm, small_disk, dead, max_retries=1) as archiver:
        emit(shm, 0, 12)
        eventually(lambda: archiver.status.stored + archiver.status.dead == 12, 20, "twelve events")
        assert 4 <= archiver.status.stored <= 6
        eventually(lambda: waiting(shm, "cam", "frame") == NOTHING)
        there = found(small_disk / "frames")
        kept = [int(letter.payload[0]) for _, letter in letters(dead, "one")]
        assert sorted([*there, *kept]) == list(range(12)) and set(there.values()) == {1}
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == len(kept) and all("No space left" in text and "of cam" in text for text in errors)
        for name in files(small_disk / "frames"):
            (small_disk / "frames" / name).unlink()
        emit(shm, 12, 1)
        eventually(lambda: found(small_disk / "frames") == {12: 1}, 10, "the next one")
    for round_ in range(3):
        if kept:
            with archiver_of(shm, small_disk, dead, max_retries=0, subscribe=False) as again:
                again.retry_dead_letters()
            stored = found(small_disk / "frames")
            left = [int(letter.payload[0]) for _, letter in letters(dead, "one")]
            assert sorted([*(number for number in stored if number != 12), *left]) == sorted(kept), round_
            kept = left
            for name in files(small_disk / "frames"):
                (small_disk / "frames" / name).unlink()
    assert kept == []


def test_where_neither_can_be_written(shm: SharedMemory, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It waits, with the events in the stream, and goes on by itself."""
    with archiver_of(shm, small_disk, small_disk / "dead", max_retries=1) as archiver:
        emit(shm, 0, 12)
        eventually(lambda: archiver.status.paused, 20, "the pause")
        before = archiver.status.stored
        assert "No space left" in archiver.status.paused and archiver.status.dead == 0
        assert waiting(shm, "cam", "frame")["events"] >= 12 - before
        moved: dict[int, int] = {}
        while sum(moved.values()) < 12:
            eventually(lambda: len(found(small_disk / "frames")) > 0, 20, "more files")
            for name in finished(small_disk / "frames"):
                array = np.load(small_disk / "frames" / name)
                moved[int(array[0])] = moved.get(int(array[0]), 0) + 1
                (small_disk / "frames" / name).unlink()
        assert moved == dict.fromkeys(range(12), 1)
        eventually(lambda: waiting(shm, "cam", "frame") == NOTHING)
        assert archiver.status.dead == 0 and archiver.status.paused == ""
        assert [text.partition(":")[0] for text in caplog.messages if "archiver one waits" in text]
        assert "archiver one goes on" in caplog.messages
    assert files(small_disk) == []


def test_rows_of_hdf5_files(shm: SharedMemory, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was begun stays readable; what had no room waits, and comes into another file, in order."""
    filler = small_disk / "filler"
    options: dict[str, Any] = {"max_retries": 0, "dead_letters": small_disk / "dead", "name": "one", "shm": shm}
    with archive.Hdf5Archiver(f"{small_disk}/a.h5", False, "cam", "frame", **options) as archiver:
        emit(shm, 0, 1)
        eventually(lambda: archiver.status.stored == 1, 10, "the first row")
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(b"x" * 3_000_000)
        emit(shm, 1, 2)
        eventually(lambda: archiver.status.paused, 20, "the pause")
        filler.unlink()
        eventually(lambda: archiver.status.stored == 3, 20, "the rest")
    rows = []
    for name in sorted(files(small_disk)):
        with h5py.File(small_disk / name) as file:
            data = file["entry/data/data"][:]
            assert (data == data[:, :1]).all()
            rows += data[:, 0].tolist()
    assert rows == [0, 1, 2] and archiver.status.dead == 0


def test_stopped_while_it_waits(shm: SharedMemory, small_disk: Path) -> None:
    """The stop does not wait for room; the next start has everything."""
    with archiver_of(shm, small_disk, small_disk / "dead", max_retries=0) as archiver:
        emit(shm, 0, 10)
        eventually(lambda: archiver.status.paused, 20, "the pause")
    stored = found(small_disk / "frames")
    assert waiting(shm, "cam", "frame")["events"] == 10 - len(stored)
    for name in files(small_disk / "frames"):
        (small_disk / "frames" / name).unlink()
    with archiver_of(shm, small_disk, small_disk / "dead", max_retries=0) as archiver:
        eventually(lambda: archiver.status.stored == 10 - len(stored), 20, "the rest")
    assert sorted([*stored, *found(small_disk / "frames")]) == list(range(10))
