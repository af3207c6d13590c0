"""The page in a real browser: what people see and do."""

import csv
import io
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

import browser
from shareddata import DataDict, SharedMemory, TSLog, pageapp, pagefeed, pagerooms
from shareddata.frames import FrameFile
from shareddata.page import Page
from shareddata.sensors import SensorWriter
from waiting import eventually
from web import ask

pytestmark = [
    pytest.mark.skipif(bool(browser.missing()), reason=browser.missing()),
    pytest.mark.parametrize("kind", ["valkey"], indirect=True),
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(120),
]

HEAD = [["ts", 0.0], ["sender", ""]]
TANK: dict[str, Any] = {
    "TANK__measures": {
        "doc": "What is in the tank.", "history": 500, "max_age": 1.5,
        "fields": [*HEAD, ["level", 0.0, {"unit": "m", "min": 0, "max": 1.9}], ["count", 0],
                   ["open", False], ["note", ""]],
    },
    "TANK__command": [*HEAD, ["valve", ""], ["speed", 0.0]],
    "GPS__position": [*HEAD, ["latitude", 0.0, {"unit": "deg"}]],
}  # fmt: skip
TOKEN = "a-token-that-nobody-guesses"
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def chromium() -> Iterator[Any]:
    """A browser of this test's own: nothing of it is left behind."""
    with browser.chromium() as running:
        yield running


@pytest.fixture
def dd(shm: SharedMemory) -> Iterator[DataDict]:
    """An application that writes the tank's records."""
    shm.init(TANK)
    with DataDict("HDL_TANK", shm) as dd:
        yield dd


@pytest.fixture
def page(dd: DataDict) -> Iterator[Page]:
    """A page that may write."""
    with Page(dd.shm, port=0, write=True, token=TOKEN) as page:
        yield page


def write(dd: DataDict, name: str = "TANK__measures", **values: Any) -> None:
    (data,) = dd.set_datas_to_write([name])
    data.set(**values)
    dd.flush()


def row(window: Any, name: str = "TANK__measures") -> Any:
    return window.locator(f'tr[data-name="{name}"]')


def drawn(window: Any, field: int = 0) -> int:
    """Return how many pixels of a plot have the colour of its line."""
    return int(
        window.evaluate(
            """(field) => {
              const probe = document.createElement("i");
              probe.style.color = "var(--accent)";
              document.body.append(probe);
              const [r, g, b] = getComputedStyle(probe).color.match(/[0-9]+/g).map(Number);
              const canvas = document.querySelectorAll(".plot canvas")[field];
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              let count = 0;
              for (let i = 0; i < data.length; i += 4)
                if (Math.hypot(data[i] - r, data[i + 1] - g, data[i + 2] - b) < 20 && data[i + 3] > 100) count++;
              return count;
            }""",
            field,
        )
    )


def test_table_lives(chromium: Any, page: Page, dd: DataDict) -> None:
    write(dd, level=1.0, count=1)
    with browser.window(chromium) as window:
        window.goto(page.url)
        row(window).get_by_text("HDL_TANK").wait_for()
        write(dd, level=2.5, count=8765, note=HOSTILE)
        row(window).get_by_text("8765").wait_for()
        assert row(window).locator(".out").inner_text().split("\n")[-1] == "above 1.9"
        assert row(window).get_by_text("<script>").count() == 1, "a hostile value stays text"
        assert window.locator(".values script, .values img").count() == 0
        row(window).get_by_text("old: over 1.5 s").wait_for()
        assert window.title().startswith("Records")
        window.locator("#link[data-state=live]").wait_for()


def test_filter_and_keys(chromium: Any, page: Page, dd: DataDict) -> None:
    write(dd, level=1.0)
    write(dd, "GPS__position", latitude=48.5)
    eventually(lambda: "GPS__position" in page.app.feed.views and page.app.feed.views["GPS__position"].written)
    with browser.window(chromium) as window:
        window.goto(page.url)
        row(window, "GPS__position").wait_for()
        assert not row(window, "TANK__command").is_visible(), "without value"
        window.get_by_label("without value").check()
        row(window, "TANK__command").wait_for()
        window.keyboard.press("/")
        window.keyboard.type("latit")
        row(window).wait_for(state="hidden")
        assert window.locator("#count").inner_text() == "1 of 3 records"
        assert "q=latit" in window.url
        window.keyboard.press("Escape")
        row(window).wait_for()
        window.keyboard.press("ArrowDown")
        window.keyboard.press("ArrowDown")
        assert window.evaluate("document.activeElement.textContent") == "TANK__command"
        window.keyboard.press("ArrowDown")
        window.keyboard.press("Enter")
        window.wait_for_url("**/record/TANK__measures")


