"""A place in the code where a test can stop time."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

PATIENCE_S = 200.0
"""How long a call waits at a closed gate before it gives up, so that a broken test ends."""


class Gate:
    """Open, calls pass it. Closed, they wait at it until it opens or lets some pass. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards the two below; entered directly, which no interrupt can split
        self._changed = threading.Condition(self._lock)
        self._tickets: int | None = None  # how many may pass; None if it is open
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many calls wait at it now."""
        return self._waiting

    def close(self) -> None:
        """Whoever comes from now on waits."""
        with self._lock:
            self._tickets = 0

    def open(self) -> None:
        """Whoever waits goes on, and whoever comes passes."""
        with self._lock:
            self._tickets = None
            self._changed.notify_all()

    def let_pass(self, count: int = 1) -> None:
        """`count` of those who wait, or who come next, pass; the gate stays closed."""
        with self._lock:
            self._tickets = (self._tickets or 0) + count
            self._changed.notify_all()

    @contextmanager
    def closed(self) -> Generator[Gate]:
        """Closed inside the block, open after it, whatever happened."""
        self.close()
        try:
            yield self
        finally:
            self.open()

    def wait_for_arrival(self, count: int = 1, timeout_s: float = 120.0) -> None:
        """Return when at least `count` calls wait that may not pass yet. Raises `TimeoutError`."""
        with self._lock:
            if not self._changed.wait_for(lambda: self._waiting - (self._tickets or 0) >= count, timeout_s):
                raise TimeoutError(f"{self._waiting} of {count} calls came to the gate in {timeout_s} s")

    def pass_through(self) -> None:
        """Called by what is stopped here. Raises `TimeoutError` after `PATIENCE_S`."""
        if self._is_open():
            return
        with self._lock:
            self._waiting += 1
            self._changed.notify_all()
            try:
                if not self._changed.wait_for(lambda: self._tickets != 0, PATIENCE_S):
                    raise TimeoutError(f"the gate stayed closed for {PATIENCE_S} s")
                if self._tickets is not None:
                    self._tickets -= 1
            finally:
                self._waiting -= 1

    def _is_open(self) -> bool:
        return self._tickets is None
