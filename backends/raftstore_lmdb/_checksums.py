"""The checksums a store can use for its entries and blobs. Which one is recorded in its bounds record."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Final, cast

from raftstore.errors import BackendMissingError, FormatError

Checksum = Callable[[bytes, int], int]
"""The 32-bit checksum of some bytes, continuing from an earlier one (0: from the start)."""

CRC32: Final = 1
"""zlib's CRC-32, always there."""
CRC32C: Final = 2
"""CRC-32C, an instruction of the processor, through the library `crc32c`."""
NAMES: Final = {CRC32: "CRC-32", CRC32C: "CRC-32C"}


def preferred() -> int:
    """The number of the fastest checksum that is installed: what a new store gets."""
    return CRC32C if find_spec("crc32c") is not None else CRC32


def checksum(number: int) -> Checksum:
    """The checksum of that number.

    Raises `BackendMissingError` if its library is absent, `FormatError` if the number is unknown.
    """
    if number == CRC32:
        return zlib.crc32
    if number != CRC32C:
        raise FormatError(f"the store uses checksum {number}; this version knows {sorted(NAMES)}")
    try:
        return cast("Checksum", import_module("crc32c").crc32c)
    except ImportError as error:
        raise BackendMissingError("the store uses CRC-32C: pip install crc32c") from error