def test_only_records_with_remarks(chromium: Any, page: Page, dd: DataDict) -> None:
    write(dd, level=5.0)
    write(dd, "GPS__position", latitude=48.5)
    with browser.window(chromium) as window:
        window.goto(f"{page.url}?remarks=1")
        row(window).wait_for()
        row(window, "GPS__position").wait_for(state="hidden")
        assert window.locator("#remarks").inner_text() == "1"


def test_plot_fills_from_history_and_moves(chromium: Any, page: Page, dd: DataDict) -> None:
    begin = time.time() - 100
    for i in range(200):
        write(dd, level=1 + (i % 20) / 40, count=i, ts=begin + i / 2)
    with browser.window(chromium) as window:
        window.goto(f"{page.url}record/TANK__measures")
        window.get_by_text("200 points").wait_for()
        eventually(lambda: drawn(window) > 500, message="the plot is full at once")
        write(dd, level=1.2, count=4321)
        window.get_by_text("201 points").wait_for()
        window.locator(".plot", has_text="count").get_by_text("4321").wait_for()
        window.get_by_role("button", name="Pause").click()
        write(dd, level=1.2, count=4322)
        window.get_by_text("202 points").wait_for()
        window.get_by_role("button", name="Go on").click()
        window.locator("h1").click()
        window.keyboard.press("Space")
        window.get_by_role("button", name="Go on").wait_for()


def test_zoom_hover_and_save(chromium: Any, page: Page, dd: DataDict) -> None:
    begin = time.time() - 100
    for i in range(200):
        write(dd, level=1.0, count=1584538000 + i, ts=begin + i / 2)
    with browser.window(chromium, accept_downloads=True) as window:
        window.goto(f"{page.url}record/TANK__measures")
        window.get_by_text("200 points").wait_for()
        plot = window.locator(".plot", has_text="count")
        box = plot.locator(".u-over").bounding_box()
        window.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
        assert re.fullmatch(r"1584538(099|100) at \d\d:\d\d:\d\d(\.\d+)?", plot.locator(".readout").inner_text())
        window.mouse.down()
        window.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 30, steps=4)
        window.mouse.up()
        window.locator("#whole:not([disabled])").wait_for()
        with window.expect_download() as coming:
            window.get_by_role("button", name="Save CSV").click()
        rows = list(csv.DictReader(io.StringIO(coming.value.path().read_text())))
        assert 40 <= len(rows) <= 60 and 95 <= int(rows[0]["count"]) - 1584538000 <= 105, "what is shown"
        assert float(rows[0]["ts"]) == begin + (int(rows[0]["count"]) - 1584538000) / 2
        assert set(rows[0]) == {"time", "ts", "level [m]", "count", "open"}
        with window.expect_download() as coming:
            window.get_by_role("button", name="Save PNG").click()
        assert coming.value.path().read_bytes().startswith(b"\x89PNG")
        assert coming.value.suggested_filename.endswith(".png")
        window.get_by_role("button", name="Zoom out").click()
        window.locator("#whole[disabled]").wait_for()
        thinned = window.evaluate(
            """async () => {
              const { Plots, Points } = await import("/static/plots.js");
              const kept = (points) => structuredClone([points.times, ...points.values]);
              const points = new Points(["a", "b"]), plots = { points, span: 100, stretch: 1, range: [0, 10] };
              points.add({ ts: [0, 1, 2, 3], a: [5, 1, 2, 3], b: [0, null, 7, 8] });
              points.add({ ts: [4, 5, 6, 7, 8], a: [0, null, 0, 0, 9], b: [1, null, 1, 1, 2] });
              points.most = 8;
              Plots.prototype.add.call(plots, { ts: [9], a: [9], b: [9] });
              const whole = kept(points);
              plots.span = 2, plots.range = [7, 9];
              Plots.prototype.add.call(plots, { ts: [10], a: [9], b: [9] });
              return [whole, plots.stretch, kept(points)];
            }"""
        )
        assert thinned[0] == [[0, 3, 4, 5, 6, 7, 8, 9], [5, 1, 0, None, 0, 0, 9, 9], [0, 8, 1, None, 1, 1, 2, 9]]
        assert thinned[1:] == [4, [[7, 8, 9, 10], [0, 9, 9, 9], [1, 2, 9, 9]]], "first goes what is not shown"


