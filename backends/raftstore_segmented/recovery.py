"""Opening a store: what is there (`look`, changes nothing), and making it durable and tidy (`mend`).

The newest segment whose first frame is valid says everything: that frame, or the index that the segment's
pointer points at, carries the state before what follows. A frame is written only after the one before it was
synced. So a bad place with a valid frame of the same segment after it, or in a segment that has a successor,
is damage; only what follows the last valid frame of all can be the torn end of a write that never returned. A
large payload that a frame follows is left to those who read it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from raftstore.backend import Recovery
from raftstore.errors import CorruptionError, RaftStoreError
from raftstore_segmented import frame
from raftstore_segmented.files import FileLayer, read_all, write_all, write_zeros
from raftstore_segmented.frame import FRAME_HEADER_BYTES, FrameHeader, decode_header
from raftstore_segmented.header import CLOSED, FRAMES_AT, SEALED, MalformedError, Pointer
from raftstore_segmented.index import INDEX_HEAD, FrameIndex
from raftstore_segmented.lookup import note
from raftstore_segmented.retired import SPARE
from raftstore_segmented.scan import (
    BadFrameError,
    Frame,
    Window,
    look_beyond,
    read_durable_frame,
    read_frame,
    read_table,
)
from raftstore_segmented.segment import Segment, open_segment, segment_id_of, segment_name, write_pointer
from raftstore_segmented.space import RESERVE
from raftstore_segmented.state import LogState, decode_snapshot

TORN: Final = "torn-"
TORN_BYTES_MAX: Final = 4 << 20
"""How much of a torn end is copied aside."""
TORN_FILES_MAX: Final = 3
"""How many such copies are kept."""
EMPTY_LOOK_BYTES: Final = 64 << 10
"""How much of a segment that seems unused is looked at."""

_log = logging.getLogger(__name__)


class Torn(msgspec.Struct, frozen=True):
    """Bytes of a write that did not finish."""

    segment: Segment
    start: int
    stop: int


class Found(msgspec.Struct):
    """What `look` found. The segments are open; `close` is the caller's."""

    state: LogState
    current: Segment
    last: FrameHeader
    clean: bool
    """The store was closed, and nothing was begun since."""
    following: Segment | None = None
    """The next segment, prepared and never written (or torn in its first write)."""
    torn: Torn | None = None
    stale: list[int] = []
    spares: list[str] = []
    reserve: bool = False
    bytes_read: int = 0
    notes: list[str] = []

    @property
    def end_is_proved(self) -> bool:
        """By a frame that is written when all is done. The index of a finished segment is none: a next
        segment had begun, and is gone. Such an index has no number."""
        is_of_finished = self.last.kind == frame.INDEX and not self.last.number and self.state.number > 0
        return self.torn is None and self.last.kind != frame.DATA and not is_of_finished

    def close(self, files: FileLayer) -> None:
        files.close(self.current.fd)
        if self.following is not None:
            files.close(self.following.fd)


def look(files: FileLayer, directory: Path, *, writable: bool) -> Found | None:
    """Find the end of the log; None if there is no store yet. Reads the newest segment at most."""
    names = files.names()
    ids = sorted(segment_id for name in names if (segment_id := segment_id_of(name)) is not None)
    if not ids:
        if RESERVE in names or any(name.startswith(TORN) for name in names):
            raise CorruptionError("every segment of the log is missing", file=directory)
        return None
    search = _Search(files, directory, writable=writable)
    try:
        found = search.newest(ids[-1], last_id_before=ids[-2] if len(ids) > 1 else 0)
        _check_segments(directory, found, ids)
    except BaseException:
        search.close()
        raise
    found.spares = [name for name in names if name.startswith(SPARE)]
    found.reserve = RESERVE in names
    return found


def _check_segments(directory: Path, found: Found, ids: list[int]) -> None:
    """All segments that count are there. Those before them are left from an unfinished purge."""
    state = found.state
    present = set(ids)
    for segment_id in range(state.oldest, found.current.id):
        if segment_id not in present:
            raise CorruptionError(
                "a segment of the log is missing", file=directory / segment_name(segment_id)
            )
    found.stale = [segment_id for segment_id in ids if segment_id < state.oldest]


