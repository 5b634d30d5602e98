"""Files that hold nothing yet: the next segment, the reserve, and retired segments to be used again.

A write into blocks that were written before costs no journal commit, so segments are filled with zeros before
they are used. The next segment gets its header and its final name ahead too: the write that begins it is an
ordinary write. Until then the file is called `spare-…`, and what it holds means nothing.

`reserve` is a small zeroed file that becomes the next segment when the disk is full and the write has no
entries. While there is none, writes with entries are refused.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Final, Self

from raftstore_segmented.catalog import Catalog
from raftstore_segmented.counters import Counters
from raftstore_segmented.files import FileLayer, write_all, write_zeros
from raftstore_segmented.frame import Place
from raftstore_segmented.header import FRAMES_AT, SegmentHeader, encode_header
from raftstore_segmented.index import FrameIndex
from raftstore_segmented.segment import Segment, segment_name

STEP_BYTES: Final = 4 << 20
"""Zeros are written and synced in pieces of this size: a short queue before an append's own sync."""
FIRST_BYTES: Final = 1 << 20
"""Size of a store's first segment; each next one is four times as large, up to `segment_bytes`."""
RESERVE: Final = "reserve"
SPARE: Final = "spare-"
RETIRED: Final = "spare-retired"
"""A segment that counts no more, kept to be used again: at most one."""


