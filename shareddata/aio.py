"""The reading side for asyncio: read, listen, follow.

It knows how the synchronous code is run so that its waits are the event loop's: in a greenlet, which hands what it
waits for to the coroutine that runs it. It must not know commands, replies or records: what is sent and understood is
the same code as everywhere (`datadict`, `listen`, `stream` on `wire`). Invariants:

1. The event loop is never blocked by a wait for the server, nor while it is away, frozen or being looked for.
2. A coroutine that is cancelled while it waits leaves no answer behind: its connection is closed, and the next call
   opens another one.
3. What a DataDict, a listener or a follower guarantees is what the synchronous one does.

    async with aio.SharedMemory() as shm, aio.DataDict("VIEWER", shm) as dd:
        await dd.set_datas_to_read(["BATTERY__measures"])
        measures, = await dd.read()
        async for measures, position in await dd.listen_to_datas(["BATTERY__measures", "GPS__position"]):
            ...

It needs the extra `aio` (greenlet). Writing is for programs that drive something: `shareddata.DataDict`, in a thread of
its own if need be.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

from shareddata import datadict, memory
from shareddata.clock import ServerClock
from shareddata.connection import Connection
from shareddata.datadesc import Record
from shareddata.eras import Era
from shareddata.extras import needed
from shareddata.listen import Listener as SyncListener
from shareddata.stream import Follower as SyncFollower
from shareddata.wire import Layout

_greenlets = needed("greenlet", "shareddata.aio needs", "aio")

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", socket.socket, "_Memory")

_WORKERS = 8  # threads of a memory that connect: however many wait for that, each takes milliseconds, or a time-out
_TURN = 0.01  # seconds after which others get their turn
_turns = threading.local()  # when they got it last, in this thread's loop
_ENDED = object()


# -- synchronous code whose waits are the event loop's ----------------------------------------------------------------


async def _run(function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
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
    """Wait, in code that `_run` runs."""
    runner = _greenlets.getcurrent().parent
    if runner is None:
        awaitable.close()
        raise RuntimeError("this connection is an event loop's: use it in coroutines of shareddata.aio")
    return runner.switch(awaitable)  # type: ignore[no-any-return]


async def _work(pool: Executor, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Call what blocks, in a worker thread: never one of the event loop's own, which the program may need meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(pool, partial(function, *args, **named))


async def _made(pool: Executor, make: Callable[[], C], close: Callable[[C], object]) -> C:
    """Make what connects, in a worker thread; what nobody waits for any more is closed."""
    made: list[C] = []
    given_up = threading.Event()

    def work() -> None:
        made.append(make())
        if given_up.is_set():
            close(made[0])

    try:
        await _work(pool, work)
    except BaseException:
        given_up.set()
        for each in made:
            close(each)
        raise
    return made[0]


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
        return _wait(_made(self.pool, partial(super()._dial, timeout), close))

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
    """Call what waits on the memory's own connection: in a worker thread, where `_run` runs the caller."""
    if _greenlets.getcurrent().parent is None:
        return function(*args, **named)
    return _wait(_work(pool, function, *args, **named))


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


class _Memory(memory.SharedMemory):
    """A shared memory whose connections wait in the event loop; its own, for descriptions, waits in worker threads."""

    _clock = _Clock
    clock: _Clock

    def __init__(self, pool: Executor, *args: Any, **options: Any) -> None:
        self.pool = pool
        super().__init__(*args, **options)

    def connect(self, name: str = "shareddata", setup: Callable[[Connection], None] | None = None) -> Connection:
        made = _Connection(self.address, self.timeout, self.keys.epoch, setup, name)
        made.pool = self.pool
        return made

    def describe(self, name: str, at: float | str | None = None) -> Record:
        return _aside(self.pool, super().describe, name, at)

    def layouts(self, names: Sequence[str]) -> list[Layout]:
        return _aside(self.pool, super().layouts, names)

    def eras(self, name: str) -> list[Era]:
        return _aside(self.pool, super().eras, name)

    def _compare(self, epoch: bytes, layouts: Sequence[Layout]) -> None:
        _aside(self.pool, super()._compare, epoch, layouts)


# -- what programs use ------------------------------------------------------------------------------------------------


