"""A link that can be disturbed: a proxy between a client and a server.

It knows bytes and sockets, nothing of Redis. Two threads a connection, one a direction. Invariants:

1. A disturbance acts on open and on new connections, until `heal()`.
2. A pair of sockets is closed by `cut()` alone: no thread closes what another one waits for.
3. `close()` leaves no thread, no socket and no file.
"""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def connect(url: str) -> socket.socket:
    """Open a stream to a `unix://` or `redis://` address."""
    parts = urlparse(url)
    if parts.scheme == "unix":
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(parts.path)
        except OSError:
            link.close()
            raise
        return link
    link = socket.create_connection((parts.hostname or "localhost", parts.port or 6379))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


class Proxy:
    """A proxy on a TCP port of this machine (or a unix socket, given `socket_path`) before the server at `target`.

    Attributes:
        url: the address for clients: `redis://127.0.0.1:PORT` or `unix:///path`.
        latency: seconds that each piece of data waits on its way.
        piece: bytes that a piece has at most.
        accepted: how many connections were made so far.
    """

    def __init__(self, target: str, socket_path: str | None = None) -> None:
        self.target, self.latency, self.piece, self.accepted = target, 0.0, 65536, 0
        self._closed = False
        self._deaf: set[str] = set()
        self._refusing = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._socket_path = socket_path
        self._listener = socket.socket(socket.AF_UNIX if socket_path else socket.AF_INET)
        self._listener.bind(socket_path or ("127.0.0.1", 0))
        self._listener.listen(64)
        where = self._listener.getsockname()
        self.url = f"unix://{socket_path}" if socket_path else f"redis://{where[0]}:{where[1]}"
        self._start(self._accept)

    def swallow(self) -> None:
        """Black hole: everything is read, nothing is passed on, nobody is told."""
        self._deaf = {"to server", "to client"}

    def half_open(self) -> None:
        """Requests reach the server, its answers are swallowed: every outcome is unknown to the client."""
        self._deaf = {"to client"}

    def cut(self) -> None:
        """Reset every open connection; new ones are welcome."""
        pairs, self._pairs = self._pairs, []
        for link in (link for pair in pairs for link in pair):
            if link.family == socket.AF_INET:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            try:
                link.shutdown(socket.SHUT_RD)  # wakes the thread that waits for it
            except OSError:
                pass  # the other side was quicker
            link.close()

    def refuse(self) -> None:
        """Reset every open connection, and each new one at once."""
        self._refusing = True
        self.cut()

    def heal(self) -> None:
        """Let everything through again; what was swallowed stays lost."""
        self._deaf, self._refusing, self.latency, self.piece = set(), False, 0.0, 65536

    def close(self) -> None:
        """Cut every connection, stop listening and wait for the threads."""
        self._closed = True
        self.cut()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()
        if self._socket_path:
            Path(self._socket_path).unlink(missing_ok=True)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name=f"proxy {self.url}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            if not select.select([self._listener], [], [], 0.02)[0]:
                continue
            client, _ = self._listener.accept()
            self.accepted += 1
            try:
                server = connect(self.target)
            except OSError:
                client.close()  # the server is away: the client sees a connection that ends at once
                continue
            if client.family == socket.AF_INET:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            self._pairs.append(pair)
            if self._refusing or self._closed:
                self.cut()
                continue
            self._start(self._pass_on, pair, client, server, "to server")
            self._start(self._pass_on, pair, server, client, "to client")

    def _pass_on(self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket,
                 direction: str) -> None:
        try:
            while data := source.recv(self.piece):
                if self.latency:
                    time.sleep(self.latency)
                if direction not in self._deaf:
                    sink.sendall(data)
        except OSError:
            pass  # cut, or one side went
        if direction in self._deaf or pair not in self._pairs:
            return  # a black hole does not pass on an end either; what was cut is closed already
        for link in pair:
            try:
                link.shutdown(socket.SHUT_RDWR)  # wakes the other direction's thread
            except OSError:
                pass  # the other side went first
