"""Addresses of several servers: every room works with them; replicas; and what is said when something is wrong."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from proxy import Proxy
from servers import OwnServer, free_port
from shareddata import (
    DataDict,
    ServerRefused,
    ServerSetupError,
    ServerUnreachable,
    SharedMemory,
    TSLog,
)
from shareddata.events import Emitter
from shareddata.frames import FrameFile
from shareddata.sensorreader import SensorReader
from shareddata.sensors import SensorWriter
from troop import Cluster, Trio
from waiting import eventually

pytestmark = pytest.mark.timeout(90)
BOTH = ["trio-redis", "cluster-valkey"]
PLAIN = [["ts", 0.0], ["sender", ""], ["n", 0]]
DESCRIPTION = {"A": {"history": 100, "fields": PLAIN}, "OWNED": {"owner": "W", "fields": PLAIN}}
Troop = Trio | Cluster


@pytest.mark.parametrize("troop", BOTH, indirect=True)
def test_every_room(troop: Troop) -> None:
    with SharedMemory(url=troop.url, namespace=troop.namespace) as shm, DataDict("W", shm) as dd:
        shm.init(DESCRIPTION, flag="READY")
        a, owned = dd.set_datas_to_write(["A", "OWNED"])
        dd.set_datas_to_read(["A", "OWNED"])
        with dd.listen_to_datas(["A"], timeout=5) as listener, dd.follow_data("A", timeout=5) as follower:
            a.set(1)
            owned.set(2)
            assert dd.flush() == 2
            assert next(listener)[0].n == 1 and next(follower).n == 1
        assert [trame.n for trame in dd.next()] == [1, 2]
        (queue,) = dd.declare_fifos(["Q"])
        queue.push("x")
        assert queue.pop(timeout=1) == ["x"]
        with TSLog("trip", ["<q"], shm=shm) as log:
            log.store(7)
            log.commit()
            assert log.reader(0).next() == (7,)
        with Emitter("cam", "frame", shm=shm) as emitter:
            emitter.emit({"x": 1}, {"run": 1})
        sensor = SensorWriter("lab", "s", shm)
        sensor.write("x", 5)
        assert SensorReader("lab", "s", shm).get_data("x") == 5
        sensor.close()
        with FrameFile("film", mode="w", shm=shm) as film:
            film.create_dataset("data", data=np.ones((2, 3)))
        with FrameFile("film", shm=shm) as film:
            assert film["data"][...].sum() == 6


@pytest.mark.parametrize("troop", BOTH, indirect=True)
def test_coroutines(troop: Troop) -> None:
    pytest.importorskip("greenlet")
    from shareddata import aio

    async def look(dd: DataDict) -> None:
        (a,) = dd.set_datas_to_write(["A"])

        def write(number: int) -> None:
            a.set(number)
            dd.flush()

        async with aio.SharedMemory(url=troop.url, namespace=troop.namespace) as shm, aio.DataDict("R", shm) as reader:
            await reader.set_datas_to_read(["A"])
            listener = await reader.listen_to_datas(["A"], timeout=5)
            follower = await reader.follow_data("A", timeout=5)
            await asyncio.to_thread(write, 1)
            assert (await anext(listener))[0].n == (await anext(follower)).n == (await reader.read())[0].n == 1
            listener.close()
            follower.close()
            await cancelled_while_it_connects(shm)

    async def cancelled_while_it_connects(shm: aio.SharedMemory) -> None:
        sockets = shm.memory.address.in_charge._sockets  # type: ignore[union-attr]
        before = len(sockets)
        for milliseconds in range(8):
            async with aio.DataDict("R", shm) as reader:
                task = asyncio.create_task(reader.listen_to_datas(["A"]))
                await asyncio.sleep(milliseconds / 1000)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        while len(sockets) > before:  # what was on its way is closed when it is there
            await asyncio.sleep(0.01)

    with SharedMemory(url=troop.url, namespace=troop.namespace) as shm, DataDict("W", shm) as dd:
        shm.init(DESCRIPTION)
        asyncio.run(asyncio.wait_for(look(dd), 30))


@pytest.mark.parametrize("troop", BOTH, indirect=True)
def test_the_command_line(troop: Troop, capsys: pytest.CaptureFixture[str]) -> None:
    from shareddata import cli

    with SharedMemory(url=troop.url, namespace=troop.namespace) as shm:
        shm.init(DESCRIPTION)
    for words in (["set", "A", "n=5"], ["get", "A"], ["list"], ["doctor"]):
        with pytest.raises(SystemExit, check=lambda _: True):
            cli.main([words[0], "-u", troop.url, "-n", troop.namespace, *words[1:]])
    said = capsys.readouterr()
    assert "Traceback" not in said.err and "OWNED" in said.out


@pytest.mark.parametrize("troop", BOTH, indirect=True)
def test_a_replica_is_read_and_refuses_to_be_written(troop: Troop) -> None:
    with (
        SharedMemory(url=troop.url, namespace=troop.namespace) as shm,
        DataDict("W", shm) as dd,
    ):
        shm.init(DESCRIPTION)
        (a,) = dd.set_datas_to_write(["A"])
        eventually(lambda: shm.connect().ask("WAIT", 1, 100), 5, "replicas")
        with (
            SharedMemory(url=f"{troop.url}?replica=1", namespace=troop.namespace) as copy,
            DataDict("R", copy) as reading,
        ):
            reading.set_datas_to_read(["A"])
            with reading.listen_to_datas(["A"], timeout=5) as listener:
                a.set(3)
                dd.flush()
                assert next(listener)[0].n == 3
            assert reading.next()[0].n == 3
            peer = copy._connection.peer
            assert peer is not None
            asked = next(each for each in troop.servers if each.port == peer[1])
            assert asked.role() == "slave"
            (b,) = reading.set_datas_to_write(["A"])
            b.set(4)
            with pytest.raises(ServerRefused, match="this is a replica|reads from a replica"):
                reading.flush()


@pytest.mark.parametrize("troop", ["trio-redis"], indirect=True)
def test_a_master_that_nobody_knows(troop: Troop) -> None:
    with pytest.raises(ServerSetupError, match="know no master 'robbot': write the name"):
        SharedMemory(url=troop.url.replace("/trio", "/robbot"))


@pytest.mark.parametrize("scheme", ["sentinel://{}/trio", "cluster://{}"])
def test_nobody_is_there(scheme: str) -> None:
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    with pytest.raises(ServerUnreachable, match="none of the .* tells who is in charge .*nobody answers"):
        SharedMemory(url=scheme.format(hosts), namespace="usv1", wait=0.1)


def test_a_plain_server_is_no_cluster_and_no_sentinel(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, port=free_port())
    with pytest.raises(ServerSetupError, match="this is no Sentinel: give the Sentinels' port, usually 26379"):
        SharedMemory(url=f"sentinel://127.0.0.1:{server.port}/robot", wait=0.1)
    with pytest.raises(ServerSetupError, match="is no node of a cluster: use a redis:// address"):
        SharedMemory(url=f"cluster://127.0.0.1:{server.port}", namespace="usv1", wait=0.1)


@pytest.mark.parametrize("troop", ["cluster-valkey"], indirect=True)
def test_a_node_of_a_cluster_by_its_own_address(troop: Troop) -> None:
    master = troop.master()
    assert master is not None
    other = next(each for each in troop.servers if each is not master and each.role() == "master")
    with pytest.raises(ServerSetupError, match="needs a cluster:// address"):
        SharedMemory(url=f"redis://{other.name}", namespace=troop.namespace)


@pytest.mark.parametrize("troop", ["trio-redis"], indirect=True)
def test_sentinels_that_are_silent_are_passed_over(troop: Troop, proxy: Callable[..., Proxy]) -> None:
    """One is a black hole, one is gone: the third one tells."""
    assert isinstance(troop, Trio)
    hole = proxy(f"redis://{troop.sentinels[0].name}")
    hole.swallow()
    hosts = f"{hole.url.removeprefix('redis://')},127.0.0.1:{free_port()},{troop.sentinels[2].name}"
    with SharedMemory(url=f"sentinel://{hosts}/trio") as shm:
        shm.init(DESCRIPTION)
        assert shm.names() == ["A", "OWNED"]


@pytest.mark.parametrize("troop", ["cluster-valkey", "cluster-redis"], indirect=True)
def test_a_slot_that_is_moved(troop: Troop) -> None:
    """Writers wait for the end of the move, and go on at the new owner; nothing is lost."""
    from shareddata.master import slot_of

    slot = slot_of(troop.namespace)
    source = troop.master()
    assert source is not None
    target = next(each for each in troop.servers if each is not source and each.role() == "master")
    ids = {each.name: each.ask("CLUSTER", "MYID").decode() for each in (source, target)}
    with SharedMemory(url=troop.url, namespace=troop.namespace) as shm, DataDict("W", shm) as dd:
        shm.init(DESCRIPTION)
        (a,) = dd.set_datas_to_write(["A"])
        dd.set_datas_to_read(["A"])
        a.set(1)
        dd.flush()
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.name])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.name])
        keys = [key.decode() for key in source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)]
        source.ask("MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *keys)
        a.set(2)
        with pytest.raises(ServerUnreachable, match="another server is in charge now .*nothing was written"):
            dd.flush()
        for each in (target, source):
            each.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target.name])
        eventually(lambda: dd.flush() == 1, 5, "the new owner")
        assert dd.next()[0].n == 2 and shm._connection.ask("EXISTS", f"{shm.keys.prefix}A") == 1
        with dd.follow_data("A", since=0, timeout=0.1) as follower:
            assert [trame.n for trame in follower] == [1, 2]
        for each, other in ((target, source), (source, target)):  # and back
            each.ask("CLUSTER", "SETSLOT", slot, *(("MIGRATING", ids[other.name]) if each is target
                                                   else ("IMPORTING", ids[other.name])))
        target.ask("MIGRATE", source.host, source.port, "", 0, 5000, "KEYS", *keys)
        for each in (source, target):
            each.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[source.name])
