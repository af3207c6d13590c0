"""The commands of trust: acl.

As in `cli`, each parses its arguments, calls the library and prints what it says. It knows what each command is for; it
must not know keys, sockets or how anything is done. Invariants:

1. No password is printed.
"""

import os
import sys
from pathlib import Path

from shareddata import acl, descfile, table
from shareddata.command import UsageError, command

_LONGEST = 70  # characters of what a user may write


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
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text, end="")
    rows = [(each.user, table.clip(each.told, _LONGEST), str(folder / each.user)) for each in users.values()]
    print("\n".join(table.grid([("USER", "MAY WRITE", "PASSWORD IN"), *rows])), file=sys.stderr)
