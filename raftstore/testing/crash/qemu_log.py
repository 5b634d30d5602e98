"""The log of the kernel's dm-log-writes: what reached a disk, in the order in which it became durable.

A write stands in it when the flush after it has ended, and a mark where it was set. So what is before a mark
is just what was sure to be on the disk then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from raftstore.testing.crash.block_record import BlockWrite
from raftstore.testing.crash.events import Event, Kind

SUPER: Final = Struct("<QQQI")
"""The first sector: magic, version, how many entries, and the size of a sector."""
ENTRY: Final = Struct("<QQQQ")
"""A sector before the data of each write: where, how many sectors, flags, the length of a mark."""
MAGIC: Final = 0x6A736677736872
VERSION: Final = 1
FLUSH: Final = 1
"""All before it is durable before it …"""
FUA: Final = 2
"""… and itself is when it ends."""
DISCARD: Final = 4
"""It has no data: what was there may be anything now."""
MARK: Final = 8
DISK_SECTOR: Final = 512
"""In which places and lengths are counted, whatever the size of a sector."""
EVENT: Final = "event"
"""How marks of ours begin. A mark is one word."""


class LogError(Exception):
    """The log is not one, or is cut short; says why."""


def mark_of(kind: Kind, step: int, value: int) -> str:
    """The mark that tells an event."""
    return f"{EVENT}:{int(kind)}:{step}:{value}"


def read_log(file: Path) -> tuple[list[Event], list[BlockWrite]]:
    """The events, and the writes and flushes, each with the number of events before it. Raises `LogError`."""
    events, writes = list[Event](), list[BlockWrite]()
    for sector, flags, data in _entries(file):
        if flags & MARK:
            if (event := _event_of(data)) is not None:
                events.append(event)
            continue
        told = len(events)
        if flags & FLUSH:
            writes.append(BlockWrite(told, 0, b""))
        if data:
            writes.append(BlockWrite(told, sector * DISK_SECTOR, data))
            if flags & FUA:  # a write that is not yet durable is not yet in the log, so this is for this one
                writes.append(BlockWrite(told, 0, b""))
    return events, writes


def _entries(file: Path) -> Iterator[tuple[int, int, bytes]]:
    """Place in sectors, flags and data of each."""
    with file.open("rb") as stream:
        head = stream.read(DISK_SECTOR)
        if len(head) < DISK_SECTOR:
            raise LogError("it is empty")
        magic, version, count, size = SUPER.unpack_from(head)
        if (magic, version) != (MAGIC, VERSION):
            raise LogError(f"it begins with {magic:#x}, version {version}")
        stream.seek(size)
        for number in range(count):
            head = stream.read(size)
            if len(head) < size:
                raise LogError(f"it ends at entry {number} of {count}")
            sector, sectors, flags, marked = ENTRY.unpack_from(head)
            if flags & MARK:
                yield sector, flags, head[ENTRY.size : ENTRY.size + marked]
                continue
            length = 0 if flags & DISCARD else sectors * size
            data = stream.read(length)
            if len(data) < length:
                raise LogError(f"it ends in entry {number} of {count}")
            yield sector * (size // DISK_SECTOR), flags, data


def _event_of(mark: bytes) -> Event | None:
    words = mark.rstrip(b"\0").decode(errors="replace").split(":")
    if words[0] != EVENT:
        return None
    kind, step, value = map(int, words[1:])
    return Event(Kind(kind), step, value)
