"""The durable log under a Raft node: entries, term, vote and purge boundary, on disk."""

from raftstore.config import Limits, StoreConfig
from raftstore.entry import Entry, HardState, LogId, Splice
from raftstore.errors import (
    BackendMissingError,
    BackpressureError,
    CommittedError,
    ConfigError,
    CorruptionError,
    EntryTooLargeError,
    FormatError,
    GapError,
    PurgedError,
    RaftStoreError,
    StoreClosedError,
    StoreFailedError,
    StoreFullError,
    StoreLockedError,
    TermError,
    TruncatedError,
    VoteError,
)
from raftstore.log import RaftLog, open
from raftstore.policy import Batch, FlushPolicy, Immediate, Pending
from raftstore.receipt import Receipt
from raftstore.status import RecoveryReport, Status
from raftstore.strategy import DiskFirst, MemFirst, Strategy

__all__ = [
    "BackendMissingError",
    "BackpressureError",
    "Batch",
    "CommittedError",
    "ConfigError",
    "CorruptionError",
    "DiskFirst",
    "Entry",
    "EntryTooLargeError",
    "FlushPolicy",
    "FormatError",
    "GapError",
    "HardState",
    "Immediate",
    "Limits",
    "LogId",
    "MemFirst",
    "Pending",
    "PurgedError",
    "RaftLog",
    "RaftStoreError",
    "Receipt",
    "RecoveryReport",
    "Splice",
    "Status",
    "StoreClosedError",
    "StoreConfig",
    "StoreFailedError",
    "StoreFullError",
    "StoreLockedError",
    "Strategy",
    "TermError",
    "TruncatedError",
    "VoteError",
    "open",
]
