"""The files that are written beside the shared memory: their names, their cells, and no room for them."""

import csv
import json
import logging
import math
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shareddata.csvlog import CsvLog, folder_from_environment
from shareddata.datadesc import parse_record

FIELDS = ("ts", "sender", "voltage")
DESCRIPTION = parse_record(
    "BATTERY", [["ts", 0.0], ["sender", ""], ["voltage", 0.0, {"unit": "V", "doc": "é"}]]
).as_json()
NOON = time.struct_time((2026, 3, 4, 12, 5, 9, 2, 63, 0))


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shareddata.csvlog.time.gmtime", lambda: NOON)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., CsvLog]]:
    """Make a record's CSV file; it is closed after the test."""
    made: list[CsvLog] = []

    def make(folder: Path = tmp_path, sender: str = "APP", name: str = "BATTERY", fields: Any = FIELDS) -> CsvLog:
        made.append(CsvLog(folder, sender, name, fields, DESCRIPTION))
        return made[-1]

    yield make
    for each in made:
        each.close()


def text(log: CsvLog) -> str:
    assert log.path is not None
    return log.path.read_bytes().decode()


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- names ------------------------------------------------------------------------------------------------------------


def test_name_header_rows_and_sidecar(make: Callable[..., CsvLog], tmp_path: Path) -> None:
    log = make()
    assert log.path == tmp_path / "2026-03-04_12h05m09sZ_APP_BATTERY.csv"
    assert text(log) == "ts,sender,voltage\n"
    log.row((1.5, "APP", 12.75))
    assert text(log) == "ts,sender,voltage\n1.5,APP,12.75\n", "on disk before the file is closed"
    assert (log.rows, log.lost) == (1, 0)
    sidecar = json.loads(log.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert sidecar == {"record": "BATTERY", "sender": "APP", "description": DESCRIPTION}
    assert sidecar["description"]["fields"][2][2] == {"unit": "V", "doc": "é"}


def test_the_time_is_utc(monkeypatch: pytest.MonkeyPatch, make: Callable[..., CsvLog]) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        before, log, after = time.time(), make(), time.time()
        assert log.path is not None
        usual = [
            time.strftime("%Y-%m-%d_%Hh%Mm%SsZ_APP_BATTERY.csv", time.gmtime(moment)) for moment in (before, after)
        ]
        assert log.path.name in usual
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("sender", "shown"),
    [
        ("HDL_BATTERY", "HDL_BATTERY"), ("./hdl_battery.py", "hdl_battery.py"), ("/usr/bin/hdl x", "usr_bin_hdl_x"),
        ("..", "unnamed"), ("../../etc/passwd", "etc_passwd"), ("a\0b\n", "a_b_"), ("é", "unnamed"), ("C:\\a", "C__a"),
        ("a*?[b]", "a___b_"),
    ],
)  # fmt: skip
def test_the_applications_name_in_the_files(
    make: Callable[..., CsvLog], tmp_path: Path, sender: str, shown: str
) -> None:
    log = make(sender=sender)
    assert log.path == tmp_path / f"2026-03-04_12h05m09sZ_{shown}_BATTERY.csv"
    assert json.loads(log.path.with_suffix(".json").read_text())["sender"] == sender


