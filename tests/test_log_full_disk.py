"""A full disk: what is refused, what goes on, and what happens when there is room again."""

from __future__ import annotations

import errno
import time

import pytest
from log_tools import NEVER, both, in_the_end, policies

from raftstore.entry import NO_ENTRY, HardState, LogId
from raftstore.errors import BackpressureError, GapError, StoreFailedError, StoreFullError
from raftstore.log import RaftLog
from raftstore.policy import FlushPolicy
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import PATIENCE_S, background, entry, eventually, outcome, run, span


def test_a_refused_append_is_as_if_it_had_never_been(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 4))
        disk.full = True
        with pytest.raises(StoreFullError):
            log.append(span(4, 7))
        assert (log.last_index, log.next_index, log.durable_index) == (3, 4, 3)
        with pytest.raises(GapError):
            log.append(span(7, 8))
        disk.full = False
        assert log.append(run(4, [2])) == LogId(2, 4)
        assert log.entries(1) == span(1, 4) + run(4, [2])
    assert len(disk.state.entries) == 4


@pytest.mark.parametrize("call", ["propose", "splice", "save", "submit"])
def test_every_way_to_append_says_that_the_disk_is_full(disk: MemoryDisk, call: str) -> None:
    calls = {
        "propose": lambda log: log.propose(1, [b"x"]),
        "splice": lambda log: log.splice(LogId(1, 3), [entry(4)]),
        "save": lambda log: log.save([entry(4)]),
        "submit": lambda log: log.submit([entry(4)]).wait(PATIENCE_S),
    }
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 4))
        disk.full = True
        with pytest.raises(StoreFullError):
            calls[call](log)
        assert (log.next_index, log.durable_index) == (4, 3)
        disk.full = False
        calls[call](log)
        assert log.last_index == 4


def test_what_builds_on_a_refused_append_is_refused_too(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 4))
        disk.full = True
        with disk.gate.closed():
            first = log.submit(span(4, 6))
            disk.gate.wait_for_arrival()
            second = log.submit(span(6, 8))
            third = background(lambda: log.append(span(8, 9)))
            eventually(lambda: log.next_index == 9, "all are accepted")
        for receipt in (first, second):
            with pytest.raises(StoreFullError):
                receipt.wait(PATIENCE_S)
        with pytest.raises(StoreFullError):
            outcome(third)
        assert log.next_index == 4
        disk.full = False
        log.append(span(4, 5))
        assert log.entries(1) == span(1, 5)
    assert sorted(disk.state.entries) == [1, 2, 3, 4]


def test_a_proposal_that_names_its_index_does_not_take_that_of_a_refused_one(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 4))
        disk.full = True
        with pytest.raises(StoreFullError):
            log.submit_propose(1, [b"sent to others already"], start=4).wait(PATIENCE_S)
        disk.full = False
        with pytest.raises(GapError):
            log.submit_propose(1, [b"the next one"], start=5)
        assert log.last_accepted == LogId(1, 3)


def test_a_refused_conflict_leaves_the_old_entries(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 7))
        disk.full = True
        with pytest.raises(StoreFullError):
            log.splice(LogId(1, 3), run(4, [2, 2]))
        assert log.entries(1) == span(1, 7)
        assert (log.last, log.durable_index, log.next_index) == (LogId(1, 6), 6, 7)
        disk.full = False
        log.splice(LogId(1, 3), run(4, [2, 2]))
        assert log.entries(1) == span(1, 4) + run(4, [2, 2])


