"""The commands of trust: acl, diff, doctor.

As in `cli`, each parses its arguments, calls the library and prints what it says. It knows what each command is for; it
must not know keys, sockets or how anything is done. Invariants:

1. No password is printed.
"""

import os
import sys
from pathlib import Path

from shareddata import acl, arguments, descdiff, descfile, doctor, facts, table
from shareddata.command import UsageError, Where, command

_LONGEST = 70  # characters of what a user may write
_VERDICTS = {facts.OK: "ok", facts.NOTE: "note", facts.WRONG: "WRONG", facts.UNKNOWN: "?"}


@command(
    talks=False,
    programs=("What programs may write beside their own records: a JSON file", "option", "g", str, None, "JSON"),
    namespace=("Namespace of the records", "option", "n", str, None, "NAME"),
    passwords=("Folder with a file for each user's password; made if missing", "option", "w", str, None, "passwords"),
    output=("Write the ACL file here instead of printing it", "option", "o", str, None, "FILE"),
    files=("Data descriptions", "positional", None, str, None, "FILE"),
)
def acl_(
    programs: str | None = None,
    namespace: str = "",
    passwords: str = "passwords",
    output: str | None = None,
    *files: str,
) -> None:
    """Make a server's ACL file from data descriptions, so that the server itself refuses who has no right.

    Each owner of records gets a user of its name, which may read everything and write its own records only; with them
    come `reader`, `operator` (records without an owner, all queues) and `admin` (init). Nobody gets in without a name.
    Passwords are made by chance, one file a user; those that are there are kept. What each user may write is told on
    standard error. The how-to page on rights tells where the file goes, and how programs log in.

    Examples:
      shareddata acl -o users.acl datadesc/*.json
      shareddata acl --programs programs.json --passwords /etc/shareddata/passwords datadesc/*.json > users.acl
    """
    if not files:
        raise UsageError("give at least one data description (a JSON file)")
    more = acl.programs_from(Path(programs)) if programs else {}
    users = acl.rights(descfile.load(*files), more, namespace)
    folder = Path(passwords)
    text = acl.text(users, acl.password_hashes(folder, list(users)))
    if output:
        _write(Path(output), text)
    else:
        print(text, end="")
    rows = [(each.user, table.clip(each.told, _LONGEST), str(folder / each.user)) for each in users.values()]
    print("\n".join(table.grid([("USER", "MAY WRITE", "PASSWORD IN"), *rows])), file=sys.stderr)


def _write(path: Path, text: str) -> None:
    """Write an ACL file for its owner's eyes, in its place. It is never empty: a server lets everybody in then."""
    new = not path.exists()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.truncate()
    except OSError:
        if new:
            path.unlink(missing_ok=True)
        raise


@command(
    json=arguments.JSON,
    files=("The old and the new data description; the new one alone", "positional", None, str, None, "FILE"),
)
def diff(where: Where, json: bool = False, *files: str) -> int:
    """Tell how a data description differs from another one, and whether running programs go on.

    With one file it is compared with what the server has of the records in it. Each difference is called compatible
    (programs go on), beware (they go on, and something means something else to them) or incompatible (they stop). The
    exit code is 1 if one is incompatible.

    Examples:
      shareddata diff old.json new.json
      shareddata diff battery.json && shareddata init --keep battery.json
    """
    if len(files) not in (1, 2):
        raise UsageError("give the old and the new data description, or the new one alone")
    new = descfile.load(files[-1])
    if len(files) == 2:
        old = descfile.load(files[0])
    else:
        with where.open(arguments.SOON) as shm:
            old = {name: shm.describe(name) for name in shm.names() if name in new}
    found = descdiff.differences(old, new)
    fits = descdiff.compatible(found)
    if json:
        print(table.dumps({"compatible": fits, "differences": [each._asdict() for each in found]}, indent=1))
        return int(not fits)
    rows = [(each.verdict, str(each)) for each in found]
    if rows:
        print("\n".join(table.grid(rows)))
    counted = arguments.count(len(found), "difference")
    print(f"{counted}: {'running programs go on' if fits else 'NOT compatible: programs have to be started again'}")
    return int(not fits)


@command(
    json=arguments.JSON,
    files=("Data descriptions that the server should have", "positional", None, str, None, "FILE"),
)
def doctor_(where: Where, json: bool = False, *files: str) -> int:
    """Look at a server and what is on it, and say in plain words what is right and what isn't.

    It looks at the version, what a kill or a power cut would lose, memory, connections, notifications, clocks, rights,
    replication, descriptions, records that are old or damaged, sizes, and readers that hold logs back. What is wrong is
    told with the command that mends it. Nothing is changed. Log in as admin to have everything looked at. The exit code
    is 1 if something is to be mended.

    Examples:
      shareddata doctor
      shareddata doctor datadesc/*.json
      shareddata doctor --json | jq '.findings[] | select(.verdict == "wrong")'
    """
    found = doctor.examine(lambda: where.open(arguments.SOON), descfile.load(*files) if files else {})
    well = doctor.healthy(found)
    if json:
        print(table.dumps({"healthy": well, "findings": [each._asdict() for each in found]}, indent=1))
        return int(not well)
    for each in found:
        print(f"{_VERDICTS[each.verdict]:7}{each.subject:15}{table.clean(each.text)}")
        if each.remedy:
            print(f"{'':22}mend: {table.clean(each.remedy)}")
    wrong, note, unknown = (sum(e.verdict == each for e in found) for each in (facts.WRONG, facts.NOTE, facts.UNKNOWN))
    print(f"{wrong} to be mended, {note} to be known, {unknown} not looked at")
    return int(not well)
