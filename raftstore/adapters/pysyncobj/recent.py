"""The newest entries of a journal as PySyncObj wants them: it asks again for what it has just added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftstore.adapters.pysyncobj.slices import JournalEntry

RECENT_BYTES_MAX: Final = 16 << 20
"""Payload bytes that are kept; the log's cache holds the same objects, so that little is paid twice."""
RECENT_MAX: Final = 65_536
"""Entries that are kept."""
AT_ONCE: Final = 1024
"""Entries of one read: a message of 64 KiB seldom takes more."""


class Recent:
    """A run of entries without holes, the last of which is the last that was added here."""

    def __init__(self) -> None:
        self._entries: list[JournalEntry] = []
        self._first = 1
        self._bytes = 0

    def read(self, start: int, stop: int) -> list[JournalEntry]:
        """The first entries of [start, stop), at least one; none if `start` is not held."""
        at = start - self._first
        if at < 0:
            return []
        return self._entries[at : min(stop - self._first, at + AT_ONCE)]

    def extend(self, entries: Sequence[JournalEntry], size: int) -> None:
        """Add `entries`, of `size` payload bytes.

        What was held from their first index on goes; all of it, if there was a hole.
        """
        if not entries:
            return
        self._cut(entries[0][1])
        self._entries += entries
        self._bytes += size
        if self._bytes > RECENT_BYTES_MAX or len(self._entries) > RECENT_MAX:
            self._keep_newest()

    def _cut(self, index: int) -> None:
        """Be ready for `index` as the next."""
        at = index - self._first
        if at == len(self._entries):
            return
        if not 0 <= at < len(self._entries):
            self._entries, self._bytes, self._first = [], 0, index
            return
        self._bytes -= sum([len(command) for command, _, _ in self._entries[at:]])
        del self._entries[at:]

    def _keep_newest(self) -> None:
        """Drop the older half, by count, or more where that is too many; all, if the rest is too large."""
        drop = max(len(self._entries) // 2, len(self._entries) - RECENT_MAX)
        self._first += drop
        del self._entries[:drop]
        self._bytes = sum([len(command) for command, _, _ in self._entries])
        if self._bytes > RECENT_BYTES_MAX:
            self._entries, self._bytes = [], 0
