"""The values of a Raft log: what is stored, and how it is named.

All of them are immutable and compare by value. None of them validates: the log does, once, at its
door (`raftstore.RaftLog`), so that making an entry stays cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

INDEX_MAX: Final = 2**63 - 1
"""The highest term and the highest index that a log can hold."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the log.

    `index` is 1-based. `data` is opaque to the log. `kind` (0..255) belongs to the caller, for example to
    tell commands from configuration changes.
    """

    term: int
    index: int
    data: bytes
    kind: int = 0

    @property
    def id(self) -> LogId:
        """The entry's name in Raft's terms: its term and its index."""
        return LogId(self.term, self.index)


class LogId(msgspec.Struct, frozen=True, order=True, gc=False):
    """The name of an entry. Its order is Raft's "more up to date" order (Raft §5.4.1): term, then index."""

    term: int
    index: int


NO_ENTRY: Final = LogId(0, 0)
"""The anchor of a fresh log: the id "before the first entry"."""


class HardState(msgspec.Struct, frozen=True, gc=False):
    """Raft's persistent state beside the log (Raft figure 2), and the commit index.

    `voted_for` is the candidate that this node voted for in `term`, or None. Adapters encode ids that
    are not strings.
    """

    term: int = 0
    voted_for: str | None = None
    commit: int = 0


class Splice(msgspec.Struct, frozen=True, gc=False):
    """The outcome of `RaftLog.splice`, the follower's side of AppendEntries (Raft §5.3).

    On a match, `match_index` is the last index that this message verified: what may be acknowledged to
    the leader once it is durable, and the bound of the follower's commit index. On a mismatch nothing was
    changed, and `conflict` tells the leader where to look next: our term at the previous index with that
    term's first live index, or `LogId(0, next_index)` if our log ends before it.
    """

    matched: bool
    match_index: int = 0
    conflict: LogId | None = None


def term_runs(entries: Sequence[Entry]) -> list[LogId]:
    """The id of the first entry of each run of equal terms. O(runs × log n): terms never decrease."""
    runs: list[LogId] = []
    start, count = 0, len(entries)
    while start < count:
        first = entries[start]
        runs.append(LogId(first.term, first.index))
        start = _run_end(entries, start)
    return runs


def _run_end(entries: Sequence[Entry], start: int) -> int:
    """The position after the run of equal terms that begins at `start`."""
    term, low, high = entries[start].term, start + 1, len(entries)
    if entries[-1].term == term:
        return high
    while low < high:
        middle = (low + high) // 2
        if entries[middle].term == term:
            low = middle + 1
        else:
            high = middle
    return low
