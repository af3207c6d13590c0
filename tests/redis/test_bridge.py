"""What all bridges do, without another system: what goes out and what is written, and that all of it is counted."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from servers import empty
from shareddata import DataDict, SharedMemory
from shareddata.handler import Handler
from shareddata.incoming import Incoming
from shareddata.outgoing import Outgoing, Update
from shareddata.tally import Tally

HEAD = [["ts", 0.0], ["sender", ""]]
OVEN = [*HEAD, ["temperature", 0.0], ["cycle", 0], ["mode", "off"]]
PLAIN = {"history": 0, "fields": OVEN}
DESCRIPTION = {"OVEN__measures": OVEN, "OVEN__plain": PLAIN, "OVEN__command": OVEN, "FAN__plain": PLAIN}


@pytest.fixture
def url(servers: Any) -> str:
    """One kind of server is enough here: what differs between them is tested below the bridge."""
    empty(servers["valkey"].url)
    return str(servers["valkey"].url)


@pytest.fixture
def handler(shm: SharedMemory) -> Iterator[Handler]:
    """The bridge's side of it."""
    shm.init(DESCRIPTION)
    with DataDict("BRIDGE", shm) as dd:
        yield Handler(shm, dd, SimpleNamespace(requested=False), pytest.fail)  # type: ignore[arg-type]


@pytest.fixture
def write(url: str, shm: SharedMemory) -> Iterator[Callable[..., None]]:
    """Write a record as another program: `write("OVEN__measures", cycle=1)`."""
    datas: dict[str, Any] = {}
    with SharedMemory(url=url) as own, DataDict("HDL_OVEN", own) as dd:

        def one(name: str, **values: Any) -> None:
            if name not in datas:
                (datas[name],) = dd.set_datas_to_write([name])
            datas[name].set(**values)
            dd.flush()

        yield one


@pytest.fixture
def outgoing(handler: Handler) -> Iterator[Callable[..., tuple[Outgoing, list[Update]]]]:
    """Begin to hand over: `outgoing("OVEN__*")` returns what does it, and what was handed over."""
    made = []

    def begin(*patterns: str) -> tuple[Outgoing, list[Update]]:
        heard: list[Update] = []
        made.append(Outgoing(handler, patterns, heard.append, Tally()))
        made[-1].start()
        return made[-1], heard

    yield begin
    for each in made:
        each.close()


@pytest.fixture
def incoming(handler: Handler) -> Iterator[Incoming]:
    made = Incoming(handler, ["OVEN__command"], Tally())
    yield made
    made.close()


def cycles(heard: list[Update]) -> list[int]:
    return [update.trame.cycle for update in list(heard)]


def test_a_record_that_is_gone_or_described_anew_is_told_as_it_was(
    shm: SharedMemory, write: Any, outgoing: Any, eventually: Any
) -> None:
    _, heard = outgoing("OVEN__*")
    for name in ("OVEN__measures", "OVEN__plain"):
        write(name, cycle=7, mode="on")
    eventually(lambda: len(heard) == 2)
    other = [*HEAD, ["mode", 0, {"max": 3}], ["more", ""], ["temperature", ""], ["cycle", ""], ["last", 0, {"max": 1}]]
    shm.init({"OVEN__measures": other, "OVEN__command": OVEN}, prune=True)
    eventually(lambda: len(heard) == 4)
    for update in heard[2:]:
        assert update.stale and update.trame[2:] == (0.0, 7, "on")
        assert [field.name for field in update.record.fields[2:]] == ["temperature", "cycle", "mode"]
    with DataDict("NEW", shm) as dd:
        (measures,) = dd.set_datas_to_write(["OVEN__measures"])
        measures.set(2, "m", "hot", "c", 1)
        dd.flush()
    eventually(lambda: len(heard) == 5)
    assert not heard[4].stale and heard[4].trame.temperature == "hot" and heard[4].record.fields[2].name == "mode"


def test_a_value_goes_out_once_more_when_its_description_changed(
    shm: SharedMemory, write: Any, outgoing: Any, eventually: Any
) -> None:
    _, heard = outgoing("OVEN__plain")
    write("OVEN__plain", cycle=7)
    eventually(lambda: len(heard) == 1)
    fields = [*OVEN[:2], ["temperature", 0.0, {"unit": "degC"}], *OVEN[3:]]
    shm.init({**DESCRIPTION, "OVEN__plain": {"history": 0, "fields": fields}}, keep=True)
    eventually(lambda: len(heard) == 2)
    assert heard[1].record.fields[2].unit == "degC" and cycles(heard) == [7, 7]


def test_no_update_is_left_out_where_records_are_described_anew(
    shm: SharedMemory, write: Any, outgoing: Any, eventually: Any
) -> None:
    _, heard = outgoing("OVEN__measures")
    write("OVEN__measures", cycle=-1)
    eventually(lambda: cycles(heard) == [-1])
    for number in range(400):
        write("OVEN__measures", cycle=number)
        if number % 40 == 0:
            shm.init({f"NEW__{number}": OVEN})
    eventually(lambda: heard[-1].trame.cycle == 399)
    assert cycles(heard) == [*range(-1, 400)]


