"""What wakes a listener, and what does not."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from programs import Program
from records import HEAD, PAIR
from servers import OwnServer, free_port, plain_client
from shareddata import DataDict, DescriptionError, ServerRefused, SharedMemory, UnknownData

QUIET = 0.15  # seconds after which a listener that should not wake has shown that it does not


@pytest.fixture
def dd(shm: SharedMemory) -> Iterator[DataDict]:
    shm.init(PAIR)
    with DataDict("listener", shm) as dd:
        yield dd


def test_it_is_subscribed_when_it_is_made(dd: DataDict, client: redis.Redis) -> None:
    """What is written before the first step is heard, the same values too."""
    listener = dd.listen_to_datas(["LEFT"], timeout=2)
    client.hset("LEFT", "number", "0")
    assert next(listener) == [None]  # nobody has written it: its sender is empty


def test_what_a_pattern_hears_before_the_first_step_wakes(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT"], pattern="R*", timeout=2)
    client.hset("RIGHT", "number", "0")
    assert next(listener) == [None]


def test_a_plain_hset_wakes(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT", "RIGHT"], timeout=2)
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "7"})
    left, right = next(listener)
    assert (left.sender, left.number, right) == ("redis-cli", 7, None)


def test_the_same_values_wake_again(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT"], timeout=2)
    for _ in range(3):
        client.hset("LEFT", mapping={"sender": "redis-cli", "number": "7"})
        assert next(listener)[0].number == 7


def test_only_the_first_record_wakes(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT", "RIGHT"], timeout=1.2)
    for number in range(3):
        client.hset("RIGHT", mapping={"sender": "redis-cli", "number": number})
    assert list(listener) == []
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "7"})
    left, right = next(listener)
    assert (left.number, right.number) == (7, 2)


def test_a_writer_of_the_second_record_does_not_keep_it_from_ending(dd: DataDict) -> None:
    listener = dd.listen_to_datas(["LEFT", "RIGHT"], timeout=QUIET)
    (right,) = dd.set_datas_to_write(["RIGHT"])
    right.set(1, "")
    dd.flush()
    assert list(listener) == []


def test_a_pattern_is_heard_instead_of_the_first_record(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT"], pattern="RI?H*", timeout=QUIET)
    assert list(listener) == []
    client.hset("RIGHT", mapping={"sender": "redis-cli", "number": "1"})
    assert next(listener) == [None]
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "1"})
    assert list(listener) == []


@pytest.mark.parametrize("pattern", ["[^R]*", "[KL]EFT", "LEF[S-U]", "*", "L*T", "????"])
def test_globs_are_those_of_redis(dd: DataDict, client: redis.Redis, pattern: str) -> None:
    listener = dd.listen_to_datas(["RIGHT"], pattern=pattern, timeout=2)
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "1"})
    assert next(listener) == [None]


def test_keys_of_others_are_no_records(dd: DataDict, client: redis.Redis) -> None:
    """Keys that are no text, keys of the library, other types."""
    listener = dd.listen_to_datas(["LEFT"], pattern="*", timeout=QUIET)
    assert list(listener) == []
    client.config_set("notify-keyspace-events", "KEA")
    client.hset(b"\xff\xfe", "a", "b")
    client.set("some thing: else", 1)
    client.xadd("LEFT:history", {"a": 1})
    client.rpush("fifo:Q", 1)
    assert list(listener) == []
    client.hset("RIGHT", "number", "1")
    assert next(listener) == [None]


def test_a_record_that_goes_wakes(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT"], timeout=2)
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "7"})
    assert next(listener)[0].number == 7
    client.delete("LEFT")
    assert next(listener) == [None]
    client.hset("LEFT", mapping={"ts": "0.0", "sender": "redis-cli", "number": "7", "text": ""})
    assert next(listener)[0].number == 7
    client.pexpire("LEFT", 30)
    assert next(listener) == [None]


def test_a_time_to_live_alone_is_no_news(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT"], timeout=QUIET)
    assert list(listener) == []
    client.expire("LEFT", 100)
    assert list(listener) == []
    client.persist("LEFT")
    assert list(listener) == []


def test_a_flush_that_expires_wakes_once(dd: DataDict) -> None:
    listener = dd.listen_to_datas(["LEFT"], timeout=QUIET)
    (left,) = dd.set_datas_to_write(["LEFT"])
    for number in range(3):
        left.set(number, "", expire=100)
        dd.flush()
        assert next(listener)[0].number == number
        assert list(listener) == []


@pytest.mark.parametrize("size", [1, 21_800, 65_000])
def test_a_record_that_expires_as_it_is_read(own_server: Callable[..., OwnServer], kind: str, size: int) -> None:
    """Redis before 7.2 tells of it in the middle of the answer, which may come in several pieces."""
    server = own_server(kind)
    with server.client() as client, SharedMemory(url=server.url) as shm, DataDict("PROGRAM", shm) as dd:
        client.config_set("hz", 1)  # a record goes when somebody looks at it, seldom before
        shm.init(PAIR, {"LAST": PAIR["LEFT"]})
        left, right, last = dd.set_datas_to_write(["LEFT", "RIGHT", "LAST"])
        last.set(7, "x" * size)
        listener = dd.listen_to_datas(["LEFT", "RIGHT", "LAST"], pattern="*", timeout=5)
        opened = listener._connection.opened
        for number in range(10):
            right.set(number=number, expire=0.01)
            left.set(number=2 * number)
            dd.flush()
            time.sleep(0.02)  # that time goes by
            left.set(number=2 * number + 1)
            dd.flush()
            while (group := next(listener))[0].number != 2 * number + 1:
                pass
            assert group[1] is None and (group[2].number, len(group[2].text)) == (7, size)
        assert listener._connection.opened == opened, "no answer was taken for something else"


def test_the_initialisation_wakes(dd: DataDict, client: redis.Redis) -> None:
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "7"})
    listener = dd.listen_to_datas(["LEFT"], timeout=2)
    dd.shm.init(PAIR)
    assert next(listener) == [None]


def test_an_initialisation_of_others_is_no_news(dd: DataDict) -> None:
    listener = dd.listen_to_datas(["LEFT", "RIGHT"], timeout=QUIET)
    dd.shm.init({"OTHER": HEAD})
    assert list(listener) == []


def test_news_beside_a_new_description_is_not_lost(dd: DataDict, client: redis.Redis) -> None:
    """Descriptions and values arrive together; asking for the one must not lose the other."""
    listener = dd.listen_to_datas(["LEFT"], timeout=2)
    for _ in range(20):
        with client.pipeline(transaction=True) as pipe:
            pipe.incr("shareddata:epoch").hset("LEFT", "number", "0").execute()
        assert next(listener) == [None]


def test_silence_ends_it_and_it_may_go_on(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT"], timeout=0.05)
    assert list(listener) == []
    client.hset("LEFT", "number", "1")
    assert len(list(listener)) == 1


def test_nothing_to_listen_to(dd: DataDict) -> None:
    with pytest.raises(UnknownData, match="nothing to listen to"):
        dd.listen_to_datas([])
    with pytest.raises(UnknownData, match="did you mean LEFT"):
        dd.listen_to_datas(["LEFFT"])
    with pytest.raises(TypeError, match="expected a list of names"):
        dd.listen_to_datas("LEFT")


@pytest.mark.parametrize("flags", ["", "Eg", "AKE", "KEA", "Kh", "Ex"])
def test_flags_that_are_set_are_kept(dd: DataDict, client: redis.Redis, flags: str) -> None:
    client.config_set("notify-keyspace-events", flags)
    listener = dd.listen_to_datas(["LEFT"], timeout=2)
    found = client.config_get("notify-keyspace-events")["notify-keyspace-events"]
    assert set(flags) <= set(found)
    client.hset("LEFT", "number", "0")
    assert next(listener) == [None]


def test_flags_that_somebody_switches_off_later(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT"], timeout=2)
    client.config_set("notify-keyspace-events", "")
    for number in ("1", "2"):
        client.hset("LEFT", mapping={"sender": "redis-cli", "number": number})
        assert next(listener)[0].number == int(number)


def test_a_pattern_whose_flags_somebody_switches_off_later(dd: DataDict, client: redis.Redis) -> None:
    """The group's own change is seen all the same: within a second."""
    listener = dd.listen_to_datas(["LEFT"], pattern="L*", timeout=3)
    client.config_set("notify-keyspace-events", "")
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "5"})
    assert next(listener)[0].number == 5


