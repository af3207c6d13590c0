"""The page over HTTP, on a real server: what it shows, streams, writes and refuses."""

import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.request import urlopen

import pytest

from servers import OwnServer
from shareddata import DataDict, FieldError, SharedMemory, TSLog, pagefeed, pagesensors, pageview, pagewrite
from shareddata import page as pageserver
from shareddata.frames import FrameFile
from shareddata.page import Page, plotting_library
from shareddata.sensors import SensorWriter
from waiting import eventually
from web import Event, ask, events

HEAD = [["ts", 0.0], ["sender", ""]]
TANK: dict[str, Any] = {
    "TANK__measures": {
        "doc": "What is <in> the tank.", "owner": "HDL_TANK", "history": 5000, "max_age": 60.0,
        "fields": [*HEAD, ["level", 0.0, {"unit": "m", "min": 0, "max": 1.9}], ["count", 0],
                   ["open", False], ["note", ""]],
    },
    "TANK__command": [*HEAD, ["valve", "", {"doc": "open, close"}], ["speed", 0.0, {"max": 5, "on_limit": "refuse"}]],
    "TANK__plain": {"history": 0, "fields": [*HEAD, ["x", 0.0]]},
}  # fmt: skip
TOKEN = "a-token-that-nobody-guesses"
Write = Callable[..., None]
ANY_SERVER = pytest.mark.parametrize("kind", ["valkey"], indirect=True)  # the server makes no difference


@pytest.fixture
def tank(shm: SharedMemory) -> SharedMemory:
    """The tank's records are described."""
    shm.init(TANK)
    return shm


@pytest.fixture
def page(tank: SharedMemory) -> Iterator[Page]:
    """A page that may write, on a port of its own."""
    with Page(tank, port=0, write=True, token=TOKEN) as page:
        yield page


@pytest.fixture
def write(tank: SharedMemory) -> Iterator[Write]:
    """Write a record: `write("TANK__measures", level=1.0)`."""
    with DataDict("HDL_TANK", tank) as dd:

        def write(name: str, **values: Any) -> None:
            (data,) = dd.set_datas_to_write([name])
            data.set(**values)
            dd.flush()

        yield write


def until(found: Iterator[Event], right: Callable[[Event], Any]) -> Event:
    """Return the first event that is right."""
    for event in found:
        if right(event):
            return event
    raise AssertionError("the stream ended")


def points(event: Event, field: str = "count") -> list[Any]:
    return list(event.data["columns"][field]) if event.kind == "points" else []


# -- pages ------------------------------------------------------------------------------------------------------------


def test_table_holds_values_units_senders_and_remarks(page: Page, write: Write) -> None:
    write("TANK__measures", level=2.5, count=7, note="<script>alert(1)</script>")
    text = eventually(lambda: found if "HDL_TANK</td>" in (found := ask(page.url).text) else "")
    row = re.search(r'<tr role="row" data-name="TANK__measures".*?</tr>', text, re.DOTALL)
    assert row
    assert "2.5" in row[0] and ">m<" in row[0] and "above 1.9" in row[0]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in row[0] and "What is &lt;in&gt; the tank." in row[0]
    assert 'data-max-age="60.0"' in row[0]
    assert "<script>alert" not in text


def test_page_of_a_record(page: Page, write: Write) -> None:
    text = ask(f"{page.url}record/TANK__measures").text
    assert "<h1>TANK__measures" in text and ">nobody<" in text and "0 to 1.9" in text
    assert 'src="/static/uPlot.js"' in text
    assert "http" not in re.sub(r"unix:\S+|http-equiv", "", text), "nothing is loaded from elsewhere"


@ANY_SERVER
def test_page_of_no_record_names_near_ones(page: Page) -> None:
    answer = ask(f"{page.url}record/TANK__measure")
    assert answer.status == 404 and "did you mean TANK__measures" in answer.json["error"]
    shown = ask(f"{page.url}record/TANK__measure", accept="text/html,*/*")
    assert shown.status == 404 and "did you mean TANK__measures" in shown.text and 'href="/sensors"' in shown.text
    assert ask(f"{page.url}nothing", accept="text/html").status == 404


