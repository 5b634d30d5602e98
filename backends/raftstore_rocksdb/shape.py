"""What a log looks like from outside its entries, and how a write changes that. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter

import msgspec

from raftstore.batch import WriteBatch
from raftstore.entry import NO_ENTRY, Entry, LogId, term_runs

_INDEX = attrgetter("index")


class Shape(msgspec.Struct, frozen=True):
    """Write number, anchor, last, and the first live entry of each run of equal terms."""

    number: int = 0
    anchor: LogId = NO_ENTRY
    last: LogId = NO_ENTRY
    runs: Sequence[LogId] = ()

    @property
    def first_index(self) -> int:
        """The index of the first entry, or where it would be."""
        return self.anchor.index + 1

    def holds(self, start: int, stop: int) -> bool:
        """Whether all of [start, stop) is live."""
        return self.anchor.index < start and stop <= self.last.index + 1

    def after(self, batch: WriteBatch) -> Shape:
        """The shape once `batch` is written. O(entries + runs)."""
        shape = self
        if self._is_continued(batch):
            return Shape(batch.number, self.anchor, batch.entries[-1].id, self.runs)
        if batch.truncate_from is not None:
            shape = shape._truncated(batch.truncate_from)
        if batch.anchor is not None:
            shape = shape._anchored(batch.anchor)
        if batch.entries:
            shape = shape._extended(batch.entries)
        return Shape(batch.number, shape.anchor, shape.last, shape.runs)

    def _is_continued(self, batch: WriteBatch) -> bool:
        """Whether `batch` only appends in the term of the last entry: what nearly every write is."""
        return (
            batch.truncate_from is None
            and batch.anchor is None
            and len(batch.entries) > 0
            and len(self.runs) > 0
            and batch.entries[-1].term == self.last.term
        )

    def _truncated(self, start: int) -> Shape:
        if start > self.last.index:
            return self
        runs = self.runs[: bisect_left(self.runs, start, key=_INDEX)]
        last = LogId(runs[-1].term, start - 1) if runs else self.anchor
        return Shape(self.number, self.anchor, last, runs)

    def _anchored(self, anchor: LogId) -> Shape:
        if not self.runs or anchor.index >= self.last.index:
            return Shape(self.number, anchor, anchor, ())
        first = anchor.index + 1
        covering = max(bisect_right(self.runs, first, key=_INDEX) - 1, 0)
        runs = [LogId(self.runs[covering].term, first), *self.runs[covering + 1 :]]
        return Shape(self.number, anchor, self.last, runs)

    def _extended(self, entries: Sequence[Entry]) -> Shape:
        fresh = term_runs(entries)
        if self.runs and self.runs[-1].term == fresh[0].term:
            del fresh[0]
        runs = [*self.runs, *fresh] if fresh else self.runs
        return Shape(self.number, self.anchor, entries[-1].id, runs)
