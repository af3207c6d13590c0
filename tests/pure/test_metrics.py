"""Metrics: what is told and what is left out, names and units; two foreign readers accept the text."""

import math
import shutil
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from shareddata import metrics
from shareddata.datadesc import parse_record
from shareddata.logs import State
from shareddata.table import View

NOW = 1784540000.0
HEAD = [["ts", 0.0], ["sender", ""]]


def view(name: str, *fields: Any, values: Any = (), ts: float = NOW - 1.5, **options: Any) -> View:
    record = parse_record(name, {"fields": [*HEAD, *fields], **options})
    return View(record, record.trame(ts, "HDL", *values) if values else None, rate=9.5)


def families(*views: View, logs: Any = ()) -> dict[str, Any]:
    return {each.name: each for each in text_string_to_metric_families(metrics.text(views, logs, NOW))}


def value(found: dict[str, Any], name: str, **labels: str) -> float:
    (sample,) = [each for each in found[name].samples if labels.items() <= each.labels.items()]
    return float(sample.value)


BATTERY = view(
    *("BATTERY__measures", ["voltage", 0.0, {"unit": "V", "max": 60, "doc": 'of the "main" one\\'}], ["count", 0]),
    *(["on", False], ["note", ""], ["rate", 0.0, {"unit": "m/s2"}], ["share", 0.0, {"unit": "1"}]),
    values=(72.5, 3, True, "text", math.nan, math.inf),
)


def test_values_have_their_units() -> None:
    found = families(BATTERY)
    assert value(found, "shareddata_battery_measures_voltage_volts", field="voltage") == 72.5
    assert found["shareddata_battery_measures_voltage_volts"].unit == "volts"
    assert found["shareddata_battery_measures_voltage_volts"].documentation.endswith("of the 'main' one\\")
    assert value(found, "shareddata_battery_measures_count_value") == 3, "_count is kept for histograms"
    assert value(found, "shareddata_battery_measures_on") == 1
    assert math.isnan(value(found, "shareddata_battery_measures_rate_meters_per_second_squared"))
    assert value(found, "shareddata_battery_measures_share_ratio") == math.inf
    assert not any("note" in name for name in found)


def test_age_rate_and_limits() -> None:
    found = families(BATTERY)
    assert value(found, "shareddata_record_age_seconds", record="BATTERY__measures") == 1.5
    assert value(found, "shareddata_record_rate_hertz") == 9.5
    assert value(found, "shareddata_record_usable") == 1
    assert value(found, "shareddata_record_fields_out_of_limits") == 1, "the voltage"


@pytest.mark.parametrize(
    "useless",
    [
        view("A", ["x", 0.0], values=(1.0,), max_age=1.0),
        view("A", ["x", 0.0]),
        view("A", ["x", 0.0], values=(1.0,), ts=0.0),
        View(parse_record("A", [*HEAD, ["x", 0.0]]), damage="it is broken"),
    ],
    ids=["old", "no value", "never written", "damaged"],
)
def test_what_cannot_be_trusted_is_left_out(useless: View) -> None:
    found = families(useless)
    assert "shareddata_a_x" not in found
    assert value(found, "shareddata_record_usable", record="A") == 0


def test_a_writer_whose_clock_is_ahead_is_heard() -> None:
    """What the server got just now is new, whatever time it bears."""
    ahead = view("A", ["x", 0.0], values=(1.0,), ts=NOW + 3600, max_age=2.0)
    ahead.received = NOW - 0.5
    found = families(ahead)
    assert (value(found, "shareddata_a_x"), value(found, "shareddata_record_usable")) == (1.0, 1.0)
    assert value(found, "shareddata_record_age_seconds") == 0.5


def test_records_of_the_same_name_stay_apart() -> None:
    found = families(view("A-B", ["x", 0.0], values=(1.0,)), view("A.B", ["x", 0.0], values=(2.0,)))
    assert value(found, "shareddata_a_b_x", record="A-B") == 1
    assert value(found, "shareddata_a_b_x", record="A.B") == 2


def test_integers_beyond_all_floats() -> None:
    assert value(families(view("A", ["x", 0], values=(-(10**400),))), "shareddata_a_x") == -math.inf


def test_logs() -> None:
    state = State("tank/fast", (), 16, 64, True, 5, 20, 16, {"reader:0": 2, "reader:1": 20}, 4096, {}, "memory")
    found = families(logs=[state])
    assert value(found, "shareddata_log_records", log="tank/fast") == 16
    assert value(found, "shareddata_log_reader_lag_records", reader="reader:0") == 18
    assert value(found, "shareddata_log_reader_missed_records", reader="reader:0") == 2
    assert value(found, "shareddata_log_size_bytes") == 4096
    damaged = State("bad", (), 0, 0, False, 1, 0, 0, {}, None, {}, "", damage="it is broken")
    assert not families(logs=[damaged])
    hostile = replace(state, cursors={'a\r"\\\x00': 2})
    assert value(families(logs=[hostile]), "shareddata_log_reader_lag_records", reader='a\\r"\\\\x00') == 18


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("m/s", "meters_per_second"),
        ("W/K", "watts_per_kelvin"),
        ("V/h", "volts_per_hour"),
        ("%", "percent"),
        ("degC/min", "celsius_per_minute"),
        ("l/min", "liters_per_minute"),
        ("1/s", "ratio_per_second"),
        ("µm", "micrometers"),
        ("mW", "milliwatts"),
        ("MW", "megawatts"),
        ("nm", "nanometers"),
        ("Nm", "newton_meters"),
        ("kΩ", "kiloohms"),
        ("°C", "celsius"),
        ("°/s", "degrees_per_second"),
        ("m²", "meters_squared"),
        ("m3/h", "meters_cubed_per_hour"),
        ("m/s^2", "meters_per_second_squared"),
        ("kWh", "kilowatt_hours"),
        ("count", "counts"),
        ("grand total", ""),
        ("pH", "ph"),
        ("Å", ""),
        ("%RH", "percentrh"),
    ],
)
def test_units(unit: str, name: str) -> None:
    record = parse_record("A", [*HEAD, ["x", 0.0, {"unit": unit}]])
    assert metrics.unit_of(record.field("x")) == name


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: apt install prometheus)")
def test_promtool_has_nothing_to_say() -> None:
    text = metrics.text([BATTERY], [], NOW)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
