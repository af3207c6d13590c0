"""Which of several servers is in charge: the master that Sentinels name, or the owner of a slot in a cluster.

It knows how Sentinels and the nodes of a cluster are asked, and watches their answers. It must not know what is sent
over the sockets that it hands out. Invariants:

1. A socket that is handed out leads to a server that its Sentinels, or a node of the cluster in working order, name,
   and that says itself that it is a master.
2. Who knows an older state than one that was heard of is not believed, as long as anybody knows the newer one.
3. When another server is in charge, the sockets to the former one end within a second, whatever it does: a program that
   waits for a server which is stopped, cut off or demoted is woken, and connects anew.
4. Only a replica that was asked for (`replica=1`) is handed out beside masters.

A `Master` is shared by all connections of an address, in all threads. Its thread runs as long as a socket is out.
"""

import logging
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import hiredis

from shareddata.address import Address, refusal
from shareddata.errors import ServerError, ServerRefused, ServerSetupError, ServerTimeout, ServerUnreachable
from shareddata.wire import pack

log = logging.getLogger("shareddata")

EVERY = 0.5
"""Seconds between two questions who is in charge."""

_ASK = 0.5  # seconds within which a Sentinel or a node has to answer who is in charge
_TRY = 1.0  # seconds within which the server in charge has to take a connection

_NOT_IN_CHARGE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN", "UNBLOCKED")

_all: "weakref.WeakSet[Master]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for each in list(_all):
        each._reset()


os.register_at_fork(after_in_child=_forget_in_child)


class Node(NamedTuple):
    """A server that may be connected to."""

    host: str
    port: int
    identity: str
    """What it is known by, wherever it is."""


class Told(NamedTuple):
    """What was told of who is in charge."""

    epoch: int
    """How new that is: it grows with each failover."""
    ranges: Sequence[tuple[int, int, Sequence[Node], Sequence[Node]]]
    """First and last slot, the masters of these, and the replicas that may be read."""

    def candidates(self, slot: int, replica: bool) -> Sequence[Node]:
        """Return which nodes may be connected to for a slot; none if nobody owns it."""
        for first, last, masters, replicas in self.ranges:
            if first <= slot <= last:
                return (replicas or masters) if replica else masters
        return []


class _Line:
    """A connection to ask on."""

    def __init__(self, sock: socket.socket, where: str) -> None:
        self.sock, self._where = sock, where
        self._reader = hiredis.Reader()

    def ask(self, *commands: bytes) -> list[Any]:
        """Send commands and return their answers, errors of the server among them.

        Raises:
            ServerTimeout, ServerUnreachable: no answer.
        """
        try:
            self.sock.sendall(b"".join(commands))
            return [self._answer() for _ in commands]
        except TimeoutError:
            raise ServerTimeout(f"{self._where} is silent") from None
        except OSError as error:
            raise ServerUnreachable(f"{self._where}: the connection broke ({error})") from None

    def _answer(self) -> Any:
        while (reply := self._reader.gets()) is False or isinstance(reply, hiredis.PushNotification):
            if reply is False:
                data = self.sock.recv(65536)
                if not data:
                    raise ConnectionResetError("it was closed")
                self._reader.feed(data)
        return reply


