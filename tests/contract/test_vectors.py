"""The wire format is what its vectors say: our library and a plain client write them, and read each other's.

Invariant: no expectation is taken from the library; the vectors were written by hand, from the page of the wire format.
"""

import ast
import base64
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from servers import plain_client
from shareddata import DataDict, DecodeError, ServerSetupError, SharedMemory

HERE = Path(__file__).parent
PlainClient: Any = runpy.run_path(str(HERE / "plain_client.py"))["PlainClient"]
VECTORS = json.loads((HERE / "vectors.json").read_text(encoding="utf-8"))
EACH = pytest.mark.parametrize("vector", VECTORS["vectors"], ids=[vector["name"] for vector in VECTORS["vectors"]])


@pytest.fixture
def raw(url: str) -> Iterator[redis.Redis]:
    """A connection of redis-py to the emptied server."""
    with plain_client(url) as connection:
        yield connection


@pytest.fixture
def memory(url: str) -> Iterator[Callable[[dict[str, Any]], SharedMemory]]:
    """Open the namespace of a vector with the library."""
    opened: list[SharedMemory] = []

    def memory(vector: dict[str, Any]) -> SharedMemory:
        opened.append(SharedMemory(url=url, namespace=vector["namespace"]))
        return opened[-1]

    yield memory
    for each in opened:
        each.close()


def as_bytes(written: Any) -> bytes:
    return base64.b64decode(written["base64"]) if isinstance(written, dict) else written.encode()


def names(vector: dict[str, Any]) -> list[bytes]:
    return [field[0].encode() for field in vector["stored"]["fields"]]


def expected(vector: dict[str, Any], written: list[Any]) -> dict[bytes, bytes]:
    return dict(zip(names(vector), map(as_bytes, written), strict=True))


def number(given: Any, kind: type) -> Any:
    """Return the numbers of a vector: a text says what JSON has no word for."""
    return [number(item, kind) for item in given] if isinstance(given, list) else kind(given)


def value(field: list[Any], given: Any) -> Any:
    """Return a vector's value as Python knows it; arrays as nested lists."""
    default, dtype = field[1], field[2].get("dtype", "") if len(field) > 2 else ""
    if dtype[1:2] == "c":
        return (np.array(number(given, float)) @ [1, 1j]).tolist()
    if dtype[1:2] in ("i", "u", "f"):
        return number(given, float if dtype[1] == "f" else int)
    return type(default)(given) if type(default) in (int, float) and not dtype else given


def values(vector: dict[str, Any], trame: dict[str, Any]) -> list[Any]:
    return [value(field, given) for field, given in zip(vector["stored"]["fields"], trame["values"], strict=True)]


def shown(trame: Any) -> list[str]:
    """Return the values so that NaN, the sign of zero and types are compared too."""
    return [repr(v.tolist() if isinstance(v, np.ndarray) else v) for v in trame]


def check_stored(raw: redis.Redis, vector: dict[str, Any], trame: dict[str, Any]) -> None:
    """Check what the hash holds, and the last entry of the history."""
    body = expected(vector, trame["written"])
    assert raw.hgetall(vector["key"]) == body
    assert raw.ttl(vector["key"]) == -1
    if vector["history_key"]:
        ((identity, entry),) = raw.xrevrange(vector["history_key"], count=1)
        assert re.fullmatch(rb"\d{13}-\d+", identity)
        assert list(entry.items()) == list(body.items()), "in the description's order"


# -- our library writes -----------------------------------------------------------------------------------------------


@EACH
def test_initialisation(vector: dict[str, Any], memory: Any, raw: redis.Redis) -> None:
    prefix = vector["key"].removesuffix(vector["record"])
    memory(vector).init({vector["record"]: vector["description"]}, flag="READY")
    assert raw.hgetall(vector["key"]) == expected(vector, vector["blank"])
    stored = raw.hgetall(prefix + "shareddata:datadesc")
    assert list(stored) == [vector["record"].encode()]
    text = stored[vector["record"].encode()].decode()
    assert json.dumps(json.loads(text)) == json.dumps(vector["stored"]), "fields and options in this order"
    assert "\\u" not in text, "UTF-8 as it is"
    assert raw.get(prefix + "shareddata:format") == VECTORS["format"].encode()
    assert (raw.get(prefix + "shareddata:epoch"), raw.get(prefix + "READY")) == (b"1", b"OK")
    own = {prefix + name for name in ("shareddata:datadesc", "shareddata:format", "shareddata:epoch", "READY")}
    assert {key.decode() for key in raw.keys("*")} == own | {vector["key"]}


@EACH
def test_our_library_writes_what_the_vector_says(vector: dict[str, Any], memory: Any, raw: redis.Redis) -> None:
    shm = memory(vector)
    shm.init({vector["record"]: vector["description"]})
    with DataDict("APP", shm) as dd:
        (data,) = dd.set_datas_to_write([vector["record"]])
        for trame in vector["trames"]:
            ts, sender, *rest = values(vector, trame)
            data.set(*rest, ts=ts, sender=sender)
            assert dd.flush() == 1
            check_stored(raw, vector, trame)
    assert raw.exists(f"{vector['key']}:history") == bool(vector["history_key"])


@EACH
def test_a_plain_client_reads_what_our_library_wrote(vector: dict[str, Any], memory: Any, raw: redis.Redis) -> None:
    shm = memory(vector)
    shm.init({vector["record"]: vector["description"]})
    plain = PlainClient(raw, vector["namespace"])
    assert plain.records == {vector["record"]: vector["stored"]}
    history = []
    with DataDict("APP", shm) as dd:
        (data,) = dd.set_datas_to_write([vector["record"]])
        for trame in vector["trames"]:
            ts, sender, *rest = values(vector, trame)
            data.set(*rest, ts=ts, sender=sender)
            dd.flush()
            history.append(shown(values(vector, trame)))
            assert shown(plain.read(vector["record"])) == history[-1]
    if vector["history_key"]:
        assert [shown(entry) for entry in plain.history(vector["record"])] == history


