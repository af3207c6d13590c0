"""shareddata.aio: reading, listening and following in coroutines, also while the server is away or frozen."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from records import PAIR, PLAIN
from servers import OwnServer
from shareddata import DataDict, ServerTimeout, ServerUnreachable, SharedMemory, UnknownData, aio

Write = Callable[..., None]


@pytest.fixture
def write(shm: SharedMemory) -> Any:
    """Write a record: `write("LEFT", 5)`."""
    shm.init(PAIR, PLAIN)
    with DataDict("WRITER", shm) as dd:
        yield writer(dd)


def writer(dd: DataDict) -> Write:
    def write(name: str, number: int, **named: Any) -> None:
        (data,) = dd.set_datas_to_write([name])
        data.set(number=number, **named)
        dd.flush()

    return write


@asynccontextmanager
async def reader(url: str, **options: Any) -> AsyncIterator[aio.DataDict]:
    async with aio.SharedMemory(url=url, **options) as shm, aio.DataDict("READER", shm) as dd:
        yield dd


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def test_read(url: str, write: Write) -> None:
    async def read() -> None:
        async with aio.SharedMemory(url=url) as shm, aio.DataDict("READER", shm) as dd:
            assert await shm.names() == ["ALONE", "LEFT", "LOGGED", "RIGHT"]
            assert (await shm.describe("LEFT")).fields[2].name == "number"
            await dd.set_datas_to_read(["LEFT", "RIGHT"])
            assert await dd.read() == [None, None]
            write("LEFT", 5)
            left, right = await dd.read()
            assert (left.number, left.sender, right) == (5, "WRITER", None)
            write("LEFT", 6)
            assert (await dd.read(fresh=True))[0].number == 6
            assert (await shm.at(time.time() + 1))["LEFT"].number == 6
            with pytest.raises(UnknownData, match="did you mean LEFT"):
                await dd.set_datas_to_read(["LEFTT"])

    run(read())


def test_unchanged_group_is_answered_from_memory(url: str, write: Write, client: Any) -> None:
    async def read() -> None:
        write("LEFT", 1)
        async with reader(url) as dd:
            await dd.set_datas_to_read(["LEFT"])
            await dd.read()
            before = client.info("commandstats")["cmdstat_hmget"]["calls"]
            for _ in range(100):
                assert (await dd.read())[0].number == 1
            assert client.info("commandstats")["cmdstat_hmget"]["calls"] == before

    run(read())


def test_coroutines_share_a_datadict(url: str, write: Write) -> None:
    async def read() -> None:
        write("LEFT", 1)
        async with reader(url) as dd:
            await dd.set_datas_to_read(["LEFT", "RIGHT"])
            found = await asyncio.gather(*(dd.read(fresh=True) for _ in range(50)))
            assert all(left.number == 1 for left, _ in found)

    run(read())


def test_listen(url: str, write: Write) -> None:
    async def listen() -> list[int]:
        async with reader(url) as dd, await dd.listen_to_datas(["LEFT", "RIGHT"]) as listener:
            seen = []
            for number in (1, 2, 3):
                await asyncio.to_thread(write, "LEFT", number)
                left, _ = await anext(listener)
                seen.append(left.number)
            return seen

    assert run(listen()) == [1, 2, 3]


def test_many_listeners_in_one_thread(url: str, write: Write) -> None:
    async def one(dd: aio.DataDict) -> int:
        async for (left,) in await dd.listen_to_datas(["LEFT"]):
            if left.number == 7:
                return int(left.number)
        raise AssertionError("it ended")

    async def all_of_them() -> list[int]:
        async with reader(url) as dd:
            tasks = [asyncio.create_task(one(dd)) for _ in range(100)]
            await asyncio.sleep(0)
            while not all(task.done() for task in tasks):
                await asyncio.to_thread(write, "LEFT", 7)
                await asyncio.sleep(0.05)
            return [task.result() for task in tasks]

    assert run(all_of_them()) == [7] * 100


def test_follow(url: str, write: Write) -> None:
    async def follow() -> None:
        for number in range(5):
            write("LEFT", number)
        async with reader(url) as dd:
            async with await dd.follow_data("LEFT", since=0) as follower:
                assert [(await anext(follower)).number for _ in range(5)] == [0, 1, 2, 3, 4]
                waiting = asyncio.create_task(anext(follower))
                await asyncio.sleep(0.05)
                await asyncio.to_thread(write, "LEFT", 5)
                assert (await waiting).number == 5
                place = follower.id
            await asyncio.to_thread(write, "LEFT", 6)
            again = await dd.follow_data("LEFT", since=place, timeout=0.2)
            assert [trame.number async for trame in again] == [6], "it ends by itself"
            assert (again.missed, again.repeated) == (0, 0)

    run(follow())


def test_what_was_trimmed_is_counted(url: str, write: Write) -> None:
    async def follow() -> None:
        async with reader(url) as dd:
            follower = await dd.follow_data("LOGGED")
            for number in range(1000):
                write("LOGGED", number)
            seen = [(await anext(follower)).number]
            while seen[-1] != 999:
                seen.append((await anext(follower)).number)
            assert follower.missed == 1000 - len(seen) > 0 == follower.lost

    run(follow())


def test_cancelling_leaves_nothing_behind(url: str, write: Write) -> None:
    """A cancelled wait closes its connection: the next step opens another one, and no late answer is taken for it."""

    async def cancel() -> None:
        write("LEFT", 1)
        async with reader(url) as dd:
            follower = await dd.follow_data("LEFT", since=0)
            assert (await anext(follower)).number == 1
            for _ in range(20):
                with pytest.raises(TimeoutError, check=lambda _: True):
                    await asyncio.wait_for(anext(follower), 0.01)
            write("LEFT", 2)
            assert (await anext(follower)).number == 2
            await dd.set_datas_to_read(["LEFT"])
            for _ in range(20):
                task = asyncio.create_task(dd.read(fresh=True))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert (await dd.read(fresh=True))[0].number == 2

    run(cancel())


class Ticks:
    """How long the event loop was ever kept from doing anything else."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> "Ticks":
        self._task = asyncio.create_task(self._tick())
        return self

    async def _tick(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, time.monotonic() - before)

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()


