"""Recordings as files: rows are whole, texts stay as they are, gaps are counted, crashes mended, CSV logs read."""

import io
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs import Program
from records import HEAD
from shareddata import cells
from shareddata.csvlog import CsvLog
from shareddata.datadesc import Field, Record, parse_record
from shareddata.errors import DecodeError, DescriptionError, SharedDataError
from shareddata.recording import Recording
from shareddata.track import End, Folder, Track

TANK = parse_record("TANK__measures", [*HEAD, ["level", 0.0, {"unit": "m"}], ["note", ""]])
NOON = 1_784_548_800_000  # 2026-07-20 12:00:00 UTC


def entry(number: int, note: str = "", **more: str) -> tuple[bytes, list[bytes]]:
    """Return the n-th entry of a history: one a second."""
    fields = {"ts": repr(NOON / 1000 + number - 0.25), "sender": "HDL", "level": f"{number}.5", "note": note, **more}
    return f"{NOON + 1000 * number}-0".encode(), [part.encode() for pair in fields.items() for part in pair]


def written(folder: Path, entries: Sequence[Any], ordinal: int = 0, **options: Any) -> Track:
    """Write entries as a program does that then ends."""
    holder = Folder(folder)
    track = Track(holder, TANK, **options)
    track.add(entries, ordinal)
    track.write()
    track.close()
    holder.close()
    return track


def levels(folder: Path) -> list[float]:
    return [each.trame.level for each in Recording(folder).entries()]


def sidecars(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("TANK*.json"))]


# -- rows and cells -------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.binary(max_size=12), min_size=1, max_size=5), max_size=5))
def test_rows_are_read_as_they_were_written(lines: list[list[bytes]]) -> None:
    data = b"".join(map(cells.row, lines))
    found = list(cells.rows(io.BytesIO(data)))
    assert [line for line, _ in found] == lines
    assert [data[:end] for _, end in found] == [b"".join(map(cells.row, lines[: i + 1])) for i in range(len(lines))]


@given(st.lists(st.lists(st.sampled_from([b"a", b'"', b",", b"\n", b"\r\n", b""]), min_size=2, max_size=3), max_size=4))
def test_an_unfinished_row_is_not_read(lines: list[list[bytes]]) -> None:
    data = b"".join(map(cells.row, lines))
    for size in range(len(data)):
        found = [line for line, _ in cells.rows(io.BytesIO(data[:size]))]
        assert found == lines[: len(found)]


def test_a_spreadsheet_reads_the_rows() -> None:
    import csv

    line = ["a", 'says "no"', "x,y", "two\nlines", ""]
    text = cells.row([cell.encode() for cell in line]).decode()
    assert list(csv.reader(io.StringIO(text, newline=""))) == [line]


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=3, max_size=3))
def test_arrays_are_recorded_whole(values: list[float]) -> None:
    field = Field("profile", "array", 0.0, dtype="<f4", shape=(3,))
    data = numpy.array(values, "<f4").tobytes()
    assert cells.as_recorded(field)(cells.recorded(field, data)).tobytes() == data


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_literals_are_read_from_what_python_prints(value: Any) -> None:
    assert cells.literal(repr(value).encode("utf-8", "surrogatepass") if _printable(value) else b"0") == (
        value if _printable(value) else 0
    )


def _printable(value: Any) -> bool:
    try:
        repr(value).encode()
    except UnicodeEncodeError:
        return False
    return not any(word in repr(value) for word in ("inf", "nan"))


def test_literals_with_what_json_has_no_word_for() -> None:
    found = cells.literal(b"[1, nan, -inf, {'a': inf}]")
    assert math.isnan(found[1]) and found[2:] == [-math.inf, {"a": math.inf}]
    assert cells.literal(b'{"a": true, "b": null}') == {"a": True, "b": None}
    with pytest.raises(ValueError, match="Expecting value"):
        cells.literal(b"__import__('os')")


@pytest.mark.parametrize(
    ("column", "default"),
    [
        (["1", "2"], 0), (["1", "2.5"], 0.0), (["1", "nan"], 0.0), (["True", "False"], False),
        (["true", "false"], False),
        (["[1, 2]", "[]"], []), (["{'a': 1}", "{}"], {}), (["1", "x"], ""), (["", ""], ""), (["1", ""], ""), ([], ""),
    ],
)  # fmt: skip
def test_types_are_guessed_of_all_cells(column: list[str], default: Any) -> None:
    (found,) = cells.guess(1, [[cell.encode()] for cell in column])
    assert found == default and type(found) is type(default)


