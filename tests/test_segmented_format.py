"""The bytes on disk: what is encoded is decoded, what is not ours is refused, no length is trusted."""

from __future__ import annotations

import zlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raftstore_segmented import frame, header
from raftstore_segmented.frame import FRAME_HEADER_BYTES, Place, decode_header, encode_data
from raftstore_segmented.header import MalformedError, Pointer, SegmentHeader
from raftstore_segmented.index import FrameIndex, decode_index
from raftstore_segmented.state import LogState, decode_snapshot
from raftstore_segmented.table import Change, decode_entries

from raftstore.batch import WriteBatch
from raftstore.entry import INDEX_MAX, Entry, LogId
from raftstore.errors import FormatError

pytestmark = pytest.mark.backend("segmented")

PLACE = Place(7, 0xDEADBEEF, zlib.crc32)

numbers = st.integers(0, INDEX_MAX)
blobs = st.none() | st.binary(max_size=50)


@st.composite
def runs_of_entries(draw: st.DrawFn) -> list[Entry]:
    first = draw(st.integers(1, 1 << 40))
    terms = sorted(draw(st.lists(st.integers(1, 5), max_size=40)))
    sizes = draw(st.sampled_from([(0,), (5,), (0, 1, 200), (9000,), (1 << 16, 3)]))
    random = Random(draw(st.integers(0, 99)))
    kinds = draw(st.sampled_from([(0,), (255,), (0, 1, 2)]))
    return [
        Entry(term, first + i, random.randbytes(random.choice(sizes)), random.choice(kinds))
        for i, term in enumerate(terms)
    ]


batches = st.builds(
    WriteBatch,
    numbers,
    truncate_from=st.none() | numbers,
    anchor=st.none() | st.builds(LogId, numbers, numbers),
    entries=runs_of_entries(),
    hard_state=blobs,
    meta=blobs,
)


@settings(deadline=None)
@given(batches, st.integers(0, 1 << 40).map(lambda n: n * 8))
def test_a_frame_says_what_its_batch_said(batch: WriteBatch, offset: int) -> None:
    data = bytes(encode_data(PLACE, offset, batch, b""))
    found = decode_header(PLACE, data, 0, offset)
    assert found is not None
    assert found.size == len(data)
    assert len(data) % 8 == 0
    change = Change(found, data[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + found.table_bytes])
    assert (change.number, change.truncate_from, change.anchor) == (
        batch.number,
        batch.truncate_from,
        batch.anchor,
    )
    assert (change.hard_state, change.meta) == (batch.hard_state, batch.meta)
    if not batch.entries:
        assert change.entries is None
        return
    table = change.entries
    assert table is not None
    payload = data[found.payload_at - offset :][: found.payload_bytes]
    assert table.bad_block(memoryview(payload), 0, zlib.crc32) is None
    assert table.entries(table.first, table.stop, payload, 0) == list(batch.entries)


@settings(deadline=None)
@given(batches, st.data())
def test_a_header_is_believed_only_in_its_own_place(batch: WriteBatch, data: st.DataObject) -> None:
    frame_bytes = bytes(encode_data(PLACE, 128, batch, b""))
    other = data.draw(st.sampled_from([Place(8, PLACE.tag, zlib.crc32), Place(7, 1, zlib.crc32)]))
    assert decode_header(other, frame_bytes, 0, 128) is None
    assert decode_header(PLACE, frame_bytes, 0, 136) is None
    assert decode_header(PLACE, frame_bytes[: FRAME_HEADER_BYTES - 1], 0, 128) is None


@settings(deadline=None)
@given(st.binary(max_size=120), st.integers(0, 1 << 62))
def test_tables_of_any_bytes_decode_or_are_malformed(table: bytes, payload_bytes: int) -> None:
    try:
        entries, at = decode_entries(table, payload_bytes)
    except MalformedError:
        return
    assert at <= len(table)
    assert entries.start_of(entries.stop) == payload_bytes


@settings(deadline=None)
@given(batches.filter(lambda batch: bool(batch.entries)), st.data())
def test_tables_with_changed_bytes_decode_within_their_bounds_or_are_malformed(
    batch: WriteBatch, data: st.DataObject
) -> None:
    whole = bytes(encode_data(PLACE, 128, batch, b""))
    found = decode_header(PLACE, whole, 0, 128)
    assert found is not None
    table = bytearray(whole[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + found.table_bytes])
    at = data.draw(st.integers(0, len(table) - 1))
    table[at] ^= data.draw(st.integers(1, 255))
    try:
        entries, _ = decode_entries(bytes(table), found.payload_bytes)
    except MalformedError:
        return
    assert entries.count <= len(table) or entries.starts is None
    assert entries.start_of(entries.stop) == found.payload_bytes


@given(st.binary(max_size=200))
def test_snapshots_of_any_bytes_decode_or_are_malformed(data: bytes) -> None:
    try:
        state, _ = decode_snapshot(data)
    except MalformedError:
        return
    assert len(state.firsts) > 0


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_indexes_of_any_bytes_are_malformed(table: bytes, payload: bytes) -> None:
    if zlib.crc32(payload) == int.from_bytes(table[12:16], "little"):
        return
    with pytest.raises(MalformedError):
        decode_index(table, payload, zlib.crc32)


def test_a_snapshot_gives_the_state_back() -> None:
    state = LogState(3)
    state.apply(9, None, LogId(2, 50), [LogId(2, 51), LogId(4, 60)], 70, b"hard", None)
    state.begin_segment(4)
    back, previous_end = decode_snapshot(state.encode(firsts=state.firsts, previous_end=1234))
    assert vars(back) == vars(state)
    assert previous_end == 1234


def test_an_index_gives_the_frames_back() -> None:
    index = FrameIndex()
    for first, offset in ((1, 128), (10, 4096), (20, 8192), (15, 9000 // 8 * 8)):
        index.add(first, offset, 64)
    table, payload = index.encode(zlib.crc32)
    back = decode_index(table, payload, zlib.crc32)
    assert back.firsts.tolist() == [1, 10, 15]
    assert (back.offsets, back.sizes, back.low) == (index.offsets, index.sizes, 1)


def test_segment_header_and_pointer_give_back_what_they_were_made_of() -> None:
    made = SegmentHeader(12, 34, 1, 4096)
    data = header.encode_header(made)
    assert header.decode_header(data) == made
    assert header.decode_pointer(made, data) is None
    pointer = Pointer(512, header.SEALED)
    data = data[:64] + header.encode_pointer(made, pointer) + data[96:]
    assert header.decode_pointer(made, data) == pointer
    assert header.decode_pointer(SegmentHeader(13, 34, 1, 4096), data) is None
    assert header.decode_pointer(SegmentHeader(12, 35, 1, 4096), data) is None


def test_a_header_of_another_version_is_a_format_error_and_any_other_change_is_damage() -> None:
    data = header.encode_header(SegmentHeader(12, 34, 1, 4096))
    for at in range(64):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(FormatError if at in (8, 9) else MalformedError):
            header.decode_header(changed)


def test_the_overhead_of_a_thousand_entries_of_100_bytes_is_under_one_percent() -> None:
    entries = [Entry(1, i, bytes(100)) for i in range(1, 1001)]
    assert len(encode_data(PLACE, 128, WriteBatch(1, entries=entries), b"")) < 101_000


def test_the_documented_tables_name_every_field_size() -> None:
    text = (Path(frame.__file__).parent / "FORMAT.md").read_text()
    for fact in ("`RAFTSEG\\n`", "`RFRM`", "`RPTR`", "56 bytes", "| 52 | 4 | checksum of bytes 0..51"):
        assert fact in text
