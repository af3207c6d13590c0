"""What the recordings say, block by block and position by position, against an independent reading of the files."""

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pynmea2
import pytest
from shareddata.apps import hdl_battery, hdl_gps

from shareddata import descfile
from shareddata.serialline import NMEA, VEDirect

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
TEXT_LOGS = sorted([*(DATA / "gpsd").glob("*.log"), *(DATA / "pynmeagps").glob("*.log")])
DESCRIBED = descfile.load(*(ROOT / "datadesc").glob("*.json"))


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-9, nan_ok=True)


def check_fields(records):
    """Each record has exactly its described fields, of the described types."""
    types = {"float": (float, int), "int": int, "bool": bool, "str": str, "list": list, "object": dict}
    for name, values in records.items():
        fields = {field.name: field.type for field in DESCRIBED[name].fields[2:]}
        assert set(values) <= set(fields)
        for field, value in values.items():
            assert isinstance(value, types[fields[field]]), (name, field, value)
            assert isinstance(value, bool) == (fields[field] == "bool")


# -- VE.Direct ---------------------------------------------------------------------------------------------------------


def blocks_in(path):
    """Read a recording as a whole, with a pattern instead of a framer, numbers as decimals."""
    text = re.sub(rb"(?<!\r\nChecksum\t):[0-9A-F]+\n", b"", path.read_bytes())
    for block in re.findall(rb"\r\n(?:PID|H1)\t.*?\r\nChecksum\t.", text, re.DOTALL):
        assert sum(block) % 256 == 0
        yield dict(re.findall(r"\r\n([^\t]+)\t([^\r]*)(?=\r)", block[:-1].decode("ascii")))


def test_each_block_of_the_battery_monitor_gives_its_values():
    path = DATA / "victron-vedirect" / "bvm702.dump"
    battery, blocks = hdl_battery.Battery(), VEDirect().feed(path.read_bytes())
    expected = list(blocks_in(path))
    assert len(blocks) == len(expected) == 906
    for block, fields in zip(blocks, expected):
        records = battery.decode(block)
        check_fields(records)
        value = {label: Decimal(text) for label, text in fields.items() if re.fullmatch(r"-?\d+", text)}
        if "V" in fields:
            assert set(records) == {"BATTERY__measures", "BATTERY__alarms"}
            assert records["BATTERY__measures"] == {
                "voltage": float(value["V"] / 1000), "current": float(value["I"] / 1000), "power": float(value["P"]),
                "charge": close(float(value["CE"] * Decimal("3.6"))), "state_of_charge": float(value["SOC"] / 1000),
                "time_to_go": float(value["TTG"] * 60), "temperature": close(math.nan),
                "starter_voltage": close(math.nan), "midpoint_voltage": close(math.nan), "relay": False,
            }
            assert records["BATTERY__alarms"] == {"alarm": False, "reasons": [], "acknowledged": False}
        else:
            assert set(records) == {"BATTERY__totals"}
            assert records["BATTERY__totals"] == {
                "deepest_discharge": close(float(value["H1"] * Decimal("3.6"))),
                "last_discharge": close(float(value["H2"] * Decimal("3.6"))),
                "average_discharge": close(float(value["H3"] * Decimal("3.6"))),
                "charge_cycles": int(value["H4"]), "full_discharges": int(value["H5"]),
                "charge_drawn": close(float(value["H6"] * Decimal("3.6"))), "lowest_voltage": float(value["H7"] / 1000),
                "highest_voltage": float(value["H8"] / 1000), "since_full": float(value["H9"]),
                "synchronisations": int(value["H10"]), "low_voltage_alarms": int(value["H11"]),
                "high_voltage_alarms": int(value["H12"]), "energy_discharged": float(value["H17"] * 36000),
                "energy_charged": float(value["H18"] * 36000),
            }


def test_each_block_of_the_solar_charger_gives_its_values():
    path = DATA / "victron-vedirect" / "bluesolar_1.23.dump"
    charger, blocks = hdl_battery.Battery(), VEDirect().feed(path.read_bytes())
    expected = list(blocks_in(path))
    assert len(blocks) == len(expected) == 248
    for block, fields in zip(blocks, expected):
        records = charger.decode(block)
        check_fields(records)
        value = {label: Decimal(text) for label, text in fields.items() if re.fullmatch(r"-?\d+", text)}
        assert records["SOLAR__measures"] == {
            "voltage": float(value["V"] / 1000), "current": float(value["I"] / 1000),
            "panel_voltage": float(value["VPV"] / 1000), "panel_power": float(value["PPV"]),
            "load_current": float(value["IL"] / 1000), "load": fields["LOAD"] == "ON", "state": int(value["CS"]),
            "error": int(value["ERR"]),
        }
        assert records["SOLAR__totals"] == {
            "energy": float(value["H19"] * 36000), "energy_today": float(value["H20"] * 36000),
            "highest_power_today": float(value["H21"]), "energy_yesterday": float(value["H22"] * 36000),
            "highest_power_yesterday": float(value["H23"]), "day": int(value["HSDS"]),
        }
    assert charger.system == "SOLAR"


