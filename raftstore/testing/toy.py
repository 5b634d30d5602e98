"""The smallest file-backed `DiskBackend` that keeps the contract: something to break with real kills.

Two files take turns. One frame a write: generation, length, checksum, and the batch as MessagePack. When a
file is full, the other one is begun anew, over its old bytes: its first frame is the whole state, and a
generation of its own tells its frames from the stale ones behind them. Everything is held in memory and read
at opening: it is not meant for use.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from raftstore.backend import BackendStats, Examination, Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore.testing.model import Model

HEADER = struct.Struct("<4sIQI")
MAGIC = b"toy1"
FULL_BYTES = 256 << 10
"""A file that has reached this takes no more frames."""

_decoder = msgspec.msgpack.Decoder(WriteBatch)


class ToyBackend:
    """See `raftstore.backend.DiskBackend`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # guards the model
        self._model, self._generation, self._end = self._load(path)
        self._recovery = self._model.recovery()
        self._fds = [os.open(path / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("even", "odd")]
        os.fsync(self._fds[self._generation % 2])

    @property
    def recovery(self) -> Recovery:
        return self._recovery

    def write(self, batch: WriteBatch) -> None:
        if batch.number == self._model.number:
            return
        if self._end >= FULL_BYTES:
            self._begin_the_other_file()
        self._append(batch)
        after = self._model.copy()
        after.force(batch)
        self._model = after

    def _begin_the_other_file(self) -> None:
        model = self._model
        whole = WriteBatch(
            model.number, 1, model.anchor, list(model.entries.values()), model.hard_state, model.meta
        )
        end = self._put(whole, self._generation + 1, 0)
        self._generation, self._end = self._generation + 1, end

    def _append(self, batch: WriteBatch) -> None:
        self._end = self._put(batch, self._generation, self._end)

    def _put(self, batch: WriteBatch, generation: int, offset: int) -> int:
        """Write one durable frame. Returns the offset after it."""
        body = msgspec.msgpack.encode(batch)
        checksum = zlib.crc32(body, generation & 0xFFFFFFFF)
        frame = memoryview(HEADER.pack(MAGIC, len(body), generation, checksum) + body)
        while frame:
            count = os.pwrite(self._fds[generation % 2], frame, offset)
            frame, offset = frame[count:], offset + count
        os.fsync(self._fds[generation % 2])
        return offset

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        return self._model.read(start, stop, bytes_max)

    def maintain(self) -> None:
        """There is no upkeep."""

    def stats(self) -> BackendStats:
        size = sum(os.fstat(fd).st_size for fd in self._fds)
        return BackendStats(bytes_on_disk=size, bytes_reclaimable=size - self._end, files=2)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        model, _, end = cls._load(path)
        checked = len(model.entries) if deep else 0
        stats = BackendStats(bytes_on_disk=end, bytes_reclaimable=0, files=2)
        return Examination(model.recovery(), stats, entries_checked=checked)

    @classmethod
    def _load(cls, path: Path) -> tuple[Model, int, int]:
        """The state, generation and end of the file with the highest generation."""
        found = [cls._replay(path / name) for name in ("even", "odd") if (path / name).exists()]
        return max(found, key=lambda each: each[1:], default=(Model(), 0, 0))

    @classmethod
    def _replay(cls, file: Path) -> tuple[Model, int, int]:
        model, generation, end = Model(), 0, 0
        for generation, batch, end in cls._frames(file.read_bytes()):  # noqa: B007  # the last ones count
            model.force(batch)
        return model, generation, end

    @classmethod
    def _frames(cls, data: bytes) -> Iterator[tuple[int, WriteBatch, int]]:
        """Generation, batch and end of each frame, up to the first that is torn or of another generation."""
        first, offset = None, 0
        while (frame := frame_at(data, offset)) and first in (None, frame[0]):
            first, _, offset = frame
            yield frame


def frame_at(data: bytes, offset: int) -> tuple[int, WriteBatch, int] | None:
    """Generation, batch and end of the valid frame at `offset`, or None."""
    if offset + HEADER.size > len(data):
        return None
    magic, length, generation, checksum = HEADER.unpack_from(data, offset)
    body = data[offset + HEADER.size : offset + HEADER.size + length]
    if magic != MAGIC or len(body) < length or zlib.crc32(body, generation & 0xFFFFFFFF) != checksum:
        return None
    return generation, _decoder.decode(body), offset + HEADER.size + length
