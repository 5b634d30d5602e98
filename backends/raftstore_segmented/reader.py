"""Reading entries, from any number of threads beside the writer."""

from __future__ import annotations

import threading
from itertools import islice
from typing import Final, NoReturn

from raftstore.entry import Entry
from raftstore.errors import CorruptionError
from raftstore_segmented.catalog import Catalog
from raftstore_segmented.files import FileLayer, read_all
from raftstore_segmented.frame import ENTRIES, FRAME_HEADER_BYTES, FrameHeader, decode_header
from raftstore_segmented.header import MalformedError
from raftstore_segmented.index import Span
from raftstore_segmented.lookup import load_base
from raftstore_segmented.segment import Segment
from raftstore_segmented.table import EntryTable, decode_entries

WHOLE_MAX: Final = 16 << 10
"""Frames up to this size are read whole; of larger ones, the payload blocks that are wanted."""
READ_BYTES: Final = 1 << 20
"""Whole frames that follow each other are read together, up to this size."""
HEAD_BYTES: Final = 4096
"""What is read at first of a large frame: its header and, mostly, its whole table."""
TABLE_ENTRIES_MAX: Final = 1 << 20
"""How many entries the tables of large frames that are kept in memory may describe (8 bytes each)."""


class Haul:
    """What a read has gathered, and how many payload bytes more it may."""

    def __init__(self, bytes_max: int | None) -> None:
        self.entries: list[Entry] = []
        self.room = bytes_max
        self.full = False

    def reach(self, table: EntryTable, start: int, stop: int) -> int:
        """Up to where the entries from `start` on fit, and take the room for them. The first always does."""
        if self.room is None:
            return stop
        end = table.fit(start, stop, self.room)
        if end == start and not self.entries:
            end += 1
        self.room -= table.start_of(end) - table.start_of(start)
        self.full = end < stop or self.room < 0
        return end