@settings(max_examples=100)
@given(st.text(min_size=1, max_size=20))
def test_any_application_writes_into_the_folder(tmp_path_factory: pytest.TempPathFactory, sender: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    log = CsvLog(folder, sender, "R", ["ts"], {})
    log.close()
    assert log.path is not None and log.path.parent == folder
    for path in (log.path, log.path.with_suffix(".json")):
        path.unlink()


def test_an_existing_file_is_never_overwritten(make: Callable[..., CsvLog], tmp_path: Path) -> None:
    logs = [make() for _ in range(3)]
    for number, log in enumerate(logs):
        log.row((number, "APP", 0.0))
    stem = "2026-03-04_12h05m09sZ_APP_BATTERY"
    assert names(tmp_path) == sorted(f"{stem}{n}.{end}" for n in ("", "_2", "_3") for end in ("csv", "json"))
    assert [text(log).splitlines()[1] for log in logs] == ["0,APP,0.0", "1,APP,0.0", "2,APP,0.0"]


@pytest.mark.parametrize(
    ("logfile", "there", "expected"),
    [
        ("battery.csv", [], ["battery.csv", "battery.json"]),
        ("battery.csv", ["battery.csv"], ["battery_2.csv", "battery_2.json"]),
        ("battery.csv", ["battery.json"], ["battery_2.csv", "battery_2.json"]),
        ("battery.csv", ["battery.csv", "battery_2.json"], ["battery_3.csv", "battery_3.json"]),
        ("battery", [], ["battery", "battery.json"]),
        ("a.b.txt", ["a.b.txt"], ["a.b_2.txt", "a.b_2.json"]),
        ("battery.json", [], ["battery.json", "battery.json.json"]),
    ],
    ids=str,
)
def test_logfile_names_the_file(
    make: Callable[..., CsvLog],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logfile: str,
    there: list[str],
    expected: list[str],
) -> None:
    monkeypatch.setenv("LOGFILE", logfile)
    for name in there:
        (tmp_path / name).write_text("mine")
    log = make()
    log.row((1.5, "APP", 12.75))
    assert [name for name in names(tmp_path) if name not in there] == sorted(expected)
    assert log.path == tmp_path / expected[0]
    assert text(log) == "ts,sender,voltage\n1.5,APP,12.75\n"
    assert json.loads((tmp_path / expected[1]).read_text())["record"] == "BATTERY"
    assert {(tmp_path / name).read_text() for name in there} <= {"mine"}


def test_logfile_may_be_a_path(make: Callable[..., CsvLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGFILE", str(tmp_path / "other.csv"))
    assert make(tmp_path / "folder").path == tmp_path / "other.csv"


def test_a_missing_folder_is_made(make: Callable[..., CsvLog], tmp_path: Path) -> None:
    make(tmp_path / "a" / "b").row((1.5, "APP", 0.0))
    assert len(names(tmp_path / "a" / "b")) == 2


@pytest.mark.parametrize(
    ("value", "folder"), [(None, None), ("", None), ("/var/log", Path("/var/log")), ("a", Path("a"))]
)
def test_the_folder_is_logdir(monkeypatch: pytest.MonkeyPatch, value: str | None, folder: Path | None) -> None:
    if value is not None:
        monkeypatch.setenv("LOGDIR", value)
    assert folder_from_environment() == folder


# -- cells ------------------------------------------------------------------------------------------------------------

CELLS = [
    (0.1, "0.1"),
    (-0.0, "-0.0"),
    (1e22, "1e+22"),
    (math.nan, "nan"),
    (math.inf, "inf"),
    (5, "5"),
    (10**30, str(10**30)),
    (True, "True"),
    (False, "False"),
    (None, ""),
    ("", ""),
    ("a b", "a b"),
    ("a,b", '"a,b"'),
    ('a"b', '"a""b"'),
    ("a\nb", '"a\nb"'),
    ("a\r\nb", '"a\r\nb"'),
    ("é\U0001f6a4", "é\U0001f6a4"),
    ([], "[]"),
    ([1, "a"], "\"[1, 'a']\""),
    ({"a": None}, "{'a': None}"),
    (np.float32(0.1), "0.10000000149011612"),
    (np.int8(5), "5"),
    (np.bool_(True), "True"),
    (np.array([1, 2], "u1"), '"[1, 2]"'),
    (np.array([[1.5], [2.0]], "<f4"), '"[[1.5], [2.0]]"'),
    (np.arange(2000), None),
]


@pytest.mark.parametrize(("value", "cell"), CELLS, ids=lambda value: str(value)[:20])
def test_cells_are_as_pythons_csv_writes_them(make: Callable[..., CsvLog], value: Any, cell: str | None) -> None:
    log = make()
    log.row((1.5, "APP", value))
    if cell is None:
        cell = f'"{value.tolist()}"'
        assert "..." not in cell
    assert text(log) == f"ts,sender,voltage\n1.5,APP,{cell}\n"


CELL = st.integers() | st.booleans() | st.text() | st.floats() | st.lists(st.text() | st.floats())
ROWS = st.lists(st.tuples(st.floats(), st.text(max_size=20), CELL), max_size=5)


@settings(max_examples=100)
@given(ROWS)
@example([(0.0, "\r", 0), (0.0, "a\rb", "\n\r"), (0.0, "\0", "\x85\u2028")])
def test_rows_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]]) -> None:
    log = CsvLog(tmp_path_factory.getbasetemp() / "rows", "APP", "R", FIELDS, {})
    assert log.path is not None
    for row in rows:
        log.row(row)
    log.close()
    with open(log.path, encoding="utf-8", newline="") as file:
        written = list(csv.reader(file))
    assert written == [list(FIELDS), *([str(cell) for cell in row] for row in rows)]
    assert (log.rows, log.lost) == (len(rows), 0)
    log.path.unlink()


