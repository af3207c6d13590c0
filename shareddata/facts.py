"""What a server tells of itself, and what a doctor finds.

It knows how INFO, CONFIG and ACL are asked and answered, and the form of a finding. It must not know what is right or
wrong (`serverhealth`, `datahealth`). Invariants:

1. Asking changes nothing on the server.
2. What this user may not ask is None, never a guess.
"""

import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from shareddata.connection import Connection
from shareddata.errors import ServerRefused, ServerSetupError
from shareddata.memory import SharedMemory

OK, NOTE, WRONG, UNKNOWN = "ok", "note", "wrong", "unknown"
"""As it should be; worth knowing; to be mended; this user may not ask."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    subject: str
    """What was looked at, in a word."""
    verdict: str
    """`OK`, `NOTE`, `WRONG` or `UNKNOWN`."""
    text: str
    """What was found, in plain words."""
    remedy: str = ""
    """The command that mends it."""


class Facts:
    """What one server tells.

    Args:
        shm: the shared memory; its server is asked.

    Attributes:
        shm: the same.
        connection: of this look; a context manager closes it.
        info: what INFO says, None where it is refused.
        config: what CONFIG GET says, None where it is refused.
        user: who this program is to the server.

    Redis: INFO, CONFIG GET, ACL WHOAMI.
    """

    def __init__(self, shm: SharedMemory) -> None:
        self.shm = shm
        self.connection: Connection = shm.connect("shareddata doctor")
        try:
            self.info = self.ask(_pairs_of_lines, "INFO")
            self.config = self.ask(_texts, "CONFIG", "GET", "*")
            self.user = self.ask(_text, "ACL", "WHOAMI") or ""
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> "Facts":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, read: Callable[[Any], Any], *command: str | int) -> Any:
        """Return what a command answers, None where this user may not ask or the server does not know it.

        Redis: the command.
        """
        try:
            return read(self.connection.ask(*command))
        except (ServerRefused, ServerSetupError):
            return None

    def number(self, name: str) -> int:
        """Return a number of INFO, 0 where it says none."""
        text = (self.info or {}).get(name, "0")
        return int(text) if text.lstrip("-").isdigit() else 0

    @property
    def client(self) -> str:
        """The words that begin a redis-cli command for this server; who it logs in as is left to the reader."""
        address = self.shm.address
        if address.socket_path is not None:
            return f"redis-cli -s {shlex.quote(str(address.socket_path))}"
        if address.several is not None:  # the one in charge now
            tls = " --tls" if address.several.tls else ""
            host, port = self.connection.peer or address.several.hosts[0]
        else:
            parts = urlsplit(address.shown)
            tls = " --tls" if parts.scheme == "rediss" else ""
            host, port = parts.hostname or "localhost", parts.port or 6379
        return f"redis-cli{tls}" if (host, port) == ("localhost", 6379) else f"redis-cli{tls} -h {host} -p {port}"

    @property
    def local(self) -> bool:
        """Whether the server is on this machine, as far as its address tells."""
        return self.shm.address.socket_path is not None


def _text(answer: Any) -> str:
    return answer if isinstance(answer, str) else answer.decode(errors="replace")


def _texts(answer: dict[bytes, bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in answer.items()}


def _pairs_of_lines(answer: Any) -> dict[str, str]:
    lines = (line.partition(":") for line in _text(answer).splitlines() if ":" in line and not line.startswith("#"))
    return {name: value for name, _, value in lines}


def unasked(subject: str, command: str) -> Finding:
    """Return the finding for what this user may not ask."""
    return Finding(subject, UNKNOWN, f"this user may not ask the server ({command})", "log in as admin")


def size_text(size: float) -> str:
    """Return a size for people.

    >>> size_text(1234), size_text(5.6e6), size_text(2.5e9)
    ('1.2 kB', '5.6 MB', '2.5 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def counted(number: int, what: str) -> str:
    """Return a number with its noun, in the plural where that is due."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def several(items: Sequence[str], most: int = 5) -> str:
    """Return names for a sentence; where there are many, the first of them."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
