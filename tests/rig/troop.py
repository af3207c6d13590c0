"""Several servers that belong together: a master with replicas and Sentinels, or a cluster; to be hurt by tests.

It knows how Sentinel and Redis Cluster are set up, and signals. It must not know shareddata beyond `servers`.
Invariants:

1. Nothing of them is left after `close()`: no process, no folder.
2. `heal()` brings all members back, whatever was done to them, and waits until they agree on who is in charge.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

import hiredis

from servers import EXECUTABLES, free_port, short_folder
from shareddata.master import slot_of
from waiting import eventually

DOWN_AFTER = 1000
"""Milliseconds of silence after which a master is given up."""

MISSING = [tool for tool in ("setpriv", "prlimit") if shutil.which(tool) is None]
"""What of util-linux is not on this machine, and needed here."""

_COMMON = """\
save ""
appendonly no
protected-mode no
repl-diskless-sync-delay 0
repl-diskless-sync yes
repl-ping-replica-period 1
repl-timeout 5
loglevel notice
logfile log
"""


class Member:
    """One server or Sentinel: a process on a port.

    Args:
        kind: of server.
        config: the lines of its configuration beside port and folder.
        sentinel: whether it is a Sentinel.
        host: the address that it has, in its namespace.
        prefix: words before its command, such as `ip netns exec NAME`.
    """

    def __init__(
        self, kind: str, config: str, sentinel: bool = False, host: str = "127.0.0.1", prefix: Sequence[str] = (),
        port: int = 0,
    ) -> None:
        self.host, self.port, self.folder = host, port or free_port(), short_folder()
        # it ends with the test run, also when that is killed; and it is no single test's leak (see `leaks`)
        self._prefix = [*prefix, "setpriv", "--pdeathsig", "KILL", "prlimit", "--msgqueue=1000:"]
        text = f"port {self.port}\nbind {host}\ndir {self.folder}\n{_COMMON if not sentinel else ''}{config}"
        self.config = self.folder / "conf"
        self.config.write_text(text)
        self._words = [EXECUTABLES[kind], str(self.config), *(["--sentinel"] if sentinel else [])]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, again if it was killed."""
        if self.process is None or self.process.poll() is not None:
            out = (self.folder / "out").open("ab")
            with out:
                self.process = subprocess.Popen([*self._prefix, *self._words], stdout=out, stderr=out, cwd=self.folder)

    def ready(self) -> bool:
        """Tell whether it answers."""
        assert self.process is not None and self.process.poll() is None, f"it ended:\n{self.log()}"
        try:
            return self.ask("PING") == b"PONG"
        except (OSError, hiredis.ReplyError):
            return False

    def ask(self, *words: object) -> Any:
        """Send it a command and return its answer, as it came.

        Raises:
            OSError: it does not answer.
            hiredis.ReplyError: it said no.
        """
        reader = hiredis.Reader()
        with socket.create_connection((self.host, self.port), 1) as sock:
            sock.sendall(hiredis.pack_command(tuple(str(word) for word in words)))
            while (reply := reader.gets()) is False:
                data = sock.recv(65536)
                if not data:
                    raise ConnectionResetError(f"{self.name} closed the connection")
                reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def info(self, section: str = "replication") -> dict[str, str]:
        """Return a section of INFO."""
        return _lines(self.ask("INFO", section))

    def role(self) -> str:
        """Return its role, empty while it does not answer."""
        try:
            return str(self.ask("ROLE")[0].decode())
        except (OSError, hiredis.ReplyError):
            return ""

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def revive(self) -> None:
        """Let it go on, or start it again."""
        if self.process is not None and self.process.poll() is None:
            self.thaw()
        else:
            self.start()

    def log(self) -> str:
        """Return the end of what it says."""
        texts = [(self.folder / name).read_text(errors="replace") for name in ("out", "log")
                 if (self.folder / name).exists()]
        return "".join(texts)[-3000:]

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder)


