"""A recording is played into a pseudo-terminal: whole, at the line's pace, to whoever opens it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shareddata.play import Player
from shareddata.serialline import SerialLine, VEDirect

ROOT = Path(__file__).resolve().parents[2]
RECORDING = ROOT / "tests" / "data" / "victron-vedirect" / "bvm702.dump"


class Bytes:
    """A framer that takes every byte."""

    dropped = 0

    def feed(self, data):
        return [data] if data else []

    def reset(self):
        pass


def played(player, path, until=None):
    """Read the line until the player ends, or so many bytes came."""
    data = b""
    with SerialLine(str(path), Bytes(), 19200) as line:
        while player.process.poll() is None and (until is None or len(data) < until):
            data += b"".join(line.frames(0.05))
    return data


def test_a_recording_arrives_whole(start, tmp_path, eventually):
    player = start("scripts/play", RECORDING, "--speed", 0, "--link", tmp_path / "tty")
    eventually((tmp_path / "tty").is_symlink)
    eventually(lambda: player.log().strip() == os.readlink(tmp_path / "tty"))
    assert played(player, tmp_path / "tty") == RECORDING.read_bytes()
    assert player.process.wait(5) == 0
    assert not (tmp_path / "tty").is_symlink()


def test_the_pace_is_that_of_the_line(start, tmp_path, eventually):
    part = tmp_path / "part"
    part.write_bytes(RECORDING.read_bytes()[:3840])  # 2 s at 19200 bits/s
    player = start("scripts/play", part, "--speed", 4, "--link", tmp_path / "tty")
    eventually((tmp_path / "tty").is_symlink)
    begin = time.monotonic()
    assert played(player, tmp_path / "tty") == part.read_bytes()
    assert 0.5 <= time.monotonic() - begin < 2.0


def test_it_begins_again_until_it_is_stopped(start, tmp_path, eventually):
    part = tmp_path / "part"
    part.write_bytes(b"0123456789")
    player = start("scripts/play", part, "--loop", "--speed", 0, "--link", tmp_path / "tty")
    eventually((tmp_path / "tty").is_symlink)
    data = played(player, tmp_path / "tty", until=1000)
    assert data == (b"0123456789" * len(data))[: len(data)]
    assert player.end(signal.SIGINT) == 0
    assert not (tmp_path / "tty").is_symlink()
    assert "Traceback" not in player.log()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_while_nobody_reads(start, tmp_path, eventually, number):
    player = start("scripts/play", RECORDING, "--link", tmp_path / "tty")
    eventually((tmp_path / "tty").is_symlink)
    assert player.end(number) == 0
    assert not (tmp_path / "tty").is_symlink()
    assert "Traceback" not in player.log()


def test_while_nobody_has_the_line_open_the_bytes_are_lost():
    with Player() as player:
        assert not player.is_open()
        player.play(b"lost", 19200, 0)
        slave = os.open(player.device, os.O_RDWR | os.O_NOCTTY)
        assert player.is_open()
        player.play(b"heard", 19200, 0)
        assert os.read(slave, 100) == b"heard"
        os.close(slave)


def test_a_link_that_points_elsewhere_meanwhile_is_left_alone(tmp_path):
    link = tmp_path / "tty"
    with Player(str(link)), Player(str(link)) as second:
        assert os.readlink(link) == second.device
    assert not link.is_symlink()


@pytest.mark.parametrize("there", ["a file", "a link"])
def test_what_no_player_made_is_not_replaced(tmp_path, there):
    """A name that was typed wrongly would cost a file."""
    precious, link = tmp_path / "precious", tmp_path / "tty"
    precious.write_text("precious")
    link.symlink_to(precious) if there == "a link" else precious.rename(link)
    with pytest.raises(FileExistsError, match="tty: something is there that no player made: give another name"):
        Player(str(link))
    assert link.read_text() == "precious" and len(list(tmp_path.iterdir())) == (2 if there == "a link" else 1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["/nowhere/recording"], 1, "play: [Errno 2] No such file or directory: '/nowhere/recording'"),
        ([str(RECORDING), "--speed", "-1"], 2, "the baud rate must be positive, the speed not negative"),
        ([str(RECORDING), "--baudrate", "0"], 2, "the baud rate must be positive, the speed not negative"),
        ([], 2, "the following arguments are required: FILE"),
    ],
)
def test_wrong_usage_is_one_line(arguments, code, message):
    command = [sys.executable, "-m", "shareddata.play", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert ended.returncode == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_blocks_come_through_a_line_at_a_hundred_times_its_pace(start, tmp_path, eventually):
    player = start("scripts/play", RECORDING, "--speed", 100, "--link", tmp_path / "tty")
    eventually((tmp_path / "tty").is_symlink)
    blocks = 0
    with SerialLine(str(tmp_path / "tty"), VEDirect(), 19200) as line:
        while player.process.poll() is None:
            blocks += len(line.frames(0.05))
    assert (blocks, line.dropped) == (906, 1)  # the recording ends in the middle of a block
