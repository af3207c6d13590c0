"""Serial lines: bytes from a device become whole, checked frames, and what is damaged is counted.

It knows byte framing (VE.Direct, NMEA 0183) and how to open, read and reopen a line; it must not know records, servers
or what the frames mean. pyserial is imported when a line needs it, not before. Invariants:

1. A framer does no I/O. What it returns passed the frame's own checksum, and is a piece of what was fed to it.
2. Damage is dropped whole and counted in `dropped`; a framer never raises and never holds more than a few KiB.
3. After damage a framer is in step again at the next frame that begins undamaged.
4. A line that goes away (an unplugged cable, a device that vanished) is not an error: it is logged once, opened again
   with back-off, and logged when bytes come again. What must be mended by hand (pyserial is missing) raises.
5. Reading returns within its time-out, so that a loop around it can be stopped.

A framer for another protocol is any object with `feed(data)`, `reset()` and `dropped`: docs/howto/write-a-handler.md.
"""

import errno
import fcntl
import logging
import os
import re
import select
import stat
import termios
import time
import tty
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from shareddata.errors import SharedDataError

T = TypeVar("T")

log = logging.getLogger("shareddata")

FIRST_RETRY = 0.1
LAST_RETRY = 2.0
"""Seconds between attempts to open a line that went away: the first, doubled each time up to the last."""

_CHUNK = 4096
_WRITE_TIMEOUT = 1.0


class Framer(Protocol[T]):
    """What a SerialLine needs to know of a protocol.

    Attributes:
        dropped: how many damaged frames and pieces of noise were thrown away.
    """

    dropped: int

    def feed(self, data: bytes) -> list[T]:
        """Take bytes as they come, in pieces of any size, and return the frames that they complete."""
        ...

    def reset(self) -> None:
        """Forget a frame that was begun: the line was interrupted."""
        ...


class VEDirect:
    r"""Frame VE.Direct text blocks (Victron's battery monitors, solar chargers, inverters).

    A frame is a dictionary of the block's labels and values, in order, both as text: `{"V": "12065", "I": "-7625"}`.

    A block is `\r\n<label>\t<value>` for each field, the last being `Checksum` with one byte that makes the sum of all
    bytes of the block a multiple of 256. Frames of the HEX protocol (`:`, hexadecimal digits, `\n`) may stand anywhere
    but before the checksum byte; they belong neither to the block nor to its sum, and are left out.

    The sum detects each wrong, lost or additional byte; of other damage it lets 1 in 256 through. Blocks that are not
    made of printable fields, or have a label twice, are damaged too. Out of step (at the start, or after damage) only a
    block that begins with a first field (`PID` or `H1`) is believed: the rest of a block is not a block.

    Attributes:
        dropped: how many damaged blocks were thrown away; one that was seen only in part at the start counts.
    """

    LONGEST = 2048
    """Bytes: Victron's longest blocks have 22 fields of at most 44 bytes."""

    _PIECE = re.compile(rb"\r\nChecksum\t(.)|:[0-9A-F]{3,}\n", re.DOTALL)
    _FIELD = re.compile(rb"([!-~]{1,16})\t([ -~]{0,64})")
    _FIRST = re.compile(rb"\r\n(?:PID|H1)\t")

    def __init__(self) -> None:
        self.dropped = 0
        self._pending = bytearray()
        self._in_step = False

    def feed(self, data: bytes) -> list[dict[str, str]]:
        """Return the blocks that these bytes complete; what is damaged is dropped and counted."""
        blocks = []
        self._pending += data
        while piece := self._PIECE.search(self._pending):
            start, end = piece.span()  # asked before the buffer changes, which the match looks into
            if piece[1] is None:
                del self._pending[start:end]  # a HEX frame
                continue
            block = bytes(self._pending[:end])
            del self._pending[:end]
            fields = self._fields(block)
            self._in_step = fields is not None
            if fields is not None:
                blocks.append(fields)
                continue
            self.dropped += 1
            if block.endswith(b"\r"):
                self._pending[:0] = b"\r"  # where the checksum byte was lost, this one begins the next block
        if len(self._pending) > self.LONGEST:
            self.reset()
        return blocks

    def reset(self) -> None:
        """Forget a block that was begun; it counts as dropped."""
        self.dropped += bool(self._pending)
        self._pending.clear()
        self._in_step = False

    def _fields(self, block: bytes) -> dict[str, str] | None:
        """Return the fields of the block that ends here, None when it is damaged."""
        starts = [first.start() for first in self._FIRST.finditer(block)]
        if self._in_step and 0 not in starts:
            starts.insert(0, 0)
        for start in starts:
            if fields := self._checked(block[start:]):
                self.dropped += start > 0  # what stood before: a block whose beginning or end was lost, or noise
                return fields
        return None

    def _checked(self, block: bytes) -> dict[str, str] | None:
        """Return the fields of a block if its sum and its form are right."""
        if sum(block) % 256:
            return None
        before, *lines = block[: -len(b"\r\nChecksum\t?")].split(b"\r\n")
        matches = [self._FIELD.fullmatch(line) for line in lines]
        fields = {match[1].decode(): match[2].decode() for match in matches if match}
        return fields if not before and len(fields) == len(lines) else None


