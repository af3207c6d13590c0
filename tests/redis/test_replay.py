"""Replay and the past: the same values in the same order at the pace that was asked for; records as they were."""

import json
import os
import pty
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from records import HEAD
from servers import OwnServer
from shareddata import DataDict, DecodeError, DescriptionError, FieldError, SharedDataError, SharedMemory, cli
from shareddata.datadesc import parse_record
from shareddata.recording import Recording
from shareddata.replay import Past, Replay, opened
from shareddata.track import Folder, Track
from waiting import eventually

NOON = 1_784_548_800_000  # 2026-07-20 12:00:00 UTC
TANK = parse_record("TANK", {"history": 10_000, "fields": [*HEAD, ["number", 0], ["note", ""]]})
PUMP = parse_record("PUMP", {"history": 10_000, "fields": [*HEAD, ["number", 0], ["items", []]]})
Row = tuple[int, str, tuple[Any, ...]]
"""Milliseconds since noon, record, values."""


def record(folder: Path, rows: list[Row]) -> list[Row]:
    """Make a recording, as if it had been made then."""
    holder = Folder(folder)
    for described in (TANK, PUMP):
        layout_rows = [row for row in rows if row[1] == described.name]
        track = Track(holder, described, span=1800.0)
        track.add([(f"{NOON + ms}-0".encode(), texts(described, values)) for ms, _, values in layout_rows], 0)
        track.write()
        track.close()
    holder.close()
    return rows


def texts(described: Any, values: tuple[Any, ...]) -> list[bytes]:
    words = [json.dumps(v) if isinstance(v, list) else v if isinstance(v, str) else repr(v) for v in values]
    return [part.encode() for pair in zip([field.name for field in described.fields], words) for part in pair]


def two_hours(count: int, milliseconds: int = 7_200_000) -> list[Row]:
    chance = random.Random(3)
    times = sorted(chance.sample(range(milliseconds), count))
    return [
        (ms, "TANK", (NOON / 1000 + ms / 1000 - 0.123, f"HDL_{number % 3}", number, f'"{number}",\n'))
        if number % 3
        else (ms, "PUMP", (NOON / 1000 + ms / 1000, "HDL_PUMP", number, [number, "é"]))
        for number, ms in enumerate(times)
    ]


def histories(client: redis.Redis, prefix: str = "") -> dict[str, list[tuple[bytes, list[bytes]]]]:
    return {
        name: [
            (identity, [part for pair in fields.items() for part in pair])
            for identity, fields in client.xrange(f"{prefix}{name}:history")
        ]
        for name in ("TANK", "PUMP")
    }


def received(identity: bytes) -> int:
    return int(identity.partition(b"-")[0])


@pytest.mark.timeout(180)
def test_two_hours_fast(shm: SharedMemory, client: redis.Redis, tmp_path: Path, full: bool) -> None:
    """Recorded rows of two hours: the same values in the same order. The long form takes 72 s."""
    rows = record(tmp_path, two_hours(600))
    speed = 100 if full else 5000
    begin = time.monotonic()
    with Replay(Recording(tmp_path), shm, speed=speed) as replay:
        replay.run()
    took = time.monotonic() - begin
    span = (rows[-1][0] - rows[0][0]) / 1000
    assert took >= span / speed
    assert {name: played.count for name, played in replay.played.items()} == {"PUMP": 200, "TANK": 400}
    found = histories(client)
    for described in (TANK, PUMP):
        expected = [texts(described, values) for _, name, values in rows if name == described.name]
        fields = [[layout_text(part) for part in entry] for _, entry in found[described.name]]
        assert fields == [[layout_text(part) for part in entry] for entry in expected]
    waiting = {name: iter(entries) for name, entries in found.items()}
    times = [received(next(waiting[name])[0]) for _, name, _ in rows]
    assert times == sorted(times), "the records are played in the order of all"


def layout_text(part: bytes) -> object:
    """Return what a text stands for: lists are written without blanks."""
    return json.loads(part) if part[:1] == b"[" else part