# -- writing --------------------------------------------------------------------------------------------------------


def test_a_recording_is_a_csv_file_and_its_description(tmp_path: Path) -> None:
    track = written(tmp_path, [entry(0), entry(1, 'full, they "say"')])
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "TANK__measures_2026-07-20_12h00m00.000sZ.csv", "TANK__measures_2026-07-20_12h00m00.000sZ.json",
    ]  # fmt: skip
    assert next(tmp_path.glob("*.csv")).read_text() == (
        "id,ts,sender,level,note\n"
        "1784548800000-0,1784548799.75,HDL,0.5,\n"
        '1784548801000-0,1784548800.75,HDL,1.5,"full, they ""say"""\n'
    )
    (about,) = sidecars(tmp_path)
    assert (about["record"], about["first"], about["last"], about["rows"]) == (
        "TANK__measures", "1784548800000-0", "1784548801000-0", 2,
    )  # fmt: skip
    assert about["description"] == TANK.as_json()
    assert (track.end, track.written) == (End("1784548801000-0", 2), 2)


def test_files_follow_one_another_by_size_and_time(tmp_path: Path) -> None:
    written(tmp_path / "size", [entry(i) for i in range(100)], size=1000)
    sizes = [path.stat().st_size for path in (tmp_path / "size").glob("*.csv")]
    assert len(sizes) == 4 and max(sizes) < 1100
    written(tmp_path / "span", [entry(i) for i in range(100)], span=30.0)
    rows = [about["rows"] for about in sidecars(tmp_path / "span")]
    assert rows == [30, 30, 30, 10]
    for folder in (tmp_path / "size", tmp_path / "span"):
        assert levels(folder) == [i + 0.5 for i in range(100)]


def test_it_goes_on_after_the_last_row(tmp_path: Path) -> None:
    written(tmp_path, [entry(i) for i in range(3)])
    track = written(tmp_path, [entry(i) for i in range(3, 5)], ordinal=3)
    assert track.written == 2 and track.first == f"{NOON + 3000}-0"
    assert levels(tmp_path) == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert len(sidecars(tmp_path)) == 2


def test_a_crash_at_every_byte(tmp_path: Path) -> None:
    """Whatever is left of the last file: the whole rows are kept, the ordinal is right, writing goes on behind them."""
    entries = [entry(i, 'a "b",\n' * (i % 2)) for i in range(4)]
    written(tmp_path / "whole", entries, ordinal=7)
    whole, about = next((tmp_path / "whole").glob("*.csv")), sidecars(tmp_path / "whole")[0]
    data = whole.read_bytes()
    for size in range(len(data)):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / whole.name).write_bytes(data[:size])
        (folder / whole.name).with_suffix(".json").write_text(json.dumps({k: about[k] for k in about if k != "last"}))
        holder = Folder(folder)
        track = Track(holder, TANK)
        done = 0 if track.end is None else (track.end.ordinal or 0) - 7
        assert track.end == (End(entries[done - 1][0].decode(), 7 + done) if done else None)
        track.add(entries[done:], 7 + done)
        track.write()
        track.close()
        holder.close()
        assert [each.id.encode() for each in Recording(folder).entries()] == [identity for identity, _ in entries]


def test_gaps_are_noted_before_the_rows_behind_them(tmp_path: Path) -> None:
    holder = Folder(tmp_path)
    track = Track(holder, TANK)
    track.add([entry(0), entry(1)], 10)
    track.add([entry(5), entry(6)], 15)
    track.write()
    assert [about["missed"] for about in sidecars(tmp_path)] == [3]
    holder.close()  # killed here: the file is not finished
    with open(next(tmp_path.glob("*.csv")), "ab") as file:
        file.write(b"17845488")
    again = Folder(tmp_path)
    assert Track(again, TANK).end == End(entry(6)[0].decode(), 17)
    again.close()
    track.close()


def test_entries_that_nobody_can_play_are_counted(tmp_path: Path) -> None:
    track = written(tmp_path, [entry(0), (b"1-0", [b"foo", b"bar"]), entry(2)])
    assert (track.written, track.damaged) == (2, 1)
    assert levels(tmp_path) == [0.5, 2.5]
    assert sidecars(tmp_path)[0]["missed"] == 1


