"""`SegmentedBackend`: one append stream in raw files."""

from __future__ import annotations

import errno
import logging
import weakref
from functools import partial
from pathlib import Path

import msgspec

from raftstore.backend import BackendStats, Examination, Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry, term_runs
from raftstore.errors import ConfigError, CorruptionError
from raftstore_segmented import frame
from raftstore_segmented.catalog import Catalog
from raftstore_segmented.checksums import available
from raftstore_segmented.counters import Counters
from raftstore_segmented.examine import examine, measure
from raftstore_segmented.files import FileLayer, NotRegularError, OsFiles, write_all, write_zeros
from raftstore_segmented.frame import FRAME_HEADER_BYTES, Place, encode_data, encode_other
from raftstore_segmented.header import CLOSED, FRAMES_AT, Pointer
from raftstore_segmented.index import FrameIndex
from raftstore_segmented.lookup import load_base
from raftstore_segmented.reader import Reader
from raftstore_segmented.recovery import Found, look, mend
from raftstore_segmented.seal import seal
from raftstore_segmented.segment import Segment, write_pointer
from raftstore_segmented.space import NEVER, Space, is_full
from raftstore_segmented.state import LogState
from raftstore_segmented.worker import Worker

SEGMENT_BYTES_MIN = 4 << 10
SEGMENT_BYTES_MAX = 4 << 30

_log = logging.getLogger(__name__)


class _Written(msgspec.Struct, frozen=True, gc=False):
    """A frame that is durable and not yet published, or not completely."""

    number: int
    segment: Segment
    offset: int
    size: int


