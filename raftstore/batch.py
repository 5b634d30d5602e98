"""One atomic change to a store, and how changes that follow each other become one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from raftstore.entry import Entry, LogId


class WriteBatch(msgspec.Struct, frozen=True):
    """One atomic change. Its parts are applied in the order of the fields.

    A batch that empties the log (a reset) is always `truncate_from=1` with the new anchor. A batch never
    holds entries that its own anchor covers.
    """

    number: int
    """Of the write: higher than any before, kept with it, found again by recovery."""
    truncate_from: int | None = None
    """Drop this index and everything after it."""
    anchor: LogId | None = None
    """*Assign* the anchor: drop everything at or below it."""
    entries: Sequence[Entry] = ()
    """Append: they follow what is left, or the anchor if that is higher."""
    hard_state: bytes | None = None
    """Replace."""
    meta: bytes | None = None
    """Replace."""

    def then(self, later: WriteBatch) -> WriteBatch:
        """The one batch that does what `self` and then `later` do. O(entries)."""
        return merge((self, later))


def merge(batches: Iterable[WriteBatch]) -> WriteBatch:
    """The one batch that does what `batches`, at least one, do in their order. It has the last one's number.

    O(entries): what several callers accepted becomes one write with one fsync.
    """
    truncate_from: int | None = None
    anchor: LogId | None = None
    entries: list[Entry] = []
    hard_state: bytes | None = None
    meta: bytes | None = None
    number = 0
    for batch in batches:
        number = batch.number
        if batch.truncate_from is not None:
            truncate_from = _truncate(entries, truncate_from, batch.truncate_from)
        if batch.anchor is not None:
            anchor = batch.anchor
            _drop_covered(entries, anchor.index)
        entries.extend(batch.entries)
        hard_state = batch.hard_state if batch.hard_state is not None else hard_state
        meta = batch.meta if batch.meta is not None else meta
    return WriteBatch(number, truncate_from, anchor, entries, hard_state, meta)


def _truncate(entries: list[Entry], earlier: int | None, start: int) -> int | None:
    """Cut `entries` at `start`, and say from where the merged batch truncates what was there before."""
    if entries and entries[0].index < start:
        del entries[start - entries[0].index :]
        return earlier
    entries.clear()
    return start if earlier is None else min(earlier, start)


def _drop_covered(entries: list[Entry], anchor_index: int) -> None:
    if entries and entries[0].index <= anchor_index:
        del entries[: anchor_index - entries[0].index + 1]
