"""What a node says while its disk is full. It tries again at every tick, twenty times a second."""

from __future__ import annotations

from typing import Final

SILENT_S: Final = 10.0
"""How long nothing more is said after a refusal was told."""


class FullDisk:
    """The lines of one node: the first refusal, then one a while with how many there were, and one when an
    entry is durable again. Pure: seconds and the durable index are handed in."""

    def __init__(self) -> None:
        self._told_s: float | None = None
        """When a refusal was told last."""
        self._is_known = False
        """A refusal was told, and not yet that it goes on."""
        self._silent = 0
        """Refusals that were not told."""
        self._durable = 0
        """No entry above it was durable when it was looked last."""

    def refused(self, now_s: float, durable: int, why: Exception) -> str | None:
        """What to say of one more refusal."""
        self._durable = durable
        if self._told_s is not None and now_s < self._told_s + SILENT_S:
            self._silent += 1
            return None
        more = f" ({self._silent} more times since this was said last)" if self._silent else ""
        self._told_s, self._is_known, self._silent = now_s, True, 0
        return f"nothing more is acknowledged for now{more}: {why}"

    def passed(self, durable: int) -> str | None:
        """What to say after a tick that nothing was refused in: it may have had nothing to write."""
        if not self._is_known:
            return None
        if durable <= self._durable:
            self._durable = durable  # A truncation, which needs no room, may have lowered it.
            return None
        self._is_known = False
        return f"there is room on the disk again: entry {durable} is durable"
