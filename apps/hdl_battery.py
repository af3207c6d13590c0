#!/usr/bin/env python3
"""Victron battery monitors (BMV, SmartShunt) and solar chargers (MPPT) on a VE.Direct line.

Source: Victron Energy, "VE.Direct Protocol", version 3.x, the text protocol: 19200 bits/s, 8N1, a block of labelled
values each second, with a checksum (`shareddata.serialline.VEDirect`).

A monitor writes BATTERY__measures and BATTERY__alarms, and with its second block BATTERY__totals; a charger
SOLAR__measures and SOLAR__totals. Each block is written as it arrives. At the rate of -f the line's state is written
(BATTERY__status or SOLAR__status, from the first block on) and BATTERY__command is obeyed: 'acknowledge' makes the
alarms that are on acknowledged, until they end or another one comes.
"""
import logging
import math
from typing import Any

from shareddata.handler import Handler, Records, program
from shareddata.serialline import SerialLine, VEDirect

log = logging.getLogger("shareddata")

Block = dict[str, str]

# Field: (label, numerator and denominator to the SI unit). One division of integers, so that 12065 mV are 12.065 V.
MEASURES = {
    "voltage": ("V", 1, 1000), "current": ("I", 1, 1000), "power": ("P", 1, 1), "charge": ("CE", 3600, 1000),
    "state_of_charge": ("SOC", 1, 1000), "time_to_go": ("TTG", 60, 1), "temperature": ("T", 1, 1),
    "starter_voltage": ("VS", 1, 1000), "midpoint_voltage": ("VM", 1, 1000),
}
TOTALS = {
    "deepest_discharge": ("H1", 3600, 1000), "last_discharge": ("H2", 3600, 1000),
    "average_discharge": ("H3", 3600, 1000), "charge_drawn": ("H6", 3600, 1000), "lowest_voltage": ("H7", 1, 1000),
    "highest_voltage": ("H8", 1, 1000), "since_full": ("H9", 1, 1), "energy_discharged": ("H17", 36000, 1),
    "energy_charged": ("H18", 36000, 1),
}
COUNTS = {
    "charge_cycles": "H4", "full_discharges": "H5", "synchronisations": "H10", "low_voltage_alarms": "H11",
    "high_voltage_alarms": "H12",
}
SOLAR_MEASURES = {
    "voltage": ("V", 1, 1000), "current": ("I", 1, 1000), "panel_voltage": ("VPV", 1, 1000),
    "panel_power": ("PPV", 1, 1), "load_current": ("IL", 1, 1000),
}
SOLAR_TOTALS = {
    "energy": ("H19", 36000, 1), "energy_today": ("H20", 36000, 1), "highest_power_today": ("H21", 1, 1),
    "energy_yesterday": ("H22", 36000, 1), "highest_power_yesterday": ("H23", 1, 1),
}
RECORDS = [
    "BATTERY__status", "BATTERY__measures", "BATTERY__alarms", "BATTERY__totals", "SOLAR__status", "SOLAR__measures",
    "SOLAR__totals",
]
REASONS = (
    "low voltage", "high voltage", "low state of charge", "low starter voltage", "high starter voltage",
    "low temperature", "high temperature", "mid-point voltage", "overload", "DC ripple", "low AC output voltage",
    "high AC output voltage", "short circuit", "BMS lockout",
)


def numbers(block: Block, table: dict[str, tuple[str, int, int]]) -> dict[str, Any]:
    """Return a table's fields in SI units; NaN for what the device does not tell (`---`, or no such label)."""
    texts = {field: block.get(label, "---") for field, (label, _, _) in table.items()}
    return {
        field: math.nan if text == "---" else int(text) * table[field][1] / table[field][2]
        for field, text in texts.items()
    }


def switched_on(block: Block, label: str) -> bool:
    """Return whether something is ON; no such label, or `---`, counts as off."""
    if block.get(label, "---") not in ("ON", "OFF", "---"):
        raise ValueError(f"{label} is {block[label]!r}, neither ON nor OFF")
    return block.get(label) == "ON"


class Battery:
    """What the blocks say, and which alarms are known already."""

    def __init__(self) -> None:
        self.system = ""
        self.reasons: list[str] = []
        self.known: set[str] = set()

    def decode(self, block: Block) -> Records:
        """Return the records that a block fills; a monitor's two blocks fill different ones."""
        charger = "PPV" in block or "VPV" in block or "H19" in block
        records = self.solar(block) if charger else self.battery(block)
        self.system = "SOLAR" if charger else "BATTERY"
        return records

    def battery(self, block: Block) -> Records:
        """Return the records of a battery monitor's block."""
        records: dict[str, dict[str, Any]] = {}
        if "V" in block:
            time_to_go = math.inf if block.get("TTG") == "-1" else numbers(block, MEASURES)["time_to_go"]
            measures = numbers(block, MEASURES) | {"time_to_go": time_to_go}
            records["BATTERY__measures"] = measures | {"relay": switched_on(block, "Relay")}
        if "Alarm" in block:
            bits, alarm = int(block.get("AR", "0")), switched_on(block, "Alarm")
            self.reasons = [text for bit, text in enumerate(REASONS) if bits >> bit & 1] or ["not told"] * alarm
            self.known &= set(self.reasons)
            records["BATTERY__alarms"] = {"alarm": alarm} | self.state()
        if "H1" in block:
            counts = {field: int(block.get(label, "0")) for field, label in COUNTS.items()}
            records["BATTERY__totals"] = numbers(block, TOTALS) | counts
        return records

    def state(self) -> dict[str, Any]:
        """Return the fields of BATTERY__alarms that an order may change."""
        return {"reasons": self.reasons, "acknowledged": bool(self.reasons) and set(self.reasons) <= self.known}

    def solar(self, block: Block) -> Records:
        """Return the records of a solar charger's block."""
        words = {"load": switched_on(block, "LOAD"), "state": int(block["CS"]), "error": int(block.get("ERR", "0"))}
        return {
            "SOLAR__measures": numbers(block, SOLAR_MEASURES) | words,
            "SOLAR__totals": numbers(block, SOLAR_TOTALS) | {"day": int(block.get("HSDS", "0"))},
        }

    def obey(self, command: str) -> Records:
        """Carry out an order; return what it changes."""
        if command != "acknowledge":
            log.warning("BATTERY__command: %r is no order that the battery knows; there is 'acknowledge'", command)
            return {}
        self.known = set(self.reasons)
        return {"BATTERY__alarms": self.state()}


@program(
    do_debug="Show debugging information for the battery",
    serialport="Serial line that the battery is connected to",
    frequency="How often the battery is asked (and answered), in Hz; its blocks are all taken as they come",
)
def main(handler: Handler, serialport: str = "/dev/ttyO1", frequency: float = 2.0) -> None:
    """Drive a battery monitor or solar charger."""
    battery = Battery()
    handler.dd.set_datas_to_read(["BATTERY__command"])
    handler.writes(RECORDS)
    handler.orders()  # what was ordered before the start is not obeyed
    with SerialLine(serialport, VEDirect(), 19200) as line:
        for block in handler.frames(line, frequency):
            if block is not None:
                handler.take(battery.decode, block)
                continue
            for order in handler.orders():
                handler.publish(battery.obey(order.command))
            if battery.system:
                handler.publish({f"{battery.system}__status": handler.status(line)})


if __name__ == "__main__":
    main()
