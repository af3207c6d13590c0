"""Histories of records that were described anew: what they hold is read as it was written."""

import csv
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pyarrow.parquet
import pytest
import redis

from records import HEAD
from servers import plain_client
from shareddata import DataDict, DecodeError, FieldError, SharedMemory, UnknownData, cli, eras
from shareddata.columns import time_text
from shareddata.export import export
from shareddata.forward import Forward
from shareddata.record import Recorder
from shareddata.recording import Recording
from shareddata.replay import Past, Replay
from shareddata.rowsources import HistorySource, RecordingSource

METRES: dict[str, Any] = {"TANK": [*HEAD, ["level", 0.0, {"unit": "m"}], ["open", False]]}
MILLIMETRES: dict[str, Any] = {"TANK": [*HEAD, ["level", 0, {"unit": "mm", "max": 9000}], ["leak", True]]}
WORDS: dict[str, Any] = {"TANK": [*HEAD, ["leak", False], ["level", "empty"], ["open", True]]}
KEY = "TANK:described"


@pytest.fixture(params=["", "usv1"], ids=["plain", "namespace"])
def tank(url: str, request: pytest.FixtureRequest) -> Iterator[SharedMemory]:
    with SharedMemory(url=url, namespace=request.param) as shm:
        yield shm


def write(shm: SharedMemory, **values: Any) -> float:
    """Write the tank's record; return a time of the server's clock that is after it, and before all that follows."""
    with DataDict("HDL_TANK", shm) as dd:
        (data,) = dd.set_datas_to_write(["TANK"])
        data.set(**values)
        dd.flush()
    return pause()


def pause() -> float:
    time.sleep(0.003)  # histories know milliseconds
    now = time.time()
    time.sleep(0.003)
    return now


def all_of(shm: SharedMemory, since: float | str = 0) -> list[Any]:
    with DataDict("reader", shm) as dd, dd.follow_data("TANK", since, timeout=0) as follower:
        return list(follower)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit, check=lambda end: True) as ended:
        cli.main([*arguments])
    return int(ended.value.code or 0)


def twice_changed(shm: SharedMemory) -> list[float]:
    """Write three times, each time under another description; return times after each."""
    times = []
    for description, level in ((METRES, 1.5), (MILLIMETRES, 1600), (WORDS, "full")):
        shm.init(description)
        times.append(write(shm, level=level))
    return times


def test_a_record_that_was_never_described_anew_has_no_notes(tank: SharedMemory, client: redis.Redis) -> None:
    tank.init(METRES)
    tank.init(METRES, keep=True)
    write(tank, level=1.5)
    tank.init(METRES)
    assert not client.exists(tank.keys.described("TANK"))
    assert tank.eras("TANK") == []
    assert tank.describe("TANK", at=0) == tank.describe("TANK", at=time.time()) == tank.describe("TANK")


def test_all_is_read_with_the_types_of_its_time(tank: SharedMemory) -> None:
    times = twice_changed(tank)
    found = all_of(tank)
    assert [trame._fields for trame in found] == [("ts", "sender", "leak", "level", "open")] * 3
    assert [(trame.leak, trame.level, trame.open) for trame in found] == [
        (False, 1.5, False), (True, 1600, True), (False, "full", True),
    ]  # fmt: skip
    assert [type(trame.level) for trame in found] == [float, int, str]
    assert len({type(trame) for trame in found}) == 1
    assert [tank.at(at)["TANK"].level for at in times] == [1.5, 1600, "full"]
    assert tank.at(times[0] - 60) == {"TANK": None}
    with DataDict("reader", tank) as dd, dd.follow_data("TANK", times[0], timeout=0) as follower:
        assert [trame.level for trame in follower] == [1600, "full"]


