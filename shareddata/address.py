"""Where a server is: addresses, the first connection, and the server's errors as ours.

The only module that imports redis: redis-py connects, authenticates and does TLS; then the socket is handed over. It
must not know what is sent afterwards, nor which of several servers is in charge (`master` finds out). Invariants:

1. An address is checked when it is made; nothing is connected before `open`.
2. No message, log or representation shows a password.
3. Errors that redis-py or the server name are translated here and nowhere else; any other exception is a bug.
"""

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import redis
from redis._parsers import Encoder
from redis.backoff import NoBackoff
from redis.connection import PythonRespSerializer
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from shareddata import server
from shareddata.errors import ServerError, ServerRefused, ServerSetupError, ServerTimeout, ServerUnreachable
from shareddata.login import PREFIX, login

# redis-py's packer in C (hiredis 3.5) ends the process when a signal's handler raises while it makes text of a number.
_PACKER = PythonRespSerializer(6000, Encoder("utf-8", "strict", False).encode)  # type: ignore[no-untyped-call]

_HOST = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>\d+))?")
_PORTS = {"sentinel": 26379, "cluster": 6379}


class Several(NamedTuple):
    """What an address tells that stands for several servers, of which one is in charge."""

    scheme: str
    """`sentinel` or `cluster`."""
    hosts: tuple[tuple[str, int], ...]
    """Who may be asked: the Sentinels, or some nodes of the cluster."""
    master: str
    """The name by which the Sentinels know the master."""
    replica: bool
    """Whether a replica is to be read instead."""
    user: str
    """User and password as the address has them, with the `@`."""
    tls: bool
    database: str
    options: dict[str, str]
    """Further ones of each connection."""


class Address:
    """Where a server is: checked and resolved, not connected.

    Args:
        url: `redis://`, `rediss://`, `unix://`, `embedded:///folder[?fsync=always]`, `sentinel://host,host/name` or
            `cluster://host,host`.
        prefix: of the environment variables that tell user and password where the address does not.

    Attributes:
        url: as it was given, with the password.
        shown: the same for messages, with the password blanked.
        database: the server's database that is used.
        socket_path: of a server on this machine: its socket's path; None for one that is reached by TCP.
        folder: of a server on this machine: where its data are, as far as the address tells.
        several: of an address that stands for several servers: what it tells; else None.
        prefix: of the environment variables; empty where it has a server of its own.
        in_charge: what `master` knows of them, shared by all connections.

    Raises:
        ServerSetupError: when the address can't be understood; the message shows one that can.
    """

    def __init__(self, url: str, prefix: str = PREFIX) -> None:
        scheme = url.partition("://")[0]
        self.shown = _without_password(url)
        self.several: Several | None = None
        self.in_charge: Any = None
        self._folder = ""
        if "\0" in unquote(url):
            raise ServerSetupError(f"{self.shown!r} is no address: it holds a NUL character")
        if scheme == "embedded":
            self._folder, self._fsync = _embedded(url)
        elif scheme in _PORTS:
            self.several = _several(url)
        elif scheme not in ("redis", "rediss", "unix"):
            raise ServerSetupError(
                f"{self.shown!r} is no address: use redis://host:6379, rediss://host:6379 (TLS), unix:///path/socket, "
                "sentinel://host,host/name, cluster://host,host or embedded:///folder"
            )
        self.url = url
        self.prefix = "" if self._folder else prefix
        arguments = {} if self._folder else self._arguments(self.node(*self.several.hosts[0]) if self.several else "")
        if scheme == "unix" and not arguments.get("path"):
            raise ServerSetupError(f"{self.shown!r} names no socket: write unix:///path/to/socket")
        self.database = int(arguments.get("db") or 0)
        self.socket_path = self._socket_path(arguments.get("path"))
        self.folder = Path(self._folder).resolve() if self._folder else self.socket_path and self.socket_path.parent

    def _socket_path(self, path: str | None) -> Path | None:
        if self._folder:
            return server.socket_path(Path(self._folder).resolve()).resolve()
        return Path(path).resolve() if path else None

    def _arguments(self, url: str = "") -> dict[str, Any]:
        try:
            return dict(redis.connection.parse_url(url or self.url))  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise ServerSetupError(f"{self.shown}: {error}: write it like redis://user:password@host:6379/0") from None

    def node(self, host: str, port: int) -> str:
        """Return the address of one of several servers."""
        assert self.several is not None
        return _redis_url(self.several, host, port, self.several.user, self.several.database)

    def sentinel(self, host: str, port: int) -> str:
        """Return the address of a Sentinel: Sentinels have users of their own."""
        assert self.several is not None
        return _redis_url(self.several, host, port, "", "")

    def open(self, timeout: float, name: str = "shareddata") -> socket.socket:
        """Connect, authenticate and say that RESP3 is spoken; start the server of an embedded address if need be.

        Args:
            timeout: seconds.
            name: what `CLIENT LIST` shows of this connection.

        Raises:
            ServerUnreachable, ServerTimeout, ServerRefused, ServerSetupError.
        """
        url = server.ensure(self._folder, fsync=self._fsync, wait=timeout).url if self._folder else self.url
        return self.connect(url, timeout, name, self.prefix)

    def connect(self, url: str, timeout: float, name: str, prefix: str | None = None) -> socket.socket:
        """Do the same at another address, of one of several servers.

        Args:
            url: where, from `node` or `sentinel`.
            timeout: seconds.
            name: as of `open`.
            prefix: of the environment variables that tell user and password; this address's own if None.
        """
        prefix = self.prefix if prefix is None else prefix
        arguments = self._arguments(url)
        if "password" not in arguments:
            arguments |= login(prefix, arguments.get("username"))
        kind = arguments.pop("connection_class", redis.Connection)
        settings = {
            "protocol": 3,
            "socket_timeout": timeout,
            "client_name": re.sub(r"[^!-~]", "_", name) or None,
            "retry": Retry(NoBackoff(), 0),
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
            "command_packer": _PACKER,
            "driver_info": None,  # else redis-py looks up its own version for each connection, 0.3 ms of the 0.45
        } | ({} if kind is redis.UnixDomainSocketConnection else {"socket_connect_timeout": timeout})
        connection = None
        try:
            connection = kind(**arguments | settings)
            connection.connect()
            taken: socket.socket = connection._sock
            connection._sock = None  # the socket is ours now: redis-py must not close it
            return taken
        except (redis.RedisError, OSError, TypeError, ValueError) as error:
            raise self._translate(error, url) from None
        finally:
            if connection is not None:
                connection.disconnect()

    def _translate(self, error: Exception, url: str) -> ServerError:
        """Return our error for one of redis-py's, met while connecting: nothing of the caller's was sent."""
        text = str(error)
        where = f"{self.shown}, {urlsplit(url).netloc.rpartition('@')[2]}" if self.several else self.shown
        if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.ResponseError):
            return refusal(text, where, code=_login_code(error, text))
        if isinstance(error, redis.exceptions.TimeoutError | TimeoutError):
            return ServerTimeout(f"{where}: the server is silent: is it stopped, or the link cut? Nothing was sent")
        if isinstance(error, TypeError | ValueError):
            return ServerSetupError(f"{where}: {text}: see the reference for what an address may hold")
        if url.startswith("rediss:") and ("certificate" in text.lower() or "ssl" in text.lower()):
            return ServerSetupError(f"{where}: TLS failed: {text}: check ssl_ca_certs, ssl_certfile, ssl_keyfile")
        if isinstance(error, redis.exceptions.InvalidResponse):
            return ServerUnreachable(
                f"{where}: what answers there does not speak as Redis does ({text}): is it the right port? Does it "
                "speak TLS (rediss://)?"
            )
        if self.several:
            return ServerUnreachable(f"{where}: nobody answers ({text})")
        return ServerUnreachable(
            f"{where}: nobody answers ({text}): start a server with `shareddata serve`, or use the address "
            "embedded:///folder, which starts its own"
        )


