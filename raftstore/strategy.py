"""Persistence strategies: *when* a write is acknowledged, and where reads come from.

A strategy is a value. What follows from it is decided in one place each: visibility in `visible.py`,
acknowledgement in `log.py`. It knows neither the flush policy nor the backend.
"""

from __future__ import annotations

import msgspec


class DiskFirst(msgspec.Struct, frozen=True):
    """A write is acknowledged, and visible to reads, when it is durable. Reads go through a bounded cache."""


class MemFirst(msgspec.Struct, frozen=True):
    """An append is acknowledged from memory and flushed behind; the log's working set stays in memory.

    After a crash the log is the state after some prefix of the accepted writes, which includes everything
    at or below the durable index. With `sync_on_commit`, `commit_to` flushes and returns when its index is
    durable.
    """

    sync_on_commit: bool = False


Strategy = DiskFirst | MemFirst
