"""What a notebook shows: records, trames and moments as tables, in which texts stay texts."""

from html.parser import HTMLParser
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shareddata.datadesc import parse_record
from shareddata.htmltable import table
from shareddata.logs import State
from shareddata.moment import Moment

HEAD = [["ts", 0.0], ["sender", ""]]
TANK = parse_record(
    "TANK",
    {"doc": "In <it>.", "fields": [*HEAD, ["level", 0.0, {"unit": "m", "max": 1.9, "doc": "a & b"}], ["note", ""]]},
)


class Cells(HTMLParser):
    """The cells of a table, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._cell: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        self._cell = "" if tag in ("td", "th") else self._cell

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell or "")
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell += data


def shown(thing: Any) -> list[list[str]]:
    return Cells(thing._repr_html_()).rows


def test_record() -> None:
    assert shown(TANK)[0] == ["field", "type", "default", "min", "max", "meaning"]
    assert shown(TANK)[3] == ["level", "float [m]", "0.0", "", "1.9", "a & b"]


def test_trame() -> None:
    trame = TANK.trame(5.0, "HDL", 2.5, "<script>")
    assert shown(trame)[1:] == [
        *(["ts", "5.0", ""], ["sender", "HDL", ""], ["level", "2.5", "m, out of limits"], ["note", "<script>", ""])
    ]
    count = parse_record("N", [["ts", 0.0], ["sender", ""], ["n", 0, {"max": 1}]])
    assert shown(count.trame(5.0, "HDL", 2))[3] == ["n", "2", "out of limits"]
    assert trame == (5.0, "HDL", 2.5, "<script>") and trame._fields == ("ts", "sender", "level", "note")


def test_moment() -> None:
    moment = Moment({"TANK": TANK.trame(5.0, "HDL", 1.5, "x"), "OTHER": None})
    assert shown(moment)[1:] == [*(["OTHER", "", "", "never written"], ["TANK", "5.0", "HDL", "level=1.5  note=x"])]
    assert moment == {"TANK": (5.0, "HDL", 1.5, "x"), "OTHER": None}


def test_state_of_a_log() -> None:
    state = State("tank/fast", (), 16, 64, True, 5, 20, 16, {"reader:0": 2}, 4096, {}, "memory")
    assert ["reader reader:0", "18 behind, 2 missed"] in shown(state) and ["last", "20"] in shown(state)


@given(st.text(), st.text(), st.text())
def test_texts_stay_texts(title: str, head: str, cell: str) -> None:
    parsed = Cells(table(title, [head], [[cell]]))
    assert parsed.tags <= {"table", "caption", "tr", "td", "th"}
    if "\r" not in cell and "\0" not in cell:
        assert parsed.rows[1][0] == (cell if len(cell) <= 200 else cell[:199] + "…")