class Trio:
    """A master, two replicas and three Sentinels.

    Args:
        kind: of server.
        hosts: for each of the three machines its address and words before a command; this machine three times if empty.
        down_after: milliseconds of silence after which the master is given up.
    """

    replicas = 2  # of the master

    def __init__(
        self, kind: str, hosts: Sequence[tuple[str, Sequence[str]]] = (), down_after: int = DOWN_AFTER
    ) -> None:
        self.kind, self.name = kind, "trio"
        hosts = hosts or [("127.0.0.1", ())] * 3
        self.servers: list[Member] = []
        self.sentinels: list[Member] = []
        try:
            for host, prefix in hosts:
                replica = f"replicaof {self.servers[0].host} {self.servers[0].port}\n" if self.servers else ""
                self.servers.append(Member(kind, replica, host=host, prefix=prefix))
            first = self.servers[0]
            eventually(first.ready, 10, "an answer of the master", 0.02)
            # a Sentinel that is there first looks for replicas after ten seconds only
            eventually(lambda: first.info()["connected_slaves"] == "2", 10, "two replicas", 0.02)
            for host, prefix in hosts:
                config = (
                    f"sentinel monitor trio {first.host} {first.port} 2\n"
                    f"sentinel down-after-milliseconds trio {down_after}\n"
                    "sentinel failover-timeout trio 3000\nsentinel parallel-syncs trio 2\n"
                )
                self.sentinels.append(Member(kind, config, sentinel=True, host=host, prefix=prefix))
            self.agree()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"sentinel://{','.join(each.name for each in self.sentinels)}/{self.name}"

    @property
    def namespace(self) -> str:
        return ""

    def master(self, among: Sequence[Member] | None = None) -> Member | None:
        """Return who most Sentinels say is the master, if it says so itself."""
        told: list[str] = []
        for each in among or self.sentinels:
            try:
                host, port = each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
                told.append(f"{host.decode()}:{int(port)}")
            except (OSError, TypeError, hiredis.ReplyError):
                continue
        named = max(set(told), key=told.count, default="")
        found = next((each for each in self.servers if each.name == named), None)
        return found if found is not None and found.role() == "master" else None

    def elected(self, former: Member, timeout: float = 20) -> Member:
        """Wait until another master is there, and return it."""
        return eventually(
            lambda: (m := self.master()) is not None and m is not former and m, timeout, "another master"
        )

    def agree(self, timeout: float = 20) -> None:
        """Wait until all know each other, and replicas follow the master."""
        for each in (*self.servers, *self.sentinels):
            eventually(each.ready, 10, f"an answer of {each.name}", 0.02)
        eventually(self._agreed, timeout, "agreement", 0.05)

    def _agreed(self) -> bool:
        master = self.master()
        if master is None:
            return False
        for each in self.sentinels:
            state = _pairs(each.ask("SENTINEL", "MASTER", self.name))
            if state["port"] != str(master.port) or state["num-other-sentinels"] != "2" or state["flags"] != "master":
                return False
            if sum(_pairs(r)["flags"] == "slave" for r in each.ask("SENTINEL", "REPLICAS", self.name)) != 2:
                return False
        info = master.info()
        return info["connected_slaves"] == "2" and all("state=online" in info[f"slave{i}"] for i in range(2))

    def by_hand(self, pause: bool = True) -> None:
        """Let an operator ask for a failover.

        Args:
            pause: let writers wait meanwhile. Without that the former master goes on for a second, and its other
                replica confirms what it takes.
        """
        master = self.master()
        assert master is not None
        if pause:
            master.ask("CLIENT", "PAUSE", 10_000, "WRITE")
        self.sentinels[0].ask("SENTINEL", "FAILOVER", self.name)
        if pause:
            self.elected(master)
            master.ask("CLIENT", "UNPAUSE")

    def empty(self) -> None:
        """Forget all data."""
        master = self.master()
        assert master is not None
        _empty(master)

    def heal(self) -> None:
        """Bring everybody back."""
        for each in (*self.servers, *self.sentinels):
            each.revive()
        for each in (*self.servers, *self.sentinels):
            eventually(each.ready, 10, f"an answer of {each.name}", 0.02)
        master = eventually(self.master, 20, "a master", 0.05)
        for each in self.servers:
            if each is not master and each.role() == "master":  # a Sentinel would wait for eight seconds
                each.ask("REPLICAOF", master.host, master.port)
        self.agree(45)  # Sentinels whose machine stood still for a while do nothing for thirty seconds

    def close(self) -> None:
        for each in (*self.sentinels, *self.servers):
            each.close()


