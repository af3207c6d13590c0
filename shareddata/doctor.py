"""The doctor: connects, looks at everything, and says in plain words what is right and what isn't.

It knows the order of the looks, and what it means that one fails. It must not know what is right (`serverhealth`,
`datahealth`), or terminals. Invariants:

1. Nothing is changed: a doctor may be called at any time, on a system that runs.
2. A server that cannot be reached, or refuses, is a finding with a remedy, and no error.
3. What this user may not ask is said, and the rest is looked at all the same.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from shareddata import datahealth, serverhealth
from shareddata.datadesc import Record
from shareddata.errors import ServerError, ServerRefused, ServerSetupError, SharedDataError
from shareddata.facts import OK, UNKNOWN, WRONG, Facts, Finding
from shareddata.memory import SharedMemory

__all__ = ["Finding", "examine", "healthy"]


def examine(connect: Callable[[], SharedMemory], files: Mapping[str, Record] | None = None) -> list[Finding]:
    """Look at a server and what is on it.

    Args:
        connect: returns the shared memory, or raises why it can't.
        files: descriptions that it should have.

    Returns:
        What was found, in the order in which it matters.

    Redis: INFO, CONFIG GET, ACL USERS, ACL GETUSER, ACL DRYRUN, COMMAND INFO, TIME, SCAN, MEMORY USAGE; what reads
    records, logs and events.
    """
    try:
        shm = connect()
    except SharedDataError as error:
        text, _, remedy = str(error).rpartition(": ")
        return [Finding("connection", WRONG, text or str(error), remedy)]
    with shm:
        found = [Finding("connection", OK, f"{shm.url} answers")]
        try:
            with Facts(shm) as facts:
                for check in serverhealth.CHECKS:
                    found += _safely(check.__name__, partial(check, facts))
                for data_check in datahealth.CHECKS:
                    found += _safely(data_check.__name__, partial(data_check, facts, files or {}))
                client = facts.client
                found = [each._replace(remedy=each.remedy.replace("redis-cli", client)) for each in found]
        except ServerError as error:
            found.append(Finding("connection", WRONG, str(error), "look again when the server is back"))
    return found


def healthy(found: list[Finding]) -> bool:
    """Tell whether nothing is to be mended."""
    return all(each.verdict != WRONG for each in found)


def _safely(subject: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Do one look; what the server refuses, or what is damaged, does not hinder the others."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except (ServerRefused, ServerSetupError) as error:
        found.append(Finding(subject, UNKNOWN, str(error), "log in as admin"))
    except ServerError:
        raise
    except SharedDataError as error:
        found.append(Finding(subject, WRONG, str(error)))
    return found
