"""Targets: frames, indexes, snapshots and whole stores of `segmented`, on a disk in memory."""

from __future__ import annotations

import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from raftstore_segmented import SegmentedBackend, frame
from raftstore_segmented.checksums import checksum
from raftstore_segmented.examine import examine
from raftstore_segmented.frame import FRAME_HEADER_BYTES, HEADER, Place, encode_data
from raftstore_segmented.header import (
    MalformedError,
    Pointer,
    SegmentHeader,
    decode_header,
    decode_pointer,
    encode_header,
    encode_pointer,
)
from raftstore_segmented.index import INDEX_HEAD, FrameIndex, decode_index
from raftstore_segmented.scan import BadFrameError, Window, read_frame
from raftstore_segmented.state import LogState, decode_snapshot
from raftstore_segmented.testing import SimulatedDisk

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.errors import BackendMissingError, CorruptionError, FormatError
from raftstore.testing.fuzz.target import Target

PLACE: Final = Place(1, 0xDEADBEEF, zlib.crc32)
AT: Final = 128
"""Where the first frame of a segment begins."""
HERE: Final = Path("/simulated")
NAME: Final = "0000000000000001.seg"
HEADER_BYTES: Final = 64
SNAPSHOT: Final = LogState(1).encode(firsts=[1], previous_end=0)
REFUSALS: Final = (CorruptionError, FormatError, BackendMissingError, MalformedError)
BLOCK_BYTES: Final = 8


def targets(_scratch: Path) -> list[Target]:
    """All of them; none needs a file."""
    index = FrameIndex()
    table, payload = index.encode(zlib.crc32)
    spare = 8 << 20
    return [
        Target(
            name="segment-frame",
            samples=frames(),
            check=check_frame,
            refusals=(BadFrameError,),
            seal=seal_frame,
        ),
        Target(name="segment-head", samples=[head()], check=check_head, refusals=REFUSALS, seal=seal_head),
        Target(
            name="segment-index", samples=[table + payload], check=check_index, refusals=(MalformedError,)
        ),
        Target(
            name="segment-snapshot", samples=[SNAPSHOT], check=decode_snapshot, refusals=(MalformedError,)
        ),
        Target(
            name="segment",
            samples=[store(closed) for closed in (False, True)],
            check=check_store,
            refusals=REFUSALS,
            seal=seal_store,
            spare_bytes=spare,
        ),
    ]


def frames() -> list[bytes]:
    """One of each kind of data frame."""
    batches = [
        WriteBatch(3, entries=entries(1, 5, 0, 9, 300)),
        WriteBatch(3, 5, LogId(1, 2), entries(5, 0, 0), b"state", b"meta"),
    ]
    return [bytes(encode_data(PLACE, AT, batch, SNAPSHOT)) for batch in batches]


def entries(first: int, *sizes: int) -> list[Entry]:
    return [Entry(1 + n // 3, first + n, b"x" * size, n % 2) for n, size in enumerate(sizes)]


def head() -> bytes:
    header = SegmentHeader(7, 1, 2, 4096)
    return encode_header(header)[:HEADER_BYTES] + encode_pointer(header, Pointer(1 << 62, 3))


@cache
def store(closed: bool) -> bytes:
    """The only segment of a store that was killed, or closed."""
    disk = SimulatedDisk()
    backend = SegmentedBackend(HERE, segment_bytes=1 << 16, _files=disk)
    backend.write(WriteBatch(1, entries=entries(1, 20, 5, 0), hard_state=b"one"))
    backend.write(WriteBatch(2, entries=entries(4, 300, 7), meta=b"meta"))
    backend.write(WriteBatch(3, truncate_from=5, entries=entries(5, 1, 1, 1)))
    backend.write(WriteBatch(4, anchor=LogId(1, 1)))
    backend.maintain()
    image = disk.image()
    backend.close()
    image = disk.image() if closed else image
    return image[NAME].rstrip(b"\0")


def check_frame(data: bytes) -> None:
    """Decode it, its entries and its snapshot."""
    image = bytes(AT) + data
    disk = SimulatedDisk.holding({"a": image})
    found = read_frame(Window(disk, disk.open("a", writable=False), len(image)), PLACE, AT)
    if found.change is None:
        return
    if found.change.entries is not None:
        table, payload = found.change.entries, image[found.header.payload_at :][: found.header.payload_bytes]
        stop = min(table.stop, table.first + 50)
        assert len(table.entries(table.first, stop, payload, 0)) == stop - table.first
    with suppress(MalformedError):
        decode_snapshot(found.change.snapshot)


def check_head(data: bytes) -> None:
    decode_pointer(decode_header(data), data)


def check_index(data: bytes) -> None:
    """The table's head, then the payload; its checksum is made right."""
    table, payload = data[: INDEX_HEAD.size], data[INDEX_HEAD.size :]
    if len(table) == INDEX_HEAD.size:
        low, count, _ = INDEX_HEAD.unpack(table)
        table = INDEX_HEAD.pack(low, count, zlib.crc32(payload))
    decode_index(table, payload, zlib.crc32)


def check_store(data: bytes) -> None:
    """Examine, open and read a store of one segment."""
    image = {NAME: data.ljust(1 << 16, b"\0")}
    examine(SimulatedDisk.holding(image), HERE, deep=True)
    backend = SegmentedBackend(HERE, segment_bytes=1 << 16, _files=SimulatedDisk.holding(image))
    try:
        first, last = backend.recovery.anchor.index + 1, backend.recovery.last.index
        for start in {first, max(first, last - 20)} if first <= last else ():
            backend.read(start, min(last, start + 20) + 1, 1 << 16)
    except LookupError:
        pass  # the caller repeats the read, and takes it for damage then
    finally:
        backend.close()


def seal_frame(data: bytes, place: Place = PLACE, offset: int = AT) -> bytes:
    """All checksums right but those of the blocks of the payload."""
    if len(data) < FRAME_HEADER_BYTES:
        return data
    fields = list(HEADER.unpack_from(data))
    table = data[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + fields[6]]
    fields[:4] = [frame.MAGIC, place.tag, place.id, offset]
    fields[7] = place.checksum(table)
    packed = HEADER.pack(*fields[:-1], 0)
    return packed[:52] + place.checksum(packed[:52]).to_bytes(4, "little") + data[FRAME_HEADER_BYTES:]


def seal_head(data: bytes) -> bytes:
    if len(data) < HEADER_BYTES:
        return data
    return data[:60] + zlib.crc32(data[:60]).to_bytes(4, "little") + data[HEADER_BYTES:]


def seal_store(data: bytes) -> bytes:
    """The header of the segment, and one frame after the other as far as their lengths lead."""
    whole, at = store(True)[:AT], AT
    header = decode_header(whole)
    place = Place(header.id, header.tag, checksum(header.algorithm))
    while at + FRAME_HEADER_BYTES <= len(data):
        fields = HEADER.unpack_from(data, at)
        size = max(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + fields[5] + fields[6] + BLOCK_BYTES - 1 & ~7)
        whole += seal_frame(data[at : at + size], place, at)
        at += size
    return whole
