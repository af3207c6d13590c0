"""A demonstration: a private server, handlers on recorded devices, live records; nothing of it stays running.

It knows which handlers and recordings there are; it must not know how records are shown. Invariants:

1. However the demonstration ends, also by SIGKILL, its programs and its server end with it.
2. It counts as done only if data of each handler were seen in the shared memory while all of them ran.
3. What remains are the logs: a CSV file for each record and the messages of each program.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from shareddata.datadict import DataDict
from shareddata.demoserver import private
from shareddata.errors import SharedDataError
from shareddata.memory import SharedMemory
from shareddata.troupe import Troupe

Show = Callable[[SharedMemory, Sequence[str], float], None]
"""Shows the records of these names for so many seconds."""

_FIRST_DATA = 15.0  # seconds within which each handler must have written
_NEXT_DATA = 5.0  # seconds within which each handler must have written again
_FLAG = "DEMO_INIT"
_CAMERA = "hdl_camera"
_SHOWN = ("BATTERY__measures", "GPS__position", "GPS__motion", "GPS__fix", "HOST__load", "HOST__memory")

class Device(NamedTuple):
    """A device that is demonstrated: its handler, and the record that shows that it works."""

    handler: str
    record: str
    recording: str = ""
    baudrate: int = 0


DEVICES = (
    Device("hdl_battery", "BATTERY__measures", "victron-vedirect/bvm702.dump", 19200),
    Device("hdl_gps", "GPS__position", "gpsd/nmea-rtk.log", 4800),
    Device("hdl_host", "HOST__load"),
)


def devices() -> list[Device]:
    """Return the devices that can be demonstrated on this machine: without psutil not the machine itself."""
    return [device for device in DEVICES if device.handler != "hdl_host" or find_spec("psutil")]


def run(
    show: Show,
    say: Callable[[str], None],
    *,
    seconds: float = 8.0,
    logs: str | Path | None = None,
    camera: bool = False,
) -> Path:
    """Run the demonstration.

    Args:
        show: shows the live records.
        say: tells the user what is going on, a line at a time.
        seconds: how long the records are shown.
        logs: the folder for the logs; a new one in the temporary folder if None.
        camera: whether there is a camera too, for its frames and its sensor; it needs numpy and cbor2.

    Returns:
        The folder with the logs.

    Raises:
        SharedDataError: the server or a handler did not start, or its data were not seen; with its last messages.

    Redis: as `SharedMemory.init` and `DataDict.read`.
    """
    folder = Path(logs).absolute() if logs else Path(tempfile.mkdtemp(prefix="shareddata-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        shm, troupe = stack.enter_context(private(folder, _FLAG))
        shm.init(*descriptions(), flag=_FLAG)
        say(f"A private server runs at {shm.url}, with {len(shm.names())} records.")
        chosen = devices()
        _start(chosen, troupe, shm.url, stack)
        if len(chosen) < len(DEVICES):
            say("Without hdl_host: it needs psutil (pip install 'shareddata[hardware]').")
        if camera:
            _start_camera(troupe, shm.url, say)
        begin = time.time()
        _await_data(shm, troupe, chosen, 0.0, _FIRST_DATA)
        say(f"Live after {time.time() - begin:.1f} s: {', '.join(device.handler for device in chosen)}.")
        begin = time.time()
        show(shm, [name for name in _SHOWN if _of(chosen, name)], seconds)
        _await_data(shm, troupe, chosen, begin, _NEXT_DATA)
    return folder


def descriptions() -> list[dict[str, object]]:
    """Return the descriptions that the package carries."""
    found = sorted(files("shareddata.descriptions").iterdir(), key=lambda each: each.name)
    return [json.loads(each.read_text("utf-8")) for each in found if each.name.endswith(".json")]


def _start(chosen: Sequence[Device], troupe: Troupe, url: str, stack: ExitStack) -> None:
    """Start the recordings, each on a line of its own, then the handlers that read them."""
    recorded = [device for device in chosen if device.recording]
    for device in recorded:
        path = stack.enter_context(as_file(files("shareddata.recordings").joinpath(*device.recording.split("/"))))
        options = ["--loop", "-b", str(device.baudrate)]
        troupe.start(f"play_{device.handler[4:]}", "shareddata.play", str(path), *options, answers=True)
    for device in chosen:
        arguments = ["-u", url, "-i", "INIT_MSG", "-a", device.handler.upper()]
        if device in recorded:
            arguments += ["-s", troupe.answer(f"play_{device.handler[4:]}")]
        troupe.start(device.handler, f"shareddata.apps.{device.handler}", *arguments)


def _start_camera(troupe: Troupe, url: str, say: Callable[[str], None]) -> None:
    """Start the camera, where it can be."""
    if missing := [name for name in ("numpy", "cbor2") if not find_spec(name)]:
        return say(f"Without {_CAMERA}: it needs {' and '.join(missing)} (pip install 'shareddata[arrays]').")
    options = ["-u", url, "-i", "INIT_MSG", "-a", _CAMERA.upper(), "--offers", "frames,sensor"]
    troupe.start(_CAMERA, f"shareddata.apps.{_CAMERA}", *options)


def _await_data(shm: SharedMemory, troupe: Troupe, chosen: Sequence[Device], since: float, wait: float) -> None:
    """Wait until each device's record was written after a time.

    Raises:
        SharedDataError: a program ended, or a record was not written; with the handler's last messages.
    """
    deadline = time.monotonic() + wait
    with DataDict("shareddata demo", shm) as dd:
        dd.set_datas_to_read([device.record for device in chosen])
        while True:
            troupe.check()
            missing = [device for device, trame in zip(chosen, dd.next()) if trame is None or trame.ts <= since]
            if not missing:
                return
            if time.monotonic() > deadline:
                handler, record, *_ = missing[0]
                raise SharedDataError(f"{handler} wrote no {record} in {wait:g} s: {troupe.last_messages(handler)}")
            time.sleep(0.02)


def _of(chosen: Sequence[Device], name: str) -> bool:
    """Tell whether a record is one of these devices'."""
    return any(device.record.partition("__")[0] == name.partition("__")[0] for device in chosen)
