"""What a log tells of itself: how it was found at opening, and how it is now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec


class RecoveryReport(msgspec.Struct, frozen=True):
    """What opening found."""

    created: bool
    """The store was made by this opening."""
    first_index: int
    last_index: int
    entries: int
    bytes_dropped: int
    """Of an unfinished last write: normal after a crash."""
    kept_at: Path | None
    """Where a copy of the dropped bytes is."""
    acknowledged_missing: Literal["no", "unknown", "yes"]
    """Whether acknowledged entries may be missing: "unknown" where that cannot be told."""
    bytes_read: int
    """What the backend read to open; it does not grow with the log."""
    seconds: float
    """From the call of `open` to its return."""
    notes: Sequence[str] = ()
    """What an operator should know, one sentence each."""


class Status(msgspec.Struct, frozen=True):
    """One snapshot of every number worth showing. Bytes, entries, milliseconds."""

    state: Literal["open", "full", "failed"]
    """full: the disk has no room, acknowledged appends wait for it. failed: reads only, open again."""
    first_index: int
    last_index: int
    durable_index: int
    commit_index: int
    next_index: int
    term: int
    voted_for: str | None
    pending_entries: int
    pending_bytes: int
    """Accepted and not durable, with what an entry costs in memory."""
    memory_bytes: int
    """Entries held in memory: the working set, or the cache."""
    flushes: int
    """Writes handed to the backend, each one durable when it returned."""
    flushed_entries: int
    flush_p50_ms: float
    flush_p99_ms: float
    flush_max_ms: float
    """Of the last 1024 flushes."""
    cache_hits: int
    cache_misses: int
    bytes_on_disk: int
    bytes_reclaimable: int
    files: int
