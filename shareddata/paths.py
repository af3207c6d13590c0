"""File names made from metadata: Jinja2 templates whose results stay below a folder.

It knows templates and what a file's name may be. It must not know files, folders as they are on a disk (symbolic links
are `wholefile`'s matter), sockets, or who emits what. Invariants:

1. Metadata is never evaluated, only put into the template; templates run in a sandbox.
2. A name that is not in the metadata is an error, never an empty text: files don't go to a wrong place.
3. No result holds `..`, NUL or another control character, a hidden or a blank name, or a name that file systems refuse.
4. With a root, given or literal in the template, every result is below it.
"""

import itertools
import os
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import jinja2
from jinja2.nodes import Output, TemplateData
from jinja2.sandbox import SandboxedEnvironment

from shareddata.errors import TemplateError

LONGEST = 240
"""Bytes of a file's or folder's name: file systems take 255, and a number may have to be added."""

_environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
_CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories: control characters, halves of characters, line ends
_DIRECTION = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class FileName:
    """A template that makes a file's name of an event's metadata.

    Args:
        template: Jinja2, like `/data/{{ run }}/{{ '%05d' % frame }}.npy`.
        root: the folder that every file stays below; None for the literal folder that the template begins with.
        here: the folder that relative names are in, where no root is given.

    Attributes:
        text: the template.
        root: the folder that results stay below, None where a template that begins with an expression decides.

    Raises:
        TemplateError: the template cannot be read, or its literal beginning leads elsewhere.

        >>> FileName("/data/{{ run }}/{{ '%05d' % frame }}.npy").render(run="a", frame=7)
        '/data/a/00007.npy'
    """

    def __init__(self, template: str, root: str | os.PathLike[str] | None = None, here: str = ".") -> None:
        self.text = template
        self._here = os.path.abspath(here)
        if not isinstance(template, str) or not template.strip():
            raise TemplateError(f"the template {template!r} is empty: give one like '/data/{{{{ frame }}}}.npy'")
        try:
            literal = _literal_beginning(template)
            self._template = _environment.from_string(template)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the template {template!r}: {error}") from None
        if root is not None:
            self.root: str | None = os.path.abspath(os.path.join(self._here, os.fspath(root)))
            self._here = self.root
        elif literal is None:
            self.root = None
        else:
            folder = literal.rpartition("/")[0] or ("/" if literal.startswith("/") else "")
            self._check_parts(PurePosixPath(folder).parts, folder)
            self.root = os.path.join(self._here, folder).rstrip("/") or "/"

    def __repr__(self) -> str:
        return f"<FileName {self.text!r}{f' below {self.root}' if self.root else ''}>"

    def render(self, *args: Mapping[str, Any], **metadata: Any) -> str:
        """Return the file's absolute path.

        Args:
            *args: the metadata as a dictionary.
            **metadata: more of it, or all of it.

        Raises:
            TemplateError: a name is missing or cannot be worked with, or the result is none that a file may have.
        """
        values = dict(*args, **metadata)
        try:
            text = self._template.render(values)
        except jinja2.UndefinedError as error:
            known = ", ".join(sorted(map(str, values))) or "nothing"
            raise TemplateError(f"the template {self.text!r}: {error}; the metadata hold {known}") from None
        except Exception as error:  # noqa: BLE001  whatever an expression raises, for these metadata
            raise TemplateError(f"the template {self.text!r}: {type(error).__name__}: {error}") from None
        return self._checked(text)

    def _checked(self, text: str) -> str:
        for character in text:
            if unicodedata.category(character) in _CONTROL or character in _DIRECTION:
                raise self._refusal(text, f"holds the character U+{ord(character):04X}")
        if text != text.strip() or not text or text.endswith("/"):
            raise self._refusal(text, "is blank, or begins or ends with a blank or a slash")
        path = PurePosixPath(self._here, text)
        self._check_parts(PurePosixPath(text).parts, text)
        if self.root is not None:
            if not path.is_relative_to(self.root):
                raise self._refusal(text, f"leaves the folder {self.root}")
            below = path.relative_to(self.root).parts
        else:
            below = path.parts[1:]
        if not below or not PurePosixPath(text).name:
            raise self._refusal(text, "names no file")
        self._check_names(below, text)
        return str(path)

    def _check_parts(self, parts: tuple[str, ...], text: str) -> None:
        if ".." in parts or "\0" in text:
            raise self._refusal(text, "holds '..' or NUL, which could lead anywhere")

    def _check_names(self, names: tuple[str, ...], text: str) -> None:
        for name in names:
            if len(name.encode()) > LONGEST:
                raise self._refusal(text, f"holds a name of {len(name.encode())} bytes, expected {LONGEST} at the most")
            if name != name.strip():
                raise self._refusal(text, f"holds {name!r}, which begins or ends with a blank")
        if names[-1].startswith("."):
            raise self._refusal(text, "begins with a dot, as unfinished and hidden files do")

    def _refusal(self, text: str, reason: str) -> TemplateError:
        shown = text if len(text) <= 120 else text[:117] + "..."
        return TemplateError(f"the file name {shown!a} {reason}: it was made by the template {self.text!r}")


def _literal_beginning(template: str) -> str | None:
    """Return the text before the template's first expression or statement, None where there is none."""
    body = _environment.parse(template).body
    first = body[0] if body else None
    nodes = first.nodes if isinstance(first, Output) else []
    texts = list(itertools.takewhile(lambda node: isinstance(node, TemplateData), nodes))
    return "".join(node.as_const() for node in texts) if texts else None