def test_what_was_described_when(tank: SharedMemory) -> None:
    times = twice_changed(tank)
    assert [tank.describe("TANK", at).field("level").unit for at in times] == ["m", "mm", ""]
    assert [tank.describe("TANK", at).field("level").type for at in (0, times[2] + 60)] == ["float", "str"]
    with DataDict("reader", tank) as dd, dd.follow_data("TANK", 0, timeout=0) as follower:
        found = [tank.describe("TANK", follower.id).field("level").type for _ in follower]
    assert found == ["float", "int", "str"]
    assert tank.describe("TANK", times[0]).clock() == pytest.approx(tank.clock.now(), abs=5)
    with pytest.raises(UnknownData, match="no record 'TANG'"):
        tank.describe("TANG", at=times[0])
    with pytest.raises(ValueError, match="yesterday"):
        tank.describe("TANK", at="yesterday")


def test_back_again(tank: SharedMemory) -> None:
    """The same description three times, with another one between each."""
    for number in range(3):
        tank.init(METRES)
        write(tank, level=number + 0.5)
        tank.init(WORDS, keep=True)
        write(tank, level=str(number))
    tank.init(METRES)
    assert [trame.level for trame in all_of(tank)] == [0.5, "0", 1.5, "1", 2.5, "2"]


def test_a_server_that_knows_nothing_of_the_past(tank: SharedMemory, client: redis.Redis) -> None:
    """What an older version of the library described anew is read by the newest description, as it was."""
    times = twice_changed(tank)
    client.delete(tank.keys.described("TANK"))
    assert [trame.level for trame in all_of(tank)] == ["1.5", "1600", "full"]
    assert tank.describe("TANK", times[0]) == tank.describe("TANK")


def test_only_the_newest_hundred_are_kept(shm: SharedMemory, client: redis.Redis) -> None:
    for number in range(eras.MOST + 5):
        shm.init({"TANK": {"doc": str(number), "fields": METRES["TANK"]}})
    assert client.xlen(KEY) == eras.MOST
    assert [each.record.doc for each in shm.eras("TANK")] == [str(number) for number in range(4, eras.MOST + 4)]
    assert shm.describe("TANK", 0).doc == "4"


def test_records_without_a_history_have_no_notes(shm: SharedMemory, client: redis.Redis) -> None:
    for unit in ("m", "mm"):
        shm.init({"TANK": {"history": 0, "fields": [*HEAD, ["level", 0.0, {"unit": unit}]]}})
    assert not client.exists(KEY)


def test_pruned(tank: SharedMemory, client: redis.Redis) -> None:
    twice_changed(tank)
    assert client.exists(tank.keys.described("TANK"))
    tank.init({"OTHER": HEAD}, prune=True)
    assert not client.exists(tank.keys.described("TANK"))
    tank.init(METRES)
    assert tank.eras("TANK") == [] and all_of(tank) == []


def test_arrays(shm: SharedMemory) -> None:
    for kind, value in (({"dtype": "<f4", "shape": [2]}, [1.5, 2.5]), ({"dtype": "<u2", "shape": [3]}, [1, 2, 3])):
        shm.init({"TANK": {"history": 9, "fields": [*HEAD, ["level", 0, kind]]}})
        write(shm, level=value)
    shm.init({"TANK": METRES["TANK"]})
    assert [trame.level.tolist() for trame in all_of(shm)] == [[1.5, 2.5], [1, 2, 3]]


