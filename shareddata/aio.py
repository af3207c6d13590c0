"""The reading side for asyncio: read, listen, follow.

It knows what programs use, and that it is run in the event loop (`inloop`). It must not know commands, replies or
records: what is sent and understood is the same code as everywhere (`datadict`, `listen`, `stream` on `wire`).
Invariants:

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
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

from shareddata import datadict, memory
from shareddata.datadesc import Record
from shareddata.inloop import Memory, made, run, work
from shareddata.listen import Listener as SyncListener
from shareddata.stream import Follower as SyncFollower

P = ParamSpec("P")
T = TypeVar("T")

_WORKERS = 8  # threads of a memory that connect: however many wait for that, each takes milliseconds, or a time-out
_ENDED = object()


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
        self._memory: Memory | None = None
        self._pool: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        self._pool = ThreadPoolExecutor(_WORKERS, "shareddata.aio")
        try:
            self._memory = await made(self._pool, partial(self._connected, self._pool), Memory.close)
        except BaseException:
            self.close()
            raise
        return self

    def _connected(self, pool: Executor) -> Memory:
        positional, options = self._arguments
        memory = Memory(pool, *positional, **options)
        memory.clock.now()  # asked now, it is known when the first age is wanted
        return memory

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
        return await work(self._pool, function, *args, **named)

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
            found = await run(next, self._steps, _ENDED)  # a StopIteration cannot come out of a coroutine
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
            await run(self._dd.set_datas_to_read, names)

    async def read(self, *, fresh: bool = False) -> list[Any]:
        """Return the group's trames, in the order of declaration: see `shareddata.DataDict.read`.

        Raises:
            ServerTimeout, ServerUnreachable, DecodeError, DescriptionError.

        Redis: MULTI, HMGET for each record, EXEC; nothing where nobody changed the group.
        """
        async with self._turn:
            return await run(self._dd.read, fresh=fresh)

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
        return Listener(await run(self._dd.listen_to_datas, names, pattern, timeout))

    async def follow_data(self, name: str, since: float | str | None = None, timeout: float | None = None) -> Follower:
        """Return what yields every flushed update of a record, in order; its place is fixed then.

        Args:
            name: the record.
            since: None from now on, 0 from the oldest that is kept, seconds since 1970, or an entry's id.
            timeout: seconds of silence after which the iteration ends; None for never.

        Redis: XREAD, XINFO STREAM.
        """
        return Follower(await run(self._dd.follow_data, name, since, timeout))
