"""Segments that count no more: one is kept to be used again, the others are removed."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock
from typing import Final

from raftstore_segmented.catalog import Catalog
from raftstore_segmented.files import FileLayer, size_of
from raftstore_segmented.removal import REMOVAL_STEP_BYTES, Removal
from raftstore_segmented.segment import segment_name

SPARE: Final = "spare-"
"""How names begin that mean nothing."""
RETIRED: Final = "spare-retired"
"""The segment that is kept to be used again: at most one."""
GONE: Final = "spare-gone-"
"""A file that is being removed, in steps."""


class Retired:
    """Takes segments out of the log. From any thread."""

    def __init__(self, files: FileLayer, segment_bytes: int) -> None:
        self._files = files
        self._segment_bytes = segment_bytes
        self.removal = Removal(files)
        self._lock = Lock()
        """Guards the two below; held while files are renamed and removed."""
        self._is_one_kept = False
        self._below = 0

    def adopt(self, stale: list[int], spares: list[str], *, may_keep: bool) -> None:
        """Take over old segments and spares of an earlier process. Names are not synced."""
        with self._lock:
            self._is_one_kept = RETIRED in spares and size_of(self._files, RETIRED) == self._segment_bytes
            for name in [*map(segment_name, stale), *spares]:
                if name != RETIRED or not self._is_one_kept:
                    self._keep_or_remove(name, may_keep=may_keep)

    def begin_at(self, oldest: int) -> None:
        """Segments below `oldest` are gone already."""
        self._below = oldest

    def retire(self, catalog: Catalog, *, may_keep: bool) -> None:
        """Take out the segments that count no more, oldest first; one that nobody holds is kept.

        Without a reserve, room matters more: then `may_keep` is False. May be called again after it failed.
        """
        with self._lock:
            begin, end = self._below, catalog.state.oldest
            if begin >= end:
                return
            catalog.retire()
            for segment_id in range(begin, end):
                if catalog.is_held(segment_id):  # who reads it still needs all of it
                    with suppress(FileNotFoundError):
                        self._files.unlink(segment_name(segment_id))
                else:
                    self._keep_or_remove(segment_name(segment_id), may_keep=may_keep)
            self._files.sync_directory()
            self._below = end

    def is_done(self, below: int) -> bool:
        """Whether the segments below this id were taken out, or never were there."""
        return self._below >= below

    def take(self, name: str) -> None:
        """Call the kept segment `name`, if there is one: `segment_bytes` long, full of what means nothing."""
        with self._lock:
            if self._is_one_kept:
                with suppress(FileNotFoundError):  # renamed already: an interrupt came right after it
                    self._files.rename(RETIRED, name)
                self._is_one_kept = False

    def make_room(self) -> bool:
        """Remove at once what was to go in time, and what was kept; False if there was nothing."""
        with self._lock:
            is_vain = self.removal.is_done and not self._is_one_kept
            if self._is_one_kept:
                with suppress(OSError):
                    self._files.unlink(RETIRED)
                self._is_one_kept = False
        self.removal.finish()
        return not is_vain

    def _keep_or_remove(self, name: str, *, may_keep: bool) -> None:
        size = size_of(self._files, name)
        if may_keep and not self._is_one_kept and size == self._segment_bytes:
            self._files.rename(name, RETIRED)
            self._is_one_kept = True
        elif size > REMOVAL_STEP_BYTES:
            gone = GONE + name.removeprefix(GONE)
            self._files.rename(name, gone)
            self.removal.add(gone)
        else:
            with suppress(FileNotFoundError):
                self._files.unlink(name)
