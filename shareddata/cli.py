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
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import NoReturn

from shareddata import (
    archivecli,
    arguments,
    arraydemo,
    demo,
    descfile,
    eras,
    logcli,
    lookcli,
    scaffold,
    sensorcli,
    server,
    table,
    trustcli,
    views,
    watch,
)
from shareddata.codec import decoder
from shareddata.command import Command, UsageError, Where, command, let_output_go
from shareddata.datadesc import Field, Record
from shareddata.datadict import DataDict
from shareddata.errors import DescriptionError, FieldError, NotInitialized, SharedDataError
from shareddata.memory import SharedMemory

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
        print(f"{shm.url}: {arguments.count(len(names), 'record')} described, epoch {shm.epoch()}{ready}")


def _summary(record: Record) -> list[str]:
    counted = arguments.count(len(record.fields) - 2, "field")
    return [record.name, counted, table.clean(record.owner), table.clean(record.doc)]


@command(
    talks=False,
    json=arguments.JSON,
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
        print(table.dumps({"ok": not wrong, "records": records, "errors": wrong}))
        return int(bool(wrong))
    for message in wrong.values():
        print(message, file=sys.stderr)
    if not wrong:
        records_of = [record for each in found.values() for record in each.values()]
        fields = sum(len(record.fields) for record in records_of)
        counts = f"{arguments.count(len(records_of), 'record')}, {arguments.count(fields, 'field')}"
        print(f"OK: {counts} in {arguments.count(len(found), 'file')}")
    return int(bool(wrong))


@command(json=arguments.JSON)
def list_(where: Where, json: bool = False) -> None:
    """List the records: fields, owner, age of the last value, what they are.

    Examples:
      shareddata list
      shareddata list --json | jq 'keys'
    """
    with where.open(arguments.SOON) as shm:
        shown, now = views.snapshot(shm, shm.names()), shm.clock.now()
        if json:
            print(table.dumps({view.record.name: _as_json(view, now) for view in shown}, indent=1))
            return
        if not shown:
            within = f" in the namespace {shm.namespace!r}" if shm.namespace else ""
            print(f"{shm.url}: no record is described{within}: shareddata init FILE...", file=sys.stderr)
            return
    rows = [("RECORD", "OWNER", "AGE", "FIELDS", "WHAT IT IS")]
    for view in shown:
        record = view.record
        owner, doc = table.clean(record.owner), table.clean(record.doc)
        rows.append((record.name, owner, _last(view, now), _fields(record), doc))
    print("\n".join(table.grid(rows, right=[2])))


def _as_json(view: table.View, now: float) -> dict[str, object]:
    written = {"ts": view.trame.ts, "sender": view.trame.sender} if view.written else {"ts": None, "sender": None}
    return table.strict({**view.record.as_json(), **written, **table.ages(view, now)})  # type: ignore[no-any-return]


def _last(view: table.View, now: float) -> str:
    if view.damage or not view.written:
        return "damaged" if view.damage else "never"
    return ("old, " if view.stale(now) else "") + table.age_text(view.age(now))


def _fields(record: Record) -> str:
    units = [f"{f.name} [{table.clean(f.unit)}]" if f.unit not in ("", "1") else f.name for f in record.fields[2:]]
    return table.clip(" ".join(units), 60)


@command(
    name=_RECORD,
    json=arguments.JSON,
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
    with where.open(arguments.SOON) as shm:
        record = shm.describe(name)
        for field in fields:
            _field(record, field)
        view, now = views.snapshot(shm, [name])[0], shm.clock.now()
    if json:
        print(table.as_json(view, fields, **table.ages(view, now)))
    elif view.trame is not None:
        print("\n".join(table.grid(_values(view, fields, now))))
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


def _values(view: table.View, fields: Sequence[str], now: float) -> list[list[str]]:
    """Return a line for each field: name, value, unit, what is wrong with it; with the time how old the record is."""
    rows = []
    for field, value in zip(view.record.fields, view.trame):
        if fields and field.name not in fields:
            continue
        text, note = table.value_text(field, value, exact=True), table.limit_text(field, value)
        if field.name == "ts":
            text = table.time_text(value) if view.written else "never"
            note = ", ".join(filter(None, (table.age_text(view.age(now)), view.notes(now)))) if view.written else ""
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
    with where.open(arguments.SOON) as shm:
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
        print(table.line(views.snapshot(shm, [name])[0]))


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
    seconds=("End after so many seconds", "option", "s", arguments.SECONDS, None, "SECONDS"),
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
    json=arguments.JSON,
    since=(
        "Where to begin: 0 the oldest that is kept, a time ago like 10min or 2h, seconds since 1970; without it now",
        *("option", "s", str, None, "WHEN"),
    ),
    count=("End after so many updates", "option", "c", arguments.COUNT, None, "COUNT"),
    timeout=("End after so many seconds without any", "option", "t", arguments.SECONDS, None, "SECONDS"),
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
    begin = arguments.since(since)
    with where.open() as shm, DataDict("shareddata tail", shm) as dd:
        record = shm.describe(name)
        if not record.history:
            raise SharedDataError(f'record {name} has no history: describe it with "history": 256, or use `watch`')
        follower = dd.follow_data(name, since=begin, timeout=timeout)
        told, past = 0, [] if begin is None else shm.eras(name)
        try:
            for number, trame in enumerate(follower if count != 0 else (), 1):
                then = eras.as_then(past, record, eras.milliseconds(follower.id)) if past else record
                view = table.View(then, trame)
                print(table.as_json(view) if json else table.line(view, name=False), flush=True)
                told = arguments.tell_missed(told, follower.missed)
                if number == count:
                    break
        except KeyboardInterrupt:
            pass  # the usual way to end it
        arguments.tell_missed(told, follower.missed)


@command(
    talks=False,
    folder=(
        "Where its data are; default: $XDG_DATA_HOME/shareddata or ~/.local/share/shareddata",
        *("positional", None, str, None, "FOLDER"),
    ),
    status=("Tell whether it runs (exit code 1 if not), and start nothing", "flag", "s"),
    stop=("Stop it; what was written is on disk afterwards", "flag", "x"),
    foreground=("Stay until SIGTERM or Ctrl-C, and end the server then: for systemd and containers", "flag", "g"),
    fsync=("everysec: a power cut loses about a second; always: nothing", "option", "f", str, server.FSYNC, "everysec"),
    port=("Listen on this TCP port too", "option", "p", arguments.PORT, None, "PORT"),
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
    what=("What is shown: devices, arrays, or the page", "positional", None, str, ["devices", "arrays", "page"]),
    seconds=(
        "How long it is shown; default: 8, the page until Ctrl-C",
        *("option", "s", arguments.SECONDS, None, "SECONDS"),
    ),
    logs=("Folder for what remains; default: a new one in the temporary folder", "option", "l", str, None, "FOLDER"),
)
def demo_(what: str = "devices", seconds: float | None = None, logs: str | None = None) -> None:
    """Show live data from recorded devices: a private server, handlers, and a table of their records.

    A battery monitor and a GPS receiver are played from recordings into serial lines at their speed, and this machine
    is measured. `demo arrays` shows a camera instead: its frames are followed, looked at, recorded and archived. `demo
    page` shows the devices and the camera in a browser. It ends by itself or with Ctrl-C, and leaves nothing running;
    the logs and files stay.

    Examples:
      shareddata demo
      shareddata demo --seconds 60
      shareddata demo arrays
      shareddata demo page
    """
    if what == "page":
        lookcli.demo_page(seconds, logs)
        return
    seconds = 8.0 if seconds is None else seconds
    if what == "arrays":
        live = arguments.Live()
        folder = arraydemo.run(live.say, live.show, seconds=seconds, folder=logs)
        print(f"Done; nothing of it runs any more. All of it is in {folder}")
        return
    folder = demo.run(_show, arguments.Live().say, seconds=seconds, logs=logs)
    print(f"Done; nothing of it runs any more. The CSV logs are in {folder}")
    print("See them in a browser:  shareddata demo page   (in a checkout: scripts/demo page)")
    first = "" if shutil.which("shareddata") else "install it (README.md), then  "
    print(f"Try next:  {first}shareddata new tank   (your own device)   or   shareddata serve   (a server that stays)")


def _show(shm: SharedMemory, names: Sequence[str], seconds: float) -> None:
    try:
        watch.show(shm, names, seconds=seconds, title="shareddata demo: recorded devices, live; Ctrl-C ends")
    except KeyboardInterrupt:
        pass  # the usual way to end it early


COMMANDS: dict[str, Command] = {
    each.name: each
    for each in (
        *(
            init,
            check,
            list_,
            get,
            set_,
            watch_,
            tail,
            lookcli.page_,
            lookcli.plot_,
            lookcli.docs_,
            lookcli.stubs_,
            logcli.record_,
            logcli.replay_,
            logcli.export_,
            logcli.log,
            logcli.forward_,
            sensorcli.sensor,
            archivecli.archive_,
            trustcli.acl_,
            trustcli.diff,
            trustcli.doctor_,
        ),
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
        with suppress(BrokenPipeError):  # of a reader that has seen enough
            print(help_text(), end="")
        let_output_go()
    elif first in ("-V", "--version"):
        print(f"shareddata {_version()}")
    elif first in COMMANDS:
        COMMANDS[first].run(arguments[1:])
    elif first.startswith("-") and (place := _command_behind_options(arguments)):
        name, options = arguments[place], shlex.join([*arguments[:place], *arguments[place + 1 :]])
        print(f"shareddata: the command comes first: shareddata {name} {options}", file=sys.stderr)
        sys.exit(2)
    elif first.startswith("-") or first.endswith(".json") or Path(first).exists():
        init.run(arguments)
    else:
        near = difflib.get_close_matches(first, COMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
        print(f"shareddata: no command {first!r}: {hint}", file=sys.stderr)
        sys.exit(2)


def _command_behind_options(arguments: Sequence[str]) -> int | None:
    """Return the place of a command that options stand before; None where what stands there is a file for `init`."""
    for place, (before, each) in enumerate(pairwise(arguments), 1):
        if each.endswith(".json") or Path(each).exists():
            return None
        if each in COMMANDS and (not before.startswith("-") or before in ("-d", "--debug")):
            return place
    return None


def _version() -> str:
    try:
        return version("shareddata")
    except PackageNotFoundError:
        return "from a checkout that is not installed"