# -- the other way round ----------------------------------------------------------------------------------------------


@EACH
def test_our_library_reads_what_a_plain_client_wrote(vector: dict[str, Any], memory: Any, raw: redis.Redis) -> None:
    plain = PlainClient(raw, vector["namespace"])
    plain.describe(vector["record"], vector["stored"])
    assert raw.hgetall(vector["key"]) == expected(vector, vector["blank"])
    history = []
    with DataDict("APP", memory(vector)) as dd:
        assert dd.shm.names() == [vector["record"]]
        assert dd.shm.describe(vector["record"]).as_json() == vector["stored"]
        dd.set_datas_to_read([vector["record"]])
        for trame in vector["trames"]:
            plain.write(vector["record"], values(vector, trame))
            check_stored(raw, vector, trame)
            history.append(shown(values(vector, trame)))
            assert shown(dd.read(fresh=True)[0]) == history[-1]
        if vector["history_key"]:
            followed = list(dd.follow_data(vector["record"], since=0, timeout=0.01))
            assert [shown(entry) for entry in followed] == history


def test_a_record_without_values_is_none_for_both(memory: Any, raw: redis.Redis) -> None:
    shm = memory({"namespace": ""})
    shm.init({"R": [["ts", 0.0], ["sender", ""]], "S": [["ts", 0.0], ["sender", "x"]]})
    plain = PlainClient(raw)
    with DataDict("APP", shm) as dd:
        dd.set_datas_to_read(["R", "S"])
        assert dd.read(fresh=True) == [None, (0.0, "x")]
        assert [plain.read("R"), plain.read("S")] == [None, [0.0, "x"]]
        raw.delete("R", "S")
        assert dd.read(fresh=True) == [plain.read("R"), plain.read("S")] == [None, None]


def test_an_initialisation_by_a_plain_client_makes_ready(url: str, raw: redis.Redis, monkeypatch: Any) -> None:
    monkeypatch.setenv("INIT_MSG", "SPARTAN_INIT")
    PlainClient(raw).describe("R", {"fields": [["ts", 0.0], ["sender", ""]]}, flag="SPARTAN_INIT")
    with SharedMemory(url=url, env_init="INIT_MSG") as shm:
        assert (shm.names(), shm.epoch()) == (["R"], 1)


def test_a_newer_format_is_refused_by_both(url: str, raw: redis.Redis) -> None:
    raw.set("shareddata:format", 2)
    with pytest.raises(ServerSetupError, match="have format 2, this library knows 1: pip install --upgrade shareddata"):
        SharedMemory(url=url)
    with pytest.raises(SystemExit, match="a newer format"):
        PlainClient(raw)


# -- what others write ------------------------------------------------------------------------------------------------


@pytest.fixture
def one_field(memory: Any, raw: redis.Redis) -> Callable[[dict[str, Any]], Any]:
    """Describe a record of one field, let somebody write it, and read it."""

    def one_field(case: dict[str, Any]) -> Any:
        shm = memory({"namespace": ""})
        shm.init({"R": [["ts", 0.0], ["sender", ""], ["x", case["default"]]]})
        raw.hset("R", mapping={"x": as_bytes(case["written"]), "sender": "other", "ts": "1"})
        with DataDict("APP", shm) as dd:
            dd.set_datas_to_read(["R"])
            return dd.read()[0]

    return one_field


@pytest.mark.parametrize("case", VECTORS["foreign"], ids=lambda case: ascii(case["written"]))
def test_other_spellings_are_read(case: dict[str, Any], one_field: Any, raw: redis.Redis) -> None:
    assert shown(one_field(case)) == ["1.0", "'other'", repr(case["value"])]
    assert shown(PlainClient(raw).read("R")) == ["1.0", "'other'", repr(case["value"])]


@pytest.mark.parametrize("case", VECTORS["damaged"], ids=lambda case: ascii(case["written"]))
def test_damage_is_refused(case: dict[str, Any], one_field: Any) -> None:
    found = re.escape(repr(as_bytes(case["written"])))
    with pytest.raises(
        DecodeError, match=f"^record R, field 'x': found {found} in the key R, expected .*another program"
    ):
        one_field(case)


# -- the vectors themselves -------------------------------------------------------------------------------------------


def test_the_plain_client_knows_nothing_of_us() -> None:
    tree = ast.parse((HERE / "plain_client.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    sources = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported | sources == {"json", "sys", "typing", "numpy", "redis"}


def test_the_plain_client_prints_a_record(url: str, shm: SharedMemory) -> None:
    shm.init({"R": [["ts", 0.0], ["sender", "x"], ["é", [1, "a"]]]})
    command = [sys.executable, str(HERE / "plain_client.py"), url, "R"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env={"PYTHONIOENCODING": "utf-8"})
    assert (done.returncode, done.stdout) == (0, "ts 0.0\nsender x\né [1, 'a']\n")


def test_every_type_and_dtype_has_a_vector() -> None:
    fields = [field for vector in VECTORS["vectors"] for field in vector["stored"]["fields"]]
    plain = {type(default) for _, default, *options in fields if not options or "dtype" not in options[0]}
    assert plain == {float, int, bool, str, list, dict, type(None)}
    kinds = {options[0]["dtype"][1] for _, _, *options in fields if options and "dtype" in options[0]}
    assert kinds == set("biufc")
