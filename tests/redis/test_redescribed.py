"""Records that are described anew under running programs."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from programs import Program
from records import HEAD
from shareddata import DataDict, DescriptionError, SharedMemory, UnknownData
from waiting import eventually

OLD: dict[str, Any] = {"R": [*HEAD, ["number", 0], ["text", ""]], "S": [*HEAD, ["number", 0]]}
COMPATIBLE: dict[str, Any] = {
    "R": {"history": 5, "doc": "new", "fields": [*HEAD, ["text", "t"], ["more", 2.5], ["number", 7, {"unit": "V"}]]},
    "S": OLD["S"],
}
INCOMPATIBLE: list[Any] = [
    pytest.param({"R": [*HEAD, ["number", 0]], "S": OLD["S"]}, "R .*without the field 'text'", id="gone"),
    pytest.param({"R": [*HEAD, ["number", 0.0], ["text", ""]], "S": OLD["S"]}, "'number' is now float.*int", id="type"),
    pytest.param({"R": [*HEAD, ["number", 0], ["text", ["a"]]], "S": OLD["S"]}, "'text' is now list", id="list"),
]


@pytest.fixture
def other(shm: SharedMemory) -> Iterator[SharedMemory]:
    """The program that describes; `shm` is that of the running ones."""
    with SharedMemory(url=shm.url) as other:
        other.init(OLD)
        yield other


@pytest.fixture
def dd(shm: SharedMemory, other: SharedMemory) -> Iterator[DataDict]:
    with DataDict("running", shm) as dd:
        yield dd


def test_a_compatible_description_goes_on(dd: DataDict, other: SharedMemory, client: redis.Redis) -> None:
    r, s = dd.set_datas_to_write(["R", "S"])
    dd.set_datas_to_read(["R", "S"])
    r.set(1, "one")
    s.set(1)
    dd.flush()
    assert [trame.number for trame in dd.next()] == [1, 1]
    other.init(COMPATIBLE)
    r.set(2, "two")
    assert dd.flush() == 1
    assert dd.next()[0][2:] == (2, "two")
    assert client.hgetall("R") | {b"ts": b""} == {
        b"ts": b"", b"sender": b"running", b"number": b"2", b"text": b"two", b"more": b"2.5"
    }
    with DataDict("new", other) as new:
        new.set_datas_to_read(["R"])
        assert new.next()[0][2:] == ("two", 2.5, 2)
    assert dd.shm.describe("R").doc == "new"


def test_what_was_staged_before_goes_out_after(dd: DataDict, other: SharedMemory) -> None:
    (r,) = dd.set_datas_to_write(["R"])
    dd.set_datas_to_read(["R"])
    r.set(1, "one")
    other.init(COMPATIBLE)
    assert dd.flush() == 1
    assert dd.next()[0][2:] == (1, "one")


def test_limits_of_the_new_description_hold(dd: DataDict, other: SharedMemory) -> None:
    (s,) = dd.set_datas_to_write(["S"])
    s.set(99)
    dd.flush()
    other.init({"S": [*HEAD, ["number", 0, {"max": 5, "on_limit": "refuse"}]]})
    s.set(99)  # nobody told this program yet
    dd.flush()
    with pytest.raises(ValueError, match="out of limits"):
        s.set(99)


@pytest.mark.parametrize("away", ["delete", "flushall"])
def test_a_new_field_under_an_older_writer_is_read_all_the_same(
    dd: DataDict, other: SharedMemory, client: redis.Redis, away: str
) -> None:
    """The record went meanwhile, so the older writer makes it anew without the field that it doesn't know."""
    (r,) = dd.set_datas_to_write(["R"])
    r.set(1, "one")
    dd.flush()
    other.init(COMPATIBLE)
    r.set(2, "two")
    dd.flush()
    client.delete("R")
    if away == "flushall":
        client.flushall()
        other.init(COMPATIBLE)
        client.delete("R")
    r.set(3, "three")
    dd.flush()
    with DataDict("new", other) as new:
        new.set_datas_to_read(["R"])
        assert new.next()[0][2:] == ("three", 2.5, 3)


@pytest.mark.parametrize(("new", "words"), INCOMPATIBLE)
def test_an_incompatible_description_stops_writer_and_reader(
    dd: DataDict, other: SharedMemory, client: redis.Redis, new: Any, words: str
) -> None:
    r, s = dd.set_datas_to_write(["R", "S"])
    dd.set_datas_to_read(["R", "S"])
    r.set(1, "one")
    s.set(1)
    dd.flush()
    dd.next()
    other.init(new)
    before = {key: client.dump(key) for key in client.scan_iter()}
    for _ in range(3):
        r.set(2, "two")
        with pytest.raises(DescriptionError, match=words):
            dd.flush()
        with pytest.raises(DescriptionError, match=words):
            dd.next()
    assert {key: client.dump(key) for key in client.scan_iter()} == before, "something was written all the same"
    other.init(OLD)
    assert dd.flush() == 1, "what was staged is still there"
    assert dd.next()[0].number == 2