@ANY_SERVER
def test_every_answer_has_the_policy(page: Page) -> None:
    for path in ("", "logs", "record/TANK__measures", "static/page.css", "metrics", "nowhere", "servdata/NONE"):
        answer = ask(page.url + path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, path
        assert answer.headers["x-content-type-options"] == "nosniff", path


@ANY_SERVER
def test_static_files_are_asked_for_once(page: Page) -> None:
    for name in ("uPlot.js", "uPlot.css", "records.js", "icon.svg"):
        first = ask(f"{page.url}static/{name}")
        assert first.status == 200 and first.text
        assert ask(f"{page.url}static/{name}", if_none_match=first.headers["etag"]).status == 304
    assert ask(f"{page.url}static/..%2Fpage.py").status == 404


def test_library_is_found_without_importing_its_package() -> None:
    assert plotting_library()["uPlot.js"].read_text().startswith("/**")
    assert "uplot" not in sys.modules


@ANY_SERVER
def test_logs_that_others_damaged_hide_neither_logs_nor_records(
    page: Page, tank: SharedMemory, client: Any, write: Write
) -> None:
    write("TANK__measures", level=1.0)
    with TSLog("tank/fast", ["f"], shm=tank) as log:
        log.store(1.0)
        log.commit()
        client.set("tslog:bad", "x")
        client.set("tslog:other:key", "x")
        client.xgroup_create("tslog:tank/fast", b"a\r\x1b\xff", "0")
        shown = ask(f"{page.url}logs")
        assert shown.status == 200 and "wrong kind of value" in shown.text and "\x1b" not in shown.text
        assert 'data-reader="a\\r\\x1b\\xff"' in shown.text
        told = eventually(lambda: found if "level_meters" in (found := ask(f"{page.url}metrics").text) else "")
    assert 'records{log="tank/fast"} 1.0' in told
    assert 'log="bad"' not in told


def test_logs_with_lags(page: Page, tank: SharedMemory) -> None:
    with TSLog("tank/fast", ["f"], shm=tank, nreaders=2) as log, log.reader(0) as reader:
        for i in range(20):
            log.store(float(i))
        log.commit()
        for _ in range(12):
            reader.next()
        reader.commit()
        with events(f"{page.url}events/logs") as found:
            (told,) = next(found).data["logs"]
    assert (told["name"], told["length"], told["shape"]) == ("tank/fast", 20, "f")
    assert told["readers"] == [["reader:0", 12, 8, 0], ["reader:1", 0, 20, 0]]
    assert "reader:1" in ask(f"{page.url}logs").text


# -- sensors, frames, the doctor --------------------------------------------------------------------------------------


def test_sensors_with_their_values(page: Page, tank: SharedMemory) -> None:
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("cbor2")
    with SensorWriter("lab", "dmm", tank) as writer:
        writer.write("voltage", 12.5)
        writer.write("label", "<b>bold</b>")
        writer.write("pose", {"x": 1, "y": [1, 2]})
        writer.write("trace", numpy.arange(1000, dtype="u2"))
        writer.write("huge", numpy.zeros(1 << 20))
        with events(f"{page.url}events/sensors") as found:
            told = until(found, lambda event: event.data["sensors"] and len(event.data["sensors"][0]["values"]) == 6)
            (sensor,) = told.data["sensors"]
            assert (sensor["name"], sensor["note"], dict(sensor["values"])) == ("lab/dmm", "", {
                "voltage": "12.5", "label": "<b>bold</b>", "pose/x": "1", "pose/y": "[1, 2]",
                "trace": "uint16 array of 1000: 0 to 999", "huge": dict(sensor["values"])["huge"],
            })  # fmt: skip
            assert re.fullmatch(r"8,388,\d\d\d bytes", dict(sensor["values"])["huge"]), "too large to be summed up"
            writer.write("voltage", 13.5)
            until(found, lambda event: dict(event.data["sensors"][0]["values"])["voltage"] == "13.5")
    text = ask(f"{page.url}sensors").text
    assert "&lt;b&gt;bold" in text and "<b>bold" not in text


def test_pictures_of_sensors(page: Page, tank: SharedMemory) -> None:
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("cbor2")
    with SensorWriter("lab", "camera", tank) as writer:
        writer.write("picture", numpy.repeat(numpy.arange(3, dtype="f4"), 20 * 60).reshape(60, 60))
        writer.write("covariance", numpy.eye(6))
        writer.write("trace", numpy.arange(1000))
        writer.write("colour", numpy.zeros((20, 30, 3), "u1"))
        with events(f"{page.url}events/sensors") as found:
            told = until(found, lambda event: event.data["sensors"] and len(event.data["sensors"][0]["values"]) == 4)
            assert sorted(told.data["sensors"][0]["pictures"]) == ["colour", "picture"]
            address = f"{page.url}sensor.png?sensor=lab%2Fcamera&value=picture"
            first = fetched(address)
            assert first == fetched(address) and pixels(first) == (60, 60, 0, 255)
            writer.write("picture", numpy.full((30, 40), numpy.nan))
            until(found, lambda event: event.data["sensors"][0]["written"] != told.data["sensors"][0]["written"])
            assert pixels(fetched(address)) == (40, 30, 0, 0), "as it is now"
        for none in ("lab%2Fcamera&value=trace", "lab%2Fcamera&value=nothing", "..&value=picture", ""):
            assert ask(f"{page.url}sensor.png?sensor={none}").status == 404


@ANY_SERVER
def test_damaged_sensor_does_not_hide_the_others(page: Page, tank: SharedMemory, client: Any) -> None:
    pytest.importorskip("cbor2")
    with SensorWriter("lab", "one", tank) as one, SensorWriter("lab", "other", tank) as other:
        one.write("x", 1)
        other.write("x", 2)
        client.hset(tank.keys.sensor("lab/one"), "x", b"\xff")
        with events(f"{page.url}events/sensors") as found:
            first, second = until(found, lambda event: len(event.data["sensors"]) == 2).data["sensors"]
    assert "another program wrote it" in first["note"] and not first["values"]
    assert (second["note"], second["values"]) == ("", [["x", "2"]])


def test_frames_are_pictures(page: Page, tank: SharedMemory) -> None:
    numpy = pytest.importorskip("numpy")
    with FrameFile("scan/1", tank, "w") as file:
        data = file.create_dataset("data", shape=(0, 40, 60), maxshape=(None, 40, 60), dtype="u2", keep=4)
        file.create_dataset("keys", shape=(0, 1, 1), maxshape=(None, 1, 1), dtype="i8")
        data.append(numpy.arange(2400, dtype="u2").reshape(1, 40, 60))
        with events(f"{page.url}events/frames") as found:
            (told,) = next(found).data["files"]
            assert [(each["path"], each["picture"], each["number"]) for each in told["datasets"]] == [
                ("data", True, 0), ("keys", False, -1)
            ]  # fmt: skip
            picture = f"{page.url}frame.png?file=scan%2F1&dataset=data"
            first = fetched(picture)
            assert first == fetched(picture) and pixels(first) == (60, 40, 0, 255)
            data.append(numpy.full((1, 40, 60), 7, "u2"))
            until(found, lambda event: event.data["files"][0]["datasets"][0]["number"] == 1)
            assert pixels(fetched(picture)) == (60, 40, 0, 0), "the newest one"
    assert "scan/1" in ask(f"{page.url}frames").text


@ANY_SERVER
@pytest.mark.parametrize("query", ["", "file=none&dataset=data", "file=scan&dataset=keys", "file=scan&dataset=..%2F.."])
def test_pictures_that_are_none(page: Page, tank: SharedMemory, query: str) -> None:
    pytest.importorskip("numpy")
    with FrameFile("scan", tank, "w") as file:
        file.create_dataset("keys", shape=(1, 1, 1), maxshape=(None, 1, 1), dtype="i8")
        assert ask(f"{page.url}frame.png?{query}").status == 404


@ANY_SERVER
def test_doctor_is_called_on_request(page: Page, write: Write) -> None:
    write("TANK__measures", level=1.0)
    assert "Nobody has asked the doctor" in ask(f"{page.url}doctor").text
    assert ask(f"{page.url}doctor", "POST").status == 403, "not from another site's page"
    origin = page.url.rstrip("/")
    answers = []
    begin = time.time()
    for _ in range(3):
        answers.append(ask(f"{page.url}doctor", "POST", origin=origin).status)
    text = ask(f"{page.url}doctor").text
    assert answers == [303] * 3 and "descriptions" in text and "just now" in text, time.time() - begin


@ANY_SERVER
def test_one_look_for_all_browsers(page: Page, tank: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensors and frame files are looked at a few times a second, however many browsers there are."""
    looks = []
    real = pagesensors.listed
    monkeypatch.setattr(pagesensors, "listed", lambda shm: looks.append(time.monotonic()) or real(shm))
    opened = [events(f"{page.url}events/sensors") for _ in range(12)]
    try:
        for each in opened:
            next(each.__enter__())
        looks.clear()
        begin = time.monotonic()
        eventually(lambda: len(looks) >= 3)
        assert time.monotonic() - begin > 0.9
    finally:
        for each in opened:
            each.__exit__(None, None, None)


def fetched(url: str) -> bytes:
    with urlopen(url, timeout=10) as answer:
        assert answer.headers["content-type"] == "image/png"
        return bytes(answer.read())


def pixels(picture: bytes) -> tuple[int, int, int, int]:
    """Return a grey picture's width, height, least and greatest value."""
    width, height = struct.unpack(">II", picture[16:24])
    begin = picture.index(b"IDAT") + 4
    data = zlib.decompress(picture[begin : begin + struct.unpack(">I", picture[begin - 8 : begin - 4])[0]])
    values = b"".join(data[i * (width + 1) + 1 : (i + 1) * (width + 1)] for i in range(height))
    return width, height, min(values), max(values)


# -- streams ----------------------------------------------------------------------------------------------------------


def test_records_as_they_change(page: Page, write: Write) -> None:
    with events(f"{page.url}events/records") as found:
        first = next(found).data
        assert {state["name"] for state in first["records"]} == set(TANK)
        write("TANK__measures", level=1.5, count=3, note="n")
        state = until(found, lambda event: event.data["records"]).data["records"][0]
        assert (state["name"], state["sender"]) == ("TANK__measures", "HDL_TANK")
        assert state["texts"] == ["1.5", "3", "false", "n"] and state["limits"] == {}
        write("TANK__measures", level=9.5)
        told = until(found, lambda event: any(each["limits"] for each in event.data["records"]))
        assert told.data["records"][0]["limits"] == {"0": "above 1.9"}
        assert abs(told.data["now"] - time.time()) < 1


def test_plot_has_the_history_first_and_then_everything(page: Page, write: Write) -> None:
    for count in range(30):
        write("TANK__measures", count=count, level=float("nan") if count == 5 else 1.0)
    with events(f"{page.url}events/record/TANK__measures") as found:
        history = until(found, lambda event: event.kind == "points")
        assert points(history) == list(range(30)) and history.data["history"]
        assert history.data["columns"]["level"][5] is None and history.data["columns"]["open"] == [0.0] * 30
        for count in range(30, 60):
            write("TANK__measures", count=count)
        seen: list[float] = []
        while len(seen) < 30:
            event = until(found, lambda event: event.kind == "points")
            seen += points(event)
            assert not event.data["gap"]
        assert seen == list(range(30, 60))
    write("TANK__measures", count=60)
    with events(f"{page.url}events/record/TANK__measures", last_event_id=event.id) as found:
        again = until(found, lambda event: event.kind == "points")
        assert points(again) == [60] and again.data["continued"]


def test_plot_of_a_record_without_history_begins_now(page: Page, write: Write) -> None:
    with events(f"{page.url}events/record/TANK__plain") as found:
        next(found)
        write("TANK__plain", x=4.5)
        assert points(until(found, lambda event: event.kind == "points"), "x") == [4.5]


@ANY_SERVER
def test_plot_goes_on_where_it_was_and_tells_what_was_trimmed_meanwhile(
    page: Page, write: Write, client: Any
) -> None:
    for count in range(10):
        write("TANK__measures", count=count)
    entries = [identity.decode() for identity, _ in client.xrange("TANK__measures:history")]
    url = f"{page.url}events/record/TANK__measures?span=600"

    def history(query: str = "", **headers: str) -> Any:
        with events(url + query, **headers) as found:
            told = until(found, lambda event: event.kind == "points").data
        return told["columns"]["count"], told["continued"], told["gap"]

    everything = [*range(10)], False, False
    assert history(f"&after={entries[6]}") == ([7, 8, 9], True, False)
    assert history(f"&after={entries[6]}", last_event_id=entries[7]) == ([8, 9], True, False)
    client.xtrim("TANK__measures:history", minid=entries[8], approximate=False)
    assert history(f"&after={entries[6]}") == ([8, 9], True, True)
    for strange in ("&after=junk", "&after=99999999999999999999-0", "&span=-1e300", "&after=$"):
        assert history(strange)[1:] == everything[1:], strange


def test_long_history_is_thinned_and_keeps_its_extremes(
    page: Page, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagefeed, "MOST_POINTS", 100)
    for count in range(1000):
        write("TANK__measures", count=5000 if count == 777 else count, ts=1e9 + count)
    with events(f"{page.url}events/record/TANK__measures?span=inf") as found:
        history = until(found, lambda event: event.kind == "points").data
    assert len(history["columns"]["count"]) <= 110 and history["stretch"] > 1
    assert max(history["columns"]["count"]) == 5000 and min(history["columns"]["count"]) == 0
    assert history["columns"]["ts"] == sorted(history["columns"]["ts"])


def test_servdata(page: Page, write: Write) -> None:
    write("TANK__measures", level=math.inf, count=1)
    with events(f"{page.url}servdata/TANK__measures?fields=level,count&frequency=10") as found:
        until(found, lambda event: event.data == {"level": "Infinity", "count": 1})
        write("TANK__measures", level=1.25, count=2)
        until(found, lambda event: event.data == {"level": 1.25, "count": 2})
    with events(f"{page.url}servdata/TANK__measures") as found:
        assert set(next(found).data) == {"ts", "sender", "level", "count", "open", "note"}


def test_servdata_is_as_slow_as_it_is_asked_to_be(page: Page, write: Write) -> None:
    with events(f"{page.url}servdata/TANK__measures?fields=count&frequency=2") as found:
        next(found)
        begin = time.monotonic()
        for count in range(1, 30):
            write("TANK__measures", count=count)
        until(found, lambda event: event.data["count"] == 29)
        assert 0.4 < time.monotonic() - begin < 3


@ANY_SERVER
@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ("servdata/NONE", 404, "no record 'NONE'"),
        ("servdata/TANK__measures?fields=lvel", 400, "no field 'lvel'"),
        ("servdata/TANK__measures?frequency=fast", 400, "expected a number"),
        ("servdata/TANK__measures?frequency=1000", 400, "0.001 to 10"),
        ("servdata/TANK__measures?freq=5", 400, "freq=: expected fields=NAME,NAME and frequency=NUMBER"),
        ("servdata/TANK__measures?frequency=nan", 400, "0.001 to 10"),
        ("events/record/NONE", 404, "no record"),
    ],
)
def test_wrong_streams(page: Page, asked: str, status: int, says: str) -> None:
    answer = ask(page.url + asked)
    assert answer.status == status and says in answer.json["error"]


