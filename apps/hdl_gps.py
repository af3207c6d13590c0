#!/usr/bin/env python3
"""GNSS receivers, compasses and echo sounders on an NMEA 0183 line.

Source: the sentences of NMEA 0183 (IEC 61162-1) as published in "NMEA Revealed" by E. S. Raymond and in the receivers'
manuals: 4800 bits/s, 8N1, or faster (-b); a checksum for each sentence (`shareddata.serialline.NMEA`). Understood are
GGA GNS RMC GLL VTG ZDA HDT THS HDM HDG DBT DPT MTW, of any talker; others are taken and left.

Each sentence is written as it arrives, a record being wholly of one sentence. What a sentence leaves empty is NaN. A
sentence with a right checksum whose fields make no sense is dropped whole. At the rate of -f GPS__status is written.
"""
import calendar
import math
from collections.abc import Callable, Sequence
from typing import Any

from shareddata.handler import Handler, Records, program
from shareddata.serialline import NMEA, SerialLine

KNOT = 1852 / 3600
FOOT = 0.3048
FATHOM = 6 * FOOT

Fields = Sequence[str]
NO_MOTION = {"speed": math.nan, "course": math.nan}

QUALITY_OF_MODE = {"N": 0, "A": 1, "S": 1, "D": 2, "P": 3, "R": 4, "F": 5, "E": 6, "M": 7}


def number(text: str, unit: float = 1.0) -> float:
    """Return a number in SI units, NaN for an empty field."""
    return float(text) * unit if text else math.nan


def signed(value: float, side: str, sides: str) -> float:
    """Return a value that is negative on the second of two sides; only NaN may have none."""
    if not math.isnan(value) and side not in tuple(sides):
        raise ValueError(f"{side!r} is neither {sides[0]} nor {sides[1]}")
    return -value if side == sides[1] else value


def degrees(text: str, side: str, sides: str, most: int) -> float:
    """Return degrees of `ddmm.mmm` or `dddmm.mmm`, NaN for an empty field."""
    whole, point, fraction = text.partition(".")
    value = int(whole[:-2]) + float(whole[-2:] + point + fraction) / 60 if text else math.nan
    if value > most:
        raise ValueError(f"{text} is more than {most} degrees")
    return signed(value, side, sides)


def seconds(text: str) -> float:
    """Return the seconds since midnight of `hhmmss.sss`, NaN for an empty field."""
    return int(text[0:2]) * 3600 + int(text[2:4]) * 60 + float(text[4:]) if text else math.nan


def position(name: str, valid: bool, place: Fields, time: str) -> dict[str, Any]:
    """Return GPS__position of latitude, N or S, longitude, E or W."""
    latitude, longitude = degrees(place[0], place[1], "NS", 90), degrees(place[2], place[3], "EW", 180)
    valid = valid and not math.isnan(latitude + longitude)
    return {
        "valid": valid, "latitude": latitude if valid else math.nan, "longitude": longitude if valid else math.nan,
        "utc": seconds(time), "sentence": name[1:],
    }


def epoch(day: str, month: str, year: int, time: str) -> Records:
    """Return GPS__time, nothing when the receiver does not know the time yet."""
    if not (day and month and time):
        return {}
    return {"GPS__time": {"time": calendar.timegm((year, int(month), int(day), 0, 0, 0)) + seconds(time)}}


def gga(f: Fields) -> Records:
    """Fix: time, place, quality, satellites, HDOP, altitude, geoid."""
    quality = int(f[6] or "0")
    return {
        "GPS__position": position(f[0], quality > 0, f[2:6], f[1]),
        "GPS__fix": {
            "quality": quality, "satellites": int(f[7] or "0"), "hdop": number(f[8]), "altitude": number(f[9]),
            "geoid_separation": number(f[11]), "utc": seconds(f[1]),
        },
    }


def gns(f: Fields) -> Records:
    """Fix of several systems: a letter of mode for each; the best one is told in GGA's numbers."""
    quality = max((QUALITY_OF_MODE.get(mode, 0) for mode in f[6]), default=0)
    return {
        "GPS__position": position(f[0], quality > 0, f[2:6], f[1]),
        "GPS__fix": {
            "quality": quality, "satellites": int(f[7] or "0"), "hdop": number(f[8]), "altitude": number(f[9]),
            "geoid_separation": number(f[10]), "utc": seconds(f[1]),
        },
    }


