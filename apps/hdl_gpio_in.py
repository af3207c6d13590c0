#!/usr/bin/env python3
"""A digital input: hdl_gpio_in.py 'PHINS__Enclosure_water_detected' 48.

Source: the Linux GPIO character device through libgpiod, version 2 (extra `hardware`); for --root the kernel's
Documentation/admin-guide/gpio/sysfs.rst.

The line is a name (as gpioinfo shows it), a chip with the line's number on it (gpiochip1:16), or a number alone. A
number alone counts through the chips in order (48 is line 16 of gpiochip1 when gpiochip0 has 32 lines), which is what
the older sysfs interface means by it on machines with no other chips; where in doubt, give the chip.

The record's first field is the line's state. It is written at each edge, with the kernel's time of the edge, and at the
rate of -f even when nothing changes, so that readers see that somebody looks. With --root the state is read from a tree
as in /sys/class/gpio (gpio48/value) at the rate of -f, instead of by edge events: for machines without the character
device.
"""
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shareddata.handler import Handler, needs, program


def find(gpiod: Any, line: str, devices: Path = Path("/dev")) -> tuple[str, int]:
    """Return the chip's path and the line's number on it.

    Raises:
        FileNotFoundError: there is no such line.
    """
    chip_name, colon, offset = line.partition(":")
    first = 0
    for path in sorted(devices.glob("gpiochip*"), key=lambda each: (len(each.name), each.name)):
        with gpiod.Chip(str(path)) as chip:
            info = chip.get_info()
            if colon and chip_name in (info.name, info.label) and offset.isdigit() and int(offset) < info.num_lines:
                return str(path), int(offset)
            if line.isdigit() and int(line) - first < info.num_lines:
                return str(path), int(line) - first
            names = [chip.get_line_info(number).name for number in range(info.num_lines)]
            if not colon and line in names:
                return str(path), names.index(line)
            first += info.num_lines
    raise FileNotFoundError(f"no GPIO line {line!r}: give a number, chip:number or name as gpioinfo shows them")


def edges(handler: Handler, gpiod: Any, line: str, frequency: float) -> Iterator[tuple[bool, float | None]]:
    """Yield the line's state at each edge with its time, and at a steady rate with None."""
    chip, offset = find(gpiod, line)
    both = gpiod.LineSettings(
        direction=gpiod.line.Direction.INPUT, edge_detection=gpiod.line.Edge.BOTH, event_clock=gpiod.line.Clock.REALTIME
    )
    with gpiod.request_lines(chip, consumer="shareddata", config={offset: both}) as request:
        for due in handler.ticks(frequency, request.fd):
            while request.wait_edge_events(0):
                for event in request.read_edge_events():
                    yield event.event_type is event.Type.RISING_EDGE, event.timestamp_ns / 1e9
            if due:
                yield request.get_value(offset) is gpiod.line.Value.ACTIVE, None


def states(handler: Handler, root: Path, line: str, frequency: float) -> Iterator[tuple[bool, float | None]]:
    """Yield the line's state in a sysfs tree at a steady rate."""
    value = root / (f"gpio{line}" if line.isdigit() else line) / "value"
    for _ in handler.ticks(frequency):
        yield value.read_text().strip() == "1", None


@program(
    do_debug="Show debugging information for the input",
    record="The record that is written",
    line="The line: its name, gpiochip1:16, or a number",
    frequency="How often the state is written when nothing changes, in Hz",
    root="Read this tree instead of edge events: as /sys/class/gpio",
)
def main(handler: Handler, record: str, line: str, frequency: float = 2.0, root: str = "") -> None:
    """Watch a digital input."""
    handler.writes([record])
    field = handler.shm.describe(record).fields[2].name
    seen = states(handler, Path(root), line, frequency) if root else edges(handler, needs("gpiod"), line, frequency)
    for active, ts in seen:
        handler.publish({record: {field: active}}, ts)


if __name__ == "__main__":
    main()
