"""What was written to a recorded disk: the writes and flushes, in the order in which they ended."""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from typing import Final

import msgspec

HEAD: Final = Struct("<BxxxIQQ")
WRITE: Final = 1
FLUSH: Final = 2


class BlockWrite(msgspec.Struct, frozen=True):
    """One write, in whole sectors; or a flush, after which all before it is durable: no data."""

    told: int
    """How many events the driven process had told before it ended."""
    offset: int
    data: bytes

    @property
    def is_flush(self) -> bool:
        return not self.data


def read_record(file: Path) -> list[BlockWrite]:
    """What the file says; what was cut short at its end is left out."""
    data, at, found = file.read_bytes(), 0, list[BlockWrite]()
    while at + HEAD.size <= len(data):
        kind, told, offset, length = HEAD.unpack_from(data, at)
        start, at = at + HEAD.size, at + HEAD.size + length
        if at > len(data):
            break
        if kind == FLUSH or length:
            found.append(BlockWrite(told, offset, data[start:at]))
    return found
