"""Exports read back by the programs that they are for: the same values, times and units; what a format cannot hold."""

import base64
import csv
import json
import math
import os
import pty
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import numpy as np
import pandas
import pyarrow.parquet
import pytest
from mcap.reader import make_reader

from programs import Program
from servers import OwnServer, plain_client
from shareddata import DataDict, SharedMemory, cli
from shareddata.columns import Column, Table, nanoseconds
from shareddata.errors import FieldError, LogFormatError, UnknownData
from shareddata.export import Exported, export
from shareddata.formats import Format
from shareddata.record import Recorder
from shareddata.rowsources import HistorySource, LogSource, RecordingSource, Row, columns_of
from shareddata.tslog import TSLog

HEAD = [["ts", 0.0, {"unit": "s"}], ["sender", ""]]
SHIP: dict[str, Any] = {
    "SHIP__all": {
        "doc": "Every type.",
        "history": 1000,
        "fields": [
            *HEAD, ["speed", 0.0, {"unit": "m/s", "doc": "Over ground."}], ["count", 0], ["on", False], ["note", ""],
            ["list", []], ["object", {}], ["any", None],
        ],
    },
    "SHIP__array": {
        "history": 1000,
        "fields": [
            *HEAD, ["f", 0.0, {"dtype": "<f4", "shape": [3], "unit": "V"}], ["c", 0.0, {"dtype": "<c8", "shape": [2]}],
            ["b", False, {"dtype": "|b1", "shape": [2, 2]}], ["u", 0, {"dtype": "<u8", "shape": [1]}],
        ],
    },
    "SHIP__quiet": {"history": 0, "fields": [*HEAD, ["x", 0]]},
}  # fmt: skip
TS = 1784540000.1234567
VALUES = [  # speed, count, on, note, list, object, any
    (0.1, 2**63 - 1, True, "plain", [1, "a"], {"k": None}, 1),
    (math.nan, -(2**63), False, 'quotes " and, commas\nlines\r\n\r', [], {}, None),
    (math.inf, 0, True, "", [[1.5, None]], {"é": {"ü": [True]}}, "text"),
    (-math.inf, 1, False, "Ж 漢 🚤\u2028 \x1b[2J", [1], {"n": 2**70}, [1, 2]),
    (5e-324, 2**53 + 1, True, "NA", ["nan"], {}, {"a": 1}),
]


@pytest.fixture
def ship(shm: SharedMemory) -> SharedMemory:
    return fill(shm)


def fill(shm: SharedMemory) -> SharedMemory:
    """Write records of all types."""
    shm.init(SHIP)
    with DataDict("HDL_SHIP", shm) as dd:
        each, array = dd.set_datas_to_write(["SHIP__all", "SHIP__array"])
        for i, values in enumerate(VALUES):
            each.set(*values, ts=TS + i)
            floats, bools = [i, math.nan if i == 1 else 0.5, -1e30], [[True, False], [i % 2 == 0, True]]
            array.set(floats, [1 + 2j, complex(i, -0.0)], bools, [2**64 - 1 - i], ts=TS + i)
            dd.flush()
    return shm


def written(shm: SharedMemory, name: str) -> list[tuple[int, Any]]:
    """Return what the history holds: when each trame was received, in nanoseconds, and the trame."""
    with plain_client(shm.url) as client:
        ids = [int(entry[0].split(b"-")[0]) for entry in client.xrange(f"{name}:history")]
    with DataDict("CHECK", shm) as dd:
        follower = dd.follow_data(name, since=0, timeout=0)
        return [(ms * 10**6, trame) for ms, trame in zip(ids, follower, strict=True)]


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same, NaN too, whatever holds them."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if hasattr(one, "tolist") or hasattr(other, "tolist"):
        return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind in "fc")
    return bool(one == other)


def save(shm: SharedMemory, target: Path, *names: str, **more: Any) -> list[Exported]:
    return export(HistorySource(shm, names), target, **more)


# -- read back ------------------------------------------------------------------------------------------------------


