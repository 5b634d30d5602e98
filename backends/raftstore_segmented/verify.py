"""Checking every byte of a store that means something: checksums, order, and what is said twice."""

from __future__ import annotations

from pathlib import Path

from raftstore.backend import Damage
from raftstore.errors import CorruptionError, FormatError
from raftstore_segmented.files import FileLayer, read_all
from raftstore_segmented.header import FRAMES_AT, POINTER_AT, POINTER_BYTES, MalformedError
from raftstore_segmented.index import INDEX_HEAD, FrameIndex
from raftstore_segmented.lookup import note, previous_end, stored_index
from raftstore_segmented.recovery import Found
from raftstore_segmented.scan import BadFrameError, Frame, Window, look_beyond, read_frame, read_table
from raftstore_segmented.segment import Segment, open_segment, segment_id_of
from raftstore_segmented.state import LogState, decode_snapshot
from raftstore_segmented.table import Change, EntryTable


class Verification:
    """Goes through the segments that count, oldest first, and goes on after damage where it can."""

    def __init__(self, files: FileLayer, directory: Path, found: Found | None, damage: list[Damage]) -> None:
        self._files = files
        self._directory = directory
        self._found = found
        self.damage = damage
        """What was found so far."""
        self._runs: list[tuple[int, int]] = []
        """What was checked, [first, stop), as later frames left it."""
        self._state: LogState | None = None

    @property
    def entries(self) -> int:
        """How many live entries were checked."""
        anchor = self._found.state.anchor.index if self._found is not None else 0
        return sum(max(stop - max(first, anchor + 1), 0) for first, stop in self._runs)

    def run(self) -> None:
        """Check everything."""
        oldest = self._found.state.oldest if self._found is not None else 0
        ids = sorted(
            i for name in self._files.names() if (i := segment_id_of(name)) is not None and i >= oldest
        )
        if self._found is not None:
            ids = [segment_id for segment_id in ids if segment_id <= self._found.current.id]
        for segment_id in ids:
            try:
                segment = open_segment(self._files, self._directory, segment_id, writable=False)
            except (CorruptionError, FormatError) as error:
                self._note(str(error), f"{segment_id:016d}.seg", 0)
                self._state = None
                continue
            try:
                self._check_segment(segment)
            finally:
                self._files.close(segment.fd)

    def _check_segment(self, segment: Segment) -> None:
        window = Window(self._files, segment.fd, self._files.size(segment.fd))
        index, known = FrameIndex(), stored_index(self._files, segment)
        noted = len(self.damage)
        self._check_pointer(segment, known)
        at, stop = FRAMES_AT, self._end_of(segment, window)
        while at < stop:
            if len(self.damage) == noted:
                self._check_index(segment, at, known, index)
            try:
                one = read_frame(window, segment.place, at)
            except BadFrameError as error:
                at = self._pass_over(segment, window, at, stop, error)
                continue
            self._check_frame(segment, window, one)
            note(index, one)
            at = one.header.offset + one.header.size
        if len(self.damage) == noted:
            self._check_index(segment, at, known, index)

    def _end_of(self, segment: Segment, window: Window) -> int:
        """Where the frames of the segment end, if that is known; else the end of the file."""
        if self._found is not None and segment.id == self._found.current.id:
            return self._found.current.end
        try:
            following = open_segment(self._files, self._directory, segment.id + 1, writable=False)
        except (CorruptionError, FormatError):
            return window.size
        try:
            return min(previous_end(self._files, self._directory, following), window.size)
        except CorruptionError:
            return window.size
        finally:
            self._files.close(following.fd)

    def _pass_over(self, segment: Segment, window: Window, at: int, stop: int, error: BadFrameError) -> int:
        """Note a bad place, if it is one; returns where to go on."""
        rest = look_beyond(window, segment.place, at)
        if rest.stop == at and stop == window.size:
            return stop  # zeros, in a segment whose end is not known
        entries = error.change.entries if error.change is not None else None
        first = self._state.last_index + 1 if self._state is not None else None
        self._note(
            str(error),
            segment.name,
            at,
            entries.first if entries is not None else first,
            entries.stop - 1 if entries is not None else None,
        )
        self._state = None
        return rest.frame_at if rest.frame_at is not None else stop

    def _check_pointer(self, segment: Segment, known: FrameIndex | None) -> None:
        data = read_all(self._files, segment.fd, FRAMES_AT - POINTER_AT, POINTER_AT)
        if (segment.pointer is None and data.strip(b"\0")) or data[POINTER_BYTES:].strip(b"\0"):
            self._note("the pointer to the index is damaged; the frames are not", segment.name, POINTER_AT)
        elif segment.pointer is not None and known is None:
            offset = segment.pointer.offset
            self._note("the index is damaged; the frames tell what it said", segment.name, offset)

    def _check_index(self, segment: Segment, at: int, known: FrameIndex | None, index: FrameIndex) -> None:
        """If the index stands at `at`, it says what the frames so far say."""
        if known is None or segment.pointer is None or at != segment.pointer.offset:
            return
        if (known.firsts, known.offsets, known.sizes) != (index.firsts, index.offsets, index.sizes):
            self._note("the index is not what the frames say", segment.name, segment.pointer.offset)

    def _check_frame(self, segment: Segment, window: Window, one: Frame) -> None:
        header = one.header
        pad = header.payload_at + header.payload_bytes
        if window.piece(pad, header.offset + header.size - pad).strip(b"\0"):
            self._note("bytes between frames are damaged; no frame is", segment.name, pad)
        if header.offset == FRAMES_AT:
            self._check_opening(segment, window, one)
        if one.change is not None and self._state is not None:
            self._check_change(segment, one, one.change, self._state)
        if one.change is not None:
            self._count(one.change)

    def _check_opening(self, segment: Segment, window: Window, one: Frame) -> None:
        """The state in a segment's first frame is the one that the frames before it led to."""
        try:
            if one.change is not None:
                opening, _ = decode_snapshot(one.change.snapshot)
            else:
                _, table = read_table(window, segment.place, FRAMES_AT)
                opening, _ = decode_snapshot(table[INDEX_HEAD.size :])
        except (BadFrameError, MalformedError) as error:
            self._note(str(error), segment.name, FRAMES_AT)
            return
        if self._state is not None and _facts(self._state) != _facts(opening):
            self._note(
                "the state in the first frame does not follow from those before", segment.name, FRAMES_AT
            )
        self._state = opening

    def _check_change(self, segment: Segment, one: Frame, change: Change, state: LogState) -> None:
        """The write fits what was there before it; then it is applied."""
        offset, entries = one.header.offset, change.entries
        if change.number < state.number:
            self._note("write numbers go down", segment.name, offset)
        state.apply(change.number, change.truncate_from, change.anchor, (), 0, change.hard_state, change.meta)
        if entries is None:
            return
        if (reason := _misfit(state, entries)) is not None:
            self._note(reason, segment.name, offset, entries.first, entries.stop - 1)
        state.apply(change.number, None, None, entries.runs, entries.stop, None, None)

    def _count(self, change: Change) -> None:
        """Keep account of the live entries."""
        starts = [change.truncate_from, change.entries.first if change.entries is not None else None]
        cut = min((start for start in starts if start is not None), default=None)
        while cut is not None and self._runs and self._runs[-1][1] > cut:
            first, _ = self._runs.pop()
            if first < cut:
                self._runs.append((first, cut))
        if change.entries is not None:
            self._runs.append((change.entries.first, change.entries.stop))

    def _note(
        self, message: str, file: str, offset: int, first: int | None = None, last: int | None = None
    ) -> None:
        if not any(other.file == file and other.offset == offset for other in self.damage):
            self.damage.append(Damage(message, file, offset, first, last))


def _misfit(state: LogState, entries: EntryTable) -> str | None:
    """Why entries cannot follow what is there, if so."""
    if entries.first > state.last_index + 1:
        return f"entries are missing before index {entries.first}"
    terms = [run.term for run in entries.runs]
    if entries.first == state.last_index + 1:
        terms.insert(0, state.last.term)
    return "terms go down" if terms != sorted(terms) else None


def _facts(state: LogState) -> tuple[object, ...]:
    return (
        state.anchor,
        state.last_index,
        state.number,
        state.hard_state,
        state.meta,
        state.run_terms,
        state.run_firsts,
    )
