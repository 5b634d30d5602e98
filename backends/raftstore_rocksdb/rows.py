"""A `WriteBatch` as the records that it drops and puts. Pure."""

from __future__ import annotations

import msgspec

from raftstore.batch import WriteBatch
from raftstore.entry import LogId
from raftstore_rocksdb.layout import (
    BOUNDS,
    HARD_STATE,
    KEY_INDEX_END,
    META,
    entry_key,
    entry_rows,
    pack_bounds,
    pack_run,
    run_key,
    seal,
)
from raftstore_rocksdb.shape import Shape


class Rows(msgspec.Struct, frozen=True):
    """Key ranges [start, stop) to drop, then records to put. To apply the same rows twice changes nothing."""

    drops: list[tuple[bytes, bytes]]
    puts: list[tuple[bytes, bytes]]


def rows_of(batch: WriteBatch, before: Shape, after: Shape) -> Rows:
    """What `batch` does to a store of the shape `before`, of which it makes `after`."""
    drops = [(entry_key(start), entry_key(stop)) for start, stop in _dropped(batch, before)]
    puts = entry_rows(batch.entries)
    if after.runs is not before.runs:
        _change_runs(batch, before, after, drops, puts)
    if batch.hard_state is not None:
        puts.append((HARD_STATE, seal(HARD_STATE, batch.hard_state)))
    if batch.meta is not None:
        puts.append((META, seal(META, batch.meta)))
    puts.append((BOUNDS, pack_bounds(after)))
    return Rows(drops, puts)


def _dropped(batch: WriteBatch, before: Shape) -> list[tuple[int, int]]:
    """The ranges of live indexes that the batch drops."""
    ranges: list[tuple[int, int]] = []
    if batch.truncate_from is not None:
        ranges.append((max(batch.truncate_from, before.first_index), before.last.index + 1))
    if batch.anchor is not None:
        ranges.append((before.first_index, min(batch.anchor.index, before.last.index) + 1))
    return [(start, stop) for start, stop in ranges if start < stop]


def _change_runs(
    batch: WriteBatch,
    before: Shape,
    after: Shape,
    drops: list[tuple[bytes, bytes]],
    puts: list[tuple[bytes, bytes]],
) -> None:
    """Drop the runs that lie in what the batch drops, put those that are not there then."""
    kept_from = batch.anchor.index + 1 if batch.anchor is not None else 0
    kept_to = batch.truncate_from if batch.truncate_from is not None else KEY_INDEX_END
    kept: set[LogId] = {run for run in before.runs if kept_from <= run.index < kept_to}
    if before.runs and before.runs[0].index < kept_from:
        drops.append((run_key(before.runs[0].index), run_key(kept_from)))
    if before.runs and before.runs[-1].index >= kept_to:
        drops.append((run_key(kept_to), run_key(KEY_INDEX_END)))
    puts.extend((run_key(run.index), pack_run(run)) for run in after.runs if run not in kept)