def alarming(bits, alarm="ON"):
    return {"PID": "0x203", "V": "12000", "Alarm": alarm, "AR": str(bits), "Relay": "OFF"}


def test_an_alarm_is_acknowledged_until_it_ends_or_another_one_comes():
    battery = hdl_battery.Battery()
    alarms = battery.decode(alarming(1 | 4))["BATTERY__alarms"]
    assert alarms == {"alarm": True, "reasons": ["low voltage", "low state of charge"], "acknowledged": False}
    assert battery.obey("acknowledge") == {"BATTERY__alarms": {"reasons": alarms["reasons"], "acknowledged": True}}
    assert battery.decode(alarming(1 | 4))["BATTERY__alarms"]["acknowledged"]
    assert battery.decode(alarming(1))["BATTERY__alarms"]["acknowledged"]
    assert not battery.decode(alarming(1 | 4))["BATTERY__alarms"]["acknowledged"], "it had ended, and came again"
    assert not battery.decode(alarming(0, "OFF"))["BATTERY__alarms"]["acknowledged"], "there is nothing to know"


def test_what_the_battery_does_not_know_is_said(caplog):
    assert hdl_battery.Battery().obey("self-destruct") == {}
    assert "'self-destruct' is no order" in caplog.text


def test_what_a_monitor_does_not_tell_is_nan_and_charging_lasts_for_ever():
    measures = hdl_battery.Battery().decode({**alarming(0, "OFF"), "SOC": "---", "TTG": "-1"})["BATTERY__measures"]
    assert math.isnan(measures["state_of_charge"])
    assert measures["time_to_go"] == math.inf


@pytest.mark.parametrize("damage", [{"V": "12o65"}, {"Relay": "PERHAPS"}, {"V": ""}])
def test_a_block_of_which_one_value_makes_no_sense_is_not_taken_at_all(damage):
    with pytest.raises(ValueError, match="invalid literal|neither ON nor OFF"):
        hdl_battery.Battery().decode(alarming(0, "OFF") | damage)


# -- NMEA 0183 ---------------------------------------------------------------------------------------------------------


def messages_in(path):
    """Read a log with pynmea2: what it can read, line by line, with its checksum."""
    for line in path.read_bytes().decode("latin-1").split("\n"):
        start = line.rfind("$")
        if start >= 0 and "*" in line:
            try:
                yield pynmea2.parse(line[start:].strip("\r"), check=True)
            except (pynmea2.ChecksumError, pynmea2.ParseError):
                continue


def is_number(text):
    try:
        return text is None or math.isfinite(float(text or 0))
    except ValueError:
        return False


def readable(message):
    """Leave out the sentence that was damaged on purpose before its checksum was made (a speed of XXXXX)."""
    return not isinstance(message, pynmea2.RMC) or is_number(message.spd_over_grnd)


def records_of(path, name):
    found = []
    for sentence in NMEA().feed(path.read_bytes()):
        try:
            records = hdl_gps.decode(sentence)
        except ValueError:
            assert "XXXXX" in sentence
            continue
        check_fields(records)
        found += [records[name]] if name in records else []
    return found


def expected_position(message):
    valid = {
        "GGA": lambda: message.gps_qual and message.gps_qual > 0,
        "GNS": lambda: set(message.mode_indicator) > {"N"} or "N" not in message.mode_indicator,
        "RMC": lambda: message.status == "A",
        "GLL": lambda: message.status == "A",
    }[message.sentence_type]()
    valid = bool(valid and message.lat and message.lon)
    time = message.timestamp
    seconds = math.nan if not time else time.hour * 3600 + time.minute * 60 + time.second + time.microsecond / 1e6
    return {
        "valid": valid, "latitude": close(message.latitude if valid else math.nan),
        "longitude": close(message.longitude if valid else math.nan), "utc": close(seconds),
        "sentence": message.talker + message.sentence_type,
    }


@pytest.mark.parametrize("path", TEXT_LOGS, ids=lambda path: path.name)
def test_each_position_is_the_one_that_pynmea2_reads(path):
    told = [each for each in messages_in(path) if isinstance(each, pynmea2.TalkerSentence) and readable(each)]
    expected = [expected_position(each) for each in told if each.sentence_type in ("GGA", "GNS", "RMC", "GLL")]
    assert records_of(path, "GPS__position") == expected


def test_there_are_thousands_of_positions_in_the_logs():
    positions = [each for path in TEXT_LOGS for each in records_of(path, "GPS__position")]
    assert len(positions) > 1500
    assert sum(each["valid"] for each in positions) > 1000
    assert {each["sentence"][2:] for each in positions} == {"GGA", "GNS", "RMC", "GLL"}


