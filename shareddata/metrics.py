"""Records and logs as metrics, in the text form of OpenMetrics 1.0, which Prometheus and others collect.

It knows views of records, states of logs, and how metrics are named. It must not know HTTP, sockets or clocks.
Invariants:

1. What cannot be trusted is left out: values of records that are old, damaged or were never written.
2. A metric's name tells record, field and unit; where two records would get the same name, labels tell them apart.
3. A name never ends in a word that OpenMetrics keeps for other types.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shareddata import table
from shareddata.datadesc import Field
from shareddata.logs import State
from shareddata.table import View

MEDIA_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_BASES = {
    **{"V": "volts", "A": "amperes", "W": "watts", "C": "coulombs", "J": "joules", "K": "kelvin", "bar": "bar"},
    **{"s": "seconds", "Hz": "hertz", "B": "bytes", "m": "meters", "g": "grams", "N": "newtons", "Nm": "newton_meters"},
    **{"Pa": "pascals", "deg": "degrees", "rad": "radians", "lx": "lux", "T": "teslas", "Wh": "watt_hours"},
    **{"Ohm": "ohms", "F": "farads", "H": "henries", "l": "liters", "L": "liters", "Ah": "ampere_hours"},
}
_PREFIXES = {
    **{"p": "pico", "n": "nano", "u": "micro", "m": "milli", "c": "centi", "d": "deci"},
    **{"h": "hecto", "k": "kilo", "M": "mega", "G": "giga", "T": "tera"},
}
_UNITS = {
    **{prefix + base: word + _BASES[base] for prefix, word in _PREFIXES.items() for base in _BASES},
    **_BASES,
    **{"degC": "celsius", "1": "ratio", "%": "percent", "min": "minutes", "h": "hours", "rpm": "rpm"},
    **{"count": "counts", "pH": "ph", "dB": "decibels"},
}
_SIGNS = str.maketrans({
    **{"\N{MICRO SIGN}": "u", "\N{GREEK SMALL LETTER MU}": "u", "\N{DEGREE SIGN}": "deg", "\N{MIDDLE DOT}": "."},
    **{"\N{OHM SIGN}": "Ohm", "\N{GREEK CAPITAL LETTER OMEGA}": "Ohm"},
    **{"\N{SUPERSCRIPT TWO}": "2", "\N{SUPERSCRIPT THREE}": "3", "^": ""},
})  # fmt: skip
_POWERS = {"2": "_squared", "3": "_cubed"}
_KEPT = ("total", "count", "sum", "bucket", "created", "info", "gcount", "gsum")


@dataclass
class _Family:
    """A metric with its samples: labels and value of each."""

    help: str
    unit: str = ""
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)


def text(views: Sequence[View], logs: Iterable[State], now: float) -> str:
    """Return all metrics.

    Args:
        views: the records.
        logs: the logs.
        now: seconds since 1970.

    Redis: none.
    """
    families: dict[str, _Family] = {}
    for view in views:
        _add_record(families, view, now)
    for view in views:
        if _usable(view, now):
            _add_values(families, view)
    for log in logs:
        if not log.damage:
            _add_log(families, log)
    return "".join(_lines(name, family) for name, family in families.items()) + "# EOF\n"


def _usable(view: View, now: float) -> bool:
    return view.written and not view.damage and not view.stale(now)


def _add_record(families: dict[str, _Family], view: View, now: float) -> None:
    labels = {"record": view.record.name}
    age, usable = view.age(now), _usable(view, now)
    known: list[tuple[str, str, str, float | None]] = [
        ("shareddata_record_age_seconds", "seconds", "Time since the record's time stamp.", age),
        ("shareddata_record_rate_hertz", "hertz", "Writes of the record per second.", view.rate),
        ("shareddata_record_usable", "", "1 if the record has a value that is not old, else 0.", float(usable)),
    ]
    if usable:
        outside = float(len(view.record.out_of_limits(view.trame)))
        known.append(("shareddata_record_fields_out_of_limits", "", "Fields whose value is out of limits.", outside))
    for name, unit, what, value in known:
        if value is not None:
            families.setdefault(name, _Family(what, unit)).samples.append((labels, value))


def _add_values(families: dict[str, _Family], view: View) -> None:
    for each, value in list(zip(view.record.fields, view.trame))[2:]:
        if each.type in ("float", "int", "bool"):
            unit = unit_of(each)
            name = name_of(view.record.name, each.name, unit)
            what = f"{each.name} of {view.record.name}" + (f": {table.clean(each.doc)}" if each.doc else "")
            labels = {"record": view.record.name, "field": each.name}
            families.setdefault(name, _Family(what, unit)).samples.append((labels, _number(value)))


def _add_log(families: dict[str, _Family], log: State) -> None:
    labels = {"log": log.name}
    _sample(families, "shareddata_log_records", "", "Records that are kept.", labels, log.length)
    _sample(families, "shareddata_log_last_number", "", "Number of the last record.", labels, log.last)
    if log.size is not None:
        _sample(families, "shareddata_log_size_bytes", "bytes", "Memory that the log takes.", labels, log.size)
    for reader in log.cursors:
        own = labels | {"reader": table.clean(reader)}
        what = "Records that a reader has not committed yet."
        _sample(families, "shareddata_log_reader_lag_records", "records", what, own, log.lag(reader))
        what = "Records that were dropped before a reader had committed them."
        _sample(families, "shareddata_log_reader_missed_records", "records", what, own, log.missing(reader))


def _sample(
    families: dict[str, _Family], name: str, unit: str, what: str, labels: dict[str, str], value: float
) -> None:
    families.setdefault(name, _Family(what, unit)).samples.append((labels, value))


def unit_of(each: Field) -> str:
    """Return the unit as metrics are named by it: `volts` for V, `meters_per_second` for m/s, "" for none.

    >>> [unit_of(Field("x", "float", 0.0, unit=unit)) for unit in ("V", "m/s", "1", "")]
    ['volts', 'meters_per_second', 'ratio', '']
    """
    unit = each.unit.translate(_SIGNS)
    over, _, under = unit.partition("/")
    (what, power), (by, of) = _word(over), _word(under)
    if what and by:
        return f"{what}{power}_per_{re.sub('(?<!u)s$', '', by)}{of}"
    if what and not under:
        return what + power
    if not unit.isascii():  # without what cannot be in a name it would be another unit
        return ""
    plain = _plain(unit.replace("/", "_per_").replace("%", "percent"))
    return "" if plain.rpartition("_")[2] in _KEPT else plain


def _word(symbol: str) -> tuple[str, str]:
    """Return a unit's name and its power, "" for one that is not known: `m2` is `meters`, `_squared`."""
    power = _POWERS.get(symbol[-1:], "") if symbol not in _UNITS else ""
    return _UNITS.get(symbol[:-1] if power else symbol, ""), power


def name_of(record: str, name: str, unit: str) -> str:
    """Return a value's metric name.

    >>> name_of("BATTERY__measures", "voltage", "volts")
    'shareddata_battery_measures_voltage_volts'
    """
    plain = _plain(f"shareddata_{record}_{name}")
    if unit:
        return plain if plain.endswith(f"_{unit}") else f"{plain}_{unit}"
    return f"{plain}_value" if plain.rpartition("_")[2] in _KEPT else plain


def _plain(name: str) -> str:
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9]", "_", name.lower())).strip("_")


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return math.inf if value > 0 else -math.inf


def _lines(name: str, family: _Family) -> str:
    head = f"# TYPE {name} gauge\n"
    if family.unit:
        head += f"# UNIT {name} {family.unit}\n"
    what = family.help.replace('"', "'")  # which OpenMetrics escapes and its predecessor does not: both can be read
    head += f"# HELP {name} {_escaped(what)}\n"
    return head + "".join(f"{name}{_labelled(labels)} {_written(value)}\n" for labels, value in family.samples)


def _labelled(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items()) + "}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _written(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
