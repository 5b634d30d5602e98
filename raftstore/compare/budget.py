"""How much one slice of work may take: time and payload, and never less than a few calls."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Final

import msgspec

CALLS_MIN: Final = 3
SLICE_BYTES: Final = 32 << 20


class Budget(msgspec.Struct, frozen=True):
    """For one slice."""

    seconds: float
    bytes: int = SLICE_BYTES

    def calls(self, bytes_a_call: int) -> Iterator[None]:
        """Yields once for each call that may still begin; the time runs from the first."""
        end = perf_counter() + self.seconds
        calls = 0
        while calls < CALLS_MIN or (perf_counter() < end and calls * bytes_a_call < self.bytes):
            yield
            calls += 1

    def share(self, callers: int) -> Budget:
        """For each of `callers` that work at the same time."""
        return Budget(self.seconds, self.bytes // callers)
