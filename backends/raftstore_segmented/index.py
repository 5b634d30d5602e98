"""Where the frames of a segment are: index → frame. In memory as three arrays, on disk as an index frame.

Payload of an index frame, for n frames: n first indexes 8, n offsets 4, n sizes 4; offsets and sizes count
units of 8 bytes. Its table:

| bytes | field |
|---|---|
| 8 | lowest index that the segment's writes truncated or wrote |
| 4 | n |
| 4 | checksum of the payload |
| … | snapshot of the state after the last write (see `state.py`); not in a sealed segment's |
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from struct import Struct
from typing import Final

import msgspec

from raftstore.entry import INDEX_MAX
from raftstore_segmented.checksums import Checksum
from raftstore_segmented.frame import from_little, to_little
from raftstore_segmented.header import MalformedError

INDEX_HEAD: Final = Struct("<QII")
SPANS_MAX: Final = 4096
"""How many frames are looked up at once: a read of a few of many costs no more than that."""


class Span(msgspec.Struct, frozen=True, gc=False):
    """One frame that a read needs, and the entries [start, stop) that it needs of it."""

    offset: int
    size: int
    start: int
    stop: int


class FrameIndex:
    """The frames of a segment (or of a part of it) that hold entries, as later frames left them."""

    __slots__ = ("firsts", "low", "offsets", "sizes")

    def __init__(self) -> None:
        self.firsts = array("Q")
        self.offsets = array("I")
        self.sizes = array("I")
        self.low = INDEX_MAX
        """The lowest index truncated or written here: what came before holds only what is below."""

    def cut(self, start: int) -> None:
        """Entries at `start` and above are gone from here, and from all before it."""
        self.low = min(self.low, start)
        keep = bisect_left(self.firsts, start)
        del self.firsts[keep:], self.offsets[keep:], self.sizes[keep:]  # as one step: see `_publish`

    def add(self, first: int, offset: int, size: int) -> None:
        """A frame at `offset` holds entries from `first` on, in place of all that was there."""
        if first < self.low or (self.firsts and first <= self.firsts[-1]):
            self.cut(first)
        self.firsts.append(first)
        self.offsets.append(offset >> 3)
        self.sizes.append(size >> 3)

    def extend(self, later: FrameIndex) -> None:
        """Put the frames that come after these behind them."""
        self.cut(later.low)
        self.firsts += later.firsts
        self.offsets += later.offsets
        self.sizes += later.sizes

    def copy(self) -> FrameIndex:
        other = FrameIndex()
        other.low = self.low
        other.firsts, other.offsets, other.sizes = self.firsts[:], self.offsets[:], self.sizes[:]
        return other

    def span_of(self, index: int) -> Span | None:
        """The frame that holds the entry; None only if `index` is below them all."""
        position = bisect_right(self.firsts, index) - 1
        if position < 0:
            return None
        return Span(self.offsets[position] << 3, self.sizes[position] << 3, index, index + 1)

    def spans(self, start: int, stop: int) -> list[Span]:
        """The first frames that hold [start, stop), ascending; none only if `start` is below them all."""
        begin = bisect_right(self.firsts, start) - 1
        if begin < 0:
            return []
        end = min(bisect_left(self.firsts, stop), begin + SPANS_MAX)
        if end < len(self.firsts):
            stop = min(stop, self.firsts[end])
        if end == begin + 1:
            return [Span(self.offsets[begin] << 3, self.sizes[begin] << 3, start, stop)]
        firsts = self.firsts[begin:end]
        starts, stops = firsts.tolist(), [*firsts[1:], stop]
        starts[0] = start
        offsets, sizes = self.offsets[begin:end], self.sizes[begin:end]
        return [
            Span(at << 3, size << 3, one, two)
            for at, size, one, two in zip(offsets, sizes, starts, stops, strict=True)
        ]

    def encode(self, checksum: Checksum) -> tuple[bytes, bytes]:
        """Table, without a snapshot, and payload of an index frame."""
        payload = to_little(self.firsts) + to_little(self.offsets) + to_little(self.sizes)
        return INDEX_HEAD.pack(self.low, len(self.firsts), checksum(payload)), payload


def decode_index(table: bytes, payload: bytes, checksum: Checksum) -> FrameIndex:
    """Raises `MalformedError`."""
    if len(table) < INDEX_HEAD.size:
        raise MalformedError("the index is too short")
    low, count, crc = INDEX_HEAD.unpack_from(table)
    if len(payload) != 16 * count or checksum(payload) != crc:
        raise MalformedError("checksum of the index does not match")
    index = FrameIndex()
    index.low = low
    index.firsts = from_little("Q", payload[: 8 * count])
    index.offsets = from_little("I", payload[8 * count : 12 * count])
    index.sizes = from_little("I", payload[12 * count :])
    return index