# -- no room, no rights -----------------------------------------------------------------------------------------------


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let files end there: a write gets as much as fits, the next one an error, as on a full disk."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores SIGXFSZ
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.mark.parametrize("size", range(18, 46, 3))
def test_a_file_holds_whole_rows_only(
    make: Callable[..., CsvLog], caplog: pytest.LogCaptureFixture, size: int, tmp_path: Path
) -> None:
    log = make()
    header, row = "ts,sender,voltage\n", "1.5,APP,12.75\n"
    with files_end_at(size):
        for _ in range(5):
            log.row((1.5, "APP", 12.75))
        fit = (size - len(header)) // len(row)
        assert text(log) == header + fit * row
        assert (log.rows, log.lost) == (fit, 5 - fit)
    log.row((1.5, "APP", 12.75))
    assert text(log) == header + (fit + 1) * row
    assert (log.rows, log.lost) == (fit + 1, 5 - fit)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING], (
        "once, and once when it is over"
    )
    assert caplog.messages[0].startswith(f"{log.path}: rows of BATTERY cannot be written: ")
    assert caplog.messages[1] == f"{log.path}: rows are written again; {5 - fit} were lost"
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("size", [0, 5, 30], ids=["header", "half a header", "sidecar"])
def test_no_room_for_the_file_itself(
    make: Callable[..., CsvLog], caplog: pytest.LogCaptureFixture, tmp_path: Path, size: int
) -> None:
    with files_end_at(size):
        log = make()
        for _ in range(20):
            log.row((1.5, "APP", 12.75))
        assert (log.path, log.rows, log.lost) == (None, 0, 20)
        assert names(tmp_path) == [], "nothing is left of what did not succeed"
    log.row((2.5, "APP", 12.75))
    assert log.path == tmp_path / "2026-03-04_12h05m09sZ_APP_BATTERY.csv"
    assert text(log) == "ts,sender,voltage\n2.5,APP,12.75\n"
    assert (log.rows, log.lost) == (1, 20)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


def test_a_folder_that_cannot_be_made(
    make: Callable[..., CsvLog], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    log = make(blocked / "folder")
    for _ in range(3):
        log.row((1.5, "APP", 12.75))
    assert (log.path, log.rows, log.lost) == (None, 0, 3)
    assert caplog.messages == [
        f"{blocked}/folder: rows of BATTERY cannot be written: [Errno 20] Not a directory: '{blocked}/folder'"
    ]
    blocked.unlink()
    log.row((1.5, "APP", 12.75))
    assert (log.rows, log.lost) == (1, 3)
    assert caplog.messages[1:] == [f"{log.path}: rows are written again; 3 were lost"]
    assert text(log) == "ts,sender,voltage\n1.5,APP,12.75\n"
    blocked.rename(tmp_path / "moved")
    log.row((2.5, "APP", 12.75))
    assert log.rows == 2, "the open file goes on"


def test_a_folder_without_rights(make: Callable[..., CsvLog], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:  # who may write everywhere
        os.seteuid(65534)
    try:
        log = make()
        log.row((1.5, "APP", 12.75))
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
    assert (log.path, log.lost) == (None, 1)
    assert "Permission denied" in caplog.text
    log.row((1.5, "APP", 12.75))
    assert (log.rows, log.lost) == (1, 1)


def test_a_name_that_is_too_long_never_raises(make: Callable[..., CsvLog], caplog: pytest.LogCaptureFixture) -> None:
    log = make(sender="x" * 300)
    log.row((1.5, "APP", 12.75))
    assert log.rows + log.lost == 1
    assert log.rows == 1 or "File name too long" in caplog.text


FULL_DISK = """
    import logging, os, sys
    from pathlib import Path
    from shareddata.csvlog import CsvLog

    logging.basicConfig(format="%(levelname)s")
    folder, row = Path(sys.argv[1]), (1.5, "APP", "x" * 700)
    log = CsvLog(folder, "APP", "BATTERY", ["ts", "sender", "text"], {})
    while log.lost < 3:
        log.row(row)
    written = log.path.read_text()
    line = ",".join(map(str, row)) + "\\n"
    assert written == "ts,sender,text\\n" + log.rows * line, "whole rows only"
    (folder / "ballast").unlink()
    log.row(row)
    assert log.path.read_text() == written + line
    print(log.rows > 3, log.lost)
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=32k tmpfs "$0" && head -c 16k /dev/zero > "$0/ballast" && exec "$1" -c "$2" "$0"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        [*unshare, "sh", "-c", script, str(tmp_path), sys.executable, textwrap.dedent(FULL_DISK)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True 3\n", "ERROR\nWARNING\n")


# -- closing and forking ----------------------------------------------------------------------------------------------


def test_after_close_a_row_opens_another_file(make: Callable[..., CsvLog], tmp_path: Path) -> None:
    log = make()
    log.row((1.5, "APP", 1.0))
    first = log.path
    log.close()
    log.close()
    log.row((2.5, "APP", 2.0))
    assert first is not None and first.read_text() == "ts,sender,voltage\n1.5,APP,1.0\n"
    assert log.path != first and text(log) == "ts,sender,voltage\n2.5,APP,2.0\n"
    assert log.rows == 2


def test_a_forked_child_goes_on_in_a_file_of_its_own(make: Callable[..., CsvLog], tmp_path: Path) -> None:
    log = make()
    log.row((1.5, "APP", 1.0))
    first = log.path
    log.reopen()  # what DataDict does in the child
    log.row((2.5, "APP", 2.0))
    assert first is not None and first.read_text() == "ts,sender,voltage\n1.5,APP,1.0\n"
    assert log.path == tmp_path / "2026-03-04_12h05m09sZ_APP_BATTERY_2.csv"
    assert text(log) == "ts,sender,voltage\n2.5,APP,2.0\n"


def test_the_descriptor_is_not_inherited(make: Callable[..., CsvLog]) -> None:
    log = make()
    inherited = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True)
    assert str(log.path) not in inherited.stdout
