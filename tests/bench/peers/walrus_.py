"""walrus: Hash and Stream objects over redis-py."""

from collections.abc import Callable

import walrus
from walrus import Hash, Stream
from workload import HISTORY, ROWS, Where

from peers import SILENCE, Heard, redis_py
from peers.redis_py import convert, mapping, values_of


class Contender(redis_py.Contender):
    letter = "W"

    def __init__(self, where: Where) -> None:
        self.client = self.db = walrus.Database.from_url(where.url, decode_responses=True)

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

    def _reader(self, name: str) -> Callable[[], dict[str, str]]:
        return self.db.Hash(name).as_dict  # type: ignore[no-any-return]

    def read(self, records: list[str], history: int) -> Callable[[int], object]:
        db = self.db

        def read(turn: int) -> object:
            pipe = db.get_transaction()
            for name in records:
                pipe.hgetall(name)
            return [convert(answer) for answer in db.commit_transaction()]

        return read

    def _follow(self, stream: str, heard: Heard) -> None:
        entries_of, last = self.db.Stream(stream), "$"
        while entries := entries_of.read(block=int(SILENCE * 1000), last_id=last):
            for last, fields in entries:  # noqa: B007 - the last one's id is where the next XREAD goes on
                if heard(values_of(fields)):
                    return
