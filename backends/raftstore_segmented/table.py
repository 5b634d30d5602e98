"""Decoding a data frame: its table, and entries out of its payload."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from itertools import accumulate, pairwise, repeat

from raftstore.entry import INDEX_MAX, NO_ENTRY, Entry, LogId
from raftstore_segmented import frame
from raftstore_segmented.checksums import Checksum
from raftstore_segmented.frame import FrameHeader, from_little
from raftstore_segmented.header import MalformedError


class EntryTable:
    """Where the entries of one frame are, and what they are, without their payloads. Immutable."""

    __slots__ = (
        "block_shift",
        "checksums",
        "count",
        "first",
        "kind",
        "kinds",
        "length",
        "runs",
        "starts",
        "total",
    )

    first: int
    count: int
    runs: list[LogId]
    length: int
    """Of every entry; unused if `starts` is there."""
    starts: array[int] | None
    """Where in the payload each entry begins, and at last where it ends, if lengths differ."""
    kind: int
    kinds: bytes
    block_shift: int
    checksums: array[int]
    total: int
    """Payload bytes."""

    @property
    def stop(self) -> int:
        """One above the last index."""
        return self.first + self.count

    def start_of(self, index: int) -> int:
        """Where in the payload the entry begins; for `stop`, where the payload ends."""
        position = index - self.first
        return position * self.length if self.starts is None else self.starts[position]

    def fit(self, start: int, stop: int, bytes_max: int) -> int:
        """The highest end, up to `stop`, such that the payloads of [start, end) fit in `bytes_max`."""
        limit = self.start_of(start) + bytes_max
        if self.start_of(stop) <= limit:
            return stop
        if self.starts is None:
            return self.first + limit // self.length
        return self.first + bisect_right(self.starts, limit) - 1

    def bounds(self, index: int) -> tuple[int, int]:
        """Where in the payload the entry begins and ends."""
        position, starts = index - self.first, self.starts
        if starts is None:
            return position * self.length, (position + 1) * self.length
        return starts[position], starts[position + 1]

    def bad_block(self, chunk: bytes | memoryview, first_block: int, checksum: Checksum) -> int | None:
        """The first block whose bytes are not what was written; `chunk` begins at `first_block`."""
        size = 1 << self.block_shift
        if 0 < len(chunk) <= size:
            return None if checksum(chunk) == self.checksums[first_block] else first_block
        with memoryview(chunk) as view:
            for position, start in enumerate(range(0, len(view), size), first_block):
                if checksum(view[start : start + size]) != self.checksums[position]:
                    return position
        return None

    def entries(self, start: int, stop: int, chunk: bytes, chunk_at: int) -> list[Entry]:
        """The entries of [start, stop); `chunk` is the payload from its byte `chunk_at` on."""
        if stop - start == 1:
            begin, end = self.bounds(start)
            data = chunk[begin - chunk_at : end - chunk_at]
            return [Entry(self.term_of(start), start, data, self.kind_of(start))]
        datas = self._payloads(start, stop, chunk, chunk_at)
        kinds = self.kinds[start - self.first : stop - self.first] if self.kinds else repeat(self.kind)
        if len(self.runs) == 1:
            return list(map(Entry, repeat(self.runs[0].term), range(start, stop), datas, kinds))
        return list(map(Entry, self._terms(start, stop), range(start, stop), datas, kinds))

    def kind_of(self, index: int) -> int:
        return self.kinds[index - self.first] if self.kinds else self.kind

    def term_of(self, index: int) -> int:
        runs = self.runs
        if len(runs) == 1:
            return runs[0].term
        return runs[bisect_right(runs, index, key=_first_index) - 1].term

    def _payloads(self, start: int, stop: int, chunk: bytes, chunk_at: int) -> list[bytes]:
        if self.starts is None:
            length = self.length
            if length == 0:
                return [b""] * (stop - start)
            begin, end = self.start_of(start) - chunk_at, self.start_of(stop) - chunk_at
            return [chunk[at : at + length] for at in range(begin, end, length)]
        bounds = self.starts[start - self.first : stop - self.first + 1]
        if chunk_at:
            bounds = array("Q", [at - chunk_at for at in bounds])
        return [chunk[at:end] for at, end in pairwise(bounds)]

    def _terms(self, start: int, stop: int) -> list[int]:
        terms: list[int] = []
        ends = [run.index for run in self.runs[1:]] + [self.stop]
        for run, end in zip(self.runs, ends, strict=True):
            terms += [run.term] * (min(end, stop) - max(run.index, start))
        return terms


def _first_index(run: LogId) -> int:
    return run.index


def decode_entries(table: bytes, payload_bytes: int) -> tuple[EntryTable, int]:
    """The entries section at the beginning of a table, and where it ends. Raises `MalformedError`."""
    try:
        return _decode_entries(table, payload_bytes)
    except (struct.error, IndexError, ValueError) as error:
        raise MalformedError(f"the frame's table makes no sense: {error}") from error


def _decode_entries(table: bytes, payload_bytes: int) -> tuple[EntryTable, int]:
    first, count, run_count, length, kind, has_kinds, shift = frame.ENTRIES_HEAD.unpack_from(table)
    if not 0 < run_count <= count or not 12 <= shift <= frame.BLOCK_SHIFT_LARGE:
        raise MalformedError("the frame's table makes no sense: runs, count or block size")
    entries = EntryTable()
    entries.first, entries.count, entries.length, entries.kind = first, count, length, kind
    entries.block_shift, entries.total = shift, payload_bytes
    at = frame.ENTRIES_HEAD.size
    entries.runs = [LogId(*frame.PAIR.unpack_from(table, at + 16 * i)) for i in range(run_count)]
    at += 16 * run_count
    blocks = payload_bytes + (1 << shift) - 1 >> shift
    entries.checksums, at = from_little("I", table[at : at + 4 * blocks]), at + 4 * blocks
    if length == frame.LENGTHS_DIFFER:
        lengths, at = from_little("I", table[at : at + 4 * count]), at + 4 * count
        entries.starts = array("Q", accumulate(lengths, initial=0))
    else:
        entries.starts = None
    entries.kinds = table[at : at + count] if has_kinds else b""
    at += len(entries.kinds)
    _check(entries, blocks, count if has_kinds else 0)
    return entries, at


def _check(entries: EntryTable, blocks: int, kinds: int) -> None:
    """What a table of ours always fulfils, so that nothing after this can go out of bounds."""
    runs = entries.runs
    ascending = all(one.index < two.index and one.term < two.term for one, two in pairwise(runs))
    in_range = runs[-1].term <= INDEX_MAX and 0 < entries.first <= entries.stop - 1 <= INDEX_MAX
    whole = entries.starts is None or len(entries.starts) == entries.count + 1
    if not (
        ascending
        and in_range
        and runs[0].index == entries.first
        and runs[-1].index < entries.stop
        and len(entries.checksums) == blocks
        and len(entries.kinds) == kinds
        and whole
        and entries.start_of(entries.stop) == entries.total
    ):
        raise MalformedError("the frame's table makes no sense: its parts do not agree")


class Change:
    """What a data frame does to the log, as its table says."""

    __slots__ = ("anchor", "entries", "hard_state", "meta", "number", "snapshot", "truncate_from")

    def __init__(self, header: FrameHeader, table: bytes) -> None:
        """Decode. Raises `MalformedError`."""
        self.number = header.number
        self.entries: EntryTable | None = None
        self.truncate_from: int | None = None
        self.anchor: LogId | None = None
        self.hard_state: bytes | None = None
        self.meta: bytes | None = None
        self.snapshot = b""
        at = 0
        if header.flags & frame.ENTRIES:
            self.entries, at = decode_entries(table, header.payload_bytes)
        try:
            self._rest(header.flags, table, at)
        except struct.error as error:
            raise MalformedError(f"the frame's table makes no sense: {error}") from error
        anchor = self.anchor or NO_ENTRY
        if max(self.number, self.truncate_from or 0, anchor.term, anchor.index) > INDEX_MAX:
            raise MalformedError("the frame's table makes no sense: a number is out of range")

    def _rest(self, flags: int, table: bytes, at: int) -> None:
        if flags & frame.TRUNCATION:
            (self.truncate_from,) = frame.ONE.unpack_from(table, at)
            at += frame.ONE.size
        if flags & frame.ANCHOR:
            self.anchor = LogId(*frame.PAIR.unpack_from(table, at))
            at += frame.PAIR.size
        if flags & frame.HARD_STATE:
            self.hard_state, at = _blob(table, at)
        if flags & frame.META:
            self.meta, at = _blob(table, at)
        if flags & frame.SNAPSHOT:
            self.snapshot = table[at:]
        elif at != len(table):
            raise MalformedError("the frame's table makes no sense: bytes are left over")


def _blob(table: bytes, at: int) -> tuple[bytes, int]:
    (length,) = frame.LENGTH.unpack_from(table, at)
    blob = table[at + 4 : at + 4 + length]
    if len(blob) != length:
        raise MalformedError("the frame's table makes no sense: it is too short")
    return blob, at + 4 + length
