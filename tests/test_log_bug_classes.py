"""Every class of bug that log stores of this kind were seen to have, as a test that would show it here.

The catalogue, and where each number is held (`suite` is `raftstore.testing.LogSuite`, which runs on every
backend, strategy and policy; failure, readers, threads, life and full_disk are tests/test_log_*.py; names
alone are tests of this file):

1  durable before the disk said so: test_nothing_is_durable_before_the_write_returned
2  DiskFirst with Batch acknowledged early: test_disk_first_acknowledges_no_earlier_under_a_batch_policy
3  reset twice; busy polling: test_a_reset_is_one_write, readers, test_an_idle_log_sleeps
4  reset forgot or misled waiters: test_a_reset_tells_waiters_that_their_entries_are_gone
5  several pipelines out of order: test_one_write_at_a_time_in_the_order_of_acceptance
6  the watermark went back: readers, test_the_durable_index_only_grows_while_threads_append
7  a flush in flight wrote stale entries: test_nothing_stale_comes_back_after_a_truncation_beside_a_flush
8  zero flush workers: cannot exist, there is always one flusher and no option for it
9  a full queue dropped writes: test_nothing_is_dropped_when_more_comes_than_may_wait
10 flush swallowed errors: failure, test_flush_raises_what_the_disk_said
11 flush hung on an error: failure, test_every_waiter_is_answered_when_the_disk_fails
12 lost wake-ups: readers, test_no_wake_up_is_lost
13 a heartbeat truncated: suite, test_an_empty_heartbeat_verifies_prev_and_changes_nothing
14 truncate and append as two writes: test_a_conflict_is_one_write
15 half a change was visible: readers, test_readers_see_all_of_a_conflict_or_nothing
16 a flush for each entry: test_a_hundred_entries_are_one_write
17 replace neither awaited nor checked: failure, test_a_failed_conflict_is_not_a_success; test_aio.py
18 truncation kept the watermark: test_what_replaces_truncated_entries_is_written
19 reset kept a pending watermark: test_a_flush_begun_before_a_reset_does_not_raise_the_durable_index
20 an old flush raised it again: test_a_flush_begun_before_a_truncation_does_not_raise_the_durable_index
21 a conflict acknowledged early: test_a_conflict_returns_when_it_is_durable
22 prev zero reset the log: suite, test_a_resend_from_the_very_beginning_does_not_reset_the_log
23 memory counted for the quorum: test_the_leader_counts_only_what_is_durable
24 a failed write was retried or only logged: failure, test_nothing_is_written_after_a_failure
25 purge errors were swallowed: failure, test_a_failed_purge_is_not_a_success
26 maximum kept after a shrinking: as 18 and 20
27 everything pending written again: test_every_entry_is_written_once
28 boundary as two numbers: readers, test_the_anchor_is_never_seen_half_moved
29 a follower behind the first index stalled: suite, test_an_entry_at_or_below_the_anchor_is_purged
30 one node reported success early: test_a_single_node_commits_only_what_is_durable
31 the wrong end of the key space: suite, test_bounds_and_terms_are_exact_right_after_opening
32 purge in memory only: suite, test_purge_is_inclusive
33 reset waited for the interval: test_urgent_calls_do_not_wait_for_the_interval
34 deadlock in the term index: threads, test_everything_at_once
35 wrong hint after a conflict: suite, test_a_mismatch_names_our_term_there_and_its_first_index
36 no group commit: test_those_who_come_while_a_write_runs_share_the_next
37 a directory in use: suite, test_a_second_opening_is_refused_while_the_first_lives; life
38 too many terms: suite, test_many_terms_are_as_exact_as_few
39 flush answered "done" with nothing written: failure, test_flush_waits_for_the_write_in_flight
40 everything written again after a failure: as 24 and 27
41 a term answered for a missing entry: suite, test_an_entry_above_the_last_is_none; holes cannot be appended
42 indexes began again after purging all: suite, test_a_log_purged_to_its_end_goes_on_where_it_ended
43 a failed load was only logged: failure, test_a_log_that_cannot_be_read_does_not_open_empty
44 holes on disk were not noticed: failure, test_a_hole_on_disk_is_corruption
45 the lower of two runs was never written: test_one_write_at_a_time_in_the_order_of_acceptance
46 purging lower moved the boundary back: suite, test_purging_at_or_below_the_anchor_does_nothing
47 a huge range overflowed: suite, test_a_range_may_stop_at_the_highest_number_there_is
48 index overflow: suite, test_the_highest_index_and_term_can_be_stored_and_nothing_above
49 unsynced data reported after opening: the backend's duty, raftstore.testing.BackendSuite
50 bounds beyond what is readable: readers, test_whatever_the_bounds_promise_can_be_read
51 a failed batch was forgotten: full_disk, test_what_mem_first_acknowledged_is_written_when_there_is_room
52 purge raised the watermark of unwritten entries: test_a_purge_takes_what_is_pending_along
53 a slow disk blocked other commands: readers, test_a_standing_write_blocks_no_reader_and_no_memory_append

What the only lazy ancestor got wrong: emptiness, bounds and terms after opening (suite,
test_bounds_and_terms_are_exact_right_after_opening), stale entries in the cache
(readers, test_a_slow_read_does_not_bring_a_truncated_entry_back), MemFirst with Immediate never wrote (suite,
test_what_is_accepted_becomes_durable_without_being_asked), a reset that wiped what came after it
(test_a_reset_is_one_write).
"""

