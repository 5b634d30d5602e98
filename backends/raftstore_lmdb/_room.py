"""Room for a write, made sure of before the write begins.

A full disk reaches the caller of LMDB as EIO out of a commit, when it is too late to say what will be
there. So the blocks that a transaction could need past the last used page of the data file are allocated
before it begins. The last `ballast_bytes` of them are not for writes with entries: they let a vote or a
purge go through on a full disk. When the disk has no room for more, LMDB's map is confined to what is
allocated: then free pages inside the file can still be used, and a transaction that finds none ends
without a trace.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final

import lmdb

from raftstore.batch import WriteBatch
from raftstore_lmdb._datafile import extend
from raftstore_lmdb._latch import ReadersLatch
from raftstore_lmdb._records import ENTRY_OVERHEAD

_GROWTH_BYTES_MIN: Final = 2**20
_GROWTH_BYTES_MAX: Final = 2**23
_GROWTH_SHARE: Final = 4
"""The data file grows by this share of it at a time within the two bounds, if the disk has that."""
_FIXED_PAGES: Final = 128
"""For the tree pages that any transaction copies, and those that a sweep touches."""
_FREE_LIST_SHARE: Final = 256
"""The lists of free pages take at most 8 bytes for a page of 4096, once; this allows for twice that."""
_NODE_OVERHEAD: Final = 8 + 8 + 2
"""Of a key with its value in a page: LMDB's header, our key, its place in the page's table."""
_INLINE_MAX: Final = 1024
"""Values up to this waste less than half of a page."""


def first_room_bytes(ballast_bytes: int) -> int:
    """What a new store has to have on the disk beside what is in it, so that its first writes find room."""
    return ballast_bytes + 2 * _FIXED_PAGES * resource.getpagesize()


class Room:
    """Keeps the data file longer than any transaction needs, and LMDB's map as large as it may be."""

    def __init__(
        self,
        environment: lmdb.Environment,
        file: Path,
        latch: ReadersLatch,
        *,
        map_bytes: int,
        ballast_bytes: int,
    ) -> None:
        self._environment, self._file, self._latch = environment, file, latch
        self._page = environment.stat()["psize"]
        self._map_bytes = max(map_bytes // self._page * self._page, environment.info()["map_size"])
        self._ballast_bytes = ballast_bytes
        self._allocated = self._used()
        self._used_max = self._allocated
        """LMDB uses no more than this: what it used when we looked, and all that was needed since then."""
        self._map_size = environment.info()["map_size"]

    def provide(self, batch: WriteBatch | None) -> bool:
        """Have room for `batch`, or for a sweep, in the file; the ballast stays beyond it.

        False if the disk is full: then LMDB is confined to what is allocated, for a write with entries
        without the ballast. Looks at what LMDB uses only if the writes since the last look could have come
        near the ballast.
        """
        used_max = self._used_max + self._need(batch, self._used_max)
        if used_max + self._ballast_bytes <= self._allocated and self._map_size == self._map_bytes:
            self._used_max = used_max
            return True
        return self._provide(batch)

    def _provide(self, batch: WriteBatch | None) -> bool:
        used = self._used()
        self._used_max = used + self._need(batch, used)
        wanted = self._used_max + self._ballast_bytes
        if wanted <= self._allocated or self._extend(wanted):
            self._set_map(self._map_bytes)
            return True
        kept_back = self._ballast_bytes if batch is not None and batch.entries else 0
        self._set_map(max(used, self._allocated - kept_back))
        return False

    def enlarge_map(self) -> None:
        """Double the map, which is full. Waits for the readers that run."""
        self._map_bytes *= 2
        self._set_map(self._map_bytes)

    def _set_map(self, size: int) -> None:
        size = size // self._page * self._page
        if self._map_size != size:
            with self._latch.alone():
                self._environment.set_mapsize(size)
                self._map_size = self._environment.info()["map_size"]

    def _extend(self, wanted: int) -> bool:
        growth = max(_GROWTH_BYTES_MIN, min(self._allocated // _GROWTH_SHARE, _GROWTH_BYTES_MAX))
        for size in (wanted + growth, wanted):
            if extend(self._file, self._allocated, size):
                self._allocated = size
                return True
        return False

    def _used(self) -> int:
        return (self._environment.info()["last_pgno"] + 1) * self._page

    def _need(self, batch: WriteBatch | None, used: int) -> int:
        """At most so many bytes of new pages does a transaction for `batch` take past the used ones."""
        size = _FIXED_PAGES * self._page + used // _FREE_LIST_SHARE
        if batch is None:
            return size
        if batch.entries:
            size += self._values_bytes([ENTRY_OVERHEAD + len(entry.data) for entry in batch.entries])
        if batch.hard_state is not None:
            size += self._values_bytes([len(batch.hard_state)])
        return size if batch.meta is None else size + self._values_bytes([len(batch.meta)])

    def _values_bytes(self, sizes: list[int]) -> int:
        if max(sizes) <= _INLINE_MAX:
            return 2 * (sum(sizes) + len(sizes) * _NODE_OVERHEAD)
        return sum(sizes) + len(sizes) * 2 * self._page
