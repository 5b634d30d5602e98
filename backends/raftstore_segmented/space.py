"""Files that hold nothing yet: the next segment, and the reserve.

A write into blocks that were written before costs no journal commit, so segments are filled with zeros before
they are used. The next segment gets its header and its final name ahead too: the write that begins it is an
ordinary write. Until then the file is called `spare-…`, and what it holds means nothing.

It is prepared in steps. Each is due when the current segment has been filled up to a certain place, the last
when it is half full: appends meet a step now and then, and not all of them in a row. An idle log does all.

`reserve` is a small zeroed file that becomes the next segment, or makes room for it to grow, when the disk is
full and the write has no entries. While there is none, writes with entries are refused.

A write that an interrupt (Ctrl-C) cut short is repeated. So what is on its way is known by a field before
there is anything of it, and every step can be made again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Final, TypeVar

from raftstore_segmented.catalog import Catalog
from raftstore_segmented.counters import Counters
from raftstore_segmented.files import FileLayer, size_of, write_all, write_zeros
from raftstore_segmented.frame import Place
from raftstore_segmented.header import FRAMES_AT, SegmentHeader, encode_header
from raftstore_segmented.index import FrameIndex
from raftstore_segmented.retired import SPARE, Retired
from raftstore_segmented.segment import Segment
from raftstore_segmented.zeroing import Zeroing

FIRST_BYTES: Final = 1 << 20
"""Size of a store's first segment; each next one is four times as large, up to `segment_bytes`."""
RESERVE: Final = "reserve"
RESERVE_BYTES_MIN: Final = 256 << 10
"""Room for metadata of 64 KiB that replaces as much: what a segment begins with carries both."""
NEVER: Final = 1 << 63
"""Where no step is due."""


