"""The contract between the log and its disk: `DiskBackend`, and the values that cross it.

A backend is a class that an entry point of the group `raftstore.backends` names. It is called
`Backend(path, **options)`: `path` is an existing directory of its own (0700), held under the store's
lock, empty when the store is new; its keyword-only options are the keys of `[raftstore.backends.NAME]`.
Whether a class keeps the contract is judged by `raftstore.testing.BackendSuite`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from raftstore.batch import WriteBatch
from raftstore.entry import NO_ENTRY, Entry, LogId


class Recovery(msgspec.Struct, frozen=True):
    """What opening found. All of it is durable before it is reported."""

    anchor: LogId = NO_ENTRY
    """The id of the last purged entry; the first index is one above."""
    last: LogId = NO_ENTRY
    """The id of the last entry; the anchor if there is none."""
    term_runs: Sequence[LogId] = ()
    """The id of the first *live* entry of each run of equal terms, ascending."""
    hard_state: bytes | None = None
    meta: bytes | None = None
    number: int = 0
    """Of the last write whose effect is there; 0 in a new store."""
    end_is_proved: bool = False
    """True if the backend itself can tell that no returned write is missing after `number`."""
    tail_is_visible: bool = True
    """False if the backend may have dropped writes after `number` without noticing: then nothing but
    `end_is_proved`, or a clean close, says that none is missing."""
    torn_bytes: int = 0
    """Bytes of an unfinished last write that were dropped."""
    kept_at: Path | None = None
    """Where a copy of the dropped bytes is, if there is one."""
    bytes_read: int = 0
    """What opening had to read. It does not grow with the log."""
    notes: Sequence[str] = ()
    """What an operator should know, one sentence each."""


class BackendStats(msgspec.Struct, frozen=True):
    """The size of a store on disk. `bytes_reclaimable` of it hold nothing that is live."""

    bytes_on_disk: int
    bytes_reclaimable: int
    files: int


class Damage(msgspec.Struct, frozen=True):
    """One place where stored bytes are not what was written. None where a part is not known."""

    message: str
    file: str | None = None
    offset: int | None = None
    first_index: int | None = None
    last_index: int | None = None


class Examination(msgspec.Struct, frozen=True):
    """What looking at a store, without opening it, found."""

    recovery: Recovery | None
    """What opening would report, or None if it would refuse."""
    stats: BackendStats
    entries_checked: int = 0
    damage: Sequence[Damage] = ()
    """Empty if every checksum, index and term that was looked at is sound. A torn tail is no damage."""
    details: dict[str, object] = {}
    """For people and scripts: the backend's own facts, JSON-able."""


class DiskBackend(Protocol):
    """Stable storage for one Raft log, its hard state and a little metadata.

    `write` is atomic and durable: when it returns, the whole batch survives power loss; after a crash
    the storage holds the result of some prefix of the writes, including every write that returned.
    Opening makes durable what it accepts before reporting it. The caller has checked the batch (runs are
    contiguous, terms do not decrease, bounds hold), makes one `write`, `maintain` or `close` at a time,
    from any thread, and may call `read` and `stats` from several threads beside them.

    Opening raises `CorruptionError` for damage that is not a torn tail, `FormatError` for an unknown or
    newer version, `BackendMissingError` if a library that the store needs is absent.
    """

    @property
    def recovery(self) -> Recovery:
        """What opening found; it never changes afterwards."""
        ...

    def write(self, batch: WriteBatch) -> None:
        """Make the batch durable, as one atomic change.

        `batch.number` grows from write to write. A write that an interrupt cut short is repeated with the
        same batch; if it was done already, nothing happens.

        Raises `OSError(ENOSPC)` only if no part of the batch will ever appear and the backend can go on.
        A batch without entries does not fail so: the backend keeps a reserve for it. After any other
        exception the outcome is unknown, and the caller does nothing more but `read`, `stats` and `close`.
        """
        ...

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        """The entries of [start, stop), ascending; both lie within the live log and start < stop.

        Cut where the payloads together would exceed `bytes_max` bytes, but at least one entry. Every
        returned byte was checked: damage is `CorruptionError`. A read that runs beside a write that drops
        or replaces some of these entries may give the old ones, the new ones or raise `LookupError`; the
        caller then repeats it.
        """
        ...

    def maintain(self) -> None:
        """Do upkeep that need not sit on the path of a write: marks, freeing space, compaction.

        Called when the log is idle and when asked, in bounded pieces. Changes nothing that `recovery` of a
        later opening reports, except `end_is_proved`. May raise as `write` does.
        """
        ...

    def stats(self) -> BackendStats:
        """The size of the store now."""
        ...

    def close(self) -> None:
        """Release everything; what was written stays. Never raises for a failed disk. Twice is fine."""
        ...

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        """Look at the directory of a store that nobody has open, without changing a byte of it.

        `deep` reads and checks every entry; otherwise only what opening would. Survives any damage: what
        could kill the process is looked at from a child process.
        """
        ...
