"""One accepted write, and with it the accepted state of the log.

Accepted writes form a chain, newest first. The newest *is* the accepted state: all that a check needs
(bounds, hard state, commit, metadata) stands in it. So accepting a write is one store of one reference,
which no interrupt can cut in two, and what is pending is the part of the chain that is not durable yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, HardState, LogId
from raftstore.hardstate import encode_meta
from raftstore.shape import Shape

if TYPE_CHECKING:
    from raftstore.waiting import Waiter

ENTRY_OVERHEAD = 128
"""Bytes that an entry costs in memory beside its payload: the object, its numbers, its place in a list."""


class Write(msgspec.Struct, eq=False):
    """What a call changes, and the state of the log after it.

    The totals count from the opening, so that what lies between two writes is a difference.
    """

    previous: Write | None
    number: int
    # The state after it.
    shape: Shape
    hard_state: HardState
    meta: Mapping[str, bytes]
    commit: int
    entries_total: int = 0
    bytes_total: int = 0
    cuts_total: int = 0
    """Writes that truncate."""
    changes_total: int = 0
    """Writes that do more than to append."""
    urgent_total: int = 0
    # What changes.
    entries: Sequence[Entry] = ()
    size: int = 0
    truncate_from: int | None = None
    anchor: LogId | None = None
    state_change: HardState | None = None
    meta_change: Mapping[str, bytes] | None = None
    # How it is treated.
    urgent: bool = False
    """It is flushed now, whatever the policy."""
    visible_late: bool = False
    """Its effect on the log is shown to readers only once it is durable, whatever the strategy."""
    commit_asked: int = 0
    """The highest commit index that was asked for by itself while this was the newest write."""
    waiters: list[Waiter] = []
    done: bool = False
    error: BaseException | None = None

    def be_urgent(self) -> None:
        """Be flushed now, whatever the policy."""
        self.urgent = True
        self.urgent_total += 1

    def rebase(self, previous: Write, number: int) -> None:
        """Follow `previous` instead, as write `number`, because writes in between were refused."""
        self._follow(previous)
        self.number = number

    def _follow(self, previous: Write) -> None:
        """Let the state be the one after `previous` and this write. The commit index stays that of before."""
        self.previous = previous
        self.number = previous.number + 1
        self.shape = previous.shape.changed(self.truncate_from, self.anchor, self.entries)
        self.hard_state = previous.hard_state if self.state_change is None else self.state_change
        self.meta = previous.meta if self.meta_change is None else self.meta_change
        self.commit = previous.commit
        self.entries_total = previous.entries_total + len(self.entries)
        self.bytes_total = previous.bytes_total + self.size
        self.cuts_total = previous.cuts_total + (self.truncate_from is not None)
        self.changes_total = previous.changes_total + (not self.only_appends)
        self.urgent_total = previous.urgent_total + self.urgent

    @property
    def moves_bounds(self) -> bool:
        """It drops a prefix or a suffix, or both."""
        return self.truncate_from is not None or self.anchor is not None

    @property
    def only_appends(self) -> bool:
        """Beside its entries, if it has any, it changes nothing."""
        return self.state_change is None and self.meta_change is None and not self.moves_bounds

    @property
    def changes_nothing(self) -> bool:
        """A barrier: it only waits for what was accepted before it."""
        return not self.entries and self.only_appends

    def batch(self) -> WriteBatch:
        """The change for the backend, but for the hard state, which is added once for a whole group."""
        meta = None if self.meta_change is None else encode_meta(self.meta_change)
        return WriteBatch(self.number, self.truncate_from, self.anchor, self.entries, None, meta)


def first_write(
    number: int, shape: Shape, hard_state: HardState, meta: Mapping[str, bytes], commit: int
) -> Write:
    """The state that recovery found, as the durable beginning of the chain."""
    return Write(None, number, shape, hard_state, meta, commit, done=True)


def appending(previous: Write, entries: Sequence[Entry], size: int) -> Write:
    """The write after `previous` that only appends `entries`, whose memory is `size`; a barrier without any.

    The same as `changing`, for the calls that must be fast.
    """
    return Write(
        previous,
        previous.number + 1,
        previous.shape.appended(entries) if entries else previous.shape,
        previous.hard_state,
        previous.meta,
        previous.commit,
        previous.entries_total + len(entries),
        previous.bytes_total + size,
        previous.cuts_total,
        previous.changes_total,
        previous.urgent_total,
        entries,
        size,
    )


def changing(
    previous: Write,
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
) -> Write:
    """The write after `previous` with these changes."""
    write = Write(
        previous,
        previous.number,
        previous.shape,
        previous.hard_state,
        previous.meta,
        previous.commit,
        entries=entries,
        size=size,
        truncate_from=truncate_from,
        anchor=anchor,
        state_change=hard_state,
        meta_change=meta,
        urgent=urgent,
        visible_late=visible_late,
    )
    write._follow(previous)  # pyright: ignore[reportPrivateUsage]
    if commit is not None:
        write.commit = commit
    return write
