"""Every error this library raises on purpose. Each says what to do next and keeps its cause."""

from __future__ import annotations

from pathlib import Path


class RaftStoreError(Exception):
    """The base of all errors of this library."""


class PurgedError(RaftStoreError, LookupError):
    """The entry was purged after a snapshot. Send the snapshot instead."""


class GapError(RaftStoreError):
    """The index does not follow what the log holds. Start at `next_index`."""


class TermError(RaftStoreError):
    """A term would go down. A leader that sees this was deposed."""


class CommittedError(RaftStoreError):
    """What is committed cannot be taken back. The caller's log and this one have diverged: stop the node."""


class VoteError(RaftStoreError):
    """This node has already voted for somebody else in this term."""


class TruncatedError(RaftStoreError):
    """A truncation or a reset took the entries back before they were durable. Propose them again."""


class EntryTooLargeError(RaftStoreError):
    """An entry, a call's entries together or the metadata exceed their limit. Nothing was changed."""


class BackpressureError(RaftStoreError):
    """More is waiting for the disk, or held in memory, than the limits allow. Try again later, or purge."""


class CorruptionError(RaftStoreError):
    """Stored bytes are not what was written. The damage is named; nothing was dropped or repaired.

    `file` and `offset` (bytes) say where it was found, `first_index` and `last_index` which entries are
    concerned; each is None where it is not known. Rebuild the node from its peers, or restore a copy.
    """

    def __init__(
        self,
        message: str,
        *,
        file: Path | None = None,
        offset: int | None = None,
        first_index: int | None = None,
        last_index: int | None = None,
    ) -> None:
        where = [f"file {file}"] if file is not None else []
        where += [f"offset {offset}"] if offset is not None else []
        where += [f"indexes {first_index}..{last_index}"] if first_index is not None else []
        super().__init__(f"{message} ({', '.join(where)})" if where else message)
        self.file = file
        self.offset = offset
        self.first_index = first_index
        self.last_index = last_index


class StoreFailedError(RaftStoreError):
    """The disk failed under a write, whose outcome is unknown. Reads go on. Open the store again."""


class StoreClosedError(RaftStoreError):
    """The log is closed, or belongs to the parent of this forked process. Open it (again) here."""


class StoreFullError(RaftStoreError):
    """No room on the disk. Nothing of this write will ever appear. Purge, or make room, and try again."""


class FormatError(RaftStoreError):
    """The store was written by an unknown or newer version. Use the version that is named."""


class StoreLockedError(RaftStoreError):
    """Another process has the store open. `pid` is the holder's, or None if it is not known."""

    def __init__(self, message: str, *, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class BackendMissingError(RaftStoreError):
    """The backend, or a library that it needs, is not installed. The message says what to install."""


class ConfigError(RaftStoreError, ValueError):
    """The configuration is wrong. `file` and `key` say where; the message says what is allowed."""

    def __init__(self, message: str, *, file: Path | None = None, key: str | None = None) -> None:
        where = ": ".join(str(part) for part in (file, key) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)
        self.file = file
        self.key = key
