"""Segments whose frames lie, under checksums that hold: opened, read and examined on a simulated disk."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from hostile_tools import Edit, attempt, edited, edits, hostile, many
from hypothesis import given
from hypothesis import strategies as st
from raftstore_segmented import SegmentedBackend, frame
from raftstore_segmented.checksums import checksum
from raftstore_segmented.examine import examine
from raftstore_segmented.frame import FRAME_HEADER_BYTES, HEADER, Place, encode_data, encode_other
from raftstore_segmented.header import (
    MalformedError,
    Pointer,
    SegmentHeader,
    decode_header,
    decode_pointer,
    encode_header,
    encode_pointer,
)
from raftstore_segmented.scan import BadFrameError, Window, read_frame
from raftstore_segmented.state import LogState, decode_snapshot
from raftstore_segmented.testing import SimulatedDisk

from raftstore.backend import Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import LogId
from raftstore.errors import BackendMissingError, CorruptionError, FormatError
from raftstore.testing.fuzz.segmented import entries, seal_frame, seal_head

pytestmark = pytest.mark.backend("segmented")

PLACE = Place(7, 0xDEADBEEF, zlib.crc32)
HERE = Path("/simulated")
AT = 128
REFUSALS = (CorruptionError, FormatError, BackendMissingError)
SEGMENT_BYTES = 1 << 16
NAME = "0000000000000001.seg"


SNAPSHOT = LogState(1).encode(firsts=[1], previous_end=0)
FRAMES = [
    bytes(encode_data(PLACE, AT, WriteBatch(3, entries=entries(1, 5, 0, 9, 300)), SNAPSHOT)),
    bytes(encode_data(PLACE, AT, WriteBatch(3, 5, LogId(1, 2), entries(5, 0, 0), b"state", b"meta"), b"")),
    bytes(encode_other(PLACE, AT, 3, frame.MARK, b"", b"")),
    bytes(encode_other(PLACE, AT, 3, frame.INDEX, struct.pack("<QII", 1, 0, 0) + SNAPSHOT, b"")),
]


@many(400)
@given(hostile(FRAMES), st.booleans())
def test_a_frame_is_decoded_or_bad(data: bytes, seal: bool) -> None:
    image = bytes(AT) + (seal_frame(data, PLACE, AT) if seal else data)
    disk = SimulatedDisk.holding({"a": image})
    fd = disk.open("a", writable=False)
    found = attempt(lambda: read_frame(Window(disk, fd, len(image)), PLACE, AT), len(image), BadFrameError)
    change = found.change if found is not None else None
    if found is not None and change is not None and change.entries is not None:
        table, payload = change.entries, image[found.header.payload_at :][: found.header.payload_bytes]
        stop = min(table.stop, table.first + 50)
        assert len(table.entries(table.first, stop, payload, 0)) == stop - table.first
    if change is not None:
        attempt(lambda: decode_snapshot(change.snapshot), len(image), MalformedError)


@pytest.mark.parametrize(
    "lie",
    [
        {"last_index": 5},
        {"anchor": LogId(1, 9)},
        {"run_terms": [3, 2], "run_firsts": [1, 2], "last_index": 2},
        {"run_terms": [2, 3], "run_firsts": [2, 1], "last_index": 2},
        {"run_terms": [2], "run_firsts": [9], "last_index": 2},
        {"run_terms": [1 << 63], "run_firsts": [1], "last_index": 2},
        {"firsts": [5, 1]},
        {"oldest": 0},
        {"number": 1 << 63},
    ],
)
def test_a_snapshot_whose_parts_contradict_each_other_is_malformed(lie: dict[str, object]) -> None:
    """Opening took it for a state, and failed on it with an `IndexError`."""
    state = LogState(1)
    for name, value in lie.items():
        setattr(state, name, value)
    with pytest.raises(MalformedError, match="agree"):
        decode_snapshot(state.encode(firsts=state.firsts, previous_end=0))


@many(200)
@given(hostile([encode_header(SegmentHeader(7, 1, 2, 4096)) + b"x"]), st.booleans())
def test_the_beginning_of_a_segment_is_decoded_or_malformed(data: bytes, seal: bool) -> None:
    if seal and len(data) >= 96:
        data = seal_head(data)
    header = attempt(lambda: decode_header(data), len(data), MalformedError, FormatError)
    if header is not None:
        pointed = data[:64] + encode_pointer(header, Pointer(1 << 62, 3)) + data[96:]
        assert decode_pointer(header, pointed) == Pointer(1 << 62, 3)
        attempt(lambda: decode_pointer(header, data), len(data))


def image_of(closed: bool) -> tuple[dict[str, bytes], list[tuple[int, int]]]:
    """A store of one segment, and where its frames begin and end."""
    disk = SimulatedDisk()
    backend = SegmentedBackend(HERE, segment_bytes=SEGMENT_BYTES, _files=disk)
    backend.write(WriteBatch(1, entries=entries(1, 20, 5, 0), hard_state=b"one"))
    backend.write(WriteBatch(2, entries=entries(4, 3000, 7), meta=b"meta"))
    backend.write(WriteBatch(3, truncate_from=5, entries=entries(5, 1, 1, 1)))
    backend.write(WriteBatch(4, anchor=LogId(1, 1)))
    backend.maintain()
    image = disk.image()
    backend.close()
    image = disk.image() if closed else image
    return image, places(image[NAME])


def places(data: bytes) -> list[tuple[int, int]]:
    found, at = list[tuple[int, int]](), AT
    while at < len(data) and data[at : at + 4] == frame.MAGIC:
        fields = HEADER.unpack_from(data, at)
        size = FRAME_HEADER_BYTES + fields[5] + fields[6] + 7 & ~7
        found.append((at, at + size))
        at += size
    return found


STORES = [image_of(closed) for closed in (False, True)]


@many(250)
@given(st.booleans(), st.integers(0, 5), edits, st.booleans())
def test_a_store_with_a_lying_frame_opens_or_is_refused(
    closed: bool, which: int, changes: list[Edit], resize: bool
) -> None:
    """Nothing else may come out of opening, reading and examining it."""
    image, frames = STORES[closed]
    start, stop = frames[which % len(frames)]
    data = image[NAME]
    header = decode_header(data)
    place = Place(header.id, header.tag, checksum(header.algorithm))
    overwriting = changes if resize else [(at, piece, False) for at, piece, _ in changes]
    lying = seal_frame(edited(data[start:stop], overwriting, None), place, start)
    whole = (
        data[:start] + lying + data[stop:] if resize else data[:start] + lying[: stop - start] + data[stop:]
    )
    damaged = image | {NAME: whole.ljust(len(data), b"\0")}
    attempt(lambda: examined(damaged), len(data) * 4, *REFUSALS, spare_bytes=8 << 20)
    attempt(lambda: looked(damaged), len(data) * 4, *REFUSALS, spare_bytes=8 << 20)


def examined(image: dict[str, bytes]) -> None:
    examine(SimulatedDisk.holding(image), HERE, deep=True)


def looked(image: dict[str, bytes]) -> Recovery:
    backend = SegmentedBackend(HERE, segment_bytes=SEGMENT_BYTES, _files=SimulatedDisk.holding(image))
    try:
        found = backend.recovery
        first, last = found.anchor.index + 1, found.last.index
        if first <= last:
            for start in {first, max(first, last - 20)}:
                backend.read(start, min(last, start + 20) + 1, 1 << 16)
    except LookupError:
        pass  # the caller repeats the read, and takes it for damage then
    finally:
        backend.close()
    return found