def test_csv_read_by_pandas(ship: SharedMemory, tmp_path: Path) -> None:
    (done,) = save(ship, tmp_path / "all.csv", "SHIP__all")
    assert (done.name, done.rows, done.file) == ("SHIP__all", len(VALUES), tmp_path / "all.csv")
    frame = pandas.read_csv(
        tmp_path / "all.csv",
        parse_dates=["_time", "_received"],
        converters=dict.fromkeys(("list", "object", "any"), json.loads),
        keep_default_na=False,
        na_values={"speed": ["nan"]},
    )
    assert [str(frame[name].dtype) for name in ("speed", "count", "on")] == ["float64", "int64", "bool"]
    for i, (received, trame) in enumerate(written(ship, "SHIP__all")):
        row = frame.iloc[i]
        assert row["_time"].value == nanoseconds(trame.ts) and row["_received"].value == received
        assert all(same(value, row[name]) for name, value in trame._asdict().items()), row
    sidecar = json.loads((tmp_path / "all.csv.json").read_text())
    assert sidecar == {"record": "SHIP__all", "description": ship.describe("SHIP__all").as_json()}


def test_csv_of_arrays(ship: SharedMemory, tmp_path: Path) -> None:
    save(ship, tmp_path / "array.csv", "SHIP__array")
    with open(tmp_path / "array.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, (_, trame) in zip(rows, written(ship, "SHIP__array"), strict=True):
        assert same(np.array(json.loads(row["f"]), "<f4"), trame.f)
        assert same([complex(*pair) for pair in json.loads(row["c"])], trame.c.astype(complex))
        assert json.loads(row["b"]) == trame.b.tolist() and json.loads(row["u"]) == trame.u.tolist()


def test_parquet_read_by_pandas_and_pyarrow(ship: SharedMemory, tmp_path: Path) -> None:
    save(ship, tmp_path / "all.parquet", "SHIP__all")
    schema = pyarrow.parquet.read_schema(tmp_path / "all.parquet")
    assert schema.field("speed").metadata == {b"unit": b"m/s", b"doc": b"Over ground.", b"type": b"float"}
    assert json.loads(schema.metadata[b"shareddata"])["description"] == ship.describe("SHIP__all").as_json()
    assert str(schema.field("_time").type) == "timestamp[ns, tz=UTC]"
    frame = pandas.read_parquet(tmp_path / "all.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pylist()
    for i, (received, trame) in enumerate(written(ship, "SHIP__all")):
        row = rows[i]
        assert frame["_time"][i].value == nanoseconds(trame.ts) and frame["_received"][i].value == received
        for name in ("list", "object", "any"):
            row[name] = json.loads(row[name])
        assert all(same(value, row[name]) for name, value in trame._asdict().items()), row
        assert all(same(getattr(trame, name), frame[name][i].item()) for name in ("ts", "speed", "count", "on"))


def test_parquet_of_arrays(ship: SharedMemory, tmp_path: Path) -> None:
    save(ship, tmp_path / "array.pq", "SHIP__array")
    table = pyarrow.parquet.read_table(tmp_path / "array.pq")
    labels = {name: table.schema.field(name).metadata for name in ("f", "c", "b", "u")}
    assert labels["f"] == {b"unit": b"V", b"type": b"array", b"dtype": b"<f4", b"shape": b"[3]"}
    for i, (_, trame) in enumerate(written(ship, "SHIP__array")):
        for name, label in labels.items():
            flat = np.array(table[name][i].as_py(), "<f4" if name == "c" else label[b"dtype"].decode())
            found = flat.view(label[b"dtype"].decode()).reshape(json.loads(label[b"shape"]))
            assert found.dtype == getattr(trame, name).dtype and same(found, getattr(trame, name))


def test_nexus_read_by_h5py(ship: SharedMemory, tmp_path: Path) -> None:
    save(ship, tmp_path / "ship.nxs")
    with h5py.File(tmp_path / "ship.nxs") as file:
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        assert [each.attrs["NX_class"] for each in (file, entry, data)] == ["NXroot", "NXentry", "NXdata"]
        assert data[data.attrs["signal"]].shape == data[data.attrs["axes"][0]].shape == (len(VALUES),)
        assert set(entry["records"]) == {"SHIP__all", "SHIP__array"}
        for name, group in entry["records"].items():
            assert json.loads(group["_description"][()])["record"] == name == group.attrs["name"]
            for i, (received, trame) in enumerate(written(ship, name)):
                assert group["_received"][i] == received
                for field, value in zip(ship.describe(name).fields, trame, strict=True):
                    check_log(group[field.name], i, field, value, nanoseconds(trame.ts))


def check_log(log: Any, i: int, field: Any, value: Any, measured: int | None) -> None:
    assert log.attrs["NX_class"] == "NXlog"
    assert (log["time"][i], log["time"].attrs["units"]) == (measured, "ns")
    assert log["time"].attrs["start"] == "1970-01-01T00:00:00Z"
    assert log["value"].attrs.get("units", "") == field.unit
    found = log["value"][i]
    if isinstance(found, bytes):
        found = found.decode() if field.type == "str" else json.loads(found)
    assert same(value, found.item() if getattr(found, "shape", None) == () else found), field


def test_mcap_read_by_its_reader(ship: SharedMemory, tmp_path: Path) -> None:
    save(ship, tmp_path / "ship.mcap")
    expected = {name: iter(written(ship, name)) for name in ("SHIP__all", "SHIP__array")}
    last = 0
    for schema, channel, message in messages(tmp_path / "ship.mcap"):
        received, trame = next(expected[channel.topic])
        assert (message.log_time, message.publish_time) == (received, nanoseconds(trame.ts))
        assert message.log_time >= last and channel.message_encoding == "json" and schema.encoding == "jsonschema"
        last = message.log_time
        declared, body = json.loads(schema.data), json.loads(message.data, parse_constant=refuse_constant)
        jsonschema.validate(body, declared)
        assert declared["properties"]["ts"]["unit"] == "s"
        for field, value in zip(ship.describe(channel.topic).fields, trame, strict=True):
            assert same(value, from_message(body, field, declared["properties"][field.name])), field
    assert not [rest for each in expected.values() for rest in each]


def messages(path: Path) -> Iterator[Any]:
    with open(path, "rb") as file:
        yield from make_reader(file, validate_crcs=True).iter_messages()


def refuse_constant(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def from_message(body: dict[str, Any], field: Any, schema: dict[str, Any]) -> Any:
    """Return the value of a field as the docs tell to read it."""
    value = body.get(field.name, body.get("_not_finite", {}).get(field.name))
    if schema.get("contentMediaType") == "application/json":
        return json.loads(value)
    if schema.get("contentEncoding") == "base64":
        return np.frombuffer(base64.b64decode(value), schema["dtype"]).reshape(schema["shape"])
    if isinstance(value, list):
        return np.array([float(item) if isinstance(item, str) else item for item in value], schema["dtype"])
    return float(value) if schema["type"] == "number" else value


# -- logs -----------------------------------------------------------------------------------------------------------

KINDS = "?bBhHiIqQefd3sc"
SMALL = (True, -128, 255, -(2**15), 2**16 - 1, -(2**31), 2**32 - 1)
LARGEST = (*SMALL, -(2**63), 2**64 - 1, 0.5, 0.25, 1e300, b"a\0b", b"x")


def test_log_in_each_format(shm: SharedMemory, tmp_path: Path) -> None:
    with TSLog("deep/log", ["Q" + KINDS], shm=shm, bucket_size=100) as log:
        for i in range(5):
            log.store(1784540000000 + i, *LARGEST)
    source = LogSource(shm, "deep/log", clock="f0:ms")
    for form in ("csv", "parquet", "nxs", "mcap"):
        (done,) = export(LogSource(shm, "deep/log", clock="f0:ms"), tmp_path / f"log.{form}")
        assert (done.rows, done.first, done.last) == (5, 1784540000000 * 10**6, 1784540000004 * 10**6)
    names = [column.name for column in source.tables[0].columns[2:]]
    rows = pyarrow.parquet.read_table(tmp_path / "log.parquet").to_pylist()
    assert [row["_seqn"] for row in rows] == [1, 2, 3, 4, 5]
    assert tuple(rows[4][name] for name in names) == (1784540000004, *LARGEST)
    frame = pandas.read_csv(tmp_path / "log.csv", parse_dates=["_time"])
    assert frame["_time"][4].value == 1784540000004 * 10**6 and frame["f9"][4] == 2**64 - 1
    with h5py.File(tmp_path / "log.nxs") as file:
        group = file["entry/records/deep%2Flog"]
        assert group["f9/value"][4] == 2**64 - 1 and group["f9/time"][4] == 1784540000004 * 10**6
        assert bytes(group["f13/value"][4]) == b"a\0b"
    *_, (_, channel, message) = messages(tmp_path / "log.mcap")
    assert channel.topic == "deep/log" and message.log_time == message.publish_time == 1784540000004 * 10**6
    assert json.loads(message.data)["f9"] == 2**64 - 1


def test_log_of_several_formats_is_several_tables(shm: SharedMemory, tmp_path: Path) -> None:
    with TSLog("two", ["Qf", "Qi"], shm=shm) as log:
        for i in range(6):
            log.store_with_tag(i % 2, i, i)
    with pytest.raises(FieldError, match=r"csv holds one table, and there are 2 \(two.0, two.1\): give a folder"):
        export(LogSource(shm, "two"), tmp_path / "two.csv")
    done = export(LogSource(shm, "two"), tmp_path / "two", "csv")
    assert [(each.file.name, each.rows) for each in done] == [("two.0.csv", 3), ("two.1.csv", 3)]
    assert (tmp_path / "two" / "two.1.csv").read_text() == "_seqn,f0,f1\n2,1,1\n4,3,3\n6,5,5\n"


def test_log_without_format_and_records_stored_as_bytes(shm: SharedMemory, tmp_path: Path) -> None:
    with TSLog("raw", record_size=4, shm=shm) as log:
        log.store_record(b"\0\xff")
    export(LogSource(shm, "raw"), tmp_path / "raw.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "raw.parquet").to_pylist() == [{"_seqn": 1, "data": b"\0\xff"}]
    with TSLog("both", ["i"], shm=shm) as log:
        log.store(1)
        log.store_record(b"x")
    source = LogSource(shm, "both")
    (done,) = export(source, tmp_path / "both.csv")
    assert (done.rows, source.damaged) == (1, 1)
    assert "record 2: stored as bytes" in source.damage


@pytest.mark.parametrize("clock", ["f2:ms", "f0", "f0:min", "f1:s"])
def test_clock_is_checked(shm: SharedMemory, clock: str) -> None:
    with TSLog("one", ["Q2s"], shm=shm) as log:
        log.store(1, b"ab")
    with pytest.raises(FieldError, match=r"log one: --time .*the numbers are f0"):
        LogSource(shm, "one", clock=clock)


def test_log_without_times(shm: SharedMemory, tmp_path: Path) -> None:
    with TSLog("one", ["d"], shm=shm) as log:
        log.store(1.5)
    with pytest.raises(FieldError, match=r"one: MCAP wants a time for each message.*--time f0:ms"):
        export(LogSource(shm, "one"), tmp_path / "one.mcap")
    with pytest.raises(FieldError, match=r"no time of their own: say which value is it with --time"):
        LogSource(shm, "one", begin=1.0)
    assert not list(tmp_path.iterdir())
    export(LogSource(shm, "one", clock="f0:s"), tmp_path / "one.mcap")
    assert [message.log_time for _, _, message in messages(tmp_path / "one.mcap")] == [1_500_000_000]
    with pytest.raises(UnknownData, match=r"no log 'won': did you mean one\?"):
        LogSource(shm, "won")


def test_formats_that_are_odd() -> None:
    assert [column.dtype or column.shape for column in columns_of(Format("@lx3sP"))] == ["<i8", (3,), "<u8"]
    with pytest.raises(LogFormatError, match="no format"):
        Format("z")


# -- times and ranges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        *((0.0, 0), (1e-9, 1), (TS, 1784540000123456717), (-1.5, -1_500_000_000)),
        *((math.nan, None), (math.inf, None), (1e10, None)),
    ],
)
def test_times_are_the_nearest_nanosecond(seconds: float, nanos: int | None) -> None:
    assert nanoseconds(seconds) == nanos
    if nanos is not None:
        assert nanos / 10**9 == seconds


def test_times_that_are_none(shm: SharedMemory, tmp_path: Path) -> None:
    shm.init({"A": [["ts", 0.0], ["sender", ""], ["x", 0]]})
    with DataDict("ME", shm) as dd:
        (a,) = dd.set_datas_to_write(["A"])
        for ts in (math.nan, 1e300, -5.0):
            a.set(1, ts=ts)
            dd.flush()
    for form in ("csv", "parquet", "nxs", "mcap"):
        save(shm, tmp_path / f"a.{form}")
    times = pandas.read_csv(tmp_path / "a.csv")["_time"]
    assert times.isna().tolist() == [True, True, False] and times[2] == "1969-12-31T23:59:55.000000000Z"
    assert pandas.read_parquet(tmp_path / "a.parquet")["_time"].isna().tolist() == [True, True, False]
    with h5py.File(tmp_path / "a.nxs") as file:
        found = file["entry/records/A/x/time"][()].view("<M8[ns]")
        assert np.isnat(found).tolist() == [True, True, False]
    for _, _, message in messages(tmp_path / "a.mcap"):
        assert message.publish_time == message.log_time > 10**18


def test_range_of_times(ship: SharedMemory, tmp_path: Path) -> None:
    with plain_client(ship.url) as client:
        client.delete("SHIP__all:history")
        body = {"sender": "ME", "speed": 1.0, "count": 1, "on": "true", "note": ""}
        body |= {"list": "[]", "object": "{}", "any": "1"}
        for ms in (1000, 1001, 1002, 2000):
            client.xadd("SHIP__all:history", {"ts": ms / 1000, **body}, id=f"{ms}-0")
    for begin, end, expected in ((None, None, 4), (1.001, None, 3), (1.001, 2.0, 2), (None, 1.001, 1), (3.0, None, 0)):
        (done,) = export(HistorySource(ship, ["SHIP__all"], begin, end), tmp_path / "part.csv", force=True)
        assert done.rows == expected
    with TSLog("clocked", ["d"], shm=ship) as log:
        for seconds in (1.0, 2.0, 3.0):
            log.store(seconds)
    (done,) = export(LogSource(ship, "clocked", "f0:s", 2.0, 3.0), tmp_path / "log.csv")
    assert (done.rows, done.first) == (1, 2 * 10**9)


def test_recording_gives_what_the_history_gives(ship: SharedMemory, tmp_path: Path) -> None:
    with Recorder(ship, tmp_path / "run", ["SHIP__all", "SHIP__array"], since=0) as recorder:
        recorder.run(0)
    export(RecordingSource([tmp_path / "run"]), tmp_path / "recorded", "csv")
    save(ship, tmp_path / "direct", form="csv")
    for name in ("SHIP__all.csv", "SHIP__array.csv"):
        assert (tmp_path / "recorded" / name).read_bytes() == (tmp_path / "direct" / name).read_bytes()
    (done,) = export(RecordingSource([tmp_path / "run"], ["SHIP__all"], begin=4e9), tmp_path / "none.mcap")
    assert done.rows == 0


# -- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["big.parquet", "big.nxs"])
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**50])
def test_integers_of_more_than_64_bits_are_refused(shm: SharedMemory, tmp_path: Path, name: str, value: int) -> None:
    shm.init({"A": [["ts", 0.0], ["sender", ""], ["x", 0]]})
    with DataDict("ME", shm) as dd:
        (a,) = dd.set_datas_to_write(["A"])
        a.set(value)
        dd.flush()
    with pytest.raises(FieldError, match=rf"A, field 'x': {value} has more than 64 bits.*export to CSV or MCAP"):
        save(shm, tmp_path / name)
    assert not list(tmp_path.iterdir())
    save(shm, tmp_path / "big.csv")
    assert pandas.read_csv(tmp_path / "big.csv", dtype=str)["x"][0] == str(value)
    save(shm, tmp_path / "big.mcap")
    assert [json.loads(message.data)["x"] for _, _, message in messages(tmp_path / "big.mcap")] == [value]