def test_real_speed_keeps_the_spacing(shm: SharedMemory, client: redis.Redis, tmp_path: Path, full: bool) -> None:
    rows = record(tmp_path, two_hours(100, 20_000 if full else 2000))
    with Replay(Recording(tmp_path), shm) as replay:
        replay.run()
    waiting = {name: iter(entries) for name, entries in histories(client).items()}
    times = [received(next(waiting[name])[0]) for _, name, _ in rows]
    errors = [abs((times[i] - times[i - 1]) - (rows[i][0] - rows[i - 1][0])) for i in range(1, len(rows))]
    assert statistics.median(errors) < 5, errors


def test_as_fast_as_possible(shm: SharedMemory, client: redis.Redis, tmp_path: Path) -> None:
    record(tmp_path, two_hours(3000))
    seen = []
    begin = time.monotonic()
    with Replay(Recording(tmp_path), shm, speed=0) as replay:
        replay.run(progress=lambda replay: seen.append(replay.now))
    assert time.monotonic() - begin < 10
    assert sum(each.count for each in replay.played.values()) == 3000
    assert seen[-1] == replay.end == replay.now


def test_what_was_received_together_is_one_transaction(shm: SharedMemory, tmp_path: Path) -> None:
    rows = [(ms, name, (1.0, "HDL", ms, extra)) for ms in range(200) for name, extra in (("TANK", ""), ("PUMP", []))]
    record(tmp_path, rows)
    with Replay(Recording(tmp_path), shm, speed=0) as replay, DataDict("reader", shm) as dd:
        flush, groups = replay._dd.flush, []
        dd.set_datas_to_read(["TANK", "PUMP"])

        def flush_and_look(*args: Any) -> int:
            count = flush(*args)
            groups.append((count, [trame.number for trame in dd.next()]))
            return count

        replay._dd.flush = flush_and_look  # type: ignore[method-assign]
        replay.run()
    assert groups == [(2, [ms, ms]) for ms in range(200)]


def test_from_to_and_the_state_of_the_start(shm: SharedMemory, client: redis.Redis, tmp_path: Path) -> None:
    rows = [(1000 * n, "TANK", (float(n), "HDL", n, "")) for n in range(20)]
    record(tmp_path, [(500, "PUMP", (0.5, "HDL", 77, [])), *rows])
    noon = NOON / 1000
    with Replay(Recording(tmp_path), shm, speed=0, start=noon + 5, end=noon + 8) as replay:
        replay.run()
    assert {name: (each.first, each.last, each.count) for name, each in replay.played.items()} == {
        "TANK": (noon + 5, noon + 8, 4), "PUMP": (None, None, 0),
    }  # fmt: skip
    found = histories(client)
    assert [entry[5] for _, entry in found["TANK"]] == [b"4", b"5", b"6", b"7", b"8"]
    assert [entry[5] for _, entry in found["PUMP"]] == [b"77"]


def test_from_a_time_at_real_speed_waits_for_the_first_value(shm: SharedMemory, tmp_path: Path) -> None:
    record(tmp_path, [(0, "TANK", (1.0, "HDL", 1, "")), (10_000, "TANK", (2.0, "HDL", 2, ""))])
    begin = time.monotonic()
    with Replay(Recording(tmp_path), shm, speed=10, start=NOON / 1000 + 5) as replay:
        replay.run()
    assert time.monotonic() - begin >= 0.5


def test_only_some_records_into_a_namespace(url: str, shm: SharedMemory, client: redis.Redis, tmp_path: Path) -> None:
    record(tmp_path, two_hours(30))
    with (
        SharedMemory(url=url, namespace="test") as other,
        Replay(Recording(tmp_path), other, ["PUMP"], speed=0) as play,
    ):
        play.run()
        assert other.names() == ["PUMP"] and other.describe("PUMP") == PUMP
    assert shm.names() == []
    assert len(histories(client, "{test}:")["PUMP"]) == 10
    with pytest.raises(SharedDataError, match="no record 'NONE'.*PUMP, TANK"):
        Replay(Recording(tmp_path), shm, ["NONE"])


