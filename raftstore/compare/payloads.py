"""Payloads that no engine can compress away, made before the clock runs."""

from __future__ import annotations

import random
from functools import cache
from typing import Final

POOL_BYTES: Final = 1 << 20
POOL_MIN: Final = 64
"""Payloads of one size: enough for a call, and more bytes than the window of a fast compressor."""


@cache
def _pool(size: int) -> list[bytes]:
    source = random.Random(size)
    return [source.randbytes(size) for _ in range(max(POOL_MIN, POOL_BYTES // size))]


class Payloads:
    """Payloads of `size` bytes, `count` at a time."""

    def __init__(self, size: int, count: int) -> None:
        self._pool = _pool(size)
        self._count = count
        self._next = 0

    def take(self) -> list[bytes]:
        """The next ones; they come again after about a mebibyte."""
        if self._next + self._count > len(self._pool):
            self._next = 0
        taken = self._pool[self._next : self._next + self._count]
        self._next += self._count
        return taken