class NMEA:
    r"""Frame NMEA 0183 sentences (GNSS receivers, echo sounders, compasses, AIS).

    A frame is the sentence's fields as text, the first with its `$` or `!`, without the checksum:
    `["$SDDBT", "7.7", "f", "2.3", "M", "1.3", "F"]`.

    A sentence is `$` or `!`, an address (`GPGGA`, or `P` and a manufacturer's own), fields of printable characters,
    `*`, the exclusive-or of address and fields as two hexadecimal digits, and `\r\n` (a plain `\n` is taken too). A
    line that is anything else is dropped and counted: binary data, a wrong checksum, and also a line without a
    checksum, which may be damaged for all we know. Noise in front of a whole sentence on its line counts one too, and
    the sentence is taken. The checksum detects each wrong byte; of other damage it lets 1 in 256 through.

    Attributes:
        dropped: how many damaged lines and pieces of noise were thrown away; empty lines do not count.
    """

    LONGEST = 1024
    """Bytes in a line: the standard allows 82, receivers send up to 500."""

    _SENTENCE = re.compile(
        rb"[$!]((?:[A-Z]{2}[A-Z0-9]{3}|P[A-Z0-9]{3,})(?:,[^$!*\x00-\x1f\x7f-\xff]*)?)\*([0-9A-Fa-f]{2})\Z"
    )

    def __init__(self) -> None:
        self.dropped = 0
        self._pending = b""

    def feed(self, data: bytes) -> list[list[str]]:
        """Return the sentences that these bytes complete; what is damaged is dropped and counted."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        sentences = [fields for line in lines if (fields := self._fields(line.removesuffix(b"\r")))]
        if len(self._pending) > self.LONGEST:
            self.reset()
        return sentences

    def reset(self) -> None:
        """Forget a sentence that was begun; it counts as dropped."""
        self.dropped += bool(self._pending)
        self._pending = b""

    def _fields(self, line: bytes) -> list[str] | None:
        """Return the fields of the sentence at the end of a line, None when there is none."""
        if not line:
            return None
        found = self._SENTENCE.search(line)
        if found is None or _exclusive_or(found[1]) != int(found[2], 16):
            self.dropped += 1
            return None
        self.dropped += found.start() > 0
        return line[found.start() : found.end(1)].decode().split(",")


def _exclusive_or(data: bytes) -> int:
    result = 0
    for byte in data:
        result ^= byte
    return result


class _Port(Protocol):
    """An open line: reading never blocks, and a line that went away raises OSError."""

    def wait(self, timeout: float) -> bool:
        """Wait until something can be read, at most so many seconds."""
        ...

    def read(self) -> bytes:
        """Return what is there, empty when there is nothing."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of this."""
        ...

    def close(self) -> None:
        """Let go of the line."""
        ...


class _Descriptor:
    """A pseudo-terminal, FIFO or regular file. What was sent before it was opened is read, too."""

    def __init__(self, path: str, mode: int) -> None:
        self.regular = stat.S_ISREG(mode)
        self.at_end = False
        access = os.O_RDWR if stat.S_ISCHR(mode) else os.O_RDONLY
        self.fd = os.open(path, access | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            if os.isatty(self.fd):
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tty.setraw(self.fd, termios.TCSANOW)
        except BaseException:
            os.close(self.fd)
            raise

    def wait(self, timeout: float) -> bool:
        if self.at_end:  # the end of a file is always readable; more may be appended
            time.sleep(timeout)
        return bool(select.select([self.fd], [], [], timeout)[0])

    def read(self) -> bytes:
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return b""
        self.at_end = self.regular and not data
        if not data and not self.regular:
            raise OSError(errno.EIO, "the other end was closed")
        return data

    def write(self, data: bytes) -> None:
        while data:
            if not select.select([], [self.fd], [], _WRITE_TIMEOUT)[1]:
                raise OSError(errno.EAGAIN, f"it took nothing for {_WRITE_TIMEOUT} s")
            data = data[os.write(self.fd, data) :]

    def close(self) -> None:
        os.close(self.fd)


class _Pyserial:
    """A serial port, or a URL of pyserial's: `socket://host:port`, `rfc2217://host:port`."""

    def __init__(self, device: str, baudrate: int) -> None:
        import serial

        # Exclusive, as in _Descriptor: a second program on the same port would get every other byte.
        exclusive = None if "://" in device else True
        self.port: Any = serial.serial_for_url(
            device, baudrate=baudrate, timeout=0, write_timeout=_WRITE_TIMEOUT, exclusive=exclusive
        )
        try:
            self.fd: int | None = self.port.fileno()
        except (AttributeError, OSError):  # rfc2217:// reads in a thread and has no descriptor
            self.fd = None

    def wait(self, timeout: float) -> bool:
        if self.fd is not None:
            return bool(select.select([self.fd], [], [], timeout)[0])
        deadline = time.monotonic() + timeout
        while not self.port.in_waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(self.port.in_waiting)

    def read(self) -> bytes:
        data = b""
        while len(data) < _CHUNK and (more := self.port.read(_CHUNK)):  # rfc2217:// gives one byte at a time
            data += more
            if self.fd is not None:
                break
        return data

    def write(self, data: bytes) -> None:
        self.port.write(data)

    def close(self) -> None:
        self.port.close()


def _is_pseudo_terminal(path: str) -> bool:
    return re.match(r"/dev/(pts/|ttys)\d", os.path.realpath(path)) is not None


def _open_port(device: str, baudrate: int) -> _Port:
    """Open a line by what it is.

    Raises:
        OSError: it is not there, or may not be opened.
        ModuleNotFoundError: it needs pyserial, which is not installed.
        SharedDataError: it never can be: pyserial knows no such address, or no such speed.
    """
    mode = 0 if "://" in device else os.stat(device).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or _is_pseudo_terminal(device):
        return _Descriptor(device, mode)
    try:
        return _Pyserial(device, baudrate)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{device} is a serial port, and reading one needs pyserial: pip install 'shareddata[hardware]'"
        ) from None
    except ValueError as error:
        raise SharedDataError(f"{device}, {baudrate} baud: no line can be opened so: {error}") from None
    except termios.error as error:  # not an OSError; pyserial lets it through when a device goes while it is opened
        raise OSError(*error.args) from error


