"""Which segments there are, which of them are open, and who reads them.

Old segments are opened when somebody reads them, and a bounded number stays open. A segment that somebody
holds is neither closed nor recycled.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Final

from raftstore.errors import CorruptionError
from raftstore_segmented.files import FileLayer
from raftstore_segmented.segment import Segment, open_segment
from raftstore_segmented.state import LogState

OPEN_MAX: Final = 64
"""Old segments that are kept open although nobody holds them."""


class Catalog:
    """The live segments of an open store, for one writer and any number of readers."""

    def __init__(self, files: FileLayer, directory: Path, state: LogState, current: Segment) -> None:
        self._files = files
        self.directory = directory
        self.lock = threading.Lock()
        """Guards the state, the segments' indexes and the fields below. Never held across I/O."""
        self.state = state
        self.current = current
        self._open: OrderedDict[int, Segment] = OrderedDict()
        self._dropped: dict[int, Segment] = {}
        """Segments that are not to be used any more, and that somebody still holds."""
        self._unneeded: list[int] = []
        """Descriptors that nobody needs any more, not closed yet."""
        self._closed = False

    def locate(self, index: int, stop: int) -> tuple[Segment, int]:
        """The segment that holds `index`, held for the caller, and up to where, at most `stop`, it serves.

        Raises `LookupError` if the log does not hold `index` now. Ends with `let_go`.
        """
        with self.lock:
            state = self.state
            if not state.anchor.index < index <= state.last_index:
                raise LookupError(f"index {index} is not in the log")
            firsts = state.firsts
            position = bisect_right(firsts, index) - 1
            stop = min(stop, state.last_index + 1)
            if position + 1 < len(firsts):
                stop = min(stop, firsts[position + 1])
            segment_id = state.oldest + position
            segment = self._hold(segment_id)
        return segment or self._open_and_hold(segment_id), stop

    def hold(self, segment_id: int) -> Segment:
        """The segment, open and kept so until `let_go`. Raises `LookupError` if it counts no more."""
        with self.lock:
            segment = self._hold(segment_id)
        return segment or self._open_and_hold(segment_id)

    def let_go(self, segment: Segment) -> None:
        """The caller is through with the segment."""
        with self.lock:
            segment.readers -= 1
            if segment.dropped and segment.readers == 0:
                self._drop([segment])
            elif len(self._open) > OPEN_MAX:  # the writer only adds; it is sealed, and let go here
                self._drop(self._surplus())
        self._close_unneeded()

    def rotate(self, segment: Segment) -> None:
        """Writes go to `segment` from now on. The lock is held; once more changes nothing."""
        if segment is not self.current:
            self._open[self.current.id] = self.current
            self.current = segment

    def retire(self) -> None:
        """Let the open segments go that do not count any more: nobody will hold one who does not now."""
        with self.lock:
            old = [key for key in self._open if key < self.state.oldest]
            self._drop([self._open.pop(key) for key in old])
        self._close_unneeded()

    def is_held(self, segment_id: int) -> bool:
        """Whether somebody still reads the segment, which was retired."""
        with self.lock:
            return segment_id in self._dropped

    def close(self) -> None:
        """Close what nobody holds now, and the rest when it is let go."""
        with self.lock:
            if not self._closed:
                self._closed = True
                self._drop([*self._open.values(), self.current])
                self._open.clear()
        self._close_unneeded()

    def _drop(self, segments: list[Segment]) -> None:
        """Close them: now, or when who holds them lets them go. The lock is held."""
        for segment in segments:
            segment.dropped = True
            if segment.readers:
                self._dropped[segment.id] = segment
            else:
                self._dropped.pop(segment.id, None)
                self._unneeded.append(segment.fd)

    def _close_unneeded(self) -> None:
        """Each is closed once, whoever comes first; what an interrupt leaves is closed the next time."""
        while self._unneeded:
            with suppress(IndexError):
                self._files.close(self._unneeded.pop())

    def _hold(self, segment_id: int) -> Segment | None:
        """The segment, if it is open. The lock is held."""
        if self._closed:
            raise LookupError("the store is closed")
        if segment_id == self.current.id:
            segment: Segment | None = self.current
        else:
            segment = self._open.get(segment_id)
        if segment is not None:
            segment.readers += 1
        return segment

    def _open_and_hold(self, segment_id: int) -> Segment:
        try:
            opened = open_segment(self._files, self.directory, segment_id, writable=True)
        except CorruptionError:
            if segment_id < self.state.oldest:
                raise LookupError(f"segment {segment_id} was purged") from None
            raise
        kept = self._register(opened)
        self._close_unneeded()
        if kept is None:
            raise LookupError(f"segment {segment_id} was purged")
        return kept

    def _register(self, opened: Segment) -> Segment | None:
        """Hold `opened`, or the one that another reader opened meanwhile; None if it counts no more."""
        with self.lock:
            if self._closed or opened.id < self.state.oldest:
                self._unneeded.append(opened.fd)
                return None
            kept = self._open.setdefault(opened.id, opened)
            if kept is not opened:
                self._unneeded.append(opened.fd)
            kept.readers += 1
            self._open.move_to_end(kept.id)
            self._drop(self._surplus())
            return kept

    def _surplus(self) -> list[Segment]:
        """Take the segments off that are too many and that nobody holds, the longest open first."""
        surplus: list[Segment] = []
        idle = [key for key, segment in self._open.items() if segment.readers == 0]
        while idle and len(self._open) > OPEN_MAX:
            surplus.append(self._open.pop(idle.pop(0)))
        return surplus
