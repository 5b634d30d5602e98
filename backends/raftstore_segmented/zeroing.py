"""Filling a file with zeros, a step at a time, so that an append beside it waits for a step at most."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from raftstore_segmented.counters import Counters
from raftstore_segmented.files import FileLayer, write_zeros

STEP_BYTES: Final = 1 << 20
"""Zeros are written and synced in pieces of this size: what an append's own sync may have to wait for."""


class Zeroing:
    """A spare file on its way to all zeros. Closing the descriptor is up to the caller, or to `abandon`."""

    def __init__(self, files: FileLayer, fd: int, name: str, size: int, counters: Counters) -> None:
        """Room for all of it is reserved at once. If that raises, the file is removed."""
        self._files = files
        self._counters = counters
        self.fd = fd
        self.name = name
        self.size = size
        self.done = 0
        """Bytes that are zero, and synced."""
        try:
            files.allocate(fd, size)
        except BaseException:
            self.abandon()
            raise

    @property
    def is_finished(self) -> bool:
        return self.done >= self.size

    def step(self) -> None:
        """Write and sync the next piece. Cut short by an interrupt, it may be repeated."""
        stop = min(self.done + STEP_BYTES, self.size)
        write_zeros(self._files, self.fd, self.done, stop)
        self._files.fdatasync(self.fd)
        self._counters.bytes_prepared += stop - self.done
        self.done = stop

    def finish(self) -> None:
        """Do what is left. If that raises, the file is removed."""
        try:
            while not self.is_finished:
                self.step()
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close and remove the file."""
        self._files.close(self.fd)
        with suppress(OSError):
            self._files.unlink(self.name)