def test_nul_in_texts(shm: SharedMemory, tmp_path: Path) -> None:
    shm.init({"A": [["ts", 0.0], ["sender", ""], ["x", ""], ["any", None]]})
    with DataDict("ME", shm) as dd:
        (a,) = dd.set_datas_to_write(["A"])
        a.set("", "a\0b")
        dd.flush()
        save(shm, tmp_path / "json.nxs")
        a.set("a\0b", None)
        dd.flush()
    with pytest.raises(FieldError, match=r"A, field 'x': a text with the character NUL, which HDF5 cannot hold"):
        save(shm, tmp_path / "a.nxs")
    save(shm, tmp_path / "a.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet")["x"].to_pylist() == ["", "a\0b"]


def test_strangers_entries_are_left_out_and_told(ship: SharedMemory, tmp_path: Path) -> None:
    with plain_client(ship.url) as client:
        client.xadd("SHIP__all:history", {"something": "else"})
        last = client.xrevrange("SHIP__all:history", count=2)[1][1]
        client.xadd("SHIP__all:history", last)  # a flush that was repeated
        client.xadd("SHIP__all:history", {**last, "count": "many"})
    source = HistorySource(ship, ["SHIP__all"])
    (done,) = export(source, tmp_path / "a.csv")
    assert (done.rows, source.damaged, source.repeated) == (len(VALUES), 2, 1)
    assert "expected a trame with ts and sender" in source.damage


