"""The commit index: when it is persisted, and what `sync_on_commit` adds."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from log_tools import NEVER, both, in_the_end

from raftstore import flusher, pipeline
from raftstore.entry import HardState, LogId
from raftstore.errors import StoreFullError
from raftstore.hardstate import decode_hard_state, encode_hard_state
from raftstore.strategy import MemFirst, Strategy
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import close_broken, open_log
from raftstore.testing.tools import PATIENCE_S, assert_waits, background, eventually, outcome, span


def persisted(disk: MemoryDisk) -> int:
    """The commit index on the disk."""
    return decode_hard_state(disk.state.hard_state).commit


@both
def test_committing_never_waits_for_the_disk(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 6))
        log.flush()
        with disk.gate.closed():
            log.submit(span(6, 9))
            disk.gate.wait_for_arrival()
            outcome(background(lambda: log.commit_to(7)))
            assert log.commit_index == log.hard_state.commit == 7


@both
def test_the_commit_index_goes_along_with_a_vote(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 6))
        log.commit_to(4)
        log.save_hard_state(HardState(2, "a"))
        assert persisted(disk) == 4


@both
def test_the_flusher_persists_the_commit_index_by_itself(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 6))
        log.commit_to(4)
        eventually(lambda: persisted(disk) == 4, "the flusher persists it")


@both
def test_the_flusher_persists_the_commit_index_also_after_somebody_had_the_lead_for_nothing(
    disk: MemoryDisk, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 6))
        log.flush()
        way, tried = log._session.pipeline, threading.Event()
        lead = way.lead

        def try_to_lead(upkeep: Callable[[], None] | None = None) -> bool:
            leads = lead(upkeep)
            if getattr(upkeep, "__name__", "") == "_flush":
                tried.set()
            return leads

        monkeypatch.setattr(way, "lead", try_to_lead)
        eventually(lambda: take_lead(way), "nobody leads")
        log.commit_to(4)
        assert tried.wait(PATIENCE_S)
        assert persisted(disk) == 0
        with way.lock:
            way._leader = pipeline.NOBODY
        eventually(lambda: persisted(disk) == 4, "the flusher tries again")


def take_lead(way: pipeline.Pipeline) -> bool:
    """As if a thread that does not run now had been given the lead."""
    with way.lock:
        if way._leader != pipeline.NOBODY:
            return False
        way._leader = -1
    return True


@both
def test_many_commits_cost_few_writes(
    disk: MemoryDisk, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pipeline, flusher):
        monkeypatch.setattr(module, "COMMIT_DELAY_S", 1e6)  # However slow the machine.
    with open_log(disk, strategy) as log:
        log.append(span(1, 1001))
        log.flush()
        calls = disk.calls
        for index in range(1, 1001):
            log.commit_to(index)
        assert disk.calls <= calls + 1
        assert log.commit_index == 1000


@both
def test_a_hard_state_that_only_commits_more_is_kept(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 6))
        log.save_hard_state(HardState(2, "a", 1))
        log.save_hard_state(HardState(2, "a", 4))
        assert log.commit_index == 4
    with open_log(disk, strategy) as log:
        assert log.hard_state == HardState(2, "a", 4)


def test_sync_on_commit_returns_when_the_index_is_durable(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(sync_on_commit=True), NEVER) as log:
        log.append(span(1, 6))
        assert log.durable_index == 0
        log.commit_to(3)
        assert log.durable_index >= 3


def test_sync_on_commit_waits_also_if_the_index_is_committed_already(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(sync_on_commit=True), NEVER) as log:
        log.append(span(1, 6))
        with disk.gate.closed():
            first = background(lambda: log.commit_to(5))
            disk.gate.wait_for_arrival()
            again = background(lambda: log.commit_to(4))
            assert_waits(first, again)
        outcome(first)
        outcome(again)
        assert log.durable_index == 5


def test_sync_on_commit_waits_for_entries_behind_a_reset_to_a_lower_anchor(disk: MemoryDisk) -> None:
    """Until the reset is durable, readers and the durable index still know the higher anchor."""
    with open_log(disk, MemFirst(sync_on_commit=True), NEVER) as log:
        log.reset(LogId(1, 100))
        with disk.gate.closed():
            reset = background(lambda: log.reset(LogId(2, 30)))
            disk.gate.wait_for_arrival()
            log.submit(span(31, 34, 2))
            commit = background(lambda: log.commit_to(32))
            assert_waits(commit)
        outcome(reset)
        outcome(commit)
        assert log.durable_index >= 32


def test_a_crash_that_shortens_the_log_cuts_the_commit_index(disk: MemoryDisk) -> None:
    log = open_log(disk, MemFirst())
    log.append(span(1, 4))
    log.flush()
    disk.full = True
    log.append(span(4, 8))
    eventually(lambda: disk.calls >= 2, "the disk refuses")
    log.commit_to(6)
    log.save_hard_state(HardState(3, "a"))
    disk.crash()
    close_broken(log)
    disk.full = False
    with open_log(disk, MemFirst()) as log:
        assert log.last == LogId(1, 3)
        assert log.hard_state == HardState(3, "a", 3)


@both
@pytest.mark.parametrize("stored", [0, 3, 99])
def test_a_stored_commit_index_is_brought_between_anchor_and_last(
    disk: MemoryDisk, strategy: Strategy, stored: int
) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 9))
        log.purge(2)
    disk.state.hard_state = encode_hard_state(HardState(4, "a", stored))
    with open_log(disk, strategy) as log:
        assert log.hard_state == HardState(4, "a", min(max(stored, 2), 8))


def test_a_purge_of_what_a_full_disk_keeps_waiting_is_refused(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst()) as log:
        log.append(span(1, 4))
        log.flush()
        disk.full = True
        log.append(span(4, 8))
        eventually(lambda: disk.calls >= 2, "the disk refuses")
        log.purge(2)
        with pytest.raises(StoreFullError):
            log.purge(6)
        assert log.entries(3) == span(3, 8)
        disk.full = False
        in_the_end(log.flush)
        assert log.durable_index == 7
    assert sorted(disk.state.entries) == [3, 4, 5, 6, 7]


@both
def test_waits_end_after_their_timeout(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log, disk.gate.closed():
        receipt = log.submit(span(1, 4))
        disk.gate.wait_for_arrival()
        with pytest.raises(TimeoutError):
            receipt.wait(0.01)
        with pytest.raises(TimeoutError):
            log.wait_durable(3, 0.01)
        with pytest.raises(TimeoutError):
            log.wait_durable(3, 0)
        disk.gate.open()
        receipt.wait(PATIENCE_S)
        log.wait_durable(3, PATIENCE_S)
