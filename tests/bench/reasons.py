"""Why a contender is ahead in a row: what the page says of each row that we lose.

It knows keys of rows and names of contenders. A text stands for all rows whose key begins with one of its words. What
has no text here is told by the run, and the page says that nobody knows. No figures: those are in the table.
"""

from rows import Row

FLOOR = (
    "It sends the same commands; what Python needs to check and encode values, and to make objects of answers, is "
    "ours. It checks nothing and keeps no types."
)
HANDED_OVER = (
    "It hands the value to a thread of its own and returns; nobody has acknowledged it, and nothing holds it but the "
    "programs that are there. A flush returns when the server has the value."
)
NOT_ASKED = (
    "A callback put the value into a variable; reading it is an attribute access. Nobody notices that the writer or "
    "the link is dead; ours looks at the socket and the clock each time."
)
NO_SERVER = (
    "One hop instead of two: writer and listener are connected to each other, nothing between them keeps the value, "
    "and every writer is a server that listeners must find."
)
A_FILE = (
    "No server: two system calls in the page cache. One machine, one value a file, no groups, no types, no one who "
    "notices that the writer is dead."
)
AN_ARRAY_SENT = (
    "The bytes go from the writer's process to the one reader that asks or waits, and nothing keeps them: a second "
    "reader, one that comes later, or a writer that ends is somebody else's problem."
)
ONE_VALUE = (
    "A SET over what was there, and a GET: there is one value. A FrameFile keeps the frames before it, and one "
    "transaction adds the frame, takes the oldest out and says so to whoever waits."
)
A_LOG_FILE = (
    "No server: one program appends on one machine. Nobody else may write, a torn last record is the reader's problem, "
    "and a reader elsewhere needs something that carries it."
)

A_VARIABLE = (
    "A program that holds one value in a variable answers sooner than a server that finds it among its keys, and "
    "nothing is converted."
)
TWO_CONNECTIONS = (
    "What wakes it comes on one connection, and it reads on another: what is queued does not come first. It goes on "
    "waking up for each queued message when the flood is over."
)
WHY: list[tuple[tuple[str, ...], tuple[str, ...], str]] = [
    (("write", "flush", "one", "read", "turn", "log", "listen", "follow", "flood"), ("C",), FLOOR),
    (("write",), ("pyzmq", "eclipse-zenoh", "p4p"), HANDED_OVER),
    (("one",), ("pyzmq", "eclipse-zenoh"), A_VARIABLE),
    (("unchanged",), ("eclipse-zenoh", "p4p"), NOT_ASKED),
    (("flood",), ("redis-py", "walrus"), TWO_CONNECTIONS),
    (("listen", "follow", "flood"), ("pyzmq", "eclipse-zenoh", "p4p"), NO_SERVER),
    (("write", "one", "unchanged", "listen", "flood"), ("files",), A_FILE),
    (("log",), ("files",), A_LOG_FILE),
    (("frame", "sensor"), ("pyzmq", "eclipse-zenoh", "p4p"), AN_ARRAY_SENT),
    (("frame",), ("redis-py", "walrus"), ONE_VALUE),
    (("frame", "sensor"), ("files",), A_FILE),
]


def why(row: Row, name: str) -> str:
    """Return why a contender is ahead in a row; an empty text if nobody has said."""
    for keys, names, text in WHY:
        if name in names and row.key.startswith(keys):
            return text
    return ""
