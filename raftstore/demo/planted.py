"""A bug on purpose, for any log. A demo that cannot fail shows nothing; with a bug it must report a loss."""

from __future__ import annotations

from typing import Final

from raftstore.entry import LogId
from raftstore.log import RaftLog

FORGOTTEN: Final = 1000
"""Entries: more than all clients together have in flight."""


def forget_suffix(log: RaftLog) -> None:
    """Drop the last entries, as a recovery would that stops too early."""
    kept = log.entries(log.first_index, max(log.first_index, log.last_index + 1 - FORGOTTEN))
    log.save(kept, anchor=LogId(log.anchor.term, log.anchor.index))