def test_a_refused_save_does_not_keep_its_vote(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        disk.full = True
        with pytest.raises(StoreFullError):
            log.save(span(1, 3), hard_state=HardState(4, "a", 2), meta={"k": b"v"})
        assert log.hard_state == HardState()
        assert log.get_meta("k") is None
        log.save_hard_state(HardState(4, "b"))
        assert log.hard_state == HardState(4, "b")


@both
def test_votes_purges_and_metadata_still_work_on_a_full_disk(disk: MemoryDisk, strategy: Strategy) -> None:
    with open_log(disk, strategy) as log:
        log.append(span(1, 21))
        log.flush()
        disk.full = True
        log.save_hard_state(HardState(7, "a"))
        log.put_meta("k", b"v")
        log.purge(10)
        log.truncate(18)
        assert log.hard_state == HardState(7, "a", 10)
        assert (log.anchor, log.last_index, log.durable_index) == (LogId(1, 10), 17, 17)
        log.reset(LogId(2, 30))
        assert log.last == LogId(2, 30)
    assert disk.state.anchor == LogId(2, 30)


def test_a_vote_that_waits_behind_a_refused_append_still_counts(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        disk.full = True
        with disk.gate.closed():
            receipt = log.submit(span(1, 3))
            disk.gate.wait_for_arrival()
            vote = background(lambda: log.save_hard_state(HardState(2, "a")))
        with pytest.raises(StoreFullError):
            receipt.wait(PATIENCE_S)
        outcome(vote)
        assert log.hard_state == HardState(2, "a")
    assert disk.state.hard_state is not None
    assert not disk.state.entries


def test_a_vote_in_one_write_with_a_refused_append_still_counts(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst(), NEVER) as log:
        disk.full = True
        receipt = log.submit(span(1, 3))
        log.save_hard_state(HardState(2, "a"))
        assert log.hard_state == HardState(2, "a")
        with pytest.raises(StoreFullError):
            receipt.wait(PATIENCE_S)
        assert (log.next_index, log.durable_index) == (1, 0)


def test_commit_never_stays_above_what_a_full_disk_refused(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 4))
        disk.full = True
        with disk.gate.closed():
            receipt = log.submit(span(4, 9))
            disk.gate.wait_for_arrival()
            log.commit_to(7)
        with pytest.raises(StoreFullError):
            receipt.wait(PATIENCE_S)
        assert log.commit_index <= log.last_index == 3


def test_what_mem_first_acknowledged_is_written_when_there_is_room(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst()) as log:
        log.append(span(1, 4))
        log.flush()
        disk.full = True
        assert log.append(span(4, 6)) == LogId(1, 5)
        eventually(lambda: disk.calls >= 2, "the disk refuses")
        assert log.entries(1) == span(1, 6)
        assert log.durable_index == 3
        disk.full = False
        eventually(lambda: log.durable_index == 5, "it is tried again")
    assert sorted(disk.state.entries) == [1, 2, 3, 4, 5]


def _append_many(log: RaftLog) -> None:
    for index in range(1, 1000):
        log.append([entry(index, data=b"x" * 500)])


def test_mem_first_says_that_the_disk_is_full_to_later_appends(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), backpressure_timeout_ms=50, pending_bytes_max=2000) as log:
        disk.full = True
        with pytest.raises((StoreFullError, BackpressureError)):
            _append_many(log)
        accepted = log.last_index
        disk.full = False
        eventually(lambda: log.durable_index == accepted, "it is tried again")
        log.append([entry(accepted + 1)])
        log.flush()
        assert log.durable_index == accepted + 1


def test_votes_overtake_what_a_full_disk_keeps_waiting(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst()) as log:
        disk.full = True
        log.append(span(1, 4))
        eventually(lambda: disk.calls >= 1, "the disk refuses")
        log.save_hard_state(HardState(5, "a"))
        log.put_meta("k", b"v")
        assert log.hard_state == HardState(5, "a")
        assert log.durable_index == 0
        assert disk.state.hard_state is not None
        disk.full = False
        in_the_end(log.flush)
        assert log.durable_index == 3
    with open_log(disk, MemFirst()) as log:
        assert log.entries(1) == span(1, 4)
        assert log.hard_state == HardState(5, "a")
        assert log.get_meta("k") == b"v"


def test_repeating_a_vote_does_not_fail_because_of_somebody_elses_flush(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), NEVER) as log:
        log.save_hard_state(HardState(1, "a"))
        log.append(span(1, 4))
        disk.full = True
        with disk.gate.closed():
            flush = background(log.flush)
            disk.gate.wait_for_arrival()
            again = background(lambda: log.save_hard_state(HardState(1, "a")))
            time.sleep(0.02)
        with pytest.raises(StoreFullError):
            outcome(flush)
        outcome(again)
        disk.full = False
        in_the_end(log.flush)


@both
def test_a_refused_conflict_does_not_say_that_it_took_entries_back(
    disk: MemoryDisk, strategy: Strategy
) -> None:
    with open_log(disk, strategy) as log:
        with disk.gate.closed():
            receipt = log.submit(span(1, 4))
            disk.gate.wait_for_arrival()
            conflict = background(lambda: log.splice(LogId(1, 1), run(2, [2, 2])))
            eventually(lambda: log.durable_index == 0 and log.next_index == 4, "accepted")
            time.sleep(0.02)
            disk.gate.let_pass()
            eventually(lambda: len(disk.writes) == 1, "the entries are written")
            disk.gate.wait_for_arrival()
            disk.full = True
        with pytest.raises(StoreFullError):
            outcome(conflict)
        assert log.entries(1) == span(1, 4)
        receipt.wait(PATIENCE_S)
        disk.full = False


def test_who_waits_for_room_behind_what_a_full_disk_refuses_gets_an_answer(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst(), pending_bytes_max=600) as log:
        disk.full = True
        with disk.gate.closed():
            refused = background(lambda: log.append(span(1, 4)))
            disk.gate.wait_for_arrival()
            waiting = background(lambda: log.append(span(1, 4)))
            eventually(lambda: log._session.pipeline.ledger.room.is_queued, "the second waits for room")
        for call in (refused, waiting):
            with pytest.raises(StoreFullError):
                outcome(call)
        disk.full = False


def test_closing_tells_what_is_lost_if_the_disk_fails_while_a_vote_goes_ahead_of_it(disk: MemoryDisk) -> None:
    log = open_log(disk, MemFirst(), NEVER)
    log.append(span(1, 4))
    disk.full = True
    with pytest.raises(StoreFullError):
        log.flush()
    disk.fail_next(OSError(errno.ENOSPC, "full"))
    disk.fail_next(OSError(errno.EIO, "bad sector"))
    with pytest.raises(StoreFailedError):
        log.save_hard_state(HardState(2, "a"))
    with pytest.raises(StoreFailedError):
        log.close()