class SegmentedBackend:
    """A `raftstore.backend.DiskBackend` on zero-filled segment files; needs no third-party library.

    A write is one frame, one `pwrite` and one `fdatasync` into blocks that were written before.
    `segment_bytes` is the size of a segment file once the log has grown to it; a larger write gets a larger
    file.
    """

    def __init__(self, path: Path, *, segment_bytes: int = 64 << 20, _files: FileLayer | None = None) -> None:
        _check_segment_bytes(segment_bytes)
        self.counters = Counters()
        """What was done since opening, in numbers."""
        self._directory = Path(path)
        self._files = _files if _files is not None else OsFiles(self._directory)
        self._worker = Worker("raftstore-segmented")
        self._failed = False
        self._closed = False
        self._written: _Written | None = None
        """None outside of `write`, unless an interrupt cut that short."""
        try:
            self._open(segment_bytes)
        except NotRegularError as error:
            self._give_up()
            raise CorruptionError(f"foreign file: {error}", file=self._directory) from error
        except BaseException:
            self._give_up()
            raise
        weakref.finalize(self, self._worker.signal_stop)

    @property
    def recovery(self) -> Recovery:
        """What opening found."""
        return self._recovery

    def write(self, batch: WriteBatch) -> None:
        """As `DiskBackend.write`."""
        written = self._written
        if written is None or written.number != batch.number:
            if batch.number <= self._state.number:
                return
            try:
                written = self._written = self._write_frame(batch)
            except OSError as error:
                _tell_no_room(error)
                raise
        else:  # an interrupt cut `_publish` short: the background thread may not have been asked
            self._worker.submit(self._space.keep_up)
        self._publish(batch, written)
        self._written = None

    def _write_frame(self, batch: WriteBatch) -> _Written:
        """Make the batch durable. Repeated before it is published, it writes the same to the same place."""
        if batch.entries and not self._space.has_reserve:
            self._space.ensure_reserve()
        segment = self._catalog.current
        data = encode_data(segment.place, segment.end, batch, b"")
        if segment.end + len(data) + FRAME_HEADER_BYTES > segment.size:
            segment, data = self._frame_in_next(batch)
        self._put(segment, data)
        return _Written(batch.number, segment, segment.end, len(data))

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        """As `DiskBackend.read`."""
        return self._reader.read(start, stop, bytes_max)

    def maintain(self) -> None:
        """Mark the end, so that a later opening can prove it, and remove segments that count no more."""
        try:
            if self._unmarked and self._written is None:
                self._mark()
            self._space.retire(self._catalog)
        except OSError as error:
            _tell_no_room(error)
            raise
        if self._space.is_removing:
            self._worker.submit(partial(_upkeep, self._worker, self._catalog, self._space))
        if not self._space.is_ready():
            is_idle = partial(_is_idle, self._worker, self._state, self._state.number)
            self._worker.submit(partial(self._space.prepare, is_idle))

    def stats(self) -> BackendStats:
        """As `DiskBackend.stats`."""
        with self._catalog.lock:
            oldest, firsts = self._state.oldest, self._state.firsts[:]
        return measure(self._files, oldest, firsts)

    def close(self) -> None:
        """As `DiskBackend.close`. Leaves an index, so that the next opening has nothing to scan."""
        if self._closed:
            return
        try:
            self._worker.stop()
            if not self._failed and self._written is None:
                self._close_log()
        except Exception:  # noqa: BLE001  (what was written stays, and closing must not fail)
            _log.warning("the log was not closed cleanly; opening it will take a scan", exc_info=True)
        finally:  # also after an interrupt: nobody closes a second time
            self._worker.stop()  # once more, if the interrupt came first: no job may run beside what follows
            self._closed = True
            self._close_files()

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        """As `DiskBackend.examine`."""
        files = OsFiles(path)
        try:
            return examine(files, path, deep=deep)
        finally:
            files.release()

    def _close_files(self) -> None:
        self._space.begun(self._catalog.current)
        self._catalog.close()
        self._space.close()
        self._files.release()

    def _give_up(self) -> None:
        self._worker.stop()
        self._files.release()

    def _open(self, segment_bytes: int) -> None:
        found = look(self._files, self._directory, writable=True)
        algorithm = available() if found is None else found.current.header.algorithm
        worker = self._worker
        self._space = Space(self._files, algorithm, segment_bytes, self.counters, lambda: worker.stopping)
        if found is None:
            self._create()
        else:
            self._adopt(found)
        self._reader = Reader(self._files, self._catalog)
        self._space.retired_from(self._state.oldest)
        self._space.want(self._catalog.current)
        try:
            self._begin_upkeep()
        except BaseException:  # no thread can be started, or an interrupt
            self._worker.stop()
            self._close_files()
            raise

    def _begin_upkeep(self) -> None:
        if self._state.newest > self._state.oldest:  # what a kill left without its index
            before = self._state.newest - 1
            self._worker.submit(partial(seal, self._files, self._catalog, before, self.counters))
        self._worker.submit(partial(_upkeep, self._worker, self._catalog, self._space))

    def _create(self) -> None:
        self._state = LogState(1)

        def first_frame(place: Place) -> bytes:
            return _index_frame(place, FRAMES_AT, self._state, FrameIndex())

        segment = self._space.create(self._space.first_size(), first_frame)
        self._recovery = Recovery(end_is_proved=True)
        self._unmarked = False
        self._catalog = Catalog(self._files, self._directory, self._state, segment)

    def _adopt(self, found: Found) -> None:
        try:
            self._recovery = mend(self._files, self._directory, found)
            self._space.adopt(found.following, found.stale, found.spares, reserve=found.reserve)
        except BaseException:
            found.close(self._files)
            raise
        self._state = found.state
        self._unmarked = found.last.kind == frame.DATA
        self._catalog = Catalog(self._files, self._directory, self._state, found.current)

    def _frame_in_next(self, batch: WriteBatch) -> tuple[Segment, bytes | bytearray]:
        """The next segment, and the batch as its first frame, which carries the state before it."""
        state, current = self._state, self._catalog.current
        snapshot = state.encode(firsts=[*state.firsts, state.last_index + 1], previous_end=current.end)
        room = len(encode_data(current.place, FRAMES_AT, batch, snapshot)) + FRAME_HEADER_BYTES
        segment = self._space.next_segment(current, room, entries=bool(batch.entries))
        return segment, encode_data(segment.place, FRAMES_AT, batch, snapshot)

    def _put(self, segment: Segment, data: bytes | bytearray) -> None:
        """Make the frame durable. What fails here fails the store, but for a disk that is full."""
        files, fd, offset = self._files, segment.fd, segment.end
        try:
            if files.pwrite(fd, data, offset) != len(data):
                write_all(files, fd, data, offset)
        except OSError as error:
            self._failed = True
            if is_full(error):
                self._take_back(segment, offset + len(data), error)
            raise
        try:
            files.fdatasync(fd)
        except OSError as error:
            self._failed = True
            if is_full(error):  # what of it will be there is unknown: not what ENOSPC promises
                raise OSError(errno.EIO, "no room left while syncing") from error
            raise

    def _take_back(self, segment: Segment, stop: int, error: OSError) -> None:
        """Zero what was written of a frame that found no room; then the store can go on."""
        try:
            write_zeros(self._files, segment.fd, segment.end, min(stop, segment.size))
            self._files.fdatasync(segment.fd)
        except OSError:
            raise OSError(errno.EIO, "an unfinished write could not be taken back") from error
        self._failed = False

    def _publish(self, batch: WriteBatch, written: _Written) -> None:
        """Let readers see the write.

        If an interrupt cuts this short anywhere, it is repeated with the same frame: done twice, all of it is
        done once. Only the counters may count it again.
        """
        entries, state, catalog, space = batch.entries, self._state, self._catalog, self._space
        segment, size = written.segment, written.size
        rotated = written.offset == FRAMES_AT
        with catalog.lock:
            if rotated:
                state.begin_segment(segment.id)
                catalog.rotate(segment)
            if batch.truncate_from is not None:
                segment.tail.cut(batch.truncate_from)
            if entries:
                segment.tail.add(entries[0].index, written.offset, size)
            segment.end = written.offset + size
            self._unmarked = True
            _apply(state, batch)
        counters = self.counters
        counters.writes += 1
        counters.fsyncs += 1
        counters.bytes_appended += size
        if rotated:
            self._after_rotation(segment)
        if segment.end >= space.due_at:
            space.due_at = NEVER
            self._worker.submit(space.keep_up)
        if not space.retired(state.oldest):
            self._worker.submit(partial(_upkeep, self._worker, self._catalog, space))

    def _after_rotation(self, segment: Segment) -> None:
        """The next segment comes first: `keep_up` also says when its next step is due."""
        self._space.begun(segment)
        self._worker.submit(self._space.keep_up)
        self._worker.submit(partial(seal, self._files, self._catalog, segment.id - 1, self.counters))

    def _mark(self) -> None:
        """A frame that says that the one before it was complete."""
        segment = self._catalog.current
        mark = encode_other(segment.place, segment.end, self._state.number, frame.MARK, b"", b"")
        if segment.end + len(mark) > segment.size:
            return
        self._append_other(segment, mark)
        self.counters.marks += 1

    def _append_other(self, segment: Segment, data: bytes | bytearray) -> None:
        try:
            write_all(self._files, segment.fd, data, segment.end)
            self._files.fdatasync(segment.fd)
        except OSError:
            self._failed = True
            raise
        segment.end += len(data)
        self._unmarked = False

    def _close_log(self) -> None:
        """Index, then the pointer to it: a crash in between leaves a marked end."""
        catalog, segment = self._catalog, self._catalog.current
        index = load_base(self._files, catalog, segment).copy()
        index.extend(segment.tail)
        data = _index_frame(segment.place, segment.end, self._state, index)
        offset = segment.end
        try:
            self._space.grow(segment, segment.end + len(data))
        except OSError:
            if self._unmarked:
                self._mark()
            return
        self._append_other(segment, data)
        write_pointer(self._files, segment, Pointer(offset, CLOSED))


