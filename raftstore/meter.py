"""Counts and times of flushes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import Final

WINDOW: Final = 1024
"""How many of the latest flushes the quantiles are taken from."""


class Meter:
    """Written by whoever leads a flush, one at a time; read by anybody."""

    def __init__(self) -> None:
        self.flushes = 0
        self.entries = 0
        self.cache_hits = 0
        self.cache_misses = 0
        self._seconds: deque[float] = deque(maxlen=WINDOW)

    def flushed(self, seconds: float, entries: int) -> None:
        self.flushes += 1
        self.entries += entries
        self._seconds.append(seconds)

    def quantiles_ms(self) -> tuple[float, float, float]:
        """p50, p99 and the highest of the latest flushes, in milliseconds; zeros before the first."""
        seconds = sorted(self._seconds.copy()) or [0.0]
        p50, p99, highest = (quantile(seconds, share) * 1000 for share in (0.5, 0.99, 1.0))
        return p50, p99, highest


def quantile(ranked: Sequence[float], share: float) -> float:
    """The least of `ranked`, which ascend, that `share` (0 to 1) of them do not exceed: the nearest rank."""
    rank = ceil(round(share * len(ranked), 6))  # rounded, because 0.55 * 20 is a little more than 11
    return ranked[max(rank, 1) - 1]
