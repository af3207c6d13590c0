"""Every key in Redis is composed and parsed here.

It knows how a namespace, a record and what belongs to them are spelt as keys, and nothing of what they hold. It must
not know sockets, descriptions or values. Invariants:

1. No other module writes a key by hand.
2. Record names cannot contain a colon, so a record's key never meets a key of the library's own.
3. All keys of one namespace share the hash tag `{namespace}`: one cluster slot, one unit of atomicity.

    >>> names = Names("usv1")
    >>> names.record("BATTERY__measures")
    '{usv1}:BATTERY__measures'
    >>> Names().history("BATTERY__measures")
    'BATTERY__measures:history'
"""

import re

from shareddata.errors import DescriptionError

FORMAT_VERSION = 1
"""The version of the layout in Redis that this library reads and writes (the key `shareddata:format`)."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_LOG_NAME = re.compile(r"[A-Za-z0-9_./-]+")
_GLOB_ONLY = re.compile(r"[*?\[\]^\\]")


def check_name(name: str, what: str = "record") -> str:
    """Return a name that may be used in keys.

    Args:
        name: the name of a record, a queue or a namespace.
        what: which of them, for the message.

    Raises:
        DescriptionError: when it holds anything but letters, digits and `_.-`.
    """
    if not is_name(name):
        raise DescriptionError(f"{what} name {name!r}: use letters, digits, '_', '.' and '-' only, at least one")
    return name


def is_name(name: object) -> bool:
    """Tell whether this may be a record's name.

    >>> is_name("BATTERY__measures"), is_name("a b"), is_name(None)
    (True, False, False)
    """
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def is_log_name(name: str) -> bool:
    """Tell whether a log may have this name."""
    return bool(_LOG_NAME.fullmatch(name))


def check_log_name(name: str, what: str = "log") -> str:
    """Return a name that a log may have: a record's, or several joined by slashes.

    Args:
        name: the name of a log, of a source of events or of an archiver.
        what: which of them, for the message.

    Raises:
        DescriptionError: for anything else.
    """
    if not isinstance(name, str) or not _LOG_NAME.fullmatch(name):
        raise DescriptionError(f"{what} name {name!r}: use letters, digits, '_', '.', '-' and '/' only, at least one")
    return name


class Names:
    """The keys of one namespace.

    Args:
        namespace: `""` for none: keys are then the plain names.
    """

    def __init__(self, namespace: str = "") -> None:
        self.namespace = check_name(namespace, "namespace") if namespace else ""
        self.prefix = f"{{{self.namespace}}}:" if namespace else ""
        self.datadesc = self.prefix + "shareddata:datadesc"
        self.format = self.prefix + "shareddata:format"
        self.epoch = self.prefix + "shareddata:epoch"

    def record(self, name: str) -> str:
        """Return the key of the hash that holds a record."""
        return self.prefix + name

    def history(self, name: str) -> str:
        """Return the key of the stream that holds a record's flushed trames."""
        return f"{self.prefix}{name}:history"

    def described(self, name: str) -> str:
        """Return the key of the stream that says how a record was described earlier, and until when."""
        return f"{self.prefix}{name}:described"

    def lease(self, name: str) -> str:
        """Return the key that says which program writes a record that has an owner."""
        return f"{self.prefix}{name}:lease"

    def writer(self, owner: str, identity: str) -> str:
        """Return the key that is there as long as a program lives that writes an owner's records."""
        return f"{self.prefix}shareddata:writer:{owner}:{identity}"

    def fence(self, owner: str, identity: str) -> str:
        """Return the key that keeps such a program from writing on, when another one takes a record from it."""
        return f"{self.prefix}shareddata:fence:{owner}:{identity}"

    def fifo(self, name: str) -> str:
        """Return the key of the list that holds a queue."""
        return f"{self.prefix}fifo:{name}"

    def log(self, name: str) -> str:
        """Return the key of the stream that holds a log; what belongs to it has this key as its beginning."""
        return f"{self.prefix}tslog:{check_log_name(name)}"

    def frames(self, name: str) -> str:
        """Return the key that says who writes a frame file; what belongs to the file has this key as its beginning."""
        return f"{self.prefix}frames:{check_log_name(name, 'frame file')}"

    def frame_files(self) -> str:
        """Return the key of the stream of frame files, in the order of their creation."""
        return f"{self.prefix}shareddata:frames"

    def sensors(self) -> str:
        """Return the key of the sorted set of sensors, in the order of their creation."""
        return f"{self.prefix}shareddata:sensors"

    def sensors_created(self) -> str:
        """Return the key that counts the sensors that were ever created."""
        return f"{self.prefix}shareddata:sensors:created"

    def sensor(self, name: str) -> str:
        """Return the key of the hash of a sensor's values; what belongs to it has this key as its beginning.

        Args:
            name: from `tree.sensor_name`.
        """
        return f"{self.prefix}sensor:{name}"

    def sensor_writes(self, name: str) -> str:
        """Return the key of the stream of a sensor's writes."""
        return f"{self.prefix}sensor:{name}:writes"

    def sensor_large(self, name: str) -> str:
        """Return the key of the set of a sensor's large values; each of them has a key of its own that begins so."""
        return f"{self.prefix}sensor:{name}:large"

    def sensor_packs(self, name: str) -> str:
        """Return the key of the set of names that values of a sensor were packed under."""
        return f"{self.prefix}sensor:{name}:packed"

    def sensor_packed(self, name: str, zipname: str) -> str:
        """Return the key of the stream of what was packed of a sensor under a name."""
        return f"{self.prefix}sensor:{name}:packed:{zipname}"

    def forward(self) -> str:
        """Return the key of the hash that says, at a source, where its forwardings began."""
        return f"{self.prefix}shareddata:forward"

    def forwarded(self, identity: str) -> str:
        """Return the key of the hash that says, at a destination, how far a source was forwarded to it."""
        return f"{self.prefix}shareddata:forwarded:{identity}"

    def events(self) -> str:
        """Return the key of the set that says of whom there are events: `SOURCE:EVENT`."""
        return f"{self.prefix}shareddata:events"

    def event(self, source: str, event: str) -> str:
        """Return the key of the stream of one source's events; what belongs to it has this key as its beginning."""
        return f"{self.prefix}event:{check_log_name(source, 'source')}:{check_name(event, 'event')}"

    def archived(self) -> str:
        """Return the key of the hash in which archivers note which file each event gets."""
        return f"{self.prefix}shareddata:archived"

    def flag(self, name: str) -> str:
        """Return the key of a ready flag (the value of the environment variable given with `-i`)."""
        return self.prefix + name

    def channel(self, key: str, database: int) -> str:
        """Return the channel on which the server announces changes of a key (exact, also for odd names)."""
        return f"__keyspace@{database}__:{key}"

    def channel_pattern(self, glob: str, database: int) -> str:
        """Return the channel pattern that hears every record whose name matches a glob."""
        escaped_prefix = _GLOB_ONLY.sub(lambda m: "\\" + m[0], self.prefix)
        return f"__keyspace@{database}__:{escaped_prefix}{glob}"

    def record_of(self, key: str) -> str | None:
        """Return the record's name that a key stands for, or None for any other key.

        >>> Names("usv1").record_of("{usv1}:GPS__position")
        'GPS__position'
        >>> Names("usv1").record_of("GPS__position")
        """
        name = key.removeprefix(self.prefix) if key.startswith(self.prefix) else ""
        return name if _NAME.fullmatch(name) else None


def made_key(log: str) -> str:
    """Return the key that holds what a log was made with, from the key of its stream."""
    return f"{log}:log"


def writer_key(log: str) -> str:
    """Return the key that holds who stores into a log, from the key of its stream."""
    return f"{log}:writer"


def generation_key(file: str, generation: str) -> str:
    """Return the key of the hash that describes one generation of a frame file, from the file's key."""
    return f"{file}:{generation}"


def news_key(generation: str) -> str:
    """Return the key of the stream of a generation's changes, from the generation's key."""
    return f"{generation}:news"


def chunks_key(generation: str, path: str) -> str:
    """Return the key of the hash of a dataset's chunks, from the generation's key and the dataset's absolute path."""
    return f"{generation}:{path}"


def key_of_channel(channel: bytes) -> bytes:
    """Return the key that a keyspace channel `__keyspace@0__:KEY` speaks of."""
    return channel.partition(b":")[2]
