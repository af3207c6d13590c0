"""The servers that tests get: emptied, or to be hurt."""

from collections.abc import Callable

import pytest
import redis

from leaks import ours
from proxy import Proxy
from servers import OwnServer, empty, free_port, plain_client
from shareddata.server import Server


def test_a_server_is_emptied(server: Server) -> None:
    with plain_client(server.url) as client:
        client.set("key", "value")
        client.config_set("notify-keyspace-events", "KEA")
        client.acl_setuser("somebody", enabled=True, nopass=True)
        empty(server.url)
        assert client.dbsize() == 0
        assert client.config_get("notify-keyspace-events") == {"notify-keyspace-events": ""}
        assert client.acl_users() == ["default"]


def test_kill_and_restart_keep_the_folder(own_server: Callable[..., OwnServer], kind: str) -> None:
    server = own_server(kind, fsync="always")
    with server.client() as client:
        client.set("key", "value")
    first = server.pid
    server.kill()
    with pytest.raises(redis.ConnectionError, match="Connection refused|No such file"), server.client() as client:
        client.ping()
    server.start()
    assert server.pid != first
    server.restart()
    with server.client() as client:
        assert client.get("key") == b"value"


def test_stop_and_cont(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    server.stop()
    with pytest.raises(redis.TimeoutError, match="Timeout"), server.client(socket_timeout=0.05) as client:
        client.ping()
    server.cont()
    with server.client() as client:
        assert client.ping()


def test_a_stopped_server_ends_with_its_test(own_server: Callable[..., OwnServer]) -> None:
    server = own_server()
    pid = server.pid
    server.stop()
    server.close()
    assert ours(pid) is None


def test_port_password_and_users(own_server: Callable[..., OwnServer], proxy: Callable[..., Proxy], kind: str) -> None:
    server = own_server(kind, port=free_port(), aclfile="user default on >secret ~* &* +@all\n", password=None)
    with plain_client(proxy(f"redis://127.0.0.1:{server.port}").url, password="secret") as client:
        assert client.ping()
    guarded = own_server(kind, port=free_port(), password="secret")
    with plain_client(guarded.tcp_url) as client:
        assert client.ping()
