"""The page under load: many records written at 10 Hz, many browsers that look at all of them.

    python tests/bench/page_load.py [--records 500] [--browsers 20] [--seconds 600]

Prints the time from a flush to an event at a browser (p50, p99, most), the page's memory in ten steps, and its share of
a processor. The browsers are streams that are read and not drawn; one of them takes every value's time, the others the
last one's of each event.
"""

import argparse
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from shareddata import SharedMemory
from shareddata.server import Server

WRITER = """
import sys, time
from shareddata import DataDict, SharedMemory
records, seconds = int(sys.argv[1]), float(sys.argv[2])
with SharedMemory() as shm, DataDict("LOAD", shm) as dd:
    datas = dd.set_datas_to_write([f"R{i:03}" for i in range(records)])
    begin, step, count = time.monotonic(), 10, 0
    pause = 0.1 * step / records
    while time.monotonic() < begin + seconds:
        for data in datas[count * step % records:][:step]:
            data.set(*[count + i / 7 for i in range(10)])
        dd.flush()
        count += 1
        rest = begin + count * pause - time.monotonic()
        if rest > 0:
            time.sleep(rest)
    print(f"{count * step / seconds:.0f}", flush=True)
"""
TS = re.compile(rb'"ts":([0-9.]+)')


class Browser:
    """One stream of events."""

    def __init__(self, url: str, exact: bool) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 80))
        self.socket.sendall(f"GET /events/records HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        self.socket.setblocking(False)
        self.exact, self.rest, self.events, self.bytes = exact, b"", 0, 0
        self.latest: float | None = None

    def read(self, latencies: list[float]) -> None:
        """Take what came."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        if not data:
            raise SystemExit("the page closed a stream")
        self.bytes += len(data)
        *whole, self.rest = (self.rest + data).split(b"\n\n")
        now = time.time()
        for event in whole:
            self.events += 1
            found = TS.findall(event) if self.exact else TS.findall(event, max(0, len(event) - 400))
            latencies += [now - float(ts) for ts in found]


def describe(shm: SharedMemory, records: int) -> None:
    values = [[f"field_{i}", 0.0, {"unit": "V", "max": 1e9}] for i in range(10)]
    fields: list[Any] = [["ts", 0.0], ["sender", ""], *values]
    shm.init({f"R{i:03}": {"history": 256, "max_age": 5.0, "fields": fields} for i in range(records)})


def look(url: str, count: int, seconds: float) -> tuple[list[float], list[float], list[Browser]]:
    """Read so many streams for so long; return the latencies of the one that takes all, of the others, the streams."""
    chosen = selectors.DefaultSelector()
    browsers = [Browser(url, exact=i == 0) for i in range(count)]
    for each in browsers:
        chosen.register(each.socket, selectors.EVENT_READ, each)
    every: list[float] = []
    last: list[float] = []
    end, settled = time.monotonic() + seconds, time.monotonic() + 2
    while time.monotonic() < end:
        for key, _ in chosen.select(0.5):
            key.data.read(every if key.data.exact else last)
        if settled and time.monotonic() > settled:
            every.clear()  # what was written before anybody looked
            last.clear()
            settled = 0
    return every, last, browsers


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sd", dir="/tmp") as folder, Server(Path(folder)) as server:
        with SharedMemory(url=server.url) as shm:
            describe(shm, options.records)
        environ = os.environ | {"SHAREDDATA_URL": server.url}
        page = subprocess.Popen(
            [sys.executable, "-m", "shareddata", "page", "--port", "0"], env=environ, stdout=subprocess.PIPE, text=True
        )
        assert page.stdout is not None
        url = page.stdout.readline().strip()
        command = [sys.executable, "-c", WRITER, str(options.records), str(options.seconds + 5)]
        writer = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
        process, memory = psutil.Process(page.pid), []
        time.sleep(3)
        memory.append(process.memory_info().rss)
        before, begin = process.cpu_times(), time.monotonic()
        parts = 10
        every: list[float] = []
        last: list[float] = []
        events = size = 0
        for _ in range(parts):
            one, other, browsers = look(url, options.browsers, options.seconds / parts)
            every += one
            last += other
            events += sum(each.events for each in browsers)
            size += sum(each.bytes for each in browsers)
            for each in browsers:
                each.socket.close()
            memory.append(process.memory_info().rss)
        spent, lasted = process.cpu_times(), time.monotonic() - begin
        page.terminate()
        print(json.dumps({
            "records": options.records, "browsers": options.browsers, "seconds": round(lasted),
            "written_per_second": int(writer.communicate()[0]),
            "events_per_browser_and_second": round(events / lasted / options.browsers, 1),
            "megabytes_per_second": round(size / lasted / 1e6, 1),
            "ms_to_one_that_takes_all": quantiles(every), "ms_to_the_others": quantiles(last),
            "page_processor_share": round((spent.user + spent.system - before.user - before.system) / lasted, 2),
            "page_memory_mb": [round(each / 1e6, 1) for each in memory],
        }, indent=1))  # fmt: skip
        page.wait()


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return p50, p99 and the most, in milliseconds."""
    found = sorted(seconds)
    return {
        name: round(1000 * found[min(len(found) - 1, int(len(found) * part))], 1)
        for name, part in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))
    }


if __name__ == "__main__":
    main()
