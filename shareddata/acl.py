"""Rights: what each program may do, made of the data descriptions, as the server's own access lists.

It knows which keys and commands each kind of writing needs, and how a server's ACL file spells that. It must not know
sockets; the server is the one that enforces it. Invariants:

1. A program may read its namespace, and write what is its own; what is not named is forbidden: commands are listed, not
   excepted, so that a newer server's commands are no surprise.
2. A record has one program that may write it, its owner. One without an owner is the operator's.
3. Passwords are made by chance, kept in a file for each program, and never printed; a file that is there is kept.

    >>> from shareddata.datadesc import parse_record
    >>> battery = parse_record("BATTERY", {"owner": "HDL_BATTERY", "fields": [["ts", 0.0], ["sender", ""]]})
    >>> sorted(rights({"BATTERY": battery}))
    ['HDL_BATTERY', 'admin', 'operator', 'reader']
"""

import difflib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shareddata.datadesc import Record
from shareddata.errors import DescriptionError
from shareddata.names import Names

ADMIN, OPERATOR, READER = "admin", "operator", "reader"

_USER = re.compile(r"[A-Za-z0-9_.-]+")
_NAME = re.compile(r"[A-Za-z0-9_./*?-]+")
_SPECIAL = "*?[]^\\"

_READING = """
    auth hello ping time echo quit client|setname client|id client|tracking client|caching
    multi exec discard watch unwatch subscribe psubscribe unsubscribe punsubscribe
    get mget strlen getrange exists type ttl pttl hget hmget hgetall hkeys hvals hlen hexists hstrlen
    lrange llen lindex smembers sismember scard zrange zscore zcard
    xrange xrevrange xread xlen xinfo|stream xinfo|groups xpending scan memory|usage acl|whoami
    info role wait readonly cluster|slots cluster|shards cluster|info
"""
"""What changes nothing: whoever may log in may do that, to keys of its namespace."""


class Kind(NamedTuple):
    """A kind of writing that a program may be given the right to."""

    what: str
    """What its names are, in words."""
    commands: str
    """What is sent for it, beside what everybody may."""
    keys: Callable[[Names, str], Sequence[str]]
    """The keys that it takes, as patterns, for one name."""


def _with_all_below(key: str) -> list[str]:
    return [key, f"{key}:*"]


KINDS = {
    "records": Kind(
        "records that have no owner", "hset xadd pexpire persist", lambda k, n: [k.record(n), k.history(n)]
    ),
    "logs": Kind(
        "logs that it stores into",
        "set setnx del xadd xtrim xgroup|create xgroup|setid",
        lambda k, n: _with_all_below(f"{k.prefix}tslog:{n}"),
    ),
    "cursors": Kind(
        "logs that it reads, and commits how far", "xgroup|create xgroup|setid", lambda k, n: [f"{k.prefix}tslog:{n}"]
    ),
    "queues": Kind(
        "queues that it takes from and puts into", "rpush lpop blpop ltrim", lambda k, n: [f"{k.prefix}fifo:{n}"]
    ),
    "pushes": Kind("queues that it puts into", "rpush", lambda k, n: [f"{k.prefix}fifo:{n}"]),
    "sensors": Kind(
        "sensors that it writes, as DIRECTORY/NAME",
        "hset hdel zadd zrem xadd xdel xtrim incr set copy sadd srem del unlink",
        lambda k, n: [*_with_all_below(f"{k.prefix}sensor:{n}"), *_with_all_below(k.sensors())],
    ),
    "frames": Kind(
        "frame files that it writes",
        "set hset hdel xadd xdel del expire",
        lambda k, n: [*_with_all_below(f"{k.prefix}frames:{n}"), k.frame_files()],
    ),
    "events": Kind(
        "sources whose events it emits",
        "hset hdel hincrby xadd xtrim incr set sadd",
        lambda k, n: [f"{k.prefix}event:{n}:*", k.events()],
    ),
    "archives": Kind(
        "sources whose events it archives",
        "hset hdel hsetnx hincrby xtrim xreadgroup xack xgroup|create xgroup|destroy incr",
        lambda k, n: [f"{k.prefix}event:{n}:*", k.archived()],
    ),
}
"""What the file of further rights may name for a program."""


@dataclass(frozen=True)
class Rights:
    """What one user may do.

    Attributes:
        user: the name that it logs in with.
        words: the rules, as the server takes them, without a password.
        told: the same for people.
    """

    user: str
    words: tuple[str, ...]
    told: str


def rights(
    records: Mapping[str, Record],
    programs: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    namespace: str = "",
) -> dict[str, Rights]:
    """Return what each user may do.

    Args:
        records: what is described.
        programs: further rights: for each program lists of names (with `*` and `?`), by the words of `KINDS`.
        namespace: of the records; the users' names begin with it, and a dot.

    Returns:
        By user: each record's owner, each program, `admin`, `operator` (records without an owner, all queues) and
        `reader`.

    Raises:
        DescriptionError: an owner that cannot be a user's name, or a wrong list.

    Redis: none.
    """
    keys, programs = Names(namespace), dict(programs or {})
    owned: dict[str, list[str]] = {}
    for record in records.values():
        if record.owner:
            owned.setdefault(_user(record.owner, f"record {record.name}"), []).append(record.name)
    for reserved in (ADMIN, OPERATOR, READER, "default"):
        if reserved in owned or reserved in programs:
            raise DescriptionError(f"{reserved!r} is a user of its own: give the program another name")
    found = {
        name: _program(keys, name, owned.get(name, []), _checked(name, programs.get(name, {}), records))
        for name in sorted({*owned, *programs})
    }
    free = [record.name for record in records.values() if not record.owner]
    found[OPERATOR] = _program(keys, OPERATOR, [], {"records": free, "pushes": ["*"]} if free else {"pushes": ["*"]})
    found[READER] = _program(keys, READER, [], {})
    found[ADMIN] = Rights(ADMIN, tuple(_admin(keys)), "everything")
    dot = f"{namespace}." if namespace else ""
    return {dot + name: Rights(dot + name, each.words, each.told) for name, each in found.items()}


