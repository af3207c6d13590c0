"""Shared memory for robots, vehicles and laboratories: named records, shared through Redis.

Programs that drive hardware write records, programs that use the data read them, wait for them, or follow every update:

    with SharedMemory() as shm, DataDict("HDL_BATTERY", shm) as dd:
        measures, = dd.set_datas_to_write(["BATTERY__measures"])
        measures.set(12.6, -1.2)
        dd.flush()
"""

from shareddata.data import Data
from shareddata.datadesc import Field, Record
from shareddata.datadict import DataDict
from shareddata.errors import (
    DecodeError,
    DescriptionError,
    EventsFull,
    FieldError,
    FrameError,
    LogFormatError,
    NoMoreFrames,
    NoSuchFrame,
    NotInitialized,
    NotYetWritten,
    SensorNotInitializedError,
    ServerError,
    ServerRefused,
    ServerSetupError,
    ServerTimeout,
    ServerUnreachable,
    SharedDataError,
    TemplateError,
    UnknownData,
    WriterConflict,
)
from shareddata.fifo import Fifo
from shareddata.listen import Listener
from shareddata.memory import SharedMemory
from shareddata.stream import Follower
from shareddata.tslog import TSLog, TSReader

Datadict = DataDict

__all__ = [
    "Data",
    "DataDict",
    "Datadict",
    "DecodeError",
    "DescriptionError",
    "EventsFull",
    "Field",
    "FieldError",
    "Fifo",
    "Follower",
    "FrameError",
    "Listener",
    "LogFormatError",
    "NoMoreFrames",
    "NoSuchFrame",
    "NotInitialized",
    "NotYetWritten",
    "Record",
    "SensorNotInitializedError",
    "ServerError",
    "ServerRefused",
    "ServerSetupError",
    "ServerTimeout",
    "ServerUnreachable",
    "SharedDataError",
    "SharedMemory",
    "TSLog",
    "TSReader",
    "TemplateError",
    "UnknownData",
    "WriterConflict",
]