def test_many_browsers_are_one_reader(page: Page, write: Write, client: Any) -> None:
    """However many look on: one connection that listens, one that reads histories."""

    def connections() -> int:
        return len(client.client_list())

    write("TANK__measures", count=1)
    opened = []
    try:
        opened.append(events(f"{page.url}events/record/TANK__measures"))
        until(opened[0].__enter__(), lambda event: event.kind == "points")
        before = eventually(connections)
        for _ in range(10):
            opened.append(events(f"{page.url}events/record/TANK__measures"))
            until(opened[-1].__enter__(), lambda event: event.kind == "points")
        eventually(lambda: connections() == before, message="no more connections than with one browser")
    finally:
        for each in opened:
            each.__exit__(None, None, None)


def test_slow_browser_skips_and_costs_nothing(
    page: Page, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser that takes nothing for a while finds the newest value, and what lay in between is nowhere kept."""
    monkeypatch.setattr(pageview, "_LONGEST", 1 << 20)
    target, note = page.url.removeprefix("http://").rstrip("/"), "x" * 30000
    host, _, port = target.partition(":")
    slow = socket.create_connection((host, int(port)), timeout=10)
    try:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        slow.sendall(b"GET /events/records HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with events(f"{page.url}events/records") as quick:
            for count in range(1, 50):
                write("TANK__measures", count=count, note=note + str(count))
                until(quick, lambda event, count=count: str(count) in str(event.data["records"])[-300:])
        assert all(len(text) < 50000 for _, text in page.app.feed._states.values())
        assert len(page.app.feed._told) < 5
        received = b""
        while b'x49"' not in received:
            received += slow.recv(65536)
        assert received.count(b"data: ") < 40, "it skipped"
    finally:
        slow.close()


def test_server_that_goes_away_is_told_of(
    own_server: Callable[..., OwnServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_server()
    with SharedMemory(url=server.url, timeout=0.5) as shm:
        shm.init(TANK)
        with Page(shm, port=0) as page, events(f"{page.url}events/records", timeout=20) as found:
            until(found, lambda event: event.data["records"])
            server.kill()
            assert "nobody answers" in until(found, lambda event: event.data["trouble"]).data["trouble"]
            assert ask(page.url).status == 200, "the page says so, with the values that it has"
            for path in ("sensors", "frames", "logs"):
                answer = ask(f"{page.url}{path}")
                assert answer.status == 503 and "nobody answers" in answer.text and "</nav>" in answer.text
            monkeypatch.setattr(pagefeed.logs, "states", lambda shm: [])
            answer = ask(f"{page.url}metrics")
            assert answer.status == 503 and "nobody answers" in answer.text, "values of before are not told as new"
            server.start()
            until(found, lambda event: not event.data["trouble"])
            eventually(lambda: ask(f"{page.url}frames").status == 200)


def test_records_described_anew_are_told_of(page: Page, tank: SharedMemory) -> None:
    with events(f"{page.url}events/records") as found:
        before = until(found, lambda event: event.data["described"]).data["described"]
        tank.init({"MORE": [*HEAD, ["x", 0.0]]})
        after = until(found, lambda event: event.data["described"] != before)
        assert any(state["name"] == "MORE" for state in after.data["records"])


# -- who may ask ------------------------------------------------------------------------------------------------------


@ANY_SERVER
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io:8000", "a@b"])
def test_strangers_names_are_not_answered(page: Page, host: str) -> None:
    """DNS rebinding: a page of evil.example whose name was bound to this machine."""
    answer = ask(page.url, host=host)
    assert answer.status == 421 and "--names" in answer.text


@ANY_SERVER
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "192.168.7.7", "robot"])
def test_own_names_are_answered(tank: SharedMemory, host: str) -> None:
    with Page(tank, port=0, names=["robot"]) as page:
        assert ask(page.url, host=host).status == 200


@ANY_SERVER
def test_other_sites_scripts_read_nothing(page: Page) -> None:
    assert ask(f"{page.url}metrics", sec_fetch_site="cross-site", sec_fetch_mode="cors").status == 403
    assert ask(page.url, sec_fetch_site="cross-site", sec_fetch_mode="navigate").status == 200, "a link is a link"


@ANY_SERVER
def test_other_addresses_demand_the_token(tank: SharedMemory) -> None:
    with Page(tank, host="0.0.0.0", port=0, token=TOKEN) as page:
        url = f"http://127.0.0.1:{page.port}/"
        for path in ("", "metrics", "servdata/TANK__measures", "events/records", "logs"):
            assert ask(url + path).status == 401, path
            assert ask(url + path, authorization="Bearer wrong").status == 401, path
        answer = ask(url, accept="text/html")
        assert (answer.status, answer.headers["location"]) == (303, "/login")
        answer = ask(f"{url}record/TANK__plain", accept="text/html")
        assert answer.headers["location"] == "/login?next=/record/TANK__plain"
        login = ask(f"{url}login")
        assert login.status == 200 and tank.url not in login.text, "a stranger learns nothing"
        assert ask(f"{url}metrics", authorization=f"Bearer {TOKEN}").status == 200
        assert ask(f"{url}login", "POST", form={"token": "wrong"}).status == 401
        given = ask(f"{url}login", "POST", form={"token": TOKEN, "next": "//evil.example"})
        assert given.status == 303 and given.headers["location"] == "/"
        cookie = given.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
        assert ask(url, cookie=cookie.partition(";")[0]).status == 200
        assert ask(url, cookie="shareddata=; x").status == 401
        assert ask(f"{url}login?token={TOKEN}").status == 303


@ANY_SERVER
@pytest.mark.parametrize("token", ["short", "with a blank in it, long", "ünicode-token-that-is-long"])
def test_tokens_that_cannot_be(tank: SharedMemory, token: str) -> None:
    with pytest.raises(FieldError, match="16 or more"):
        Page(tank, port=0, token=token)


# -- writing ----------------------------------------------------------------------------------------------------------

BEARER = f"Bearer {TOKEN}"


@ANY_SERVER
def test_writing_is_off_unless_it_is_switched_on(tank: SharedMemory) -> None:
    with Page(tank, port=0, token=TOKEN) as page:
        answer = ask(f"{page.url}setdata/TANK__command", "POST", form={"valve": "open"}, authorization=BEARER)
        assert answer.status == 403 and "--write" in answer.json["error"]
        assert '<form class="write"' not in ask(f"{page.url}record/TANK__command").text


@ANY_SERVER
def test_writing_needs_the_token(page: Page, tank: SharedMemory) -> None:
    for headers in ({}, {"authorization": "Bearer x"}, {"cookie": f"shareddata-{page.port}={TOKEN}"}):
        assert ask(f"{page.url}setdata/TANK__command", "POST", form={"valve": "open"}, **headers).status == 401
    assert ask(f"{page.url}setdata/TANK__command?valve=open", authorization=BEARER).status == 405, "GET changes nothing"
    with DataDict("T", tank) as dd:
        dd.set_datas_to_read(["TANK__command"])
        assert dd.next() == [None]


def test_write_by_form_says_who_wrote(page: Page, tank: SharedMemory) -> None:
    sent = {"valve": "open", "speed": "2.5", "sender": "alice"}
    answer = ask(f"{page.url}setdata/TANK__command", "POST", form=sent, authorization=BEARER)
    assert answer.status == 200, answer.text
    assert answer.json["values"]["sender"] == "alice (127.0.0.1)"
    with DataDict("T", tank) as dd:
        dd.set_datas_to_read(["TANK__command"])
        (trame,) = dd.next()
    assert (trame.sender, trame.valve, trame.speed) == ("alice (127.0.0.1)", "open", 2.5)


def test_write_by_json_keeps_what_is_not_named(page: Page, tank: SharedMemory) -> None:
    with DataDict("HDL_TANK", tank) as dd:
        (measures,) = dd.set_datas_to_write(["TANK__measures"])
        measures.set(level=1.0, note="kept")
        dd.flush()
    sent = json.dumps({"count": 12, "open": True})
    answer = ask(
        f"{page.url}setdata/TANK__measures", "POST", body=sent, authorization=BEARER, content_type="application/json"
    )
    values = answer.json["values"]
    assert (values["count"], values["open"], values["note"], values["sender"]) == (12, True, "kept", "page (127.0.0.1)")


@ANY_SERVER
@pytest.mark.parametrize(
    ("form", "status", "says"),
    [
        ({"valv": "open"}, 400, "no field 'valv'"),
        ({"speed": "fast"}, 400, "'fast' is no float"),
        ({"speed": "9"}, 400, "5"),
        ({}, 400, "no fields"),
        ("[" * 100_000, 400, "no fields"),
        ('{"valve": "\\ud800"}', 400, "surrogates not allowed"),
    ],
)
def test_wrong_writes_change_nothing(page: Page, tank: SharedMemory, form: Any, status: int, says: str) -> None:
    sent = {"body": form, "content_type": "application/json"} if isinstance(form, str) else {"form": form}
    answer = ask(f"{page.url}setdata/TANK__command", "POST", authorization=BEARER, **sent)
    assert answer.status == status and says in answer.json["error"]
    with DataDict("T", tank) as dd:
        dd.set_datas_to_read(["TANK__command"])
        assert dd.next() == [None]


@ANY_SERVER
def test_owned_record_is_left_to_its_writer(page: Page, write: Write, tank: SharedMemory) -> None:
    write("TANK__measures", level=1.0)
    sent = {"level": "1.5", "sender": "alice"}
    answer = ask(f"{page.url}setdata/TANK__measures", "POST", form=sent, authorization=BEARER)
    assert answer.status == 409 and answer.json["error"].endswith(": nothing was written"), answer.text
    assert re.search(r"record TANK__measures: 'HDL_TANK' \(.*process \d+ on .*writes it since", answer.json["error"])
    assert "--take-over" not in answer.text
    with DataDict("T", tank) as dd:
        dd.set_datas_to_read(["TANK__measures"])
        assert dd.next()[0].level == 1.0


@ANY_SERVER
def test_other_sites_cannot_use_the_cookie(page: Page) -> None:
    cookie = ask(f"{page.url}login", "POST", form={"token": TOKEN}).headers["set-cookie"].partition(";")[0]
    target = f"{page.url}setdata/TANK__command"
    own = page.url.rstrip("/").replace("localhost", "127.0.0.1")
    host = own.removeprefix("http://")
    for origin in ("http://evil.example", "http://127.0.0.1:1", "null"):
        assert ask(target, "POST", form={"valve": "x"}, cookie=cookie, host=host, origin=origin).status == 403
    assert ask(target, "POST", form={"valve": "x"}, cookie=cookie, host=host).status == 403
    assert ask(target, "POST", form={"valve": "x"}, cookie=cookie, host=host, origin=own).status == 200


@ANY_SERVER
def test_write_of_an_array(page: Page, tank: SharedMemory, caplog: pytest.LogCaptureFixture) -> None:
    tank.init({"WAY": [*HEAD, ["points", 0.0, {"dtype": "<f4", "shape": [9]}]]})
    eventually(lambda: "WAY" in page.app.feed.views)
    sent = {"points": str([*range(9)]), "sender": "alice\nroot\x1b"}
    with caplog.at_level("INFO", "shareddata"):
        answer = ask(f"{page.url}setdata/WAY", "POST", form=sent, authorization=BEARER)
    assert answer.status == 200 and answer.json["values"]["points"] == [float(i) for i in range(9)], answer.text
    (told,) = [record.getMessage() for record in caplog.records if "wrote WAY" in record.getMessage()]
    assert told == "alice\\nroot\\x1b (127.0.0.1) wrote WAY: points=9: 0 .. 8"


@ANY_SERVER
def test_what_no_browser_sends_is_refused(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(f"{page.url}login", "POST", body="token=\xff").status == 401
    assert ask(f"{page.url}doctor", "POST", origin="http://[").status == 403
    monkeypatch.setattr(pagewrite, "_BODY_WITHIN", 0.1)
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as slow:
        slow.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nt")
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


@ANY_SERVER
def test_who_sends_no_request_holds_no_place(tank: SharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections without a whole request are closed; streams and their neighbours are not."""
    monkeypatch.setattr(pageserver, "_REQUEST_WITHIN", 0.3)
    monkeypatch.setattr(pageserver, "_MOST_CONNECTIONS", 20)
    with Page(tank, port=0) as page, events(f"{page.url}events/record/TANK__plain") as found:
        next(found)
        idle = [socket.create_connection(("127.0.0.1", page.port), timeout=10) for _ in range(30)]
        try:
            for each in idle:
                with suppress(OSError):  # closed at once: there are too many
                    each.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
            for each in idle:
                with suppress(ConnectionResetError):
                    assert each.recv(1) == b""
        finally:
            for each in idle:
                each.close()
        assert eventually(lambda: ask(page.url).status == 200)
        with DataDict("HDL_TANK", tank) as dd:
            (data,) = dd.set_datas_to_write(["TANK__plain"])
            data.set(2.5)
            dd.flush()
        assert points(until(found, lambda event: event.kind == "points"), "x") == [2.5]


@ANY_SERVER
def test_too_large_a_request(page: Page) -> None:
    body = "valve=" + "x" * (pagewrite._MOST_BODY + 1)
    try:
        answer = ask(f"{page.url}setdata/TANK__command", "POST", body=body, authorization=BEARER)
    except (BrokenPipeError, ConnectionResetError):
        return  # refused while it was sent
    assert answer.status == 413


# -- the program ------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(url: str, tank: SharedMemory) -> Iterator[subprocess.Popen[str]]:
    """`shareddata page` as a program."""
    command = [sys.executable, "-m", "shareddata", "page", "-u", url, "--port", "0"]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **streams) as program:
        yield program
        program.kill()