def test_what_was_written_while_it_began_comes_once_and_in_order(
    write: Any, outgoing: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = Outgoing._follow

    def followed(*arguments: Any) -> None:
        follow(*arguments)
        for number in range(1, 4):  # after it has its place in the history, and before it reads the record
            write("OVEN__measures", cycle=number)

    monkeypatch.setattr(Outgoing, "_follow", followed)
    _, heard = outgoing("OVEN__measures")
    eventually(lambda: heard)
    write("OVEN__measures", cycle=4)
    eventually(lambda: 4 in cycles(heard))
    assert cycles(heard) == [3, 4]


def test_what_was_written_before_the_end_goes_out(write: Any, outgoing: Any, eventually: Any) -> None:
    bridge, heard = outgoing("OVEN__*")
    for name in ("OVEN__measures", "OVEN__plain"):
        write(name, cycle=0)
    eventually(lambda: len(heard) == 2)
    for name in ("OVEN__measures", "OVEN__plain"):
        write(name, cycle=1)
    bridge.close()
    assert sorted(cycles(heard)) == [0, 0, 1, 1]


def test_damage_is_counted_once(url: str, write: Any, outgoing: Any, eventually: Any) -> None:
    from servers import plain_client

    bridge, heard = outgoing("*")
    with plain_client(url) as redis:
        redis.hset("OVEN__plain", mapping={"sender": "C", "temperature": "hot"})
        eventually(lambda: bridge._tally.counts()["missed"])
        for number in range(3):  # it is looked at some times more
            write("FAN__plain", cycle=number)
            eventually(lambda number=number: number in cycles(heard))
        bridge.close()
        assert bridge._tally.counts()["missed"] == 1


# -- in -------------------------------------------------------------------------------------------------------------


def command(shm: SharedMemory) -> Any:
    with DataDict("READER", shm) as dd:
        dd.set_datas_to_read(["OVEN__command"])
        return dd.next()[0]


def test_who_sends_without_a_pause_does_not_keep_the_program_busy(handler: Handler) -> None:
    incoming, read = Incoming(handler, ["OVEN__command"], Tally()), handler.read

    def sent_meanwhile() -> Any:
        assert incoming._tally.counts()["received"] < 10, "it does not end"
        incoming.put("OVEN__command", {"cycle": 1})
        return read()

    handler.read = sent_meanwhile  # type: ignore[method-assign]
    sent_meanwhile()
    for _ in range(3):
        incoming.work()
    incoming.close()
    counts = incoming._tally.counts()
    assert [counts[name] for name in ("received", "written", "refused")] == [4, 3, 1], "the last one at the end"


def test_what_waits_for_the_server_is_not_replaced_by_older_values(
    shm: SharedMemory, incoming: Incoming, handler: Handler
) -> None:
    now = shm.clock.now()
    incoming.put("OVEN__command", {"cycle": 1, "mode": "first"}, now - 9)
    incoming.work()
    handler._retry_at = float("inf")  # the server is away
    incoming.put("OVEN__command", {"cycle": 2}, now - 1)
    incoming.put("OVEN__command", {"mode": "newest"}, now)
    incoming.put("OVEN__command", {"cycle": 3, "mode": "older"}, now - 5)
    incoming.work()
    assert command(shm).cycle == 1
    handler._retry_at = 0.0
    incoming.work()
    assert command(shm)[2:] == (0.0, 2, "newest") and command(shm).ts == now
    counts = incoming._tally.counts()
    assert [counts[name] for name in ("received", "written", "replaced", "known")] == [4, 2, 1, 1]


def test_values_that_come_one_by_one_are_compared_one_by_one(shm: SharedMemory, incoming: Incoming) -> None:
    now = shm.clock.now()
    for name, value, ts in (
        *(("cycle", 1, now - 5), ("mode", "on", now - 9), ("cycle", 2, now - 6)),
        *(("cycle", 3, now + 9e5), ("cycle", 4, now)),
    ):
        incoming.put("OVEN__command", {name: value}, ts, part=True)
        incoming.work()
    assert command(shm)[2:] == (0.0, 4, "on"), "a wrong clock does not lock out what comes later"
    counts = incoming._tally.counts()
    assert [counts[name] for name in ("received", "written", "known", "refused")] == [5, 3, 1, 1]


def test_numbers_that_json_does_not_know_come_in_within_arrays_too(shm: SharedMemory) -> None:
    pytest.importorskip("numpy", reason="numpy is not installed")
    shm.init({"A": [*HEAD, ["a", 0.0, {"dtype": "<f4", "shape": [2, 2]}], ["n", [], {}]]})
    with DataDict("BRIDGE", shm) as dd:
        handler = Handler(shm, dd, SimpleNamespace(requested=False), pytest.fail)  # type: ignore[arg-type]
        incoming = Incoming(handler, ["A"], Tally())
        incoming.put("A", {"a": [[1, "NaN"], ["-Infinity", 2]], "n": ["NaN"]})
        incoming.work()
        dd.set_datas_to_read(["A"])
        trame = dd.next()[-1]
        assert str(trame.a.tolist()) == "[[1.0, nan], [-inf, 2.0]]" and trame.n == ["NaN"]
        incoming.close()


def test_messages_of_others_do_not_flood_the_log(incoming: Incoming, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        incoming.refuse("x/set", f"it has {'y' * 100_000}{number}")
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert len(caplog.text) < 6000
