"""Many readers, or one who changes the memory map under them."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager


class ReadersLatch:
    """Lets at most `limit` readers in at a time, and nobody beside the one who asked to be alone.

    Whoever waits to be alone keeps new readers out, so it waits only for reads that already run. Not
    reentrant.
    """

    def __init__(self, limit: int) -> None:
        self._changed = threading.Condition()  # guards the two below; never held across I/O
        self._readers = 0
        self._alone = False
        self._limit = limit

    @contextmanager
    def shared(self) -> Generator[None]:
        """Hold off whoever wants to be alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and self._readers < self._limit)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Generator[None]:
        """Wait for the readers to leave, and keep others out."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            try:
                self._changed.wait_for(lambda: self._readers == 0)
            except BaseException:
                self._leave()
                raise
        try:
            yield
        finally:
            with self._changed:
                self._leave()

    def _leave(self) -> None:
        self._alone = False
        self._changed.notify_all()