class Cluster:
    """Three masters, each with a replica.

    Args:
        kind: of server.
        hosts: as of `Trio`: the masters are on one each, their replicas on the next one.
        node_timeout: milliseconds of silence after which a master is given up.
    """

    namespace = "usv1"
    replicas = 1  # of each master

    def __init__(
        self, kind: str, hosts: Sequence[tuple[str, Sequence[str]]] = (), node_timeout: int = DOWN_AFTER
    ) -> None:
        self.kind = kind
        hosts = [*(hosts or [("127.0.0.1", ())] * 3)] * 2
        config = (
            f"cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout {node_timeout}\n"
            "cluster-replica-validity-factor 0\n"
        )
        self.servers: list[Member] = []
        try:
            for host, prefix in hosts:
                port, bus = _two_ports()
                more = f"{config}cluster-port {bus}\n"
                self.servers.append(Member(kind, more, host=host, prefix=prefix, port=port))
            for each in self.servers:
                eventually(each.ready, 10, f"an answer of {each.name}", 0.02)
            self._join()
            self.agree()
        except BaseException:
            self.close()
            raise

    def _join(self) -> None:
        first, masters = self.servers[0], self.servers[:3]
        bus = first.ask("CONFIG", "GET", "cluster-port")[1].decode()
        bounds = [(0, 5460), (5461, 10922), (10923, 16383)]
        for number, each in enumerate(masters):
            each.ask("CLUSTER", "ADDSLOTSRANGE", *bounds[number])
        for number, each in enumerate(self.servers):
            each.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if each is not first:
                each.ask("CLUSTER", "MEET", first.host, first.port, bus)
        identities = [each.ask("CLUSTER", "MYID").decode() for each in masters]
        replicas = self.servers[3:]
        for number, each in enumerate(replicas):
            master = identities[(number + 1) % 3]  # on another machine than its master
            eventually(lambda: _ok(each, "CLUSTER", "REPLICATE", master), 10, f"{each.name} to be a replica", 0.02)  # noqa: B023

    @property
    def url(self) -> str:
        return f"cluster://{','.join(each.name for each in self.servers[:3])}"

    def master(self, among: Sequence[Member] | None = None) -> Member | None:
        """Return who owns the namespace's slot, as most nodes in order say."""
        told: list[int] = []
        slot = slot_of(self.namespace)
        for each in among or self.servers:
            try:
                if _lines(each.ask("CLUSTER", "INFO"))["cluster_state"] == "ok":
                    slots = each.ask("CLUSTER", "SLOTS")
                    told.append(next(int(node[1]) for first, last, node, *_ in slots if first <= slot <= last))
            except (OSError, StopIteration, hiredis.ReplyError):
                continue
        port = max(set(told), key=told.count, default=0)
        found = next((each for each in self.servers if each.port == port), None)
        return found if found is not None and found.role() == "master" else None

    elected = Trio.elected

    def empty(self) -> None:
        """Forget all data."""
        for each in self.servers:
            if each.role() == "master":
                _empty(each)

    def replica(self) -> Member:
        """Return the replica of the namespace's owner."""
        master = self.master()
        assert master is not None
        rows = str(master.ask("CLUSTER", "REPLICAS", master.ask("CLUSTER", "MYID").decode()))
        return next(each for each in self.servers if f"{each.name}@" in rows)

    def agree(self, timeout: float = 20) -> None:
        """Wait until all nodes say that the cluster is in order, and each master has its replica."""
        for each in self.servers:
            eventually(each.ready, 10, f"an answer of {each.name}", 0.02)
        eventually(self._agreed, timeout, "agreement", 0.05)

    def _agreed(self) -> bool:
        for each in self.servers:
            if _lines(each.ask("CLUSTER", "INFO"))["cluster_state"] != "ok":
                return False
            info = each.info()
            if info["connected_slaves"] != "1" if info["role"] == "master" else info["master_link_status"] != "up":
                return False
            rows = each.ask("CLUSTER", "NODES").decode().splitlines()
            if len(rows) != 6 or any("fail" in row.split()[2] for row in rows):
                return False
        return self.master() is not None

    def by_hand(self, pause: bool = True) -> None:
        """Let an operator ask for a failover: a cluster's replica asks its master to wait, by itself."""
        self.replica().ask("CLUSTER", "FAILOVER")

    def heal(self) -> None:
        """Bring everybody back."""
        for each in self.servers:
            each.revive()
        self.agree(45)  # Sentinels whose machine stood still for a while do nothing for thirty seconds

    def close(self) -> None:
        for each in self.servers:
            each.close()


def _empty(member: Member) -> None:
    member.ask("FLUSHALL", "SYNC")
    member.ask("WAIT", 1, 2000)


def _two_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _ok(member: Member, *words: object) -> bool:
    try:
        member.ask(*words)
        return True
    except (OSError, hiredis.ReplyError):
        return False


def _lines(text: bytes) -> dict[str, str]:
    return dict(row.split(":", 1) for row in text.decode().splitlines() if ":" in row)


def _pairs(answer: list[bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in zip(answer[::2], answer[1::2])}