class SerialLine(Generic[T]):
    """A device on a serial line, read as whole frames; it outlives an unplugged cable.

    Nothing is opened before the first call of `frames` or `send`. A line belongs to one thread at a time.

    Args:
        device: the path of a serial port, pseudo-terminal, FIFO or file, or a URL of pyserial's (`socket://host:port`,
            `rfc2217://host:port`).
        framer: makes frames of the bytes.
        baudrate: bits per second, 8N1.

    Attributes:
        connected: whether the line is open.

    Example:
        >>> with SerialLine("/dev/ttyUSB0", VEDirect(), 19200) as line:          # doctest: +SKIP
        ...     while running:
        ...         for block in line.frames(timeout=0.2):
        ...             print(block["V"])
    """

    def __init__(self, device: str, framer: Framer[T], baudrate: int = 9600) -> None:
        self.device = device
        self.framer = framer
        self.baudrate = baudrate
        self._port: _Port | None = None
        self._retry_in = FIRST_RETRY
        self._retry_at = 0.0
        self._lost_at: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether the line is open."""
        return self._port is not None

    @property
    def dropped(self) -> int:
        """How many damaged frames were thrown away since the start."""
        return self.framer.dropped

    def frames(self, timeout: float) -> list[T]:
        """Wait for bytes and return the frames that they complete, in the order of their arrival.

        A line that is away gives no frames; it is opened again with back-off. Returns as soon as there are bytes, which
        need not complete a frame.

        Args:
            timeout: seconds to wait at most.

        Raises:
            ModuleNotFoundError: the line needs pyserial, which is not installed.

        Redis: none.
        """
        deadline = time.monotonic() + timeout
        if self._port is None and not self._open(deadline):
            return []
        port = cast(_Port, self._port)
        try:
            data = port.read() if port.wait(max(0.0, deadline - time.monotonic())) else b""
        except (OSError, termios.error) as error:
            self._lose(error)
            return []
        if data and self._lost_at is not None:
            log.info("%s is back after %.1f s", self.device, time.monotonic() - self._lost_at)
            self._lost_at = None
        if data:
            self._retry_in = FIRST_RETRY
        return self.framer.feed(data)

    def send(self, data: bytes) -> bool:
        """Send bytes to the device; return False when the line is away or went away, so that not all arrived.

        Redis: none.
        """
        if self._port is None and not self._open(time.monotonic()):
            return False
        try:
            cast(_Port, self._port).write(data)
        except (OSError, termios.error) as error:
            self._lose(error)
            return False
        return True

    def close(self) -> None:
        """Let go of the line; it may be used again, and is then opened anew.

        Redis: none.
        """
        if self._port is not None:
            port, self._port = self._port, None
            try:
                port.close()
            except (OSError, termios.error) as error:
                log.debug("%s: closing a line that went away: %s", self.device, error)

    def _open(self, deadline: float) -> bool:
        """Try to open the line when its time has come; wait for that time, at most to the deadline."""
        now = time.monotonic()
        if self._retry_at > now:
            time.sleep(max(0.0, min(self._retry_at, deadline) - now))
            if time.monotonic() < self._retry_at:
                return False
        try:
            self._port = _open_port(self.device, self.baudrate)
        except OSError as error:
            self._lose(error)
            return False
        log.debug("%s is open", self.device)
        return True

    def _lose(self, error: Exception) -> None:
        """Let go of a line that went away; say so the first time."""
        if self._lost_at is None:
            log.warning("%s: no line (%s); trying again until it is there", self.device, error)
            self._lost_at = time.monotonic()
        self.close()
        self.framer.reset()
        self._retry_at = time.monotonic() + self._retry_in
        self._retry_in = min(2 * self._retry_in, LAST_RETRY)
