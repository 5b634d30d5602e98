"""The read-through cache of entries below the window: chunks, by their first index.

Bounded by its owner, which evicts what was used longest ago. Whoever uses it holds the log's lock.
"""

from __future__ import annotations

from collections import OrderedDict

from sortedcontainers import SortedDict

from raftstore.entry import Entry
from raftstore.window import size_of


class ChunkCache:
    """Runs of entries that were read from disk together."""

    def __init__(self) -> None:
        self._chunks: SortedDict[int, list[Entry]] = SortedDict()
        self._used: OrderedDict[int, int] = OrderedDict()  # First index -> bytes, longest unused first.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def get(self, index: int) -> list[Entry] | None:
        """The rest of the chunk that holds `index`, beginning there."""
        at = self._chunks.bisect_right(index) - 1
        if at < 0:
            return None
        first, chunk = self._chunks.peekitem(at)
        if index >= first + len(chunk):
            return None
        if first in self._used:  # Not so if an interrupt cut `put` short.
            self._used.move_to_end(first)
        return chunk[index - first :] if index > first else chunk

    def next_first(self, index: int) -> int | None:
        """Where the first chunk above `index` begins: a read need not go beyond."""
        at = self._chunks.bisect_right(index)
        return self._chunks.peekitem(at)[0] if at < len(self._chunks) else None

    def put(self, chunk: list[Entry]) -> None:
        first = chunk[0].index
        self._drop(first)
        self._chunks[first] = chunk
        self._used[first] = size_of(chunk)
        self.bytes += self._used[first]

    def truncate(self, start: int) -> None:
        """Forget `start` and all after it."""
        while self._chunks and self._chunks.peekitem(-1)[0] >= start:
            self._drop(self._chunks.peekitem(-1)[0])
        self._drop_overlapping(start)

    def drop_before(self, index: int) -> None:
        """Forget the chunks that lie before `index` as a whole."""
        while self._chunks:
            first, chunk = self._chunks.peekitem(0)
            if first + len(chunk) > index:
                break
            self._drop(first)

    def clear(self) -> None:
        self._chunks.clear()
        self._used.clear()
        self.bytes = 0

    def evict(self) -> None:
        """Forget the chunk that was used longest ago."""
        self._drop(next(iter(self._used or self._chunks)))

    def _drop_overlapping(self, index: int) -> None:
        """Forget every chunk that reaches `index`; chunks may overlap when two readers loaded at once."""
        for first in list(self._chunks.irange(maximum=index)):
            if first + len(self._chunks[first]) > index:
                self._drop(first)

    def _drop(self, first: int) -> None:
        freed = self._used.pop(first, 0)
        self._chunks.pop(first, None)
        self.bytes -= freed
