"""A serial line: a pseudo-terminal, a FIFO, a file; unplugged and plugged in again; with pyserial and without."""

import logging
import os
import pty
import socket
import sys
import threading
import time
import tty

import pytest

from shareddata import SharedDataError, serialline
from shareddata.serialline import NMEA, SerialLine

SENTENCE = b"$GPHDT,274.07,T*03\r\n"
FRAME = ["$GPHDT", "274.07", "T"]


class Cable:
    """A pseudo-terminal under a name that stays: plugged in, and pulled."""

    def __init__(self, link):
        self.link = link
        self.master = None

    def plug(self):
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.link.symlink_to(os.ttyname(slave))
        os.close(slave)

    def send(self, data):
        os.write(self.master, data)

    def pull(self):
        self.link.unlink(missing_ok=True)  # else it may soon lead to somebody else's terminal
        if self.master is not None:
            os.close(self.master)
            self.master = None


@pytest.fixture
def cable(tmp_path):
    cable = Cable(tmp_path / "tty")
    cable.plug()
    yield cable
    cable.pull()


@pytest.fixture(params=["pyserial", "plain"])
def with_and_without_pyserial(request, monkeypatch):
    """A pseudo-terminal needs no pyserial; here it is also read as a real port would be."""
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "serial", None)
    else:
        monkeypatch.setattr(serialline, "_is_pseudo_terminal", lambda path: False)


@pytest.fixture
def line(cable):
    with SerialLine(str(cable.link), NMEA(), 4800) as line:
        yield line


def messages(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "shareddata"]


@pytest.mark.usefixtures("with_and_without_pyserial")
def test_frames_come_as_they_arrive(cable, line, eventually):
    assert line.frames(0.01) == []
    assert line.connected
    cable.send(SENTENCE + SENTENCE + SENTENCE[:7])
    assert eventually(lambda: line.frames(0.1)) == [FRAME, FRAME]
    cable.send(SENTENCE[7:])
    assert eventually(lambda: line.frames(0.1)) == [FRAME]
    assert line.dropped == 0


@pytest.mark.usefixtures("with_and_without_pyserial")
def test_what_is_sent_reaches_the_device(cable, line):
    assert line.send(b":154\n")
    assert os.read(cable.master, 100) == b":154\n"


@pytest.mark.usefixtures("with_and_without_pyserial")
def test_a_pulled_cable_is_said_once_and_the_line_is_back_when_bytes_come(cable, line, eventually, caplog):
    caplog.set_level(logging.INFO)
    line.frames(0.01)
    cable.send(SENTENCE[:5])
    eventually(lambda: line.frames(0.05) or line.framer._pending)
    cable.pull()
    for _ in range(5):
        assert line.frames(0.2) == []
    assert not line.connected
    assert not line.send(b"hello")
    assert line.dropped == 1, "the sentence that was begun"
    cable.plug()
    eventually(lambda: line.frames(0.05) or line.connected)
    cable.send(SENTENCE)
    assert eventually(lambda: line.frames(0.1)) == [FRAME]
    (lost, text), (back, said) = messages(caplog)
    assert (lost, back) == ("WARNING", "INFO")
    assert "no line" in text
    assert "is back after" in said


def test_a_device_that_is_not_there_is_waited_for(tmp_path, caplog, eventually):
    path = tmp_path / "ttyUSB0"
    with SerialLine(str(path), NMEA()) as line:
        begin = time.monotonic()
        assert line.frames(0.05) == []
        assert time.monotonic() - begin < 1
        path.write_bytes(SENTENCE)
        assert eventually(lambda: line.frames(0.2)) == [FRAME]
    assert [text for _, text in messages(caplog)] == [
        f"{path}: no line ([Errno 2] No such file or directory: '{path}'); trying again until it is there"
    ]


def test_attempts_to_open_come_less_and_less_often(tmp_path, monkeypatch):
    tried = []

    def refuse(device, baudrate):
        tried.append(now[0])
        raise OSError("not there")

    now = [0.0]
    monkeypatch.setattr(serialline, "_open_port", refuse)
    monkeypatch.setattr(serialline.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(serialline.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    line = SerialLine("tty", NMEA())
    while now[0] < 20:
        line.frames(0.25)
    gaps = [round(after - before, 6) for before, after in zip(tried, tried[1:])]
    assert gaps[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert set(gaps[5:]) == {2.0}


def test_a_file_is_a_line_that_falls_silent(tmp_path):
    path = tmp_path / "recording.log"
    path.write_bytes(SENTENCE * 3)
    with SerialLine(str(path), NMEA()) as line:
        assert line.frames(0.1) == [FRAME] * 3
        assert line.frames(0.01) == []
        with path.open("ab") as file:
            file.write(SENTENCE)
        assert line.frames(0.1) == [FRAME]
        assert line.connected


def test_a_fifo_is_a_line_that_is_unplugged_when_the_writer_leaves(tmp_path, eventually):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with SerialLine(str(path), NMEA()) as line:
        assert line.frames(0.01) == []
        for _ in range(2):
            writer = os.open(path, os.O_WRONLY)
            os.write(writer, SENTENCE)
            assert eventually(lambda: line.frames(0.1)) == [FRAME]
            os.close(writer)
            eventually(lambda: line.frames(0.1) or line.connected)


def test_a_socket_is_a_line_too(eventually):
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []
        thread = threading.Thread(target=lambda: accepted.append(server.accept()[0]))
        thread.start()
        with SerialLine(f"socket://127.0.0.1:{server.getsockname()[1]}", NMEA()) as line:
            line.frames(0.01)
            thread.join()
            accepted[0].sendall(SENTENCE)
            assert eventually(lambda: line.frames(0.1)) == [FRAME]
            accepted[0].close()
            eventually(lambda: line.frames(0.05) == [] and not line.connected)


@pytest.mark.parametrize(("device", "baudrate"), [("gopher://robot:1", 9600), ("/dev/null", -5)])
def test_a_line_that_can_never_be_is_an_error(device, baudrate):
    with (
        SerialLine(device, NMEA(), baudrate) as line,
        pytest.raises(SharedDataError, match=f"{device}, {baudrate} baud: no line can be opened so: "),
    ):
        list(line.frames(1))


def test_a_real_port_without_pyserial_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(ModuleNotFoundError, match=r"/dev/tty .*pip install 'shareddata\[hardware\]'"):
        SerialLine("/dev/tty", NMEA()).frames(0.01)  # a terminal that is no pseudo-terminal's name
    with pytest.raises(ModuleNotFoundError, match="needs pyserial"):
        SerialLine("rfc2217://localhost:1", NMEA()).frames(0.01)


@pytest.mark.usefixtures("with_and_without_pyserial")
def test_a_second_program_on_the_line_is_kept_out(cable, line, caplog):
    line.frames(0.01)
    with SerialLine(str(cable.link), NMEA(), 4800) as second:
        second.frames(0.01)
        assert not second.connected
    assert "Resource temporarily unavailable" in caplog.text


def test_what_came_before_a_pseudo_terminal_was_opened_is_read(cable, line, eventually):
    cable.send(SENTENCE)
    assert eventually(lambda: line.frames(0.1)) == [FRAME]


def test_a_line_may_be_closed_twice_and_used_again(cable, line, eventually):
    line.frames(0.01)
    line.close()
    line.close()
    assert not line.connected
    line.frames(0.01)
    cable.send(SENTENCE)
    assert eventually(lambda: line.frames(0.1)) == [FRAME]