def test_exactly_between_two_flushes(dd: DataDict, other: SharedMemory, client: redis.Redis, full: bool) -> None:
    """The initialisation has returned: the next flush knows it, however quick it is."""
    (r,) = dd.set_datas_to_write(["R"])
    for round in range(1000 if full else 60):
        r.set(round, "old")
        dd.flush()
        other.init({"R": [*HEAD, ["number", ""], ["text", ""]]})
        r.set(round, "old")
        with pytest.raises(DescriptionError, match="'number' is now str"):
            dd.flush()
        assert client.hget("R", "text") == b""
        other.init(OLD)


def test_under_a_writer_at_full_speed(
    dd: DataDict, other: SharedMemory, client: redis.Redis, program: Callable[..., Program]
) -> None:
    """A flush that was under way may be carried out behind the initialisation, none after it."""
    writer = program(
        """
        with SharedMemory(url=sys.argv[1]) as shm, DataDict("w", shm) as dd:
            r, = dd.set_datas_to_write(["R"])
            say("ready")
            number = 0
            try:
                while True:
                    number += 1
                    r.set(number, "old")
                    dd.flush()
            except DescriptionError as error:
                say(number)
        """,
        other.url,
    )
    assert writer.line() == "ready"
    for _ in range(20):
        other.init(COMPATIBLE)
        other.init(OLD)
    length = client.xinfo_stream("R:history")["entries-added"]
    assert length > 0
    other.init({"R": [*HEAD, ["text", 0], ["number", 0]], "S": OLD["S"]})
    (last,) = writer.finish()
    added = client.xinfo_stream("R:history")["entries-added"]
    assert int(last) - added in (0, 1), "one flush was refused, at most; all others are in the history"


def test_a_record_that_is_not_described_any_more(dd: DataDict, other: SharedMemory) -> None:
    (r,) = dd.set_datas_to_write(["R"])
    dd.set_datas_to_read(["R"])
    r.set(1, "one")
    dd.flush()
    dd.next()
    other.init({"S": OLD["S"]}, prune=True)
    r.set(2, "two")
    with pytest.raises(UnknownData, match="'R'"):
        dd.flush()
    with pytest.raises(UnknownData, match="'R'"):
        dd.next()


def test_a_server_emptied_under_running_programs(
    dd: DataDict, other: SharedMemory, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """They go on, with a warning; a new initialisation is taken up."""
    (r,) = dd.set_datas_to_write(["R"])
    dd.set_datas_to_read(["R", "S"])
    listener = dd.listen_to_datas(["R"], timeout=2)
    follower = dd.follow_data("R", timeout=2)
    r.set(1, "one")
    dd.flush()
    assert dd.next()[0].number == next(listener)[0].number == next(follower).number == 1
    client.flushall()
    with caplog.at_level(logging.WARNING, "shareddata"):
        eventually(lambda: dd.next() == [None, None], message="the emptied records")
    assert "lost its descriptions" in caplog.text
    r.set(2, "two")
    dd.flush()
    assert dd.next()[0].number == 2 and dd.next()[1] is None
    while next(listener)[0] is None:
        pass
    assert next(follower).number == 2
    other.init({"R": [*HEAD, ["number", ""], ["text", ""]], "S": OLD["S"]})
    r.set(3, "three")
    with pytest.raises(DescriptionError, match="'number' is now str"):
        dd.flush()
    with pytest.raises(DescriptionError, match="'number' is now str"):
        dd.next()
    other.init(OLD)
    dd.flush()
    assert dd.next()[0].number == 3


def test_the_other_programs_epoch_number_may_be_the_same(
    dd: DataDict, other: SharedMemory, client: redis.Redis
) -> None:
    """After the server was emptied the count begins again: the same number means another description."""
    (r,) = dd.set_datas_to_write(["R"])
    r.set(1, "one")
    dd.flush()
    assert dd.shm.epoch() == 1
    client.flushall()
    other.init({"R": [*HEAD, ["number", ""], ["text", ""]]})
    assert dd.shm.epoch() == 1
    r.set(2, "two")
    with pytest.raises(DescriptionError, match="'number' is now str"):
        dd.flush()
    assert client.hget("R", "number") == b""
