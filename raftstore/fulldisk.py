"""What becomes of accepted writes when the disk has no room for them. Pure.

Purges and hard state go ahead: the backend keeps a reserve for them. Appends that readers have seen were
acknowledged from memory: they stay, and are tried again. All else is refused, and with it what builds on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from raftstore.shape import Shape
from raftstore.write import Write


class Sorted(msgspec.Struct, frozen=True):
    """The three fates of writes, each in the order of acceptance."""

    ahead: list[Write]
    kept: list[Write]
    refused: list[Write]


def sort_out(durable: Write, writes: Sequence[Write], shown: int) -> Sorted:
    """Sort `writes`, which follow `durable`; those up to number `shown` are visible to readers."""
    fates = Sorted([], [], [])
    shape = durable.shape
    for write in writes:
        held_back = bool(fates.kept or fates.refused)
        if write.entries:
            (fates.kept if write.number <= shown else fates.refused).append(write)
        elif _goes_ahead(write, shape, held_back=held_back):
            fates.ahead.append(write)
            shape = shape.changed(write.truncate_from, write.anchor)
        else:
            fates.refused.append(write)
    return fates


def _goes_ahead(write: Write, shape: Shape, *, held_back: bool) -> bool:
    """Whether an entry-less `write` may be done on `shape`, although writes before it are `held_back`."""
    if not held_back:
        return True
    if write.changes_nothing or write.truncate_from is not None:
        return False
    return write.anchor is None or shape.term(write.anchor.index) == write.anchor.term


def rechain(durable: Write, fates: Sorted, newest: Write) -> Write:
    """Make what is left one chain on `durable`, with numbers never used before; its newest write."""
    latest = durable
    for number, write in enumerate([*fates.ahead, *fates.kept], start=newest.number + 1):
        write.commit = _commit_that_stays(write, fates.refused, latest)
        write.rebase(latest, number)
        latest = write
    commit = _commit_that_stays(newest, fates.refused, latest)
    latest.commit = max(min(commit, latest.shape.last.index), latest.shape.anchor.index)
    return latest


def _commit_that_stays(write: Write, refused: Sequence[Write], before: Write) -> int:
    """The commit index of `write`, as far as it means entries that are there without those `refused`.

    From a refused truncation on it may mean entries that were to replace what now stays.
    """
    cuts = [
        one.truncate_from for one in refused if one.number <= write.number and one.truncate_from is not None
    ]
    return max(min(write.commit, min(cuts) - 1), before.commit) if cuts else write.commit
