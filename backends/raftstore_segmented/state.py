"""What the log is after a number of writes, without its payloads; and its form on disk, the snapshot.

The first frame of a segment carries the state before it, and so does the index that `close` writes: opening
needs nothing older. Snapshot, at the end of a table:

| bytes | field |
|---|---|
| 8, 8 | term and index of the anchor |
| 8 | last index |
| 8 | number of the last write |
| 8 | id of the oldest segment that counts |
| 8 | where the segment before this one ends; 0 in an index |
| 4, 4 | lengths of hard state and meta; 0xFFFFFFFF if there is none |
| 4, 4 | number of term runs, number of segments |
| … | hard state, meta; per run term 8; per run first index 8; per segment the first index it still holds 8 |
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain, pairwise
from struct import Struct
from typing import Final

from raftstore.entry import INDEX_MAX, NO_ENTRY, Entry, LogId
from raftstore_segmented.frame import from_little, to_little
from raftstore_segmented.header import MalformedError

_HEAD: Final = Struct("<QQQQQQIIII")
_NONE: Final = 0xFFFFFFFF


class LogState:
    """The state that frames build up. `apply` may be repeated: doing a write twice is doing it once.

    That also holds if an interrupt cut the first time short. What belongs together is changed in one
    statement without a call in it: no interrupt is delivered in between.
    """

    def __init__(self, oldest: int) -> None:
        self.anchor = NO_ENTRY
        self.last_index = 0
        self.number = 0
        self.hard_state: bytes | None = None
        self.meta: bytes | None = None
        self.run_terms: list[int] = []
        self.run_firsts: list[int] = []
        self.oldest = oldest
        self.firsts = [1]
        """Per segment, from `oldest` on: index i is in the last one whose first is at most i."""

    @property
    def newest(self) -> int:
        """The id of the segment that is being written."""
        return self.oldest + len(self.firsts) - 1

    @property
    def last(self) -> LogId:
        if self.last_index == self.anchor.index:
            return self.anchor
        return LogId(self.run_terms[-1], self.last_index)

    def live_runs(self) -> list[LogId]:
        """The id of the first live entry of each run of equal terms."""
        first = self.anchor.index + 1
        return [
            LogId(term, max(index, first))
            for term, index in zip(self.run_terms, self.run_firsts, strict=True)
        ]

    def begin_segment(self, segment_id: int) -> None:
        """From here on writes go to `segment_id`, the one after the newest. Once more changes nothing."""
        if segment_id > self.newest:
            self.firsts.append(self.last_index + 1)

    def apply(
        self,
        number: int,
        truncate_from: int | None,
        anchor: LogId | None,
        runs: Sequence[LogId],
        stop: int,
        hard_state: bytes | None,
        meta: bytes | None,
    ) -> None:
        """Do one write; `runs` are those of its entries, which end before `stop`."""
        if truncate_from is not None:
            self._truncate(truncate_from)
        if anchor is not None:
            self._set_anchor(anchor)
        if runs:
            self._append(runs, stop)
        if hard_state is not None:
            self.hard_state = hard_state
        if meta is not None:
            self.meta = meta
        self.number = number

    def grow(self, number: int, entries: Sequence[Entry]) -> bool:
        """Do a write of nothing but `entries`, if they go on in the last term right after the last index."""
        if entries[0].index != self.last_index + 1 or entries[-1].term != (self.run_terms or (None,))[-1]:
            return False
        self.last_index += len(entries)
        self.number = number
        return True

    def _truncate(self, start: int) -> None:
        keep = bisect_left(self.run_firsts, start) if start > self.anchor.index + 1 else 0
        del self.run_firsts[keep:]
        del self.run_terms[keep:]
        self.last_index = min(self.last_index, max(start - 1, self.anchor.index))
        for position in range(bisect_right(self.firsts, start), len(self.firsts)):
            self.firsts[position] = start

    def _set_anchor(self, anchor: LogId) -> None:
        self.anchor = anchor
        if not self.run_firsts or self.last_index <= anchor.index:
            self.last_index = anchor.index
            self.run_firsts.clear()
            self.run_terms.clear()
        dead = max(bisect_right(self.run_firsts, anchor.index + 1) - 1, 0)
        del self.run_firsts[:dead], self.run_terms[:dead]
        dead = max(bisect_right(self.firsts, anchor.index + 1) - 1, 0)
        self.firsts, self.oldest = self.firsts[dead:], self.oldest + dead

    def _append(self, runs: Sequence[LogId], stop: int) -> None:
        self._truncate(runs[0].index)
        for run in runs:
            if not self.run_terms or self.run_terms[-1] != run.term:
                self.run_terms.append(run.term)
                self.run_firsts.append(run.index)
        self.last_index = stop - 1

    def encode(self, *, firsts: Sequence[int], previous_end: int) -> bytes:
        """The snapshot, with these `firsts`: those of the state, and for a new segment one more."""
        anchor, hard_state, meta = self.anchor, self.hard_state, self.meta
        head = _HEAD.pack(
            anchor.term,
            anchor.index,
            self.last_index,
            self.number,
            self.oldest,
            previous_end,
            _NONE if hard_state is None else len(hard_state),
            _NONE if meta is None else len(meta),
            len(self.run_terms),
            len(firsts),
        )
        numbers = array("Q", [*self.run_terms, *self.run_firsts, *firsts])
        return b"".join([head, hard_state or b"", meta or b"", to_little(numbers)])


def decode_snapshot(data: bytes) -> tuple[LogState, int]:
    """The state, and where the segment before ends. Raises `MalformedError`."""
    if len(data) < _HEAD.size:
        raise MalformedError("the snapshot is too short")
    term, index, last, number, oldest, previous_end, hard_bytes, meta_bytes, runs, segments = (
        _HEAD.unpack_from(data)
    )
    state = LogState(oldest)
    state.anchor, state.last_index, state.number = LogId(term, index), last, number
    at = _HEAD.size
    if hard_bytes != _NONE:
        state.hard_state, at = data[at : at + hard_bytes], at + hard_bytes
    if meta_bytes != _NONE:
        state.meta, at = data[at : at + meta_bytes], at + meta_bytes
    if len(data) - at != 8 * (2 * runs + segments) or segments == 0:
        raise MalformedError("the snapshot has the wrong length")
    numbers = from_little("Q", data[at:]).tolist()
    state.run_terms, state.run_firsts = numbers[:runs], numbers[runs : 2 * runs]
    state.firsts = numbers[2 * runs :]
    _check(state)
    return state, previous_end


def _check(state: LogState) -> None:
    """What a state of ours always fulfils, so that nothing after this can go out of bounds."""
    anchor, last, terms, firsts = state.anchor, state.last_index, state.run_terms, state.run_firsts
    holds = bool(terms) and firsts[0] <= anchor.index + 1 and firsts[-1] <= last
    if not (
        (holds if last > anchor.index else last == anchor.index and not terms)
        and all(one < two for one, two in chain(pairwise(terms), pairwise(firsts)))
        and all(one <= two for one, two in pairwise(state.firsts))
        and 0 < state.oldest <= INDEX_MAX
        and max(anchor.term, last, state.number, *terms[-1:], state.firsts[-1] - 1) <= INDEX_MAX
    ):
        raise MalformedError("the snapshot makes no sense: its parts do not agree")