def _tell_no_room(error: OSError) -> None:
    """Raise what says so in the words of `DiskBackend.write`, if `error` means a quota that is used up."""
    if is_full(error) and error.errno != errno.ENOSPC:
        raise OSError(errno.ENOSPC, f"no room left: {error.strerror}") from error


def _apply(state: LogState, batch: WriteBatch) -> None:
    """Do the write in memory. Most are entries in the term of those before: that is the short way."""
    entries, start, anchor = batch.entries, batch.truncate_from, batch.anchor
    hard_state, meta = batch.hard_state, batch.meta
    if (
        entries
        and start is None
        and anchor is None
        and hard_state is None
        and meta is None
        and state.grow(batch.number, entries)
    ):
        return
    stop = entries[-1].index + 1 if entries else 0
    state.apply(batch.number, start, anchor, term_runs(entries), stop, hard_state, meta)


def _index_frame(place: Place, offset: int, state: LogState, index: FrameIndex) -> bytes:
    """An index that carries the state: the log can be opened from it."""
    table, payload = index.encode(place.checksum)
    snapshot = state.encode(firsts=state.firsts, previous_end=0)
    return encode_other(place, offset, state.number, frame.INDEX, table + snapshot, payload)


def _upkeep(worker: Worker, catalog: Catalog, space: Space) -> None:
    """Remove what counts no more, and keep up with the writer.

    A piece at a time: other work need not wait. Room that came back may be what the next segment waits for.
    """
    space.retire(catalog)
    try:
        if space.remove_a_piece() and not worker.stopping:
            worker.submit(partial(_upkeep, worker, catalog, space))
    finally:
        space.keep_up()


def _is_idle(worker: Worker, state: LogState, number: int) -> bool:
    """Whether nothing was written since the write `number`, and the store is not being closed."""
    return state.number == number and not worker.stopping


def _check_segment_bytes(segment_bytes: object) -> None:
    if type(segment_bytes) is int and SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX:
        return
    raise ConfigError(
        f"{segment_bytes!r} is not a number of bytes from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
        key="segment_bytes",
    )
