"""The disk below a `FaultFs`, for power cuts after a fault."""

from __future__ import annotations

import msgspec

from raftstore.testing.crash.disk import Disk
from raftstore.testing.crash.fuse_diary import KEPT
from raftstore.testing.crash.record import Op, Record


class FaultyDisk(Disk):
    """A `Disk` that knows of syncs whose pages stay dirty; `sync_failed` says that any fault has happened."""

    def changes(self, record: Record) -> bool:
        return super().changes(record) and not (record.error and record.flags & KEPT)

    def apply(self, record: Record) -> None:
        if record.error:
            self.sync_failed = True
        if record.op is not Op.SYNC or not record.error or not record.flags & KEPT:
            super().apply(msgspec.structs.replace(record, flags=record.flags & ~KEPT))
