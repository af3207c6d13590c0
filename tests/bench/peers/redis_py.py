"""redis-py with its defaults, hiredis installed, answers decoded to str."""

import time
from collections.abc import Callable
from functools import partial

import redis
from workload import FIELDS, HISTORY, ROWS, SENDER, Where, names

from peers import SILENCE, Heard


def mapping(values: tuple[float, ...]) -> dict[str, float | str]:
    """Return a record as it is written."""
    return {"ts": time.time(), "sender": SENDER, **dict(zip(FIELDS, values))}


def convert(answer: dict[str, str]) -> dict[str, float | str]:
    """Return a record as it was written."""
    return {field: value if field == "sender" else float(value) for field, value in answer.items()}


class Contender:
    letter = "R"  # its records begin with it

    def __init__(self, where: Where) -> None:
        self.client = redis.Redis.from_url(where.url, decode_responses=True)

    def operation(self, what: str, records: int, history: int) -> Callable[[int], object]:
        made: Callable[[int], object] = getattr(self, what)(names(self.letter, history, records), history)
        return made

    def write(self, records: list[str], history: int) -> Callable[[int], object]:
        write = self._writer(records[0], history)
        return lambda turn: write(ROWS[turn % 256])

    def _writer(self, name: str, history: int) -> Callable[[tuple[float, ...]], object]:
        client = self.client

        def write(values: tuple[float, ...]) -> None:
            record = mapping(values)
            with client.pipeline(transaction=True) as pipe:
                pipe.hset(name, mapping=record)
                pipe.xadd(f"{name}:history", record, maxlen=HISTORY, approximate=True)
                pipe.execute()

        return write if history else lambda values: client.hset(name, mapping=mapping(values))

    def flush(self, records: list[str], history: int) -> Callable[[int], object]:
        client = self.client

        def flush(turn: int) -> None:
            with client.pipeline(transaction=True) as pipe:
                for name in records:
                    record = mapping(ROWS[turn % 256])
                    pipe.hset(name, mapping=record)
                    if history:
                        pipe.xadd(f"{name}:history", record, maxlen=HISTORY, approximate=True)
                pipe.execute()

        return flush

    def one(self, records: list[str], history: int) -> Callable[[int], object]:
        read = self._reader(records[0])
        return lambda turn: convert(read())

    def _reader(self, name: str) -> Callable[[], dict[str, str]]:
        return partial(self.client.hgetall, name)  # type: ignore[arg-type]

    unchanged = one

    def read(self, records: list[str], history: int) -> Callable[[int], object]:
        client = self.client

        def read(turn: int) -> object:
            with client.pipeline(transaction=True) as pipe:
                for name in records:
                    pipe.hgetall(name)
                return [convert(answer) for answer in pipe.execute()]

        return read

    def turn(self, records: list[str], history: int) -> Callable[[int], object]:
        write, read = self.write(records, history), self.read(records, history)

        def turn(number: int) -> object:
            write(number)
            return read(number)

        return turn

    def settle(self) -> None:
        """Do nothing: what was answered is in the server."""

    def writer(self, history: int) -> Callable[[tuple[float, ...]], object]:
        return self._writer(names(self.letter, history, 1)[0], history)

    def hear(self, how: str, history: int, heard: Heard) -> None:
        (name,) = names(self.letter, history, 1)
        if how == "follow":
            return self._follow(f"{name}:history", heard)
        read = self._reader(name)
        pubsub = self.client.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(f"__keyspace@0__:{name}")
        silent_since = time.monotonic()
        while time.monotonic() - silent_since < SILENCE:
            message = pubsub.get_message(timeout=SILENCE)
            if message and message["data"] == "hset":
                silent_since = time.monotonic()
                if heard(values_of(read())):
                    return None
        return None

    def _follow(self, stream: str, heard: Heard) -> None:
        last = "$"
        while answer := self.client.xread({stream: last}, block=int(SILENCE * 1000)):
            for last, fields in answer[0][1]:  # noqa: B007 - the last one's id is where the next XREAD goes on
                if heard(values_of(fields)):
                    return

    def close(self) -> None:
        self.client.close()


def values_of(answer: dict[str, str]) -> tuple[float, ...]:
    """Return the values of a record without time and sender."""
    return tuple(convert(answer).values())[2:]  # type: ignore[return-value]
