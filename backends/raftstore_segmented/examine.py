"""Looking at a store that nobody has open."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from raftstore.backend import BackendStats, Examination
from raftstore_segmented.files import FileLayer
from raftstore_segmented.segment import segment_id_of
from raftstore_segmented.space import SPARE


def measure(files: FileLayer, oldest: int, firsts: list[int]) -> BackendStats:
    """Bytes and files of a store whose segments from `oldest` on hold entries from `firsts` on."""
    total = reclaimable = count = 0
    for name in files.names():
        with suppress(OSError):
            size = files.size_of(name)
            total, count = total + size, count + 1
            if name.startswith(SPARE) or _is_dead(segment_id_of(name), oldest, firsts):
                reclaimable += size
    return BackendStats(total, reclaimable, count)


def _is_dead(segment_id: int | None, oldest: int, firsts: list[int]) -> bool:
    """Whether a segment (not the newest) holds nothing that is live."""
    if segment_id is None or segment_id >= oldest + len(firsts) - 1:
        return False
    return segment_id < oldest or firsts[segment_id - oldest] == firsts[segment_id - oldest + 1]


def examine(files: FileLayer, path: Path, *, deep: bool) -> Examination:
    raise NotImplementedError