class Reader:
    """Finds, reads, checks and decodes entries."""

    def __init__(self, files: FileLayer, catalog: Catalog) -> None:
        self._files = files
        self._catalog = catalog
        self._lock = threading.Lock()
        """Guards the two below. Never held across I/O."""
        self._tables: dict[tuple[int, int], tuple[EntryTable, int]] = {}
        self._table_entries = 0

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        """As `DiskBackend.read`."""
        if stop - start == 1:
            return self._read_one(start)
        haul = Haul(bytes_max)
        while start < stop and not haul.full:
            segment, end = self._catalog.locate(start, stop)
            try:
                self._read_segment(segment, start, end, haul)
            finally:
                self._catalog.let_go(segment)
            start = end
        return haul.entries

    def _read_one(self, index: int) -> list[Entry]:
        """As `read`, for one entry: without what only many need."""
        segment, _ = self._catalog.locate(index, index + 1)
        try:
            span = self._span(segment, index)
            if span.size > WHOLE_MAX:
                return [self._entry(segment, span)]
            haul = Haul(None)
            self._read_whole(segment, [span], haul)
            return haul.entries
        finally:
            self._catalog.let_go(segment)

    def _span(self, segment: Segment, index: int) -> Span:
        """The frame that holds the entry."""
        with self._catalog.lock:
            span = segment.tail.span_of(index)
        span = span or load_base(self._files, self._catalog, segment).span_of(index)
        if span is None:
            self._damaged("no frame of the segment holds it", segment, Span(0, 0, index, index + 1))
        return span

    def _entry(self, segment: Segment, span: Span) -> Entry:
        """The first entry that is wanted of a large frame."""
        table, payload_at = self._large_table(segment, span)
        index, shift = span.start, table.block_shift
        start, stop = table.bounds(index)
        begin = start >> shift << shift
        end = min(-(-stop >> shift) << shift, table.total)
        payload = read_all(self._files, segment.fd, end - begin, payload_at + begin) if end > begin else b""
        self._check(segment, span, table, payload, begin)
        if len(payload) < end - begin:
            self._damaged("the file is too short", segment, span)
        return Entry(table.term_of(index), index, payload[start - begin : stop - begin], table.kind_of(index))

    def _read_segment(self, segment: Segment, start: int, stop: int, haul: Haul) -> None:
        while start < stop and not haul.full:
            spans = self._spans(segment, start, stop)
            position = 0
            while position < len(spans) and not haul.full:
                count = _together(spans, position, haul.room)
                if count:
                    self._read_whole(segment, spans[position : position + count], haul)
                else:
                    self._read_blocks(segment, spans[position], haul)
                position += count or 1
            start = spans[-1].stop

    def _spans(self, segment: Segment, start: int, stop: int) -> list[Span]:
        """The frames that hold the entries from `start` on, at least one."""
        with self._catalog.lock:
            tail = segment.tail.firsts
            if tail and start >= tail[0]:
                return segment.tail.spans(start, stop)
            stop = min(stop, tail[0]) if tail else stop
        spans = load_base(self._files, self._catalog, segment).spans(start, stop)
        if not spans:
            self._damaged("no frame of the segment holds them", segment, Span(0, 0, start, stop))
        return spans

    def _read_whole(self, segment: Segment, spans: list[Span], haul: Haul) -> None:
        """Small frames that follow each other in the file."""
        offset = spans[0].offset
        data = read_all(self._files, segment.fd, spans[-1].offset + spans[-1].size - offset, offset)
        for span in spans:
            if haul.full:
                break
            at = span.offset - offset
            header = self._header(segment, span, data, at)
            at += FRAME_HEADER_BYTES
            table = self._table(segment, span, header, data[at : at + header.table_bytes])
            at += header.table_bytes
            payload = data[at : at + header.payload_bytes]
            if len(payload) < header.payload_bytes:
                self._damaged("the file is too short", segment, span)
            self._check(segment, span, table, payload, 0)
            stop = haul.reach(table, span.start, span.stop)
            haul.entries += table.entries(span.start, stop, payload, 0)

    def _read_blocks(self, segment: Segment, span: Span, haul: Haul) -> None:
        """Some entries of a large frame."""
        table, payload_at = self._large_table(segment, span)
        stop = haul.reach(table, span.start, span.stop)
        mask = (1 << table.block_shift) - 1
        begin = table.start_of(span.start) & ~mask
        end = min(table.start_of(stop) + mask & ~mask, table.total)
        payload = read_all(self._files, segment.fd, end - begin, payload_at + begin) if end > begin else b""
        self._check(segment, span, table, payload, begin)
        if len(payload) < end - begin:
            self._damaged("the file is too short", segment, span)
        haul.entries += table.entries(span.start, stop, payload, begin)

    def _large_table(self, segment: Segment, span: Span) -> tuple[EntryTable, int]:
        """The table of a large frame and where its payload begins in the file: kept, or read now."""
        key = segment.id, span.offset
        found = self._tables.get(key)
        if found is not None and found[0].first <= span.start and span.stop <= found[0].stop:
            return found
        data = read_all(self._files, segment.fd, min(span.size, HEAD_BYTES), span.offset)
        header = self._header(segment, span, data, 0)
        stop = FRAME_HEADER_BYTES + header.table_bytes
        if stop > len(data):
            data += read_all(self._files, segment.fd, stop - len(data), span.offset + len(data))
        found = self._table(segment, span, header, data[FRAME_HEADER_BYTES:stop]), header.payload_at
        self._keep(key, found)
        return found

    def _keep(self, key: tuple[int, int], found: tuple[EntryTable, int]) -> None:
        with self._lock:
            while self._tables and self._table_entries + found[0].count > TABLE_ENTRIES_MAX:
                oldest, _ = self._tables.pop(next(iter(self._tables)))
                self._table_entries -= oldest.count
            if key not in self._tables:
                self._tables[key] = found
                self._table_entries += found[0].count

    def _header(self, segment: Segment, span: Span, data: bytes, at: int) -> FrameHeader:
        header = decode_header(segment.place, data, at, span.offset)
        if header is None or header.size != span.size or not header.flags & ENTRIES:
            self._damaged("the frame's header is damaged", segment, span)
        return header

    def _table(self, segment: Segment, span: Span, header: FrameHeader, data: bytes) -> EntryTable:
        if segment.place.checksum(data) != header.table_checksum:
            self._damaged("checksum of the frame's table does not match", segment, span)
        try:
            table, _ = decode_entries(data, header.payload_bytes)
        except MalformedError as error:
            self._damaged(str(error), segment, span)
        if not table.first <= span.start < span.stop <= table.stop:
            self._damaged("the frame does not hold them", segment, span)
        return table

    def _check(self, segment: Segment, span: Span, table: EntryTable, payload: bytes, at: int) -> None:
        bad = table.bad_block(payload, at >> table.block_shift, segment.place.checksum)
        if bad is not None:
            self._damaged(f"checksum of payload block {bad} does not match", segment, span)

    def _damaged(self, reason: str, segment: Segment, span: Span) -> NoReturn:
        raise CorruptionError(
            reason,
            file=self._catalog.directory / segment.name,
            offset=span.offset or None,
            first_index=span.start,
            last_index=span.stop - 1,
        )


def _together(spans: list[Span], position: int, room: int | None) -> int:
    """How many frames from `position` on are small and next to each other; 0 if the first is large."""
    limit = READ_BYTES if room is None else min(READ_BYTES, room + WHOLE_MAX)
    begin = at = spans[position].offset
    count = 0
    for span in islice(spans, position, None):
        at += span.size
        if span.offset + span.size != at or span.size > WHOLE_MAX or (count and at - begin > limit):
            break
        count += 1
    return count