from __future__ import annotations

import re
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from log_tools import NEVER, both

from raftstore.entry import NO_ENTRY, Entry, HardState, LogId
from raftstore.errors import TruncatedError, VoteError
from raftstore.policy import Batch
from raftstore.strategy import DiskFirst, Strategy
from raftstore.testing import LogSuite
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import (
    PATIENCE_S,
    assert_waits,
    background,
    entry,
    eventually,
    in_threads,
    outcome,
    run,
    span,
)


def test_the_catalogue_names_tests_that_exist() -> None:
    here = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert __doc__ is not None
    for name in set(re.findall(r"test_\w+", __doc__)) - {"test_aio", "test_log_"}:
        assert f"def {name}(" in here or hasattr(LogSuite, name), name


# --- what is durable when --------------------------------------------------------------------------------


@both
def test_nothing_is_durable_before_the_write_returned(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            receipt = log.submit(span(1, 4))
            disk.gate.wait_for_arrival()
            assert log.durable_index == 0
            assert not receipt.done()
            assert log.last_index == (0 if strategy == DiskFirst() else 3)
        receipt.wait(PATIENCE_S)
        assert log.durable_index == log.last_index == 3


def test_disk_first_acknowledges_no_earlier_under_a_batch_policy(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst(), Batch(1, 1000)) as log:
        with disk.gate.closed():
            call = background(lambda: log.append(span(1, 4)))
            disk.gate.wait_for_arrival()
            assert_waits(call)
            assert (log.durable_index, log.last_index, log.next_index) == (0, 0, 4)
        outcome(call)
        assert (log.durable_index, log.last_index) == (3, 3)


def test_a_duplicate_is_not_acknowledged_while_the_first_is_in_flight(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        with disk.gate.closed():
            first = background(lambda: log.splice(NO_ENTRY, span(1, 4)))
            disk.gate.wait_for_arrival()
            again = background(lambda: log.splice(NO_ENTRY, span(1, 4)))
            pipelined = log.submit_splice(NO_ENTRY, span(1, 3))
            assert_waits(first, again)
            assert not pipelined.done()
        assert outcome(first) == outcome(again)
        pipelined.wait(PATIENCE_S)


@both
def test_an_equal_vote_is_not_granted_while_the_first_is_in_flight(
    disk: MemoryDisk, strategy: Strategy
) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            first = background(lambda: log.save_hard_state(HardState(1, "a")))
            disk.gate.wait_for_arrival()
            again = background(lambda: log.save_hard_state(HardState(1, "a")))
            saved = background(lambda: log.save(hard_state=HardState(1, "a")))
            assert_waits(first, again, saved)
            assert log.hard_state == HardState()
        for call in (first, again, saved):
            outcome(call)
        assert log.hard_state == HardState(1, "a")


@both
def test_of_two_different_votes_in_flight_one_is_refused(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            first = background(lambda: log.save_hard_state(HardState(1, "a")))
            disk.gate.wait_for_arrival()
            with pytest.raises(VoteError):
                log.save_hard_state(HardState(1, "b"))
        outcome(first)
        assert log.hard_state == HardState(1, "a")


@both
def test_a_conflict_returns_when_it_is_durable(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 6))
        log.flush()
        with disk.gate.closed():
            call = background(lambda: log.splice(LogId(1, 2), run(3, [2, 2])))
            disk.gate.wait_for_arrival()
            assert_waits(call)
        assert outcome(call).match_index == 4
        assert log.durable_index == 4


@both
def test_the_leader_counts_only_what_is_durable(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 3))
        log.flush()
        with disk.gate.closed():
            receipt = log.submit(span(3, 6))
            disk.gate.wait_for_arrival()
            assert log.majority_index([5, 0], 1) == 2
        receipt.wait(PATIENCE_S)
        assert log.majority_index([5, 0], 1) == 5


@both
def test_a_single_node_commits_only_what_is_durable(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            receipt = log.submit(span(1, 4))
            disk.gate.wait_for_arrival()
            assert log.majority_index([], 1) is None
        receipt.wait(PATIENCE_S)
        assert log.majority_index([], 1) == 3


@both
def test_a_purge_takes_what_is_pending_along(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy, NEVER) as log:
        receipt = log.submit(span(1, 11))
        with disk.gate.closed():
            call = background(lambda: log.purge(4))
            disk.gate.wait_for_arrival()
            assert log.durable_index == 0
            assert_waits(call)
        outcome(call)
        assert receipt.done()
        assert log.durable_index == 10
        assert sorted(disk.state.entries) == list(range(5, 11))


# --- truncation and reset beside a flush -----------------------------------------------------------------


@both
def test_a_flush_begun_before_a_truncation_does_not_raise_the_durable_index(
    disk: MemoryDisk, strategy: Strategy
) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 4))
        log.flush()
        seen: list[int] = []
        log.on_durable(seen.append)
        with disk.gate.closed():
            log.submit(span(4, 11))
            disk.gate.wait_for_arrival()
            call = background(lambda: log.truncate(3))
            eventually(lambda: log.next_index == 3, "the truncation is accepted")
            eventually(lambda: log.durable_index == 2, "and nothing above it counts as durable")
            disk.gate.let_pass()
            disk.gate.wait_for_arrival()
            eventually(lambda: len(disk.writes) >= 2, "the old flush ends")
            assert log.durable_index == 2
            assert_waits(call)
        outcome(call)
        assert (log.durable_index, log.last_index) == (2, 2)
        assert all(index <= 3 for index in seen), seen