def test_write_from_a_page(chromium: Any, page: Page, dd: DataDict) -> None:
    with browser.window(chromium, expected="status of 400") as window:
        window.goto(f"{page.url}record/TANK__command")
        window.get_by_role("link", name="give the token").press("Enter")
        window.get_by_label("Token").fill(TOKEN)
        window.get_by_role("button", name="Go on").click()
        window.get_by_label("Who writes").fill("alice")
        window.get_by_label("valve").fill("open")
        window.get_by_label("speed").fill("fast")
        window.get_by_role("button", name="Write").click()
        window.get_by_text("'fast' is no float").wait_for()
        window.get_by_label("speed").fill("2.5")
        window.get_by_role("button", name="Write").click()
        window.get_by_text("written by alice (127.0.0.1)").wait_for()
        window.locator("[data-part=sender]", has_text="alice (127.0.0.1)").wait_for()
    dd.set_datas_to_read(["TANK__command"])
    assert dd.next()[0][1:] == ("alice (127.0.0.1)", "open", 2.5)


def test_logs(chromium: Any, page: Page, dd: DataDict) -> None:
    with TSLog("tank/fast", ["f"], shm=dd.shm) as log, browser.window(chromium) as window:
        log.store(1.0)
        log.commit()
        window.goto(f"{page.url}logs")
        window.locator('[data-reader="reader:0"]').get_by_text("1", exact=True).first.wait_for()
        log.store(2.0)
        log.commit()
        window.locator('[data-reader="reader:0"]').get_by_text("2", exact=True).first.wait_for()


def fill(shm: SharedMemory) -> None:
    """Make a sensor and a frame file."""
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("cbor2")
    with SensorWriter("lab", "dmm", shm) as sensor, FrameFile("camera", shm, "w") as file:
        sensor.write("note", "x" * 300)
        file.create_dataset("data", data=numpy.arange(6000, dtype="u2").reshape(1, 60, 100), maxshape=(None, 60, 100))


def test_clock_that_is_ahead_does_not_hide_an_old_record(chromium: Any, page: Page, dd: DataDict) -> None:
    write(dd, level=1.0, ts=time.time() + 3600)
    with browser.window(chromium) as window:
        window.goto(page.url)
        row(window).get_by_text("old: over 1.5 s").wait_for()
        row(window).get_by_text("the writer's clock is 60.0 min ahead").wait_for()


def test_sensors(chromium: Any, page: Page, dd: DataDict) -> None:
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("cbor2")
    with SensorWriter("lab", "dmm", dd.shm) as sensor, browser.window(chromium) as window:
        sensor.write("voltage", 12.5)
        sensor.write("label", HOSTILE)
        window.goto(f"{page.url}sensors")
        window.get_by_text("<script>").wait_for()
        sensor.write("voltage", 13.25)
        sensor.write("trace", numpy.arange(100))
        window.get_by_text("13.25", exact=True).wait_for()
        window.get_by_text("int64 array of 100: 0 to 99").wait_for()
        assert window.locator(".sensor script, .sensor img").count() == 0
        black_and_white = numpy.repeat(numpy.array([[0, 1000]], "u2"), 30, axis=0).repeat(20, axis=1)
        sensor.write("picture", black_and_white)
        eventually(lambda: window.locator(".sensor img").count() == 1 and levels(window) == [0, 255])
        sensor.write("picture", black_and_white[:, ::-1])
        eventually(lambda: levels(window) == [255, 0])
        assert window.locator(".sensor script").count() == 0
        assert window.title().startswith("Sensors")


