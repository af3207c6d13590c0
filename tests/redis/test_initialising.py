"""Initialising: one transaction that blanks what it describes and leaves the rest."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from programs import Program
from records import HEAD, PAIR, PLAIN
from servers import OwnServer
from shareddata import (
    DataDict,
    DecodeError,
    DescriptionError,
    NotInitialized,
    ServerSetupError,
    SharedMemory,
    UnknownData,
)


def content(client: redis.Redis) -> dict[bytes, Any]:
    """Return everything that the server holds."""
    return {key: client.dump(key) for key in client.scan_iter(count=1000)}


def fill(shm: SharedMemory, *names: str) -> None:
    with DataDict("writer", shm) as dd:
        for data in dd.set_datas_to_write(names):
            data.set(number=5)
        dd.flush()


def test_what_stands_in_the_server(shm: SharedMemory, client: redis.Redis) -> None:
    assert shm.epoch() == 0
    assert shm.names() == []
    assert shm.init(PLAIN, PAIR, flag="READY") == ["ALONE", "LOGGED", "LEFT", "RIGHT"]
    assert client.hgetall("LEFT") == {b"ts": b"0.0", b"sender": b"", b"number": b"0", b"text": b""}
    assert json.loads(client.hget("shareddata:datadesc", "ALONE")) == PLAIN["ALONE"]
    assert client.get("shareddata:format") == b"1"
    assert client.get("shareddata:epoch") == b"1"
    assert client.get("READY") == b"OK"
    assert client.dbsize() == 4 + 4
    assert shm.names() == ["ALONE", "LEFT", "LOGGED", "RIGHT"]
    assert shm.epoch() == 1


def test_only_what_is_described_is_blanked(shm: SharedMemory, client: redis.Redis) -> None:
    shm.init(PAIR, PLAIN)
    fill(shm, "LEFT", "RIGHT", "LOGGED")
    client.set("somebody's", "own")
    client.hset("LEFT", "colour", "green")
    shm.init({"LEFT": PAIR["LEFT"]})
    assert client.hgetall("LEFT") == {b"ts": b"0.0", b"sender": b"", b"number": b"0", b"text": b""}
    assert client.hget("RIGHT", "number") == client.hget("LOGGED", "number") == b"5"
    assert client.xlen("LEFT:history") == client.xlen("RIGHT:history") == 1
    assert client.get("somebody's") == b"own"
    assert len(shm.names()) == 4
    assert shm.epoch() == 2


def test_a_key_of_another_type_is_replaced(shm: SharedMemory, client: redis.Redis) -> None:
    client.rpush("LEFT", 1)
    shm.init(PAIR)
    assert client.hget("LEFT", "number") == b"0"


def test_keep(shm: SharedMemory, client: redis.Redis) -> None:
    shm.init(PAIR)
    fill(shm, "LEFT", "RIGHT")
    new = {"LEFT": [*HEAD, ["text", 1.5], ["number", 0, {"unit": "V"}], ["more", [1]]], "NEW": [*HEAD, ["x", 1]]}
    shm.init(new, keep=True)
    kept = client.hgetall("LEFT")
    assert kept[b"number"] == b"5" and kept[b"sender"] == b"writer"
    assert kept[b"text"] == b"1.5", "its type has changed"
    assert kept[b"more"] == b"[1]"
    assert client.hget("NEW", "x") == b"1"
    shm.init({"LEFT": [*HEAD, ["number", 0]]}, keep=True)
    assert set(client.hgetall("LEFT")) == {b"ts", b"sender", b"number"}
    client.delete("LEFT")
    shm.init({"LEFT": [*HEAD, ["number", 9]]}, keep=True)
    assert client.hget("LEFT", "number") == b"9"


def test_prune(shm: SharedMemory, client: redis.Redis) -> None:
    shm.init(PAIR, PLAIN)
    fill(shm, "LEFT", "RIGHT")
    client.set("other", 1)
    shm.init({"RIGHT": PAIR["RIGHT"]}, prune=True)
    assert shm.names() == ["RIGHT"]
    assert set(client.scan_iter()) == {b"RIGHT", b"RIGHT:history", b"other", b"shareddata:datadesc",
                                       b"shareddata:epoch", b"shareddata:format"}
    with pytest.raises(UnknownData, match="no record 'LEFT'"):
        shm.describe("LEFT")


WRONG: list[Any] = [
    pytest.param({"A": [["sender", ""], ["ts", 0.0]]}, "record A.*ts", id="order"),
    pytest.param({"A": [*HEAD, ["x"]]}, "record A: field 3", id="no default"),
    pytest.param({"A": [*HEAD, ["class", 0]]}, "record A, field 'class'", id="keyword"),
    pytest.param({"A": [*HEAD, ["x", 0, {"unti": "V"}]]}, "did you mean 'unit'", id="option"),
    pytest.param({"A B": HEAD}, "record name 'A B'", id="name"),
    pytest.param({"A": {"history": -1, "fields": HEAD}}, "record A: history", id="history"),
    pytest.param({"A": [*HEAD, ["x", 0], ["x", 1]]}, "'x' is given twice", id="twice"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_a_wrong_description_changes_nothing(
    shm: SharedMemory, client: redis.Redis, wrong: Any, words: str, short_path: Path
) -> None:
    shm.init(PAIR, flag="READY")
    fill(shm, "LEFT")
    before = content(client)
    path = short_path / "wrong.json"
    path.write_text(json.dumps({"GOOD": HEAD, **wrong}, indent=1))
    for sources in ([PLAIN, wrong], [PLAIN, path]):
        with pytest.raises(DescriptionError, match=words):
            shm.init(*sources, flag="OTHER")
    assert content(client) == before


def test_a_typing_error_in_a_file(shm: SharedMemory, client: redis.Redis, short_path: Path) -> None:
    good, bad = short_path / "good.json", short_path / "bad.json"
    good.write_text(json.dumps(PAIR))
    bad.write_text('{\n "A": [["ts", 0.0], ["sender", ""]],\n "B": [["ts", 0.0] ["sender", ""]]\n}')
    with pytest.raises(DescriptionError, match=r"bad\.json:3: no valid JSON"):
        shm.init(good, bad)
    bad.write_text('{\n "A": [["ts", 0.0], ["sender", ""]],\n "A": [["ts", 0.0], ["sender", ""]]\n}')
    with pytest.raises(DescriptionError, match=r"bad\.json:3: record A is given twice"):
        shm.init(good, bad)
    with pytest.raises(DescriptionError, match=r"nowhere\.json: cannot be read"):
        shm.init(good, short_path / "nowhere.json")
    with pytest.raises(DescriptionError, match=r"LEFT is described in .*good\.json already"):
        shm.init(str(good), PAIR)
    assert content(client) == {}
    shm.init(good)
    assert shm.names() == ["LEFT", "RIGHT"]


def test_nobody_sees_it_half_done(shm: SharedMemory, program: Callable[..., Program]) -> None:
    """Two programs initialise with different defaults; a reader sees all of one or all of the other."""
    records = {name: [["ts", 0.0], ["sender", "init"], ["number", 0]] for name in "ABCDEFGH"}
    shm.init(records)
    programs = [
        program(
            """
            with SharedMemory(url=sys.argv[1]) as shm:
                say("ready")
                sys.stdin.readline()
                count, end = 0, time.monotonic() + 0.4
                while time.monotonic() < end:
                    shm.init({n: [["ts", 0.0], ["sender", "init"], ["number", int(sys.argv[2])]] for n in "ABCDEFGH"})
                    count += 1
                say(count)
            """,
            shm.url,
            number,
        )
        for number in (1, 2)
    ]
    for each in programs:
        assert each.line() == "ready"
    with DataDict("reader", shm) as dd:
        dd.set_datas_to_read(list("ABCDEFGH"))
        seen = set()
        for each in programs:
            each.tell("go")
        while any(each.process.poll() is None for each in programs):
            numbers = {trame.number for trame in dd.next()}
            assert len(numbers) == 1
            seen |= numbers
    assert {1, 2} <= seen
    assert shm.epoch() == 1 + sum(int(each.finish()[-1]) for each in programs)


def test_descriptions_of_others_are_seen(shm: SharedMemory) -> None:
    shm.init(PAIR)
    with SharedMemory(url=shm.url) as other:
        assert other.describe("LEFT").fields[2].unit == ""
        for round in range(20):
            shm.init({"LEFT": [*HEAD, ["number", 0, {"unit": f"unit {round}"}]], f"NEW{round}": HEAD})
            for _ in range(round % 3):
                assert other.epoch() == round + 2
            assert other.describe("LEFT").fields[2].unit == f"unit {round}"
            assert f"NEW{round}" in other.names()


def test_unknown_names_get_a_hint(shm: SharedMemory) -> None:
    with pytest.raises(UnknownData, match="nothing is described there: run `shareddata init FILE...`"):
        shm.describe("LEFT")
    within = "in the namespace 'usv1': run `shareddata init -n usv1 FILE...`"
    with SharedMemory(url=shm.url, namespace="usv1") as other, pytest.raises(UnknownData, match=within):
        other.describe("LEFT")
    shm.init(PAIR)
    with pytest.raises(UnknownData, match="did you mean LEFT.* Else describe it: `shareddata init FILE...`"):
        shm.describe("LEFTT")
    with pytest.raises(UnknownData, match="there are 2: see `shareddata list`"):
        shm.describe("QQQQ")
    with pytest.raises(UnknownData, match="no record 5 "):
        shm.describe(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("rubbish", [b"no json", b"[1]", b'{"fields": []}', b"\xff", b'"x"'])
def test_rubbish_among_the_descriptions(shm: SharedMemory, client: redis.Redis, rubbish: bytes) -> None:
    shm.init(PAIR)
    client.hset("shareddata:datadesc", "LEFT", rubbish)
    client.incr("shareddata:epoch")
    with SharedMemory(url=shm.url) as other:
        for _ in range(2):  # alone, and when all were asked for
            with pytest.raises(DecodeError, match="shareddata:datadesc.*LEFT.*initialise"):
                other.describe("LEFT")
            assert other.names() == ["LEFT", "RIGHT"]
            assert other.describe("RIGHT").name == "RIGHT"  # who uses others is not disturbed
    shm.init(PAIR)
    assert shm.names() == ["LEFT", "RIGHT"]


@pytest.mark.parametrize("version", [b"2", b"next"])
def test_a_later_format_is_refused(shm: SharedMemory, client: redis.Redis, version: bytes) -> None:
    client.set("shareddata:format", version)
    start = time.monotonic()
    with pytest.raises(ServerSetupError, match=f"format {version.decode()}.*pip install --upgrade"):
        SharedMemory(url=shm.url)
    assert time.monotonic() - start < 2


def test_namespaces_do_not_know_each_other(url: str, client: redis.Redis) -> None:
    with SharedMemory(url=url) as none, SharedMemory(url=url, namespace="usv1") as one, \
            SharedMemory(url=url, namespace="usv2") as two:
        none.init(PLAIN, flag="READY")
        one.init(PAIR, flag="READY")
        assert (none.names(), one.names(), two.names()) == (["ALONE", "LOGGED"], ["LEFT", "RIGHT"], [])
        two.init({"LEFT": [*HEAD, ["number", ""]]})
        fill(one, "LEFT")
        assert client.hget("{usv1}:LEFT", "number") == b"5"
        assert client.hget("{usv2}:LEFT", "number") == b""
        assert client.get("{usv1}:READY") == b"OK" and not client.exists("{usv2}:READY")
        assert (none.epoch(), one.epoch(), two.epoch()) == (1, 1, 1)
        one.init({"RIGHT": HEAD}, prune=True)
        assert client.exists("{usv2}:LEFT") and client.exists("ALONE") and not client.exists("{usv1}:LEFT:history")
        with pytest.raises(UnknownData, match="in the namespace 'usv3'"):
            SharedMemory(url=url, namespace="usv3").describe("LEFT")
    for wrong in ("a b", "{a}", "a:b", "ä", "a*"):
        with pytest.raises(DescriptionError, match="namespace name"):
            SharedMemory(url=url, namespace=wrong)


# -- the ready flag ---------------------------------------------------------------------------------------------------


def test_the_flag(url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INIT_MSG", "SPARTAN_INIT")
    with SharedMemory(url=url) as shm:
        shm.env_init = "INIT_MSG"
        shm.init(PAIR)
        assert client.get("SPARTAN_INIT") == b"OK"
        client.delete("SPARTAN_INIT")
        shm.init(PAIR, flag="OTHER")
        assert client.get("OTHER") == b"OK" and not client.exists("SPARTAN_INIT")
        with pytest.raises(DescriptionError, match="'LEFT' has a record's name"):
            shm.init(PAIR, flag="LEFT")


def test_the_constructor_waits_for_the_flag(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INIT_MSG", "SPARTAN_INIT")
    with SharedMemory(url=url) as shm:
        late = threading.Timer(0.2, shm.init, [PAIR], {"flag": "SPARTAN_INIT"})
        late.start()
        with SharedMemory(env_init="INIT_MSG", url=url) as other:
            assert other.names() == ["LEFT", "RIGHT"]
        late.join()


def test_a_flag_that_does_not_come(shm: SharedMemory, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotInitialized, match="env_init"):
        shm.wait_for_init()
    shm.env_init = "INIT_MSG"
    with pytest.raises(NotInitialized, match="INIT_MSG is not set: export INIT_MSG="):
        shm.wait_for_init()
    monkeypatch.setenv("INIT_MSG", "SPARTAN_INIT")
    start = time.monotonic()
    with pytest.raises(NotInitialized, match=r"waited 0\.2 s .* 'SPARTAN_INIT', which is not there.*-i INIT_MSG"):
        shm.wait_for_init(0.2)
    assert 0.2 <= time.monotonic() - start < 1
    client.set("SPARTAN_INIT", "no")
    with pytest.raises(NotInitialized, match="which holds b'no'"):
        shm.wait_for_init(0)
    with pytest.raises(TimeoutError, match="SPARTAN_INIT"):
        shm.wait_for_init(0)


def test_waiting_for_the_flag_survives_the_servers_restart(
    own_server: Callable[..., OwnServer], program: Callable[..., Program]
) -> None:
    server = own_server()
    waiting = program(
        """
        say("waiting")
        with SharedMemory(url=sys.argv[1], env_init="INIT_MSG") as shm:
            say(*shm.names())
        """,
        server.url,
        env={"INIT_MSG": "FLAG"},
    )
    assert waiting.line() == "waiting"
    with server.client() as client:
        while not client.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"] > 5:
            pass  # until it asks for the flag
    server.restart()
    with SharedMemory(url=server.url) as shm:
        shm.init(PAIR, flag="FLAG")
    assert waiting.finish() == ["LEFT RIGHT"]
