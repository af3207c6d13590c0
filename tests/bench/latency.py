"""One end of the latency row, a process of its own: a writer that keeps a pace, or a listener.

    python latency.py CONTENDER SOCKET pace|listen|follow HISTORY COUNT [HERTZ]

A writer puts time.monotonic() into field_0 just before it writes; a listener prints "ready" when it hears, and at the
end the microseconds from there to the decoded values, one a line. The same interface as floor.c has.
"""

import sys
import time
from itertools import islice

from contenders import CONTENDERS, Ours, RedisPy
from workload import ROWS


def pace(contender: Ours | RedisPy, count: int, hertz: float) -> None:
    """Write at a steady pace."""
    start = time.monotonic()
    for turn in range(count):
        rest = ROWS[turn % 256][1:]
        time.sleep(max(0.0, start + (turn + 1) / hertz - time.monotonic()))
        contender.write_values((time.monotonic(), *rest))


def hear(contender: Ours | RedisPy, how: str, count: int) -> list[float]:
    """Return the latencies of the updates that were heard, in microseconds."""
    updates = getattr(contender, how)(lambda: print("ready", flush=True))
    return [(time.monotonic() - sent) * 1e6 for sent in islice(updates, count)]


def main() -> None:
    """Play the part that the command line asks for."""
    name, socket, part, history, count, *hertz = sys.argv[1:]
    contender = CONTENDERS[name](socket, int(history))
    if part == "pace":
        pace(contender, int(count), float(hertz[0]))
    else:
        print("\n".join(map(str, hear(contender, part, int(count)))))
    contender.close()


main()