def is_full(error: OSError) -> bool:
    """Whether the disk, or this user's part of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _spare_name(segment_id: int) -> str:
    return f"{SPARE}{segment_id:016d}"


def _never() -> bool:
    return False


class StoppedError(Exception):
    """The store is being closed; preparing was given up."""


class Space:
    """Makes segment files, ahead of the writer if it can, and takes them back."""

    def __init__(
        self,
        files: FileLayer,
        algorithm: int,
        segment_bytes: int,
        counters: Counters,
        stopping: Callable[[], bool],
    ) -> None:
        self._files = files
        self._algorithm = algorithm
        self._segment_bytes = segment_bytes
        self._counters = counters
        self._stopping = stopping
        self._lock = Lock()
        """Guards the next segment and the reserve; held while such a file is made."""
        self._next: Segment | None = None
        self._wanted = (0, 0)
        self.has_reserve = False
        self._names = Lock()
        """Guards the two below; held while files are renamed and removed."""
        self._has_retired = False
        self._retired_below = 0

    def first_size(self) -> int:
        return min(self._segment_bytes, FIRST_BYTES)

    def create(self, size: int, first_frame: Callable[[Place], bytes | bytearray]) -> Segment:
        """Segment 1 with its first frame, durable: the beginning of a store."""
        with self._lock:
            return self._make(1, size, first_frame)

    def adopt(self, following: Segment | None, stale: list[int], spares: list[str], *, reserve: bool) -> None:
        """Take over what an earlier process left: an empty segment, old ones, spares, the reserve."""
        with self._lock, self._names:
            self._next = following
            self.has_reserve = reserve and self._size_of(RESERVE) == self._reserve_bytes()
            self._has_retired = RETIRED in spares and self._size_of(RETIRED) == self._segment_bytes
            for name in [*map(segment_name, stale), *spares]:
                if name != RETIRED or not self._has_retired:
                    self._keep_or_remove(name)
            if reserve and not self.has_reserve:
                self._files.unlink(RESERVE)
            self._files.sync_directory()

    def retired_from(self, oldest: int) -> None:
        """Segments below `oldest` are gone already."""
        self._retired_below = oldest

    def want(self, after: Segment) -> None:
        """From now on the next segment is the one that follows `after`. No I/O, waits for nothing."""
        self._wanted = (after.id + 1, min(self._segment_bytes, 4 * after.size))

    def prepare(self) -> None:
        """Make the next segment and the reserve if they are not there. For the background thread."""
        try:
            self.ensure_reserve()
            with self._lock:
                self._ensure_next(self._stopping)
        except StoppedError:
            pass
        except OSError as error:
            if not is_full(error):
                raise  # else the writer will see it, if there is still no room when it needs some

    def next_segment(self, after: Segment, frame_bytes: int, *, entries: bool) -> Segment:
        """The segment after `after`, with room for a first frame of `frame_bytes`. Asked again, the same.

        Raises `OSError(ENOSPC)` if the disk is full; without entries, only if the reserve is used up too.
        """
        self.want(after)
        if self._next is None or self._next.id != after.id + 1:
            self._counters.writer_prepared += 1
        with self._lock:
            try:
                segment = self._ensure_next(_never)
            except OSError as error:
                if entries or not self.has_reserve or not is_full(error):
                    raise
                segment = self._use_reserve(after.id + 1)
            self._grow(segment, FRAMES_AT + frame_bytes)
            return segment

    def grow(self, segment: Segment, size: int) -> None:
        """Make the file at least `size` bytes long, of zeros; if that raises `OSError`, it is as it was."""
        with self._lock:
            self._grow(segment, size)

    def begun(self, segment: Segment) -> None:
        """The first write into the next segment is durable. Once more changes nothing.

        What is wanted changes first: at no moment may the background thread see `segment` missing.
        """
        self.want(segment)
        if self._next is segment:
            self._next = None

    def ensure_reserve(self) -> None:
        """Have the reserve, or raise `OSError(ENOSPC)`."""
        with self._lock:
            self._ensure_reserve()

    def retire(self, catalog: Catalog) -> None:
        """Remove the segments that count no more, oldest first; one that nobody holds is kept.

        May be called from any thread, and again after it failed.
        """
        with self._names:
            begin, end = self._retired_below, catalog.state.oldest
            if begin >= end:
                return
            held = {segment.id for segment in catalog.retire()}
            for segment_id in range(begin, end):
                if segment_id in held:
                    self._files.unlink(segment_name(segment_id))
                else:
                    self._keep_or_remove(segment_name(segment_id))
            self._files.sync_directory()
            self._retired_below = end

    def retired(self, below: int) -> bool:
        """Whether the segments below this id were removed, or never were there."""
        return self._retired_below >= below

    def is_ready(self) -> bool:
        """Whether next segment and reserve are there."""
        return self._next is not None and self.has_reserve

    def close(self) -> None:
        """Let the next segment go. It stays on disk."""
        with self._lock:
            if self._next is not None:
                self._files.close(self._next.fd)
                self._next = None

    def _size_of(self, name: str) -> int:
        try:
            return self._files.size_of(name)
        except FileNotFoundError:
            return -1

    def _keep_or_remove(self, name: str) -> None:
        """Keep the file to be used again if there is none; but without a reserve, room matters more."""
        if not self._has_retired and self.has_reserve and self._size_of(name) == self._segment_bytes:
            self._files.rename(name, RETIRED)
            self._has_retired = True
        else:
            with suppress(FileNotFoundError):
                self._files.unlink(name)

    def _reserve_bytes(self) -> int:
        return min(FIRST_BYTES, 16 * self._segment_bytes)

    def _ensure_next(self, stopping: Callable[[], bool]) -> Segment:
        """The next segment; if there is no room for all of it, a smaller one."""
        segment_id, size = self._wanted
        while self._next is None or self._next.id != segment_id:
            try:
                self._next = self._make(segment_id, size, None, stopping)
            except OSError as error:
                if not is_full(error) or size <= FIRST_BYTES:
                    raise
                size = max(size // 4, FIRST_BYTES)
        return self._next

    def _ensure_reserve(self) -> None:
        if self.has_reserve:
            return
        name = SPARE + RESERVE
        fd = self._blank(name, self._reserve_bytes(), _never)
        self._files.close(fd)
        self._files.rename(name, RESERVE)
        self._files.sync_directory()
        self.has_reserve = True

    def _use_reserve(self, segment_id: int) -> Segment:
        name = _spare_name(segment_id)
        self._files.rename(RESERVE, name)
        self.has_reserve = False
        size = self._reserve_bytes()
        fd = self._fill(self._files.open(name, writable=True), name, size, _never)
        self._next = self._finish(fd, name, segment_id, size, None)
        return self._next

    def _make(
        self,
        segment_id: int,
        size: int,
        first_frame: Callable[[Place], bytes | bytearray] | None,
        stopping: Callable[[], bool] = _never,
    ) -> Segment:
        name = _spare_name(segment_id)
        fd = self._recycled(name, size, stopping)
        if fd is None:
            fd = self._blank(name, size, stopping)
        return self._finish(fd, name, segment_id, size, first_frame)

    def _recycled(self, name: str, size: int, stopping: Callable[[], bool]) -> int | None:
        """The retired segment, zeroed in place and called `name`, if there is one of that size."""
        with self._names:
            if not self._has_retired or size != self._segment_bytes:
                return None
            self._has_retired = False
            self._files.rename(RETIRED, name)
        fd = self._files.open(name, writable=True)
        return self._fill(fd, name, size, stopping)

    def _blank(self, name: str, size: int, stopping: Callable[[], bool]) -> int:
        """A new file of zeros, synced."""
        with suppress(FileNotFoundError):
            self._files.unlink(name)
        fd = self._files.create(name)
        return self._fill(fd, name, size, stopping)

    def _fill(self, fd: int, name: str, size: int, stopping: Callable[[], bool]) -> int:
        with _removed_on_failure(self._files, fd, name):
            self._files.allocate(fd, size)
            for start in range(0, size, STEP_BYTES):
                if stopping():
                    raise StoppedError
                write_zeros(self._files, fd, start, min(start + STEP_BYTES, size))
                self._files.fdatasync(fd)
            self._counters.bytes_prepared += size
        return fd

    def _finish(
        self,
        fd: int,
        name: str,
        segment_id: int,
        size: int,
        first_frame: Callable[[Place], bytes | bytearray] | None,
    ) -> Segment:
        """Header, then the final name: a crash in between leaves a spare."""
        with _removed_on_failure(self._files, fd, name) as unfinished:
            if self._size_of(segment_name(segment_id)) >= 0:
                raise FileExistsError(errno.EEXIST, "a segment is never replaced", segment_name(segment_id))
            header = SegmentHeader(segment_id, secrets.randbits(32), self._algorithm, size)
            segment = Segment(fd, size, header, None)
            segment.base = FrameIndex()
            write_all(self._files, fd, encode_header(header), 0)
            if first_frame is not None:
                frame = first_frame(segment.place)
                write_all(self._files, fd, frame, FRAMES_AT)
                segment.end += len(frame)
            self._files.fdatasync(fd)
            self._files.rename(name, segment.name)
            unfinished.name = segment.name
            self._files.sync_directory()
            self._counters.segments_prepared += 1
        return segment

    def _grow(self, segment: Segment, size: int) -> None:
        """Room for a write larger than a segment: zeros behind the end, synced before it is written."""
        if segment.size >= size:
            return
        try:
            self._files.allocate(segment.fd, size)
            write_zeros(self._files, segment.fd, segment.size, size)
            self._files.fdatasync(segment.fd)
        except OSError:
            with suppress(OSError):
                self._files.truncate(segment.fd, segment.size)
            raise
        self._counters.bytes_prepared += size - segment.size
        segment.size = size


class _removed_on_failure:  # noqa: N801  (reads as a statement)
    """Close and unlink the unfinished file if the block raises."""

    def __init__(self, files: FileLayer, fd: int, name: str) -> None:
        self._files, self._fd, self.name = files, fd, name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._files.close(self._fd)
            with suppress(OSError):
                self._files.unlink(self.name)
