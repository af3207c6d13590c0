"""Is the server set up as it should be: each check looks at the facts and says what it finds.

It knows what durability, memory, rights, replication and notifications should be like, and the command that mends
each. It must not know records or logs (`datahealth`), or how findings are shown. Invariants:

1. A check asks nothing that changes anything.
2. What is wrong is told with a command that mends it.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from shareddata.facts import NOTE, OK, WRONG, Facts, Finding, counted, several, size_text, unasked
from shareddata.tslog import durability

_SKEW = 0.5  # seconds
_FULL = 0.8  # of a bound
_LAG = 10  # seconds that a replica may be behind
_SLOW = 0.01  # seconds of a round trip that are worth a note
_NEEDED = ("HMGET", "HSET", "XADD", "XRANGE", "XINFO", "MULTI", "EXEC", "WATCH", "PEXPIRE", "CLIENT", "SUBSCRIBE")
_LOCAL = ("127.0.0.1", "::1", "-::1", "localhost")
_MOST_USERS = 50


def version(facts: Facts) -> Iterator[Finding]:
    """Which server it is, and whether it has what the library needs."""
    info = facts.info
    if info is None:
        yield unasked("version", "INFO")
        return
    kind, number = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
    yield Finding("version", OK, f"{kind} {number}, up for {_time(facts.number('uptime_in_seconds'))}")
    found = facts.ask(lambda answer: answer, "COMMAND", "INFO", *_NEEDED) or []
    lacking = [name for name, answer in zip(_NEEDED, found) if answer is None]
    if lacking:
        yield Finding(
            "version", WRONG, f"the server does not know {several(lacking)}: renamed away in its configuration?",
            "delete the lines rename-command from redis.conf, and use rights instead: shareddata acl",
        )  # fmt: skip
    if kind == "Redis" and number.startswith("7.0.") and info.get("aof_enabled") == "1":
        yield Finding(
            "version", NOTE, f"Redis {number} may keep half of a transaction at the end of its append-only file when it"
            " is killed: what is written after the next start can be lost at the start after that",
            "after a crash: redis-cli bgrewriteaof",
        )  # fmt: skip
    if info.get("cluster_enabled") == "1" and not facts.shm.namespace:
        yield Finding("version", WRONG, "this server is part of a cluster, and no namespace is given", "give -n NAME")


def persistence(facts: Facts) -> Iterator[Finding]:
    """What a kill of the server, and a power cut, would lose."""
    if facts.info is None:
        yield unasked("persistence", "INFO")
        return
    text = durability(facts.connection)
    remedy, verdict = "", OK
    if text.startswith("in memory"):
        verdict, remedy = WRONG, "redis-cli config set appendonly yes; redis-cli config rewrite"
    elif text.startswith("on disk when"):
        verdict, remedy = WRONG, "redis-cli config set appendfsync everysec; redis-cli config rewrite"
    elif "not while the server rewrites" in text:
        verdict, remedy = WRONG, "redis-cli config set no-appendfsync-on-rewrite no; redis-cli config rewrite"
    yield Finding("persistence", verdict, f"what is written is {text}", remedy)
    yield from _disk(facts)


def _disk(facts: Facts) -> Iterator[Finding]:
    info, config = facts.info or {}, facts.config or {}
    failed = [what for what, name in (("append-only file", "aof_last_write_status"),
              ("last rewrite of it", "aof_last_bgrewrite_status"), ("last snapshot", "rdb_last_bgsave_status"))
              if info.get(name, "ok") != "ok"]  # fmt: skip
    if failed:
        folder = config.get("dir", "its folder")
        yield Finding(
            "persistence", WRONG, f"the server could not write its {several(failed)}: it may refuse every write",
            f"make room in {folder}, see its rights and the server's log; then redis-cli bgsave",
        )  # fmt: skip
    if info.get("aof_enabled") == "1" and config.get("auto-aof-rewrite-percentage") == "0":
        size = size_text(facts.number("aof_current_size"))
        yield Finding(
            "persistence", WRONG, f"the append-only file is never rewritten: it has {size}, and grows for ever",
            "redis-cli config set auto-aof-rewrite-percentage 100; redis-cli config rewrite",
        )  # fmt: skip
    folder = config.get("dir", "")
    if facts.local and os.path.isdir(folder):
        usage = shutil.disk_usage(folder)
        if usage.free < (1 - _FULL) / 4 * usage.total:
            yield Finding(
                "persistence", WRONG, f"the disk of {folder} has only {size_text(usage.free)} left",
                f"make room on the disk of {folder}",
            )  # fmt: skip


def memory(facts: Facts) -> Iterator[Finding]:
    """Whether the server's memory has a bound, and what it does there."""
    if facts.info is None:
        yield unasked("memory", "INFO")
        return
    bound, used = facts.number("maxmemory"), facts.number("used_memory")
    policy = facts.info.get("maxmemory_policy", "noeviction")
    if not bound:
        half = facts.number("total_system_memory") // 2
        yield Finding(
            "memory", NOTE, f"{size_text(used)} used, and no bound: a full machine ends programs, or the server",
            f"redis-cli config set maxmemory {half}; redis-cli config rewrite",
        )  # fmt: skip
    elif used > _FULL * bound:
        yield Finding(
            "memory", WRONG, f"{size_text(used)} of {size_text(bound)} used: soon every write is refused",
            f"shorten histories, shareddata log trim, or: redis-cli config set maxmemory {2 * bound}",
        )  # fmt: skip
    else:
        yield Finding("memory", OK, f"{size_text(used)} of {size_text(bound)} used")
    if policy != "noeviction":
        yield Finding(
            "memory", WRONG, f"at the bound the server deletes keys in silence ({policy})",
            "redis-cli config set maxmemory-policy noeviction; redis-cli config rewrite",
        )  # fmt: skip


