"""The command of sensors: list, get, watch, snapshot, rm.

As in `cli`, it parses its arguments, calls the library and prints what it says. It knows what each action is for; it
must not know keys, sockets or how anything is done. Invariants:

1. Nothing that comes from a sensor reaches a terminal as a control character; arrays are printed whole as JSON only.
2. What was missed is told on standard error and by the exit code.
"""

import queue
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from shareddata import arguments, sensors, table
from shareddata.command import UsageError, Where, command
from shareddata.memory import SharedMemory
from shareddata.sensors import SensorReader

_ACTIONS = ("list", "get", "watch", "snapshot", "rm")
_LONGEST = 60  # characters of a value in a line


@command(
    action=(f"What to do: {', '.join(_ACTIONS)}", "positional", None, str, _ACTIONS, "ACTION"),
    json=arguments.JSON,
    count=(
        "watch: end after so many values; snapshot --follow: so many packs",
        *("option", "c", arguments.COUNT, None, "COUNT"),
    ),
    follow=("snapshot: one of each pack from now on, until Ctrl-C", "flag", "f"),
    compress=("snapshot: level of compression, 0 (none) to 9", "option", "z", int, None, "0"),
    names=(
        "The sensor as DIRECTORY/NAME, or DIRECTORY for its first; then values (get, watch), the folder (snapshot) "
        "or more sensors (rm)",
        *("positional", None, str, None, "NAME"),
    ),
)
def sensor(
    where: Where,
    action: str,
    json: bool = False,
    count: int | None = None,
    follow: bool = False,
    compress: int = 0,
    *names: str,
) -> int:
    """List sensors, show and watch their values, take snapshots, or remove them.

    list: all sensors in order of creation. get SENSOR [VALUE...]: values as they are now. watch SENSOR [VALUE...]: each
    write as it comes. snapshot SENSOR FOLDER: what was packed last, or all values, as a zip file of CBOR. rm SENSOR...:
    take sensors out with all that belongs to them; programs that still write them create them anew.

    Examples:
      shareddata sensor list
      shareddata sensor get camera/front exposure
      shareddata sensor watch --json camera pose/x
      shareddata sensor snapshot --follow --compress 3 camera/front dataset
      shareddata sensor rm camera/front
    """
    if action == "list" and names:
        raise UsageError("list takes no name")
    if action != "list" and not names:
        raise UsageError(f"{action} which sensor? give DIRECTORY/NAME")
    if action == "snapshot" and len(names) != 2:
        raise UsageError("snapshot takes a sensor and a folder")
    with where.open(arguments.SOON) as shm:
        if action == "list":
            return _list(shm, json)
        if action == "rm":
            return _remove(shm, names)
        with sensors.find(names[0], shm) as reader:
            if action == "get":
                return _get(reader, names[1:], json)
            if action == "watch":
                return _watch(reader, names[1:] or (".",), count, json)
            return _snapshot(reader, names[1], compress, follow, count)


def _list(shm: SharedMemory, json: bool) -> int:
    found = sensors.listed(shm)
    if json:
        print(table.dumps([each._asdict() for each in found], indent=1))
        return 0
    if not found:
        print(f"{shm.url}: there is no sensor", file=sys.stderr)
        return 0
    now = time.time()
    rows = [("SENSOR", "WRITTEN", "KEPT", "PACKED", "VALUES")]
    for each in found:
        age = None if each.written is None else max(0.0, now - each.written)
        packed = ", ".join(map(table.clean, each.packed)) or "-"
        rows.append((table.clean(each.name), table.age_text(age), str(each.kept), packed, _names(each.values)))
    print("\n".join(table.grid(rows, right=[1, 2])))
    return 0


def _names(names: Sequence[str]) -> str:
    return table.clip(", ".join(map(table.clean, names)), _LONGEST)


def _get(reader: SensorReader, names: Sequence[str], json: bool) -> int:
    values = {name: reader.get_data(name) for name in names} if names else reader.get_data()
    if json:
        print(table.dumps(_strict(values)))
        return 0
    for name, text in _lines("", values):
        print(f"{name} = {text}")
    return 0


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    """Return names and values, one a line, of nested dictionaries."""
    if isinstance(value, Mapping) and value:
        return [line for key, each in value.items() for line in _lines(f"{name}/{key}" if name else str(key), each)]
    return [(table.clean(name), _shown(value))]


def _shown(value: Any) -> str:
    """Return a value for a person: an array by its kind and its first elements."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        first = " ".join(map(str, value.reshape(-1)[:4].tolist()))
        shape = " x ".join(map(str, value.shape))
        return f"{value.dtype} array of {shape}: {first}{' ...' if value.size > 4 else ''}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes: {value[:16].hex(' ')}{' ...' if len(value) > 16 else ''}"
    return table.clip(table.clean(repr(value)), _LONGEST)


def _strict(value: Any) -> Any:
    """Return a value as strict JSON: arrays as lists, bytes as hexadecimal digits, what else JSON lacks as text."""
    if hasattr(value, "tolist"):
        return table.strict(value.tolist())
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_strict(each) for each in value]
    return table.strict(value) if value is None or isinstance(value, bool | int | float | str) else str(value)


def _watch(reader: SensorReader, names: Sequence[str], count: int | None, json: bool) -> int:
    heard: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    for name in names:
        reader.attach_watchdog(name, partial(_put, heard, name))
    told = 0
    try:
        while count is None or told < count:
            try:
                name, value = heard.get(timeout=0.2)
            except queue.Empty:
                continue
            told += 1
            if json:
                print(table.dumps({name: _strict(value)}), flush=True)
                continue
            for line, text in _lines("" if name == "." else name, value):
                print(f"{table.time_text(time.time())}  {line} = {text}", flush=True)
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return _tell_missed(reader, "writes")


def _put(heard: "queue.SimpleQueue[tuple[str, Any]]", name: str, value: Any) -> None:
    heard.put((name, value))


def _snapshot(reader: SensorReader, folder: str, level: int, follow: bool, count: int | None) -> int:
    if not follow:
        reader.take_snapshot(folder, level)
        print(reader.last_snapshot)
        return 0
    reader.start_write(folder, level)
    try:
        while count is None or reader.snapshots < count:
            time.sleep(0.05)
    except KeyboardInterrupt:
        pass  # the usual way to end it
    reader.stop_watchdog()
    print(f"{folder}: {arguments.count(reader.snapshots, 'snapshot')}")
    return _tell_missed(reader, "packs")


def _tell_missed(reader: SensorReader, what: str) -> int:
    if reader.missed:
        print(f"missed {reader.missed} {what}: they were dropped before they could be read", file=sys.stderr)
    return int(reader.missed > 0)


def _remove(shm: SharedMemory, names: Sequence[str]) -> int:
    code = 0
    for name in names:
        if sensors.remove(name, shm):
            print(f"{name}: removed")
        else:
            print(f"{name}: there is no such sensor", file=sys.stderr)
            code = 1
    return code
