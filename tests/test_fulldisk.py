"""What a full disk does with each accepted write: it goes ahead, is kept, or is refused."""

from __future__ import annotations

import pytest

from raftstore.entry import HardState, LogId
from raftstore.errors import StoreFullError
from raftstore.fulldisk import rechain, sort_out
from raftstore.shape import Shape
from raftstore.strategy import MemFirst
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import entry, span
from raftstore.write import Write, appending, changing, first_write

DURABLE = first_write(7, Shape(LogId(1, 2), LogId(1, 2)).appended(span(3, 6)), HardState(1), {}, 2)
"""Entries 3 to 5 are on disk."""


def held_back() -> Write:
    """An append of entry 6, for which there is no room."""
    return appending(DURABLE, [entry(6)], 100)


def fate(behind: Write, *, shown: bool = False) -> str:
    """What becomes of `behind`, which follows `held_back()`, whether or not readers have seen that."""
    before = behind.previous
    assert before is not None
    fates = sort_out(DURABLE, [before, behind], before.number if shown else 0)
    assert (before in fates.kept) == shown
    assert (before in fates.refused) == (not shown)
    return next(name for name in ("ahead", "kept", "refused") if behind in getattr(fates, name))


@pytest.mark.parametrize("shown", [True, False])
def test_a_vote_and_metadata_go_ahead_of_an_append_that_is_held_back(shown: bool) -> None:
    assert fate(changing(held_back(), hard_state=HardState(2, "a")), shown=shown) == "ahead"
    assert fate(changing(held_back(), meta={"k": b"v"}), shown=shown) == "ahead"


@pytest.mark.parametrize("shown", [True, False])
def test_a_purge_goes_ahead_only_up_to_what_is_durable(shown: bool) -> None:
    assert fate(changing(held_back(), anchor=LogId(1, 5)), shown=shown) == "ahead"
    assert fate(changing(held_back(), anchor=LogId(1, 6)), shown=shown) == "refused"


@pytest.mark.parametrize("shown", [True, False])
def test_no_truncation_overtakes_an_append_that_is_held_back(shown: bool) -> None:
    """The append would come after it, and bring back or follow what it was to take away."""
    assert fate(changing(held_back(), truncate_from=6), shown=shown) == "refused"
    assert fate(changing(held_back(), truncate_from=4), shown=shown) == "refused"
    assert fate(changing(held_back(), truncate_from=1, anchor=LogId(9, 50)), shown=shown) == "refused"


@pytest.mark.parametrize("shown", [True, False])
def test_who_waits_for_a_refused_append_is_not_told_that_it_is_durable(shown: bool) -> None:
    assert fate(changing(held_back(), urgent=True), shown=shown) == "refused"


def test_with_nothing_held_back_before_it_anything_goes_ahead() -> None:
    cut = changing(DURABLE, truncate_from=5)
    purged = changing(cut, anchor=LogId(1, 3))
    barrier = changing(purged, urgent=True)
    assert sort_out(DURABLE, [cut, purged, barrier], 0).ahead == [cut, purged, barrier]


def test_a_purge_behind_a_truncation_goes_by_what_the_truncation_left() -> None:
    cut = changing(DURABLE, truncate_from=5)
    append = appending(cut, [entry(5, 2)], 100)
    fates = sort_out(DURABLE, [cut, append, changing(append, anchor=LogId(2, 5))], 0)
    assert (len(fates.ahead), len(fates.refused)) == (1, 2)


@pytest.mark.parametrize(("voted", "raised", "left"), [(0, 0, 2), (4, 0, 4), (0, 3, 3), (4, 5, 5)])
def test_what_is_said_of_the_commit_index_beside_a_refused_save_counts(
    voted: int, raised: int, left: int
) -> None:
    """Though the save said 5, and so nobody raised it."""
    save = changing(DURABLE, entries=[entry(6)], size=100, hard_state=HardState(1, None, 5), commit=5)
    save.commit_asked = raised
    vote = changing(save, hard_state=HardState(2, "a", voted))
    assert vote.commit == 5
    newest = rechain(DURABLE, sort_out(DURABLE, [save, vote], 0))
    assert (newest, newest.commit) == (vote, left)


def test_an_append_that_is_kept_is_not_urgent_any_more() -> None:
    """It was accepted behind a truncation, and its caller waits. Urgent, it is tried without a pause."""
    append = held_back()
    append.be_urgent()
    newest = rechain(DURABLE, sort_out(DURABLE, [append], append.number))
    assert (newest, newest.urgent_total) == (append, DURABLE.urgent_total)


def test_once_a_full_disk_refused_what_was_acknowledged_nothing_more_is_taken_into_memory(
    disk: MemoryDisk,
) -> None:
    with open_log(disk, MemFirst()) as log:
        disk.full = True
        log.append(span(1, 4))
        with pytest.raises(StoreFullError):
            log.flush()
        with pytest.raises(StoreFullError):
            log.append(span(4, 5))
        assert log.next_index == 4
        disk.full = False
