"""pyzmq: publish and subscribe with CONFLATE (the newest message only); requests to a program that keeps values.

The program that keeps the newest values (`hold`) subscribes to the writer and answers requests, as in the guide's
pattern of a last value cache. CONFLATE needs messages of one part and one subscription a socket.
"""

import sys
import time
from collections.abc import Callable

import zmq
from workload import ROWS, Where, names

from peers import SILENCE, Heard
from peers.packed import pack, unpack

(NAME,) = names("Z", 0, 1)
TOPIC = NAME.encode() + b" "
SKIP = len(TOPIC)


def endpoint(where: Where, number: int) -> str:
    """Return an address: 1 the writer's values, 2 the keeper's values, 3 the keeper's answers."""
    return f"ipc://{where.folder}/z{number}" if where.transport == "unix" else f"tcp://127.0.0.1:{where.port + number}"


class Contender:
    def __init__(self, where: Where) -> None:
        self.where = where
        self.context = zmq.Context()
        self.sent = b""

    def _socket(self, kind: int, number: int, conflate: bool) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        if conflate:
            socket.setsockopt(zmq.CONFLATE, 1)
        else:
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, TOPIC)
        if kind in (zmq.PUB, zmq.REP):
            socket.bind(endpoint(self.where, number))
        else:
            socket.connect(endpoint(self.where, number))
        return socket

    def operation(self, what: str, records: int, history: int) -> Callable[[int], object]:
        made: Callable[[int], object] = getattr(self, what)()
        return made

    def write(self) -> Callable[[int], object]:
        publisher, self.asking = self._socket(zmq.PUB, 1, True), self._socket(zmq.REQ, 3, False)
        pause = 0.001

        def write(turn: int) -> None:
            self.sent = TOPIC + pack(ROWS[turn % 256])
            publisher.send(self.sent)

        while self._ask() != self.sent or not self.sent:  # until the keeper has found us
            write(0)
            time.sleep(pause)
        return write

    def _ask(self) -> bytes:
        self.asking.send(b"")
        return self.asking.recv()

    def one(self) -> Callable[[int], object]:
        self.asking = self._socket(zmq.REQ, 3, False)
        return lambda turn: unpack(self._ask(), SKIP)

    def unchanged(self) -> Callable[[int], object]:
        subscriber = self._socket(zmq.SUB, 2, True)
        latest = unpack(subscriber.recv(), SKIP)

        def unchanged(turn: int) -> object:
            nonlocal latest
            try:
                latest = unpack(subscriber.recv(zmq.NOBLOCK), SKIP)
            except zmq.Again:
                pass
            return latest

        return unchanged

    def settle(self) -> None:
        """Wait until the keeper has what was written last."""
        while self.sent and self._ask() != self.sent:
            time.sleep(0.0001)

    def writer(self, history: int) -> Callable[[tuple[float, ...]], object]:
        publisher = self._socket(zmq.PUB, 1, False)  # as followers need it: nothing is dropped
        return lambda values: publisher.send(TOPIC + pack(values))

    def hear(self, how: str, history: int, heard: Heard) -> None:
        subscriber = self._socket(zmq.SUB, 1, how != "follow")
        subscriber.setsockopt(zmq.RCVTIMEO, int(SILENCE * 1000))
        try:
            while not heard(unpack(subscriber.recv(), SKIP)[2:]):
                pass
        except zmq.Again:
            return

    def close(self) -> None:
        self.context.destroy(linger=0)

    @classmethod
    def hold(cls, where: Where, ready: Callable[[], None]) -> None:
        """Keep the newest value, publish it again, and answer who asks for it."""
        self = cls(where)
        values, again = self._socket(zmq.SUB, 1, True), self._socket(zmq.PUB, 2, True)
        answers = self._socket(zmq.REP, 3, False)
        latest = TOPIC + pack(ROWS[0])
        poller = zmq.Poller()
        for socket in (values, answers, sys.stdin.fileno()):
            poller.register(socket, zmq.POLLIN)
        ready()
        while sys.stdin.fileno() not in (ready_ones := dict(poller.poll(100))):
            if values in ready_ones:
                latest = values.recv()
            if answers in ready_ones:
                answers.recv()
                answers.send(latest)
            if not ready_ones:
                again.send(latest)  # for who came meanwhile
        self.close()
