"""The commands: each parses its arguments, calls the library and prints what it says.

It knows what each command is for; it must not know keys, sockets or how anything is done. Invariants:

1. `python -m shareddata -i INIT_MSG a.json b.json`, without a command, is `init`.
2. What a program may read has `--json`; results go to standard output, everything else to standard error.
3. How commands are started and end, and their exit codes, is `command`'s.
"""

import difflib
import json as json_text
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from shareddata import (
    datadesc,
    demo,
    descfile,
    export,
    forward,
    logs,
    record,
    replay,
    rowsources,
    scaffold,
    server,
    table,
    track,
    watch,
)
from shareddata.codec import decoder
from shareddata.command import Command, UsageError, Where, command
from shareddata.datadesc import Field, Record
from shareddata.datadict import DataDict
from shareddata.errors import DecodeError, DescriptionError, FieldError, NotInitialized, SharedDataError
from shareddata.memory import SharedMemory

_SOON = 2.0  # seconds that commands wait for a server when somebody sits before them
_JSON = ("Print JSON, for programs", "flag", "j")
_RECORD = ("Name of a record", "positional", None, str, None, "NAME")


@command(
    env_init=("Name of the environment variable that holds the ready flag's name", "option", "i", str, None, "ENV"),
    keep=("Keep the values of fields that are described as before", "flag", "k"),
    prune=("Drop records that were described earlier and are not any more, with their histories", "flag", "x"),
    files=("Data descriptions", "positional", None, str, None, "FILE"),
)
def init(where: Where, env_init: str | None = None, keep: bool = False, prune: bool = False, *files: str) -> None:
    """Describe records on the server and set them to their defaults, all at once.

    Other records, histories and logs stay as they are. With -i the ready flag is set, which programs started with the
    same -i wait for. A wrong description changes nothing. `python -m shareddata` without a command does the same.

    Examples:
      export INIT_MSG=SPARTAN_INIT
      shareddata init -i INIT_MSG battery.json gps.json
      shareddata init --keep battery.json        add fields to a running system
    """
    if not files:
        raise UsageError("give at least one data description (a JSON file)")
    descfile.load(*files)  # before the server is waited for
    flag = os.environ.get(env_init) if env_init else None
    if env_init and not flag:
        raise NotInitialized(f"the environment variable {env_init} is not set: export {env_init}=NAME_OF_THE_FLAG")
    with where.open() as shm:
        names = shm.init(*files, flag=flag, keep=keep, prune=prune)
        print("\n".join(table.grid([_summary(shm.describe(name)) for name in names])))
        ready = f", flag {flag} set" if flag else ""
        print(f"{shm.url}: {_count(len(names), 'record')} described, epoch {shm.epoch()}{ready}")