def test_records_that_are_described_there(shm: SharedMemory, client: redis.Redis, tmp_path: Path) -> None:
    """Their descriptions stay; more fields have their defaults; other types are refused before anything is written."""
    record(tmp_path, [(0, "TANK", (1.0, "HDL", 1, "x")), (0, "PUMP", (1.0, "HDL", 1, []))])
    shm.init({"TANK": [*HEAD, ["more", 2.5], ["note", ""], ["number", 0, {"unit": "m"}]]})
    with Replay(Recording(tmp_path), shm, speed=0) as replay:
        replay.run()
    assert client.hgetall("TANK") == {b"ts": b"1.0", b"sender": b"HDL", b"more": b"2.5", b"note": b"x", b"number": b"1"}
    assert shm.describe("TANK").field("number").unit == "m"
    shm.init({"TANK": [*HEAD, ["number", ""], ["note", ""]]})
    with pytest.raises(
        DescriptionError, match="TANK is described otherwise there: the field 'number' is str.*namespace"
    ):
        Replay(Recording(tmp_path), shm)
    shm.init({"TANK": [*HEAD, ["number", 0]]})
    with pytest.raises(DescriptionError, match="it has no field 'note'"):
        Replay(Recording(tmp_path), shm)
    refusing = {"TANK": [*HEAD, ["number", 0, {"max": 0, "on_limit": "refuse"}], ["note", ""]]}
    shm.init(refusing)
    with (
        Replay(Recording(tmp_path), shm, speed=0) as replay,
        pytest.raises(FieldError, match="TANK.*1 is out of limits"),
    ):
        replay.run()


def test_again_and_again(shm: SharedMemory, client: redis.Redis, tmp_path: Path) -> None:
    record(tmp_path, [(n, "TANK", (float(n), "HDL", n, "")) for n in range(3)])

    def stop(replay: Replay) -> None:
        if replay.rounds == 2:
            raise KeyboardInterrupt("enough")

    with (
        Replay(Recording(tmp_path), shm, ["TANK"], speed=0) as replay,
        pytest.raises(KeyboardInterrupt, match="enough"),
    ):
        replay.run(loop=True, progress=stop)
    assert [entry[5] for _, entry in histories(client)["TANK"]] == [b"0", b"1", b"2"] * 3