def _admin(keys: Names) -> list[str]:
    """Return the rights of who initialises: everything; of a namespace's, everything that has keys there."""
    if not keys.prefix:
        return ["~*", "&*", "+@all"]
    return [*_reading(keys), f"~{_escaped(keys.prefix)}*", "+@read", "+@write", "-@dangerous", "-@scripting", "-@admin"]


def _reading(keys: Names) -> list[str]:
    prefix = _escaped(keys.prefix)
    return ["resetkeys", "resetchannels", "-@all", *_plus(_READING), f"%R~{prefix}*", f"&__keyspace@*__:{prefix}*"]


def _program(keys: Names, name: str, owned: Sequence[str], more: Mapping[str, Sequence[str]]) -> Rights:
    """Return what a program may: read, write the records that it owns, under a lease, and what it was given beside."""
    words, told = _reading(keys), [f"records {' '.join(owned)}"] if owned else []
    if owned:
        words.append(_selector(keys, KINDS["records"].commands, _of_records(keys, owned)))
        signs = [keys.writer(name, "*"), keys.fence(name, "*")]
        words.append(_selector(keys, "set del", [*(keys.lease(record) for record in owned), *signs]))
    for kind, names in more.items():
        patterns = [pattern for each in names for pattern in KINDS[kind].keys(keys, each)]
        words.append(_selector(keys, KINDS[kind].commands, patterns))
        told.append(f"{kind} {' '.join(names)}")
    return Rights(name, tuple(words), "; ".join(told) or "nothing")


def _of_records(keys: Names, records: Sequence[str]) -> list[str]:
    return [key for record in records for key in (keys.record(record), keys.history(record))]


def _selector(keys: Names, commands: str, patterns: Sequence[str]) -> str:
    """Return a right to commands on keys only; whoever has several may not mix them."""
    escaped = [_escaped(keys.prefix) + each.removeprefix(keys.prefix) for each in dict.fromkeys(patterns)]
    return f"({' '.join([*_plus(commands), *(f'~{each}' for each in escaped)])})"


def _plus(commands: str) -> list[str]:
    return [f"+{command}" for command in commands.split()]


def _escaped(prefix: str) -> str:
    return "".join(f"\\{character}" if character in _SPECIAL else character for character in prefix)


def _user(name: Any, where: str) -> str:
    if not isinstance(name, str) or not _USER.fullmatch(name):
        raise DescriptionError(
            f"{where}: {name!r} cannot be a user's name: use letters, digits, '_', '.' and '-' only, at least one"
        )
    return name


def _checked(user: str, lists: Any, records: Mapping[str, Record]) -> dict[str, list[str]]:
    """Check one program's further rights."""
    where = f"program {_user(user, 'program')}"
    if not isinstance(lists, Mapping):
        raise DescriptionError(f'{where}: expected an object of lists, like {{"logs": ["trip"]}}')
    for kind, names in lists.items():
        if kind not in KINDS:
            near = difflib.get_close_matches(str(kind), KINDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KINDS)}"
            raise DescriptionError(f"{where}: unknown right {kind!r}: {hint}")
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) and _NAME.fullmatch(n) for n in names):
            raise DescriptionError(
                f"{where}, {kind}: found {json.dumps(names)[:80]}, expected a list of names of {KINDS[kind].what}: "
                "letters, digits, '_', '.', '-', '/', '*' and '?'"
            )
        for name in names if kind == "records" else ():
            if name not in records or records[name].owner:
                owner = records[name].owner if name in records else ""
                reason = f"belongs to {owner}: only its owner writes it" if owner else "is not described"
                raise DescriptionError(f"{where}: record {name!r} {reason}")
    return {kind: list(names) for kind, names in lists.items() if names}


def programs_from(path: Path) -> dict[str, Any]:
    """Read a file of further rights.

    Raises:
        DescriptionError: it cannot be read, or is no JSON object.

    Redis: none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DescriptionError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise DescriptionError(f'{path}: expected an object of programs, like {{"LOGGER": {{"logs": ["trip"]}}}}')
    return found


# -- the file ---------------------------------------------------------------------------------------------------------


def password_hashes(folder: Path, users: Sequence[str]) -> dict[str, str]:
    """Return the hash of each user's password; a password that has no file yet is made.

    Args:
        folder: with a file for each user, which nobody else may read; made if missing.
        users: their names.

    Raises:
        DescriptionError: an empty file.
        OSError: the folder or a file cannot be used.

    Redis: none.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {user: hashlib.sha256(_password(folder / user).encode()).hexdigest() for user in users}


def _password(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
        if not password:
            raise DescriptionError(f"{path}: is empty: delete it, and a password is made") from None
        return password
    password = secrets.token_urlsafe(24)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(password + "\n")
    return password


def text(users: Mapping[str, Rights], hashes: Mapping[str, str]) -> str:
    """Return an ACL file: nobody gets in without a name.

    Args:
        users: from `rights`.
        hashes: from `password_hashes`.

    Redis: none.
    """
    lines = ["user default off nopass resetkeys resetchannels -@all"]
    lines += [f"user {user} on #{hashes[user]} {' '.join(each.words)}" for user, each in users.items()]
    return "\n".join(lines) + "\n"
