"""walrus: Hash and Stream objects over redis-py."""

import time
from collections.abc import Callable

import walrus
from walrus import Hash, Stream
from workload import HISTORY, ROWS, Where, names

from peers import SILENCE, Heard
from peers.redis_py import convert, mapping, values_of

LETTER = "W"


class Contender:
    def __init__(self, where: Where) -> None:
        self.db = walrus.Database.from_url(where.url, decode_responses=True)

    def operation(self, what: str, records: int, history: int) -> Callable[[int], object]:
        made: Callable[[int], object] = getattr(self, what)(names(LETTER, history, records), history)
        return made

    def write(self, records: list[str], history: int) -> Callable[[int], object]:
        write = self._writer(records[0], history)
        return lambda turn: write(ROWS[turn % 256])

    def _writer(self, name: str, history: int) -> Callable[[tuple[float, ...]], object]:
        db, record = self.db, self.db.Hash(name)

        def write(values: tuple[float, ...]) -> None:
            fields = mapping(values)
            with db.atomic() as transaction:
                Hash(transaction.pipe, name).update(fields)
                Stream(transaction.pipe, f"{name}:history").add(fields, maxlen=HISTORY)

        return write if history else lambda values: record.update(mapping(values))

    def flush(self, records: list[str], history: int) -> Callable[[int], object]:
        db = self.db

        def flush(turn: int) -> None:
            with db.atomic() as transaction:
                for name in records:
                    fields = mapping(ROWS[turn % 256])
                    Hash(transaction.pipe, name).update(fields)
                    if history:
                        Stream(transaction.pipe, f"{name}:history").add(fields, maxlen=HISTORY)

        return flush

    def one(self, records: list[str], history: int) -> Callable[[int], object]:
        record = self.db.Hash(records[0])
        return lambda turn: convert(record.as_dict())

    unchanged = one

    def read(self, records: list[str], history: int) -> Callable[[int], object]:
        db = self.db

        def read(turn: int) -> object:
            pipe = db.get_transaction()
            for name in records:
                pipe.hgetall(name)
            return [convert(answer) for answer in db.commit_transaction()]

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
        return self._writer(names(LETTER, history, 1)[0], history)

    def hear(self, how: str, history: int, heard: Heard) -> None:
        (name,) = names(LETTER, history, 1)
        if how == "follow":
            return self._follow(self.db.Stream(f"{name}:history"), heard)
        record, pubsub = self.db.Hash(name), self.db.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(f"__keyspace@0__:{name}")
        silent_since = time.monotonic()
        while time.monotonic() - silent_since < SILENCE:
            message = pubsub.get_message(timeout=SILENCE)
            if message and message["data"] == "hset":
                silent_since = time.monotonic()
                if heard(values_of(record.as_dict())):
                    return None
        return None

    def _follow(self, stream: Stream, heard: Heard) -> None:
        last = "$"
        while entries := stream.read(block=int(SILENCE * 1000), last_id=last):
            for last, fields in entries:  # noqa: B007 - the last one's id is where the next XREAD goes on
                if heard(values_of(fields)):
                    return

    def close(self) -> None:
        self.db.close()
