"""A violation in few operations: what a person must look at, of a history of thousands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from raftstore.testing.linearizability.operation import Operation
from raftstore.testing.linearizability.search import UndecidedError, unexplained

TRIED_MAX: Final = 20_000
"""Configurations of a search; there are many searches. What is not decided by then is not left out."""


def shrunk(operations: Sequence[Operation], configurations_max: int) -> list[Operation]:
    """Some of `operations`, all on one key, that no order explains, by time of invocation.

    Hardly any of them can be left out alone. With whatever is kept, what stored the values it saw is kept: so
    the few are a violation because the whole is, and not because something was left out.
    """
    last = unexplained(operations, configurations_max)
    assert last is not None
    assert last.returned_ns is not None
    kept = sorted(operations, key=lambda each: each.invoked_ns)
    kept = _tried(kept, [each for each in kept if each.invoked_ns <= last.returned_ns], configurations_max)
    size = len(kept)
    while size >= 1:
        kept, before = _without_blocks(kept, size), len(kept)
        if size > 1 or len(kept) == before:
            size //= 2
    return kept


def _without_blocks(kept: list[Operation], size: int) -> list[Operation]:
    """Leave out each run of `size` operations without which it is still a violation, the newest first."""
    for stop in range(len(kept), 0, -size):
        kept = _tried(kept, kept[: max(0, stop - size)] + kept[stop:], TRIED_MAX)
    return kept


def _tried(kept: list[Operation], fewer: list[Operation], configurations_max: int) -> list[Operation]:
    """`fewer` if that is a violation by its own right, else `kept`."""
    try:
        if _may_stand_alone(kept, fewer) and unexplained(fewer, configurations_max) is not None:
            return fewer
    except UndecidedError:
        pass
    return kept


def _may_stand_alone(kept: list[Operation], fewer: list[Operation]) -> bool:
    """True if an order of `kept` leaves an order of `fewer` when the others are taken out of it.

    What stores nothing can be taken out; so can a store that nobody saw, and no cas can have failed for.
    """
    seen = {each.needs[0] for each in fewer if each.needs is not None}
    seen |= {each.expected for each in fewer if each.kind == "cas"}
    remaining = set(fewer)
    gone = [each for each in kept if each.may_store and each not in remaining]
    failed = [each for each in fewer if each.kind == "cas" and each.outcome == "fail"]
    return not any(each.value in seen for each in gone) and not any(
        _may_have_met(cas, gone, fewer) for cas in failed
    )


def _may_have_met(cas: Operation, gone: list[Operation], fewer: list[Operation]) -> bool:
    """Can `cas` have found a value of `gone`? Not if it came first, or if one of `fewer` came in between."""
    certain = [each for each in fewer if each.may_store and each.outcome == "ok"]
    newest_ns = max((each.invoked_ns for each in certain if _end(each) < cas.invoked_ns), default=0)
    return any(each.invoked_ns <= _end(cas) and _end(each) >= newest_ns for each in gone)


def _end(operation: Operation) -> float:
    """When its effect had taken place at the latest."""
    if operation.outcome == "unknown" or operation.returned_ns is None:
        return math.inf
    return operation.returned_ns
