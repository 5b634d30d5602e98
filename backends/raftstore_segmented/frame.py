"""Frames: what one write puts on disk. This module encodes them; `table.py` decodes their tables.

A frame is a header, a table and the payloads of its entries, joined, padded with zeros to 8 bytes.

Frame header, 56 bytes, at a multiple of 8:

| offset | bytes | field |
|---|---|---|
| 0 | 4 | magic `RFRM` |
| 4 | 4 | tag of the segment |
| 8 | 8 | segment id |
| 16 | 8 | offset of this frame in the file |
| 24 | 8 | write number; of the last write before it in marks and indexes |
| 32 | 8 | payload bytes |
| 40 | 4 | table bytes |
| 44 | 4 | checksum of the table |
| 48 | 1 | kind: 1 data, 2 mark, 3 index |
| 49 | 1 | flags: the sections of the table |
| 50 | 2 | zero |
| 52 | 4 | checksum of bytes 0..51 |

Table of a data frame: the sections whose flags are set, in this order.

| flag | section | fields |
|---|---|---|
| 1 | entries | first index 8, count 4, runs 4, length of every entry 4 (or 0xFFFFFFFF), kind of every entry 1, kinds follow 1, block bytes as a power of two 1, zero 1; then per run term 8, first index 8; per payload block its checksum 4; per entry its length 4, if lengths differ; per entry its kind 1, if kinds differ |
| 2 | truncation | drop this index and all after it 8 |
| 4 | anchor | term 8, index 8 |
| 8 | hard state | length 4, bytes |
| 16 | meta | length 4, bytes |
| 32 | snapshot | the state before this frame, see `state.py` |
"""  # noqa: E501  (a table row cannot be broken)

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from struct import Struct
from typing import Final

import msgspec

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, term_runs
from raftstore_segmented.checksums import Checksum

HEADER: Final = Struct("<4sIQQQQIIBB2xI")
MAGIC: Final = b"RFRM"
FRAME_HEADER_BYTES: Final = 56

DATA: Final = 1
MARK: Final = 2
INDEX: Final = 3

ENTRIES: Final = 1
TRUNCATION: Final = 2
ANCHOR: Final = 4
HARD_STATE: Final = 8
META: Final = 16
SNAPSHOT: Final = 32
FLAGS_KNOWN: Final = 63

ENTRIES_HEAD: Final = Struct("<QIIIBBBx")
PAIR: Final = Struct("<QQ")
ONE: Final = Struct("<Q")
LENGTH: Final = Struct("<I")
LENGTHS_DIFFER: Final = 0xFFFFFFFF
BLOCK_SHIFT_SMALL: Final = 13
BLOCK_SHIFT_LARGE: Final = 16
"""Payload blocks are 8 KiB if entries are smaller than that: reading one costs little. Else 64 KiB."""

_HEADER_BODY: Final = Struct("<4sIQQQQIIBB2x")
_CRC_AT: Final = 52
_CRC: Final = Struct("<I")
_ONE_ENTRY: Final = Struct("<QIIIBBBxQQI")
_LITTLE: Final = sys.byteorder == "little"
_PAD: Final = [bytes(-size % 8) for size in range(8)]


class Place(msgspec.Struct, frozen=True, gc=False):
    """The segment that a frame belongs to, as far as its bytes show it."""

    id: int
    tag: int
    checksum: Checksum


class FrameHeader(msgspec.Struct, frozen=True, gc=False):
    """A frame header whose checksum holds."""

    kind: int
    flags: int
    offset: int
    number: int
    table_bytes: int
    payload_bytes: int
    table_checksum: int

    @property
    def size(self) -> int:
        """Bytes of the whole frame, padding included."""
        return FRAME_HEADER_BYTES + self.table_bytes + self.payload_bytes + 7 & ~7

    @property
    def payload_at(self) -> int:
        """Where the payloads begin, in the file."""
        return self.offset + FRAME_HEADER_BYTES + self.table_bytes


def encode_data(place: Place, offset: int, batch: WriteBatch, snapshot: bytes) -> bytes | bytearray:
    """The frame of `batch`, for `offset`; `snapshot` (or nothing) makes it the first of its segment."""
    entries = batch.entries
    flags, rest = _other_sections(batch, snapshot)
    if not entries:
        return _frame_around(place, offset, batch.number, rest, b"", DATA, flags)
    if len(entries) == 1 and 0 < len(entries[0].data) <= 1 << BLOCK_SHIFT_LARGE:
        entry = entries[0]
        return _frame_around(
            place, offset, batch.number, _one_entry(place, entry) + rest, entry.data, DATA, flags | ENTRIES
        )
    buffer, table_bytes, payload_bytes = _join(entries, rest, place.checksum)
    with memoryview(buffer)[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + table_bytes] as table:
        crc = place.checksum(table)
    buffer[:FRAME_HEADER_BYTES] = _header(
        place, offset, batch.number, payload_bytes, table_bytes, crc, DATA, flags | ENTRIES
    )
    return buffer


def encode_other(place: Place, offset: int, number: int, kind: int, table: bytes, payload: bytes) -> bytes:
    """A mark, or an index: its table may end in a snapshot, its payload are the index arrays."""
    return _frame_around(place, offset, number, table, payload, kind, 0)


