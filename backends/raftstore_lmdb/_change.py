"""What a batch makes of a store's bounds and term runs, and which keys must go. Pure: no LMDB here."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import msgspec

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId, term_runs
from raftstore_lmdb._records import Bounds, runs_check


class Shape(msgspec.Struct, frozen=True):
    """A log without its payloads."""

    anchor: LogId
    last: LogId
    runs: Sequence[LogId]
    """The id of the first live entry of each run of equal terms. Empty if and only if the log is."""

    def truncated(self, start: int) -> Shape:
        """Without the entries from `start` on."""
        if start > self.last.index:
            return self
        if start <= self.anchor.index + 1:
            return Shape(self.anchor, self.anchor, ())
        runs = self.runs[: bisect_left(self.runs, start, key=_index)]
        return Shape(self.anchor, LogId(runs[-1].term, start - 1), runs)

    def anchored(self, anchor: LogId) -> Shape:
        """With that anchor, and without what it covers."""
        if anchor.index >= self.last.index or not self.runs:
            return Shape(anchor, anchor, ())
        first = anchor.index + 1
        covering = bisect_right(self.runs, first, key=_index) - 1
        head = LogId(self.runs[covering].term, first)
        return Shape(anchor, self.last, [head, *self.runs[covering + 1 :]])

    def extended(self, entries: Sequence[Entry]) -> Shape:
        """With `entries` at its end."""
        if not entries:
            return self
        added = term_runs(entries)
        if self.runs and self.runs[-1].term == added[0].term:
            del added[0]
        runs = [*self.runs, *added] if added else self.runs
        return Shape(self.anchor, entries[-1].id, runs)


class Change(msgspec.Struct, frozen=True):
    """What one write does to the tables, besides putting the batch's entries and blobs."""

    bounds: Bounds
    """The new record, but for the blobs' checksums and LMDB's transaction id."""
    runs: Sequence[LogId]
    """The new term runs."""
    clears: bool
    """Every key of the entries goes."""
    drops: range
    """The indexes whose keys go because the entries were truncated."""
    runs_gone: Sequence[LogId]
    runs_new: Sequence[LogId]


def change(bounds: Bounds, runs: Sequence[LogId], batch: WriteBatch) -> Change:
    """What `batch` does to a store with these bounds and term runs."""
    old = shape = Shape(bounds.anchor, bounds.last, runs)
    drops = range(0)
    if batch.truncate_from is not None:
        drops = range(batch.truncate_from, bounds.last.index + 1)
        shape = shape.truncated(batch.truncate_from)
    if batch.anchor is not None:
        shape = shape.anchored(batch.anchor)
    shape = shape.extended(batch.entries)
    clears = bool(drops) and drops.start <= bounds.anchor.index + 1
    gone, new = _difference(old.runs, shape.runs)
    return Change(
        bounds=msgspec.structs.replace(
            bounds,
            number=batch.number,
            anchor=shape.anchor,
            last=shape.last,
            floor=shape.anchor.index + 1 if clears else bounds.floor,
            runs=len(shape.runs),
            runs_check=(bounds.runs_check - runs_check(gone) + runs_check(new)) % 2**32,
        ),
        runs=shape.runs,
        clears=clears,
        drops=range(0) if clears else drops,
        runs_gone=gone,
        runs_new=new,
    )


def only_continues(bounds: Bounds, batch: WriteBatch) -> bool:
    """Whether `batch` does nothing but append in the term of the last entry, and there is no garbage to drop.

    Then no term run, no blob and no key changes: what nearly every write of a busy log is.
    """
    return (
        len(batch.entries) > 0
        and batch.truncate_from is None
        and batch.anchor is None
        and batch.hard_state is None
        and batch.meta is None
        and bounds.runs > 0
        and batch.entries[-1].term == bounds.last.term
        and bounds.floor > bounds.anchor.index
    )


def continued(bounds: Bounds, batch: WriteBatch, transaction: int) -> Bounds:
    """The new record if `only_continues`."""
    return msgspec.structs.replace(
        bounds, number=batch.number, transaction=transaction, last=batch.entries[-1].id
    )


def _difference(old: Sequence[LogId], new: Sequence[LogId]) -> tuple[Sequence[LogId], Sequence[LogId]]:
    """Those only in `old`, and those only in `new`."""
    if old is new:
        return (), ()
    before, after = set(old), set(new)
    return [run for run in old if run not in after], [run for run in new if run not in before]


def _index(run: LogId) -> int:
    return run.index