def test_existing_files_stay(ship: SharedMemory, tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("precious")
    with pytest.raises(FileExistsError, match=r"a.csv is there already: .*--force"):
        save(ship, target, "SHIP__all")
    assert target.read_text() == "precious" and len(list(tmp_path.iterdir())) == 1
    save(ship, target, "SHIP__all", force=True)
    assert target.read_text().startswith("_time,_received,ts,sender,speed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.json"]


FULL_DISK = """
    import os, resource
    from pathlib import Path
    from shareddata import plot
    from shareddata.export import export
    from shareddata.rowsources import HistorySource
    folder, hard = Path(sys.argv[2]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    with SharedMemory(url=sys.argv[1]) as shm:
        source = HistorySource(shm, ["SHIP__all"])
        drawing = plot.read(HistorySource(shm, ["SHIP__all"]), ["on"])
        for size in (0, 1000, 9000):
            for name in ("x.csv", "x.parquet", "x.nxs", "x.mcap", "x.pdf"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
                try:
                    plot.save(drawing, folder / name) if name == "x.pdf" else export(source, folder / name)
                    for whole in folder.glob("x.*"):
                        whole.unlink()
                except OSError as error:
                    say(name, "too large" in str(error).lower() or error)
        say(*os.listdir(folder))
"""


def test_no_file_is_left_on_a_full_disk(
    own_server: Callable[..., OwnServer], program: Callable[..., Program], tmp_path: Path
) -> None:
    """HDF5 ended the process."""
    with SharedMemory(url=own_server().url) as shm:
        *said, left = program(FULL_DISK, fill(shm).url, tmp_path).finish()
    names = [each.split()[0] for each in said]
    assert names[:5] == ["x.csv", "x.parquet", "x.nxs", "x.mcap", "x.pdf"] and len(names) > 10
    assert {each.partition(" ")[2] for each in said} == {"True"} and left == ""


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.nxs", "a.mcap"])
def test_no_file_is_left_of_an_export_that_ended_early(ship: SharedMemory, tmp_path: Path, name: str) -> None:
    class Ends(HistorySource):
        def rows(self) -> Iterator[Row]:
            yield from list(super().rows())[:2]
            assert list(tmp_path.iterdir()), "it is written under another name"
            raise KeyboardInterrupt("by Ctrl-C")

    (tmp_path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt, match="by Ctrl-C"):
        export(Ends(ship, ["SHIP__all"]), tmp_path / name, force=True)
    assert (tmp_path / name).read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("form", "module"), [("parquet", "pyarrow"), ("hdf5", "h5py"), ("mcap", "mcap")])
