"""Three machines on one: network namespaces joined by a bridge, whose cables can be pulled.

It knows iproute2, and nothing of servers. Invariants:

1. Nothing is left after `close()`: no namespace, no interface.
2. Where this may not be done, `missing()` says why; nothing was changed then.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Return why there can be no such machines here, or nothing."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    name = f"sd{os.getpid()}try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    try:
        words = ["ip", "-n", name, "link", "add", "try0", "type", "veth", "peer", "name", "try1"]
        veth = subprocess.run(words, capture_output=True, text=True)
        return f"no veth pairs here: {veth.stderr.strip()}" if veth.returncode else ""
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


class Machines:
    """Three machines, with the addresses 10.x.y.1 to 3; this one has 10.x.y.254.

    Attributes:
        hosts: of each its address and the words before a command that runs there.
    """

    def __init__(self) -> None:
        number = os.getpid()
        self._net = f"10.{200 + number % 50}.{number // 50 % 250}"
        self._bridge = f"sd{number % 100000}b"
        self._names = [f"sd{number % 100000}m{i}" for i in range(3)]
        self._cables = [f"sd{number % 100000}v{i}" for i in range(3)]
        self.hosts = [(f"{self._net}.{i + 1}", ("ip", "netns", "exec", name)) for i, name in enumerate(self._names)]
        self._made: list[list[str]] = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        self._do("link", "add", self._bridge, "type", "bridge", undo=["link", "del", self._bridge])
        self._do("addr", "add", f"{self._net}.254/24", "dev", self._bridge)
        self._do("link", "set", self._bridge, "up")
        for (host, _), name, cable in zip(self.hosts, self._names, self._cables):
            self._do("netns", "add", name, undo=["netns", "del", name])
            self._do("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            self._do("link", "set", cable, "master", self._bridge)
            self._do("link", "set", cable, "up")
            self._do("-n", name, "addr", "add", f"{host}/24", "dev", "eth0")
            self._do("-n", name, "link", "set", "eth0", "up")
            self._do("-n", name, "link", "set", "lo", "up")

    def _do(self, *words: str, undo: Sequence[str] = ()) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
        if undo:
            self._made.append([*undo])

    def number(self, host: str) -> int:
        """Return which machine has an address."""
        return [each for each, _ in self.hosts].index(host)

    def cut(self, machine: int) -> None:
        """Pull a machine's cable: what is sent to it or from it vanishes."""
        self._do("link", "set", self._cables[machine], "down")

    def mend(self) -> None:
        """Put all cables back."""
        for cable in self._cables:
            self._do("link", "set", cable, "up")

    @contextmanager
    def on(self, machine: int) -> Iterator[None]:
        """Let this thread, and threads that it starts, open their sockets on a machine."""
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self._names[machine]}") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def close(self) -> None:
        while self._made:
            subprocess.run(["ip", *self._made.pop()], check=False, capture_output=True)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
