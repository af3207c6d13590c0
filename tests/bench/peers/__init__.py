"""Who is compared, what each of them cannot do, and what all of them are asked.

A contender is a module of this package with a class `Contender`, written as its users would write it for that job, and
well. The table below is read without loading any of them. What a contender is asked:

    Contender(where)                       connect
    operation(what, records, history)      return a function of the number of the turn: what the table times
    settle()                               wait until all that was written has arrived at the other side
    writer(history)                        return a function that writes the values of one record
    hear(how, history, heard)              call heard(values) for each update until it returns True, or it is silent
    close()
    hold(where, ready)                     optional: be the other program, until the standard input ends
    describe(where)                        optional: prepare the server, once for all

`how` is `listen` (the newest values), `follow` (every update) or `slow` (the newest values, while `heard` takes its
time). Records that are bytes to a contender (pyzmq, eclipse-zenoh, files) are packed by `struct`: nothing is faster.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

FLOOR, OURS = "C", "shareddata"
SILENCE = 2.0  # seconds without news after which a listener gives up

_ONE_BY_ONE = "a message is one record: readers would see a group change one by one"
_NO_MEMORY = "it keeps nothing: who was not there has missed it"
_NO_LOG = "it stores nothing on disk"


@dataclass(frozen=True)
class Peer:
    """A line of the table of contenders.

    Attributes:
        module: of this package; empty for the C program.
        about: what it is, for the page.
        cannot: why it has no figure, by operation, `history` or `tcp`.
        has_unix: whether it has unix sockets; else it takes TCP in those rows.
        holds: whether its other side is a process of its own (`hold`).
        forks: whether it may be loaded before a fork.
    """

    module: str
    about: str
    cannot: Mapping[str, str] = field(default_factory=dict)
    has_unix: bool = True
    holds: bool = False
    forks: bool = True

    def reason(self, what: str, history: int = 0, transport: str = "unix") -> str:
        """Return why it cannot do an operation, an empty text if it can."""
        asked = [what, *(["history"] if history else []), *([transport] if transport == "tcp" else [])]
        return next((self.cannot[word] for word in asked if word in self.cannot), "")


def _no_group(reason: str) -> dict[str, str]:
    return {"flush": reason, "read": reason, "turn": reason}


PEERS: dict[str, Peer] = {
    FLOOR: Peer("", "a C program on libhiredis that sends the commands that shareddata sends, prepared once"),
    OURS: Peer("own", "this library through its public interface"),
    "redis-py": Peer("redis_py", "with its defaults and hiredis; MULTI pipelines for groups, HGETALL, XADD"),
    "walrus": Peer("walrus_", "Hash and Stream objects over redis-py; a transaction for groups"),
    "pyzmq": Peer(
        "zeromq",
        "PUB and SUB with CONFLATE, a socket a record; REQ and REP to a program that keeps the newest values",
        _no_group(_ONE_BY_ONE) | {"history": _NO_MEMORY, "log": _NO_LOG},
        holds=True,
    ),
    "eclipse-zenoh": Peer(
        "zenoh_",
        "two peers without a router; a declared publisher, a callback, a queryable; a publisher's cache as history",
        _no_group("each key is a message of its own: readers would see a group change one by one")
        | {"log": "its storages are plug-ins of the router, which PyPI does not have"},
        holds=True,
    ),
    "p4p": Peer(
        "pva",
        "EPICS pvAccess: the writer's program has the PVs (SharedPV.post), readers get and monitor them",
        _no_group("a put or get of several PVs is one for each PV: they may be of different moments")
        | {"history": "it keeps the newest value only", "log": _NO_LOG},
        has_unix=False,
        holds=True,
        forks=False,
    ),
    "files": Peer(
        "files",
        "a file a record in a tmpfs, written beside and renamed; inotify",
        _no_group("a rename replaces one file: readers would see a group change one by one")
        | {
            "history": "a file holds one value",
            "follow": "it holds the newest value only, and inotify merges what comes fast",
            "tcp": "it is for one machine",
        },
    ),
}


def keep(names: list[str]) -> None:
    """Compare with these only, and with the floor."""
    for name in [name for name in PEERS if name not in (FLOOR, OURS, *names)]:
        del PEERS[name]


def load(name: str) -> Any:
    """Return a contender's class."""
    return importlib.import_module(f"peers.{PEERS[name].module}").Contender


Heard = Callable[[tuple[float, ...]], bool]