def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, module: str) -> None:
    for name in (module, f"{module}.parquet", f"{module}.writer"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{form} files need {module}.*pip install 'shareddata\[{form}\]'"):
        export(Many(1), tmp_path / "a", form)


TEXT = "".join(map(chr, range(33, 333)))


class Many:
    """A source of many rows, made as they are asked for."""

    missed = repeated = damaged = 0
    damage = ""

    def __init__(self, rows: int) -> None:
        columns = (Column("_time", "time", dtype="<i8"), Column("x", "float", dtype="<f8"), Column("text", "str"))
        self.tables: Sequence[Table] = (Table("MANY", columns, published=0),)
        self.begin, self.end, self._rows = 0.0, float(rows), rows

    def rows(self) -> Iterator[Row]:
        for i in range(self._rows):
            yield Row(0, (i, i / 3, f"number {i} {TEXT}"), i)


@pytest.mark.parametrize("name", ["many.csv", "many.parquet", "many.nxs", "many.mcap"])
def test_memory_does_not_grow_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("shareddata.export._BATCH", 1000)
    parts: list[float] = []
    peaks = []
    for rows in (100, 5_000, 15_000):  # the first one imports
        tracemalloc.start()
        export(Many(rows), tmp_path / name, force=True, progress=lambda part, _: parts.append(part))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 500_000
    assert parts[-1] == 1.0 and 0.3 < sorted(parts)[len(parts) // 2] < 0.8


def test_batches_end_with_their_bytes_too(ship: SharedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shareddata.export._BATCH_BYTES", 400)
    save(ship, tmp_path / "small.parquet", "SHIP__all")
    assert pyarrow.parquet.ParquetFile(tmp_path / "small.parquet").num_row_groups > 1
    assert pyarrow.parquet.read_table(tmp_path / "small.parquet").num_rows == len(VALUES)


# -- the command ----------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit, check=lambda end: True) as ended:
        cli.main([str(each) for each in arguments])
    return int(ended.value.code or 0)


def test_command(ship: SharedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("SHAREDDATA_URL", ship.url)
    monkeypatch.chdir(tmp_path)
    assert run("export", "--format", "parquet", "out") == 0
    assert sorted(os.listdir("out")) == ["SHIP__all.parquet", "SHIP__array.parquet"]
    assert "SHIP__array" in capsys.readouterr().out
    assert run("export", "out.csv") == 1
    assert "csv holds one table, and there are 2" in capsys.readouterr().err
    assert run("export", "out.txt") == 1
    assert "out.txt: its extension tells no format: end it with .csv" in capsys.readouterr().err
    assert run("export", "quiet.csv", "SHIP__quiet") == 1
    assert "SHIP__quiet has no history" in capsys.readouterr().err
    assert run("export", "--from", "soon", "a.csv") == 2
    assert "--from: 'soon': expected a time ago like 2h, 2026-07-20T12:00" in capsys.readouterr().err
    assert run("export", "--from", "2h", "--to", "2100-01-01", "a.csv", "SHIP__all") == 0
    assert run("export", "--to", "1h", "early.csv", "SHIP__all") == 0
    assert Path("early.csv").read_text().count("\n") == 1
    with plain_client(ship.url) as client:
        client.xadd("SHIP__all:history", {"something": "else"})
    assert run("export", "b.csv", "SHIP__all") == 1
    assert "1 rows were left out: they cannot be read: record SHIP__all" in capsys.readouterr().err


def test_progress_on_a_terminal_only(ship: SharedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDDATA_URL", ship.url)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        assert run("export", tmp_path / "a.mcap") == 0
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "[##############################] 100%  10 rows" in shown
