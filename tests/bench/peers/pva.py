"""p4p: EPICS pvAccess. The program that writes has the PVs, as an input-output controller; others monitor them."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from p4p import Type, Value
from p4p.client.thread import Context, Disconnected
from p4p.server import Server, StaticProvider
from p4p.server.thread import SharedPV
from workload import FIELDS, ROWS, SENDER, Trame, Where, names

from peers import SILENCE, Heard

(NAME,) = names("P", 0, 1)
KEPT = f"{NAME}:kept"
WARMING_UP = (0.0, -1.0, *ROWS[0][2:])  # what a monitor hears first: not one of the numbered values
TYPE = Type([("ts", "d"), ("sender", "s"), *[(field, "d") for field in FIELDS]])


def record(values: tuple[float, ...]) -> Value:
    """Return a record as it is posted."""
    return Value(TYPE, {"ts": time.time(), "sender": SENDER, **dict(zip(FIELDS, values))})


def trame(value: Value) -> Trame:
    """Return a record as it was posted."""
    return Trame(**value.todict())


def serve(pv: SharedPV, name: str, port: int) -> Server:
    """Serve one PV at a port."""
    provider = StaticProvider("bench")
    provider.add(name, pv)
    conf = {
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_SERVER_PORT": str(port),
        "EPICS_PVAS_BROADCAST_PORT": str(port + 2),
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
    }
    return Server(providers=[provider], conf=conf, useenv=False)


def client(*ports: int) -> Context:
    """Return a client of servers at these ports, found without broadcasts."""
    addresses = " ".join(f"127.0.0.1:{port}" for port in ports)
    conf = {
        "EPICS_PVA_NAME_SERVERS": addresses,
        "EPICS_PVA_ADDR_LIST": "",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": str(max(ports) + 5),
    }
    return Context("pva", conf=conf, useenv=False, nt=False)


class Contender:
    def __init__(self, where: Where) -> None:
        self.writes_at, self.keeps_at = where.port + 5, where.port + 6
        self.pv: SharedPV | None = None
        self.context: Context | None = None
        self.server: Server | None = None
        self.sent = 0.0

    def operation(self, what: str, records: int, history: int) -> Callable[[int], object]:
        self.context = self.context or client(self.keeps_at)
        made: Callable[[int], object] = getattr(self, what)()
        return made

    def _pv(self) -> SharedPV:
        if self.pv is None:
            self.pv = SharedPV(initial=record(WARMING_UP))
            self.server = serve(self.pv, NAME, self.writes_at)
        return self.pv

    def write(self) -> Callable[[int], object]:
        pv = self._pv()

        def write(turn: int) -> None:
            value = record(ROWS[turn % 256])
            self.sent = value.ts
            pv.post(value)

        write(0)
        self.settle()  # until the keeper has found us
        return write

    def one(self) -> Callable[[int], object]:
        context = self.context
        return lambda turn: trame(context.get(KEPT))  # type: ignore[union-attr]

    def unchanged(self) -> Callable[[int], object]:
        latest: dict[str, Trame] = {}

        def keep(value: Any) -> None:
            if not isinstance(value, Exception):
                latest[NAME] = trame(value)

        self.monitor = self.context.monitor(KEPT, keep)  # type: ignore[union-attr]
        while NAME not in latest:
            time.sleep(0.01)
        return lambda turn: latest[NAME]

    def settle(self) -> None:
        """Wait until the keeper has what was written last."""
        while self.sent and self.context.get(KEPT).ts != self.sent:  # type: ignore[union-attr]
            time.sleep(0.0001)

    def writer(self, history: int) -> Callable[[tuple[float, ...]], object]:
        pv = self._pv()
        return lambda values: pv.post(record(values))

    def hear(self, how: str, history: int, heard: Heard) -> None:
        over, last = threading.Event(), [time.monotonic()]

        def take(value: Any) -> None:
            if isinstance(value, Disconnected):
                return
            last[0] = time.monotonic()
            if heard(tuple(value.todict().values())[2:]):
                over.set()

        request = "record[queueSize=10000]" if how == "follow" else ""
        self.context = client(self.writes_at)
        subscription = self.context.monitor(NAME, take, request=request, notify_disconnect=True)
        while not over.wait(0.1) and time.monotonic() - last[0] < SILENCE:
            pass
        subscription.close()

    def close(self) -> None:
        if self.context:
            self.context.close()
        if self.server:
            self.server.stop()

    @classmethod
    def hold(cls, where: Where, ready: Callable[[], None]) -> None:
        """Keep the newest value as a PV of its own."""
        self = cls(where)
        kept = SharedPV(initial=record(WARMING_UP))

        def keep(value: Any) -> None:
            if not isinstance(value, Exception):
                kept.post(Value(TYPE, value.todict()))

        with serve(kept, KEPT, self.keeps_at), client(self.writes_at) as context:
            subscription = context.monitor(NAME, keep)
            ready()
            sys.stdin.read()
            subscription.close()