def test_fields_that_are_described_later(tmp_path: Path) -> None:
    holder = Folder(tmp_path)
    track = Track(holder, TANK)
    track.add([entry(0)], 0)
    track.write()
    more = parse_record("TANK__measures", [*HEAD, ["level", 0.0], ["note", ""], ["full", True]])
    track.describe(more)
    track.add([entry(1), entry(2, full="false")], 1)
    track.write()
    track.close()
    holder.close()
    recording = Recording(tmp_path)
    assert recording.records == {"TANK__measures": more}
    assert [each.trame.full for each in recording.entries()] == [True, True, False]
    assert len(sidecars(tmp_path)) == 2


def test_a_field_that_changed_its_type(tmp_path: Path) -> None:
    written(tmp_path, [entry(0)])
    other = parse_record("TANK__measures", [*HEAD, ["level", ""], ["note", ""]])
    holder = Folder(tmp_path)
    track = Track(holder, other)
    track.add([entry(1)], 1)
    track.write()
    track.close()
    holder.close()
    assert levels(tmp_path) == [0.5, "1.5"]


def test_a_field_that_nobody_described_is_kept(tmp_path: Path) -> None:
    written(tmp_path, [entry(0), entry(1, secret="7"), entry(2)])
    assert levels(tmp_path) == [0.5, 1.5, 2.5]
    assert [path.read_text().splitlines()[0] for path in sorted(tmp_path.glob("*.csv"))] == [
        "id,ts,sender,level,note", "id,ts,sender,level,note,secret",
    ]  # fmt: skip
    assert "7" in sorted(tmp_path.glob("*.csv"))[1].read_text().splitlines()[1].split(",")


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    identity, fields = entry(0)
    written(tmp_path, [(identity, [*fields[:-1], b"\xff\x00\r"])])
    assert b'"\xff\x00\r"' in next(tmp_path.glob("*.csv")).read_bytes()
    with pytest.raises(DecodeError, match=r"sZ.csv, row 1: field 'note': found '.*xff.*', expected str"):
        list(Recording(tmp_path).entries())


FULL = """
    import resource, signal
    from pathlib import Path
    from shareddata.datadesc import parse_record
    from shareddata.track import Folder, Track

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    record = parse_record("TANK__measures", [["ts", 0.0], ["sender", ""], ["level", 0.0]])
    track = Track(Folder(sys.argv[1]), record)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def entries(first, count):
        fields = [b"ts", b"1.0", b"sender", b"HDL", b"level"]
        return [(b"%d-0" % n, [*fields, b"%d.5" % n]) for n in range(first, first + count)]

    track.add(entries(1, 10), 0)
    track.write()
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    track.add(entries(11, 100), 10)
    for _ in range(2):
        try:
            track.write()
        except OSError as error:
            say(error.errno, track.written)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    track.write()
    track.close()
    say(track.written)
"""


def test_a_disk_that_is_full_for_a_while(tmp_path: Path, program: Callable[..., Program]) -> None:
    lines = program(FULL, tmp_path).finish()
    assert lines == ["27 10", "27 10", "110"]
    assert levels(tmp_path) == [n + 0.5 for n in range(1, 111)]


def test_a_folder_belongs_to_one_program_and_one_namespace(tmp_path: Path) -> None:
    holder = Folder(tmp_path, "usv1")
    holder.begun["A"] = End("5-0", 3)
    holder.save()
    with pytest.raises(SharedDataError, match="another program records there"):
        Folder(tmp_path, "usv1")
    holder.close()
    with pytest.raises(SharedDataError, match="namespace 'usv1', not of ''"):
        Folder(tmp_path)
    again = Folder(tmp_path, "usv1")
    assert again.begun == {"A": End("5-0", 3)}
    again.close()


@pytest.mark.parametrize(("text", "says"), [("{", "no valid JSON"), ('{"recording": 2}', "format 2.*upgrade")])
def test_files_of_others(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "recording.json").write_text(text)
    with pytest.raises(SharedDataError, match=says):
        Folder(tmp_path)


# -- reading --------------------------------------------------------------------------------------------------------


