"""Flush policies, with a made-up clock: they see numbers and give a delay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftstore.policy import Batch, FlushPolicy, Immediate, Pending


def pending(
    entries: int = 1, *, size: int = 10, waited_s: float = 0.0, since_flush_s: float = 0.0
) -> Pending:
    return Pending(entries, size, waited_s, since_flush_s)


def flush_times(policy: FlushPolicy, arrivals: list[float], flush_s: float = 0.0) -> list[float]:
    """When a flusher that obeys `policy` begins its flushes, for one entry at each arrival (seconds)."""
    now, last_end, begun = 0.0, 0.0, []
    waiting: list[float] = []
    todo = list(arrivals)
    while todo or waiting:
        if not waiting:
            waiting.append(todo.pop(0))
            now = max(now, waiting[0])
        due = now + policy.due_s(Pending(len(waiting), len(waiting), now - waiting[0], now - last_end))
        if todo and todo[0] <= max(due, now):
            now = max(now, todo[0])
            waiting.append(todo.pop(0))
            continue
        now = max(now, due)
        begun.append(now)
        now = last_end = now + flush_s
        waiting.clear()
    return begun


def test_immediate_is_always_due() -> None:
    assert Immediate().due_s(pending()) <= 0
    assert Immediate().due_s(pending(10**6, since_flush_s=0.0)) <= 0


def test_batch_is_due_when_the_threshold_is_reached_not_only_exceeded() -> None:
    policy = Batch(10, 1000)
    assert policy.due_s(pending(9)) > 0
    assert policy.due_s(pending(10)) <= 0
    assert policy.due_s(pending(11)) <= 0


def test_batch_is_due_when_the_interval_has_passed_since_the_last_flush() -> None:
    policy = Batch(1000, 50)
    assert policy.due_s(pending(since_flush_s=0.049)) == pytest.approx(0.001)
    assert policy.due_s(pending(since_flush_s=0.050)) <= 0
    assert policy.due_s(pending(since_flush_s=7.0)) <= 0


def test_the_interval_of_a_batch_is_in_milliseconds() -> None:
    assert Batch(2, 1500).due_s(pending()) == pytest.approx(1.5)


def test_batch_counts_its_interval_from_the_last_flush_and_not_from_the_oldest_waiting_entry() -> None:
    assert Batch(1000, 50).due_s(pending(waited_s=9.0, since_flush_s=0.02)) == pytest.approx(0.03)


def test_a_first_entry_after_a_long_pause_does_not_wait_for_the_interval() -> None:
    assert flush_times(Batch(100, 50), [10.0]) == [10.0]


def test_entries_between_two_flushes_share_the_second() -> None:
    assert flush_times(Batch(100, 50), [1.0, 1.01, 1.02, 1.03]) == [1.0, pytest.approx(1.05)]


def test_a_full_group_does_not_wait_for_the_interval() -> None:
    assert flush_times(Batch(3, 1000), [5.0, 5.1, 5.2, 5.3]) == [5.0, pytest.approx(5.3)]


def test_policies_are_values() -> None:
    assert Batch(1, 2) == Batch(1, 2) != Batch(2, 1)
    assert Immediate() == Immediate()
    assert hash(Batch(1, 2)) == hash(Batch(1, 2))


@given(
    threshold=st.integers(1, 50),
    interval=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 0.2), min_size=1, max_size=60),
    flush_s=st.floats(0, 0.05),
)
def test_no_entry_waits_longer_than_an_interval_and_one_flush(
    threshold: int, interval: int, gaps: list[float], flush_s: float
) -> None:
    arrivals = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    begun = flush_times(Batch(threshold, interval), arrivals, flush_s)
    for arrival in arrivals:
        wait = next(begin for begin in begun if begin >= arrival - 1e-9) - arrival
        assert wait <= interval / 1000 + flush_s + 1e-9
