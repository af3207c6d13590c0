"""An open frame file, as its groups, datasets and attributes use it: what is staged, written and stored, as one.

It knows whether a file is open, and for what. It must not know indices, nor what h5py looks like. Invariants:

1. A closed file is neither read nor written, a file that is open for reading is not written.
2. Who writes a file reads what is staged as if it were written.
"""

from collections.abc import Sequence
from typing import Any

from shareddata.codec import numpy
from shareddata.framestore import FrameStore, Layout
from shareddata.framewriter import FrameWriter
from shareddata.grid import Shape


class Access:
    """An open frame file, as its groups and datasets use it.

    Args:
        store: the generation.
        writer: when it is open for writing.
    """

    def __init__(self, store: FrameStore, writer: FrameWriter | None) -> None:
        self.store = store
        self._writer = writer
        self.closed = False

    @property
    def writer(self) -> FrameWriter | None:
        """What writes it, None when it is open for reading."""
        return self._writer

    def writing(self) -> FrameWriter:
        """Return what writes it.

        Raises:
            ValueError: it is open for reading, closed or sealed.
            WriterConflict: this program is not its writer any more.
        """
        self.check_open()
        if self._writer is None:
            raise ValueError(f"{self.store.subject}: it is open for reading: open it with mode='r+' to write")
        self._writer.check()
        return self._writer

    def check_open(self) -> None:
        """Raise ValueError when it is closed."""
        if self.closed:
            raise ValueError(f"{self.store.subject}: it is closed")

    def refresh(self) -> None:
        """Read the description anew; a writer knows it.

        Redis: as `FrameStore.refresh`; none when it is open for writing.
        """
        self.check_open()
        if self._writer is None:
            self.store.refresh()

    def read(self, layout: Layout, chunks: Sequence[Shape]) -> list[Any]:
        """Return the elements of chunks as arrays, None for one that was never written.

        Raises:
            NoSuchFrame, NoMoreFrames: one is not there any more.

        Redis: HMGET; for one that is not there also what `refresh` does.
        """
        self.check_open()
        found: list[Any] = [self._writer and self._writer.staged(layout, chunk) for chunk in chunks]
        wanted = [i for i, array in enumerate(found) if array is None]
        dtype, absent = numpy().dtype(layout.dtype), []
        for i, data in zip(wanted, self.store.fetch(layout, [chunks[i] for i in wanted]) if wanted else ()):
            if data is None:
                absent.append(chunks[i])
            else:
                found[i] = numpy().frombuffer(data, dtype).reshape(layout.chunks)
        if absent:
            self.refresh()
            for chunk in absent:
                self.store.check_absent(layout, chunk)
        return found