def test_flush_on_a_full_disk_says_so(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), NEVER) as log:
        log.append(span(1, 4))
        disk.full = True
        with pytest.raises(StoreFullError):
            log.flush()
        assert log.last_index == 3
        disk.full = False
        in_the_end(log.flush)
        assert log.durable_index == 3


def test_a_reset_on_a_full_disk_gives_up_what_was_waiting(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst()) as log:
        disk.full = True
        log.append(span(1, 4))
        eventually(lambda: disk.calls >= 1, "the disk refuses")
        in_the_end(lambda: log.reset(NO_ENTRY))
        assert log.is_empty
        disk.full = False
        log.append([entry(1, 3)])
        log.flush()
    assert [e.term for e in disk.state.entries.values()] == [3]


def test_closing_on_a_full_disk_says_so_and_loses_nothing(disk: MemoryDisk) -> None:
    log = open_log(disk, MemFirst(), NEVER)
    log.append(span(1, 4))
    log.flush()
    log.append(span(4, 6))
    disk.full = True
    with pytest.raises(StoreFullError):
        outcome(background(log.close))
    assert log.entries(1) == span(1, 6)
    disk.full = False
    in_the_end(log.close)
    with open_log(disk, MemFirst()) as log:
        assert log.entries(1) == span(1, 6)


def test_leaving_a_log_alone_on_a_full_disk_keeps_what_was_durable(disk: MemoryDisk) -> None:
    log = open_log(disk, MemFirst(), NEVER)
    log.append(span(1, 4))
    log.flush()
    log.append(span(4, 6))
    disk.full = True
    del log
    eventually(lambda: disk.owner is None, "the log is closed")
    disk.full = False
    with open_log(disk, MemFirst()) as log:
        assert log.entries(1) == span(1, 4)


def test_a_refused_reset_does_not_lower_the_commit_index(disk: MemoryDisk) -> None:
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 6))
        log.commit_to(4)
        log.flush()
        disk.full = True
        with pytest.raises(StoreFullError):
            log.save([entry(3, 9)], anchor=LogId(9, 2))
        assert (log.commit_index, log.last_index) == (4, 5)
        disk.full = False
    with open_log(disk, DiskFirst()) as log:
        assert log.commit_index == 4


def test_a_refused_replacement_does_not_commit_what_it_was_to_replace(disk: MemoryDisk) -> None:
    """Else a state machine would apply an entry that the leader has overwritten."""
    with open_log(disk, DiskFirst()) as log:
        log.append(span(1, 6))
        log.commit_to(2)
        log.flush()
        disk.full = True
        with pytest.raises(StoreFullError):
            log.save([entry(4, 2), entry(5, 2)], truncate_from=4, hard_state=HardState(2, None, 5))
        assert log.commit_index == 2
        assert log.term(4) == 1
        disk.full = False
        log.save([entry(4, 2), entry(5, 2)], truncate_from=4, hard_state=HardState(2, None, 5))
        assert (log.commit_index, log.term(4)) == (5, 2)


@both
@policies
def test_a_refused_save_commits_nothing(disk: MemoryDisk, strategy: Strategy, policy: FlushPolicy) -> None:
    """Not even entries that were there before."""
    with open_log(disk, strategy, policy) as log:
        log.append(span(1, 6))
        log.commit_to(2)
        log.flush()
        disk.full = True
        with pytest.raises(StoreFullError):
            log.save([entry(6)], hard_state=HardState(2, "a", 4))
        assert log.commit_index == 2
        log.save_hard_state(HardState(2, "b"))
        assert log.hard_state == HardState(2, "b", 2)
        disk.full = False
    with open_log(disk, strategy, policy) as log:
        assert log.commit_index == 2


@both
@pytest.mark.parametrize(("voted", "committed"), [(0, 3), (4, 4)])
def test_what_others_commit_behind_a_refused_save_is_committed(
    disk: MemoryDisk, strategy: Strategy, voted: int, committed: int
) -> None:
    """Though the save said so, too, and they raised nothing."""
    with open_log(disk, strategy, NEVER) as log:
        log.save(span(1, 9))
        disk.full = True
        with disk.gate.closed():
            save = background(lambda: log.save([entry(9)], hard_state=HardState(1, None, 7)))
            disk.gate.wait_for_arrival()
            log.commit_to(3)
            vote = background(lambda: log.save_hard_state(HardState(2, "a", voted)))
            eventually(lambda: log._pipeline.ledger.accepted.hard_state.term == 2, "accepted")
            purge = background(lambda: log.purge(2))
            eventually(lambda: log._pipeline.ledger.accepted.anchor is not None, "accepted")
        with pytest.raises(StoreFullError):
            outcome(save)
        outcome(vote)
        outcome(purge)
        assert log.commit_index == committed
        disk.full = False
    with open_log(disk, strategy) as log:
        assert (log.commit_index, log.last_index) == (committed, 8)
