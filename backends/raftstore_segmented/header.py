"""The first 128 bytes of a segment file: what it is, and where its index stands.

Segment header, 64 bytes, written once, before the file gets its name:

| offset | bytes | field |
|---|---|---|
| 0 | 8 | magic `RAFTSEG\\n` |
| 8 | 2 | format version, 1 |
| 10 | 1 | checksum algorithm of everything but this header: 1 CRC32C, 2 CRC-32 |
| 11 | 1 | zero |
| 12 | 4 | tag: random, repeated in every frame of the segment |
| 16 | 8 | segment id, from 1, consecutive, never used for two contents |
| 24 | 8 | bytes the file was prepared with; it may be longer, never shorter |
| 32 | 28 | zero |
| 60 | 4 | CRC-32 of bytes 0..59 |

Pointer, 32 bytes at 64, rewritten in place; the rest up to 128 is zero. All zeros: there is no index yet.

| offset | bytes | field |
|---|---|---|
| 0 | 4 | magic `RPTR` |
| 4 | 4 | flags: 1 closed (nothing follows the index), 2 sealed (a later segment has begun) |
| 8 | 8 | segment id |
| 16 | 8 | offset of the newest index frame |
| 24 | 4 | tag |
| 28 | 4 | CRC-32 of bytes 0..27 |

All numbers are little-endian. A damaged pointer costs a scan and nothing else.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import Final

import msgspec

from raftstore.errors import FormatError

VERSION: Final = 1
HEADER_BYTES: Final = 64
POINTER_AT: Final = 64
POINTER_BYTES: Final = 32
FRAMES_AT: Final = 128
"""Where the first frame of every segment stands."""

CLOSED: Final = 1
SEALED: Final = 2

_MAGIC: Final = b"RAFTSEG\n"
_HEADER: Final = Struct("<8sHBxIQQ28x")
_POINTER_MAGIC: Final = b"RPTR"
_POINTER: Final = Struct("<4sIQQI")
_CRC: Final = Struct("<I")


class MalformedError(Exception):
    """Bytes that are not what this package writes. Says why; the caller knows where."""


class SegmentHeader(msgspec.Struct, frozen=True, gc=False):
    """What a segment says of itself."""

    id: int
    tag: int
    algorithm: int
    size: int


class Pointer(msgspec.Struct, frozen=True, gc=False):
    """Where a segment's newest index stands, and what that means."""

    offset: int
    flags: int


def encode_header(header: SegmentHeader) -> bytes:
    """Header and an empty pointer: the first `FRAMES_AT` bytes."""
    body = _HEADER.pack(_MAGIC, VERSION, header.algorithm, header.tag, header.id, header.size)
    return (body + _CRC.pack(zlib.crc32(body))).ljust(FRAMES_AT, b"\0")


def decode_header(data: bytes) -> SegmentHeader:
    """Raises `FormatError` for another version, `MalformedError` for anything but a header."""
    if len(data) < HEADER_BYTES or not data.startswith(_MAGIC):
        raise MalformedError("no segment header")
    _, version, algorithm, tag, segment_id, size = _HEADER.unpack_from(data)
    if version != VERSION:
        raise FormatError(
            f"written in format version {version}; this version reads {VERSION}: use the one that wrote it"
        )
    if zlib.crc32(data[:60]) != _CRC.unpack_from(data, 60)[0]:
        raise MalformedError("checksum of the segment header does not match")
    return SegmentHeader(segment_id, tag, algorithm, size)


def encode_pointer(header: SegmentHeader, pointer: Pointer) -> bytes:
    """The bytes to write at `POINTER_AT`."""
    body = _POINTER.pack(_POINTER_MAGIC, pointer.flags, header.id, pointer.offset, header.tag)
    return body + _CRC.pack(zlib.crc32(body))


def decode_pointer(header: SegmentHeader, data: bytes) -> Pointer | None:
    """The pointer in a segment's first bytes; None if there is none, or none that can be trusted."""
    body = data[POINTER_AT : POINTER_AT + POINTER_BYTES]
    if len(body) < POINTER_BYTES or zlib.crc32(body[:28]) != _CRC.unpack_from(body, 28)[0]:
        return None
    magic, flags, segment_id, offset, tag = _POINTER.unpack_from(body)
    if (magic, segment_id, tag) != (_POINTER_MAGIC, header.id, header.tag):
        return None
    return Pointer(offset, flags)