def test_csv_logs(shm: SharedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What handlers logged, with the descriptions beside them and without."""
    shm.init({"LAB__oven": [*HEAD, ["temperature", 0.0], ["on", False]], "LAB__command": [*HEAD, ["command", ""]]})
    monkeypatch.setenv("LOGDIR", str(tmp_path))
    with DataDict("HDL_OVEN", shm) as dd:
        oven, said = dd.set_datas_to_write(["LAB__oven", "LAB__command"])
        for number in range(20):
            oven.set(450.0 + number, number % 2 == 0)
            dd.flush()
            if number % 5 == 0:
                said.set("on, please")
                dd.flush()
    monkeypatch.delenv("LOGDIR")
    for _ in range(2):
        with SharedMemory(url=shm.url, namespace="again") as again:
            with opened([str(tmp_path)], again) as source, Replay(source, again, speed=0) as replay:
                replay.run()
            for name in ("LAB__oven", "LAB__command"):
                played, was = (followed(memory, name) for memory in (again, shm))
                assert played == was and was
                again._connection.call("DEL", again.keys.history(name), again.keys.record(name))
            again._connection.call("DEL", again.keys.datadesc)
            again._connection.call("INCR", again.keys.epoch)
        for path in tmp_path.glob("*.json"):
            path.unlink()


def followed(shm: SharedMemory, name: str) -> list[Any]:
    with DataDict("reader", shm) as dd:
        return [tuple(trame) for trame in dd.follow_data(name, since=0, timeout=0)]


def test_a_servers_histories(shm: SharedMemory, client: redis.Redis, own_server: Callable[..., OwnServer]) -> None:
    shm.init({name.name: name.as_json() for name in (TANK, PUMP)})
    with DataDict("HDL", shm) as dd:
        tank, pump = dd.set_datas_to_write(["TANK", "PUMP"])
        for number in range(2500):
            tank.set(number, "")
            dd.flush()
            if number % 100 == 0:
                pump.set(number, [])
                dd.flush()
        with SharedMemory(url=own_server().url) as there, opened([shm.url], there) as source:
            with Replay(source, there, speed=0) as replay:
                tank.set(-1, "later")  # what comes now is not played
                dd.flush()
                replay.run()
            assert followed(there, "PUMP") == followed(shm, "PUMP")
            assert followed(there, "TANK") == followed(shm, "TANK")[:-1]
            middle = received(client.xrange("TANK:history")[2000][0]) / 1000
            played = [entry.trame.number for entry in source.entries(["TANK"], start=middle)]
            assert played == list(range(played[0], 2500)) and 1000 < played[0] <= 2000
            assert source.at(middle, before=True)["TANK"].number == played[0] - 1
    with pytest.raises(SharedDataError, match="played into themselves: give --namespace"), opened([shm.url], shm):
        pass
    with (
        SharedMemory(url=shm.url, namespace="none") as empty,
        pytest.raises(SharedDataError, match="no record has a hist"),
    ):
        Past(empty)


def test_several_sources(shm: SharedMemory, client: redis.Redis, tmp_path: Path) -> None:
    record(tmp_path / "one", [(n, "TANK", (float(n), "HDL", n, "")) for n in range(0, 10, 2)])
    log = tmp_path / "2026-07-20_12h00m00sZ_HDL_TANK.csv"
    log.write_text("ts,sender,number,note\n" + "".join(f"{(NOON + n) / 1000!r},HDL,{n},\n" for n in range(1, 10, 2)))
    with opened([str(tmp_path / "one"), str(log)], shm) as source, Replay(source, shm, speed=0) as replay:
        replay.run()
    assert [int(entry[5]) for _, entry in histories(client)["TANK"]] == list(range(10))


# -- the past -------------------------------------------------------------------------------------------------------


def test_the_records_at_a_time(shm: SharedMemory, client: redis.Redis) -> None:
    records = {"A": [*HEAD, ["n", 0]], "B": [*HEAD, ["n", 0]], "C": {"history": 0, "fields": [*HEAD]}}
    assert shm.at(time.time()) == {}
    shm.init(records)
    assert shm.at(time.time()) == {"A": None, "B": None}
    for number in range(5):
        client.xadd("A:history", {"ts": f"{number}.0", "sender": "w", "n": number}, id=f"{1000 * number + 1000}-0")
        client.xadd("A:history", {"ts": f"{number}.5", "sender": "w", "n": -number}, id=f"{1000 * number + 1000}-1")
    client.xadd("B:history", {"ts": "1.0", "sender": "w", "n": 7}, id="3500-0")

    def n(at: float, **options: bool) -> dict[str, int | None]:
        return {name: trame and trame.n for name, trame in shm.at(at, **options).items()}

    assert n(0.999) == {"A": None, "B": None}
    assert n(2.0) == {"A": -1, "B": None} and n(2.0, before=True) == {"A": 0, "B": None}
    assert n(3.4999) == {"A": -2, "B": None} and n(3.5) == {"A": -2, "B": 7} and n(99.0) == {"A": -4, "B": 7}
    client.xtrim("A:history", maxlen=4, approximate=False)
    assert n(2.0) == {"B": None}, "what was trimmed is not known"
    assert n(4.0) == {"A": -3, "B": 7}
    client.xadd("B:history", {"foo": "bar"}, id="9000-0")
    with pytest.raises(DecodeError, match="B, entry 9000-0"):
        shm.at(9.0)


def test_one_record_at_a_time(shm: SharedMemory) -> None:
    shm.init({"A": [*HEAD, ["n", 0]]})
    with DataDict("w", shm) as dd:
        (data,) = dd.set_datas_to_write(["A"])
        data.set(5)
        dd.flush()
    assert shm.at(time.time() + 1)["A"].n == 5


# -- the command ----------------------------------------------------------------------------------------------------


@contextmanager
def command(*arguments: str | Path, stderr: int = subprocess.PIPE) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "shareddata", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_command(shm: SharedMemory, client: redis.Redis, tmp_path: Path) -> None:
    record(tmp_path, two_hours(60))
    with command("replay", "-u", shm.url, "-n", "test", "--speed", "0", tmp_path) as process:
        out, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    head, *rows, last = out.splitlines()
    assert head.split() == ["RECORD", "FIRST", "LAST", "PLAYED"]
    assert [row.split()[::3] for row in rows] == [["PUMP", "20"], ["TANK", "40"]]
    assert last.startswith("60 updates in ")
    arguments = ("--json", "--speed", "0", "--only", "PUMP", "--from", "2026-07-20T13:00:00Z", "--to", "+90min")
    with command("replay", "-u", shm.url, "-n", "test", *arguments, tmp_path) as process:
        out, errors = process.communicate(timeout=20)
    (row,) = json.loads(out)
    assert row["name"] == "PUMP" and 0 < row["count"] < 20
    assert NOON / 1000 + 3600 <= row["first"] < row["last"] <= NOON / 1000 + 5400 + two_hours(60)[0][0] / 1000


def test_the_command_is_interrupted(shm: SharedMemory, client: redis.Redis, tmp_path: Path) -> None:
    record(tmp_path, two_hours(60))
    with command("replay", "-u", shm.url, "--speed", "0", "--loop", tmp_path) as process:
        eventually(lambda: client.xlen("TANK:history") > 100, message="the second round")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert out.splitlines()[0].split() == ["RECORD", "FIRST", "LAST", "PLAYED"]


def test_progress_on_a_terminal(shm: SharedMemory, tmp_path: Path) -> None:
    """One line that is written over, on standard error; the tables are on standard output."""
    record(tmp_path / "old", [(0, "TANK", (1.0, "HDL", 1, "")), (900, "TANK", (2.0, "HDL", 2, ""))])
    for arguments, says in (
        (["replay", "-u", shm.url, tmp_path / "old"], r"\r2026-07-20T12:00:00.900Z  100 %  2 updates"),
        (
            ["record", "-u", shm.url, "--since", "0", "--length", "0.6s", tmp_path / "new"],
            r"\r1 record  2 rows  0.0 MB  0",
        ),
    ):
        terminal, end = pty.openpty()
        with command(*arguments, stderr=end) as process:
            out, _ = process.communicate(timeout=20)
            os.close(end)
        shown = os.read(terminal, 65536).decode()
        os.close(terminal)
        assert re.search(says, shown) and shown.endswith("\r\n"), shown
        assert out.startswith("RECORD")


def test_the_server_goes(own_server: Callable[..., OwnServer], tmp_path: Path) -> None:
    record(tmp_path, two_hours(60))
    server = own_server()
    with command("replay", "-u", server.url, "--speed", "0", "--loop", tmp_path) as process:
        with server.client() as client:
            eventually(lambda: client.xlen("TANK:history") > 100, message="the second round")
        server.kill()
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and errors.splitlines()[-1].startswith("shareddata replay: unix://")
    assert out.splitlines()[0].split() == ["RECORD", "FIRST", "LAST", "PLAYED"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "give at least one folder, CSV file or server's address"),
        (["--speed", "-1", "x"], 2, "--speed: '-1': expected 0 or more"),
        (["--from", "yesterday", "FOLDER"], 2, "--from: 'yesterday': expected a time like"),
        (["--only", "A,B", "FOLDER"], 1, "no record 'A' is in what is to be played: there are PUMP, TANK"),
        (["/none"], 1, "/none: there is no such folder or file"),
    ],
)
def test_the_command_refuses(
    shm: SharedMemory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    record(tmp_path, two_hours(6))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match=str(code)):
            cli.main(["replay", "-u", shm.url, *(str(tmp_path) if each == "FOLDER" else each for each in arguments)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert says in capsys.readouterr().err