def _several(url: str) -> Several:
    """Take an address apart that stands for several servers.

    Raises:
        ServerSetupError: it can't be understood.
    """
    scheme, _, rest = url.partition("://")
    shape = f"{scheme}://host,host,host" + ("/name" if scheme == "sentinel" else "")
    rest, _, query = rest.partition("?")
    where, _, path = rest.partition("/")
    user, at, where = where.rpartition("@")
    found = [_HOST.fullmatch(each.strip()) for each in where.split(",")]
    options = dict(parse_qsl(query))
    replica, tls = options.pop("replica", "0"), options.pop("tls", "0")
    database = options.pop("db", "0")
    wrong = ""
    if not all(found):
        wrong = "hosts are HOST or HOST:PORT, with commas between"
    elif scheme == "sentinel" and (not path or "/" in path):
        wrong = "behind the Sentinels stands the name by which they know the master (`sentinel monitor NAME ...`)"
    elif scheme == "cluster" and (path not in ("", "0") or database != "0"):
        wrong = "a cluster has one database, and no name"
    elif {replica, tls} - {"0", "1"} or not database.isdigit():
        wrong = "replica and tls are 0 or 1, db is a number"
    if wrong:
        raise ServerSetupError(f"{_without_password(url)}: {wrong}: write {shape}")
    hosts = tuple((h["host"].strip("[]"), int(h["port"] or _PORTS[scheme])) for h in found if h)
    return Several(scheme, hosts, unquote(path), replica == "1", user + at, tls == "1", database, options)


def _redis_url(several: Several, host: str, port: int, user: str, database: str) -> str:
    host = f"[{host}]" if ":" in host else host
    options = f"?{urlencode(several.options)}" if several.options else ""
    return f"redis{'s' * several.tls}://{user}{host}:{port}/{database}{options}"


