"""The checksums a segment may be written with. Which one is recorded in its header."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Final, cast

from raftstore.errors import BackendMissingError, FormatError

Checksum = Callable[[bytes | bytearray | memoryview], int]
"""Bytes in, an unsigned 32-bit number out."""

CRC32C: Final = 1
"""Castagnoli's, through the library `crc32c`: 10 times as fast where the processor knows it."""
CRC32: Final = 2
"""zlib's."""


def available() -> int:
    """The best algorithm that can be used here: what a new store is written with."""
    return CRC32 if _crc32c() is None else CRC32C


def checksum(algorithm: int) -> Checksum:
    """The function. Raises `BackendMissingError` if its library is absent, `FormatError` if unknown."""
    if algorithm == CRC32:
        return zlib.crc32
    if algorithm != CRC32C:
        raise FormatError(
            f"checksum algorithm {algorithm} is unknown; this version knows {CRC32C} and {CRC32}"
        )
    function = _crc32c()
    if function is None:
        raise BackendMissingError("this store has CRC32C checksums: pip install 'raftstore[segmented]'")
    return function


def _crc32c() -> Checksum | None:
    try:
        return cast("Checksum", importlib.import_module("crc32c").crc32c)
    except ImportError:
        return None
