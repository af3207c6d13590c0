"""`shareddata plot`: pictures of histories, logs, recordings and CSV logs."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shareddata import DataDict, FieldError, SharedMemory, TSLog, cli, plot
from shareddata.rowsources import HistorySource

HEAD = [["ts", 0.0], ["sender", ""]]
TANK: dict[str, Any] = {
    "TANK__measures": {
        **{"doc": "What is in the $tank$ <&>.", "history": 30000},
        "fields": [
            *(*HEAD, ["level", 0.0, {"unit": "m", "min": 0, "max": 1.9}], ["depth", 0.0, {"unit": "m"}], ["count", 0]),
            *(["open", False], ["note", ""]),
        ],
    },
    "TANK__texts": [*HEAD, ["note", ""]],
}
BEGIN = 1784540000.0
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty folder without a display: exit code, output, errors."""
    monkeypatch.setenv("SHAREDDATA_URL", url)
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit, check=lambda _: True) as end:
            cli.main(list(arguments))
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def fill(shm: SharedMemory, count: int = 50) -> None:
    shm.init(TANK)
    with DataDict("HDL_TANK", shm) as dd:
        (data,) = dd.set_datas_to_write(["TANK__measures"])
        for i in range(count):
            level = math.nan if i == 7 else 1.5 + 0.5 * math.sin(i / 5)
            data.set(level, 0.1 * i, i, i % 20 < 10, "n", ts=BEGIN + i)
            dd.flush()


def test_history_becomes_a_new_file_where_there_is_no_display(shm: SharedMemory, run: Run) -> None:
    fill(shm)
    code, out, err = run("plot", "TANK__measures", "level", "depth", "open")
    assert (code, err) == (0, "")
    assert out == "TANK__measures.svg: 50 rows, 2026-07-20T09:33:20.000Z to 2026-07-20T09:34:09.000Z\n"
    text = Path("TANK__measures.svg").read_text()
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {"TANK__measures", "level", "depth", "[m]", "open", "true", "UTC"} <= set(shown)
    assert "What is in the $tank$ &lt;&amp;&gt;." in text
    assert run("plot", "TANK__measures")[1].startswith("TANK__measures_2.svg: ")
    assert Path("TANK__measures.svg").read_text() == text


@pytest.mark.parametrize(("name", "magic"), [("x.png", b"\x89PNG"), ("x.PDF", b"%PDF"), ("x.svg", b"<?xml")])
def test_output_is_replaced_whole(shm: SharedMemory, run: Run, name: str, magic: bytes) -> None:
    fill(shm)
    Path(name).write_text("before")
    assert run("plot", "TANK__measures", "level", "-o", name)[0] == 0
    assert Path(name).read_bytes().startswith(magic)
    assert [path.name for path in Path().iterdir()] == [name]


def test_since_and_to(shm: SharedMemory, run: Run) -> None:
    fill(shm)
    code, _, err = run("plot", "TANK__measures", "--to", "2026-07-20T12:00", "-o", "x.svg")
    assert code == 1 and "nothing to draw" in err, "it was received today"
    assert "50 rows" in run("plot", "TANK__measures", "--since", "10m", "-o", "x.svg")[1]


def test_long_history_is_thinned_and_says_so(shm: SharedMemory, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "_MOST", 100)
    fill(shm, 1000)
    drawing = plot.read(HistorySource(shm, ["TANK__measures"]), ["depth", "level"])
    assert (drawing.read, drawing.first, drawing.last) == (1000, BEGIN, BEGIN + 999)
    assert len(drawing.rows) <= 102 and max(row[1] or 0 for row in drawing.rows) == 99.9
    run("plot", "TANK__measures", "-o", "x.svg")
    assert f"the greatest of {drawing.stretch}" in Path("x.svg").read_text()


