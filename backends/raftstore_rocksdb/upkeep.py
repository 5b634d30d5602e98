"""What a store takes on disk, and what of it to give back next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from raftstore.backend import BackendStats
from raftstore_rocksdb.engine import Engine, SortedFile
from raftstore_rocksdb.files import all_files
from raftstore_rocksdb.layout import KEY_INDEX_END, entry_key, is_entry_key, key_index
from raftstore_rocksdb.shape import Shape

RECLAIM_BYTES_MIN: Final = 1 << 20
"""Less than this is not worth a compaction."""

_BLOCK: Final = 512


def stats_of(path: Path, engine: Engine | None, shape: Shape) -> BackendStats:
    """The size of the store; what is reclaimable is estimated from the index ranges of the sorted files."""
    sizes = [known.st_blocks * _BLOCK for _, known in all_files(path)]
    dropped = dropped_ranges(engine.files(), shape) if engine is not None else []
    reclaimable = sum(part.size for part in dropped)
    return BackendStats(sum(sizes), min(reclaimable, sum(sizes)), len(sizes))


class Dropped(msgspec.Struct, frozen=True):
    """A key range outside of the log, and about how many bytes of sorted files lie in it."""

    start: bytes
    stop: bytes
    size: int


def dropped_ranges(files: Sequence[SortedFile], shape: Shape) -> list[Dropped]:
    """What was purged, and what lies above the log since a truncation or a reset."""
    ranges = ((0, shape.first_index), (shape.last.index + 1, KEY_INDEX_END))
    return [Dropped(entry_key(a), entry_key(b), _bytes_in(files, a, b)) for a, b in ranges]


def worth_compacting(files: Sequence[SortedFile], shape: Shape) -> Dropped | None:
    """The larger of these, or None if little would come free."""
    most = max(dropped_ranges(files, shape), key=lambda dropped: dropped.size)
    return most if most.size >= RECLAIM_BYTES_MIN else None


def _bytes_in(files: Sequence[SortedFile], start: int, stop: int) -> int:
    return sum(int(file.size * _share(file, start, stop)) for file in files)


def _share(file: SortedFile, start: int, stop: int) -> float:
    """Which part of a file lies in [start, stop), if its entries were spread evenly over its index range.

    Of a file that ends in other records the last index is not known: it counts as ending where it begins.
    """
    if not is_entry_key(file.first_key):
        return 0.0
    low = key_index(file.first_key)
    high = key_index(file.last_key) if is_entry_key(file.last_key) else low
    return max(min(high + 1, stop) - max(low, start), 0) / (high - low + 1)