def test_frames(chromium: Any, page: Page, dd: DataDict) -> None:
    numpy = pytest.importorskip("numpy")
    with FrameFile("camera", dd.shm, "w") as file, browser.window(chromium) as window:
        black_and_white = numpy.repeat(numpy.array([[[0, 1000]]], "u2"), 30, axis=1).repeat(20, axis=2)
        data = file.create_dataset("data", data=black_and_white, maxshape=(None, 30, 40))
        window.goto(f"{page.url}frames")
        window.locator("[data-part=number]", has_text="frame 0").wait_for()
        eventually(lambda: levels(window) == [0, 255])
        data.append(black_and_white[:, :, ::-1])
        window.locator("[data-part=number]", has_text="frame 1").wait_for()
        eventually(lambda: levels(window) == [255, 0])
        window.keyboard.press("Space")
        assert window.get_by_role("button", name="Go on").get_attribute("aria-pressed") == "true"
        data.append(black_and_white)
        window.wait_for_timeout(700)
        assert levels(window) == [255, 0], "paused"


def levels(window: Any) -> list[int]:
    """Return how bright the picture is at its left and at its right."""
    return list(window.evaluate("""() => {
      const image = document.querySelector(".frame img"), canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      return [1, canvas.width - 2].map((x) => context.getImageData(x, 5, 1, 1).data[0]);
    }"""))


def test_doctor(chromium: Any, page: Page, dd: DataDict) -> None:
    write(dd, level=1.0)
    with browser.window(chromium) as window:
        window.goto(f"{page.url}doctor")
        window.get_by_text("Nobody has asked the doctor").wait_for()
        window.get_by_role("button", name="Examine").click()
        window.get_by_role("rowheader", name="descriptions").wait_for()
        assert window.locator(".verdict", has_text="ok").count() > 3


def test_write_of_an_owned_record_names_its_writer(chromium: Any, page: Page, dd: DataDict) -> None:
    dd.shm.init({"PUMP__state": {"owner": "HDL_PUMP", "fields": [*HEAD, ["speed", 0.0]]}}, keep=True)
    with DataDict("HDL_PUMP", dd.shm) as pump, browser.window(chromium, expected="409") as window:
        write(pump, "PUMP__state", speed=1.0)
        window.goto(f"{page.url}login?token={TOKEN}")
        window.goto(f"{page.url}record/PUMP__state")
        window.get_by_text("This record is HDL_PUMP's").wait_for()
        window.get_by_label("Who writes").fill("alice")
        window.get_by_label("speed").fill("2.5")
        window.get_by_role("button", name="Write").click()
        window.get_by_text("'HDL_PUMP'").wait_for()
        window.get_by_text("nothing was written").wait_for()


