"""The page: a program that shows a namespace's records to browsers.

It knows where it listens, when a token is demanded and where the plotting library is. It must not know what the pages
look like or how values are kept up to date. Invariants:

1. It listens on this machine only, unless another address is given; then every request needs the token.
2. Nothing is loaded from elsewhere: scripts, styles and the plotting library come from installed packages.
3. Ctrl-C and SIGTERM end it within a second, whoever looks on.
"""

import asyncio
import importlib.util
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from shareddata.errors import SharedDataError
from shareddata.memory import SharedMemory
from shareddata.pageapp import App
from shareddata.pageguard import check_token, is_local, new_token

PORT = 8000
"""Where a page is, unless it is said otherwise."""

_MOST_CONNECTIONS = 500  # more are closed at once: descriptors are left for the server and files
_AT_ONCE = 128  # connections that are taken before any of them is looked at
_REQUEST_WITHIN = 10.0  # seconds for a whole request's head, from the connection or the answer before
_SEND_BUFFER = 1 << 16  # bytes that the system holds for a browser: what lies there is old when it arrives


def plotting_library() -> dict[str, Path]:
    """Return the files of uPlot that the package uplot-python brings, by the names under which they are served.

    The package itself is not imported.

    Raises:
        ModuleNotFoundError: it is not installed; the message holds the remedy.
    """
    spec = importlib.util.find_spec("uplot")
    folder = Path(spec.origin).parent / "static" if spec and spec.origin else None
    scripts = sorted(folder.glob("uPlot.iife*.js"), key=lambda path: len(path.name)) if folder else []
    styles = sorted(folder.glob("uPlot*.css")) if folder else []
    if not scripts or not styles:
        raise ModuleNotFoundError("plots need the package uplot-python: pip install 'shareddata[web]'", name="uplot")
    return {"uPlot.js": scripts[-1], "uPlot.css": styles[0]}


class _Protocol(H11Protocol):
    """A connection that ends when no request comes: who sends a byte now and then, or nothing, holds no place."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
        self.loop.call_later(_REQUEST_WITHIN, self._expire, self.cycle)

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        self.loop.call_later(_REQUEST_WITHIN, self._expire, answered)

    def _expire(self, before: object) -> None:
        if self.cycle is before:
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn, which ends streams before it waits for them to end."""

    app: App

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.app.feed.close()
        await super().shutdown(sockets)


class Page:
    """A page that listens when it is made, and answers while `run` runs or as a context manager.

    Args:
        shm: the shared memory; it has to stay open.
        host: the address to listen on; anything but this machine's own demands the token for every request.
        port: 0 for one that is free.
        write: whether records may be written, by who has the token.
        token: at least 16 characters; a new one if None.
        names: names that this machine may be called by, besides its addresses and its own name.

    Attributes:
        url: where it is.
        token: what is demanded for writing, and for everything where `guarded` is True.
        guarded: whether the token is demanded for reading too.

    Raises:
        ModuleNotFoundError: the plotting library is not installed.
        FieldError: the token is too short.
        OSError: somebody else listens there, or the address is not this machine's.

        >>> from urllib.request import urlopen
        >>> with Page(shm, port=0) as page:
        ...     text = urlopen(page.url).read().decode()

    Redis: see `pagefeed.Feed`.
    """

    def __init__(
        self,
        shm: SharedMemory,
        *,
        host: str = "localhost",
        port: int = PORT,
        write: bool = False,
        token: str | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.guarded = not is_local(host)
        self.token = new_token() if token is None else check_token(token)
        library = plotting_library()
        self._socket = _listen("127.0.0.1" if host == "localhost" else host, port)
        self.port: int = self._socket.getsockname()[1]
        shown = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
        self.url = f"http://[{shown}]:{self.port}/" if ":" in shown else f"http://{shown}:{self.port}/"
        called = [*names, *([] if _is_wildcard(host) else [host])]
        self.app = App(
            shm,
            write=write,
            token=self.token,
            names=called,
            always=self.guarded,
            cookie=f"shareddata-{self.port}",
            library=library,
        )
        config = uvicorn.Config(
            self.app.asgi,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            http=_Protocol,
            backlog=_AT_ONCE,
        )
        self._server = _Server(config)
        self._server.app = self.app
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Answer until Ctrl-C or SIGTERM.

        Raises:
            KeyboardInterrupt, SystemExit: as whoever sent the signal meant it; everything is closed then.
        """
        try:
            self._server.run([self._socket])
        finally:
            self._socket.close()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.run, name="page", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        if not self._server.started:
            raise SharedDataError(f"{self.url}: the page did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering, and wait until everything of it has ended."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._socket.close()


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")


def _listen(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        OSError: with the address, and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # an unknown host's errno is none of the system's
        raise OSError(f"{host}, port {port}: {why}: take another --port or --host") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return listener
