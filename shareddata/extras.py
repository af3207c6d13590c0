"""Packages that an extra of this one brings: imported where they are needed, or a message that says how to get them.

It knows how a module is imported. It must not know what it is for. Invariant: a module that is
missing is named, with the command that installs it.
"""

import importlib
from typing import Any


def needed(module: str, what: str, extra: str) -> Any:
    """Import a module that not every user has.

    Args:
        module: its name; what is returned is the module of the whole name.
        what: who needs it, with the verb: "array fields need".
        extra: the extra of this package that installs it.

    Raises:
        ModuleNotFoundError: it is not installed, or what it needs itself is not; the message says how to.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = (error.name or module).partition(".")[0]
        remedy = f"pip install 'shareddata[{extra}]'"
        raise ModuleNotFoundError(f"{what} {name}, which is not installed: {remedy}", name=name) from None