def test_another_database(own_server: Callable[..., OwnServer]) -> None:
    server = own_server(port=free_port())
    with SharedMemory(url=f"{server.tcp_url}/3") as shm, plain_client(f"{server.tcp_url}/3") as client:
        shm.init(PAIR)
        with DataDict("listener", shm) as dd:
            one, two = dd.listen_to_datas(["LEFT"], timeout=2), dd.listen_to_datas(["RIGHT"], "LEF*", timeout=2)
            client.hset("LEFT", "number", "0")
            assert next(one) == next(two) == [None]


def test_a_namespace_with_signs_of_a_glob(url: str) -> None:
    with SharedMemory(url=url, namespace="a.b-c_1") as shm, SharedMemory(url=url, namespace="aXb-c_1") as other:
        shm.init(PAIR)
        other.init(PAIR)
        with DataDict("listener", shm) as dd, DataDict("writer", other) as stranger, DataDict("writer", shm) as friend:
            one = dd.listen_to_datas(["LEFT"], timeout=QUIET)
            two = dd.listen_to_datas(["LEFT"], pattern="*", timeout=QUIET)
            assert list(one) == list(two) == []
            (data,) = stranger.set_datas_to_write(["LEFT"])
            data.set(1, "")
            stranger.flush()
            assert list(one) == list(two) == []
            (data,) = friend.set_datas_to_write(["LEFT"])
            data.set(2, "")
            friend.flush()
            assert next(one)[0].number == next(two)[0].number == 2