class _Search:
    """Looks for the newest segment with a valid frame, and for that segment's end."""

    def __init__(self, files: FileLayer, directory: Path, *, writable: bool) -> None:
        self._files = files
        self._directory = directory
        self._writable = writable
        self._opened: list[Segment] = []
        self._bytes_read = 0

    def close(self) -> None:
        for segment in self._opened:
            self._files.close(segment.fd)

    def newest(self, segment_id: int, last_id_before: int) -> Found:
        segment = self._open(segment_id)
        found = self._end_of(segment)
        if found is None:
            found = self._end_before(segment, last_id_before)
        elif self._is_sealed(found.current):
            raise self._damage("its successor is missing", segment, found.last.offset)
        found.bytes_read = self._bytes_read
        return found

    def _open(self, segment_id: int) -> Segment:
        segment = open_segment(self._files, self._directory, segment_id, writable=self._writable)
        self._bytes_read += FRAMES_AT
        self._opened.append(segment)
        return segment

    def _end_before(self, following: Segment, segment_id: int) -> Found:
        """The end is in the segment before `following`, in which no write was finished."""
        if segment_id == 0 or segment_id != following.id - 1:
            raise self._damage("the first frame of a segment is damaged", following, FRAMES_AT)
        before = self._open(segment_id)
        found = self._end_of(before)
        if found is None or self._is_sealed(before):
            damaged = before if found is None else following
            raise self._damage("the first frame of a segment is damaged", damaged, FRAMES_AT)
        torn = self._torn_first_frame(following, FRAME_HEADER_BYTES if found.clean else EMPTY_LOOK_BYTES)
        if torn is not None:
            if found.torn is not None:
                raise self._damage("a frame that others follow is damaged", found.current, found.torn.start)
            found.torn, found.clean = torn, False
        found.following = following
        return found

    def _torn_first_frame(self, segment: Segment, look_bytes: int) -> Torn | None:
        """What is left of the first write into `segment`; None if it was not begun."""
        window = self._window(segment)
        begin = window.piece(FRAMES_AT, min(look_bytes, segment.size - FRAMES_AT))
        self._bytes_read += window.bytes_read
        if not begin.strip(b"\0"):
            return None
        return self._torn(segment, self._window(segment), FRAMES_AT)

    def _torn(self, segment: Segment, window: Window, at: int) -> Torn | None:
        """What follows the last valid frame, or nothing. Raises `CorruptionError` if it was complete once."""
        before = window.bytes_read
        rest = look_beyond(window, segment.place, at)
        self._bytes_read += window.bytes_read - before
        if rest.frame_at is not None:
            raise self._damage("a frame that others follow is damaged", segment, at)
        return Torn(segment, at, rest.stop) if rest.stop > at else None

    def _end_of(self, segment: Segment) -> Found | None:
        """State and end of the log, if it ends in `segment`; None if that has no valid first frame."""
        window = self._window(segment)
        found = self._from_index(segment, window)
        if found is not None and found.clean:
            self._bytes_read += window.bytes_read
            return found
        if found is None:
            found = self._from_first_frame(segment, window)
        if found is not None:
            self._scan(found, window)
            self._check_reaches_index(segment)
        else:
            self._bytes_read += window.bytes_read
        return found

    def _check_reaches_index(self, segment: Segment) -> None:
        """The pointer was written when every frame before the index was durable."""
        if segment.pointer is not None and segment.end < segment.pointer.offset:
            raise self._damage("frames before the segment's index are damaged", segment, segment.end)

    def _from_index(self, segment: Segment, window: Window) -> Found | None:
        """Begin at the index that the pointer points at, if it carries the state."""
        pointer = segment.pointer
        if pointer is None or pointer.flags & SEALED:
            return None
        try:
            header, table = read_table(window, segment.place, pointer.offset)
            state, _ = decode_snapshot(table[INDEX_HEAD.size :])
        except (BadFrameError, MalformedError):
            return None
        if header.kind != frame.INDEX or state.newest != segment.id:
            return None
        segment.base_end = pointer.offset
        segment.end = header.offset + header.size
        beyond = window.piece(segment.end, FRAME_HEADER_BYTES)
        return Found(state, segment, header, bool(pointer.flags & CLOSED) and not beyond.strip(b"\0"))

    def _from_first_frame(self, segment: Segment, window: Window) -> Found | None:
        begin = window.piece(FRAMES_AT, FRAME_HEADER_BYTES)
        if decode_header(segment.place, begin, 0, FRAMES_AT) is None:
            return None
        try:
            first = read_frame(window, segment.place, FRAMES_AT)
            state = _opening_state(window, segment, first)
        except (BadFrameError, MalformedError):
            return None
        if state.newest != segment.id:
            raise self._damage("the first frame is of another segment", segment, FRAMES_AT)
        segment.base = FrameIndex()
        found = Found(state, segment, first.header, clean=False)
        _take(found, first)
        return found

    def _scan(self, found: Found, window: Window) -> None:
        """Apply every frame up to the last valid one, and look at what follows it."""
        segment = found.current
        try:
            while segment.end < window.size:
                durable = read_durable_frame(window, segment.place, segment.end)
                _take(found, durable or read_frame(window, segment.place, segment.end))
        except BadFrameError as error:
            if not self._skips_index(found, error, window):
                if error.header is not None:
                    self._check_last(found, window)
                self._bytes_read += window.bytes_read
                found.torn = self._torn(segment, window, segment.end)
                return
            self._scan(found, window)
            return
        self._bytes_read += window.bytes_read

    def _check_last(self, found: Found, window: Window) -> None:
        """The torn end is about to be zeroed. It proves that the frame before it was durable, which was not
        read if it is large: if it is damaged, the next opening would take it for the torn end."""
        segment, last = found.current, found.last
        try:
            if last.kind == frame.DATA:
                read_frame(window, segment.place, last.offset)
        except BadFrameError as error:
            raise self._damage("a frame that others follow is damaged", segment, last.offset) from error

    def _skips_index(self, found: Found, error: BadFrameError, window: Window) -> bool:
        """A damaged index that frames follow can be done without."""
        header = error.header
        if header is None or header.kind != frame.INDEX or header.offset + header.size >= window.size:
            return False
        after = header.offset + header.size
        data, position = window.at(after, FRAME_HEADER_BYTES)
        if decode_header(found.current.place, data, position, after) is None:
            return False
        found.notes.append(f"{found.current.name}: a damaged index at {header.offset} was passed over")
        found.current.end = after
        return True

    def _is_sealed(self, segment: Segment) -> bool:
        return segment.pointer is not None and bool(segment.pointer.flags & SEALED)

    def _window(self, segment: Segment) -> Window:
        return Window(self._files, segment.fd, segment.size)

    def _damage(self, reason: str, segment: Segment, offset: int) -> CorruptionError:
        return CorruptionError(reason, file=self._directory / segment.name, offset=offset)