def test_the_event_loop_goes_on_while_a_coroutine_reads_again_and_again(url: str, write: Write) -> None:
    async def poll() -> None:
        write("LEFT", 1)
        async with reader(url) as dd:
            await dd.set_datas_to_read(["LEFT"])
            reads = 0

            async def until_two() -> None:
                nonlocal reads
                while (await dd.read())[0].number != 2:
                    reads += 1
                    assert reads < 50_000, "nobody else had a turn"

            polling = asyncio.create_task(until_two())
            while reads < 1000 and not polling.done():
                await asyncio.sleep(0)
            await asyncio.to_thread(write, "LEFT", 2)
            await polling

    run(poll())


def test_closing_does_not_disturb_others(url: str, write: Write) -> None:
    """What waited for a closed connection is told; who has its descriptor's number now is left alone."""

    async def close() -> None:
        async with aio.SharedMemory(url=url) as shm, aio.DataDict("OTHER", shm) as other:
            dd = aio.DataDict("READER", shm)
            steps = await dd.listen_to_datas(["LEFT"]), await dd.follow_data("LEFT")
            closed = [asyncio.create_task(anext(each)) for each in steps]
            await asyncio.sleep(0.05)
            dd.close()
            again = await other.listen_to_datas(["LEFT"]), await other.follow_data("LEFT")
            waiting = [asyncio.create_task(anext(each)) for each in again]
            await asyncio.sleep(0.05)
            for each in closed:
                with pytest.raises(RuntimeError, match="closed while a coroutine waited"):
                    await each
            await asyncio.to_thread(write, "LEFT", 2)
            (heard,), followed = await asyncio.gather(*waiting)
            assert heard.number == followed.number == 2

    run(close())


class Taken(ThreadPoolExecutor):
    """The event loop's own threads, all of which the program uses."""

    def submit(self, function: Any, /, *args: Any, **named: Any) -> Any:
        raise AssertionError(f"{function} in the event loop's own threads")


def test_the_event_loops_own_threads_are_left_to_the_program(url: str, write: Write) -> None:
    """Else hundreds of listeners that connect anew, each up to a time-out, would stop whatever else needs a thread."""

    async def read() -> None:
        write("LEFT", 1)
        asyncio.get_running_loop().set_default_executor(Taken())
        async with aio.SharedMemory(url=url) as shm, aio.DataDict("READER", shm) as dd:
            await dd.set_datas_to_read(await shm.names())
            assert await shm.describe("LEFT") and await shm.at(time.time()) is not None
            follower, _ = await dd.follow_data("LEFT", since=0), await dd.listen_to_datas(["LEFT"])
            assert (await anext(follower)).number == (await dd.read())[1].number == 1

    run(read())