class Master:
    """The way to the server in charge of an address, for all connections to it; see `of`.

    Args:
        address: one that stands for several servers.

    Redis: to Sentinels SENTINEL GET-MASTER-ADDR-BY-NAME, SENTINEL MASTER, SENTINEL REPLICAS; to a cluster's nodes
    CLUSTER INFO, CLUSTER SLOTS; to who is in charge ROLE, READONLY.
    """

    def __init__(self, address: Address) -> None:
        assert address.several is not None
        self._address, self._several = address, address.several
        self._hosts: list[tuple[str, int]] = list(self._several.hosts)  # who answered last is asked first
        self._epoch = 0
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._sockets: dict[int, tuple[socket.socket, int, Node]] = {}
        self._stop: threading.Event | None = None

    # -- connections ----------------------------------------------------------------------------------------------

    def open(self, timeout: float, name: str, slot: int) -> socket.socket:
        """Connect to the server in charge.

        Args:
            timeout: seconds.
            name: what `CLIENT LIST` shows of this connection.
            slot: that the connection's keys are in; any where there is no cluster.

        Raises:
            ServerUnreachable, ServerTimeout: nobody tells who is in charge, or that one does not answer.
            ServerRefused, ServerSetupError: waiting would not help.
        """
        end = time.monotonic() + timeout
        line, told = self._ask_anybody(end)
        line.sock.close()
        candidates = told.candidates(slot, self._several.replica)
        if not candidates:
            raise ServerUnreachable(f"{self._address.shown}: nobody owns the slot {slot}: see `cluster info`")
        node = random.choice(candidates)
        rest = min(_TRY, max(0.05, end - time.monotonic()))
        sock = self._address.connect(self._address.node(node.host, node.port), rest, name)
        try:
            self._check(_Line(sock, f"{self._address.shown}, {node.host}:{node.port}"), node)
        except BaseException:
            sock.close()
            raise
        self._take(sock, slot, node)
        return sock

    def close(self, sock: socket.socket) -> None:
        """Close a socket that was handed out."""
        with self._lock:
            self._sockets.pop(id(sock), None)
            sock.close()
            if not self._sockets and self._stop is not None:
                self._stop.set()
                self._stop = None

    def peer(self, sock: socket.socket | None) -> Node | None:
        """Return where a socket that was handed out leads."""
        with self._lock:
            found = self._sockets.get(id(sock))
        return found and found[2]

    def moved(self, error: str) -> bool:
        """Tell whether a server's error says that it isn't in charge, or not able to act, and so did nothing."""
        code = error.rpartition("discarded because of: ")[2].partition(" ")[0]
        return code in _NOT_IN_CHARGE and not (code == "READONLY" and self._several.replica)

    def _check(self, line: _Line, node: Node) -> None:
        """Ask a server whether it is what it was said to be.

        Raises:
            ServerUnreachable: it isn't, or not yet.
        """
        replica = self._several.replica
        commands = [pack("ROLE")]
        if replica and self._several.scheme == "cluster":
            commands.append(pack("READONLY"))
        for answer in (answers := line.ask(*commands)):
            if isinstance(answer, hiredis.ReplyError):
                raise refusal(str(answer), f"{self._address.shown}, {node.host}:{node.port}")
        role = answers[0][0].decode()
        if role != "master" and not replica:
            self._hosts = self._hosts[1:] + self._hosts[:1]  # another one may know better
            raise ServerUnreachable(
                f"{self._address.shown}: {node.host}:{node.port} was said to be the master, and is a {role}: a "
                "failover is on its way: try again"
            )

    def _take(self, sock: socket.socket, slot: int, node: Node) -> None:
        """Note that a socket is out, and begin to watch who is in charge."""
        with self._lock:
            self._sockets[id(sock)] = sock, slot, node
            if self._stop is None:
                self._stop = threading.Event()
                threading.Thread(
                    target=self._watch, args=(self._stop,), name=f"shareddata {self._several.scheme}", daemon=True
                ).start()

    # -- asking ---------------------------------------------------------------------------------------------------

    def _ask_anybody(self, end: float) -> tuple[_Line, Told]:
        """Return what the first one tells who knows the newest state, and the line to it.

        Raises:
            ServerUnreachable: nobody tells anything.
            ServerRefused, ServerSetupError: one says that this user may not ask, or doesn't know the master's name.
        """
        best: tuple[_Line, Told] | None = None
        troubles: list[str] = []
        refused: ServerError | None = None
        for host in list(self._hosts):
            rest = min(_ASK, max(0.05, end - time.monotonic()))
            try:
                line, told = self._ask_one(host, rest)
            except ServerError as error:
                troubles.append(str(error).removeprefix(f"{self._address.shown}, "))
                refused = error if isinstance(error, ServerRefused | ServerSetupError) else refused
                continue
            if best is None or told.epoch > best[1].epoch:
                best, worse = (line, told), best
            else:
                worse = line, told
            if worse is not None:
                worse[0].sock.close()
            if told.epoch >= self._epoch:
                self._hosts.sort(key=lambda each: each != host)
                break
        if best is None:
            if refused is not None:
                raise refused
            whom = "the Sentinels" if self._several.scheme == "sentinel" else "the nodes of the cluster"
            raise ServerUnreachable(
                f"{self._address.shown}: none of {whom} tells who is in charge ({'; '.join(troubles)}): are they "
                "up, and do they reach each other?"
            )
        self._epoch = best[1].epoch
        return best

    def _ask_one(self, host: tuple[str, int], timeout: float) -> tuple[_Line, Told]:
        sentinel = self._several.scheme == "sentinel"
        url = self._address.sentinel(*host) if sentinel else self._address.node(*host)
        where = f"{self._address.shown}, {host[0]}:{host[1]}"
        prefix = f"{self._address.prefix}_SENTINEL" if sentinel else None
        line = _Line(self._address.connect(url, timeout, "shareddata watch", prefix), where)
        try:
            return line, self._question(line, host[0])
        except BaseException:
            line.sock.close()
            raise

    def _question(self, line: _Line, host: str) -> Told:
        """Ask one Sentinel or node who is in charge of what.

        Raises:
            ServerUnreachable, ServerTimeout: it does not answer, or knows that it doesn't know.
            ServerRefused, ServerSetupError: see `_ask_anybody`.
        """
        return self._of_sentinel(line) if self._several.scheme == "sentinel" else self._of_node(line, host)

    def _of_sentinel(self, line: _Line) -> Told:
        name = self._several.master
        commands = [pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name), pack("SENTINEL", "MASTER", name)]
        if self._several.replica:
            commands.append(pack("SENTINEL", "REPLICAS", name))
        address, state, *replicas = line.ask(*commands)
        if address is None or "No such master" in str(state):
            raise ServerSetupError(
                f"{self._address.shown}: the Sentinels know no master {name!r}: write the name that stands in their "
                "configuration, `sentinel monitor NAME ...`"
            )
        for answer in (address, state, *replicas):
            if isinstance(answer, hiredis.ReplyError):
                raise refusal(str(answer), self._address.shown)
        host, port = address[0].decode(), int(address[1])
        nodes = [_replica(_pairs(each)) for each in (replicas[0] if replicas else ())]
        masters = [Node(host, port, f"{host}:{port}")]
        epoch = int(_pairs(state).get("config-epoch", 0))
        return Told(epoch, [(0, 16383, masters, [node for node in nodes if node is not None])])

    def _of_node(self, line: _Line, asked: str) -> Told:
        info, slots = line.ask(pack("CLUSTER", "INFO"), pack("CLUSTER", "SLOTS"))
        for answer in (info, slots):
            if isinstance(answer, hiredis.ReplyError):
                if "cluster support disabled" in str(answer):
                    raise ServerSetupError(
                        f"{self._address.shown}: {asked} is no node of a cluster: use a redis:// address"
                    )
                raise refusal(str(answer), self._address.shown)
        text = info if isinstance(info, str) else info.decode()
        state = dict(row.strip().split(":", 1) for row in text.splitlines() if ":" in row)
        if state.get("cluster_state") != "ok":
            raise ServerUnreachable(f"{self._address.shown}, {asked}: it says that the cluster is down")
        ranges = []
        for first, last, *nodes in slots:
            master, *replicas = [Node((n[0] or b"").decode() or asked, int(n[1]), n[2].decode()) for n in nodes]
            ranges.append((int(first), int(last), [master], replicas))
        known = {(node.host, node.port) for *_, masters, replicas in ranges for node in (*masters, *replicas)}
        self._hosts += sorted(known - set(self._hosts))
        return Told(int(state.get("cluster_current_epoch", 0)), ranges)

    # -- watching -------------------------------------------------------------------------------------------------

    def _watch(self, stop: threading.Event) -> None:
        """Ask again and again who is in charge, and end the sockets that lead to somebody else."""
        line: _Line | None = None
        while not stop.wait(EVERY):
            try:
                if line is not None:
                    try:
                        told = self._question(line, self._hosts[0][0])
                    except ServerError:
                        line.sock.close()
                        line = None
                        self._hosts = self._hosts[1:] + self._hosts[:1]
                if line is None:
                    line, told = self._ask_anybody(time.monotonic() + 2 * _ASK)
                if told.epoch >= self._epoch:
                    self._epoch = told.epoch
                    self._end_others(told)
            except ServerError as error:
                log.debug("%s", error)
        if line is not None:
            line.sock.close()

    def _end_others(self, told: Told) -> None:
        with self._lock:
            for sock, slot, node in self._sockets.values():
                named = told.candidates(slot, self._several.replica)
                if named and node.identity not in [each.identity for each in named]:
                    log.info("%s: another server is in charge: %s:%d", self._address.shown, *named[0][:2])
                    try:
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # whoever waits on it, in any thread, is woken
                    except OSError:
                        pass  # it broke already


def of(address: Address) -> Master | None:
    """Return the way to the server in charge of an address; None for one that names its server."""
    if address.several is None:
        return None
    if address.in_charge is None:
        address.in_charge = Master(address)
    return address.in_charge  # type: ignore[no-any-return]


def slot_of(key: str) -> int:
    """Return the slot that a key is in: that of its hash tag, where it has one.

    >>> slot_of("{usv1}:GPS") == slot_of("usv1"), slot_of("123456789")
    (True, 12739)
    """
    tag = key.partition("{")[2].partition("}")
    found = (tag[0] if tag[1] and tag[0] else key).encode()
    crc = 0
    for byte in found:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


def _pairs(answer: Any) -> Mapping[str, str]:
    """Return a map that a Sentinel answered, in RESP3 or as a list."""
    items = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2])
    return {name.decode(): value.decode() for name, value in items}


def _replica(state: Mapping[str, str]) -> Node | None:
    """Return a replica that may be read, from what a Sentinel says of it."""
    if state.get("flags") != "slave" or state.get("master-link-status") != "ok":
        return None
    host, port = state["ip"], int(state["port"])
    return Node(host, port, f"{host}:{port}")