@ANY_SERVER
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_program_ends_at_once_whoever_looks_on(running: subprocess.Popen[str], number: signal.Signals) -> None:
    assert running.stdout is not None
    address = running.stdout.readline().strip()
    with events(f"{address}events/records") as found:
        next(found)
        begin = time.monotonic()
        running.send_signal(number)
        code = running.wait(10)
        assert time.monotonic() - begin < 2
    assert code == (0 if number == signal.SIGINT else 143)
    assert "Traceback" not in running.communicate()[1]


@ANY_SERVER
def test_token_from_a_file(url: str, tank: SharedMemory, tmp_path: Any) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    options = ["--port", "0", "--write", "--token", str(tmp_path / "token")]
    command = [sys.executable, "-m", "shareddata", "page", "-u", url, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        address = program.stdout.readline().strip()
        assert TOKEN not in address
        answer = ask(f"{address}setdata/TANK__command", "POST", form={"valve": "open"}, authorization=BEARER)
        program.terminate()
        program.communicate()
    assert answer.status == 200


@ANY_SERVER
def test_port_that_is_taken(url: str, tank: SharedMemory, page: Page) -> None:
    command = [sys.executable, "-m", "shareddata", "page", "-u", url, "--port", str(page.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=os.environ)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"port {page.port}: Address already in use: take another --port or --host")
    with pytest.raises(OSError, match="nobody.invalid, port 0: .*(not known|resolution): take another --port"):
        Page(tank, host="nobody.invalid", port=0)


@ANY_SERVER
def test_nothing_of_a_page_is_left(tank: SharedMemory) -> None:
    before = set(threading.enumerate())
    with Page(tank, port=0) as page, events(f"{page.url}events/records") as found:
        next(found)
    eventually(lambda: set(threading.enumerate()) <= before)