def _summary(record: Record) -> list[str]:
    return [record.name, _count(len(record.fields) - 2, "field"), record.owner, table.clean(record.doc)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@command(
    talks=False,
    json=_JSON,
    files=("Data descriptions", "positional", None, str, None, "FILE"),
)
def check(json: bool = False, *files: str) -> int:
    """Check data descriptions, without a server.

    Each wrong file is named with line, record, field and remedy; the exit code is 1 if there is one.

    Examples:
      shareddata check datadesc/*.json
    """
    if not files:
        raise UsageError("give at least one data description (a JSON file)")
    found: dict[str, dict[str, Record]] = {}
    wrong: dict[str, str] = {}
    for file in dict.fromkeys(files):
        try:
            found[file] = descfile.load(file)
        except DescriptionError as error:
            wrong[file] = str(error)
    try:
        descfile.load(*found)  # the same record in two files
    except DescriptionError as error:
        wrong[str(error).partition(":")[0]] = str(error)
    if json:
        records = {file: list(found[file]) for file in found}
        print(json_text.dumps({"ok": not wrong, "records": records, "errors": wrong}, ensure_ascii=False))
        return int(bool(wrong))
    for message in wrong.values():
        print(message, file=sys.stderr)
    if not wrong:
        records_of = [record for each in found.values() for record in each.values()]
        fields = sum(len(record.fields) for record in records_of)
        counts = f"{_count(len(records_of), 'record')}, {_count(fields, 'field')}"
        print(f"OK: {counts} in {_count(len(found), 'file')}")
    return int(bool(wrong))


@command(json=_JSON)
def list_(where: Where, json: bool = False) -> None:
    """List the records: fields, owner, age of the last value, what they are.

    Examples:
      shareddata list
      shareddata list --json | jq 'keys'
    """
    with where.open(_SOON) as shm:
        views = watch.snapshot(shm, shm.names())
        if json:
            print(json_text.dumps({view.record.name: _as_json(view) for view in views}, ensure_ascii=False, indent=1))
            return
        if not views:
            print(f"{shm.url}: no record is described: shareddata init FILE...", file=sys.stderr)
            return
    now = time.time()
    rows = [("RECORD", "OWNER", "AGE", "FIELDS", "WHAT IT IS")]
    for view in views:
        record = view.record
        rows.append((record.name, record.owner, _last(view, now), _fields(record), table.clean(record.doc)))
    print("\n".join(table.grid(rows, right=[2])))


def _as_json(view: table.View) -> dict[str, object]:
    written = {"ts": view.trame.ts, "sender": view.trame.sender} if view.written else {"ts": None, "sender": None}
    return table.strict({**view.record.as_json(), **written})  # type: ignore[no-any-return]


def _last(view: table.View, now: float) -> str:
    return "damaged" if view.damage else "never" if not view.written else table.age_text(view.age(now))


def _fields(record: Record) -> str:
    units = [f"{f.name} [{table.clean(f.unit)}]" if f.unit not in ("", "1") else f.name for f in record.fields[2:]]
    return table.clip(" ".join(units), 60)


@command(
    name=_RECORD,
    json=_JSON,
    fields=("Fields; all if none is given", "positional", None, str, None, "FIELD"),
)
def get(where: Where, name: str, json: bool = False, *fields: str) -> int:
    """Print the values of a record now, exactly, with their units.

    The exit code is 1 when the record has no value: never written, expired or deleted. In JSON, NaN and infinities are
    the strings "NaN", "Infinity" and "-Infinity".

    Examples:
      shareddata get BATTERY__measures
      shareddata get BATTERY__measures voltage current
      shareddata get --json BATTERY__measures | jq .values.voltage
    """
    with where.open(_SOON) as shm:
        record = shm.describe(name)
        for field in fields:
            _field(record, field)
        view = watch.snapshot(shm, [name])[0]
    if json:
        print(table.as_json(view, fields))
    elif view.trame is not None:
        print("\n".join(table.grid(_values(view, fields))))
    if view.damage:
        raise SharedDataError(view.damage)
    if view.trame is None:
        raise SharedDataError(f"record {name} has no value: it was never written, has expired or was deleted")
    return 0


def _field(record: Record, name: str) -> Field:
    try:
        return record.field(name)
    except KeyError:
        names = [field.name for field in record.fields]
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
        raise FieldError(f"record {record.name} has no field {name!r}: {hint}") from None


def _values(view: table.View, fields: Sequence[str]) -> list[list[str]]:
    """Return a line for each field: name, value, unit, what is wrong with it."""
    rows = []
    for field, value in zip(view.record.fields, view.trame):
        if fields and field.name not in fields:
            continue
        text, note = table.value_text(field, value, exact=True), table.limit_text(field, value)
        if field.name == "ts":
            text, note = (table.time_text(value), table.age_text(view.age(time.time()))) if value else ("never", "")
        rows.append([field.name, text, table.clean(field.unit), f"({note})" if note else ""])
    return rows


@command(
    name=_RECORD,
    assignment=("A field and its value", "positional", None, str, None, "FIELD=VALUE"),
    app_name=("Name of the sender", "option", "a", str, None, "NAME"),
    more=("More of them", "positional", None, str, None, "FIELD=VALUE"),
)
def set_(where: Where, name: str, assignment: str, app_name: str = "shareddata set", *more: str) -> None:
    """Write a record: the fields named get new values, the others keep theirs; ts is now.

    Values are written as the field's type wants them: 12.5, nan, 42, true, any text, and JSON for lists, objects,
    arrays and fields of any type. If one does not fit nothing is written.

    Examples:
      shareddata set BATTERY__command command=acknowledge
      shareddata set -a PILOT PUPITRE__joyleft axe_horizontal=-120 bouton=true
    """
    with where.open(_SOON) as shm:
        record = shm.describe(name)
        values = {}
        for each in (assignment, *more):
            field, equals, text = each.partition("=")
            if not equals:
                raise UsageError(f"{each!r}: expected FIELD=VALUE")
            if field in values:
                raise UsageError(f"{field} is given twice")
            values[field] = _parse(record, _field(record, field), text)
        with DataDict(app_name, shm) as dd:
            (data,) = dd.set_datas_to_write([name])
            data.set(**values)
            dd.flush()
        print(table.line(watch.snapshot(shm, [name])[0]))


def _parse(record: Record, field: Field, text: str) -> object:
    """Return the value that a text stands for, in the form in which the field's type is written."""
    try:
        return json_text.loads(text) if field.dtype else decoder(field.type)(text.encode())
    except (ValueError, KeyError, TypeError):
        how = " written as JSON" if field.type in ("list", "object", "any", "array") else ""
        raise FieldError(
            f"record {record.name}, field {field.name!r}: {text!r} is no {field.type_text()}{how}: nothing was written"
        ) from None


@command(
    json=("Print a line of JSON whenever a record changed", "flag", "j"),
    seconds=("End after so many seconds", "option", "s", float, None, "SECONDS"),
    names=("Records, the most important first; all if none is given", "positional", None, str, None, "NAME"),
)
def watch_(where: Where, json: bool = False, seconds: float | None = None, *names: str) -> None:
    """Show records as they change: values, units, limits, sender, age and rate.

    On a terminal this is a table that redraws; else a line for each record that changed, at most one a second. It is
    told of writes by the server, survives the server's restart, and does not slow anybody down. Ctrl-C ends it, with
    exit code 0.

    Examples:
      shareddata watch
      shareddata watch BATTERY__measures GPS__position
      shareddata watch --json BATTERY__measures | jq .values.voltage
    """
    with where.open(timeout=1.0) as shm:
        try:
            watch.show(shm, names, seconds=seconds, json=json)
        except KeyboardInterrupt:
            pass  # the usual way to end it


@command(
    name=_RECORD,
    json=_JSON,
    since=(
        "Where to begin: 0 the oldest that is kept, a time ago like 10min or 2h, seconds since 1970; without it now",
        *("option", "s", str, None, "WHEN"),
    ),
    count=("End after so many updates", "option", "c", int, None, "COUNT"),
    timeout=("End after so many seconds without any", "option", "t", float, None, "SECONDS"),
)
def tail(
    where: Where,
    name: str,
    json: bool = False,
    since: str | None = None,
    count: int | None = None,
    timeout: float | None = None,
) -> None:
    """Print every update of a record, in order, from its history.

    Updates that the history had dropped before they could be read are counted and told on standard error. The server
    may be restarted meanwhile. Ctrl-C ends it, with exit code 0.

    Examples:
      shareddata tail BATTERY__measures
      shareddata tail --since 10min --timeout 0 BATTERY__measures > last.txt
      shareddata tail --json GPS__position | jq -c .values
    """
    begin = _since(since)
    with where.open() as shm, DataDict("shareddata tail", shm) as dd:
        record = shm.describe(name)
        if not record.history:
            raise SharedDataError(f'record {name} has no history: describe it with "history": 256, or use `watch`')
        follower = dd.follow_data(name, since=begin, timeout=timeout)
        told = 0
        try:
            for number, trame in enumerate(follower if count != 0 else (), 1):
                view = table.View(record, trame)
                print(table.as_json(view) if json else table.line(view, name=False), flush=True)
                told = _tell_missed(told, follower.missed)
                if number == count:
                    break
        except KeyboardInterrupt:
            pass  # the usual way to end it
        _tell_missed(told, follower.missed)


def _tell_missed(told: int, missed: int, what: str = "updates: the history") -> int:
    if missed > told:
        print(f"missed {missed - told} {what} had dropped them ({missed} so far)", file=sys.stderr)
    return missed


def _since(text: str | None) -> float | None:
    """Return seconds since 1970 of a text like `0`, `1700000000.5` or `10min`."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return time.time() - datadesc.parse_span(text)
    except ValueError as error:
        raise UsageError(f"--since: {error}, or seconds since 1970") from None


@command(
    talks=False,
    folder=("Where its data are; default: $XDG_DATA_HOME/shareddata or ~/.local/share/shareddata", "positional", None),
    status=("Tell whether it runs (exit code 1 if not), and start nothing", "flag", "s"),
    stop=("Stop it; what was written is on disk afterwards", "flag", "x"),
    foreground=("Stay until SIGTERM or Ctrl-C, and end the server then: for systemd and containers", "flag", "g"),
    fsync=("everysec: a power cut loses about a second; always: nothing", "option", "f", str, server.FSYNC, "everysec"),
    port=("Listen on this TCP port too", "option", "p", int, None, "PORT"),
    bind=("Addresses for the TCP port; default: this machine only", "option", "b", str, None, "127.0.0.1"),
)
def serve(
    folder: str | None = None,
    status: bool = False,
    stop: bool = False,
    foreground: bool = False,
    fsync: str = "everysec",
    port: int | None = None,
    bind: str | None = None,
) -> int:
    """Start a private server on a folder, or find the one that runs there, and print its address.

    It needs no configuration and no rights; its socket is for this user only. It goes on until `serve --stop`. On
    standard output is the line that tells a shell the address, as below.

    Examples:
      eval "$(shareddata serve)"
      shareddata serve --stop
      shareddata serve --fsync always /var/lib/robot
      shareddata serve --foreground --port 6379 /var/lib/robot
    """
    where = Path(folder) if folder else server.default_folder()
    if status + stop + foreground > 1:
        raise UsageError("give one of --status, --stop and --foreground")
    if bind and port is None:
        raise UsageError("--bind needs --port")
    if status:
        return _status(where)
    if stop:
        print(f"{where}: {'stopped' if server.stop(where) else 'no server was running'}")
        return 0
    options = _tcp(port, bind)
    if foreground:
        return _foreground(where, fsync, options)
    running = server.ensure(where, fsync=fsync, options=options)
    state = "started" if running.started else "was running already"
    print(f"{running.url}: {state}, its data are in {running.folder}", file=sys.stderr)
    print(f"export SHAREDDATA_URL={shlex.quote(running.url)}")
    if not running.started and (options or fsync != "everysec"):
        print("It keeps what it was started with: for other options stop it first (--stop).", file=sys.stderr)
    return 0


def _status(folder: Path) -> int:
    running = server.find(folder)
    if running is None:
        print(f"{folder}: no server is running", file=sys.stderr)
        return 1
    print(running.url)
    return 0


def _tcp(port: int | None, bind: str | None) -> list[str]:
    """Return the server's options for a TCP port; warn where everybody may connect."""
    if port is None:
        return []
    addresses = (bind or "127.0.0.1").split()
    options = ["--port", str(port), "--bind", *addresses]
    if all(each.startswith("127.") or each in ("::1", "localhost") for each in addresses):
        return options
    print(
        f"Warning: port {port} has no password: everybody who reaches {' '.join(addresses)} can read and write. For "
        "passwords, rights and TLS use a server with a configuration of its own, such as Debian's redis-server.",
        file=sys.stderr,
    )
    return [*options, "--protected-mode", "no"]


def _foreground(folder: Path, fsync: str, options: Sequence[str]) -> int:
    with server.Server(folder, fsync=fsync, options=options) as running:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        print(f"{running.url}: started, its data are in {running.folder}", flush=True)
        while not running.ended():
            time.sleep(0.2)
    raise SharedDataError(f"{folder}: the server ended by itself: see {running.folder / 'server.log'}")


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


@command(
    talks=False,
    name=("Name of the device: letters, digits and '_'", "positional", None, str, None, "NAME"),
    folder=("Where to write", "option", "f", str, None, "FOLDER"),
)
def new(name: str, folder: str = ".") -> None:
    """Write the first files of a new device: a description, a handler and a reader that run at once.

    Nothing is overwritten. The handler measures something made up; put your device's protocol in its place.

    Examples:
      shareddata new tank
    """
    description, handler, reader = scaffold.create(name, folder)
    print(f"Written: {description}, {handler}, {reader}. Try them:\n")
    if not os.environ.get("SHAREDDATA_URL"):
        print('    eval "$(shareddata serve)"')
    print(f"    shareddata init {description}")
    print(f"    python {handler} -a HDL_{name.upper()} &")
    print(f"    python {reader}")


@command(
    talks=False,
    seconds=("How long the live records are shown", "option", "s", float, None, "8"),
    logs=("Folder for the logs; default: a new one in the temporary folder", "option", "l", str, None, "FOLDER"),
)
def demo_(seconds: float = 8.0, logs: str | None = None) -> None:
    """Show live data from recorded devices: a private server, handlers, and a table of their records.

    A battery monitor and a GPS receiver are played from recordings into serial lines at their speed, and this machine
    is measured. It ends by itself or with Ctrl-C, and leaves nothing running; the logs stay.

    Examples:
      shareddata demo
      shareddata demo --seconds 60
    """
    folder = demo.run(_show, lambda text: print(text, flush=True), seconds=seconds, logs=logs)
    print(f"Done; nothing of it runs any more. The CSV logs are in {folder}")
    print("Try next:  shareddata new tank   (your own device)   or   shareddata serve   (a server that stays)")


def _show(shm: SharedMemory, names: Sequence[str], seconds: float) -> None:
    try:
        watch.show(shm, names, seconds=seconds, title="shareddata demo: recorded devices, live; Ctrl-C ends")
    except KeyboardInterrupt:
        pass  # the usual way to end it early


@command(
    json=_JSON,
    since=(
        "Where a record begins that is not in the folder yet: 0 the oldest that its history holds, or as for `tail`",
        *("option", "s", str, None, "WHEN"),
    ),
    megabytes=("Begin the next file of a record at this size", "option", "m", float, None, "64"),
    every=("Begin the next file of a record after this time, like 1h", "option", "e", str, None, "1d"),
    length=("End after this time, like 90s or 2h", "option", "l", str, None, "TIME"),
    folder=("Where to write; a recording that is there goes on", "positional", None, str, None, "FOLDER"),
    names=("Records; without any all that have a history", "positional", None, str, None, "NAME"),
)
def record_(
    where: Where,
    folder: str,
    json: bool = False,
    since: str | None = None,
    megabytes: float = track.SIZE / 1e6,
    every: str = "1d",
    length: str | None = None,
    *names: str,
) -> None:
    """Write every update of records to CSV files, from their histories; writers are not changed.

    What a history still holds is recorded once, in order, also after a crash, a server's restart or a full disk; what
    it had dropped before is counted as missed. Ctrl-C ends it, with exit code 0 and a table of what was recorded.
    Records without a history cannot be recorded. Play it back with `replay`.

    Examples:
      shareddata record run7
      shareddata record --since 0 --every 1h run7 BATTERY__measures GPS__position
      shareddata record --length 2h --json run7 | jq '.[].missed'
    """
    begin, span = _since(since), _span(every, "--every")
    seconds = None if length is None else _span(length, "--length")
    if not megabytes > 0:
        raise UsageError("--megabytes must be above 0")
    with where.open() as shm:
        options: dict[str, Any] = {"since": begin, "size": int(megabytes * 1e6), "span": span}
        with record.Recorder(shm, folder, names, **options) as recorder, record.stopping(recorder):
            if recorder.left_out:
                print(f"not recorded, for want of a history: {', '.join(recorder.left_out)}", file=sys.stderr)
            with _progress(lambda: _recording(recorder)) as show:
                recorder.run(seconds, show)
    if json:
        print(json_text.dumps([row._asdict() for row in recorder.table()], ensure_ascii=False))
        return
    done = recorder.table()
    rows = [(row.name, _when(row.first), _when(row.last), str(row.written), str(row.missed)) for row in done]
    print("\n".join(table.grid([("RECORD", "FIRST", "LAST", "WRITTEN", "MISSED"), *rows], right=[3, 4])))
    print(f"{folder}: {_count(recorder.written, 'row')}, {recorder.size / 1e6:.1f} MB, {recorder.missed} missed")


def _recording(recorder: record.Recorder) -> str:
    last = max((track.end.id for track in recorder.tracks.values() if track.end), default="")
    parts = [_count(len(recorder.tracks), "record"), _count(recorder.written, "row"), f"{recorder.size / 1e6:.1f} MB"]
    return "  ".join([*parts, f"{recorder.missed} missed", f"last {_when(record.seconds(last))}"])


@contextmanager
def _progress(text: Callable[[], str]) -> Iterator[Callable[[object], None]]:
    """Give what shows a line that is written over and over, on a terminal and nowhere else."""
    shows = sys.stderr.isatty()

    def show(_: object) -> None:
        if shows:
            width = shutil.get_terminal_size().columns
            print("\r" + table.clip(text(), width - 1) + "\033[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shows:
            print(file=sys.stderr)


def _when(ts: float | None) -> str:
    return "-" if ts is None else table.time_text(ts)


def _span(text: str, option: str) -> float:
    try:
        return datadesc.parse_span(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


@command(
    json=_JSON,
    speed=("How many times faster than it was; 0: as fast as possible", "option", "s", float, None, "1"),
    from_=(
        "Where to begin, with the values of that time: 2026-07-20T12:00:00Z, seconds since 1970, or +10min",
        *("option", "f", str, None, "WHEN"),
    ),
    to=("Where to end: a time, or +TIME after the beginning of all", "option", "t", str, None, "WHEN"),
    only=("Records to play, separated by commas; without it all", "option", "o", str, None, "NAMES"),
    loop=("Begin again at the end, until stopped", "flag", "l"),
    source_namespace=("Namespace of the records on a server that is played", "option", "m", str, None, "NAME"),
    sources=(
        "A recording's folder, CSV logs (or NAME=FILE), or a server's address",
        *("positional", None, str, None, "SOURCE"),
    ),
)
def replay_(
    where: Where,
    json: bool = False,
    speed: float = 1.0,
    from_: str | None = None,
    to: str | None = None,
    only: str | None = None,
    loop: bool = False,
    source_namespace: str = "",
    *sources: str,
) -> None:
    """Play recordings, CSV logs or a server's histories back into records, all merged by time.

    Values are written with the ts and sender that they had; records that the server does not know are described. It
    plays into the namespace that -n names. Ctrl-C ends it, with exit code 0 and a table of what was played.

    Examples:
      shareddata replay -n test run7
      shareddata replay --speed 100 --from +10min --to +20min -n test run7
      shareddata replay --speed 0 --loop -n test $LOGDIR
      shareddata replay -u embedded:///tmp/lab redis://robot
    """
    if not sources:
        raise UsageError("give at least one folder, CSV file or server's address")
    if speed < 0:
        raise UsageError("--speed must not be below 0")
    names = only.split(",") if only else []
    with where.open() as shm, replay.opened(sources, shm, source_namespace) as source:
        start, end = _time_in(from_, "--from", source.first), _time_in(to, "--to", source.first)
        with replay.Replay(source, shm, names, speed=speed, start=start, end=end) as play:
            begin = time.monotonic()
            try:
                with _progress(lambda: _playing(play)) as show:
                    play.run(loop, show)
            except KeyboardInterrupt:
                pass  # the usual way to end it early
            finally:
                _tell_played(play, json, time.monotonic() - begin)


def _time_in(text: str | None, option: str, first: float) -> float | None:
    """Return seconds since 1970 of a text like `2026-07-20T12:00:00Z`, `1784540000.5` or, after the first, `+10min`."""
    if text is None:
        return None
    if text.startswith("+"):
        return first + _span(text[1:], option)
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        expected = "a time like 2026-07-20T12:00:00Z, seconds since 1970, or +10min"
        raise UsageError(f"{option}: {text!r}: expected {expected}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _playing(play: replay.Replay) -> str:
    length = play.end - play.start
    part = f"{100 * (play.now - play.start) / length:.0f} %" if length > 0 else "100 %"
    count = sum(each.count for each in play.played.values())
    late = f"  {play.late:.1f} s late" if play.late > 0.1 else ""
    return f"{table.time_text(play.now)}  {part}  {_count(count, 'update')}{late}"


def _tell_played(play: replay.Replay, json: bool, seconds: float) -> None:
    played = list(play.played.values())
    if json:
        print(json_text.dumps([vars(each) for each in played], ensure_ascii=False))
        return
    rows = [(each.name, _when(each.first), _when(each.last), str(each.count)) for each in played]
    print("\n".join(table.grid([("RECORD", "FIRST", "LAST", "PLAYED"), *rows], right=[3])))
    print(f"{_count(sum(each.count for each in played), 'update')} in {seconds:.1f} s")


# -- files for other programs ---------------------------------------------------------------------------------------


@command(
    target=("The file, or a folder for several records as CSV or Parquet", "positional", None, str, None, "TARGET"),
    log=("Export this log, instead of records' histories", "option", "l", str, None, "LOG"),
    time=("Which value of a log's records is their time, and its unit: f0:ms", "option", "c", str, None, "VALUE:UNIT"),
    recording=("Export what is in this recording, a folder or a CSV file", "option", "g", str, None, "FOLDER"),
    from_=(
        "What was received then or later: a time ago like 2h, seconds since 1970, 2026-07-20T12:00",
        *("option", "f", str, None, "WHEN"),
    ),
    to=("What was received before then", "option", "t", str, None, "WHEN"),
    format=("Format, where the file's extension does not tell", "option", "m", str, export.FORMATS, "FORMAT"),
    force=("Replace files that are there", "flag", "x"),
    names=("Records; all if none is given", "positional", None, str, None, "NAME"),
)
def export_(
    where: Where,
    target: str,
    log: str | None = None,
    time: str | None = None,
    recording: str | None = None,
    from_: str | None = None,
    to: str | None = None,
    format: str | None = None,
    force: bool = False,
    *names: str,
) -> int:
    """Write histories, a log or a recording into files for other programs: CSV, Parquet, HDF5 (NeXus) or MCAP.

    Values, times and units are exact; what a format cannot hold is an error, and leaves no file behind. A file has its
    name when it is whole. Times are UTC. The exit code is 1 when something could not be read and was left out.

    Examples:
      shareddata export battery.csv BATTERY__measures
      shareddata export --from 2h run.nxs
      shareddata export --format parquet run7/
      shareddata export --recording /var/log/run7 run7.mcap
      shareddata export --log engine --time f0:ms engine.parquet
    """
    if (log and names) or (log and recording):
        raise UsageError("give one of --log, --recording and the names of records")
    if time and not log:
        raise UsageError("--time is for logs: records have their own")
    begin, end = _ago(from_, "--from"), _ago(to, "--to")
    export.format_of(Path(target), format)  # before anything is waited for
    if recording:
        return _export(rowsources.RecordingSource([recording], names, begin, end), target, format, force)
    with where.open(_SOON) as shm:
        if log:
            return _export(rowsources.LogSource(shm, log, time, begin, end), target, format, force)
        return _export(rowsources.HistorySource(shm, names, begin, end), target, format, force)


def _export(source: rowsources.Source, target: str, form: str | None, force: bool) -> int:
    line = ""

    def tell(part: float, rows: int) -> None:
        nonlocal line
        line = f"[{'#' * int(30 * part):30}] {part:4.0%}  {_count(rows, 'row')}"
        show(None)

    with _progress(lambda: line) as show:
        done = export.export(source, target, form, force=force, progress=tell)
    rows = [(each.name, str(each.rows), _at(each.first), _at(each.last), str(each.file)) for each in done]
    print("\n".join(table.grid([("RECORD", "ROWS", "FIRST", "LAST", "FILE"), *rows], right=[1])))
    for count, what in (
        (source.missed, "were not there any more: trimmed, or lost"),
        (source.repeated, "were left out: the same sender had written the same before"),
        (source.damaged, f"were left out: they cannot be read: {source.damage}"),
    ):
        if count:
            print(f"{count} rows {what}", file=sys.stderr)
    return int(source.damaged > 0)


def _at(nanos: int | None) -> str:
    return "-" if nanos is None else table.time_text(nanos / 10**9)


def _ago(text: str | None, option: str) -> float | None:
    """Return seconds since 1970 of a text like `2h` ago, `1784540000.5` or `2026-07-20T12:00` (UTC)."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        try:
            return _since(text)
        except UsageError:
            expected = "a time ago like 2h, 2026-07-20T12:00, or seconds since 1970"
            raise UsageError(f"{option}: {text!r}: expected {expected}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# -- logs -----------------------------------------------------------------------------------------------------------

_ACTIONS = ("list", "stats", "tail", "trim", "verify")


@command(
    action=(f"What to do: {', '.join(_ACTIONS)}", "positional", None, str, _ACTIONS, "ACTION"),
    json=_JSON,
    count=("tail: how many records of those that are there", "option", "c", int, None, "10"),
    follow=("tail: go on with those that are committed later", "flag", "f"),
    below=("trim: drop the records below this number", "option", "b", int, None, "SEQN"),
    buckets=("trim: keep so many buckets, the newest", "option", "k", int, None, "COUNT"),
    force=("trim: also what a reader has not committed", "flag", "x"),
    names=("The log; none for list", "positional", None, str, None, "NAME"),
)
def log(
    where: Where,
    action: str,
    json: bool = False,
    count: int = 10,
    follow: bool = False,
    below: int | None = None,
    buckets: int | None = None,
    force: bool = False,
    *names: str,
) -> int:
    """List logs, look at one, drop its old records, or prove that it is whole.

    list: all logs, with what they hold and their readers. stats NAME: one of them in detail. tail NAME: its last
    records. trim NAME: drop old records, up to the slowest reader's committed cursor. verify NAME: read all records and
    check numbers, sizes and tags; the exit code is 1 if one is missing or wrong.

    Examples:
      shareddata log list
      shareddata log tail --follow engine
      shareddata log trim --buckets 4 engine
      shareddata log verify engine
    """
    if len(names) != (action != "list"):
        raise UsageError("list takes no name" if action == "list" else f"{action} which log? give one name")
    if (below is None) + (buckets is None) != 1 and action == "trim":
        raise UsageError("trim what? give one of --below SEQN and --buckets COUNT")
    with where.open(_SOON) as shm:
        if action == "list":
            return _log_list(shm, json)
        with logs.Look(shm, names[0]) as look:
            if action == "stats":
                return _log_stats(look.state(), json)
            if action == "tail":
                return _log_tail(look, count, follow, json)
            if action == "verify":
                return _log_verify(look, json)
            return _log_trim(look.trim(below, buckets, force), json)


def _log_list(shm: SharedMemory, json: bool) -> int:
    states = logs.states(shm)
    if json:
        print(json_text.dumps({state.name: state.as_json() for state in states}, ensure_ascii=False, indent=1))
        return 0
    if not states:
        print(f"{shm.url}: there is no log", file=sys.stderr)
        return 0
    rows = [("LOG", "FORMATS", "FIRST", "LAST", "RECORDS", "BYTES", "READERS")]
    for state in states:
        readers = ", ".join(f"{table.clean(cursor)} {state.lag(cursor)} behind" for cursor in state.cursors)
        size = "?" if state.size is None else str(state.size)
        shape = state.shape if state.made else "unknown"
        rows.append((state.name, shape, str(state.first), str(state.last), str(state.length), size, readers))
    print("\n".join(table.grid(rows, right=[2, 3, 4, 5])))
    return 0


def _log_stats(state: logs.State, json: bool) -> int:
    if json:
        print(json_text.dumps(state.as_json(), ensure_ascii=False, indent=1))
        return 0
    held = f"{state.length}, numbers {state.first} to {state.last}" if state.length else f"0, the last was {state.last}"
    size = "the server does not tell" if state.size is None else f"{state.size} bytes"
    each = f", {state.size / state.length:.1f} a record" if state.size and state.length else ""
    who = [str(state.writer[key]) for key in ("program", "pid", "host", "since") if key in state.writer]
    rows = [
        ("log", state.name),
        ("formats", f"{state.shape or 'none'}, records of {state.record_size} bytes" if state.made else "unknown"),
        ("records", held),
        ("buckets", f"of {state.bucket_size} records" if state.made else "unknown"),
        ("memory", size + each),
        ("a commit is", state.durability),
        ("writer", table.clean("{}, process {} on {}, since {}".format(*who)) if len(who) == 4 else "none yet"),
    ]
    for cursor, number in state.cursors.items():
        gone = f", {state.missing(cursor)} of them gone" if state.missing(cursor) else ""
        rows.append((table.clean(cursor), f"committed {number}, {state.lag(cursor)} behind{gone}"))
    print("\n".join(table.grid(rows)))
    return 0


def _log_tail(look: logs.Look, count: int, follow: bool, json: bool) -> int:
    told, restarts, code = 0, 0, 0
    try:
        for entry in look.tail(max(0, count), follow):
            if look.restarts > restarts:
                restarts = look.restarts
                print(f"the numbers from {entry.seqn} on are other records now", file=sys.stderr)
            told = _tell_missed(told, look.missed, "records: the log")
            try:
                tag, values = look.decode(entry)
            except DecodeError as error:
                print(table.clean(str(error)), file=sys.stderr)
                code = 1
                continue
            print(_log_line(look, entry.seqn, tag, values, json), flush=True)
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return code


def _log_line(look: logs.Look, seqn: int, tag: int | None, values: Sequence[Any], json: bool) -> str:
    if not json:
        return f"{seqn}  {values if tag is None or len(look.formats) == 1 else (tag, values)}"
    shown = [each.hex() if isinstance(each, bytes) else table.strict(each) for each in values]
    return json_text.dumps({"seqn": seqn, "tag": tag, "values": shown})


def _log_verify(look: logs.Look, json: bool) -> int:
    found = look.verify()
    if json:
        print(json_text.dumps({"whole": found.whole, **asdict(found)}))
        return int(not found.whole)
    for first, last in found.gaps:
        print(f"missing: {first}" if first == last else f"missing: {first} to {last}, {last - first + 1} records")
    for number, fault in found.wrong:
        print(f"wrong: record {number}: {table.clean(fault)}")
    if found.trimmed:
        print(f"{found.trimmed} records were dropped by cleaning while this read", file=sys.stderr)
    missing = sum(last - first + 1 for first, last in found.gaps)
    span = f", numbers {found.first} to {found.last}" if found.records else ""
    verdict = "OK, no gap" if found.whole else f"{missing} missing, {len(found.wrong)} wrong"
    print(f"{look.name}: {_count(found.records, 'record')} read{span}: {verdict}")
    return int(not found.whole)


def _log_trim(done: logs.Trimmed, json: bool) -> int:
    if json:
        print(json_text.dumps(done._asdict()))
        return 0
    print(f"{_count(done.dropped, 'record')} dropped, below {done.below}")
    for cursor, lost in done.lost.items():
        print(f"{table.clean(cursor)} loses {lost} that it had not committed", file=sys.stderr)
    return 0


@command(
    talks=False,
    from_=("Address of the server that has the logs and records", "option", "f", str, None, "URL"),
    to_=("Address of the server that gets them", "option", "t", str, None, "URL"),
    namespace=("Namespace at the source", "option", "n", str, None, "NAME"),
    to_namespace=("Namespace at the destination; default: the source's", "option", "N", str, None, "NAME"),
    once=("End when all is sent that is there", "flag", "o"),
    cursor=("Name of the source's cursors; default: the destination's address", "option", "c", str, None, "NAME"),
    max_buckets=("Buckets of a log kept at the destination for readers there", "option", "b", int, None, "64"),
    take_over=("Go on where others have written there; a log of another source is dropped", "flag", "x"),
    timeout=("Seconds within which each server has to answer", "option", "T", float, None, "5"),
    names=("Names or globs of records and logs; all if none is given", "positional", None, str, None, "NAME"),
)
def forward_(
    from_: str | None = None,
    to_: str | None = None,
    namespace: str = "",
    to_namespace: str | None = None,
    once: bool = False,
    cursor: str | None = None,
    max_buckets: int = forward.DEFAULT_MAX_BUCKETS,
    take_over: bool = False,
    timeout: float = 5.0,
    *names: str,
) -> int:
    """Copy logs and histories to another server whenever the link is there, each entry once and in order.

    Either server may go away, and so may this program: it goes on where it was. What a log or history had dropped
    before it could be sent is counted. Ctrl-C ends it, with exit code 0, and a table of what was sent, missed and is
    behind. The exit code is 1 if something is not forwarded because others write it at the destination.

    Examples:
      shareddata forward --from embedded:///var/lib/robot --to rediss://shore --to-namespace usv1
      shareddata forward --from embedded:///var/lib/robot --to rediss://shore --once 'GPS__*' trip
    """
    if not from_ or not to_:
        raise UsageError("give both --from URL and --to URL")
    with forward.Forward(
        *(from_, to_, names),
        namespace=namespace,
        to_namespace=to_namespace,
        name=cursor,
        max_buckets=max_buckets,
        take_over=take_over,
        timeout=timeout,
    ) as going:
        try:
            with forward.Display(sys.stderr) as display:
                going.run(once, display.tell)
        except KeyboardInterrupt:
            pass  # the usual way to end it
        finally:
            print("\n".join(forward.summary(going.progress)), flush=True)
    return int(any(each.trouble for each in going.progress))


COMMANDS: dict[str, Command] = {
    each.name: each
    for each in (
        *(init, check, list_, get, set_, watch_, tail, record_, replay_, export_, log, forward_),
        *(serve, new, demo_),
    )
}

_HELP = """usage: shareddata COMMAND [options] [arguments]
       python -m shareddata [-i ENV] FILE...      the same as: shareddata init [-i ENV] FILE...

A shared memory for robots, vehicles and laboratories: named records in Redis.

commands:
{commands}

`shareddata COMMAND --help` tells more, with examples. The server is the one that -u, or -r and -p, or $SHAREDDATA_URL
name, else localhost:6379. Exit codes: 0 done, 1 an error (one line; --debug for more), 2 wrong usage.

begin with:
  shareddata demo                         see it work
  shareddata serve                        a server of your own
  shareddata new tank                     a first device
"""


def help_text() -> str:
    """Return what `shareddata --help` prints.

    Redis: none.
    """
    return _HELP.format(commands="\n".join(f"  {name:7} {each.summary}" for name, each in COMMANDS.items()))


def main(arglist: Sequence[str] | None = None) -> None:
    """Do what a command line says, and exit.

    Args:
        arglist: without the program's name; `sys.argv`'s if None.

    Raises:
        SystemExit: with the codes of `command`.
    """
    arguments = list(sys.argv[1:] if arglist is None else arglist)
    if not arguments:
        print(help_text(), end="", file=sys.stderr)
        sys.exit(2)
    first = arguments[0]
    if first in ("-h", "--help", "help"):
        print(help_text(), end="")
    elif first in ("-V", "--version"):
        print(f"shareddata {_version()}")
    elif first in COMMANDS:
        COMMANDS[first].run(arguments[1:])
    elif first.startswith("-") or first.endswith(".json") or Path(first).exists():
        init.run(arguments)
    else:
        near = difflib.get_close_matches(first, COMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
        print(f"shareddata: no command {first!r}: {hint}", file=sys.stderr)
        sys.exit(2)


def _version() -> str:
    try:
        return version("shareddata")
    except PackageNotFoundError:
        return "from a checkout that is not installed"
