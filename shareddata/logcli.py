"""The commands of logs, histories and recordings: record, replay, export, log, forward.

As in `cli`, each parses its arguments, calls the library and prints what it says. It knows what each command is for; it
must not know keys, sockets or how anything is done. Invariants:

1. A command that was stopped or that failed has told how far it came: what is written, played or sent stays so.
2. What was missed, lost or damaged is told on standard error and by the exit code, never left out in silence.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shareddata import arguments, export, forward, forwardview, logs, record, replay, rowsources, table, track
from shareddata.command import UsageError, Where, command, stopping
from shareddata.errors import DecodeError
from shareddata.login import TO_PREFIX, check_typed
from shareddata.memory import SharedMemory


@command(
    json=arguments.JSON,
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
    begin, span = arguments.since(since), arguments.span(every, "--every")
    seconds = None if length is None else arguments.span(length, "--length")
    if not megabytes > 0:
        raise UsageError("--megabytes must be above 0")
    with where.open() as shm:
        options: dict[str, Any] = {"since": begin, "size": int(megabytes * 1e6), "span": span}
        with record.Recorder(shm, folder, names, **options) as recorder, stopping(recorder.stop):
            if recorder.left_out:
                print(f"not recorded, for want of a history: {', '.join(recorder.left_out)}", file=sys.stderr)
            with arguments.progress(lambda: _recording(recorder)) as show:
                recorder.run(seconds, show)
    if json:
        print(table.dumps([row._asdict() for row in recorder.table()]))
        return
    done = recorder.table()
    rows = [
        (row.name, arguments.when(row.first), arguments.when(row.last), str(row.written), str(row.missed))
        for row in done
    ]
    print("\n".join(table.grid([("RECORD", "FIRST", "LAST", "WRITTEN", "MISSED"), *rows], right=[3, 4])))
    print(
        f"{folder}: {arguments.count(recorder.written, 'row')}, {recorder.size / 1e6:.1f} MB, {recorder.missed} missed"
    )


def _recording(recorder: record.Recorder) -> str:
    last = max((track.end.id for track in recorder.tracks.values() if track.end), default="")
    parts = [
        arguments.count(len(recorder.tracks), "record"),
        arguments.count(recorder.written, "row"),
        f"{recorder.size / 1e6:.1f} MB",
    ]
    return "  ".join([*parts, f"{recorder.missed} missed", f"last {arguments.when(record.seconds(last))}"])


@command(
    json=arguments.JSON,
    speed=("How many times faster than it was; 0: as fast as possible", "option", "s", arguments.SECONDS, None, "1"),
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
    names = only.split(",") if only else []
    with where.open() as shm, replay.opened(sources, shm, source_namespace) as source:
        start, end = arguments.time_in(from_, "--from", source.first), arguments.time_in(to, "--to", source.first)
        arguments.check_order(start, end, "--from")
        with replay.Replay(source, shm, names, speed=speed, start=start, end=end) as play:
            begin = time.monotonic()
            try:
                with arguments.progress(lambda: _playing(play)) as show:
                    play.run(loop, show)
            except KeyboardInterrupt:
                pass  # the usual way to end it early
            finally:
                _tell_played(play, json, time.monotonic() - begin)


def _playing(play: replay.Replay) -> str:
    length = play.end - play.start
    part = f"{100 * (play.now - play.start) / length:.0f} %" if length > 0 else "100 %"
    count = sum(each.count for each in play.played.values())
    late = f"  {play.late:.1f} s late" if play.late > 0.1 else ""
    return f"{table.time_text(play.now)}  {part}  {arguments.count(count, 'update')}{late}"


def _tell_played(play: replay.Replay, json: bool, seconds: float) -> None:
    played = list(play.played.values())
    if json:
        print(table.dumps([vars(each) for each in played]))
        return
    rows = [(each.name, arguments.when(each.first), arguments.when(each.last), str(each.count)) for each in played]
    print("\n".join(table.grid([("RECORD", "FIRST", "LAST", "PLAYED"), *rows], right=[3])))
    print(f"{arguments.count(sum(each.count for each in played), 'update')} in {seconds:.1f} s")


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
    exact=("CSV: texts as they are; without it what a spreadsheet takes for a formula begins with '", "flag", "e"),
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
    exact: bool = False,
    *names: str,
) -> int:
    """Write histories, a log or a recording into files for other programs: CSV, Parquet, HDF5 (NeXus) or MCAP.

    Values, times and units are exact (texts in CSV: with --exact); what a format cannot hold is an error, and leaves no
    file behind. A file has its name when it is whole. Times are UTC. The exit code is 1 when something could not be
    read and was left out.

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
    begin, end = arguments.ago(from_, "--from"), arguments.ago(to, "--to")
    arguments.check_order(begin, end, "--from")
    export.format_of(Path(target), format)  # before anything is waited for
    if recording:
        return _export(rowsources.RecordingSource([recording], names, begin, end), target, format, force, exact)
    with where.open(arguments.SOON) as shm:
        if log:
            return _export(rowsources.LogSource(shm, log, time, begin, end), target, format, force, exact)
        return _export(rowsources.HistorySource(shm, names, begin, end), target, format, force, exact)