def test_records_are_merged_by_time(tmp_path: Path) -> None:
    written(tmp_path, [entry(i) for i in range(0, 10, 2)])
    other = Record("OTHER", TANK.fields)
    holder = Folder(tmp_path)
    track = Track(holder, other)
    track.add([entry(i) for i in range(1, 10, 2)], 0)
    track.write()
    track.close()
    holder.close()
    recording = Recording(tmp_path)
    assert list(recording.records) == ["OTHER", "TANK__measures"]
    assert (recording.first, recording.last) == (NOON / 1000, NOON / 1000 + 9)
    assert [each.trame.level for each in recording.entries()] == [i + 0.5 for i in range(10)]
    assert [each.trame.level for each in recording.entries(["OTHER"], NOON / 1000 + 3, NOON / 1000 + 7)] == [
        3.5,
        5.5,
        7.5,
    ]
    with pytest.raises(SharedDataError, match="no record 'NONE'.*OTHER, TANK__measures"):
        list(recording.entries(["NONE"]))


def test_the_records_at_a_time(tmp_path: Path) -> None:
    written(tmp_path, [entry(i) for i in range(50)], size=600)
    recording = Recording(tmp_path)

    def level(time: float, **options: bool) -> float | None:
        trame = recording.at(time, **options)["TANK__measures"]
        return trame and trame.level

    noon = NOON / 1000
    assert level(noon - 1) is None
    assert [level(noon + i) for i in (0, 0.5, 1, 25.25, 49, 99)] == [0.5, 0.5, 1.5, 25.5, 49.5, 49.5]
    assert [level(noon + i, before=True) for i in (0, 0.5, 1, 25)] == [None, 0.5, 0.5, 24.5]
    assert [each.trame.level for each in recording.entries(start=noon + 40)] == [i + 0.5 for i in range(40, 50)]


def test_a_recording_is_read_while_it_is_written(tmp_path: Path) -> None:
    holder = Folder(tmp_path)
    track = Track(holder, TANK)
    track.add([entry(0), entry(1)], 0)
    track.write()
    recording = Recording(tmp_path)
    assert recording.last == NOON / 1000 + 1
    assert levels(tmp_path) == [0.5, 1.5]
    track.close()
    holder.close()


def test_a_recording_without_its_descriptions(tmp_path: Path) -> None:
    written(tmp_path, [entry(i) for i in range(3)])
    for path in tmp_path.glob("*.json"):
        path.unlink()
    assert levels(tmp_path) == [0.5, 1.5, 2.5]
    assert list(Recording(tmp_path).records) == ["TANK__measures"]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(SharedDataError, match="no recording and no CSV log"):
        Recording(tmp_path)
    with pytest.raises(SharedDataError, match="no such folder or file"):
        Recording(tmp_path / "none")
    (tmp_path / "other.csv").write_text("time,value\n1,2\n")
    with pytest.raises(SharedDataError, match="the columns are time, value .*expected ts, sender"):
        Recording(tmp_path)


# -- CSV logs -------------------------------------------------------------------------------------------------------

WIDE = parse_record("TANK__all", [
    *HEAD, ["x", 0.0], ["n", 0], ["on", False], ["text", ""], ["items", []], ["object", {}], ["any", None],
    ["profile", 0.0, {"dtype": "<f4", "shape": [2]}],
])  # fmt: skip
ROWS = [
    (
        1.5,
        "HDL_TANK",
        12.25,
        3,
        True,
        'a "b",\nc',
        [1, math.inf, None],
        {"a": [True]},
        None,
        numpy.array([1, 2], "<f4"),
    ),
    (2.5, "HDL_TANK", math.nan, -(10**30), False, "", [], {}, {"b": "é"}, numpy.array([0.1, -3], "<f4")),
]


def log_of(folder: Path, rows: Sequence[Any] = ROWS, record: Record = WIDE, sender: str = "HDL_TANK") -> Path:
    log = CsvLog(folder, sender, record.name, [f.name for f in record.fields], record.as_json())
    for row in rows:
        log.row(row)
    log.close()
    assert log.path is not None and log.lost == 0
    return log.path


def same(found: Any, expected: Any) -> bool:
    return repr(found) == repr(expected)


def test_a_csv_log_is_read_back(tmp_path: Path) -> None:
    log_of(tmp_path)
    recording = Recording(tmp_path)
    assert recording.records == {"TANK__all": WIDE}
    found = list(recording.entries())
    assert [each.time for each in found] == [1.5, 2.5]
    assert all(same(tuple(each.trame), row) for each, row in zip(found, ROWS))