def decode_header(place: Place, data: bytes, position: int, offset: int) -> FrameHeader | None:
    """The header at `position` of `data`, if one of `place` that belongs at `offset` is there."""
    if len(data) - position < FRAME_HEADER_BYTES:
        return None
    magic, tag, segment, at, number, payload, table, table_checksum, kind, flags, crc = HEADER.unpack_from(
        data, position
    )
    if magic != MAGIC or tag != place.tag or segment != place.id or at != offset:
        return None
    if place.checksum(data[position : position + _CRC_AT]) != crc:
        return None
    return FrameHeader(kind, flags, offset, number, table, payload, table_checksum)


def pattern(place: Place) -> bytes:
    """The eight bytes that every frame header of the segment begins with: a random tag is among them."""
    return MAGIC + LENGTH.pack(place.tag)


def to_little(values: array[int]) -> bytes:
    """The array's bytes, little-endian."""
    if _LITTLE:
        return values.tobytes()
    swapped = array(values.typecode, values)
    swapped.byteswap()
    return swapped.tobytes()


def from_little(typecode: str, data: bytes) -> array[int]:
    """The array of little-endian bytes; their length is a multiple of the item's."""
    values: array[int] = array(typecode)
    values.frombytes(data)
    if not _LITTLE:
        values.byteswap()
    return values


def _one_entry(place: Place, entry: Entry) -> bytes:
    """The entries section of one entry whose payload is one block. It says what `_join` would say."""
    index, data = entry.index, entry.data
    size = len(data)
    shift = BLOCK_SHIFT_LARGE if size >> BLOCK_SHIFT_SMALL else BLOCK_SHIFT_SMALL
    return _ONE_ENTRY.pack(index, 1, 1, size, entry.kind, 0, shift, entry.term, index, place.checksum(data))


def _other_sections(batch: WriteBatch, snapshot: bytes) -> tuple[int, bytes]:
    """The flags and the bytes of everything but the entries."""
    flags, rest = 0, b""
    if batch.truncate_from is not None:
        flags, rest = TRUNCATION, ONE.pack(batch.truncate_from)
    if batch.anchor is not None:
        flags, rest = flags | ANCHOR, rest + PAIR.pack(batch.anchor.term, batch.anchor.index)
    if batch.hard_state is not None:
        flags, rest = flags | HARD_STATE, rest + LENGTH.pack(len(batch.hard_state)) + batch.hard_state
    if batch.meta is not None:
        flags, rest = flags | META, rest + LENGTH.pack(len(batch.meta)) + batch.meta
    if snapshot:
        flags, rest = flags | SNAPSHOT, rest + snapshot
    return flags, rest


def _join(entries: Sequence[Entry], rest: bytes, checksum: Checksum) -> tuple[bytearray, int, int]:
    """The frame with everything but its header, in one joined buffer: each payload is copied once."""
    count = len(entries)
    datas = [entry.data for entry in entries]
    sizes = list(map(len, datas))
    length, lengths = sizes[0], b""
    if sizes.count(length) != count:
        length, lengths = LENGTHS_DIFFER, to_little(array("I", sizes))
    kind, kinds = entries[0].kind, b""
    every = [entry.kind for entry in entries]
    if every.count(kind) != count:
        kinds = bytes(every)
    payload_bytes = sum(sizes)
    shift = BLOCK_SHIFT_SMALL if payload_bytes >> BLOCK_SHIFT_SMALL < count else BLOCK_SHIFT_LARGE
    runs = term_runs(entries)
    blocks = payload_bytes + (1 << shift) - 1 >> shift
    head = ENTRIES_HEAD.pack(entries[0].index, count, len(runs), length, kind, bool(kinds), shift)
    head += b"".join([PAIR.pack(run.term, run.index) for run in runs])
    checksums_at = FRAME_HEADER_BYTES + len(head)
    payload_at = checksums_at + 4 * blocks + len(lengths) + len(kinds) + len(rest)
    pad = _PAD[payload_at + payload_bytes & 7]
    buffer = bytearray().join(
        [bytes(FRAME_HEADER_BYTES), head, bytes(4 * blocks), lengths, kinds, rest, *datas, pad]
    )
    with memoryview(buffer)[payload_at : payload_at + payload_bytes] as payload:
        size = 1 << shift
        sums = array("I", [checksum(payload[at : at + size]) for at in range(0, payload_bytes, size)])
    buffer[checksums_at : checksums_at + 4 * blocks] = to_little(sums)
    return buffer, payload_at - FRAME_HEADER_BYTES, payload_bytes


def _frame_around(
    place: Place, offset: int, number: int, table: bytes, payload: bytes, kind: int, flags: int
) -> bytes:
    """A frame whose table is complete. The payload is copied once."""
    table_bytes, payload_bytes = len(table), len(payload)
    header = _header(place, offset, number, payload_bytes, table_bytes, place.checksum(table), kind, flags)
    pad = _PAD[FRAME_HEADER_BYTES + table_bytes + payload_bytes & 7]
    return b"".join((header, table, payload, pad))


def _header(
    place: Place,
    offset: int,
    number: int,
    payload_bytes: int,
    table_bytes: int,
    table_crc: int,
    kind: int,
    flags: int,
) -> bytes:
    body = _HEADER_BODY.pack(
        MAGIC, place.tag, place.id, offset, number, payload_bytes, table_bytes, table_crc, kind, flags
    )
    return body + _CRC.pack(place.checksum(body))