def test_two_that_describe_at_the_same_moment(shm: SharedMemory, url: str) -> None:
    """Each note says how it was described before: none is doubled, none is missing."""
    shm.init({"TANK": {"doc": "first", "fields": METRES["TANK"]}})

    def describe(name: str) -> None:
        with SharedMemory(url=url) as other:
            for number in range(20):
                other.init({"TANK": {"doc": f"{name} {number}", "fields": METRES["TANK"]}})

    threads = [threading.Thread(target=describe, args=(name,)) for name in ("one", "two")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    docs = [each.record.doc for each in shm.eras("TANK")] + [shm.describe("TANK").doc]
    assert sorted(docs) == sorted(["first", *(f"{name} {number}" for name in ("one", "two") for number in range(20))])
    assert docs[0] == "first"


# -- while it is followed -------------------------------------------------------------------------------------------


def test_changed_while_it_is_followed(shm: SharedMemory, url: str) -> None:
    """It changed and changed back before the follower looked again."""
    shm.init(METRES)
    with SharedMemory(url=url) as other, DataDict("reader", shm) as dd, dd.follow_data("TANK", timeout=5) as follower:
        write(other, level=1.5)
        assert next(follower).level == 1.5
        other.init(WORDS)
        write(other, level="full")
        other.init(METRES)
        write(other, level=2.5)
        assert [next(follower).level for _ in range(2)] == ["full", 2.5]


def test_nothing_is_asked_per_entry(shm: SharedMemory, client: redis.Redis) -> None:
    twice_changed(shm)
    with DataDict("writer", shm) as dd, dd.follow_data("TANK", 0, timeout=5) as follower:
        (data,) = dd.set_datas_to_write(["TANK"])
        assert [next(follower).level for _ in range(3)] == [1.5, 1600, "full"]
        client.config_resetstat()
        for number in range(50):
            data.set(level=str(number))
            dd.flush()
            assert next(follower).level == str(number)
        assert "cmdstat_xrevrange" not in client.info("commandstats")


def test_types_that_agree_cost_nothing(shm: SharedMemory) -> None:
    shm.init(METRES)
    shm.init({"TANK": [*HEAD, ["level", 0.0, {"unit": "mm"}], ["open", False], ["leak", False]]})
    assert len(shm.eras("TANK")) == 1
    layout = shm.layout("TANK")
    assert shm.decoder(layout) == layout.decode_entry


def test_a_flush_that_was_on_its_way(shm: SharedMemory, client: redis.Redis) -> None:
    """It came behind the new description; long after it, such an entry is another program's."""
    shm.init({"TANK": [*HEAD, ["level", "empty"]]})
    shm.init(METRES)
    shm.init(MILLIMETRES)
    now = int(time.time() * 1000)
    for identity, text in ((f"{now + 5}-0", "1.5"), (f"{now + 60_000}-0", "1.75")):
        client.xadd("TANK:history", {"ts": "1.0", "sender": "late", "level": text, "open": "true"}, identity)
    with DataDict("reader", shm) as dd, dd.follow_data("TANK", 0, timeout=0) as follower:
        assert next(follower).level == 1.5
        with pytest.raises(DecodeError, match=r"'level': found b'1.75' .*expected int \[mm\]"):
            next(follower)


# -- what others wrote ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"description": "{"}, id="no JSON"),
        pytest.param({"description": "[" * 100_000}, id="deep"),
        pytest.param({"description": "[]"}, id="no fields"),
        pytest.param({"description": b"\xff\xfe"}, id="no text"),
        pytest.param({"something": "else"}, id="another field"),
        pytest.param({"description": "[]", "and": "more"}, id="two fields"),
    ],
)
def test_rubbish_is_ignored_with_a_warning(
    shm: SharedMemory, client: redis.Redis, fields: Any, caplog: pytest.LogCaptureFixture
) -> None:
    times = twice_changed(shm)
    client.xadd(KEY, fields)
    assert [trame.level for trame in all_of(shm)] == [1.5, 1600, "full"]
    assert [shm.at(at)["TANK"].level for at in times] == [1.5, 1600, "full"]
    assert "key TANK:described, entry 1" in caplog.text and "another program wrote it" in caplog.text
    shm.init(METRES)
    assert all_of(shm)[-1].level == "full"


def test_a_description_that_was_none_is_not_noted(shm: SharedMemory, client: redis.Redis) -> None:
    shm.init(METRES)
    client.hset("shareddata:datadesc", "TANK", "rubbish")
    shm.init(METRES)
    assert not client.exists(KEY)
    assert shm.eras("TANK") == []