@pytest.mark.parametrize("path", TEXT_LOGS, ids=lambda path: path.name)
def test_each_fix_motion_depth_and_heading_is_the_one_that_pynmea2_reads(path):
    told = [each for each in messages_in(path) if isinstance(each, pynmea2.TalkerSentence) and readable(each)]

    def expect(name, kinds, fields):
        assert records_of(path, name) == [fields(each) for each in told if each.sentence_type in kinds]

    def number(text, unit=1.0):
        return close(math.nan if text in (None, "") else float(text) * unit)

    def motion(message):
        if message.sentence_type == "RMC":
            speed, course, valid = message.spd_over_grnd, message.true_course, message.status == "A"
        else:
            speed, course = message.spd_over_grnd_kts, message.true_track
            valid = message.data[8:9] != ["N"]
        knots, course = (speed, course) if valid else (None, None)
        return {"speed": number(knots, 0.5144444444444444), "course": number(course)}

    expect("GPS__motion", ("RMC", "VTG"), motion)
    expect("GPS__depth", ("DBT", "DPT"), lambda each: {
        "depth": number(each.depth_meters if each.sentence_type == "DBT" else each.depth),
        "offset": number(None if each.sentence_type == "DBT" else each.offset),
    })
    expect("GPS__water", ("MTW",), lambda each: {"temperature": number(each.temperature)})
    expect("GPS__heading", ("HDT",), lambda each: {"heading": number(each.heading)})
    expect("GPS__compass", ("HDM", "HDG"), lambda each: {
        "heading": number(each.heading),
        "deviation": number(each.deviation if each.sentence_type == "HDG" else None),
        "variation": number(each.variation if each.sentence_type == "HDG" else None),
    })
    fixes = records_of(path, "GPS__fix")
    gga = [each for each in told if each.sentence_type in ("GGA", "GNS")]
    assert len(fixes) == len(gga)
    for fix, each in zip(fixes, gga):
        if each.sentence_type == "GGA":
            assert fix["quality"] == (each.gps_qual or 0)
        assert fix["satellites"] == int(each.num_sats or 0)
        assert fix["hdop"] == number(each.horizontal_dil if each.sentence_type == "GGA" else each.hdop)
        assert fix["altitude"] == number(each.altitude)
        assert fix["geoid_separation"] == number(each.geo_sep)


@pytest.mark.parametrize("path", TEXT_LOGS, ids=lambda path: path.name)
def test_each_time_is_the_one_that_pynmea2_reads(path):
    told = [each for each in messages_in(path) if isinstance(each, (pynmea2.RMC, pynmea2.ZDA)) and readable(each)]
    expected = []
    for message in told:
        if message.sentence_type == "RMC" and message.status == "A":
            date = datetime.combine(message.datestamp, message.timestamp, tzinfo=UTC)
        elif message.sentence_type == "ZDA" and message.day and message.timestamp:
            day = datetime(message.year, message.month, message.day, tzinfo=UTC)
            date = datetime.combine(day, message.timestamp, tzinfo=UTC)
        else:
            continue
        expected.append({"time": close(date.timestamp())})
    assert records_of(path, "GPS__time") == expected


@pytest.mark.parametrize(
    ("sentence", "records"),
    [
        ("$GPHDT,274.07,T", {"GPS__heading": {"heading": 274.07}}),
        ("$GPTHS,12.5,A", {"GPS__heading": {"heading": 12.5}}),
        ("$GPTHS,12.5,V", {"GPS__heading": {"heading": close(math.nan)}}),
        ("$IIHDG,70.6,2.0,W,3.5,E", {"GPS__compass": {"heading": 70.6, "deviation": -2.0, "variation": 3.5}}),
        ("$SDDBT,10.0,f,,M,,F", {"GPS__depth": {"depth": close(3.048), "offset": close(math.nan)}}),
        ("$SDDBT,,f,,M,1.0,F", {"GPS__depth": {"depth": close(1.8288), "offset": close(math.nan)}}),
        ("$SDDPT,4.1", {"GPS__depth": {"depth": 4.1, "offset": close(math.nan)}}),
        ("$GPVTG,,T,,M,,N,36.0,K,A", {"GPS__motion": {"speed": close(10.0), "course": close(math.nan)}}),
        ("$GPZDA,,,,,,", {}),
        ("$PUBX,00,1,2", {}),
        ("!AIVDM,1,1,,B,13nUgBWP01PkHvDU7<kC4wvJ2>`<,0", {}),
        ("$GPGSV,3,1,11", {}),
    ],
)
def test_a_sentence_gives(sentence, records):
    assert hdl_gps.decode(sentence.split(",")) == records


@pytest.mark.parametrize(
    ("sentence", "why"),
    [
        ("$GPGGA,120000,9100.0,N,00000.0,E,1,04,1.0,5.0,M,0.0,M,,", "more than 90 degrees"),
        ("$GPGGA,120000,4500.0,X,00000.0,E,1,04,1.0,5.0,M,0.0,M,,", "neither N nor S"),
        ("$GPGGA,120000,4500.0,N,00000.0,E,1,04,1.0,5.x,M,0.0,M,,", "could not convert"),
        ("$GPGGA,120000,4500.0,N,00000.0,E,1", "index out of range"),
        ("$GPGLL,4500.0,N,18100.0,E,120000,A", "more than 180 degrees"),
        ("$IIMTW,60.1,F", "a temperature in 'F'"),
    ],
)
def test_a_sentence_whose_fields_make_no_sense_is_not_taken_at_all(sentence, why):
    with pytest.raises((ValueError, LookupError), match=why):
        hdl_gps.decode(sentence.split(","))
