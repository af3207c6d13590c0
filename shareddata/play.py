"""Play a recording of a serial line into a pseudo-terminal, so that a handler reads it as it would read the device.

It knows pseudo-terminals and time; it must not know records, servers or what the bytes mean. Invariants:

1. Nothing is played before somebody has opened the line, and then after a moment of silence: who opens a serial port
   throws away what came before.
2. The bytes keep the line's pace (8N1: ten bits a byte) on an absolute schedule. A reader that is slower slows the play
   down; it loses nothing. While nobody has the line open the bytes are lost, as on a real cable.
3. The end comes after the reader has taken all, because closing a pseudo-terminal throws away what is on its way.
"""

import array
import errno
import fcntl
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Self

import plac

BITS_PER_BYTE = 10
"""A start bit, eight bits, a stop bit."""

_SETTLE = 0.1
_SLICE = 0.01


class Player:
    """A pseudo-terminal with a recording behind it.

    Args:
        link: a symbolic link to be made to the terminal, so that it has a name that stays the same. One that a player
            left there is replaced, nothing else.

    Raises:
        OSError: the link cannot be made, or something else is there.

    Attributes:
        device: the path that a handler opens (`-s`).

    Example:
        >>> with Player() as player:                                        # doctest: +SKIP
        ...     print(player.device)
        ...     player.play(Path("bvm702.dump").read_bytes(), baudrate=19200)
    """

    def __init__(self, link: str | None = None) -> None:
        self._master, slave = os.openpty()
        try:
            self.device = os.ttyname(slave)
            tty.setraw(slave)
            os.set_blocking(self._master, False)
        finally:
            os.close(slave)  # from now on the master is told whether anybody has the line open
        self._poll = select.poll()
        self._poll.register(self._master, select.POLLOUT)
        self._link = Path(link) if link else None
        if self._link:
            try:
                self._make_link(self._link)
            except BaseException:
                os.close(self._master)
                raise

    def _make_link(self, link: Path) -> None:
        is_a_players = link.is_symlink() and Path(os.readlink(link)).parent == Path(self.device).parent
        if os.path.lexists(link) and not is_a_players:
            raise FileExistsError(f"{link}: something is there that no player made: give another name to --link")
        beside = link.with_name(f".{link.name}.{os.getpid()}")
        beside.symlink_to(self.device)
        beside.replace(link)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Pull the cable: readers see the end of the line, the link is removed."""
        if self._link and self._link.is_symlink() and os.readlink(self._link) == self.device:
            self._link.unlink()
        os.close(self._master)

    def is_open(self) -> bool:
        """Tell whether anybody has the line open."""
        return not any(event & select.POLLHUP for _, event in self._poll.poll(0))

    def wait_until_open(self) -> None:
        """Wait until somebody has opened the line, and a moment more."""
        while not self.is_open():
            time.sleep(_SLICE)
        time.sleep(_SETTLE)

    def play(
        self, data: bytes, baudrate: int, speed: float = 1.0, progress: Callable[[int], None] = lambda played: None
    ) -> None:
        """Send the bytes at the line's pace; return when all are on their way.

        Args:
            data: the recording.
            baudrate: bits per second.
            speed: 1 for the line's own pace, 10 for ten times as fast, 0 for as fast as the reader takes it.
            progress: called with the number of bytes played so far.
        """
        rate = baudrate / BITS_PER_BYTE * speed
        size = max(1, int(rate * _SLICE)) if rate else 4096
        begin = time.monotonic()
        for start in range(0, len(data), size):
            begin += self._send(data[start : start + size])
            progress(min(start + size, len(data)))
            if rate:
                time.sleep(max(0.0, begin + (start + size) / rate - time.monotonic()))

    def drain(self) -> None:
        """Wait until the reader has taken all that is on its way, or has closed the line."""
        empty = 0
        while self.is_open() and empty < 3:  # what was just written is not counted at once
            time.sleep(_SLICE)
            empty = 0 if self._unread() else empty + 1

    def _send(self, data: bytes) -> float:
        """Send all, or lose it when nobody has the line open; return for how many seconds the reader held it up."""
        begin = time.monotonic()
        held = 0.0
        while data and self.is_open():
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                self._poll.poll(100)
                held = time.monotonic() - begin
            except OSError as error:
                if error.errno != errno.EIO:  # EIO: closed in this moment
                    raise
        return held

    def _unread(self) -> int:
        """Return how many bytes wait to be read."""
        slave = os.open(self.device, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            count = array.array("i", [0])
            fcntl.ioctl(slave, termios.FIONREAD, count)
            return count[0]
        finally:
            os.close(slave)


def _progress(recording: str, total: int) -> Callable[[int], None]:
    """Return what shows the progress on a terminal, and nowhere else."""

    def show(played: int) -> None:
        sys.stderr.write(f"\r{recording}: {played} of {total} bytes, {100 * played // total} %\033[K")
        sys.stderr.flush()

    return show if total and sys.stderr.isatty() else lambda played: None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@plac.annotations(  # type: ignore[untyped-decorator]
    recording=("The recording: the bytes as they came from the line", "positional", None, str, None, "FILE"),
    baudrate=("The line's speed in bits per second", "option", "b", int),
    speed=("How many times faster than the line; 0: as fast as it is read", "option", "s", float, None, "1"),
    loop=("Begin again at the end, until stopped", "flag", "o"),
    link=("Make this symbolic link to the pseudo-terminal", "option", "l", str, None, "PATH"),
)
def play(
    recording: str, baudrate: int = 19200, speed: float = 1.0, loop: bool = False, link: str | None = None
) -> None:
    """Play a recording into a pseudo-terminal, whose path is printed first: give it to a handler's -s."""
    if baudrate <= 0 or speed < 0:
        plac.parser_from(play).error("the baud rate must be positive, the speed not negative")
    data = Path(recording).read_bytes()
    progress = _progress(recording, len(data))
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with Player(link) as player:
            sys.stdout.write(player.device + "\n")
            sys.stdout.flush()
            player.wait_until_open()
            player.play(data, baudrate, speed, progress)
            while loop and data:
                player.play(data, baudrate, speed, progress)
            player.drain()
    except KeyboardInterrupt:
        pass  # the way to stop it: the cable is pulled, the link removed
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def main(arglist: list[str] | None = None) -> None:
    """Play as the command line says; exit 1 with one line when the recording or the link cannot be used."""
    try:
        plac.call(play, arglist)
    except OSError as error:
        sys.exit(f"play: {error}")


if __name__ == "__main__":
    main()
