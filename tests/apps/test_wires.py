"""Analogue and digital lines: a tree as in sysfs; the GPIO character device through a stand-in for libgpiod.

No machine that runs these tests can be asked to have GPIO lines (the kernel's gpio-sim needs its module and root), so
the stand-in has the parts of gpiod's interface that the handler uses, and the test on it shows the handler's logic, not
the kernel's.
"""

import os
import signal
import sys
import types

import pytest
from shareddata.apps import hdl_ains, hdl_dacs, hdl_gpio_in

from shareddata import DataDict, descfile


@pytest.fixture
def iio(tmp_path):
    """Return what makes a tree as in /sys/bus/iio/devices."""

    def make(device, **files):
        folder = tmp_path / "iio" / f"iio:device{device}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n")
        return folder

    return make


def latest(shm, name):
    with DataDict("READER", shm) as dd:
        dd.set_datas_to_read([name])
        return dd.next()[0]


# -- analogue inputs ---------------------------------------------------------------------------------------------------


def test_a_reading_is_raw_plus_offset_times_scale_in_volts(iio):
    own = {"in_voltage1_raw": 100, "in_voltage1_scale": 2, "in_voltage1_offset": -50}
    folder = iio(0, in_voltage0_raw=2048, in_voltage_scale=0.439453125, **own)
    assert hdl_ains.volts(folder, 0) == pytest.approx(0.9)
    assert hdl_ains.volts(folder, 1) == pytest.approx(0.1)


def test_the_device_is_the_first_one_that_has_all_channels(iio, tmp_path):
    iio(0, in_voltage0_raw=1)
    iio(10, in_voltage0_raw=1, in_voltage1_raw=1)
    folder = iio(2, in_voltage0_raw=1, in_voltage1_raw=1)
    files = ["in_voltage0_raw", "in_voltage1_raw"]
    assert hdl_ains.device(tmp_path / "iio", files) == folder
    assert hdl_ains.device(folder, files) == folder
    with pytest.raises(FileNotFoundError, match="has in_voltage7_raw"):
        hdl_ains.device(tmp_path / "iio", ["in_voltage7_raw"])


def test_inputs_are_read_into_the_record(described, url, start, iio, tmp_path, eventually):
    channels = {f"in_voltage{number}_raw": 1000 * number for number in range(4)}
    folder = iio(0, in_voltage_scale=0.5, **channels)
    tree = tmp_path / "iio"
    ains = start(
        "apps/hdl_ains.py", "-f", 100, "-u", url, "-a", "READ_PROP", "--root", tree, "PROP__readings", 0, 1, 2, 3
    )
    readings = eventually(lambda: latest(described, "PROP__readings"))
    assert readings[2:] == (0.0, 0.5, 1.0, 1.5)
    assert readings.sender == "READ_PROP"
    (folder / "in_voltage3_raw").write_text("3200\n")
    eventually(lambda: latest(described, "PROP__readings").starboard_current == 1.6)
    assert ains.end() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["PROP__readings", "0", "1"], 2, "PROP__readings has 4 fields (port_speed, starboard_speed, port_current, "),
        (["PROP__readings", "0", "1", "2", "x"], 2, "channels are numbers: 0 1 2 x"),
        (["PROP__readings", "4", "5", "6", "7"], 1, "no IIO device in "),
        (["PROP__reading", "0"], 1, "PROP__reading"),
    ],
)
def test_inputs_that_do_not_fit_the_record(described, url, start, iio, tmp_path, arguments, code, message):
    iio(0, in_voltage0_raw=1)
    ains = start("apps/hdl_ains.py", "-u", url, "--root", tmp_path / "iio", *arguments)
    assert ains.process.wait(10) == code
    assert message in ains.log()
    assert "Traceback" not in ains.log()


# -- analogue outputs --------------------------------------------------------------------------------------------------


