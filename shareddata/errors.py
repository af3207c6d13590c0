"""Every exception of the package.

The tree, each with the built-in that it also is:

    SharedDataError
      DescriptionError (ValueError)     a data description is wrong; nothing was sent
      FieldError (ValueError)           this value does not fit; nothing was staged or sent
      UnknownData (LookupError)         no such record
      NotInitialized (TimeoutError)     the ready flag did not come
      DecodeError (ValueError)          what is in Redis does not fit the description
      LogFormatError (ValueError)       a log of another shape
      WriterConflict                    a second writer stored into the log, or the frame file
      FrameError (LookupError)          this frame cannot be had
        NotYetWritten                         not yet: ask again
        NoMoreFrames                          no more: the file was finished without it
        NoSuchFrame                           never: beyond the greatest shape, or trimmed away
      SensorNotInitializedError (FileNotFoundError)   no such sensor, or no such value of it
      TemplateError (ValueError)        a file name cannot be made, or leaves its root
      ServerError
        ServerUnreachable (ConnectionError)   not there: a retry is reasonable
        ServerTimeout (TimeoutError)          silent: the outcome is unknown
        ServerRefused                         it said no: rights, memory, read-only, wrong type
          EventsFull                          too many events wait for an archiver; nothing was written
        ServerSetupError                      it answers, but is set up wrongly

This module must not know any other. Invariants:
1. No name shadows a built-in.
2. Every message says where, what was found, what was expected, and the remedy.
3. `ServerError.outcome_unknown` tells whether the server may have applied what was sent.
"""


class SharedDataError(Exception):
    """The root: `except SharedDataError` catches all that this package raises on purpose."""


class DescriptionError(SharedDataError, ValueError):
    """A data description is wrong, or was changed incompatibly under a running program."""


class FieldError(SharedDataError, ValueError):
    """A value does not fit its field. Nothing was staged and nothing was sent."""


class UnknownData(SharedDataError, LookupError):
    """No record of this name is described in the namespace."""


class NotInitialized(SharedDataError, TimeoutError):
    """The ready flag did not come in time: nobody has initialised the namespace."""


class DecodeError(SharedDataError, ValueError):
    """What is in Redis does not fit the description: somebody else wrote it."""


class LogFormatError(SharedDataError, ValueError):
    """A log was made with other formats or sizes, or is used in a way that its formats don't allow."""


class WriterConflict(SharedDataError):
    """Another program stores into the same log or frame file: this one can't any more."""


class FrameError(SharedDataError, LookupError):
    """A frame of a growing dataset cannot be had. Its subclasses say whether it ever can."""


class NotYetWritten(FrameError):
    """Not yet: nobody has written it so far, and somebody still may."""


class NoMoreFrames(FrameError):
    """No more: the file was finished without it."""


class NoSuchFrame(FrameError):
    """Never: no dataset of this shape can hold it, or it was trimmed away."""


class SensorNotInitializedError(SharedDataError, FileNotFoundError):
    """No such sensor, or no such value of it: its writer has not written it yet, or it was removed."""


class TemplateError(SharedDataError, ValueError):
    """A file name cannot be made from an event's metadata, or would lead out of its root. Nothing was written."""


class ServerError(SharedDataError):
    """The server could not do what was asked.

    Attributes:
        outcome_unknown: True when the request was sent and no answer came, so that the server may have applied it.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class ServerUnreachable(ServerError, ConnectionError):
    """Nobody answers at the address, or the connection broke. A retry is reasonable."""


class ServerTimeout(ServerError, TimeoutError):
    """The server is connected and silent. The outcome of what was sent is unknown."""


class ServerRefused(ServerError):
    """The server said no: rights, memory, read-only, a key of the wrong type."""


class EventsFull(ServerRefused):
    """Too many events wait for an archiver that has not taken them. Nothing was written."""


class ServerSetupError(ServerError):
    """The server answers, but is set up wrongly. The message holds the command that mends it."""