def test_a_csv_log_without_its_description(tmp_path: Path) -> None:
    log_of(tmp_path).with_suffix(".json").unlink()
    known = Recording(tmp_path, known={"TANK__all": WIDE})
    assert all(same(tuple(each.trame), row) for each, row in zip(known.entries(), ROWS))
    guessed = Recording(tmp_path)
    types = {field.name: field.type for field in guessed.records["TANK__all"].fields}
    assert types == {
        "ts": "float", "sender": "str", "x": "float", "n": "int", "on": "bool", "text": "str", "items": "list",
        "object": "object", "any": "str", "profile": "list",
    }  # fmt: skip
    assert [each.trame.items for each in guessed.entries()] == [[1, math.inf, None], []]


@pytest.mark.parametrize(
    ("file", "sender", "known", "name"),
    [
        ("2026-07-20_12h00m00sZ_HDL_TANK_TANK__measures", "HDL_TANK", [], "TANK__measures"),
        ("2026-07-20_12h00m00sZ_HDL_TANK_TANK__measures_2", "HDL_TANK", [], "TANK__measures"),
        ("2026-07-20_12h00m00sZ_HDL_TANK_level", "HDL_TANK", [], "level"),
        ("2026-07-20_12h00m00sZ_HDL_TANK_TANK__measures", "another", [], "TANK__measures"),
        ("2026-07-20_12h00m00sZ_HDL_TANK_TANK_level", "another", ["level", "TANK_level"], "TANK_level"),
        ("2026-07-20_12h00m00sZ_HDL_TANK_level_2", "another", ["level_2", "level"], "level_2"),
        ("tank", "HDL_TANK", [], "tank"),
    ],
)
def test_the_records_name_in_a_logs_name(tmp_path: Path, file: str, sender: str, known: list[str], name: str) -> None:
    path = tmp_path / f"{file}.csv"
    path.write_text(f"ts,sender,level\r\n1.0,{sender},2.0\r\n")
    described = {each: parse_record(each, [*HEAD, ["level", 0.0]]) for each in known}
    assert list(Recording(path, known=described).records) == [name]
    assert list(Recording(f"NAMED={path}").records) == ["NAMED"]


def test_two_programs_logs_of_one_record(tmp_path: Path) -> None:
    one = [(float(i), "ONE", i * 1.0, "") for i in range(0, 6, 2)]
    two = [(float(i), "TWO", i * 1.0, "") for i in range(1, 6, 2)]
    log_of(tmp_path, one, TANK, "ONE")
    log_of(tmp_path, two, TANK, "TWO")
    recording = Recording(tmp_path)
    assert [(each.trame.sender, each.trame.level) for each in recording.entries(start=2)] == [
        ("ONE", 2.0), ("TWO", 3.0), ("ONE", 4.0), ("TWO", 5.0),
    ]  # fmt: skip
    assert recording.at(3.5)["TANK__measures"].sender == "TWO"
    assert recording.last == 5.0


def test_a_clock_that_was_set_back_keeps_the_order_of_rows(tmp_path: Path) -> None:
    log_of(tmp_path, [(ts, "ONE", ts, "") for ts in (10.0, 11.0, 5.0, 12.0)], TANK)
    assert levels(tmp_path) == [10.0, 11.0, 5.0, 12.0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1.0,HDL,two,x", "row 2: field 'level': found 'two', expected float .m."),
        ("1.0,HDL,2.0", "row 2: it has 3 cells, expected 4"),
        ("noon,HDL,2.0,x", "row 2: field 'ts': found 'noon', expected float"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, row: str, says: str) -> None:
    path = log_of(tmp_path, [(1.0, "HDL", 1.0, "")], TANK)
    with open(path, "a") as file:
        file.write(row + "\n")
    with pytest.raises(DecodeError, match=f"{path.name}, {says}"):
        list(Recording(tmp_path).entries())


def test_columns_that_no_record_can_have(tmp_path: Path) -> None:
    (tmp_path / "tank.csv").write_text("ts,sender,level [m]\n1.0,HDL,2.0\n")
    with pytest.raises(DescriptionError, match="tank.csv: .*'level .m.'.*describe it in tank.json"):
        Recording(tmp_path)


def test_a_large_log_is_measured_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    note = '"' + "line\n" * 40 + '"'
    path.write_text("ts,sender,note\n" + "".join(f"{i}.0,HDL,{note}\n" for i in range(6000)))
    assert os.path.getsize(path) > 1_000_000
    assert Recording(path).last == 5999.0
