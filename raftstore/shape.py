"""The shape of a log: its bounds and terms, without payloads.

A `Shape` is immutable, so that a reader who holds one sees bounds and terms that belong together. All
questions about indexes and terms are answered from it, without a disk, in O(log runs).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from raftstore.entry import NO_ENTRY, Entry, LogId, term_runs


class Shape(msgspec.Struct, frozen=True, gc=False):
    """Anchor, last id, and the first live id of each run of equal terms, ascending."""

    anchor: LogId = NO_ENTRY
    last: LogId = NO_ENTRY
    runs: tuple[LogId, ...] = ()

    @property
    def first_index(self) -> int:
        return self.anchor.index + 1

    @property
    def next_index(self) -> int:
        return self.last.index + 1

    @property
    def is_empty(self) -> bool:
        return self.last.index == self.anchor.index

    def term(self, index: int) -> int | None:
        """The term at `index`, the anchor's included; None if the log does not know it."""
        if index == self.last.index:
            return self.last.term
        if self.anchor.index < index < self.last.index:
            return self.runs[self._run_at(index)].term
        return self.anchor.term if index == self.anchor.index else None

    def first_index_of_term(self, term: int) -> int | None:
        position = self._run_of(term)
        return None if position is None else self.runs[position].index

    def last_index_of_term(self, term: int) -> int | None:
        position = self._run_of(term)
        if position is None:
            return None
        return self.runs[position + 1].index - 1 if position + 1 < len(self.runs) else self.last.index

    def truncated(self, start: int) -> Shape:
        """Without `start` and all after it; unchanged if `start` lies above last."""
        if start > self.last.index:
            return self
        runs = self.runs[: self._run_at(start - 1) + 1] if start > self.first_index else ()
        last = LogId(runs[-1].term, start - 1) if runs else self.anchor
        return Shape(self.anchor, last, runs)

    def anchored(self, anchor: LogId) -> Shape:
        """Without everything up to and including `anchor`; an empty log moves there, up or down."""
        if self.is_empty or anchor.index >= self.last.index:
            return Shape(anchor, anchor)
        position = self._run_at(anchor.index + 1)
        first = LogId(self.runs[position].term, anchor.index + 1)
        return Shape(anchor, self.last, (first, *self.runs[position + 1 :]))

    def appended(self, entries: Sequence[Entry]) -> Shape:
        """With `entries`, at least one, which follow last."""
        newest = entries[-1]
        last = LogId(newest.term, newest.index)
        if self.runs and self.runs[-1].term == newest.term:
            return Shape(self.anchor, last, self.runs)
        added = term_runs(entries)
        if self.runs and self.runs[-1].term == added[0].term:
            del added[0]
        return Shape(self.anchor, last, (*self.runs, *added))

    def changed(
        self, truncate_from: int | None = None, anchor: LogId | None = None, entries: Sequence[Entry] = ()
    ) -> Shape:
        """After a truncation, then a new anchor, then an append: the order of a `WriteBatch`."""
        shape = self if truncate_from is None else self._cut(truncate_from)
        shape = shape if anchor is None else shape.anchored(anchor)
        return shape.appended(entries) if entries else shape

    def _cut(self, start: int) -> Shape:
        """As `truncated`, and a reset's `truncate_from=1` empties the log whatever its anchor."""
        return Shape(self.anchor, self.anchor) if start <= self.anchor.index else self.truncated(start)

    def _run_at(self, index: int) -> int:
        """The position of the run that holds `index`, a live one."""
        return bisect_right(self.runs, index, key=_index_of) - 1

    def _run_of(self, term: int) -> int | None:
        position = bisect_right(self.runs, term, key=_term_of) - 1
        return position if position >= 0 and self.runs[position].term == term else None


def _index_of(run: LogId) -> int:
    return run.index


def _term_of(run: LogId) -> int:
    return run.term