def test_recording_and_csv_log(shm: SharedMemory, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOGDIR", str(tmp_path / "logs"))
    fill(shm)
    assert run("record", "--since", "0", "--length", "1s", "run7")[0] == 0
    assert "50 rows" in run("plot", "--recording", "run7", "TANK__measures", "-o", "x.svg")[1]
    (log,) = (tmp_path / "logs").glob("*.csv")
    assert "50 rows" in run("plot", "--recording", str(log), "TANK__measures", "level", "-o", "y.svg")[1]


def test_log(shm: SharedMemory, run: Run) -> None:
    with TSLog("tank/fast", ["Qf"], shm=shm) as log:
        for i in range(100):
            log.store(int(BEGIN * 1000) + i, float(i))
    code, out, _ = run("plot", "--log", "--time", "f0:ms", "tank/fast", "f1")
    assert code == 0
    assert re.fullmatch(r"tank_fast.svg: 100 rows, 2026-07-20T09:33:20.000Z to 2026-07-20T09:33:20.09[89]Z\n", out)
    assert run("plot", "--log", "tank/fast", "f1", "-o", "x.svg")[1] == "x.svg: 100 rows, 1 to 100\n"
    assert "sequence number" in Path("x.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["NONE"], 1, "no record 'NONE'"),
        (["TANK__measures", "lvel"], 1, "no field 'lvel': it has"),
        (["TANK__measures", "note"], 1, "is no number over time: these are: level, depth, count, open"),
        (["TANK__measures", "ts"], 1, "is no number over time"),
        (["TANK__texts"], 1, "has no numbers to draw"),
        (["TANK__measures", "-o", "x.csv"], 1, "end the picture's name with .svg, .png, .pdf"),
        (["--log", "--recording", "x", "TANK__measures"], 2, "one of --log and --recording"),
        (["--time", "f0:ms", "TANK__measures"], 2, "--time is for logs"),
    ],
)
@pytest.mark.parametrize("kind", ["valkey"], indirect=True)
def test_what_cannot_be_drawn(shm: SharedMemory, run: Run, arguments: list[str], code: int, says: str) -> None:
    fill(shm, 3)
    found, _, err = run("plot", *arguments)
    assert found == code and says in err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("kind", ["valkey"], indirect=True)
def test_window_where_there_is_a_display(shm: SharedMemory, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(shm)
    shown: list[plot.Drawing] = []
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr(plot, "show", lambda drawing: shown.append(drawing) or True)
    assert run("plot", "TANK__measures") == (0, "", "")
    assert shown[0].read == 50 and not list(Path().iterdir())


@pytest.mark.parametrize("kind", ["valkey"], indirect=True)
def test_display_without_a_toolkit_is_no_error(shm: SharedMemory, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(shm)
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert run("plot", "TANK__measures")[1].startswith("TANK__measures.svg: ")


@pytest.mark.parametrize("kind", ["valkey"], indirect=True)
def test_what_a_picture_can_hold(shm: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight lines share a plot, a value without neighbours is a point, and what would be too high is refused."""
    head = [["ts", 0.0], ["sender", ""]]
    shm.init({"WIDE": {"fields": [*head, *([f"f{i}", 0.0, {"unit": "V"}] for i in range(20)), ["note", 0]]}})
    with DataDict("HDL_TANK", shm) as dd:
        (data,) = dd.set_datas_to_write(["WIDE"])
        data.set(*map(float, range(19)), 1.7e308, 1, ts=BEGIN)
        dd.flush()
    drawing = plot.read(HistorySource(shm, ["WIDE"]))
    figure = plot._figure(plot._matplotlib(), drawing)
    assert [len(axes.get_legend_handles_labels()[1]) for axes in figure.axes] == [8, 8, 4, 1]
    begin, end = figure.axes[-1].get_xlim()
    assert (end - begin) * 86400 == pytest.approx(2), "seconds around the only row, not years"
    points = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert [list(line.get_ydata()) for line in points] == [[float(i)] for i in range(8)]
    monkeypatch.setattr(plot, "_MOST_PLOTS", 3)
    with pytest.raises(FieldError, match="WIDE: 4 plots are too many for a picture"):
        plot.save(drawing, "wide.png")


def test_limits_are_drawn(shm: SharedMemory) -> None:
    shm.init(TANK)
    with pytest.raises(FieldError, match="no number"):
        plot.read(HistorySource(shm, ["TANK__measures"]), ["note"])
    assert plot.read(HistorySource(shm, ["TANK__measures"])).limits["level"] == (0, 1.9)
