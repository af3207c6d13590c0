"""What every test may ask for: real servers, a shared memory, a disturbed link; and what no test may leave behind.

Servers are real. `server` runs a test once on each kind that this machine has; `own_server` gives one to kill.
"""

import multiprocessing.resource_tracker
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import redis

from leaks import Snapshot, set_mark
from programs import Program
from proxy import Proxy
from servers import EXECUTABLES, OwnServer, empty, plain_client, short_folder
from shareddata import SharedMemory, cli, large
from shareddata.address import Address
from shareddata.server import Server
from troop import MISSING, Cluster, Trio
from waiting import eventually as wait_until

OURS = ("LOGDIR", "LOGFILE", "INIT_MSG", "TMPFS_PATH")

hypothesis.settings.register_profile("quick", deadline=None, max_examples=100, database=None)
hypothesis.settings.register_profile("full", deadline=None, max_examples=2000, database=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long forms too: more rounds, more examples")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "quick")
    # A shell starts what runs in its background with control-C ignored; what the tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in (*OURS, *(name for name in os.environ if name.startswith("SHAREDDATA_"))):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long forms without --full; begin with what may take long, so that it is not left to the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
    if config.getoption("--full"):
        return
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="the long form: run with --full"))


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """True with --full: take the long form's number of rounds."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session", autouse=True)
def _household() -> None:
    """Mark what tests start, and start once what multiprocessing keeps running."""
    set_mark()
    multiprocessing.resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def _no_leaks(_household: None) -> Iterator[None]:
    """Fail a test that leaves a thread, a process, a file or a socket behind."""
    before = Snapshot()
    yield
    leaked = before.leaked_after(patience=10)
    if leaked:
        before.end_processes()
        pytest.fail("the test left behind:\n  " + "\n  ".join(leaked), pytrace=False)


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Server]]:
    """A running server of each kind, for the whole session."""
    running: dict[str, Server] = {}
    folders = {kind: short_folder() for kind in EXECUTABLES}
    try:
        for kind, executable in EXECUTABLES.items():
            running[kind] = Server(folders[kind], executable=executable)
            running[kind].start()
        yield running
    finally:
        for kind, server in running.items():
            server.stop()
            large.forget(Address(server.url))
            shutil.rmtree(folders[kind])


@pytest.fixture(params=sorted(EXECUTABLES, reverse=True))
def kind(request: pytest.FixtureRequest) -> str:
    """Run the test once on each kind of server: `valkey` (embedded) and, where it is installed, `redis` (Debian's)."""
    return str(request.param)


@pytest.fixture
def server(servers: dict[str, Server], kind: str) -> Server:
    """An emptied server, the same for many tests: not to be killed or stopped."""
    empty(servers[kind].url)
    return servers[kind]


@pytest.fixture(scope="session")
def troops() -> Iterator[Callable[[str, str], Trio | Cluster]]:
    """Servers that belong together, for the whole session: `troops("trio" or "cluster", kind)`; see `troop`."""
    made: dict[tuple[str, str], Trio | Cluster] = {}

    def get(what: str, kind: str) -> Trio | Cluster:
        if (what, kind) not in made:
            made[what, kind] = {"trio": Trio, "cluster": Cluster}[what](kind)
        return made[what, kind]

    yield get
    for each in made.values():
        each.close()


@pytest.fixture
def troop(request: pytest.FixtureRequest, troops: Callable[[str, str], Trio | Cluster]) -> Trio | Cluster:
    """Emptied servers in order, `troop-kind` as the test's parameter says: `trio-redis`, `cluster-valkey`."""
    what, kind = request.param.split("-")
    if kind not in EXECUTABLES:
        pytest.skip(f"no {kind} server is installed here")
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} of util-linux is not here")
    found = troops(what, kind)
    found.heal()
    found.empty()
    return found


@pytest.fixture
def url(server: Server) -> str:
    """The address of an emptied server."""
    return server.url


@pytest.fixture
def shm(url: str) -> Iterator[SharedMemory]:
    """A SharedMemory on an emptied server; nothing is described yet."""
    with SharedMemory(url=url) as memory:
        yield memory


@pytest.fixture
def own_server() -> Iterator[Callable[..., OwnServer]]:
    """Make a server of the test's own: `own_server(kind="valkey", fsync=..., options=..., port=..., password=...)`."""
    made: list[OwnServer] = []

    def make(kind: str = "valkey", **options: object) -> OwnServer:
        made.append(OwnServer(kind, **options))
        return made[-1]

    yield make
    for each in reversed(made):
        each.close()


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """Make a disturbable link: `proxy(server.url)`, or `proxy(server.url, socket_path=...)` for a unix socket."""
    made: list[Proxy] = []

    def make(target: str, socket_path: str | None = None) -> Proxy:
        made.append(Proxy(target, socket_path))
        return made[-1]

    yield make
    for each in reversed(made):
        each.close()


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """Run Python in another process: `program(code, *args, env=None)`; see `programs.Program`."""
    made: list[Program] = []

    def make(code: str, *args: object, env: Mapping[str, str | None] | None = None) -> Program:
        made.append(Program(code, *args, env=env))
        return made[-1]

    yield make
    for each in reversed(made):
        each.close()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary folder whose path is short enough for sockets."""
    folder = short_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    """redis-py as another program would use it, on the same server."""
    with plain_client(url) as client:
        yield client


@pytest.fixture
def command(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Call `shareddata` in this process, on an emptied server: exit code, standard output, standard error."""
    monkeypatch.setenv("SHAREDDATA_URL", url)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit, check=lambda _: True) as ended:
            cli.main([*map(str, arguments)])
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def eventually() -> Callable[..., object]:
    """`eventually(condition, timeout=5, message="...")`: wait for a condition (`from waiting import eventually`)."""
    return wait_until