NO_CONFIG: list[Any] = [
    pytest.param({"options": ("--rename-command", "CONFIG", "")}, id="renamed"),
    pytest.param({"aclfile": "user default on nopass ~* &* +@all -config\n"}, id="acl"),
]


@pytest.mark.parametrize("how", NO_CONFIG)
@pytest.mark.parametrize("pattern", [None, "LEF*", "*"])
def test_a_server_that_refuses_config(
    own_server: Callable[..., OwnServer], kind: str, how: dict[str, Any], pattern: str | None
) -> None:
    """Tracking wakes instead: the same values too, before the first step too."""
    server = own_server(kind, **how)
    with SharedMemory(url=server.url) as shm, server.client() as client:
        shm.init(PAIR)
        with DataDict("listener", shm) as dd:
            listener = dd.listen_to_datas(["LEFT", "RIGHT"], pattern, timeout=QUIET)
            client.hset("LEFT", "number", "0")
            assert next(listener) == [None, None]
            assert list(listener) == []
            for number in (3, 3, 4):
                client.hset("LEFT", mapping={"sender": "redis-cli", "number": number})
                assert next(listener)[0].number == number
            if pattern != "*":
                client.hset("RIGHT", mapping={"sender": "redis-cli", "number": "1"})
                assert list(listener) == []
            client.delete("LEFT")
            assert next(listener)[0] is None


def test_no_right_to_subscribe_is_said_at_once(own_server: Callable[..., OwnServer]) -> None:
    server = own_server(aclfile="user default on nopass ~* resetchannels +@all\n")
    with SharedMemory(url=server.url) as shm:
        shm.init(PAIR)
        with DataDict("listener", shm) as dd, pytest.raises(ServerRefused, match="NOPERM.*ACL SETUSER"):
            dd.listen_to_datas(["LEFT"])


def test_a_record_of_another_type_leaves_no_socket(dd: DataDict, client: redis.Redis) -> None:
    client.delete("LEFT")
    client.set("LEFT", "text")
    with pytest.raises(ServerRefused, match="LEFT.*WRONGTYPE"):
        dd.listen_to_datas(["LEFT"])


def test_an_incompatible_description_under_a_listener(dd: DataDict) -> None:
    listener = dd.listen_to_datas(["LEFT"], timeout=2)
    dd.shm.init({"LEFT": [*HEAD, ["number", "now a text"]]})
    with pytest.raises(DescriptionError, match="LEFT.*'number' is now str"):
        next(listener)


def test_a_compatible_description_under_a_listener(dd: DataDict, client: redis.Redis) -> None:
    listener = dd.listen_to_datas(["LEFT"], timeout=2)
    dd.shm.init({"LEFT": [*HEAD, ["more", 1.0], ["number", 5, {"unit": "V"}], ["text", ""]]})
    assert next(listener) == [None]
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "7"})
    assert next(listener)[0].number == 7


@pytest.mark.parametrize("how", ["-ERR", "flood"])
def test_a_listener_that_the_server_throws_out_comes_back(
    dd: DataDict, client: redis.Redis, program: Callable[..., Program], how: str
) -> None:
    """A listener that slept too long under a flood loses its connection; it still ends on the last value."""
    listener = dd.listen_to_datas(["LEFT"], timeout=5)
    client.hset("LEFT", mapping={"sender": "redis-cli", "number": "7"})
    if how == "flood":
        client.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 1")
        try:
            with client.pipeline(transaction=False) as pipe:
                for _ in range(40):
                    for _ in range(1000):
                        pipe.hset("LEFT", "number", "8")
                    pipe.execute()
        finally:
            client.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")
    else:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        client.hset("LEFT", "number", "8")
    assert next(listener)[0].number == 8
