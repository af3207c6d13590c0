"""Who a program is to a server: user and password, from the environment or a file.

It knows variables and files; it must not know addresses or sockets. Invariants:

1. A password comes from the environment or a file, never from a command line, and is in no message.
2. Both are looked up for each new connection: a password that was changed in its file is taken up.

Of the prefix SHAREDDATA the variables are SHAREDDATA_USER, SHAREDDATA_PASSWORD and SHAREDDATA_PASSWORD_FILE.
"""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from shareddata.errors import ServerSetupError

PREFIX = "SHAREDDATA"
TO_PREFIX = "SHAREDDATA_TO"
"""Of the server that something is copied to."""
FROM_PREFIX = "SHAREDDATA_FROM"
"""Of another server that something is read from."""


def login(prefix: str, user: str | None = None) -> dict[str, str]:
    """Return `username` and `password` as far as the environment tells them.

    Args:
        prefix: of the variables' names; none are looked up when it is empty.
        user: the user that the address names; the environment's password is taken for it.

    Raises:
        ServerSetupError: a user without a password, or a file that cannot be read.

    Redis: none.
    """
    user = user or (os.environ.get(f"{prefix}_USER") if prefix else None)
    password = _password(prefix) if prefix else None
    if user and password is None and prefix and os.environ.get(f"{prefix}_USER"):
        raise ServerSetupError(
            f"${prefix}_USER is {user!r}, and there is no password: set ${prefix}_PASSWORD_FILE to the file that holds "
            f"it, or ${prefix}_PASSWORD"
        )
    return {name: value for name, value in (("username", user), ("password", password)) if value is not None}


def _password(prefix: str) -> str | None:
    file = os.environ.get(f"{prefix}_PASSWORD_FILE")
    if not file:
        return os.environ.get(f"{prefix}_PASSWORD")
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ServerSetupError(f"${prefix}_PASSWORD_FILE is {file!r}: cannot be read: {reason}") from None


def holds_password(url: str) -> bool:
    """Tell whether an address holds a password, also where it is wrong otherwise.

    >>> holds_password("redis://me:secret@host"), holds_password("redis://me@host"), holds_password("unix:///s?db=1")
    (True, False, False)
    """
    try:
        if urlsplit(url).password:
            return True
    except ValueError:
        pass  # no address: what is wrong with it is said by whoever uses it
    return bool(re.search(r"://[^/@]*:[^/@]+@|[?&][a-z_]*password=.", url))


def check_typed(url: str | None, option: str, prefix: str = PREFIX) -> None:
    """Refuse an address with a password on a command line, which everybody on the machine can read.

    Args:
        url: as it was typed.
        option: where.
        prefix: of the variables that take the password instead.

    Raises:
        ServerSetupError: naming the variables.

    Redis: none.
    """
    if url and holds_password(url):
        raise ServerSetupError(
            f"{option}: a password on a command line can be read by everybody on this machine: leave it out, and set "
            f"${prefix}_PASSWORD_FILE to a file that holds it, or ${prefix}_PASSWORD"
        )