def is_full(error: OSError) -> bool:
    """Whether the disk, or this user's part of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _spare_name(segment_id: int) -> str:
    return f"{SPARE}{segment_id:016d}"


T = TypeVar("T")


class Space:
    """Makes segment files, ahead of the writer if it can, and takes them back."""

    def __init__(
        self,
        files: FileLayer,
        algorithm: int,
        segment_bytes: int,
        counters: Counters,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Once it `is_stopping`, the background thread begins no step more."""
        self._files = files
        self._is_stopping = is_stopping
        self._algorithm = algorithm
        self._segment_bytes = segment_bytes
        self._counters = counters
        self._retired = Retired(files, segment_bytes)
        self.due_at = 0
        """How far the current segment may be filled before the background thread is to `keep_up`."""
        self._current: Segment
        self._lock = Lock()
        """Guards the four below; held while such a file is made."""
        self._next: Segment | None = None
        self._zeroing: Zeroing | None = None
        """What is to become the next segment."""
        self.has_reserve = False
        self._new_reserve: Zeroing | None = None

    def first_size(self) -> int:
        return min(self._segment_bytes, FIRST_BYTES)

    def create(self, size: int, first_frame: Callable[[Place], bytes | bytearray]) -> Segment:
        """Segment 1 with its first frame, durable: the beginning of a store."""
        with self._lock:
            zeroing = self._zero(_spare_name(1), size)
            try:
                zeroing.finish()
                return self._finish(zeroing, 1, first_frame)
            except BaseException:
                zeroing.abandon()
                raise

    def adopt(self, following: Segment | None, stale: list[int], spares: list[str], *, reserve: bool) -> None:
        """Take over what an earlier process left: an empty segment, old ones, spares, the reserve."""
        with self._lock:
            self._next = following
            self.has_reserve = reserve and size_of(self._files, RESERVE) == self._reserve_bytes()
            self._retired.adopt(stale, spares, may_keep=self.has_reserve)
            if reserve and not self.has_reserve:
                self._files.unlink(RESERVE)
            self._files.sync_directory()

    def retired_from(self, oldest: int) -> None:
        """Segments below `oldest` are gone already."""
        self._retired.begin_at(oldest)

    def want(self, after: Segment) -> None:
        """From now on the next segment is the one that follows `after`. No I/O, waits for nothing."""
        self._current = after

    def keep_up(self) -> None:
        """Make the reserve, and as much of the next segment as is due. For the background thread."""
        self.prepare(lambda: False)

    def prepare(self, is_idle: Callable[[], bool]) -> None:
        """As `keep_up`, and what is not due yet for as long as the log `is_idle`."""

        def may_go_on(zeroing: Zeroing) -> bool:
            return not self._is_stopping() and (is_idle() or self._current.end >= self._due(zeroing))

        try:
            self.ensure_reserve()
            with self._lock:
                self._ensure_next(may_go_on)
                self.due_at = self._due(self._zeroing) if self._zeroing is not None else NEVER
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
                segment = self._with_all_room(self._next_now)
            except OSError as error:
                if entries or not self.has_reserve or not is_full(error):
                    raise
                segment = self._use_reserve(after.id + 1)
            grow = partial(self._grow, segment, FRAMES_AT + frame_bytes)
            try:
                self._with_all_room(grow)
            except OSError as error:
                if entries or not is_full(error) or not self._release_reserve():
                    raise
                grow()
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
            self._with_all_room(self._ensure_reserve)

    def retire(self, catalog: Catalog) -> None:
        """Take out the segments that count no more. May be called from any thread."""
        self._retired.retire(catalog, may_keep=self.has_reserve)

    def remove_a_piece(self) -> bool:
        """Go on removing; whether there is more to do. Raises `OSError`."""
        self._retired.removal.step()
        return self.is_removing

    @property
    def is_removing(self) -> bool:
        """Whether there is more to `remove_a_piece` of."""
        return not self._retired.removal.is_done

    def retired(self, below: int) -> bool:
        """Whether the segments below this id were taken out, or never were there."""
        return self._retired.is_done(below)

    def is_ready(self) -> bool:
        """Whether next segment and reserve are there."""
        return self._next is not None and self.has_reserve

    def close(self) -> None:
        """Let the next segment go. It stays on disk if it is finished; what is being removed does not."""
        with self._lock:
            if self._next is not None:
                self._files.close(self._next.fd)
                self._next = None
            for zeroing in (self._zeroing, self._new_reserve):
                if zeroing is not None:
                    zeroing.abandon()
            self._zeroing = self._new_reserve = None
        self._retired.removal.finish()

    def _reserve_bytes(self) -> int:
        return min(FIRST_BYTES, max(RESERVE_BYTES_MIN, 16 * self._segment_bytes))

    def _due(self, zeroing: Zeroing) -> int:
        """How far the current segment may be filled before the next step: half, before the last is done."""
        return self._current.size * zeroing.done // (2 * zeroing.size)

    def _with_all_room(self, make: Callable[[], T]) -> T:
        """What `make` makes; what is kept or on its way out makes room for it if need be."""
        try:
            return make()
        except OSError as error:
            if not is_full(error) or not self._retired.make_room():
                raise
            return make()

    def _next_now(self) -> Segment:
        """The next segment, for a write that waits for it."""
        segment = self._ensure_next(lambda _: True)
        assert segment is not None  # nothing told it to stop
        return segment

    def _ensure_next(self, may_go_on: Callable[[Zeroing], bool]) -> Segment | None:
        """The next segment, or None if it is not finished; a smaller one if there is no room for all."""
        ready, current = self._next, self._current  # in this order: see `begun`
        segment_id, size = current.id + 1, min(self._segment_bytes, 4 * current.size)
        if ready is not None and ready.id == segment_id:
            return ready
        while True:
            try:
                return self._go_on(segment_id, size, may_go_on)
            except OSError as error:
                if not is_full(error) or size <= FIRST_BYTES:
                    raise
                size = max(size // 4, FIRST_BYTES)

    def _go_on(self, segment_id: int, size: int, may_go_on: Callable[[Zeroing], bool]) -> Segment | None:
        """Bring the next segment on; None if it is not finished. After an error nothing is left."""
        if self._zeroing is None:
            self._zeroing = self._spare(_spare_name(segment_id), size)
        zeroing = self._zeroing
        try:
            while not zeroing.is_finished:
                if not may_go_on(zeroing):
                    return None
                zeroing.step()
            segment = self._finish(zeroing, segment_id, None)
        except Exception:  # not an interrupt: after that, it goes on
            zeroing.abandon()
            self._zeroing = None
            raise
        self._next, self._zeroing = segment, None  # as one: the descriptor is the one's or the other's
        return segment

    def _spare(self, name: str, size: int) -> Zeroing:
        """A file that was retired, or a new one."""
        if size == self._segment_bytes:
            self._retired.take(name)
        return self._zero(name, size)

    def _zero(self, name: str, size: int, source: str | None = None) -> Zeroing:
        return Zeroing(self._files, name, size, self._counters, source=source)

    def _ensure_reserve(self) -> None:
        if self.has_reserve:
            return
        if self._zeroing is not None:
            self._zeroing.begin()  # it may be what the reserve becomes: the name must be free
        if self._new_reserve is None:
            self._new_reserve = self._zero(SPARE + RESERVE, self._reserve_bytes())
        made = self._new_reserve
        try:
            made.finish()
            made.become(RESERVE)
        except Exception:
            made.abandon()
            self._new_reserve = None
            raise
        made.close()
        self.has_reserve, self._new_reserve = True, None

    def _use_reserve(self, segment_id: int) -> Segment:
        name, size = _spare_name(segment_id), self._reserve_bytes()
        self._zeroing, self.has_reserve = self._zero(name, size, source=RESERVE), False  # as one
        return self._next_now()

    def _release_reserve(self) -> bool:
        """Give its room to a segment that has to grow; False if there was none.

        The file decides, not the field: an interrupt may come between the two.
        """
        self.has_reserve = False
        if size_of(self._files, RESERVE) < 0:
            return False
        self._files.unlink(RESERVE)
        return True

    def _finish(
        self,
        zeroing: Zeroing,
        segment_id: int,
        first_frame: Callable[[Place], bytes | bytearray] | None,
    ) -> Segment:
        """Header, then the final name: a crash in between leaves a spare. Done twice, it is done once."""
        header = SegmentHeader(segment_id, zeroing.tag, self._algorithm, zeroing.size)
        segment = Segment(zeroing.fd, zeroing.size, header, None)
        segment.base = FrameIndex()
        if zeroing.final is None and size_of(self._files, segment.name) >= 0:
            raise FileExistsError(errno.EEXIST, "a segment is never replaced", segment.name)
        write_all(self._files, segment.fd, encode_header(header), 0)
        if first_frame is not None:
            frame = first_frame(segment.place)
            write_all(self._files, segment.fd, frame, FRAMES_AT)
            segment.end += len(frame)
        self._files.fdatasync(segment.fd)
        zeroing.become(segment.name)
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
