"""The two Python contenders: this library, and redis-py as people write it.

Each class has one method for an operation of the table (`write`, `flush`, `read`, `unchanged`, `turn`, taking the
number of the turn) and the two ways to hear of a write (`listen`, `follow`). It must not know how times are taken or
printed.
"""

import time
from collections.abc import Callable, Iterator

import redis
from workload import FIELDS, HISTORY, ROWS, SENDER, description, names

from shareddata import DataDict, SharedMemory

SILENCE = 2.0  # seconds after which a listener that missed updates gives up


class Ours:
    """This library through its public interface."""

    letter = "O"

    def __init__(self, socket: str, history: int) -> None:
        self.names = names(self.letter, history)
        self.shm = SharedMemory(url=f"unix://{socket}")
        self.dicts = [DataDict(SENDER, self.shm) for _ in range(3)]
        self.writer, group, one = self.dicts
        self.datas = self.writer.set_datas_to_write(self.names)
        group.set_datas_to_read(self.names)
        one.set_datas_to_read(self.names[:1])
        self._read, self._next = group.read, one.next
        self._turn = group.next

    @classmethod
    def describe(cls, socket: str) -> None:
        """Initialise the records, once for all of these."""
        with SharedMemory(url=f"unix://{socket}") as shm:
            shm.init(*[description(cls.letter, history) for history in (0, 1)])

    def write(self, turn: int) -> None:
        self.write_values(ROWS[turn % 256])

    def write_values(self, values: tuple[float, ...]) -> None:
        self.datas[0].set(*values)
        self.writer.flush()

    def flush(self, turn: int) -> None:
        values = ROWS[turn % 256]
        for data in self.datas:
            data.set(*values)
        self.writer.flush()

    def read(self, turn: int) -> object:
        return self._read(fresh=True)

    def unchanged(self, turn: int) -> object:
        return self._next()

    def turn(self, turn: int) -> object:
        self.write(turn)
        return self._turn()

    def listen(self, ready: Callable[[], None]) -> Iterator[float]:
        group = self.writer.listen_to_datas(self.names[:1], timeout=SILENCE)
        ready()
        for (trame,) in group:
            yield trame.field_0

    def follow(self, ready: Callable[[], None]) -> Iterator[float]:
        updates = self.writer.follow_data(self.names[0], timeout=SILENCE)
        ready()
        for trame in updates:
            yield trame.field_0

    def close(self) -> None:
        for view in self.dicts:
            view.close()
        self.shm.close()


class RedisPy:
    """redis-py with its defaults, hiredis installed, answers decoded to str."""

    letter = "R"

    def __init__(self, socket: str, history: int) -> None:
        self.names = names(self.letter, history)
        self.history = history
        self.client = redis.Redis(unix_socket_path=socket, decode_responses=True)

    def _mapping(self, values: tuple[float, ...]) -> dict[str, float | str]:
        return {"ts": time.time(), "sender": SENDER, **dict(zip(FIELDS, values))}

    def _store(self, pipe: redis.Redis, name: str, mapping: dict[str, float | str]) -> None:
        pipe.hset(name, mapping=mapping)
        if self.history:
            pipe.xadd(f"{name}:history", mapping, maxlen=HISTORY, approximate=True)

    def write(self, turn: int) -> None:
        self.write_values(ROWS[turn % 256])

    def write_values(self, values: tuple[float, ...]) -> None:
        if not self.history:
            self.client.hset(self.names[0], mapping=self._mapping(values))
            return
        with self.client.pipeline(transaction=True) as pipe:
            self._store(pipe, self.names[0], self._mapping(values))
            pipe.execute()

    def flush(self, turn: int) -> None:
        with self.client.pipeline(transaction=True) as pipe:
            for name in self.names:
                self._store(pipe, name, self._mapping(ROWS[turn % 256]))
            pipe.execute()

    def _convert(self, answer: dict[str, str]) -> dict[str, float | str]:
        return {field: value if field == "sender" else float(value) for field, value in answer.items()}

    def read(self, turn: int) -> object:
        with self.client.pipeline(transaction=True) as pipe:
            for name in self.names:
                pipe.hgetall(name)
            return [self._convert(answer) for answer in pipe.execute()]

    def unchanged(self, turn: int) -> object:
        return self._convert(self.client.hgetall(self.names[0]))

    def turn(self, turn: int) -> object:
        self.write(turn)
        return self.read(turn)

    def listen(self, ready: Callable[[], None]) -> Iterator[float]:
        pubsub = self.client.pubsub()
        pubsub.subscribe(f"__keyspace@0__:{self.names[0]}")
        for message in pubsub.listen():
            if message["type"] == "subscribe":
                ready()
            elif message["data"] == "hset":
                yield self._convert(self.client.hgetall(self.names[0]))["field_0"]

    def follow(self, ready: Callable[[], None]) -> Iterator[float]:
        stream, last = f"{self.names[0]}:history", "$"
        ready()
        while answer := self.client.xread({stream: last}, block=int(SILENCE * 1000)):
            for _, entries in answer:
                for last, fields in entries:  # noqa: B007 - the last one's id is where the next XREAD goes on
                    yield self._convert(fields)["field_0"]

    def close(self) -> None:
        self.client.close()


CONTENDERS = {"shareddata": Ours, "redis-py": RedisPy}
