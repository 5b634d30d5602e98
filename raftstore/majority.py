"""Raft's commit rule."""

from __future__ import annotations

from collections.abc import Sequence

from raftstore.shape import Shape


def majority_index(matches: Sequence[int], current_term: int, commit_index: int, shape: Shape) -> int | None:
    """The highest index that a majority of `matches` has reached, if the leader may commit it.

    `matches` are those of all voters (§5.3). Only an entry of the leader's own `current_term` is committed
    by counting (§5.4.2), and only one that is live in `shape`.
    """
    if not matches:
        return None
    index = sorted(matches, reverse=True)[len(matches) // 2]
    if not max(commit_index, shape.anchor.index) < index <= shape.last.index:
        return None
    return index if shape.term(index) == current_term else None
