"""A disk as its sectors: what is durable on it, what is not yet, and what a power cut may leave."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Final

from raftstore.testing.crash.block_record import BlockWrite

SECTOR: Final = 512
"""What a disk writes at once, or not at all."""
CHUNK: Final = 64 << 10
_ZEROS: Final = bytes(SECTOR)
_JOURNAL: Final = bytes.fromhex("c03b399800000004")
"""How the superblock of an ext4 journal begins."""

Sectors = dict[int, bytes]
"""By number. What is not there is zero."""


class BlockDisk:
    """The state of a recorded disk, which `apply` moves on."""

    def __init__(self, image: Path) -> None:
        """As it is in the file `image`: all of that is durable."""
        self.size = image.stat().st_size
        self._durable: Sectors = dict(_sectors_of(image))
        self._name = _name(self._durable.items())
        self.pending: list[BlockWrite] = []
        """Writes since the last flush, any of which may be lost."""

    def apply(self, write: BlockWrite) -> None:
        """The next write, or a flush."""
        if not write.is_flush:
            self.pending.append(write)
            return
        kept = _split(self.pending)
        self._name = self._name_with(kept)
        for number, data in kept.items():
            if data == _ZEROS:
                self._durable.pop(number, None)
            else:
                self._durable[number] = data
        self.pending = []

    def left_by(self, kept: Sectors) -> BlockImage:
        """What a power cut leaves if of the pending sectors just these arrive."""
        return BlockImage(self.size, self._durable, kept, self._name_with(kept))

    def choices(self, random: Random, count: int) -> Iterator[Sectors]:
        """`count` of the ways in which pending writes may arrive: each whole, in part, or not at all."""
        if not self.pending:
            yield {}
            return
        ways = (_none, _all, _some_first, _all_but_one, _only_one, _some, _one_torn, _sectors_at_random)
        for way in random.sample(ways, min(count, len(ways))):
            yield _with_whole_superblocks(way(self.pending, random), self.pending)

    def _name_with(self, changed: Sectors) -> int:
        old = [(number, self._durable[number]) for number in changed if number in self._durable]
        return self._name ^ _name(old) ^ _name((n, data) for n, data in changed.items() if data != _ZEROS)


class BlockImage:
    """One disk that a power cut may leave. Valid until the `BlockDisk` moves on."""

    def __init__(self, size: int, durable: Mapping[int, bytes], kept: Sectors, name: int) -> None:
        self._size = size
        self._durable = durable
        self._kept = kept
        self.name = name
        """Equal for equal disks, in every process."""

    def write(self, file: Path) -> None:
        """Make `file` that disk."""
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, self._size)
            for number, data in _runs({**self._durable, **self._kept}):
                os.pwrite(fd, data, number * SECTOR)
        finally:
            os.close(fd)


def _sectors_of(image: Path) -> Iterator[tuple[int, bytes]]:
    """Those that are not zero."""
    zeros = bytes(CHUNK)
    with image.open("rb") as stream:
        for start in range(0, image.stat().st_size, CHUNK):
            chunk = stream.read(CHUNK)
            if chunk == zeros:
                continue
            for at in range(0, len(chunk), SECTOR):
                if (data := chunk[at : at + SECTOR]) != _ZEROS:
                    yield (start + at) // SECTOR, data


def _runs(sectors: Sectors) -> Iterator[tuple[int, bytes]]:
    """The sectors as few long writes: a first number, and the data."""
    first, parts = 0, list[bytes]()
    for number in sorted(sectors):
        if parts and number != first + len(parts):
            yield first, b"".join(parts)
            parts = []
        if not parts:
            first = number
        parts.append(sectors[number])
    if parts:
        yield first, b"".join(parts)


def _name(sectors: Iterable[tuple[int, bytes]]) -> int:
    """Of a set of sectors, whatever their order."""
    name = 0
    for number, data in sectors:
        digest = hashlib.blake2b(data, digest_size=8, salt=number.to_bytes(8, "little")).digest()
        name ^= int.from_bytes(digest, "little")
    return name


# --- the ways in which writes arrive -----------------------------------------------------------------------


def _split(writes: Iterable[BlockWrite]) -> Sectors:
    """Their sectors, later ones over earlier ones."""
    sectors: Sectors = {}
    for write in writes:
        first = write.offset // SECTOR
        for at in range(0, len(write.data), SECTOR):
            sectors[first + at // SECTOR] = write.data[at : at + SECTOR]
    return sectors


def _with_whole_superblocks(kept: Sectors, writes: list[BlockWrite]) -> Sectors:
    """Without the half of a superblock: ext4 takes for granted that its two sectors are written as one."""
    written: dict[int, set[tuple[bytes, bytes]]] = {}
    for write in writes:
        sectors = _split([write])
        for number, data in sectors.items():
            if _begins_superblock(number, data) and number + 1 in sectors:
                written.setdefault(number, set()).add((data, sectors[number + 1]))
    for number, pairs in written.items():
        if (kept.get(number), kept.get(number + 1)) not in pairs:
            kept.pop(number, None)
            kept.pop(number + 1, None)
    return kept


def _begins_superblock(number: int, data: bytes) -> bool:
    """Whether the sector is the first one of ext4's superblock, or of its journal's."""
    return (number == 2 and data[56:58] == b"\x53\xef") or data.startswith(_JOURNAL)


def _none(_writes: list[BlockWrite], _random: Random) -> Sectors:
    return {}


def _all(writes: list[BlockWrite], _random: Random) -> Sectors:
    return _split(writes)


def _some_first(writes: list[BlockWrite], random: Random) -> Sectors:
    return _split(writes[: random.randrange(len(writes))])


def _all_but_one(writes: list[BlockWrite], random: Random) -> Sectors:
    lost = random.randrange(len(writes))
    return _split([*writes[:lost], *writes[lost + 1 :]])


def _only_one(writes: list[BlockWrite], random: Random) -> Sectors:
    return _split([random.choice(writes)])


def _some(writes: list[BlockWrite], random: Random) -> Sectors:
    share = random.choice((0.2, 0.5, 0.8))
    return _split([write for write in writes if random.random() < share])


def _one_torn(writes: list[BlockWrite], random: Random) -> Sectors:
    """Everything before one write, and only its first sectors, or only its last."""
    torn = random.randrange(len(writes))
    parts = list(_split([writes[torn]]).items())
    middle = random.randrange(len(parts))
    kept = parts[:middle] if random.random() < 0.5 else parts[middle:]
    return {**_split(writes[:torn]), **dict(kept)}


def _sectors_at_random(writes: list[BlockWrite], random: Random) -> Sectors:
    share = random.choice((0.2, 0.5, 0.8))
    return {number: data for number, data in _split(writes).items() if random.random() < share}
