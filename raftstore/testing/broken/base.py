"""What the broken backends have in common: a sound `MemoryBackend`, of which each spoils one thing."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from raftstore.backend import Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore.testing.memory import MemoryBackend, MemoryDisk


class BrokenBackend(MemoryBackend):
    """Trusts its caller, so that a test fails by its own comparison and not by a batch that does not fit."""

    caught_by: ClassVar[tuple[str, ...]] = ()
    """The tests of `BackendSuite` that must fail."""
    disk_class: ClassVar[type[MemoryDisk]] = MemoryDisk

    def _check_batch(self, batch: WriteBatch) -> None:
        pass

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        """As a backend that looks at what it has and never at what it ought to have."""
        if start < self.disk.state.first_index:
            raise LookupError(start)
        entries = self.disk.state.entries
        found = [entries[index] for index in range(start, stop) if index in entries]
        return found[: fitting(found, bytes_max)]

    def _recovered(self, **changes: object) -> Recovery:
        """What a sound backend would find, with `changes`."""
        return msgspec.structs.replace(super()._recover(), **changes)

    def _done(self, batch: WriteBatch, **changes: object) -> None:
        """Perform `batch`, with `changes`."""
        super()._perform(msgspec.structs.replace(batch, **changes))


def fitting(entries: list[Entry], bytes_max: int | None) -> int:
    """How many of `entries` fit: at least one."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.data)
        if count and bytes_max is not None and size > bytes_max:
            return count
    return len(entries)
