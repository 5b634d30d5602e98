"""Many readers, or one who changes the memory map under them."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager


class ReadersLatch:
    """Lets at most `limit` readers in at a time, and nobody beside the one who asked to be alone.

    Only one thread at a time may ask to be alone. It keeps new readers out from then on, so it waits only
    for reads that already run. Not reentrant.
    """

    def __init__(self, limit: int) -> None:
        self._changed = threading.Condition()  # guards the count; never held across I/O
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
        """Wait for the readers to leave, and keep others out.

        The wish is made known before the lock is asked for: readers that come and go in a hurry could keep
        the lock from whoever waits for it, for minutes.
        """
        self._alone = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._readers == 0)
            yield
        finally:
            self._alone = False
            with self._changed:
                self._changed.notify_all()
