"""Removing files that nobody needs, a piece at a time.

Giving back the blocks of a large file is one transaction of the file system, and where these are discarded on
the disk (mount option `discard`), every sync waits for that: an append stood still for 80 to 150 ms while a
file of 64 MiB went. So files are made shorter in steps, each a small transaction.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from threading import Lock
from typing import Final

from raftstore_segmented.files import FileLayer

REMOVAL_STEP_BYTES: Final = 4 << 20
"""Smaller files go at once."""
PAUSE_S: Final = 0.002
"""Between two steps: appends that waited for one go first."""


class Removal:
    """Files whose names mean nothing, on their way out."""

    def __init__(self, files: FileLayer) -> None:
        self._files = files
        self._lock = Lock()
        """Guards the fields below; held while a step is made."""
        self._names: deque[str] = deque()
        self._fds: list[int] = []
        """One, of the first name, once it was begun."""
        self._left = 0

    def add(self, name: str) -> None:
        """Remove the file in time."""
        self._names.append(name)

    @property
    def is_done(self) -> bool:
        return not self._names

    def step(self) -> None:
        """Remove a piece of the first file. If that raises `OSError`, it is given up, and stays a spare."""
        with self._lock:
            if not self._names:
                return
            try:
                if not self._shorten():
                    self._unlink()
            except OSError:
                self._forget()
                raise

    def finish(self) -> None:
        """Remove all that is left, at once."""
        with self._lock:
            while self._names:
                try:
                    self._unlink()
                except OSError:
                    self._forget()

    def _shorten(self) -> bool:
        """Take a piece off; False if the rest is small enough to go at once."""
        if not self._fds:
            self._fds.append(self._files.open(self._names[0], writable=True))
            self._left = self._files.size(self._fds[0])
        else:
            time.sleep(PAUSE_S)
        self._left -= REMOVAL_STEP_BYTES
        if self._left <= 0:
            return False
        self._files.truncate(self._fds[0], self._left)
        self._files.fdatasync(self._fds[0])
        return True

    def _unlink(self) -> None:
        self._files.unlink(self._names[0])
        self._forget()

    def _forget(self) -> None:
        """Let the first name go."""
        while self._fds:
            with suppress(OSError):
                self._files.close(self._fds.pop())
        self._names.popleft()
