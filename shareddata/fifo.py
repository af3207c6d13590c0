"""Queues: many writers, each element taken by one reader.

It knows a Redis list of JSON arrays. It must not know records. Invariants:

1. `pop` is at most once: an element that was taken and did not arrive (the link was cut) is gone.
2. A `push` of unknown outcome raises and is not repeated.

Who needs more uses a log.
"""

import json
import time
from collections import deque
from typing import Any

from shareddata.codec import encode_any
from shareddata.errors import DecodeError, FieldError
from shareddata.memory import SharedMemory
from shareddata.names import check_name
from shareddata.wire import pack, transaction

_BLOCK = 1.0  # seconds, or half of the time-out


class Fifo:
    """One queue. Made by `DataDict.declare_fifos`. It belongs to one thread at a time.

    Args:
        shm: the shared memory.
        name: letters, digits and `_.-`.
        app_name: the application, for `CLIENT LIST`.

    Redis: a list under the key `fifo:NAME`.
    """

    def __init__(self, shm: SharedMemory, name: str, app_name: str = "shareddata") -> None:
        self.name = check_name(name, "queue")
        self._key = shm.keys.fifo(name)
        self._connection = shm.connect(app_name)
        self._block = min(_BLOCK, shm.timeout / 2)
        self._drained: deque[bytes] = deque()

    def __repr__(self) -> str:
        return f"<Fifo {self.name}>"

    def __len__(self) -> int:
        """Return how many elements wait.

        Redis: LLEN.
        """
        return int(self._connection.ask("LLEN", self._key))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def push(self, *fields: Any) -> None:
        """Append an element.

        Args:
            *fields: any JSON values.

        Raises:
            FieldError: a value that JSON cannot hold; nothing was sent.
            ServerTimeout, ServerUnreachable: see `outcome_unknown`.
            Unconfirmed: it is in the queue, and too few replicas have it.

        Redis: RPUSH.
        """
        try:
            element = encode_any(list(fields))
        except (TypeError, ValueError) as error:
            raise FieldError(f"queue {self.name}: {fields!r} cannot be written as JSON: {error}") from None
        self._connection.settle()
        self._connection.command(pack("RPUSH", self._key, element))
        self._connection.check()

    def pop(self, timeout: float | None = None) -> list[Any] | None:
        """Take the oldest element.

        Args:
            timeout: seconds to wait for one; None for not at all.

        Returns:
            The element's fields, None when the queue is empty.

        Redis: LPOP; with a timeout BLPOP.
        """
        if self._drained:
            return self._decode(self._drained.popleft())
        if timeout is None:
            element = self._connection.call("LPOP", self._key)
            return None if element is None else self._decode(element)
        end = time.monotonic() + timeout
        while (rest := end - time.monotonic()) > 0:
            answer = self._connection.call("BLPOP", self._key, max(0.001, min(self._block, rest)))
            if answer is not None:
                return self._decode(answer[1])
        return self.pop()

    def drain(self) -> list[list[Any]]:
        """Take all elements at once, atomically.

        Returns:
            The elements, the oldest first; `[]` when the queue is empty.

        Raises:
            DecodeError: for an element that another program wrote; the others come with the next `drain` or `pop`.

        Redis: MULTI, LRANGE, LTRIM, EXEC.
        """
        self._connection.settle()
        # LTRIM empties a list and nothing else: a key of another type is refused and kept
        request = transaction([pack("LRANGE", self._key, 0, -1), pack("LTRIM", self._key, 1, 0)])
        elements, _ = self._connection.transact(request, [f"queue {self.name}"] * 2)
        self._drained += elements
        fields = []
        try:
            while self._drained:
                fields.append(self._decode(self._drained.popleft()))
        except DecodeError:
            self._drained.extendleft(encode_any(each) for each in reversed(fields))
            raise
        return fields

    def _decode(self, element: bytes) -> list[Any]:
        try:
            fields = json.loads(element)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, list):
            raise DecodeError(
                f"queue {self.name}: took {element[:60]!r} from the key {self._key}, expected a JSON array: another "
                "program wrote it, and it is gone now"
            )
        return fields