def test_set_points_reach_the_channels_and_go_back_when_nobody_renews_them(
    described, url, start, iio, tmp_path, eventually
):
    folder = iio(1, out_voltage2_raw=77, out_voltage3_raw=77, out_voltage_scale=0.5, out_voltage3_offset=-10)

    def raw():
        texts = [(folder / f"out_voltage{channel}_raw").read_text() for channel in (2, 3)]
        return [int(text) for text in texts if text]  # a file is empty for a moment when it is written, sysfs is not

    dacs = start("apps/hdl_dacs.py", "-f", 100, "-u", url, "--root", tmp_path / "iio", "PROP__consignes", 2, 3)
    eventually(lambda: raw() == [0, 10], message="the defaults, before anybody has written")
    with DataDict("PILOT", described) as dd:
        (consignes,) = dd.set_datas_to_write(["PROP__consignes"])
        consignes.set(1.5, 2.0)
        dd.flush()
        eventually(lambda: raw() == [3000, 4010])
        consignes.set(1.5, 2.0, expire=0.3)
        dd.flush()
        eventually(lambda: raw() == [0, 10], message="the defaults, after it expired")
        consignes.set(2.5, 2.5)
        dd.flush()
        eventually(lambda: raw() == [5000, 5010])
    assert dacs.end() == 0
    assert raw() == [0, 10], "the defaults, after it was stopped"


def test_a_set_point_counts_until_its_max_age():
    record = descfile.load({
        "X": {"max_age": 2.0, "fields": [["ts", 0.0], ["sender", ""], ["a", 0.5]]},
    })["X"]
    trame = record.trame(100.0, "PILOT", 3.0)
    assert hdl_dacs.wanted(record, trame, 102.0) == [3.0]
    assert hdl_dacs.wanted(record, trame, 102.1) == [0.5]
    assert hdl_dacs.wanted(record, None, 100.0) == [0.5]


def test_an_output_that_has_its_value_is_not_written_again(iio):
    folder = iio(0, out_voltage0_raw=0)
    outputs = hdl_dacs.Outputs(folder, [0])
    outputs.write([0.012])
    (folder / "out_voltage0_raw").write_text("untouched")
    outputs.write([0.012])
    assert (folder / "out_voltage0_raw").read_text() == "untouched"


# -- digital inputs ----------------------------------------------------------------------------------------------------

WATER = "PHINS__Enclosure_water_detected"


def test_a_line_of_a_sysfs_tree_is_watched(described, url, start, tmp_path, eventually):
    value = tmp_path / "gpio" / "gpio48" / "value"
    value.parent.mkdir(parents=True)
    value.write_text("0\n")
    tree = tmp_path / "gpio"
    gpio = start("apps/hdl_gpio_in.py", "-f", 100, "-u", url, "-a", "WATER_DETECT", "--root", tree, WATER, 48)
    trame = eventually(lambda: latest(described, WATER))
    assert (trame.detected, trame.sender) == (False, "WATER_DETECT")
    value.write_text("1\n")
    eventually(lambda: latest(described, WATER).detected)
    assert gpio.end() == 0


def test_a_line_that_is_not_there_is_one_message(described, url, start, tmp_path):
    gpio = start("apps/hdl_gpio_in.py", "-u", url, "--root", tmp_path, WATER, 48)
    assert gpio.process.wait(10) == 1
    assert "gpio48/value" in gpio.log()
    assert "Traceback" not in gpio.log()


class Chips:
    """In place of the module gpiod: chips of 32 lines, and a descriptor by which the test makes edges."""

    def __init__(self, number):
        self.chips = {f"gpiochip{each}": {} for each in range(number)}
        self.events = []
        self.state = False
        self.requested = None
        self.reader, self.writer = os.pipe()
        self.line = types.SimpleNamespace(
            Direction=types.SimpleNamespace(INPUT="in"), Edge=types.SimpleNamespace(BOTH="both"),
            Clock=types.SimpleNamespace(REALTIME="realtime"), Value=types.SimpleNamespace(ACTIVE="active"),
        )

    def edge(self, active, seconds):
        kinds = types.SimpleNamespace(RISING_EDGE="rising")
        event = types.SimpleNamespace(
            event_type="rising" if active else "falling", timestamp_ns=int(seconds * 1e9), Type=kinds
        )
        self.events.append(event)
        self.state = active
        os.write(self.writer, b"!")

    # What the handler calls:

    def Chip(self, path):
        names = self.chips[path.rpartition("/")[2]]
        chip = types.SimpleNamespace(
            get_info=lambda: types.SimpleNamespace(name=path.rpartition("/")[2], label="soc", num_lines=32),
            get_line_info=lambda number: types.SimpleNamespace(name=names.get(number)),
        )
        return Entered(chip)

    def LineSettings(self, **settings):
        return settings

    def request_lines(self, path, consumer, config):
        self.requested = (path, consumer, config)
        return Entered(self)

    @property
    def fd(self):
        return self.reader

    def wait_edge_events(self, timeout):
        assert timeout == 0
        return bool(self.events)

    def read_edge_events(self):
        os.read(self.reader, 100)
        events, self.events = self.events, []
        return events

    def get_value(self, offset):
        return "active" if self.state else "inactive"