def _opening_state(window: Window, segment: Segment, first: Frame) -> LogState:
    """The state before the first frame of a segment. Raises `MalformedError` if it carries none."""
    if first.change is not None:
        return decode_snapshot(first.change.snapshot)[0]
    _, table = read_table(window, segment.place, first.header.offset)
    return decode_snapshot(table[INDEX_HEAD.size :])[0]


def _take(found: Found, one: Frame) -> None:
    """Apply a frame: to the state, and to the index of what was scanned."""
    change, segment = one.change, found.current
    if change is not None:
        entries = change.entries
        found.state.apply(
            change.number,
            change.truncate_from,
            change.anchor,
            entries.runs if entries is not None else (),
            entries.stop if entries is not None else 0,
            change.hard_state,
            change.meta,
        )
        note(segment.tail, one)
    found.last = one.header
    segment.end = one.header.offset + one.header.size


def report(found: Found, kept_at: Path | None) -> Recovery:
    """What opening says it found."""
    state = found.state
    return Recovery(
        anchor=state.anchor,
        last=state.last,
        term_runs=state.live_runs(),
        hard_state=state.hard_state,
        meta=state.meta,
        number=state.number,
        end_is_proved=found.end_is_proved,
        tail_is_visible=False,  # the file of a segment that follows, not yet sealed off, may be gone
        torn_bytes=found.torn.stop - found.torn.start if found.torn is not None else 0,
        kept_at=kept_at,
        bytes_read=found.bytes_read,
        notes=found.notes,
    )


def mend(files: FileLayer, directory: Path, found: Found) -> Recovery:
    """Make what was found durable, and the place for the next frame clean. Raises `OSError`.

    After a kill or a failed sync, the page cache may show what the disk does not have: the last frame is
    written again, and synced. A crash in here leaves a store that is found the same way again.
    """
    kept_at = None
    current = found.current
    if found.torn is not None:
        kept_at = _keep_torn(files, directory, found.torn)
        if found.torn.segment is current:
            write_zeros(files, current.fd, found.torn.start, found.torn.stop)
    if not found.clean:
        last = read_all(files, current.fd, found.last.size, found.last.offset)
        write_all(files, current.fd, last, found.last.offset)
        files.fdatasync(current.fd)
        _give_up_following(files, found)
    if current.pointer is not None and current.pointer.flags & CLOSED:
        write_pointer(files, current, Pointer(current.pointer.offset, 0))
    files.sync_directory()
    return report(found, kept_at)


def _give_up_following(files: FileLayer, found: Found) -> None:
    """Nothing proves the next segment empty: it is filled with zeros again before it is used."""
    if found.following is not None:
        following, found.following = found.following, None
        name = f"{SPARE}{following.id:016d}"
        files.close(following.fd)
        files.rename(following.name, name)
        found.spares.append(name)


def _keep_torn(files: FileLayer, directory: Path, torn: Torn) -> Path | None:
    """Copy the torn bytes aside, for people. Failing to do so stops nothing."""
    name = f"{TORN}{torn.segment.id:016d}-{torn.start:012d}"
    try:
        with suppress(FileNotFoundError):
            files.unlink(name)
        fd = files.create(name)
        try:
            length = min(torn.stop - torn.start, TORN_BYTES_MAX)
            write_all(files, fd, read_all(files, torn.segment.fd, length, torn.start), 0)
            files.fdatasync(fd)
        finally:
            files.close(fd)
        kept = sorted(other for other in files.names() if other.startswith(TORN))
        for other in kept[:-TORN_FILES_MAX]:
            files.unlink(other)
    except (OSError, RaftStoreError):
        _log.warning("torn bytes could not be copied aside", exc_info=True)
        return None
    return directory / name
