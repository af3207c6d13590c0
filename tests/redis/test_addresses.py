"""Addresses: which one is meant, what is said when it is wrong, and that no password is ever shown."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from certificates import certificates
from programs import Program
from proxy import Proxy
from records import PAIR
from servers import EXECUTABLES, OwnServer, free_port, plain_client
from shareddata import (
    DataDict,
    ServerError,
    ServerRefused,
    ServerSetupError,
    ServerTimeout,
    ServerUnreachable,
    SharedMemory,
)
from shareddata.address import Address

SECRET = "h/e:m%m@l?ig#"
QUOTED = "h%2Fe%3Am%25m%40l%3Fig%23"


def test_the_order(own_server: Callable[..., OwnServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL, else host and port, else $SHAREDDATA_URL, else localhost:6379; never embedded by surprise."""
    server = own_server(port=free_port())
    monkeypatch.setenv("SHAREDDATA_URL", "redis://127.0.0.1:1")
    with SharedMemory("127.0.0.1", server.port) as shm:
        assert shm.url == server.tcp_url
    with SharedMemory(port=server.port) as shm:
        assert shm.url == f"redis://localhost:{server.port}"
    with SharedMemory("127.0.0.1", 2, url=server.url) as shm:
        assert shm.url == server.url
    with pytest.raises(ServerUnreachable, match="redis://127.0.0.1:1: nobody answers"):
        SharedMemory(wait=0)
    with pytest.raises(ServerUnreachable, match="redis://localhost:6379"):
        SharedMemory("localhost", wait=0, url=None)
    monkeypatch.setenv("SHAREDDATA_URL", server.url)
    with SharedMemory() as shm:
        assert shm.url == server.url
    monkeypatch.setenv("SHAREDDATA_URL", "")
    with pytest.raises(ServerUnreachable, match=r"redis://localhost:6379: .*`shareddata serve`.*embedded:///"):
        SharedMemory(wait=0)


def test_the_first_connection_is_awaited(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    server.kill()
    start = time.monotonic()
    with pytest.raises(ServerUnreachable, match="nobody answers"):
        SharedMemory(url=server.url, wait=0.3)
    assert 0.1 < time.monotonic() - start < 1
    late = threading.Timer(0.3, server.start)
    late.start()
    with SharedMemory(url=server.url) as shm:
        assert shm.names() == []
    late.join()


@pytest.mark.parametrize("url", [
    "http://localhost", "localhost:6379", "redis//localhost", "", "redis://[::1", "redis://host:port", "redis://host?db=x",
    "embedded://folder", "embedded:///", "embedded:///f?fsync=no", "embedded:///f?x=1", "sentinel://h1,h2",
    "sentinel://h1,h2/", "sentinel://h1,,h2/name", "sentinel://h1:x/name", "sentinel:///name", "sentinel://h1/a/b",
    "sentinel://h1/name?replica=yes", "sentinel://h1/name?db=x", "sentinel://127.0.0.1/name?colour=green",
    "cluster://h1,h2", "cluster://h1/name", "cluster://h1?db=1", "cluster://", "redis://localhost?colour=green", "unix://",
    "redis://localhost:99999",
])
def test_what_is_no_address_is_said_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.monotonic()
    if url == "":
        monkeypatch.setenv("SHAREDDATA_URL", "nonsense")
    with pytest.raises(ServerSetupError, match="." if url else r"\$SHAREDDATA_URL: 'nonsense' is no address"):
        SharedMemory(url=url)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("host", ["robot:6380", "redis://:hemmelig@robot", "::1:6379:x"])
def test_a_host_is_no_address(host: str) -> None:
    with pytest.raises(ServerSetupError, match=r"^the host's name holds a ':': give a port with -p .*, a URL with -u"):
        SharedMemory(host, wait=0)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "3"])
