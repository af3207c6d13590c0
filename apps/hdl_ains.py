#!/usr/bin/env python3
"""Analogue inputs through Linux IIO in sysfs: hdl_ains.py -f 10 'PROP__readings' 0 1 2 3.

Source: the Linux kernel's Documentation/ABI/testing/sysfs-bus-iio: millivolts are (in_voltageY_raw +
in_voltageY_offset) * in_voltageY_scale, where offset and scale may be the channel's own or one for all
(in_voltage_scale), and the offset may be missing.

The channels fill the record's fields in order, in volts, at the rate of -f. They are taken from the first IIO device
that has them all; --root names another tree, or a device's own folder.
"""
from pathlib import Path

from shareddata.handler import Handler, program


def device(root: Path, files: list[str]) -> Path:
    """Return the first IIO device in a tree that has all these files, or the folder itself if it has them.

    Raises:
        FileNotFoundError: there is none.
    """
    for folder in [root, *sorted(root.glob("iio:device*"), key=lambda path: (len(path.name), path.name))]:
        if all((folder / name).exists() for name in files):
            return folder
    raise FileNotFoundError(f"no IIO device in {root} has {', '.join(files)}: see what is in its iio:device*")


def setting(folder: Path, channel: int, name: str, default: float, direction: str = "in") -> float:
    """Return a channel's own scale or offset, else the one for all, else the default."""
    for file in (folder / f"{direction}_voltage{channel}_{name}", folder / f"{direction}_voltage_{name}"):
        if file.exists():
            return float(file.read_text())
    return default


def volts(folder: Path, channel: int) -> float:
    """Return the voltage of a channel in volts."""
    raw = float((folder / f"in_voltage{channel}_raw").read_text())
    return (raw + setting(folder, channel, "offset", 0.0)) * setting(folder, channel, "scale", 1.0) / 1000


@program(
    do_debug="Show debugging information for the inputs",
    record="The record that is written",
    frequency="How often the inputs are read, in Hz",
    root="Where the IIO devices are",
    channels="Numbers of the channels, one for each field of the record",
)
def main(
    handler: Handler, record: str, frequency: float = 10.0, root: str = "/sys/bus/iio/devices", *channels: str
) -> None:
    """Read analogue inputs."""
    fields, numbers = handler.fields_for(record, channels)
    folder = device(Path(root), [f"in_voltage{number}_raw" for number in numbers])
    handler.writes([record])
    for _ in handler.ticks(frequency):
        handler.publish({record: dict(zip(fields, [volts(folder, number) for number in numbers]))})


if __name__ == "__main__":
    main()