@both
def test_a_durable_index_that_entries_in_place_of_others_bring_back_is_told_again(
    disk: MemoryDisk, strategy: Strategy
) -> None:
    seen: list[int] = []
    with open_log(disk, strategy) as log:
        log.on_durable(seen.append)
        log.append(span(1, 11))
        log.flush()
        eventually(lambda: seen == [10], "the first entries are told")
        log.splice(LogId(1, 4), [Entry(2, index, b"other") for index in range(5, 11)])
        eventually(lambda: len(seen) > 1 and seen[-1] == 10, "those in their place are told")


@both
def test_a_flush_begun_before_a_reset_does_not_raise_the_durable_index(
    disk: MemoryDisk, strategy: Strategy
) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            log.submit(span(1, 101))
            disk.gate.wait_for_arrival()
            call = background(lambda: log.reset(LogId(1, 7)))
            eventually(lambda: log.next_index == 8, "the reset is accepted")
            disk.gate.let_pass()
            disk.gate.wait_for_arrival()
            assert log.durable_index <= 7
        outcome(call)
        assert (log.durable_index, log.last_index) == (7, 7)
        log.append([entry(8)])
        log.flush()
        assert log.durable_index == 8
    assert disk.state.anchor == LogId(1, 7)
    assert sorted(disk.state.entries) == [8]


