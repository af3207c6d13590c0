#!/usr/bin/env python3
"""This machine: load, memory, disks, network, temperatures.

Source: psutil (extra `hardware`), which reads /proc and /sys on Linux. All records are written together, at the rate
of -f.
"""
import logging
import math
import time
from typing import Any

from shareddata.handler import Handler, Records, needs, program

log = logging.getLogger("shareddata")

RECORDS = ["HOST__load", "HOST__memory", "HOST__disks", "HOST__network", "HOST__temperatures"]


def load(psutil: Any) -> dict[str, Any]:
    """Return the use of the processors since the last call."""
    one, five, fifteen = psutil.getloadavg()
    return {
        "cpu": psutil.cpu_percent() / 100, "cpus": psutil.cpu_count(), "load_1min": one, "load_5min": five,
        "load_15min": fifteen, "uptime": time.time() - psutil.boot_time(),
    }


def memory(psutil: Any) -> dict[str, Any]:
    """Return the use of memory, in bytes."""
    main, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "total": main.total, "available": main.available, "used": 1 - main.available / main.total,
        "swap_total": swap.total, "swap_used": swap.used,
    }


def disks(psutil: Any) -> dict[str, Any]:
    """Return the use of the file systems on disks, in bytes."""
    usage = {}
    for partition in psutil.disk_partitions():
        try:
            usage[partition.mountpoint] = psutil.disk_usage(partition.mountpoint)
        except OSError as error:  # unmounted in this moment, or of another user
            log.debug("%s is left out: %s", partition.mountpoint, error)
    moved = psutil.disk_io_counters()
    return {
        "fullest": max((each.percent / 100 for each in usage.values()), default=math.nan),
        "free": {name: each.free for name, each in usage.items()},
        "total": {name: each.total for name, each in usage.items()},
        "read": moved.read_bytes if moved else 0, "written": moved.write_bytes if moved else 0,
    }


def network(psutil: Any) -> dict[str, Any]:
    """Return what went through the network, in bytes."""
    loopback = {name for name, each in psutil.net_if_stats().items() if "loopback" in each.flags}
    links = [each for name, each in psutil.net_io_counters(pernic=True).items() if name not in loopback]
    return {
        "received": sum(each.bytes_recv for each in links), "sent": sum(each.bytes_sent for each in links),
        "errors": sum(each.errin + each.errout + each.dropin + each.dropout for each in links),
        "up": sorted(name for name, each in psutil.net_if_stats().items() if each.isup and name not in loopback),
    }


def temperatures(psutil: Any) -> dict[str, Any]:
    """Return the temperatures in degrees Celsius; not every system has any."""
    chips = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    sensors = {
        f"{chip} {each.label or number}": each.current
        for chip, each_of_chip in chips.items() for number, each in enumerate(each_of_chip)
    }
    return {"highest": max(sensors.values(), default=math.nan), "sensors": sensors}


def measure(psutil: Any) -> Records:
    """Return all records."""
    return dict(zip(RECORDS, (part(psutil) for part in (load, memory, disks, network, temperatures))))


@program(
    do_debug="Show debugging information for the machine",
    frequency="How often the machine is measured, in Hz",
)
def main(handler: Handler, frequency: float = 0.5) -> None:
    """Measure this machine."""
    psutil = needs("psutil")
    handler.writes(RECORDS)
    for _ in handler.ticks(frequency):
        handler.publish(measure(psutil))


if __name__ == "__main__":
    main()
