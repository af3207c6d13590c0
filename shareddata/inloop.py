"""Synchronous code in an event loop: run in a greenlet, which hands what it waits for to the coroutine that runs it.

It knows waits, worker threads and connections. It must not know commands, replies or what is read. Invariants:

1. The event loop is never blocked by a wait for the server, nor while it is away, frozen or being looked for.
2. A coroutine that is cancelled while it waits leaves no answer behind: its connection is closed, and the next call
   opens another one.

It needs the extra `aio` (greenlet).
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from shareddata import memory
from shareddata.clock import ServerClock
from shareddata.connection import Connection
from shareddata.datadesc import Record
from shareddata.eras import Era
from shareddata.extras import needed
from shareddata.wire import Layout

_greenlets = needed("greenlet", "shareddata.aio needs", "aio")

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", socket.socket, "Memory")

_TURN = 0.01  # seconds after which others get their turn
_turns = threading.local()  # when they got it last, in this thread's loop


async def run(function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Run synchronous code, and await whatever it waits for.

    What needs no wait, as a read that is answered from memory, would keep the event loop from everything else when a
    coroutine does it again and again: the others get their turn before it.
    """
    if time.monotonic() - getattr(_turns, "last", 0.0) > _TURN:
        await asyncio.sleep(0)
        _turns.last = time.monotonic()
    task = _greenlets.greenlet(lambda: function(*args, **named))
    result = task.switch()
    while not task.dead:
        try:
            value = await result
        except BaseException as error:  # noqa: BLE001  the synchronous code gets it where it waits, a cancellation too
            result = task.throw(error)
        else:
            result = task.switch(value)
    return result  # type: ignore[no-any-return]


def _wait(awaitable: Coroutine[Any, Any, T]) -> T:
    """Wait, in code that `run` runs."""
    runner = _greenlets.getcurrent().parent
    if runner is None:
        awaitable.close()
        raise RuntimeError("this connection is an event loop's: use it in coroutines of shareddata.aio")
    return runner.switch(awaitable)  # type: ignore[no-any-return]


async def work(pool: Executor, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Call what blocks, in a worker thread: never one of the event loop's own, which the program may need meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(pool, partial(function, *args, **named))


async def made(pool: Executor, make: Callable[[], C], close: Callable[[C], object]) -> C:
    """Make what connects, in a worker thread; what nobody waits for any more is closed."""
    results: list[C] = []
    given_up = threading.Event()

    def connect() -> None:
        results.append(make())
        if given_up.is_set():
            close(results[0])

    try:
        await work(pool, connect)
    except BaseException:
        given_up.set()
        for each in results:
            close(each)
        raise
    return results[0]


class _Connection(Connection):
    """A connection whose waits are the event loop's."""

    pool: Executor
    _tell_waiter: Callable[[], None] | None = None

    def close(self) -> None:
        if self._tell_waiter is not None:
            self._tell_waiter()
        super().close()

    def _dial(self, timeout: float) -> socket.socket:
        close = self._master.close if self._master else socket.socket.close
        return _wait(made(self.pool, partial(super()._dial, timeout), close))

    def _pause(self, seconds: float) -> None:
        _wait(asyncio.sleep(seconds))

    def _use(self, sock: socket.socket) -> None:
        super()._use(sock)
        if isinstance(sock, ssl.SSLSocket):
            self._recv = partial(self._recv_whole, sock)

    def _recv_whole(self, sock: ssl.SSLSocket, size: int) -> bytes:
        """Receive over TLS, where nothing can be taken before a record of 16 kB is there whole."""
        usual = sock.gettimeout()
        while True:
            sock.settimeout(0)
            try:
                return sock.recv(size)
            except ssl.SSLWantReadError:
                if not _wait(self._readable(sock, self._patience / 1000)):
                    raise TimeoutError from None
            finally:
                sock.settimeout(usual)

    def _watch(self, sock: socket.socket) -> Callable[[int], list[Any]]:
        look = super()._watch(sock)

        def ready(milliseconds: int) -> list[Any]:
            found = look(0)
            if found or milliseconds <= 0:
                return found
            return [None] if _wait(self._readable(sock, milliseconds / 1000)) else []

        return ready

    async def _readable(self, sock: socket.socket, seconds: float) -> bool:
        """Wait until a socket has something to read; False when nothing came in that time."""
        loop = asyncio.get_running_loop()
        came: asyncio.Future[bool] = loop.create_future()
        number, closed = sock.fileno(), False

        def tell(found: bool) -> None:
            if not came.done():
                came.set_result(found)

        def tell_closed() -> None:  # the socket's number may be another one's in a moment
            nonlocal closed
            if _running_loop() is loop:
                closed = True
                loop.remove_reader(number)
                tell(False)

        timer = loop.call_later(seconds, tell, False)
        loop.add_reader(number, tell, True)
        self._tell_waiter = tell_closed
        try:
            found = await came
        finally:
            self._tell_waiter = None
            timer.cancel()
            if not closed:
                loop.remove_reader(number)
        if closed:
            raise RuntimeError("it was closed while a coroutine waited for it: cancel that one before")
        return found


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, None where there is none, or only that of the process we come from."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _aside(pool: Executor, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Call what waits on the memory's own connection: in a worker thread, where `run` runs the caller."""
    if _greenlets.getcurrent().parent is None:
        return function(*args, **named)
    return _wait(work(pool, function, *args, **named))


class _Clock(ServerClock):
    """The server's clock, asked in a worker thread: whoever wants a trame's age in a coroutine gets it at once."""

    _asking: asyncio.Future[None] | None = None

    def _measure(self) -> None:
        loop = _running_loop()
        if loop is None:  # in a thread: there is time
            return super()._measure()
        if self._asking is None or self._asking.done():
            self._asking = loop.run_in_executor(None, super()._measure)

    async def settled(self) -> None:
        """Wait until nobody asks: who asked on a connection that is closed would open another one."""
        if self._asking is not None:
            await asyncio.wait([self._asking])


class Memory(memory.SharedMemory):
    """A shared memory whose connections wait in the event loop; its own, for descriptions, waits in worker threads."""

    _clock = _Clock
    clock: _Clock

    def __init__(self, pool: Executor, *args: Any, **options: Any) -> None:
        self.pool = pool
        super().__init__(*args, **options)

    def connect(self, name: str = "shareddata", setup: Callable[[Connection], None] | None = None) -> Connection:
        """Return a connection that waits in the event loop."""
        made = _Connection(self.address, self.timeout, self.keys.epoch, setup, name)
        made.pool = self.pool
        return made

    def describe(self, name: str, at: float | str | None = None) -> Record:
        """Return a description; see `shareddata.SharedMemory`.

        Redis: as there.
        """
        return _aside(self.pool, super().describe, name, at)

    def layouts(self, names: Sequence[str]) -> list[Layout]:
        """Return the prepared bytes of records; see `shareddata.SharedMemory`.

        Redis: as there.
        """
        return _aside(self.pool, super().layouts, names)

    def eras(self, name: str) -> list[Era]:
        """Return how a record was described earlier; see `shareddata.SharedMemory`.

        Redis: as there.
        """
        return _aside(self.pool, super().eras, name)

    def _compare(self, epoch: bytes, layouts: Sequence[Layout]) -> None:
        _aside(self.pool, super()._compare, epoch, layouts)