class Entered:
    def __init__(self, what):
        self.what = what

    def __enter__(self):
        return self.what

    def __exit__(self, *_):
        pass


@pytest.fixture
def chips(monkeypatch, tmp_path):
    chips = Chips(2)
    for name in chips.chips:
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, "gpiod", chips)
    yield chips
    os.close(chips.reader)
    os.close(chips.writer)


@pytest.mark.parametrize(
    ("line", "chip", "number"),
    [("48", "gpiochip1", 16), ("3", "gpiochip0", 3), ("gpiochip1:16", "gpiochip1", 16), ("WATER", "gpiochip0", 7)],
)
def test_a_line_is_found_by_number_chip_or_name(chips, tmp_path, line, chip, number):
    chips.chips["gpiochip0"][7] = "WATER"
    assert hdl_gpio_in.find(chips, line, tmp_path) == (str(tmp_path / chip), number)


@pytest.mark.parametrize("line", ["64", "gpiochip1:32", "gpiochip2:0", "gpiochip1:x", "SMOKE", "-1"])
def test_a_line_that_no_chip_has_is_an_error(chips, tmp_path, line):
    with pytest.raises(FileNotFoundError, match="no GPIO line"):
        hdl_gpio_in.find(chips, line, tmp_path)


def test_each_edge_is_written_with_its_own_time(chips, shm, url, tmp_path, monkeypatch, recordings):
    shm.init(recordings.parents[1] / "datadesc" / "phins.json")
    monkeypatch.setattr(hdl_gpio_in, "find", lambda gpiod, line: (f"/dev/{line.partition(':')[0]}", 16))
    chips.edge(True, 1000.5)
    chips.edge(False, 1000.75)

    class Stopping(hdl_gpio_in.Handler):
        def publish(self, records, ts=None):
            published.append((records[WATER]["detected"], ts))
            if len(published) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().publish(records, ts)

    published = []
    monkeypatch.setattr("shareddata.handler.Handler", Stopping)
    hdl_gpio_in.main([WATER, "gpiochip1:16", "-u", url, "-f", "50", "-a", "WATER_DETECT"])
    assert published == [(True, 1000.5), (False, 1000.75), (False, None)]
    with DataDict("READER", shm) as dd, dd.follow_data(WATER, since=0, timeout=0.02) as follower:
        assert [(trame.detected, trame.ts) for trame in follower][:2] == [(True, 1000.5), (False, 1000.75)]
    settings = {"direction": "in", "edge_detection": "both", "event_clock": "realtime"}
    assert chips.requested == ("/dev/gpiochip1", "shareddata", {16: settings})


def test_the_stand_in_has_the_names_of_the_real_library():
    gpiod = pytest.importorskip("gpiod")
    for name in ("Chip", "LineSettings", "request_lines"):
        assert callable(getattr(gpiod, name))
    for name in ("wait_edge_events", "read_edge_events", "get_value", "fd"):
        assert hasattr(gpiod.LineRequest, name)
    for name in ("get_info", "get_line_info"):
        assert hasattr(gpiod.Chip, name)
    gpiod.LineSettings(
        direction=gpiod.line.Direction.INPUT, edge_detection=gpiod.line.Edge.BOTH, event_clock=gpiod.line.Clock.REALTIME
    )
    assert gpiod.EdgeEvent.Type.RISING_EDGE
    assert gpiod.line.Value.ACTIVE
