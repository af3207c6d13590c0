"""The test rig itself: the leak check notices, the proxy disturbs, waiting says what it waited for."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leaks import LINUX, Snapshot
from proxy import Proxy, connect
from waiting import eventually


@pytest.fixture
def echo(short_path: Path) -> Iterator[str]:
    """The address of a server that sends back what it gets."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(short_path / "echo"))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=[link]).start()

    def answer(link: socket.socket) -> None:
        with link:
            while data := link.recv(100):
                link.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"unix://{short_path}/echo"
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


@pytest.fixture(params=["tcp", "unix"])
def link(request: pytest.FixtureRequest, proxy: Callable[..., Proxy], echo: str, short_path: Path) -> Proxy:
    return proxy(echo, socket_path=str(short_path / "proxy") if request.param == "unix" else None)


def test_proxy_passes_swallows_and_heals(link: Proxy) -> None:
    with connect(link.url) as client:
        client.sendall(b"one")
        assert client.recv(100) == b"one"
        for disturb in (link.swallow, link.half_open):
            disturb()
            client.sendall(b"lost")
            client.settimeout(0.05)
            with pytest.raises(TimeoutError, match="timed out"):
                client.recv(100)
            client.settimeout(5)
        link.heal()
        client.sendall(b"two")
        assert client.recv(100) == b"two"
    assert link.accepted == 1


def test_proxy_cuts_and_refuses(link: Proxy) -> None:
    with connect(link.url) as client:
        client.sendall(b"one")
        assert client.recv(100) == b"one"
        link.refuse()
        assert ended(client)
    with connect(link.url) as client:
        assert ended(client)
    link.heal()
    with connect(link.url) as client:
        client.sendall(b"two")
        assert client.recv(100) == b"two"


def ended(client: socket.socket) -> bool:
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def test_proxy_to_nowhere_ends_the_connection(proxy: Callable[..., Proxy], short_path: Path) -> None:
    with connect(proxy(f"unix://{short_path}/nobody").url) as client:
        assert ended(client)


def test_leaks_are_noticed(tmp_path: Path) -> None:
    before = Snapshot()
    assert before.leaked_after(0.1) == []
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, name="left")
    thread.start()
    child = subprocess.Popen(["sleep", "600"])
    file = (tmp_path / "file").open("w")
    leaked = "\n".join(before.leaked_after(0.1))
    assert "thread 'left'" in leaked
    assert not LINUX or ("sleep 600" in leaked and str(tmp_path / "file") in leaked)
    go_on.set()
    thread.join()
    child.kill()
    child.wait()
    file.close()
    assert before.leaked_after(1) == []


@pytest.mark.skipif(not LINUX, reason="processes are looked up in /proc")
def test_orphans_are_noticed() -> None:
    before = Snapshot()
    starter = "import subprocess as s; print(s.Popen(['sleep', '600'], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    orphan = int(subprocess.run([sys.executable, "-Wignore", "-c", starter], capture_output=True).stdout)
    assert before.leaked_after(0.1) == [f"process {orphan}: sleep 600"]
    before.end_processes()
    assert before.leaked_after(1) == []


def test_waiting_says_what_was_seen() -> None:
    with pytest.raises(AssertionError, match="waited 0.01 s for the answer; seen last: 0"):
        eventually(lambda: 0, timeout=0.01, message="the answer")