def test_frozen_server_does_not_stop_the_event_loop(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    with SharedMemory(url=server.url) as shm:
        shm.init(PAIR)

    async def read() -> None:
        async with reader(server.url, timeout=1.0) as dd, Ticks() as ticks:
            await dd.set_datas_to_read(["LEFT"])
            await dd.read()
            server.stop()
            try:
                with pytest.raises(ServerTimeout, match="no answer within 1 s"):
                    await dd.read(fresh=True)
                with pytest.raises(ServerTimeout, match="silent"):
                    await dd.read(fresh=True)
            finally:
                server.cont()
            assert await dd.read(fresh=True) == [None]
            assert ticks.longest < 0.5

    run(read())


@contextmanager
def used_by_a_thread(shm: aio.SharedMemory, seconds: float) -> Iterator[threading.Thread]:
    """Have a thread of the program use the memory's own connection for so long, as a slow answer does."""
    held = threading.Event()

    def use() -> None:
        with shm.memory._lock:
            held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=use)
    thread.start()
    held.wait()
    yield thread
    thread.join()


def test_descriptions_are_not_waited_for_in_the_event_loop(url: str, shm: SharedMemory, write: Write) -> None:
    async def read() -> None:
        write("LEFT", 1)
        async with aio.SharedMemory(url=url) as memory, aio.DataDict("READER", memory) as dd:
            await dd.set_datas_to_read(["LEFT"])
            follower, listener = await dd.follow_data("LEFT"), await dd.listen_to_datas(["LEFT"])
            await asyncio.to_thread(write, "LEFT", 2)
            assert (await anext(follower)).number == (await anext(listener))[0].number == 2
            shm.init(PAIR)  # each of them compares the descriptions at its next step
            await asyncio.to_thread(write, "LEFT", 3)
            async with Ticks() as ticks:
                with used_by_a_thread(memory, 0.6):
                    steps = dd.read(), anext(follower), anext(listener), dd.follow_data("RIGHT", since=0)
                    (read,), followed, (heard,), _ = await asyncio.gather(*steps)
            assert (read.number, followed.number, heard.number) == (3, 3, 3)
            assert ticks.longest < 0.3

    run(read())


def test_an_age_is_not_waited_for_in_the_event_loop(url: str, write: Write) -> None:
    async def read() -> None:
        write("LEFT", 1)
        async with aio.SharedMemory(url=url) as memory, aio.DataDict("READER", memory) as dd:
            await dd.set_datas_to_read(["LEFT"])
            (left,) = await dd.read()
            clock, record = memory.memory.clock, await memory.describe("LEFT")
            assert clock.uncertainty < 1, "it was asked when the memory was connected"
            clock._due = 0.0
            with used_by_a_thread(memory, 0.6) as thread:
                assert 0 <= record.age(left) < 20
                assert thread.is_alive(), "it was not waited for"
            while clock._due == 0.0:
                await asyncio.sleep(0.01)
            assert clock.uncertainty < 1

    run(read())


def test_restarted_server(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, fsync="always")
    with SharedMemory(url=server.url) as shm:
        shm.init(PAIR)

    async def go_on() -> None:
        async with reader(server.url) as dd, Ticks() as ticks:
            listener = await dd.listen_to_datas(["LEFT"])
            follower = await dd.follow_data("LEFT", since=0)
            heard, followed = asyncio.create_task(anext(listener)), asyncio.create_task(anext(follower))
            server.kill()
            with pytest.raises(ServerUnreachable, match="nobody answers"):
                await dd.set_datas_to_read(["LEFT"])
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(write_once)
            assert (await heard)[0].number == 3 and (await followed).number == 3
            assert ticks.longest < 1.0

    def write_once() -> None:
        with SharedMemory(url=server.url) as shm, DataDict("WRITER", shm) as dd:
            writer(dd)("LEFT", 3)

    run(go_on())


def test_over_tcp_with_a_password(own_server: Callable[..., OwnServer]) -> None:
    from servers import free_port

    server = own_server(port=free_port(), password="secret")

    async def read() -> None:
        async with reader(server.tcp_url) as dd:
            with SharedMemory(url=server.tcp_url) as shm:
                shm.init(PAIR)
                await dd.set_datas_to_read(["LEFT"])
                assert await dd.read() == [None]

    run(read())


def test_nobody_there() -> None:
    async def connect() -> None:
        with pytest.raises(ServerUnreachable, match="nobody answers"):
            async with aio.SharedMemory(url="unix:///nowhere/redis.sock", wait=0.1):
                pass

    run(connect())


def test_used_before_it_is_connected() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        aio.DataDict("READER", aio.SharedMemory())


def test_connections_of_an_event_loop_are_for_coroutines(url: str, write: Write) -> None:
    async def misuse() -> None:
        async with reader(url) as dd:
            await dd.set_datas_to_read(["LEFT"])
            with pytest.raises(RuntimeError, match="use it in coroutines of shareddata.aio"):
                dd._dd.read()

    run(misuse())
