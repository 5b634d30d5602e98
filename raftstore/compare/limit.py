"""The limit: what the disk itself gives to the simplest program that makes its writes durable.

One `pwrite` and one `fdatasync` a write, into a file that was filled with zeros before, so that no write
needs a new block. The loop is plain Python; a loop in C is a little faster with small writes.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Final

from raftstore.compare.budget import Budget

FILE_BYTES: Final = 32 << 20
STEP_BYTES: Final = 4 << 20
ALIGNMENT: Final = 8


class BareDisk:
    """A zero-filled file in `directory`, written from its beginning to its end, again and again."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "bare"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._offset = 0
        try:
            for start in range(0, FILE_BYTES, STEP_BYTES):
                os.pwrite(self._fd, bytes(STEP_BYTES), start)
            os.fsync(self._fd)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> BareDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def seconds_per_write(self, size: int, budget: Budget) -> float:
        """How long one durable write of `size` bytes takes, on average over the budget."""
        data = random.Random(size).randbytes(size)
        writes, started = 0, perf_counter()
        for _ in budget.calls(size):
            self.write(data)
            writes += 1
        return (perf_counter() - started) / writes

    def close(self) -> None:
        os.close(self._fd)
        self._path.unlink()

    def write(self, data: bytes) -> None:
        """One durable write."""
        if self._offset + len(data) > FILE_BYTES:
            self._offset = 0
        os.pwrite(self._fd, data, self._offset)
        os.fdatasync(self._fd)
        self._offset += -(-len(data) // ALIGNMENT) * ALIGNMENT
