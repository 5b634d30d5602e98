"""The newest entries of the log, contiguous, in memory.

A list, because appending to it costs 0.1 µs, a slice of a thousand 3.5 µs, and cutting its end nothing.
Whoever uses it holds the log's lock.
"""

from __future__ import annotations

from collections.abc import Sequence

from raftstore.entry import Entry
from raftstore.write import ENTRY_OVERHEAD


def size_of(entries: Sequence[Entry]) -> int:
    """The memory that `entries` cost, in bytes."""
    return sum([len(entry.data) for entry in entries]) + ENTRY_OVERHEAD * len(entries)


class Window:
    """Entries from `first` on, without holes, up to the end of what its owner made visible.

    Each change is one assignment, within which Python delivers no signal: interrupts leave all of it or none.
    """

    __slots__ = ("_entries", "bytes", "first")

    def __init__(self, next_index: int) -> None:
        self._entries: list[Entry] = []
        self.first = next_index
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def next_index(self) -> int:
        return self.first + len(self._entries)

    def get(self, index: int) -> Entry:
        """The entry at `index`, which must be held."""
        return self._entries[index - self.first]

    def slice(self, start: int, stop: int) -> list[Entry]:
        """The entries of [start, stop), which must be held."""
        return self._entries[start - self.first : stop - self.first]

    def extend(self, entries: Sequence[Entry], size: int) -> None:
        """Append `entries`, whose memory is `size`. Repeating it changes nothing."""
        at = entries[0].index - self.first
        if at > len(self._entries):
            raise AssertionError(f"a hole before {entries[0].index}: the window ends at {self.next_index}")
        if at == len(self._entries):
            self._entries[at:], self.bytes = entries, self.bytes + size

    def extend_counted(self, entries: Sequence[Entry]) -> None:
        """As `extend`, measuring them."""
        self.extend(entries, size_of(entries))

    def truncate(self, start: int) -> None:
        """Drop `start` and all after it."""
        if start <= self.first:
            self.restart(start)
        else:
            at = start - self.first
            freed = size_of(self._entries[at:])
            self._entries[at:], self.bytes = (), self.bytes - freed

    def drop_before(self, index: int) -> None:
        """Drop all before `index`; if that is more than there is, begin anew there."""
        count = index - self.first
        if count > len(self._entries):
            self.restart(index)
        elif count > 0:
            freed = size_of(self._entries[:count])
            self._entries[:count], self.first, self.bytes = (), index, self.bytes - freed

    def restart(self, next_index: int) -> None:
        """Hold nothing; the next entry is `next_index`."""
        self._entries, self.first, self.bytes = [], next_index, 0

    def shrink(self, excess: int) -> None:
        """Drop the oldest entries that make up at least `excess` bytes."""
        freed = count = 0
        for entry in self._entries:
            if freed >= excess:
                break
            freed += len(entry.data) + ENTRY_OVERHEAD
            count += 1
        self._entries[:count], self.first, self.bytes = (), self.first + count, self.bytes - freed
