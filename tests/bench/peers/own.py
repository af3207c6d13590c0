"""This library through its public interface."""

from collections.abc import Callable

from workload import ROWS, SENDER, Where, description, names

from peers import SILENCE, Heard
from shareddata import DataDict, SharedMemory

LETTER = "O"


class Contender:
    def __init__(self, where: Where) -> None:
        self.shm = SharedMemory(url=where.url)

    @classmethod
    def describe(cls, where: Where) -> None:
        """Initialise the records."""
        with SharedMemory(url=where.url) as shm:
            shm.init(*[description(LETTER, history) for history in (0, 1)])

    def operation(self, what: str, records: int, history: int) -> Callable[[int], object]:
        made: Callable[[int], object] = getattr(self, what)(names(LETTER, history, records))
        return made

    def write(self, records: list[str]) -> Callable[[int], object]:
        dd = DataDict(SENDER, self.shm)
        (data,) = dd.set_datas_to_write(records)

        def write(turn: int) -> None:
            data.set(*ROWS[turn % 256])
            dd.flush()

        return write

    def flush(self, records: list[str]) -> Callable[[int], object]:
        dd = DataDict(SENDER, self.shm)
        datas = dd.set_datas_to_write(records)

        def flush(turn: int) -> None:
            values = ROWS[turn % 256]
            for data in datas:
                data.set(*values)
            dd.flush()

        return flush

    def one(self, records: list[str]) -> Callable[[int], object]:
        return self.read(records)

    def read(self, records: list[str]) -> Callable[[int], object]:
        dd = DataDict(SENDER, self.shm)
        dd.set_datas_to_read(records)
        return lambda turn: dd.read(fresh=True)

    def unchanged(self, records: list[str]) -> Callable[[int], object]:
        dd = DataDict(SENDER, self.shm)
        dd.set_datas_to_read(records)
        return lambda turn: dd.next()

    def turn(self, records: list[str]) -> Callable[[int], object]:
        write = self.write(records[:1])
        dd = DataDict(SENDER, self.shm)
        dd.set_datas_to_read(records)

        def turn(number: int) -> object:
            write(number)
            return dd.next()

        return turn

    def settle(self) -> None:
        """Do nothing: what a flush returned is in the server."""

    def writer(self, history: int) -> Callable[[tuple[float, ...]], object]:
        dd = DataDict(SENDER, self.shm)
        (data,) = dd.set_datas_to_write(names(LETTER, history, 1))

        def write(values: tuple[float, ...]) -> None:
            data.set(*values)
            dd.flush()

        return write

    def hear(self, how: str, history: int, heard: Heard) -> None:
        dd = DataDict(SENDER, self.shm)
        (name,) = names(LETTER, history, 1)
        if how == "follow":
            for trame in dd.follow_data(name, timeout=SILENCE):
                if heard(trame[2:]):
                    return
            return
        for (trame,) in dd.listen_to_datas([name], timeout=SILENCE):
            if heard(trame[2:]):
                return

    def close(self) -> None:
        self.shm.close()
