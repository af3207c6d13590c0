"""Who hands large arrays over and has no other figures here than the common table's: walrus, pyzmq, eclipse-zenoh, p4p.

As in `arraypeers`: `write(value)` in one process, `read()` in another one, called when there is something. Their own
servers are at the address given: beside the socket, or at the ports behind the Redis server's.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import p4p.client.thread
import p4p.nt
import p4p.server
import p4p.server.thread
import walrus
import zenoh
import zmq

NAME = "arrays"


class Walrus:
    """The array's bytes, set and got as an item of the database."""

    def __init__(self, address: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.db = walrus.Database.from_url(address)

    def write(self, value: Any) -> None:
        self.db[NAME] = value.tobytes()

    def read(self) -> Any:
        return np.frombuffer(self.db[NAME], self.dtype).reshape(self.shape)

    def close(self) -> None:
        self.db.close()


class ZeroMQ:
    """PUSH and PULL, the array's own memory is sent and received without a copy in Python."""

    def __init__(self, address: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.endpoint = place(address, "ipc://{}/arrays.zmq", "tcp://127.0.0.1:{}", 1)
        self.context, self.socket = zmq.Context(), None

    def write(self, value: Any) -> None:
        if self.socket is None:
            self.socket = self.context.socket(zmq.PUSH)
            self.socket.connect(self.endpoint)  # so that it may be sent before anybody is there
        self.socket.send(value, copy=False)

    def read(self) -> Any:
        if self.socket is None:
            self.socket = self.context.socket(zmq.PULL)
            self.socket.bind(self.endpoint)
        return np.frombuffer(self.socket.recv(copy=False).buffer, self.dtype).reshape(self.shape)

    def close(self) -> None:
        self.context.destroy(linger=0)


class Zenoh:
    """A queryable of the writer's that answers with the newest array; the reader gets it."""

    def __init__(self, address: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.endpoint = place(address, "unixsock-stream/{}/arrays.zenoh", "tcp/127.0.0.1:{}", 2)
        self.session: Any = None
        self.newest = b""

    def _open(self, listens: bool) -> Any:
        config = zenoh.Config()
        settings = {"mode": '"peer"', "scouting/multicast/enabled": "false", "scouting/gossip/enabled": "false"}
        settings["listen/endpoints"] = f'["{self.endpoint}"]' if listens else "[]"
        settings["connect/endpoints"] = "[]" if listens else f'["{self.endpoint}"]'
        for path, value in settings.items():
            config.insert_json5(path, value)
        self.session = zenoh.open(config)
        return self.session

    def write(self, value: Any) -> None:
        self.newest = value.tobytes()
        if self.session is None:
            answer = lambda query: query.reply(NAME, self.newest)  # noqa: E731
            self.queryable = self._open(True).declare_queryable(NAME, answer)

    def read(self) -> Any:
        session = self.session or self._open(False)
        while not (replies := list(session.get(NAME))):
            pass  # until the two have found each other
        return np.frombuffer(replies[0].ok.payload.to_bytes(), self.dtype).reshape(self.shape)

    def close(self) -> None:
        if self.session:
            self.session.close()


class Pva:
    """A PV of the writer's with an array; the reader gets it. By TCP in any case."""

    def __init__(self, address: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.port = int(place(address, "{}/arrays.port", "{}", 3, fixed=True))
        self.pv: Any = None
        self.context: Any = None

    def write(self, value: Any) -> None:
        if self.pv is None:
            kind = p4p.nt.NTScalar("aH" if self.dtype.itemsize == 2 else "aB")
            self.pv = p4p.server.thread.SharedPV(nt=kind, initial=value.reshape(-1))
            provider = p4p.server.StaticProvider("arrays")
            provider.add(NAME, self.pv)
            conf = {"EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1", "EPICS_PVAS_SERVER_PORT": str(self.port)}
            conf |= {"EPICS_PVAS_BROADCAST_PORT": str(self.port + 1), "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO"}
            self.server = p4p.server.Server(providers=[provider], conf=conf, useenv=False)
        else:
            self.pv.post(value.reshape(-1))

    def read(self) -> Any:
        if self.context is None:
            conf = {"EPICS_PVA_NAME_SERVERS": f"127.0.0.1:{self.port}", "EPICS_PVA_ADDR_LIST": ""}
            conf |= {"EPICS_PVA_AUTO_ADDR_LIST": "NO", "EPICS_PVA_BROADCAST_PORT": str(self.port + 2)}
            self.context = p4p.client.thread.Context("pva", conf=conf, useenv=False)
        return np.asarray(self.context.get(NAME)).reshape(self.shape)

    def close(self) -> None:
        if self.context:
            self.context.close()
        if self.pv is not None:
            self.server.stop()


PORT = 31_700
"""The first port of who has no unix sockets; others are counted from the Redis server's."""


def place(address: str, in_folder: str, at_port: str, number: int, fixed: bool = False) -> str:
    """Return an address of a contender's own: in the folder of the Redis server's socket, or at a port behind it."""
    url = urlparse(address)
    if fixed:
        return at_port.format(PORT + 10 * (url.scheme != "unix") + number)
    if url.scheme == "unix":
        return in_folder.format(Path(url.path).parent)
    return at_port.format((url.port or 0) + number)


CONTENDERS = {"walrus": Walrus, "pyzmq": ZeroMQ, "eclipse-zenoh": Zenoh, "p4p": Pva}
