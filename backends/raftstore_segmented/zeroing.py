"""Filling a file with zeros, a step at a time, so that an append beside it waits for a step at most."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Final

from raftstore_segmented.counters import Counters
from raftstore_segmented.files import FileLayer, size_of, write_zeros

STEP_BYTES: Final = 1 << 20
"""Zeros are written and synced in pieces of this size: what an append's own sync may have to wait for."""


class Zeroing:
    """A spare file on its way to all zeros. What an interrupt cuts short, in here, may be called again."""

    def __init__(
        self, files: FileLayer, name: str, size: int, counters: Counters, *, source: str | None = None
    ) -> None:
        """Nothing is done yet. The file will be a new one, or the one that is called `source`."""
        self._files = files
        self._counters = counters
        self._source = source
        self._fds: list[int] = []
        """None or one. Popped and closed as one: it is never closed twice."""
        self.name = name
        self.final: str | None = None
        """What the file may be called already, since it is finished."""
        self.size = size
        self.tag = secrets.randbits(32)
        """Of the segment that it becomes."""
        self.done = 0
        """Bytes that are zero, and synced."""

    @property
    def fd(self) -> int:
        return self._fds[0]

    @property
    def is_finished(self) -> bool:
        return self.done >= self.size

    def begin(self) -> None:
        """Have the file, with room for all of it. Once more changes nothing."""
        if self._fds:
            return
        if self._source is not None:
            with suppress(FileNotFoundError):  # renamed before
                self._files.rename(self._source, self.name)
        if size_of(self._files, self.name) == self.size:
            self._fds.append(self._files.open(self.name, writable=True))
        else:
            with suppress(FileNotFoundError):
                self._files.unlink(self.name)
            self._fds.append(self._files.create(self.name))

    def step(self) -> None:
        """Write and sync the next piece."""
        self.begin()
        if self.done == 0:
            self._files.allocate(self.fd, self.size)
        stop = min(self.done + STEP_BYTES, self.size)
        write_zeros(self._files, self.fd, self.done, stop)
        self._files.fdatasync(self.fd)
        self._counters.bytes_prepared += stop - self.done
        self.done = stop

    def finish(self) -> None:
        """Do what is left."""
        while not self.is_finished:
            self.step()

    def become(self, name: str) -> None:
        """Give the finished file its final name, durably."""
        self.final = name
        if size_of(self._files, self.name) >= 0 or size_of(self._files, name) < 0:  # else renamed before
            self._files.rename(self.name, name)
        self._files.sync_directory()

    def abandon(self) -> None:
        """Close and remove the file, whatever it is called, if it was begun."""
        if not self._fds:
            return
        self.done = 0
        self.close()
        for name in filter(None, (self.name, self.final)):
            with suppress(OSError):
                self._files.unlink(name)

    def close(self) -> None:
        """Close the file."""
        while self._fds:
            self._files.close(self._fds.pop())
