"""Take the docs' pictures of the page: the demonstration's records, a tank that is too full, a log with two readers."""

import argparse
import math
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "rig")]  # this checkout's, installed or not

import browser  # noqa: E402
from shareddata import DataDict, SharedMemory, TSLog, demo, interface, plot, uses  # noqa: E402
from shareddata.page import Page  # noqa: E402
from shareddata.rowsources import HistorySource  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"
HISTORY = 75.0  # seconds of the demonstration before the pictures are taken
TANK = {
    "TANK__measures": {
        **{"doc": "What is in the tank.", "owner": "HDL_TANK", "history": "1h", "max_age": 2.0},
        "fields": [
            ["ts", 0.0],
            ["sender", ""],
            ["level", 0.0, {"unit": "m", "min": 0, "max": 1.9, "doc": "above the bottom"}],
            ["flow", 0.0, {"unit": "l/min"}],
            ["pump", False, {"doc": "whether the pump runs"}],
            ["state", ""],
        ],
    },
    "TANK__valve": {
        **{"doc": "The valve below the tank. Its handler has stopped.", "max_age": 10.0},
        "fields": [["ts", 0.0], ["sender", ""], ["open", False], ["temperature", 0.0, {"unit": "degC"}]],
    },
}
OVEN = {
    "LAB__oven": {
        **{"doc": "The oven.", "history": 1000},
        "fields": [
            ["ts", 0.0],
            ["sender", ""],
            ["temperature", 0.0, {"unit": "K", "max": 470}],
            ["set_point", 0.0, {"unit": "K"}],
            ["power", 0.0, {"unit": "W"}],
            ["on", False],
        ],
    },
}
SHOTS: Sequence[tuple[str, str, dict[str, Any]]] = (
    ("page-records", "", {}),
    ("page-records-dark", "?q=tank", {"color_scheme": "dark", "viewport": {"width": 1280, "height": 300}}),
    ("page-record", "record/BATTERY__measures", {"viewport": {"width": 1280, "height": 800}}),
    ("page-record-dark", "record/TANK__measures", {"color_scheme": "dark", "viewport": {"width": 1280, "height": 640}}),
    ("page-sensors", "sensors", {"viewport": {"width": 1280, "height": 680}}),
    ("page-frames", "frames", {"color_scheme": "dark", "viewport": {"width": 1280, "height": 560}}),
    ("page-doctor", "doctor", {"viewport": {"width": 1280, "height": 620}}),
    ("page-logs", "logs", {"viewport": {"width": 1280, "height": 310}}),
    ("page-phone", "?q=tank", {"viewport": {"width": 380, "height": 620}}),
    ("page-phone-dark", "record/TANK__measures", {"color_scheme": "dark", "viewport": {"width": 380, "height": 760}}),
)


def act(shm: SharedMemory, stop: threading.Event) -> None:
    """Write the tank's records and a log until it is time to stop."""
    with DataDict("HDL_TANK", shm) as dd, TSLog("tank/fast", ["Qf"], nreaders=2, bucket_size=256, shm=shm) as log:
        measures, valve = dd.set_datas_to_write(["TANK__measures", "TANK__valve"])
        valve.set(True, 21.5)
        quick, slow = log.reader(0), log.reader(1)
        count = 0
        while not stop.wait(0.1):
            count += 1
            pump = count // 90 % 2 == 0
            level = 1.45 + 0.51 * math.sin(count / 70)
            measures.set(level, 12 + 3 * pump + math.sin(count * 1.7) / 4, pump, "filling" if pump else "holding")
            dd.flush()
            log.store(int(time.time() * 1000), level)
            log.commit()
            while quick.next():
                pass
            quick.commit()
            if count % 3 == 0:
                slow.next()
                slow.commit()


def pilot(shm: SharedMemory, stop: threading.Event) -> None:
    """Read and write as programs do that an interface document tells of."""
    with DataDict("PILOT", shm) as one, DataDict("LOGGER", shm) as other:
        one.set_datas_to_read(["GPS__position", "GPS__motion", "BATTERY__measures"])
        other.set_datas_to_read(["GPS__position", "GPS__fix", "BATTERY__measures", "BATTERY__alarms"])
        (set_points,) = one.set_datas_to_write(["PROP__consignes"])
        while not stop.wait(0.2):
            one.read(fresh=True)
            other.read(fresh=True)
            set_points.set(0.4, 0.4)
            one.flush()


def document(shm: SharedMemory, chromium: Any, folder: Path) -> None:
    """Take the picture of an interface document."""
    wanted = ("BATTERY", "GPS", "PROP")
    records = {name: shm.describe(name) for name in shm.names() if name.startswith(wanted)}
    path = folder / "interface.html"
    path.write_text(interface.document(records, ".html", "USV 1: interface", uses.look(shm, 2.0)), encoding="utf-8")
    shape = {"viewport": {"width": 1180, "height": 1180}}
    with browser.window(chromium, **shape) as window:
        window.goto(path.as_uri())
        window.screenshot(path=FOLDER / "interface.png")


def draw(shm: SharedMemory) -> None:
    """Draw the oven of the page about `shareddata plot`."""
    shm.init(OVEN)
    with DataDict("OVEN", shm) as dd:
        (oven,) = dd.set_datas_to_write(["LAB__oven"])
        for i in range(500):
            on = i % 100 < 50
            oven.set(460 + 12 * math.sin(i / 16), 460, 800.0 * on, on, ts=1784540000.0 + i)
            dd.flush()
    plot.save(plot.read(HistorySource(shm, ["LAB__oven"])), FOLDER / "plot.png")


def take(shm: SharedMemory, names: Sequence[str], seconds: float) -> None:
    """Wait until there is a history, and take all pictures."""
    shm.init(TANK)
    stop = threading.Event()
    writers = [threading.Thread(target=work, args=(shm, stop)) for work in (act, pilot)]
    for each in writers:
        each.start()
    try:
        with Page(shm, port=0) as page, browser.chromium() as chromium, tempfile.TemporaryDirectory() as folder:
            time.sleep(seconds)
            document(shm, chromium, Path(folder))
            for name, path, options in SHOTS:
                shape = {"viewport": {"width": 1280, "height": 800}, **options}
                with browser.window(chromium, device_scale_factor=1.5, **shape) as window:
                    window.goto(page.url + path)
                    if path == "doctor":
                        window.get_by_role("button", name="Examine").click()
                        window.locator(".findings").wait_for()
                    else:
                        window.locator("#link[data-state=live]").wait_for()
                    window.evaluate("document.querySelector('.where').textContent = 'unix:///run/robot/redis.sock'")
                    window.wait_for_timeout(2500)
                    window.screenshot(path=FOLDER / f"{name}.png")
    finally:
        stop.set()
        for each in writers:
            each.join()
    draw(shm)


def main() -> None:
    """Take the pictures, or say what is missing."""
    if reason := browser.missing():
        raise SystemExit(reason)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=HISTORY, help="of the demonstration before that (75)")
    seconds = parser.parse_args().seconds
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as logs:
        demo.run(take, print, seconds=seconds, logs=logs, camera=True)
    for path in sorted(FOLDER.glob("*.png")):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