def clients(facts: Facts) -> Iterator[Finding]:
    """Whether there is room for more connections, and how long a question takes."""
    connected, most = facts.number("connected_clients"), facts.number("maxclients")
    if most and connected > _FULL * most:
        yield Finding(
            "clients", WRONG, f"{connected} of {most} connections are taken",
            f"redis-cli config set maxclients {2 * most}; see who with redis-cli client list",
        )  # fmt: skip
    elif facts.info is not None:
        yield Finding("clients", OK, counted(connected, "connection"))
    if (facts.config or {}).get("timeout", "0") != "0":
        yield Finding(
            "clients", NOTE, f"the server closes connections that are idle for {(facts.config or {})['timeout']} s",
            "redis-cli config set timeout 0",
        )  # fmt: skip
    facts.shm.clock.now()
    uncertainty = facts.shm.clock.uncertainty
    if uncertainty > _SLOW / 2:
        yield Finding("clients", NOTE, f"a question takes {2000 * uncertainty:.0f} ms: a slow link, or a busy server")


def notifications(facts: Facts) -> Iterator[Finding]:
    """Whether listeners are told of writes."""
    if facts.config is None:
        yield Finding("notifications", NOTE, "CONFIG is refused: listeners use tracking instead, which is as good")
        return
    flags = facts.config.get("notify-keyspace-events", "")
    needed = all(flag in flags or (flag != "K" and "A" in flags) for flag in "Khx")
    extra = set(flags) - set("Khx")
    if not needed:
        yield Finding(
            "notifications", NOTE, f"the flags are {flags!r}: the first listener switches on what is missing",
            "redis-cli config set notify-keyspace-events Khx; redis-cli config rewrite",
        )  # fmt: skip
    elif extra:
        yield Finding(
            "notifications", NOTE, f"the flags are {flags!r}: more than listeners need, and each event costs time",
            "redis-cli config set notify-keyspace-events Khx; redis-cli config rewrite",
        )  # fmt: skip
    else:
        yield Finding("notifications", OK, "on, and no more than needed")


def clock(facts: Facts) -> Iterator[Finding]:
    """Whether this machine's clock agrees with the server's."""
    offset = facts.shm.clock.offset
    if abs(offset) > _SKEW:
        direction = "behind" if offset > 0 else "ahead of"
        yield Finding(
            "clock", WRONG, f"this machine's clock is {abs(offset):.1f} s {direction} the server's: what is written "
            "from here bears wrong times",
            "on both machines: timedatectl set-ntp true",
        )  # fmt: skip
    else:
        yield Finding("clock", OK, f"this machine's and the server's differ by {abs(offset) * 1000:.1f} ms")