def test_a_timeout_is_above_0(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout=.*, expected seconds above 0"):
        SharedMemory("127.0.0.1", 1, timeout=timeout, wait=0)


@pytest.mark.parametrize(("url", "hosts"), [
    ("sentinel://h1,h2:5000,[::1]/trio", (("h1", 26379), ("h2", 5000), ("::1", 26379))),
    ("cluster://me:secret@h1,[fe80::1]:7000", (("h1", 6379), ("fe80::1", 7000))),
])
def test_several_hosts(url: str, hosts: tuple[tuple[str, int], ...]) -> None:
    several = Address(url).several
    assert several is not None and several.hosts == hosts
    assert "secret" not in Address(url).shown


def test_what_an_address_of_several_servers_tells_each_of_them() -> None:
    address = Address("sentinel://me:s%40cret@h1,h2/trio?tls=1&db=3&ssl_ca_certs=/ca.pem")
    assert address.node("::1", 6380) == "rediss://me:s%40cret@[::1]:6380/3?ssl_ca_certs=%2Fca.pem"
    assert address.sentinel("h1", 26379) == "rediss://h1:26379/?ssl_ca_certs=%2Fca.pem"  # it has users of its own
    assert address.database == 3


def test_a_cluster_without_a_namespace_is_a_clear_error() -> None:
    with pytest.raises(ServerSetupError, match="need a namespace.*namespace='usv1'.*or -n usv1"):
        SharedMemory(url="cluster://127.0.0.1")


def test_a_host_with_a_confusing_name_is_awaited() -> None:
    """Its name looks as if TLS were the matter."""
    start = time.monotonic()
    with pytest.raises(ServerUnreachable, match="nobody answers"):
        SharedMemory("ssl-certificate.invalid", 6379, wait=0.2)
    with pytest.raises(ServerUnreachable, match="nobody answers"):
        SharedMemory(url="unix:///run/certificates/ssl.sock", wait=0.2)
    assert time.monotonic() - start > 0.2


def test_somebody_else_answers() -> None:
    """A service that is no Redis server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                link.recv(1000)
                link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        service = threading.Thread(target=serve)
        service.start()
        with pytest.raises(ServerError, match=r"127.0.0.1:\d+: what answers there does not speak as Redis does .*TLS"):
            SharedMemory("127.0.0.1", listener.getsockname()[1], wait=0)
        service.join()


# -- passwords --------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(own_server: Callable[..., OwnServer], kind: str) -> OwnServer:
    return own_server(kind, port=free_port(), password=SECRET)


def addresses(server: OwnServer, quoted: str) -> list[str]:
    tcp = f"127.0.0.1:{server.port}"
    return [
        f"redis://:{quoted}@{tcp}",
        f"redis://default:{quoted}@{tcp}/0",
        f"redis://{tcp}?password={quoted}",
        f"redis://{tcp}/0?username=default&password={quoted}",
        f"{server.url}?password={quoted}",
        f"{server.url.replace('unix://', f'unix://default:{quoted}@')}",
    ]


@pytest.mark.parametrize("form", range(6))
def test_a_password_is_never_shown(guarded: OwnServer, caplog: pytest.LogCaptureFixture, form: int) -> None:
    shown: list[str] = []
    caplog.set_level(logging.DEBUG)
    with SharedMemory(url=addresses(guarded, QUOTED)[form], timeout=0.5) as shm:
        shm.init(PAIR)
        with DataDict("program", shm) as dd:
            (left,) = dd.set_datas_to_write(["LEFT"])
            left.set(1, "a")
            shown += [repr(dd), repr(dd._writer), repr(left), repr(shm), shm.url, repr(vars(dd).keys())]
            shown += [repr(dd.listen_to_datas(["LEFT"])), repr(dd.follow_data("LEFT")), repr(shm.address)]
            dd.flush()
            guarded.stop()
            left.set(2, "a")
            with pytest.raises(ServerTimeout, match="no answer") as timeout:
                dd.flush()
            guarded.kill()
            with pytest.raises(ServerUnreachable, match="connection broke|nobody answers") as unreachable:
                dd.flush()
            shown += [str(timeout.value), str(unreachable.value), str(timeout.getrepr(style="value"))]
    for text in (*shown, caplog.text):
        assert SECRET not in text and QUOTED not in text, text
    assert str(guarded.port) in shm.url or str(guarded.folder) in shm.url


@pytest.mark.parametrize("form", range(6))
def test_a_wrong_password_is_said_at_once(guarded: OwnServer, form: int) -> None:
    start = time.monotonic()
    with pytest.raises(ServerRefused, match="correct user and password in .*SHAREDDATA_PASSWORD_FILE") as refused:
        SharedMemory(url=addresses(guarded, "wr0ng")[form])
    assert time.monotonic() - start < 1
    assert "wr0ng" not in str(refused.value)


def test_a_missing_password_is_said_at_once(guarded: OwnServer) -> None:
    start = time.monotonic()
    with pytest.raises(ServerRefused, match=r"log in: set \$SHAREDDATA_USER and \$SHAREDDATA_PASSWORD_FILE"):
        SharedMemory(url=guarded.tcp_url.replace(f":{SECRET}@", ""))
    assert time.monotonic() - start < 1


def test_a_password_where_none_is_needed(server: object, url: str) -> None:
    """The server takes any."""
    with SharedMemory(url=f"{url}?password=hemmelig") as shm:
        assert "hemmelig" not in shm.url


@pytest.mark.parametrize("url", [
    "redsi://:hemmelig@host", "sentinel://:hemmelig@h1/name", "redis://:hemmelig@host:port", "redis://:hemmelig@[::1",
    "cluster://user:hemmelig@h1", "redis://:hemmelig@127.0.0.1:1", "redis://127.0.0.1:1?password=hemmelig",
    "redis://127.0.0.1:1?colour=green&password=hemmelig", "rediss://u:hemmelig@127.0.0.1:1", "://:hemmelig@host",
    "embedded://user:hemmelig@/folder", "hemmelig",
])
def test_a_password_in_a_wrong_address_is_not_shown(url: str) -> None:
    with pytest.raises(ServerError, match=".") as error:
        SharedMemory(url=url, wait=0)
    assert "hemmelig" not in str(error.value) or url == "hemmelig"


def test_an_unknown_user(own_server: Callable[..., OwnServer]) -> None:
    server = own_server(port=free_port())
    with pytest.raises(ServerRefused, match="correct user and password"):
        SharedMemory(url=f"redis://nobody:wrong@127.0.0.1:{server.port}")


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(own_server: Callable[..., OwnServer], short_path: Path) -> tuple[OwnServer, str, Path]:
    if "redis" not in EXECUTABLES:
        pytest.skip("the embedded server has no TLS")
    certificates(short_path)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    for name, file in (("cert", "server.crt"), ("key", "server.key"), ("ca-cert", "ca.crt")):
        options += [f"--tls-{name}-file", str(short_path / file)]
    return own_server("redis", options=options), f"rediss://127.0.0.1:{port}", short_path


def test_tls(tls: tuple[OwnServer, str, Path], program: Callable[..., Program]) -> None:
    """Everything works over TLS: groups, large values, waiting, following, a restart of the server."""
    server, address, folder = tls
    with SharedMemory(url=f"{address}?ssl_ca_certs={folder}/ca.crt") as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        left, right = dd.set_datas_to_write(["LEFT", "RIGHT"])
        dd.set_datas_to_read(["LEFT", "RIGHT"])
        listener, follower = dd.listen_to_datas(["LEFT", "RIGHT"], timeout=5), dd.follow_data("LEFT", timeout=5)
        for number in range(100):
            text = "x" * (number * 5_000)
            left.set(number, text)
            right.set(number, text)
            assert dd.flush() == 2
            assert [trame.number for trame in dd.next()] == [number, number]
            assert [len(trame.text) for trame in next(listener)] == [len(text), len(text)]
            assert next(follower).number == number
        server.restart()
        left.set(100, "after")
        assert dd.flush() == 1
        assert dd.next()[0].number == 100
        assert next(follower).number == 100
        while next(listener)[0].number != 100:
            pass


def test_the_event_loop_goes_on_while_a_tls_record_comes_slowly(
    tls: tuple[OwnServer, str, Path], proxy: Callable[..., Proxy]
) -> None:
    """What TLS sends can be taken by the record, of up to 16 kB."""
    pytest.importorskip("greenlet", reason="greenlet is not installed")
    from shareddata import aio

    _, address, folder = tls
    link = proxy(address.replace("rediss", "redis"))
    link.piece = 1000
    slow = f"{link.url.replace('redis', 'rediss')}?ssl_ca_certs={folder}/ca.crt"

    async def read() -> None:
        async with aio.SharedMemory(url=slow) as shm, aio.DataDict("R", shm) as dd:
            await dd.set_datas_to_read(["LEFT"])
            await dd.read()
            link.latency, turns = 0.02, 0
            reading = asyncio.create_task(dd.read(fresh=True))
            while not reading.done():
                await asyncio.sleep(0.005)
                turns += 1
            assert len((await reading)[0].text) == 30_000
            assert turns > 30, "of some hundred"

    with SharedMemory(url=f"{address}?ssl_ca_certs={folder}/ca.crt") as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        (left,) = dd.set_datas_to_write(["LEFT"])
        left.set(1, "x" * 30_000)
        dd.flush()
        asyncio.run(asyncio.wait_for(read(), 20))


def test_tls_costs_no_round_trip_either(tls: tuple[OwnServer, str, Path], eventually: Callable[..., object]) -> None:
    server, address, folder = tls
    address += f"?ssl_ca_certs={folder}/ca.crt"
    with SharedMemory(url=address, timeout=0.5) as shm, DataDict("program", shm) as dd:
        shm.init(PAIR)
        dd.set_datas_to_read(["LEFT"])
        dd.next()
        with server.client() as client:
            before = client.info("commandstats")["cmdstat_exec"]["calls"]
            for _ in range(500):
                dd.next()
            assert client.info("commandstats")["cmdstat_exec"]["calls"] - before <= 1
            client.hset("LEFT", mapping={"sender": "redis-cli", "number": "5"})
            eventually(lambda: dd.next()[0] is not None, 0.2, "the change to be seen")
        server.stop()
        with pytest.raises(ServerTimeout, match=r"no answer within 0\.5 s"):
            dd.read(fresh=True)
        server.cont()
        eventually(lambda: dd.read(fresh=True)[0].number == 5, 5, "the server to be back")


def test_tls_that_cannot_be_trusted(tls: tuple[OwnServer, str, Path]) -> None:
    server, address, folder = tls
    for wrong in (address, f"{address}?ssl_ca_certs={folder}/stranger.crt"):
        start = time.monotonic()
        with pytest.raises(ServerSetupError, match="TLS failed.*ssl_ca_certs"):
            SharedMemory(url=wrong)
        assert time.monotonic() - start < 2
    with pytest.raises(ServerError, match="rediss://127.0.0.1"):
        SharedMemory(url=f"{address}?ssl_ca_certs={folder}/missing.crt", wait=0)
    with pytest.raises(ServerError, match="redis://127.0.0.1"):
        SharedMemory(url=address.replace("rediss", "redis"), wait=0, timeout=0.5)
    with SharedMemory(url=f"{address}?ssl_cert_reqs=none") as shm:
        assert shm.names() == []


def test_plain_client_on_the_same_server_sees_it(url: str) -> None:
    with SharedMemory(url=url) as shm, plain_client(url) as client:
        shm.init(PAIR)
        assert client.hget("LEFT", "number") == b"0"
        assert isinstance(client, redis.Redis)
