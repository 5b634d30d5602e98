"""The format in which RocksDB writes its manifests and its write-ahead logs, as far as mending needs it.

A file is a row of blocks of 32 KiB, a record is one fragment or several, and a fragment never crosses from a
block into the next:

| bytes | what |
|---|---|
| 4 | CRC-32C of type, log number and body, rotated and shifted |
| 2 | length of the body |
| 1 | type: a whole record, its first, a middle or its last fragment; 4 more: with a log number |
| 4 | only with a log number: that of the file, so that what it held before it was recycled does not count |
| … | body |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from struct import Struct
from typing import BinaryIO, Final, cast

import msgspec

BLOCK: Final = 32 << 10
_HEADER: Final = Struct("<IHB")
HEADER_BYTES: Final = _HEADER.size
"""Of a fragment without a log number."""
_LOG_NUMBER: Final = Struct("<I")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_NUMBERED: Final = 4
_MASK_DELTA: Final = 0xA282EAD8


def are_readable() -> bool:
    """Whether the library `crc32c` is installed, without which no record can be told from what is none."""
    return find_spec("crc32c") is not None


class Fragment(msgspec.Struct, frozen=True):
    """One that is whole: its checksum is right."""

    kind: int
    body: bytes
    stop: int
    """Where it ends in its block."""


def whole_records(stream: BinaryIO, number: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The records from the beginning to the first place that holds none: where each ends, and its body.

    Reads a block at a time. `number`: of the log that the file is; records of another one end it.
    """
    start, begun = 0, None
    while block := stream.read(BLOCK):
        offset = 0
        while offset + HEADER_BYTES <= len(block):
            fragment = fragment_at(block, offset, number)
            if fragment is None:
                return
            offset = fragment.stop
            if fragment.kind in (_FULL, _FIRST):
                begun = bytearray()
            if begun is None:
                return
            begun += fragment.body
            if fragment.kind in (_FULL, _LAST):
                yield start + offset, bytes(begun)
                begun = None
        start += BLOCK


def fragment_at(block: bytes, offset: int, number: int | None = None) -> Fragment | None:
    """The fragment that begins at `offset` of a block."""
    if offset + HEADER_BYTES > len(block):
        return None
    checksum, length, kind = _HEADER.unpack_from(block, offset)
    numbered = _NUMBERED < kind <= _NUMBERED + _LAST
    begin = offset + HEADER_BYTES + numbered * _LOG_NUMBER.size
    stop = begin + length
    if not _FULL <= kind <= _NUMBERED + _LAST or stop > len(block):
        return None
    if numbered and number is not None and _LOG_NUMBER.unpack_from(block, begin - 4)[0] != number % (1 << 32):
        return None
    if checksum != _masked(_crc32c()(block[offset + 6 : stop])):
        return None
    return Fragment(kind - _NUMBERED * numbered, block[begin:stop], stop)


def stated_bytes(torn: bytes) -> int:
    """How long the fragment was to be, without a log number, whose first bytes these are."""
    return HEADER_BYTES + _HEADER.unpack_from(torn)[1] if len(torn) >= HEADER_BYTES else 0


def has_fragment(data: bytes, start: int) -> bool:
    """Whether a whole fragment begins anywhere from `start` on, in its place or not."""
    for first in range(start - start % BLOCK, len(data), BLOCK):
        block = data[first : first + BLOCK]
        if any(fragment_at(block, offset) is not None for offset in range(max(0, start - first), len(block))):
            return True
    return False


@cache
def _crc32c() -> Callable[[bytes], int]:
    return cast("Callable[[bytes], int]", import_module("crc32c").crc32c)


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