def replication(facts: Facts) -> Iterator[Finding]:
    """Whether this is the master, and its replicas are with it."""
    if facts.info is None:
        yield unasked("replication", "INFO")
        return
    info = facts.info
    if info.get("role") == "slave":
        where = f"{info.get('master_host')}:{info.get('master_port')}"
        link = "" if info.get("master_link_status") == "up" else ", and it has lost it"
        yield Finding(
            "replication", WRONG, f"this is a replica of {where}{link}: writes are refused",
            f"use the master's address: redis://{where}",
        )  # fmt: skip
        return
    replicas = [dict(pair.split("=", 1) for pair in text.split(",")) for name, text in info.items()
                if name.startswith("slave") and name[5:].isdigit()]  # fmt: skip
    late = [f"{each['ip']}:{each['port']}" for each in replicas
            if each["state"] != "online" or int(each.get("lag", 0)) > _LAG]  # fmt: skip
    config = facts.config or {}
    least = int(config.get("min-replicas-to-write", config.get("min-slaves-to-write", "0")))
    if late:
        yield Finding(
            "replication", WRONG, f"replicas that don't keep up: {several(late)}", "see these servers and their links"
        )
    if least > len(replicas) - len(late):
        yield Finding(
            "replication", WRONG, f"{len(replicas) - len(late)} replicas are there, {least} are wanted: every write is "
            "refused",
            f"start the replicas, or: redis-cli config set min-replicas-to-write {len(replicas) - len(late)}",
        )  # fmt: skip
    if not late:
        text = f"a master with {counted(len(replicas), 'replica')}" if replicas else "a server by itself"
        yield Finding("replication", OK, text)


def rights(facts: Facts) -> Iterator[Finding]:
    """Who gets in, and who may write what."""
    yield from _secrets()
    users = facts.ask(lambda answer: [name.decode(errors="replace") for name in answer], "ACL", "USERS")
    if users is None:
        yield Finding("rights", OK, f"logged in as {facts.user or 'a user'}, who may not see the others' rights")
        return
    default = facts.ask(lambda answer: answer, "ACL", "GETUSER", "default")
    flags = [flag.decode() for flag in default[b"flags"]]
    if "on" in flags and "nopass" in flags:
        yield _open_to_all(facts)
    else:
        yield Finding("rights", OK, f"{counted(len(users), 'user')}; nobody gets in without a password")
    if len(users) > 1:
        yield from _writers(facts, [user for user in users[:_MOST_USERS] if user not in ("admin", facts.user)])


def _open_to_all(facts: Facts) -> Finding:
    config = facts.config or {}
    remedy = "shareddata acl -o users.acl FILE..., see docs/howto/rights.md"
    bound = config.get("bind", "").split()
    ports = [config.get(name, "0") for name in ("port", "tls-port")]
    exposed = any(port != "0" for port in ports) and not all(address in _LOCAL for address in bound)
    if exposed and config.get("protected-mode", "yes") == "no":
        where = " ".join(bound) or "all addresses"
        text = f"everybody who reaches {where} can read, write and delete everything"
        return Finding("rights", WRONG, text, remedy)
    if ports == ["0", "0"] and config.get("unixsocketperm") == "700":
        return Finding("rights", OK, "only this Unix user reaches the server; whoever does can do everything")
    return Finding("rights", NOTE, "everybody who may connect, from this machine, can do everything", remedy)


def _writers(facts: Facts, users: list[str]) -> Iterator[Finding]:
    """Look who may write owned records beside their owners; asked of the server, not read from rules."""
    owned = [record for name in facts.shm.names() if (record := facts.shm.describe(name)).owner]
    prefix = f"{facts.shm.namespace}." if facts.shm.namespace else ""
    wrong: dict[str, list[str]] = {}
    for record in owned:
        key = facts.shm.keys.record(record.name)
        for user in users:
            dry = facts.ask(lambda answer: answer, "ACL", "DRYRUN", user, "HSET", key, "ts", "0")
            if dry in ("OK", b"OK") and user not in (record.owner, prefix + record.owner, f"{prefix}admin"):
                wrong.setdefault(user, []).append(record.name)
    for user, names in wrong.items():
        yield Finding(
            "rights", WRONG, f"the user {user} may write {several(names)}, which belong to others",
            "shareddata acl -o users.acl FILE...; redis-cli acl load",
        )  # fmt: skip
    missing = sorted({record.owner for record in owned} - {user.removeprefix(prefix) for user in users} - {facts.user})
    if missing and len(users) < _MOST_USERS:
        yield Finding(
            "rights", NOTE, f"owners of records that are no users of this server: {several(missing)}",
            "shareddata acl -o users.acl FILE...; redis-cli acl load",
        )  # fmt: skip


def _secrets() -> Iterator[Finding]:
    """Look whether others can read the passwords that this program was told of."""
    for name, value in sorted(os.environ.items()):
        path = Path(value)
        if not name.startswith("SHAREDDATA_") or not name.endswith("PASSWORD_FILE") or not path.is_file():
            continue
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding("rights", WRONG, f"others can read the password in {path} (${name})", f"chmod 600 {path}")


def _time(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    version, persistence, memory, clients, notifications, clock, rights, replication,
)  # fmt: skip
"""All checks, in the order in which they are told."""