class SharedMemory:
    """The records of one namespace on one server, for coroutines; connects as an `async with` block.

    Args:
        host, port, env_init, url, namespace, wait, timeout: as of `shareddata.SharedMemory`.

    Raises:
        ServerUnreachable, ServerRefused, ServerSetupError, NotInitialized: when the block begins.

    Redis: as `shareddata.SharedMemory`, and TIME.
    """

    def __init__(self, host: str | None = None, port: int | None = None, env_init: str | None = None, **options: Any):
        self._arguments = (host, port, env_init), options
        self._memory: _Memory | None = None
        self._pool: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        self._pool = ThreadPoolExecutor(_WORKERS, "shareddata.aio")
        try:
            self._memory = await _made(self._pool, partial(self._connected, self._pool), _Memory.close)
        except BaseException:
            self.close()
            raise
        return self

    def _connected(self, pool: Executor) -> _Memory:
        positional, options = self._arguments
        made = _Memory(pool, *positional, **options)
        made.clock.now()  # asked now, it is known when the first age is wanted
        return made

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._memory is not None:
                await self._memory.clock.settled()
        finally:
            self.close()

    @property
    def memory(self) -> memory.SharedMemory:
        """The synchronous shared memory behind it."""
        if self._memory is None:
            raise RuntimeError("it is not connected: use it as `async with SharedMemory() as shm`")
        return self._memory

    def close(self) -> None:
        """Close the connections of everything made on it; who waits for one of them must be cancelled before."""
        if self._memory is not None:
            self._memory.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    async def _work(self, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        assert self._pool is not None
        return await _work(self._pool, function, *args, **named)

    @property
    def url(self) -> str:
        """The server's address, with the password blanked."""
        return self.memory.url

    async def names(self) -> list[str]:
        """Return the names of the described records, sorted.

        Redis: HGETALL when the descriptions changed.
        """
        return await self._work(self.memory.names)

    async def describe(self, name: str) -> Record:
        """Return the description of a record.

        Raises:
            UnknownData: no record has this name.

        Redis: HGETALL when the descriptions changed.
        """
        return await self._work(self.memory.describe, name)

    async def at(self, time: float, before: bool = False) -> dict[str, Any]:
        """Return all records as they were at a time: see `shareddata.SharedMemory.at`.

        Redis: MULTI, XREVRANGE for each record, EXEC.
        """
        return await self._work(self.memory.at, time, before)


class _Steps:
    """Something that is read step by step: an asynchronous iterator, closed by its block or by `close`."""

    def __init__(self, steps: SyncListener | SyncFollower) -> None:
        self._steps = steps
        self._turn = asyncio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        async with self._turn:
            found = await _run(next, self._steps, _ENDED)  # a StopIteration cannot come out of a coroutine
        if found is _ENDED:
            raise StopAsyncIteration
        return found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; who waits for a step must be cancelled before."""
        self._steps.close()


class Listener(_Steps):
    """Yields a group of records whenever the first of them is written: see `shareddata.Listener`."""


class Follower(_Steps):
    """Yields every flushed trame of a record: see `shareddata.Follower`."""

    _steps: SyncFollower

    @property
    def missed(self) -> int:
        """How many entries were trimmed from the history before they could be read."""
        return self._steps.missed

    @property
    def lost(self) -> int:
        """How many entries were read that the server has lost since, as in a failover."""
        return self._steps.lost

    @property
    def repeated(self) -> int:
        """How many entries were dropped because the same sender had written the same before."""
        return self._steps.repeated

    @property
    def id(self) -> str:
        """The id of the last entry that was read; give it as `since` to go on after it."""
        return self._steps.id


class DataDict:
    """What one application reads, for coroutines.

    Args:
        app_name: the application's name.
        shm: the shared memory, connected.

    Several coroutines may use it: their reads are done one after the other. A context manager (`async with`).
    """

    def __init__(self, app_name: str, shm: SharedMemory) -> None:
        self._dd = datadict.DataDict(app_name, shm.memory)
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of what was made on it."""
        self._dd.close()

    async def set_datas_to_read(self, names: Iterable[str]) -> None:
        """Declare records to read; several calls append to the group.

        Raises:
            UnknownData: no such record.

        Redis: HGETALL when the descriptions changed.
        """
        async with self._turn:
            await _run(self._dd.set_datas_to_read, names)

    async def read(self, *, fresh: bool = False) -> list[Any]:
        """Return the group's trames, in the order of declaration: see `shareddata.DataDict.read`.

        Raises:
            ServerTimeout, ServerUnreachable, DecodeError, DescriptionError.

        Redis: MULTI, HMGET for each record, EXEC; nothing where nobody changed the group.
        """
        async with self._turn:
            return await _run(self._dd.read, fresh=fresh)

    async def listen_to_datas(
        self, names: Iterable[str], pattern: str | None = None, timeout: float | None = None
    ) -> Listener:
        """Return what yields the group whenever its first record is written; it is subscribed then.

        Args:
            names: the records to read; the first is the one that is heard.
            pattern: a glob of record names that are heard instead of the first.
            timeout: seconds of silence after which the iteration ends; None for never.

        Redis: as `shareddata.DataDict.listen_to_datas`.
        """
        return Listener(await _run(self._dd.listen_to_datas, names, pattern, timeout))

    async def follow_data(self, name: str, since: float | str | None = None, timeout: float | None = None) -> Follower:
        """Return what yields every flushed update of a record, in order; its place is fixed then.

        Args:
            name: the record.
            since: None from now on, 0 from the oldest that is kept, seconds since 1970, or an entry's id.
            timeout: seconds of silence after which the iteration ends; None for never.

        Redis: XREAD, XINFO STREAM.
        """
        return Follower(await _run(self._dd.follow_data, name, since, timeout))
