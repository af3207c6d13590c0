#!/usr/bin/env python3
"""Analogue outputs through Linux IIO in sysfs: hdl_dacs.py 'PROP__consignes' 2 3.

Source: the Linux kernel's Documentation/ABI/testing/sysfs-bus-iio: millivolts are (out_voltageY_raw +
out_voltageY_offset) * out_voltageY_scale, where offset and scale may be the channel's own or one for all
(out_voltage_scale), and the offset may be missing.

It writes nothing to the shared memory. The record's fields, in volts, go to the channels in order, looked at with the
rate of -f. The outputs go to the defaults of the description when the record is older than its max_age, expired, was
never written, or when this program is stopped: a sender that died does not leave an actuator running. The age is that
of the record's ts by the server's clock, so the sender's clock must agree with the server's: a ts that is more than
max_age ahead of it counts as too old. A server that falls silent delays this by the time-out (1 s), at most twice.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shareddata.apps.hdl_ains import device, setting  # type: ignore[import-not-found]  # mypy sees it as apps.hdl_ains

from shareddata.datadesc import Record
from shareddata.handler import Handler, program


class Outputs:
    """The channels, and what was written to them last."""

    def __init__(self, folder: Path, channels: Sequence[int]) -> None:
        self.written: dict[Path, int] = {}
        self.scaling = {
            folder / f"out_voltage{channel}_raw": [
                setting(folder, channel, name, default, "out") for name, default in (("scale", 1.0), ("offset", 0.0))
            ]
            for channel in channels
        }

    def write(self, volts: Sequence[float]) -> None:
        """Bring the outputs to these voltages; what has its value already is not written again."""
        for (path, (scale, offset)), value in zip(self.scaling.items(), volts):
            raw = round(value * 1000 / scale - offset)
            if self.written.get(path) != raw:
                path.write_text(f"{raw}\n")
                self.written[path] = raw


def wanted(record: Record, trame: Any, now: float) -> list[float]:
    """Return the set-points that count at this time: the trame's, or the defaults when it is missing or too old."""
    old = record.stale(trame, now)
    values: list[float] = [field.default for field in record.fields[2:]] if old else list(trame[2:])
    return values


@program(
    do_debug="Show debugging information for the outputs",
    record="The record that holds the set-points",
    frequency="How often the set-points are looked at, in Hz",
    root="Where the IIO devices are",
    channels="Numbers of the channels, one for each field of the record",
)
def main(
    handler: Handler, record: str, frequency: float = 10.0, root: str = "/sys/bus/iio/devices", *channels: str
) -> None:
    """Drive analogue outputs."""
    _, numbers = handler.fields_for(record, channels)
    folder = device(Path(root), [f"out_voltage{number}_raw" for number in numbers])
    outputs, description = Outputs(folder, numbers), handler.shm.describe(record)
    handler.dd.set_datas_to_read([record])
    trame = None
    try:
        for _ in handler.ticks(frequency):
            trames = handler.read()
            if trames is not None:  # while the server is away the last one counts, until it is too old
                trame = trames[0]
            outputs.write(wanted(description, trame, handler.shm.clock.now()))
    finally:
        outputs.write(wanted(description, None, 0.0))


if __name__ == "__main__":
    main()