def rmc(f: Fields) -> Records:
    """Recommended minimum: time, status, place, speed, course, date; of an invalid one (no fix) only that."""
    records = {"GPS__position": position(f[0], f[2] == "A", f[3:7], f[1])}
    if f[2] != "A":
        return records | {"GPS__motion": NO_MOTION}
    year = int(f[9][4:6] or "0")
    date = epoch(f[9][0:2], f[9][2:4], year + (1900 if year >= 80 else 2000), f[1])
    return {**records, "GPS__motion": {"speed": number(f[7], KNOT), "course": number(f[8])}, **date}


def gll(f: Fields) -> Records:
    """Place, time, status; old receivers leave the status out."""
    return {"GPS__position": position(f[0], "".join(f[6:7]) in ("A", ""), f[1:5], "".join(f[5:6]))}


def vtg(f: Fields) -> Records:
    """Course and speed; the speed in knots, else in km/h. Mode N: not valid."""
    if "".join(f[9:10]) == "N":
        return {"GPS__motion": NO_MOTION}
    speed = number(f[5], KNOT) if f[5] else number(f[7], 1 / 3.6)
    return {"GPS__motion": {"speed": speed, "course": number(f[1])}}


def zda(f: Fields) -> Records:
    """Time and date."""
    return epoch(f[2], f[3], int(f[4] or "0"), f[1])


def heading(f: Fields) -> Records:
    """HDT, and THS, whose mode V means not valid."""
    return {"GPS__heading": {"heading": math.nan if f[2] == "V" else number(f[1])}}


def hdm(f: Fields) -> Records:
    """Magnetic heading."""
    return {"GPS__compass": {"heading": number(f[1]), "deviation": math.nan, "variation": math.nan}}


def hdg(f: Fields) -> Records:
    """Magnetic heading, deviation, variation."""
    deviation, variation = signed(number(f[2]), f[3], "EW"), signed(number(f[4]), f[5], "EW")
    return {"GPS__compass": {"heading": number(f[1]), "deviation": deviation, "variation": variation}}


def dbt(f: Fields) -> Records:
    """Depth below the transducer in metres, else feet, else fathoms."""
    depth = number(f[3]) if f[3] else number(f[1], FOOT) if f[1] else number(f[5], FATHOM)
    return {"GPS__depth": {"depth": depth, "offset": math.nan}}


def dpt(f: Fields) -> Records:
    """Depth below the transducer and its offset, in metres."""
    return {"GPS__depth": {"depth": number(f[1]), "offset": number("".join(f[2:3]))}}


def mtw(f: Fields) -> Records:
    """Water temperature in degrees Celsius, the only unit that there is."""
    if f[2] != "C":
        raise ValueError(f"a temperature in {f[2]!r}")
    return {"GPS__water": {"temperature": number(f[1])}}


SENTENCES: dict[str, Callable[[Fields], Records]] = {
    "GGA": gga, "GNS": gns, "RMC": rmc, "GLL": gll, "VTG": vtg, "ZDA": zda, "HDT": heading, "THS": heading, "HDM": hdm,
    "HDG": hdg, "DBT": dbt, "DPT": dpt, "MTW": mtw,
}
RECORDS = [
    "GPS__status", "GPS__position", "GPS__fix", "GPS__motion", "GPS__time", "GPS__heading", "GPS__compass",
    "GPS__depth", "GPS__water",
]


def decode(sentence: Fields) -> Records:
    """Return the records that a sentence fills, none for a sentence that is not understood."""
    name = sentence[0]
    standard = len(name) == 6 and name[0] == "$" and name[1] != "P"  # P: a manufacturer's own
    return SENTENCES[name[3:]](sentence) if standard and name[3:] in SENTENCES else {}


@program(
    do_debug="Show debugging information for the GPS",
    serialport="Serial line that the GPS is connected to",
    frequency="How often the state of the line is written, in Hz; its sentences are all taken as they come",
    baudrate="Speed of the line in bits per second",
)
def main(handler: Handler, serialport: str = "/dev/ttyO2", frequency: float = 2.0, baudrate: int = 4800) -> None:
    """Drive a GNSS receiver, compass or echo sounder."""
    handler.writes(RECORDS)
    with SerialLine(serialport, NMEA(), baudrate) as line:
        for sentence in handler.frames(line, frequency):
            if sentence is not None:
                handler.take(decode, sentence)
            else:
                handler.publish({"GPS__status": handler.status(line)})


if __name__ == "__main__":
    main()
