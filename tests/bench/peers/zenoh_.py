"""eclipse-zenoh: two peers on a fixed address, no router; puts, a callback, a queryable, a publisher's cache.

Nothing is dropped (CongestionControl.BLOCK): the last value must arrive.
"""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import zenoh
from workload import HISTORY, ROWS, Where, names
from zenoh import ext

from peers import SILENCE, Heard
from peers.packed import pack, unpack

KEY = "bench/" + names("E", 0, 1)[0]
KEPT = "bench/kept"


def session(where: Where, listens: bool) -> Any:
    """Open a session: one side listens, the others connect, and try again until it is there."""
    address = f"unixsock-stream/{where.folder}/e" if where.transport == "unix" else f"tcp/127.0.0.1:{where.port + 4}"
    settings = {
        "mode": '"peer"',
        "timestamping/enabled": "true",
        "scouting/multicast/enabled": "false",
        "scouting/gossip/enabled": "false",
        "listen/endpoints": f'["{address}"]' if listens else "[]",
        "connect/endpoints": "[]" if listens else f'["{address}"]',
        "connect/timeout_ms": "-1",
        "connect/exit_on_failure": "false",
        "connect/retry": '{ period_init_ms: 20, period_max_ms: 50, period_increase_factor: 1 }',
    }
    config = zenoh.Config()
    for path, value in settings.items():
        config.insert_json5(path, value)
    return zenoh.open(config)


class Contender:
    def __init__(self, where: Where) -> None:
        self.where = where
        self.sent = b""
        self.made: Any = None

    def _session(self, listens: bool) -> Any:
        self.made = self.made or session(self.where, listens)
        return self.made

    def operation(self, what: str, records: int, history: int) -> Callable[[int], object]:
        made: Callable[[int], object] = getattr(self, what)(history)
        return made

    def _publisher(self, history: int) -> Any:
        made, block = self._session(True), zenoh.CongestionControl.BLOCK
        if not history:
            return made.declare_publisher(KEY, congestion_control=block)
        cache = ext.CacheConfig(max_samples=HISTORY)
        return ext.declare_advanced_publisher(made, KEY, congestion_control=block, cache=cache)

    def write(self, history: int) -> Callable[[int], object]:
        publisher = self._publisher(history)

        def write(turn: int) -> None:
            self.sent = pack(ROWS[turn % 256])
            publisher.put(self.sent)

        write(0)
        while self._ask() != self.sent:  # until the keeper has found us
            time.sleep(0.01)
            write(0)
        return write

    def _ask(self) -> bytes:
        for reply in self._session(True).get(KEPT):
            return bytes(reply.ok.payload.to_bytes())
        return b""

    def one(self, history: int) -> Callable[[int], object]:
        return lambda turn: unpack(self._ask())

    def unchanged(self, history: int) -> Callable[[int], object]:
        latest: dict[str, Any] = {}

        def keep(sample: Any) -> None:
            latest[KEY] = unpack(sample.payload.to_bytes())

        self.subscriber = self._session(True).declare_subscriber(f"{KEPT}/again", keep)
        while KEY not in latest:
            time.sleep(0.01)
        return lambda turn: latest[KEY]

    def settle(self) -> None:
        """Wait until the keeper has what was written last."""
        while self.sent and self._ask() != self.sent:
            time.sleep(0.0001)

    def writer(self, history: int) -> Callable[[tuple[float, ...]], object]:
        publisher = self._publisher(history)
        return lambda values: publisher.put(pack(values))

    def hear(self, how: str, history: int, heard: Heard) -> None:
        if how == "slow":
            return self._hear_slowly(heard)
        over, last = threading.Event(), [time.monotonic()]

        def take(sample: Any) -> None:
            last[0] = time.monotonic()
            if heard(unpack(sample.payload.to_bytes())[2:]):
                over.set()

        subscriber = self._session(False).declare_subscriber(KEY, take)
        while not over.wait(0.1) and time.monotonic() - last[0] < SILENCE:
            pass
        subscriber.undeclare()
        return None

    def _hear_slowly(self, heard: Heard) -> None:
        """Take the newest of a ring of one: a callback that takes its time would hold the writer up."""
        subscriber = self._session(False).declare_subscriber(KEY, zenoh.handlers.RingChannel(1))
        silent_since = time.monotonic()
        while time.monotonic() - silent_since < SILENCE:
            if (sample := subscriber.try_recv()) is None:
                time.sleep(0.0005)
                continue
            silent_since = time.monotonic()
            if heard(unpack(sample.payload.to_bytes())[2:]):
                return

    def close(self) -> None:
        if self.made:
            self.made.close()

    @classmethod
    def hold(cls, where: Where, ready: Callable[[], None]) -> None:
        """Keep the newest value and answer who asks for it."""
        latest = [pack(ROWS[0])]

        def keep(sample: Any) -> None:
            latest[0] = sample.payload.to_bytes()

        with session(where, False) as made:
            values = made.declare_subscriber(KEY, keep)
            answers = made.declare_queryable(KEPT, lambda query: query.reply(KEPT, latest[0]))
            again = made.declare_publisher(f"{KEPT}/again")
            stop = threading.Thread(target=sys.stdin.read, daemon=True)
            stop.start()
            ready()
            while stop.is_alive():
                again.put(latest[0])  # for who came meanwhile
                stop.join(0.2)
            values.undeclare()
            answers.undeclare()