@both
def test_what_replaces_truncated_entries_is_written(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 11))
        log.flush()
        log.truncate(4)
        log.append(run(4, [2] * 3))
        log.flush()
        assert log.durable_index == 6
        assert [e.term for e in disk.state.entries.values()] == [1, 1, 1, 2, 2, 2]


@both
def test_nothing_stale_comes_back_after_a_truncation_beside_a_flush(
    disk: MemoryDisk, strategy: Strategy
) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            log.submit(span(1, 51))
            disk.gate.wait_for_arrival()
            log.submit(span(51, 61))
            call = background(lambda: log.truncate(21))
            eventually(lambda: log.next_index == 21, "the truncation is accepted")
            receipt = log.submit(run(21, [2, 2]))
        outcome(call)
        receipt.wait(PATIENCE_S)
        assert log.entries(1) == span(1, 21) + run(21, [2, 2])
    with open_log(disk, strategy) as log:
        assert log.entries(1) == span(1, 21) + run(21, [2, 2])


@both
def test_a_reset_tells_waiters_that_their_entries_are_gone(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy, NEVER) as log, disk.gate.closed():
        running = log.submit(span(1, 4))
        flushing = background(log.flush)
        disk.gate.wait_for_arrival()
        receipt = log.submit(span(4, 8))
        waiting = background(lambda: log.wait_durable(6, PATIENCE_S))
        assert_waits(waiting)
        reset = background(lambda: log.reset(LogId(3, 2)))
        eventually(lambda: log.next_index == 3, "the reset is accepted")
        disk.gate.open()
        with pytest.raises(TruncatedError):
            outcome(waiting)
        with pytest.raises(TruncatedError):
            receipt.wait(PATIENCE_S)
        outcome(reset)
        outcome(flushing)
        assert running.done()
        assert log.last == LogId(3, 2)


@both
def test_a_truncation_tells_only_those_whose_entries_it_took(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy, NEVER) as log:
        kept, cut, gone = log.submit(span(1, 4)), log.submit(span(4, 8)), log.submit(span(8, 9))
        log.truncate(6)
        kept.wait(PATIENCE_S)
        for receipt in (cut, gone):
            with pytest.raises(TruncatedError):
                receipt.wait(PATIENCE_S)
        assert log.entries(1) == span(1, 6)


@both
def test_a_reset_is_one_write(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 11))
        log.flush()
        calls = disk.calls
        log.reset(LogId(1, 5))
        assert disk.calls == calls + 1
        log.append(span(6, 9))
        log.flush()
        assert log.entries(6) == span(6, 9)
        assert disk.calls == calls + 2


@both
def test_a_conflict_is_one_write(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 11))
        log.flush()
        calls = disk.calls
        log.splice(LogId(1, 4), run(5, [2, 2, 3]))
        assert disk.calls == calls + 1
        assert (disk.writes[-1].truncate_from, len(disk.writes[-1].entries)) == (5, 3)


# --- order, and what is shared ---------------------------------------------------------------------------


