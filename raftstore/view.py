"""What readers see: a shape, the newest entries in memory, and a cache of older ones.

Under `DiskFirst` a write is applied here once it is durable, under `MemFirst` as soon as it is accepted.
Whoever uses it holds the log's lock, except for `shape`, which is one reference to an immutable value.
"""

from __future__ import annotations

from collections.abc import Sequence

from raftstore.cache import ChunkCache
from raftstore.entry import Entry
from raftstore.window import Window
from raftstore.write import Write


class View:
    """The log as readers see it: the state after the write `number`."""

    def __init__(self, found: Write, *, cache_bytes: int | None) -> None:
        self.shape = found.shape
        self.number = self._held = found.number
        self.window = Window(found.shape.next_index)
        self.cache = ChunkCache()
        self.generation = 0
        """Grows whenever entries are taken away, so that a slow read cannot bring one back."""
        self.cuts = 0
        """Grows whenever a suffix is taken away: what was read before belongs to another log."""
        self._cache_bytes = cache_bytes
        """None: the window holds everything."""

    def apply(self, writes: Sequence[Write]) -> None:
        """Show the next `writes`, all at once. Repeating it, or writes shown before, changes nothing.

        What an interrupt cut short goes on at the write that it hit: earlier ones may not fit any more.
        """
        if not writes or writes[-1].number <= self.number:
            return
        window = self.window
        for write in writes:
            if write.number > self._held:
                if write.truncate_from is not None or write.anchor is not None:
                    self._take_away(write)
                if write.entries:
                    window.extend(write.entries, write.size)
                self._held = write.number
        self.shape = writes[-1].shape
        self.number = writes[-1].number
        if self._cache_bytes is not None and window.bytes + self.cache.bytes > self._cache_bytes:
            self._evict(self._cache_bytes)

    def _take_away(self, write: Write) -> None:
        self.generation += 1
        self.cuts += write.truncate_from is not None
        if write.truncate_from is not None and write.truncate_from < self.window.next_index:
            self.cache.truncate(write.truncate_from)
            self.window.truncate(write.truncate_from)  # Last: whether it is to be done shows there.
        if write.anchor is not None:
            self.window.drop_before(write.anchor.index + 1)
            self.cache.drop_before(write.anchor.index + 1)
            if write.shape.is_empty or not (len(self.window) or write.entries):
                self.window.restart(write.shape.next_index)

    def _evict(self, limit: int) -> None:
        """Make room, a little more than needed, so that it is not done for every write."""
        while len(self.cache) and self.bytes > limit:
            self.cache.evict()
        excess = self.window.bytes - limit
        if excess > 0:
            self.window.shrink(excess + limit // 8)

    def remember(self, chunk: list[Entry], generation: int) -> None:
        """Cache what was read from disk, unless there is no cache or entries were taken away since."""
        if generation == self.generation and self._cache_bytes:
            self.cache.put(chunk)
            self._evict(self._cache_bytes)

    @property
    def bytes(self) -> int:
        return self.window.bytes + self.cache.bytes
