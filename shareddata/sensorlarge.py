"""A sensor's large values: in files where everybody is on one machine, else in keys of their own.

It knows both kinds of references, and which commands belong to the second kind. It must not know which values there
are. Invariants:

1. Each reference has a file or a key of its own: whoever takes it out of Redis removes exactly that.
2. Such a key is made in the same transaction as the reference to it, so neither is there without the other. It is
   removed with the next but one change of large values, so that a reader far away, who has just read the reference, has
   that time to get the value. What a killed program left is found by `unused`: the keys' tokens stand in a set.
3. A large value is sent once, wherever it stands: for another place the server copies it.

A reference to a key is `@key:TOKEN/SIZE`; the value is in the key `sensor:NAME:large:TOKEN`. Values in CBOR never begin
like that.
"""

import itertools
import re
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType

from shareddata import large
from shareddata.codec import Buffer
from shareddata.connection import Connection
from shareddata.errors import DecodeError, SharedDataError
from shareddata.large import LIMIT, Gone, LargeValues
from shareddata.memory import SharedMemory
from shareddata.wire import pack, spread

_KEY = b"@key:"
_FORM = re.compile(rb"@key:([0-9a-f.]+)/([0-9]+)")


def is_reference(stored: Buffer) -> bool:
    """Tell whether what is in Redis is a reference, of either kind."""
    return large.is_reference(stored) or in_key(stored)


def in_key(stored: Buffer) -> bool:
    """Tell whether what is in Redis is a reference to a key."""
    return bytes(stored[: len(_KEY)]) == _KEY


def _token_and_size(stored: Buffer) -> tuple[str, int]:
    found = _FORM.fullmatch(bytes(stored[:100]))
    if found is None:
        shown = bytes(stored[:60])
        raise DecodeError(f"found {shown!r}, expected a reference to a large value: another program wrote it")
    return found[1].decode(), int(found[2])


def size(stored: Buffer) -> int:
    """Return how many bytes a stored value has, wherever they are."""
    return _token_and_size(stored)[1] if in_key(stored) else large.size(stored)


def size_of(pieces: Sequence[Buffer]) -> int:
    """Do the same for a value that is stored in pieces."""
    return size(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))


def lost(stored: bytes, what: str, key: str) -> SharedDataError:
    """Return the exception for a reference that stands in Redis and whose value is not there.

    Args:
        stored: the reference.
        what: whose value it is, for the message.
        key: the set of the sensor's tokens.
    """
    if not in_key(stored):
        return large.lost(stored, what)
    name = f"{key}:{_token_and_size(stored)[0]}"
    return DecodeError(f"{what}: found a reference to the key {name}, which is not there: write the value again")


class SensorLarge:
    """The large values of a sensor.

    Args:
        shm: the shared memory.
        key: the set of tokens; with a token behind it, the key of a value.

    It belongs to one thread at a time.
    """

    def __init__(self, shm: SharedMemory, key: str) -> None:
        self.key = key
        self.files = LargeValues(shm)
        self.replaced: deque[list[str]] = deque()  # tokens that no reference speaks of any more, a list a change
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def key_of(self, stored: Buffer) -> str:
        """Return the key that a reference to one speaks of."""
        return f"{self.key}:{_token_and_size(stored)[0]}"

    def new_token(self) -> str:
        """Return a token that no other key has."""
        return f"{self._prefix}.{next(self._numbers):x}"

    def change(self) -> "SensorChange":
        """Return the context of one transaction; see `large.LargeValues.change`."""
        return SensorChange(self)

    def leftover(self) -> list[bytes]:
        """Return the commands that remove all that was replaced, when no more changes follow.

        Redis: UNLINK, SREM.
        """
        tokens = [token for each in self.replaced for token in each]
        self.replaced.clear()
        return self.removal(tokens)

    def read(self, stored: bytes, connection: Connection) -> bytes:
        """Return a stored value.

        Raises:
            Gone: it is not there any more: read the place in Redis again.

        Redis: GET for one in a key.
        """
        if not in_key(stored):
            return large.read(stored)
        data = connection.ask("GET", self.key_of(stored))
        if data is None:
            raise Gone(f"{self.key_of(stored)} is not there any more")
        return bytes(data)

    def unused(self, connection: Connection, references: Iterable[Buffer]) -> list[str]:
        """Return the tokens that no reference speaks of.

        Args:
            connection: to ask for the tokens, before the references are looked for.
            references: all that stand in Redis.

        Redis: SMEMBERS.
        """
        tokens = {token.decode(errors="replace") for token in connection.ask("SMEMBERS", self.key)}
        if not tokens:
            return []
        return sorted(tokens - {_token_and_size(each)[0] for each in references if in_key(each)})

    def removal(self, tokens: Sequence[str]) -> list[bytes]:
        """Return the commands that remove keys.

        Redis: UNLINK, SREM.
        """
        if not tokens:
            return []
        return [pack("UNLINK", *(f"{self.key}:{token}" for token in tokens)), pack("SREM", self.key, *tokens)]


class SensorChange:
    """One transaction that changes to which large values Redis refers: a context manager.

    Attributes:
        commands: what the transaction has to begin with.
        copies: the places among them of those that copy; the server answers 0 where there was nothing to copy.
    """

    def __init__(self, values: SensorLarge) -> None:
        self._values = values
        self._files = values.files.change()
        self._removed = values.replaced.popleft() if len(values.replaced) > 1 else []
        self._replaced: list[str] = []
        self.commands: list[list[Buffer]] = [[each] for each in values.removal(self._removed)]
        self.copies: list[int] = []

    def __enter__(self) -> "SensorChange":
        self._files.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._files.__exit__(kind, error, tb)
        if kind is not None and self._removed:
            self._values.replaced.appendleft(self._removed)
        elif self._replaced:
            self._values.replaced.append(self._replaced)

    def pieces(self, key: str, parts: Sequence[Buffer]) -> list[Buffer]:
        """Return what goes into Redis for a value: the value in pieces, or a reference.

        Args:
            key: of the hash or stream that it goes into.
            parts: the value's bytes.
        """
        length = sum(map(len, parts))
        if length <= LIMIT:
            return list(parts)
        if self._values.files.by_reference:
            return self._files.pieces(key, parts)
        token = self._values.new_token()
        self.commands.append(spread(["SET"], {f"{self._values.key}:{token}": parts}))
        return [self._reference(token, length)]

    def link(self, key: str, stored: bytes) -> list[Buffer]:
        """Return what goes into Redis for a stored value, for another place.

        Raises:
            Gone: its file is not there any more.
        """
        if large.is_reference(stored):
            if self._values.files.by_reference:
                return [self._files.link(key, stored)]
            return self.pieces(key, [large.read(stored)])
        if not in_key(stored):
            return [stored]
        token = self._values.new_token()
        self.copies.append(len(self.commands))
        self.commands.append([pack("COPY", self._values.key_of(stored), f"{self._values.key}:{token}")])
        return [self._reference(token, _token_and_size(stored)[1])]

    def _reference(self, token: str, length: int) -> bytes:
        self.commands.append([pack("SADD", self._values.key, token)])
        return b"%b%b/%d" % (_KEY, token.encode(), length)

    def replaced(self, *stored: Buffer | None) -> None:
        """Say which stored values this transaction has taken out of Redis."""
        self._files.replaced(*stored)
        self._replaced += [_token_and_size(each)[0] for each in stored if each and in_key(each)]