@both
def test_one_write_at_a_time_in_the_order_of_acceptance(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        in_threads(8, lambda n: [log.propose(1, [b"%d" % n] * (1 + n % 3)) for _ in range(40)])
        log.flush()
        last = log.last_index
        assert log.durable_index == last == sum(40 * (1 + n % 3) for n in range(8))
    numbers = [batch.number for batch in disk.writes]
    assert numbers == sorted(set(numbers))
    written = [e.index for batch in disk.writes for e in batch.entries]
    assert written == list(range(1, last + 1))


def test_a_call_that_may_pass_the_gate_and_has_not_gone_yet_is_no_new_arrival(disk: MemoryDisk) -> None:
    with disk.gate.closed() as gate:
        call = background(gate.pass_through)
        gate.wait_for_arrival()
        with gate._lock:  # nobody goes before the next line has looked
            gate.let_pass()
            with pytest.raises(TimeoutError):
                gate.wait_for_arrival(timeout_s=0)
        outcome(call)


@both
def test_every_entry_is_written_once(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            for index in range(1, 101):
                log.submit([entry(index)])
                if index % 20 == 0:
                    disk.gate.wait_for_arrival()
                    disk.gate.let_pass()
        log.flush()
    assert [e.index for batch in disk.writes for e in batch.entries] == list(range(1, 101))


@both
def test_a_hundred_entries_are_one_write(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 101))
        log.flush()
        assert disk.calls == 1


@both
def test_those_who_come_while_a_write_runs_share_the_next(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            log.submit_propose(1, [b"first"])
            disk.gate.wait_for_arrival()
            calls = [background(lambda: log.propose(1, [b"x"])) for _ in range(20)]
            eventually(lambda: log.next_index == 22, "all are accepted")
        assert sorted(outcome(call)[0] for call in calls) == list(range(2, 22))
        log.flush()
        assert disk.calls == 2


@both
def test_a_vote_takes_everything_accepted_before_it_along(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy, NEVER) as log:
        receipt = log.submit(span(1, 4))
        log.save_hard_state(HardState(3, "a"))
        assert receipt.done()
        assert log.durable_index == 3


@both
def test_no_crash_shows_a_vote_without_what_was_accepted_before_it(
    disk: MemoryDisk, strategy: Strategy
) -> None:
    with open_log(disk, strategy, NEVER) as log, disk.gate.closed():
        log.submit(span(1, 4))
        call = background(lambda: log.save_hard_state(HardState(3, "a")))
        disk.gate.wait_for_arrival()
        for state in disk.crash_states():
            assert state.hard_state is None or len(state.entries) == 3
        disk.gate.open()
        outcome(call)


@pytest.mark.parametrize("call", ["truncate", "purge", "reset", "vote", "save", "meta", "flush", "snapshot"])
@both
def test_urgent_calls_do_not_wait_for_the_interval(disk: MemoryDisk, strategy: Strategy, call: str) -> None:
    calls = {
        "truncate": lambda log: log.truncate(5),
        "purge": lambda log: log.purge(5),
        "reset": lambda log: log.reset(LogId(1, 5)),
        "vote": lambda log: log.save_hard_state(HardState(9, "a")),
        "save": lambda log: log.save(meta={"a": b"b"}),
        "meta": lambda log: log.put_meta("a", b"b"),
        "flush": lambda log: log.flush(),
        "snapshot": lambda log: log.install_snapshot(LogId(5, 50)),
    }
    with open_log(disk, strategy, NEVER) as log:
        log.submit(span(1, 11))
        outcome(background(lambda: calls[call](log)))
        assert log.durable_index == log.last_index
        assert len(disk.writes) == 1


@both
def test_nothing_is_dropped_when_more_comes_than_may_wait(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy, pending_bytes_max=4096, backpressure_timeout_ms=120_000) as log:
        with disk.gate.closed():
            calls: list[Future[list[range]]] = [
                background(lambda: [log.propose(1, [b"x" * 500]) for _ in range(10)]) for _ in range(8)
            ]
            disk.gate.wait_for_arrival()
            time.sleep(0.02)
        assert sorted(r[0] for call in calls for r in outcome(call)) == list(range(1, 81))
        log.flush()
    assert sorted(disk.state.entries) == list(range(1, 81))