def _embedded(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ServerSetupError(f"{_without_password(url)!r}: {error}: write embedded:///folder") from None
    options = dict(parse_qsl(parts.query))
    fsync = options.pop("fsync", "everysec")
    if parts.netloc or not parts.path.strip("/") or options or fsync not in ("everysec", "always"):
        raise ServerSetupError(
            f"{_without_password(url)!r}: write embedded:///folder or embedded:///folder?fsync=always"
        )
    return unquote(parts.path), fsync


def _without_password(url: str) -> str:
    """Blank the password of an address, also of one that is wrong otherwise."""
    url = re.sub(r"(://[^/@:]*:)[^/]*@", r"\1***@", url)
    return re.sub(r"([?&][a-z_]*password=)[^&]*", r"\1***", url)


def resolve(url: str | Address | None = None, host: str | None = None, port: int | None = None) -> Address:
    """Return the address that is meant: the URL, else host and port, else $SHAREDDATA_URL, else localhost:6379.

    Raises:
        ServerSetupError: it can't be understood.

    Redis: none.

    >>> resolve(host="robot").shown
    'redis://robot:6379'
    """
    if url:
        return Address(url) if isinstance(url, str) else url
    if host is not None or port is not None:
        host = host or "localhost"
        if ":" not in host:
            return Address(f"redis://{quote(host)}:{port or 6379}")
        if not _is_ip(host):  # it may hold a password: not shown
            raise ServerSetupError("the host's name holds a ':': give a port with -p (port=), a URL with -u (url=)")
        return Address(f"redis://[{host}]:{port or 6379}")
    try:
        return Address(os.environ.get("SHAREDDATA_URL") or "redis://localhost:6379")
    except ServerSetupError as error:
        raise ServerSetupError(f"$SHAREDDATA_URL: {error}") from None


def _is_ip(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


_REMEDIES = {
    "NOPERM": (ServerRefused, "give the user the right with ACL SETUSER, or log in as another one"),
    "NOAUTH": (ServerRefused, "log in: set $SHAREDDATA_USER and $SHAREDDATA_PASSWORD_FILE"),
    "WRONGPASS": (
        ServerRefused,
        "correct user and password in $SHAREDDATA_USER and $SHAREDDATA_PASSWORD_FILE, or in the address",
    ),
    "WRONGTYPE": (ServerRefused, "another program uses the key for something else: rename one of them"),
    "OOM": (ServerRefused, "the server's memory is full: delete data or raise it with CONFIG SET maxmemory"),
    "MISCONF": (ServerRefused, "the server cannot write to its disk: make room, see the server's log"),
    "READONLY": (ServerRefused, "this is a replica: use the master's address"),
    "NOREPLICAS": (ServerRefused, "too few replicas are connected for min-replicas-to-write"),
    "EXECABORT": (ServerRefused, "the transaction was void: nothing was written"),
    "LOADING": (ServerUnreachable, "it is still loading its data: try again"),
    "MASTERDOWN": (ServerUnreachable, "the replica lost its master: try again, or use the master's address"),
    "CLUSTERDOWN": (ServerUnreachable, "the cluster has no owner for this key: try again"),
    "BUSY": (ServerUnreachable, "it is busy with a script: try again, or SCRIPT KILL"),
    "MOVED": (ServerSetupError, "this server is part of a cluster, which needs a cluster:// address"),
    "CROSSSLOT": (ServerSetupError, "this server is part of a cluster: use a namespace"),
    "NOPROTO": (ServerSetupError, "the server speaks no RESP3: Redis 7.0 or Valkey 7.2 and later do"),
}


def _login_code(error: Exception, text: str) -> str:
    """Return the server's code for an error of the login: redis-py takes it off the text."""
    if "already authenticated" in text or "Authentication required" in text:
        return "NOAUTH"
    if isinstance(error, redis.exceptions.AuthenticationError) or "AUTH" in text:
        return "WRONGPASS"
    return "NOPERM" if isinstance(error, redis.exceptions.NoPermissionError) else ""


def refusal(text: str, where: str, done: str = "", code: str = "") -> ServerError:
    """Return the exception for an error that the server answered.

    Args:
        text: the server's words, beginning with its error code.
        where: the address.
        done: what was written all the same, for the message.
        code: the error code, where the text does not begin with it.
    """
    code = code or text.partition(" ")[0]
    if "unknown command 'SENTINEL'" in text:
        remedy = "this is no Sentinel: give the Sentinels' port, usually 26379, or a redis:// address"
        return ServerSetupError(f"{where}: the server said: {text}: {remedy}")
    if "unknown command" in text or "unknown subcommand" in text:
        return ServerSetupError(f"{where}: the server said: {text}: use Redis 7.0 or Valkey 7.2, or later")
    kind, remedy = _REMEDIES.get(code, (ServerRefused, "see the server's log"))
    return kind(f"{where}: the server said: {text}: {remedy}{done}")
