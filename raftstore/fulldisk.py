"""What becomes of accepted writes when the disk has no room for them. Pure.

Purges and hard state go ahead: the backend keeps a reserve for them. Appends that readers have seen were
acknowledged from memory: they stay, and are tried again. All else is refused, and with it what builds on it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import msgspec

from raftstore.entry import INDEX_MAX
from raftstore.shape import Shape
from raftstore.write import Write


class Sorted(msgspec.Struct, frozen=True):
    """The three fates of writes, each in the order of acceptance."""

    number: int
    """Of the newest write of all."""
    ahead: list[Write]
    kept: list[Write]
    refused: list[Write]
    commit: int
    """The commit index, without what those refused say of it."""


def sort_out(durable: Write, writes: Sequence[Write], shown: int) -> Sorted:
    """Sort `writes`, which follow `durable`; those up to number `shown` are visible to readers."""
    ahead, kept, refused = list[Write](), list[Write](), list[Write]()
    shape = durable.shape
    for write in writes:
        held_back = bool(kept or refused)
        if write.entries:
            (kept if write.number <= shown else refused).append(write)
        elif _goes_ahead(write, shape, held_back=held_back):
            ahead.append(write)
            shape = shape.changed(write.truncate_from, write.anchor)
        else:
            refused.append(write)
    commit = _commit_without({write.number for write in refused}, durable, writes)
    return Sorted(writes[-1].number, ahead, kept, refused, commit)


def _goes_ahead(write: Write, shape: Shape, *, held_back: bool) -> bool:
    """Whether an entry-less `write` may be done on `shape`, although writes before it are `held_back`."""
    if not held_back:
        return True
    if write.changes_nothing or write.truncate_from is not None:
        return False
    return write.anchor is None or shape.term(write.anchor.index) == write.anchor.term


def _commit_without(refused: Container[int], durable: Write, writes: Sequence[Write]) -> int:
    """The commit index after `writes`, which follow `durable`, without those whose numbers are `refused`.

    It may lie beyond the bounds that are left. From a refused truncation on, what is said of the entries that
    were to replace others does not count: the others stay.
    """
    commit, ceiling = durable.commit, INDEX_MAX
    for write in writes:
        asked = write.commit_asked
        if write.number not in refused:
            if write.truncate_from is not None and write.anchor is not None:
                commit = write.anchor.index
            if write.state_change is not None:
                asked = max(asked, write.state_change.commit)
        elif write.truncate_from is not None:
            ceiling = min(ceiling, write.truncate_from - 1)
        commit = max(commit, min(asked, ceiling))
    return commit


def rechain(durable: Write, fates: Sorted) -> Write:
    """Make what is left one chain on `durable`, with numbers never used before; its newest write.

    Repeating it changes nothing.
    """
    for write in fates.kept:
        # whoever waits for it waits for room: without a pause it would be tried in vain
        write.urgent = False
    latest = durable
    for number, write in enumerate([*fates.ahead, *fates.kept], start=fates.number + 1):
        write.rebase(latest, number)
        write.commit = _within(write.shape, fates.commit)
        latest = write
    latest.commit = latest.commit_asked = _within(latest.shape, fates.commit)
    return latest


def _within(shape: Shape, commit: int) -> int:
    return max(min(commit, shape.last.index), shape.anchor.index)