def _export(source: rowsources.Source, target: str, form: str | None, force: bool, exact: bool) -> int:
    line = ""

    def tell(part: float, rows: int) -> None:
        nonlocal line
        line = f"[{'#' * int(30 * part):30}] {part:4.0%}  {arguments.count(rows, 'row')}"
        show(None)

    with arguments.progress(lambda: line) as show:
        done = export.export(source, target, form, force=force, exact=exact, progress=tell)
    rows = [
        (each.name, str(each.rows), arguments.at(each.first), arguments.at(each.last), str(each.file)) for each in done
    ]
    print("\n".join(table.grid([("RECORD", "ROWS", "FIRST", "LAST", "FILE"), *rows], right=[1])))
    for count, what in (
        (source.missed, "were not there any more: trimmed, or lost"),
        (source.repeated, "were left out: the same sender had written the same before"),
        (source.damaged, f"were left out: they cannot be read: {source.damage}"),
    ):
        if count:
            print(f"{count} rows {what}", file=sys.stderr)
    return int(source.damaged > 0)


# -- logs -----------------------------------------------------------------------------------------------------------

_ACTIONS = ("list", "stats", "tail", "trim", "verify")


@command(
    action=(f"What to do: {', '.join(_ACTIONS)}", "positional", None, str, _ACTIONS, "ACTION"),
    json=arguments.JSON,
    count=("tail: how many records of those that are there", "option", "c", arguments.COUNT, None, "10"),
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
    with where.open(arguments.SOON) as shm:
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
    damaged = [state.damage for state in states if state.damage]
    if json:
        print(table.dumps({state.name: state.as_json() for state in states}, indent=1))
        return int(bool(damaged))
    if not states:
        print(f"{shm.url}: there is no log", file=sys.stderr)
        return 0
    rows = [("LOG", "FORMATS", "FIRST", "LAST", "RECORDS", "BYTES", "READERS")]
    for state in (each for each in states if not each.damage):
        readers = ", ".join(f"{table.clean(cursor)} {state.lag(cursor)} behind" for cursor in state.cursors)
        size = "?" if state.size is None else str(state.size)
        shape = state.shape if state.made else "unknown"
        rows.append((state.name, shape, str(state.first), str(state.last), str(state.length), size, readers))
    print("\n".join(table.grid(rows, right=[2, 3, 4, 5])))
    print("".join(f"{table.clean(damage)}\n" for damage in damaged), end="", file=sys.stderr)
    return int(bool(damaged))


def _log_stats(state: logs.State, json: bool) -> int:
    if json:
        print(table.dumps(state.as_json(), indent=1))
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
        for entry in look.tail(count, follow):
            if look.restarts > restarts:
                restarts = look.restarts
                print(f"the numbers from {entry.seqn} on are other records now", file=sys.stderr)
            told = arguments.tell_missed(told, look.missed, "records: the log")
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
    return table.dumps({"seqn": seqn, "tag": tag, "values": shown})


def _log_verify(look: logs.Look, json: bool) -> int:
    found = look.verify()
    if json:
        print(table.dumps({"whole": found.whole, **asdict(found)}))
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
    print(f"{look.name}: {arguments.count(found.records, 'record')} read{span}: {verdict}")
    return int(not found.whole)


def _log_trim(done: logs.Trimmed, json: bool) -> int:
    if json:
        print(table.dumps(done._asdict()))
        return 0
    print(f"{arguments.count(done.dropped, 'record')} dropped, below {done.below}")
    for cursor, lost in done.lost.items():
        print(f"{table.clean(cursor)} loses {lost} that it had not committed", file=sys.stderr)
    return 0


@command(
    talks=False,
    from_=(
        "Address of the server that has the logs and records; default: $SHAREDDATA_URL",
        *("option", "f", str, None, "URL"),
    ),
    to_=("Address of the server that gets them; default: $SHAREDDATA_TO_URL", "option", "t", str, None, "URL"),
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
    behind. The exit code is 1 if something is not forwarded because others write it at the destination. User and
    password at the destination come from $SHAREDDATA_TO_USER and $SHAREDDATA_TO_PASSWORD_FILE.

    Examples:
      shareddata forward --from embedded:///var/lib/robot --to rediss://shore --to-namespace usv1
      shareddata forward --from embedded:///var/lib/robot --to rediss://shore --once 'GPS__*' trip
    """
    check_typed(from_, "--from")
    check_typed(to_, "--to", TO_PREFIX)
    from_, to_ = from_ or os.environ.get("SHAREDDATA_URL"), to_ or os.environ.get(f"{TO_PREFIX}_URL")
    if not timeout > 0:
        raise UsageError("--timeout must be above 0")
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
            with forwardview.Display(sys.stderr) as display:
                going.run(once, display.tell)
        except KeyboardInterrupt:
            pass  # the usual way to end it
        finally:
            print("\n".join(forwardview.summary(going.progress)), flush=True)
    return int(any(each.trouble for each in going.progress))
