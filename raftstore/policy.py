"""Flush policies: *when* accepted writes go to disk. Pure: numbers in, a delay out.

A policy knows no clock, disk or thread. The flusher asks it after every accepted write and whenever the
delay it gave has passed.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Pending(msgspec.Struct, frozen=True, gc=False):
    """What a policy may look at: what was accepted and is not being written yet."""

    entries: int
    """Accepted entries that wait."""
    bytes: int
    """Their payload bytes."""
    waited_s: float
    """Since the oldest of them was accepted."""
    since_flush_s: float
    """Since the last flush ended, or the log was opened."""


class FlushPolicy(Protocol):
    """Decides how long a flush may still wait."""

    def due_s(self, pending: Pending) -> float:
        """Seconds until a flush is due; 0 or less means now. Asked only while something is pending."""
        ...


class Immediate(msgspec.Struct, frozen=True):
    """Due at once. Whoever arrives while a flush runs shares the next one."""

    def due_s(self, pending: Pending) -> float:
        return 0.0


class Batch(msgspec.Struct, frozen=True):
    """Due when `threshold` entries are pending, or `interval` ms have passed since the last flush."""

    threshold: int
    interval: int

    def due_s(self, pending: Pending) -> float:
        if pending.entries >= self.threshold:
            return 0.0
        return self.interval / 1000 - pending.since_flush_s
