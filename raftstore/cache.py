"""The read-through cache of entries below the window: chunks, by their first index.

Bounded by its owner, which evicts what was used longest ago. Whoever uses it holds the log's lock.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from sortedcontainers import SortedList

from raftstore.entry import Entry
from raftstore.window import size_of

CHUNK_OVERHEAD: Final = 128
"""Bytes that a chunk costs beside its entries: its list and its place here."""


class ChunkCache:
    """Runs of entries that were read from disk together. Random reads make many chunks of one entry each."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[int, list[Entry]] = OrderedDict()  # By first index, longest unused first.
        self._long: SortedList[int] = SortedList()  # The first indexes of those with more than one entry.
        self._end = 0  # Nothing at or above it is held.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def get(self, index: int) -> list[Entry] | None:
        """The rest of the chunk that holds `index`, beginning there."""
        first = index if index in self._chunks else self._long_before(index)
        chunk = None if first is None else self._chunks.get(first)
        if first is None or chunk is None or index >= first + len(chunk):
            return None
        self._chunks.move_to_end(first)
        return chunk[index - first :] if index > first else chunk

    def _long_before(self, index: int) -> int | None:
        """The first index of the last long chunk that begins at or before `index`."""
        at = self._long.bisect_right(index) if self._long else 0
        return self._long[at - 1] if at else None

    def next_first(self, index: int) -> int | None:
        """Where the first long chunk above `index` begins: a read need not go beyond."""
        at = self._long.bisect_right(index)
        return self._long[at] if at < len(self._long) else None

    def put(self, chunk: list[Entry]) -> None:
        first, count = chunk[0].index, len(chunk)
        if first in self._chunks:
            self._drop(first)
        self.bytes += (
            size_of(chunk) + CHUNK_OVERHEAD
        )  # First: cut short, it counts too much, never too little.
        self._end = max(self._end, first + count)
        self._chunks[first] = chunk
        if count > 1:
            self._long.add(first)

    def truncate(self, start: int) -> None:
        """Forget `start` and all after it, and the chunks that reach it."""
        if start < self._end:
            self._drop_all([first for first, chunk in self._chunks.items() if first + len(chunk) > start])
            self._end = start

    def drop_before(self, index: int) -> None:
        """Forget the chunks that lie before `index` as a whole."""
        self._drop_all([first for first, chunk in self._chunks.items() if first + len(chunk) <= index])

    def evict(self) -> None:
        """Forget the chunk that was used longest ago."""
        self._drop(next(iter(self._chunks)))

    def _drop_all(self, firsts: list[int]) -> None:
        for first in firsts:
            self._drop(first)

    def _drop(self, first: int) -> None:
        chunk = self._chunks.pop(first)
        if len(chunk) > 1:
            self._long.discard(first)
        # What an interrupt made it count too much ends when it is empty.
        self.bytes = self.bytes - size_of(chunk) - CHUNK_OVERHEAD if self._chunks else 0
