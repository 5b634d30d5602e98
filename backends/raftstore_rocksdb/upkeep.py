"""What a store takes on disk, and which of its files to compact next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from raftstore.backend import BackendStats
from raftstore_rocksdb.engine import Engine, SortedFile
from raftstore_rocksdb.files import all_files
from raftstore_rocksdb.layout import KEY_INDEX_END, entry_key, is_entry_key, key_index
from raftstore_rocksdb.shape import Shape

PIECE_BYTES: Final = 64 << 20
"""How much of purged files one `maintain` rewrites at most, beside RocksDB's newest files."""

RECLAIM_BYTES_MIN: Final = 1 << 20
"""Less than this is not worth a compaction."""

_BLOCK: Final = 512


def stats_of(path: Path, engine: Engine | None, shape: Shape) -> BackendStats:
    """The size of the store; what is reclaimable is estimated from the index ranges of the sorted files."""
    sizes = [known.st_blocks * _BLOCK for _, known in all_files(path)]
    reclaimable = dead_bytes(engine.files(), shape) if engine is not None else 0
    return BackendStats(sum(sizes), min(reclaimable, sum(sizes)), len(sizes))


def dead_bytes(files: Sequence[SortedFile], shape: Shape) -> int:
    """About how many bytes of `files` hold entries that were purged or truncated."""
    return _bytes_in(files, 0, shape.first_index) + _bytes_in(files, shape.last.index + 1, KEY_INDEX_END)


def next_piece(files: Sequence[SortedFile], shape: Shape) -> tuple[bytes, bytes] | None:
    """The key range to compact next, or None if little would come free: first what was purged, then what
    lies above the log since a truncation or a reset."""
    for start, stop in ((0, shape.first_index), (shape.last.index + 1, KEY_INDEX_END)):
        if _bytes_in(files, start, stop) >= RECLAIM_BYTES_MIN:
            return _piece(files, entry_key(start), entry_key(stop))
    return None


def _piece(files: Sequence[SortedFile], start: bytes, stop: bytes) -> tuple[bytes, bytes]:
    """The part of [start, stop) that the first `PIECE_BYTES` of the files in it cover."""
    size = 0
    for file in files:
        size += file.size if start <= file.last_key else 0
        if size > PIECE_BYTES and start <= file.last_key < stop:
            return start, file.last_key
    return start, stop


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
