"""Readers beside writers: what they see is a log that was, never a mixture."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from log_tools import both

from raftstore.entry import HardState, LogId
from raftstore.errors import PurgedError
from raftstore.policy import Immediate
from raftstore.reader import Reader
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.memory import MemoryBackend, MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import (
    PATIENCE_S,
    background,
    entry,
    eventually,
    in_threads,
    outcome,
    repeatedly,
    run,
    span,
)


@both
def test_readers_see_all_of_a_conflict_or_nothing(disk: MemoryDisk, strategy: Strategy) -> None:
    def check() -> None:
        terms = {e.term for e in log.entries(3, 9)}
        assert len(terms) == 1, terms

    with open_log(disk, strategy) as log:
        log.append(run(1, [1, 1] + [1] * 6))
        log.flush()
        with repeatedly(check):
            for term in range(2, 150):
                log.splice(LogId(1, 2), run(3, [term] * 6))


def test_a_read_of_many_pieces_is_of_one_log(disk: MemoryDisk) -> None:
    """Pieces from disk, cache and memory, while conflicts replace all of them."""

    def check() -> None:
        terms = {e.term for e in log.entries(3, 63)}
        assert len(terms) == 1, terms

    with open_log(disk, cache_bytes=3000) as log:
        log.append(run(1, [1] * 62))
        with repeatedly(check):
            for term in range(2, 150):
                log.splice(LogId(1, 2), run(3, [term] * 60))


@both
def test_whatever_the_bounds_promise_can_be_read(disk: MemoryDisk, strategy: Strategy) -> None:
    def check() -> None:
        last = log.last_index
        found = log.entry(last)
        assert found is not None, last
        assert (found.index, log.term(last)) == (last, 1)
        assert [e.index for e in log.entries(max(1, last - 3), last + 1)][-1] == last

    with open_log(disk, strategy, cache_bytes=2000) as log:
        log.append([entry(1)])
        log.flush()
        with repeatedly(check):
            for index in range(2, 800):
                log.append([entry(index)])


@both
def test_the_anchor_is_never_seen_half_moved(disk: MemoryDisk, strategy: Strategy) -> None:
    def check() -> None:
        anchor = log.anchor
        assert anchor.term == anchor.index, anchor

    with open_log(disk, strategy) as log:
        log.append(run(1, range(1, 301)))
        with repeatedly(check):
            for upto in range(1, 300):
                log.purge(upto)


@both
def test_the_durable_index_only_grows_while_threads_append(disk: MemoryDisk, strategy: Strategy) -> None:
    seen, called = [0], list[int]()
    with open_log(disk, strategy) as log:
        log.on_durable(called.append)
        with repeatedly(lambda: seen.append(log.durable_index), threads=1):
            in_threads(6, lambda _: [log.propose(1, [b"x"]) for _ in range(60)])
            log.flush()
        eventually(lambda: called[-1:] == [360], "the last callback")
    assert seen == sorted(seen)
    assert called == sorted(set(called))


@both
def test_no_wake_up_is_lost(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:

        def propose_and_wait(_number: int) -> None:
            for _ in range(100):
                last = log.submit_propose(1, [b"x"]).last
                log.wait_durable(last, PATIENCE_S)
                assert log.durable_index >= last

        in_threads(4, propose_and_wait)


def test_a_slow_read_does_not_bring_a_truncated_entry_back(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 41))
    with open_log(disk, DiskFirst()) as log:
        with disk.read_gate.closed():
            slow = background(lambda: log.entries(10, 20))
            disk.read_gate.wait_for_arrival()
            log.truncate(11)
            log.append(run(11, [2] * 12))
        assert all(e.term == (1 if e.index < 11 else 2) for e in outcome(slow))
        assert log.entries(1) == span(1, 11) + run(11, [2] * 12)
        assert [e.term for e in log.entries(10, 13)] == [1, 2, 2]


def test_a_truncation_between_a_read_and_its_caching_leaves_nothing_stale(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 41))
    original = MemoryBackend.read
    replaced: list[bool] = []

    def then_truncated(*args: Any) -> Any:
        found = original(*args)
        if not replaced:
            replaced.append(True)
            log.truncate(11)
            log.append(run(11, [2] * 12))
        return found

    monkeypatch.setattr(MemoryBackend, "read", then_truncated)
    with open_log(disk, DiskFirst()) as log:
        log.entries(5, 20)
        assert replaced
        assert log.entries(1) == span(1, 11) + run(11, [2] * 12)


@pytest.mark.parametrize("call", ["truncate", "purge"])
def test_what_is_taken_away_just_before_the_disk_is_asked_is_not_called_damage(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 41))
    original = Reader._load
    taken_away: list[bool] = []

    def after_a_write(*args: Any) -> Any:
        if not taken_away:
            taken_away.append(True)
            log.truncate(10) if call == "truncate" else log.purge(20)
        return original(*args)

    monkeypatch.setattr(Reader, "_load", after_a_write)
    with open_log(disk, DiskFirst()) as log:
        if call == "truncate":
            assert log.entries(12, 20) == []
            assert log.entry(9) == entry(9)
        else:
            with pytest.raises(PurgedError):
                log.entries(12, 20)
        assert taken_away


def test_a_slow_read_beside_a_purge_gives_the_entries_or_says_that_they_are_purged(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 41))
    with open_log(disk, DiskFirst()) as log:
        with disk.read_gate.closed():
            slow = background(lambda: log.entries(5, 20))
            disk.read_gate.wait_for_arrival()
            log.purge(10)
        try:
            found = outcome(slow)
        except LookupError:
            found = span(5, 20)
        assert found == span(5, 20)
        assert log.entries(11) == span(11, 41)


def test_a_standing_write_blocks_no_reader_and_no_memory_append(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst()) as log:
        log.append(span(1, 4))
        log.flush()
        with disk.gate.closed():
            log.append(span(4, 6))
            disk.gate.wait_for_arrival()
            assert outcome(background(lambda: log.append(span(6, 9)))) == LogId(1, 8)
            assert outcome(background(lambda: log.entries(1))) == span(1, 9)
            assert outcome(background(lambda: log.term(8))) == 1
            outcome(background(lambda: log.commit_to(3)))
            assert outcome(background(log.status)).pending_entries > 0
            assert log.durable_index == 3
        log.flush()


def test_an_idle_log_sleeps(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), Immediate()) as log:
        log.append(span(1, 4))
        log.flush()
        time.sleep(0.1)
        before = _switches()
        time.sleep(0.3)
        assert _switches() - before < 30


@both
def test_the_flusher_sleeps_while_a_write_stands_still(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 4))
        log.flush()
        with disk.gate.closed():
            call = background(lambda: log.save_hard_state(HardState(1, "a")))
            disk.gate.wait_for_arrival()
            log.submit(span(4, 6))
            before = _switches()
            time.sleep(0.3)
            assert _switches() - before < 30
        outcome(call)


def _switches() -> int:
    """How often threads of this library gave up or lost the processor."""
    total = 0
    for thread in threading.enumerate():
        if thread.name.startswith("raftstore") and thread.native_id is not None:
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            total += sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)
    return total
