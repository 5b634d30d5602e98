"""One accepted write, and with it the accepted state of the log.

Accepted writes form a chain, newest first. The newest *is* the accepted state: all that a check needs
(bounds, hard state, commit, metadata) stands in it. So accepting a write is one store of one reference,
which no interrupt can cut in two, and what is pending is the part of the chain that is not durable yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, HardState, LogId
from raftstore.hardstate import encode_meta
from raftstore.shape import Shape

if TYPE_CHECKING:
    from raftstore.waiting import Waiter

ENTRY_OVERHEAD = 128
"""Bytes that an entry costs in memory beside its payload: the object, its numbers, its place in a list."""


class Write:
    """What a call changes, and the state of the log after it."""

    __slots__ = (
        "anchor",
        "bytes_total",
        "commit",
        "cuts_total",
        "done",
        "entries",
        "entries_total",
        "error",
        "hard_state",
        "meta",
        "meta_change",
        "number",
        "previous",
        "shape",
        "size",
        "state_change",
        "truncate_from",
        "urgent",
        "urgent_total",
        "visible_late",
        "waiters",
    )

    number: int
    shape: Shape
    hard_state: HardState
    meta: Mapping[str, bytes]
    commit: int
    entries_total: int
    bytes_total: int
    cuts_total: int
    urgent_total: int

    def __init__(
        self,
        previous: Write | None,
        *,
        truncate_from: int | None = None,
        anchor: LogId | None = None,
        entries: Sequence[Entry] = (),
        size: int = 0,
        hard_state: HardState | None = None,
        meta: Mapping[str, bytes] | None = None,
        commit: int | None = None,
        urgent: bool = False,
        visible_late: bool = False,
    ) -> None:
        # What changes.
        self.truncate_from = truncate_from
        self.anchor = anchor
        self.entries = entries
        self.size = size
        self.state_change = hard_state
        self.meta_change = meta
        # How it is treated.
        self.urgent = urgent
        """It is flushed now, whatever the policy."""
        self.visible_late = visible_late
        """Its effect on the log is shown to readers only once it is durable, whatever the strategy."""
        self.waiters: list[Waiter] = []
        self.done = False
        self.error: BaseException | None = None
        self.previous = previous
        if previous is not None:
            self._follow(previous, commit)

    def _follow(self, previous: Write, commit: int | None) -> None:
        """The state after this write, given the one before it."""
        plain = self.truncate_from is None and self.anchor is None
        self.number = previous.number + 1
        if plain:
            self.shape = previous.shape.appended(self.entries) if self.entries else previous.shape
        else:
            self.shape = previous.shape.changed(self.truncate_from, self.anchor, self.entries)
        self.hard_state = previous.hard_state if self.state_change is None else self.state_change
        self.meta = previous.meta if self.meta_change is None else self.meta_change
        self.commit = previous.commit if commit is None else commit
        self.entries_total = previous.entries_total + len(self.entries)
        self.bytes_total = previous.bytes_total + self.size
        self.cuts_total = previous.cuts_total + (self.truncate_from is not None)
        self.urgent_total = previous.urgent_total + self.urgent

    def be_urgent(self) -> None:
        """Be flushed now, whatever the policy."""
        self.urgent = True
        self.urgent_total += 1

    def rebase(self, previous: Write, number: int) -> None:
        """Follow `previous` instead, as write `number`, because writes in between were refused."""
        commit = self.commit
        self.previous = previous
        self._follow(previous, None)
        self.number = number
        self.commit = min(max(commit, self.shape.anchor.index), self.shape.last.index)

    @property
    def moves_bounds(self) -> bool:
        """It drops a prefix or a suffix, or both."""
        return self.truncate_from is not None or self.anchor is not None

    @property
    def changes_nothing(self) -> bool:
        """A barrier: it only waits for what was accepted before it."""
        is_silent = self.state_change is None and self.meta_change is None
        return is_silent and not self.entries and not self.moves_bounds

    def batch(self) -> WriteBatch:
        """The change for the backend, but for the hard state, which is added once for a whole group."""
        meta = None if self.meta_change is None else encode_meta(self.meta_change)
        return WriteBatch(self.number, self.truncate_from, self.anchor, self.entries, None, meta)


def first_write(
    number: int, shape: Shape, hard_state: HardState, meta: Mapping[str, bytes], commit: int
) -> Write:
    """The state that recovery found, as the durable beginning of the chain."""
    write = Write(None)
    write.number, write.shape, write.hard_state, write.meta = number, shape, hard_state, meta
    write.commit = commit
    write.entries_total = write.bytes_total = write.cuts_total = write.urgent_total = 0
    write.done = True
    return write