HIDDEN = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_held_picture_outlasts_a_look_at_another_tab(
    chromium: Any, page: Page, dd: DataDict, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in range(20):
        write(dd, level=1.0, count=count, ts=time.time() - 20 + count)
    with browser.window(chromium) as window:
        window.clock.install()
        window.goto(f"{page.url}record/TANK__measures")
        window.locator("#told", has_text="20 points").wait_for()
        window.get_by_role("button", name="Save CSV").focus()
        window.keyboard.press("+")  # also while a button has the focus
        window.get_by_role("button", name="Go on").wait_for()
        window.evaluate(HIDDEN, True)
        client.xtrim("TANK__measures:history", maxlen=0, approximate=False)
        write(dd, level=1.0, count=100)
        window.evaluate(HIDDEN, False)
        window.locator("#told", has_text="22 points").wait_for()  # those of before, a gap, and the new one
        window.set_viewport_size({"width": 900, "height": 800})
        assert drawn(window) > 100
        monkeypatch.setattr(pageapp, "_ALIVE", 1000.0)
        write(dd, level=1.0, count=101)  # the last that the server says
        window.locator("#told", has_text="23 points").wait_for()
        with window.expect_request("**/events/record/*"):
            window.clock.fast_forward(16000)  # a stream without a word is given up


def test_pages_follow_what_is_described(chromium: Any, shm: SharedMemory) -> None:
    """Opened before anything was described, while a record goes, and comes again."""
    long = {"doc": "L" * 500, "fields": [*HEAD, ["a" * 80, 0.0, {"unit": "kg" * 40}], ["digits", 0], ["note", ""]]}
    with Page(shm, port=0) as page, browser.window(chromium, expected="404") as window:
        window.goto(page.url)
        window.get_by_text("There is no record here yet").wait_for()
        shm.init({"LONG": long})
        row(window, "LONG").wait_for()
        with DataDict("HDL", shm) as dd:
            write(dd, "LONG", digits=10**300, note="ü" * 5000)
            window.goto(f"{page.url}record/LONG")
            window.get_by_text("1000000").wait_for()
            fits = "document.documentElement.scrollWidth <= innerWidth"
            for width in (1280, 360):
                window.set_viewport_size({"width": width, "height": 800})
                eventually(lambda: window.evaluate(fits), message="plots of the new width")
                assert window.evaluate(
                    "[...document.querySelectorAll('.fields td')].every((cell) => cell.getBoundingClientRect().right"
                    " <= cell.closest('table').getBoundingClientRect().right)"
                ), "nothing is cut off"
        shm.init({"OTHER": [*HEAD, ["x", 0.0]]}, prune=True)
        window.get_by_text("no record 'LONG' is described").wait_for()
        shm.init({"LONG": long})
        window.get_by_role("heading", name="LONG").wait_for()


def test_names_that_are_no_text_are_shown_and_nothing_is_loaded_forever(
    chromium: Any, page: Page, dd: DataDict, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagerooms, "_LOGS_EVERY", 0.1)
    monkeypatch.setattr(pagefeed, "_LOGS_FOR", 0.1)
    with TSLog("tank/fast", ["f"], shm=dd.shm) as log, FrameFile("camera", dd.shm, mode="w") as frames:
        log.store(1.0)
        log.commit()
        client.xgroup_create("tslog:tank/fast", b"a\rb\xff", "0")
        client.zadd("shareddata:sensors", {b"a\rb": 1})
        data = frames.create_dataset("a\rb", shape=(1, 8, 8), maxshape=(None, 8, 8), dtype="u1")
        with browser.window(chromium) as window:

            def shows(path: str, text: str, change: Any) -> None:
                window.goto(page.url + path)
                window.evaluate("window.first = true")
                window.locator("#link[data-state=live]").wait_for()
                change()
                window.get_by_text(text).first.wait_for()
                assert window.evaluate("window.first"), "it is the page that was opened"

            shows("logs", "1 to 2", lambda: (log.store(2.0), log.commit()))
            shows("sensors", "-18", lambda: client.hset("sensor:a\rb", "v", "1"))
            shows("frames", "frame 1", lambda: data.resize(2, axis=0))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(chromium: Any, page: Page, dd: DataDict, scheme: str) -> None:
    """On a phone nothing has to be moved sideways, and the ground is as light as the system says."""
    write(dd, level=2.0, note="x" * 300)
    fill(dd.shm)
    ask(f"{page.url}doctor", "POST", origin=page.url.rstrip("/"))
    with browser.window(chromium, viewport={"width": 360, "height": 700}, color_scheme=scheme) as window:
        for path in ("", "record/TANK__measures", "sensors", "frames", "logs", "doctor", "login"):
            window.goto(page.url + path)
            window.wait_for_timeout(300)
            assert window.evaluate("document.documentElement.scrollWidth") <= 360, path
            ground = window.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 384) == (scheme == "light")


def test_light_and_dark_by_hand(chromium: Any, page: Page) -> None:
    with browser.window(chromium, color_scheme="light") as window:
        window.goto(page.url)
        window.keyboard.press("t")
        window.keyboard.press("t")
        window.reload()
        assert window.evaluate("document.documentElement.dataset.theme") == "dark"
        ground = window.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 384


def test_records_described_anew_show_without_reloading_by_hand(chromium: Any, page: Page, dd: DataDict) -> None:
    with browser.window(chromium) as window:
        window.goto(page.url)
        window.locator("#link[data-state=live]").wait_for()
        dd.shm.init({"MORE": [*HEAD, ["x", 0.0]]})
        with DataDict("T", dd.shm) as other:
            write(other, "MORE", x=7.25)
        row(window, "MORE").get_by_text("7.25").wait_for()