# -- in files, and elsewhere ----------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_an_export_has_one_type(tank: SharedMemory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _ = twice_changed(tank)
    with pytest.raises(DecodeError, match=r"TANK changed the type of a field at 2.*--to 2\S+ and --from 2\S+$") as told:
        export(HistorySource(tank), tmp_path / "all.csv")
    assert not list(tmp_path.iterdir())
    export(HistorySource(tank, end=first), tmp_path / "first.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "first.parquet")
    assert found["level"].to_pylist() == [1.5] and found.schema.field("level").metadata[b"unit"] == b"m"
    assert "leak" not in found.column_names
    export(HistorySource(tank, begin=first, end=second), tmp_path / "second.csv")
    (row,) = rows(tmp_path / "second.csv")
    assert (row["level"], row["leak"]) == ("1600", "true")
    at = str(told.value).rpartition(" ")[2]
    command = ["export", "--url", tank.url, *(["--namespace", tank.namespace] if tank.namespace else [])]
    assert run(*command, "--from", at, str(tmp_path / "third.csv"), "TANK") == 0, capsys.readouterr().err
    assert run(*command, str(tmp_path / "all.csv"), "TANK") == 1
    assert f"--to {at} and --from {at}" in capsys.readouterr().err
    assert [row["level"] for row in rows(tmp_path / "third.csv")] == ["full"]


def test_an_export_tells_other_units(shm: SharedMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shm.init(METRES)
    first = write(shm, level=1.5)
    millimetres = {"TANK": [*HEAD, ["level", 0.0, {"unit": "mm"}], ["open", False]]}
    shm.init(millimetres)
    second = write(shm, level=1600.0)
    (era,) = shm.eras("TANK")
    earlier = {"before": time_text(era.end * 10**6), "units": {"level": "m"}}
    export(HistorySource(shm), tmp_path / "all.csv")
    sidecar = json.loads((tmp_path / "all.csv.json").read_text())
    assert sidecar["earlier_units"] == [earlier]
    assert sidecar["description"] == shm.describe("TANK").as_json()
    assert [row["level"] for row in rows(tmp_path / "all.csv")] == ["1.5", "1600.0"]
    assert f"record TANK: rows before {earlier['before']} have other units (level)" in caplog.text
    export(HistorySource(shm), tmp_path / "all.nxs")
    with h5py.File(tmp_path / "all.nxs") as file:
        assert json.loads(file["entry/records/TANK/_description"].asstr()[()])["earlier_units"] == [earlier]
    caplog.clear()
    for name, begin, end in (("one", None, first), ("two", first, None), ("none", second, None)):
        export(HistorySource(shm, begin=begin, end=end), tmp_path / f"{name}.csv")
        content = json.loads((tmp_path / f"{name}.csv.json").read_text())
        assert "earlier_units" not in content
        assert content["description"]["fields"][2][2]["unit"] == ("m" if name == "one" else "mm")
    assert not caplog.records


def test_units_that_came_back(shm: SharedMemory, tmp_path: Path) -> None:
    """Of histories and of recordings the file says from when until when the unit was another one."""
    for number, unit in enumerate(("m", "mm", "cm", "cm", "m", "mm")):
        shm.init({"TANK": {"doc": str(number), "fields": [*HEAD, ["level", 0.0, {"unit": unit}]]}})
        write(shm, level=float(number))
    export(HistorySource(shm), tmp_path / "all.csv")
    at = [time_text(era.end * 10**6) for era in shm.eras("TANK")]
    earlier = json.loads((tmp_path / "all.csv.json").read_text())["earlier_units"]
    assert earlier == [
        {"before": at[0], "units": {"level": "m"}},
        {"from": at[1], "before": at[3], "units": {"level": "cm"}},
        {"from": at[3], "before": at[4], "units": {"level": "m"}},
    ]
    with Recorder(shm, tmp_path / "run", since=0) as recorder:
        recorder.run(seconds=0.05)
    export(RecordingSource([tmp_path / "run"]), tmp_path / "run.csv")
    found = json.loads((tmp_path / "run.csv.json").read_text())["earlier_units"]
    assert [each["units"] for each in found] == [each["units"] for each in earlier]
    assert all(one["before"] <= other["before"] for one, other in zip(earlier, found))


def test_a_recording_that_begins_in_the_past(tank: SharedMemory, tmp_path: Path) -> None:
    times = twice_changed(tank)
    with Recorder(tank, tmp_path, since=0) as recorder:
        recorder.run(seconds=0.05)
        assert recorder.written == 3
    found = [json.loads(path.read_text())["description"]["fields"] for path in sorted(tmp_path.glob("TANK_*.json"))]
    assert found == [tank.describe("TANK", at).as_json()["fields"] for at in times]
    assert [entry.trame.level for entry in Recording(tmp_path).entries()] == [1.5, 1600, "full"]


def test_a_recording_that_goes_on(tank: SharedMemory, tmp_path: Path) -> None:
    """The record was described anew while nobody recorded."""
    tank.init(METRES)
    with Recorder(tank, tmp_path) as recorder:
        write(tank, level=1.5)
        recorder.run(seconds=0.05)
    write(tank, level=2.5)
    tank.init(WORDS)
    write(tank, level="full")
    with Recorder(tank, tmp_path) as recorder:
        recorder.run(seconds=0.05)
    assert [entry.trame.level for entry in Recording(tmp_path).entries()] == [1.5, 2.5, "full"]


def test_replayed(tank: SharedMemory, url: str) -> None:
    times = twice_changed(tank)
    past = Past(tank)
    assert [entry.trame.level for entry in past.entries()] == [1.5, 1600, "full"]
    for start, words in ((None, "'level': 1.5 is float, expected str"), (times[1], "'level': 1600 is int")):
        with (
            SharedMemory(url=url, namespace="again") as again,
            Replay(past, again, speed=0, start=start) as replay,
            pytest.raises(FieldError, match=words),
        ):
            replay.run()


def test_forwarded(url: str) -> None:
    """The link was away while it was described anew, twice: entries and descriptions arrive late, and agree."""
    with SharedMemory(url=url, namespace="usv1") as tank, SharedMemory(url=url, namespace="fleet") as fleet:

        def forward() -> None:
            with Forward(url, url, namespace="usv1", to_namespace="fleet") as going:
                going.run(once=True)

        tank.init(METRES)
        write(tank, level=1.5)
        forward()
        write(tank, level=2.5)
        for description, level in ((MILLIMETRES, 1600), (WORDS, "full"), (METRES, 3.5)):
            tank.init(description)
            write(tank, level=level)
        forward()
        assert [trame.level for trame in all_of(fleet)] == [1.5, 2.5, 1600, "full", 3.5]
        assert fleet.eras("TANK") == tank.eras("TANK")
        with plain_client(url) as client:
            assert client.xrange("{fleet}:TANK:described") == client.xrange("{usv1}:TANK:described")
        epoch = fleet.epoch()
        forward()
        assert fleet.epoch() == epoch


def test_printed(shm: SharedMemory, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with the unit and the limits of its time."""
    twice_changed(shm)
    shm.init({"TANK": [*HEAD, ["level", 0.0, {"unit": "cm", "max": 1.0}], ["open", False]]})
    assert run("tail", "--url", shm.url, "--since", "0", "--timeout", "0", "TANK") == 0
    found = capsys.readouterr().out.splitlines()
    assert ["1.5 m" in found[0], "1600 mm" in found[1], "full" in found[2] and "cm" not in found[2]] == [True] * 3
    assert not any("!" in line for line in found)
