"""Promises about the follower's path, and about what takes entries back: splice and truncate."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftstore.entry import NO_ENTRY, LogId, Splice
from raftstore.errors import CommittedError, GapError, PurgedError, TermError
from raftstore.log import RaftLog
from raftstore.testing.log_base import LogPromises
from raftstore.testing.tools import entry, ids, run, span


def matched(index: int) -> Splice:
    return Splice(matched=True, match_index=index)


def conflict(term: int, index: int) -> Splice:
    return Splice(matched=False, conflict=LogId(term, index))


class SplicePromises(LogPromises):
    def test_a_first_message_fills_an_empty_log(self, log: RaftLog) -> None:
        assert log.splice(NO_ENTRY, run(1, [1, 1, 2])) == matched(3)
        log.flush()
        assert log.entries(1) == run(1, [1, 1, 2])

    def test_an_empty_heartbeat_verifies_prev_and_changes_nothing(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        assert log.splice(LogId(1, 3), []) == matched(3)
        assert log.splice(NO_ENTRY, []) == matched(0)
        log.flush()
        assert log.entries(1) == span(1, 6)

    def test_a_duplicate_never_truncates(self, log: RaftLog) -> None:
        log.append(span(1, 10))
        assert log.splice(NO_ENTRY, span(1, 4)) == matched(3)
        assert log.splice(LogId(1, 4), span(5, 8)) == matched(7)
        log.flush()
        assert log.entries(1) == span(1, 10)

    def test_an_overlap_without_conflict_only_appends_what_is_new(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        assert log.splice(LogId(1, 2), span(3, 9)) == matched(8)
        log.flush()
        assert log.entries(1) == span(1, 9)

    @pytest.mark.parametrize("at", [3, 4, 5, 6])
    def test_truncation_starts_at_the_first_real_conflict(self, log: RaftLog, at: int) -> None:
        log.append(span(1, 10))
        message = run(3, [1] * (at - 3) + [2] * (8 - at))
        assert log.splice(LogId(1, 2), message) == matched(7)
        log.flush()
        assert log.entries(1) == span(1, 3) + message

    def test_a_shorter_new_end_leaves_no_stale_entry_behind(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 51))
            assert log.splice(LogId(1, 9), [entry(10, 2)]) == matched(10)
            assert (log.last, log.durable_index) == (LogId(2, 10), 10)
        with self.open(path) as log:
            assert log.entries(1) == [*span(1, 10), entry(10, 2)]
            assert log.next_index == 11

    def test_a_mismatch_names_our_term_there_and_its_first_index(self, log: RaftLog) -> None:
        log.append(run(1, [1, 2, 2, 2, 3]))
        assert log.splice(LogId(9, 4), [entry(5, 9)]) == conflict(2, 2)
        assert log.splice(LogId(2, 5), []) == conflict(3, 5)
        log.flush()
        assert log.entries(1) == run(1, [1, 2, 2, 2, 3])

    def test_a_conflict_in_a_partly_purged_term_names_its_first_live_index(self, log: RaftLog) -> None:
        log.append(run(1, [1, 2, 2, 2, 3]))
        log.purge(2)
        assert log.splice(LogId(9, 4), []) == conflict(2, 3)

    def test_a_log_that_ends_before_prev_names_its_next_index(self, log: RaftLog) -> None:
        assert log.splice(LogId(1, 1), [entry(2)]) == conflict(0, 1)
        log.append(span(1, 4))
        assert log.splice(LogId(1, 4), [entry(5)]) == conflict(0, 4)
        assert log.splice(LogId(1, 400), []) == conflict(0, 4)
        assert log.next_index == 4

    def test_what_lies_at_or_below_the_anchor_is_taken_as_matching(self, log: RaftLog) -> None:
        log.append(span(1, 11, term=3))
        log.purge(6)
        assert log.splice(LogId(1, 2), run(3, [1, 1])) == matched(6)
        assert log.splice(LogId(2, 4), run(5, [2, 2, 3, 3])) == matched(8)
        assert log.splice(LogId(3, 4), run(5, [3] * 8)) == matched(12)
        log.flush()
        assert log.entries(7) == span(7, 13, term=3)

    def test_prev_may_be_the_anchor(self, log: RaftLog) -> None:
        log.reset(LogId(4, 100))
        assert log.splice(LogId(4, 100), run(101, [4, 5])) == matched(102)
        with pytest.raises(CommittedError):
            log.splice(LogId(3, 100), run(101, [4, 5]))

    def test_a_conflict_at_or_below_the_commit_index_is_refused(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        log.commit_to(4)
        with pytest.raises(CommittedError):
            log.splice(LogId(1, 3), run(4, [2, 2, 2]))
        log.flush()
        assert log.entries(1) == span(1, 6)
        assert log.splice(LogId(1, 4), [entry(5, 2)]) == matched(5)

    def test_a_message_that_is_not_a_run_is_refused_whole(self, log: RaftLog) -> None:
        log.append(span(1, 4, term=2))
        with pytest.raises(GapError):
            log.splice(LogId(2, 3), [entry(5, 2)])
        with pytest.raises(GapError):
            log.splice(LogId(2, 3), [entry(4, 2), entry(6, 2)])
        with pytest.raises(TermError):
            log.splice(LogId(2, 3), run(4, [3, 2]))
        with pytest.raises(TermError):
            log.splice(LogId(2, 3), [entry(4, 1)])
        assert log.next_index == 4

    def test_match_index_is_what_the_message_verified_even_if_the_log_is_longer(self, log: RaftLog) -> None:
        log.append(span(1, 20))
        assert log.splice(LogId(1, 5), span(6, 9)) == matched(8)
        log.flush()
        assert log.last_index == 19

    def test_a_resend_from_the_very_beginning_does_not_reset_the_log(self, log: RaftLog) -> None:
        log.append(span(1, 9))
        assert log.splice(NO_ENTRY, span(1, 3)) == matched(2)
        log.flush()
        assert log.last_index == 8

    def test_a_conflict_is_durable_when_the_call_returns(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 6))
            log.splice(LogId(1, 2), run(3, [2, 2]))
            assert log.durable_index == log.last_index == 4
            assert log.entries(1) == [*span(1, 3), *run(3, [2, 2])]

    def test_a_submitted_splice_tells_its_outcome_at_once(self, log: RaftLog) -> None:
        log.submit(span(1, 4))
        receipt = log.submit_splice(LogId(1, 3), [entry(4, 2)])
        assert receipt.splice == matched(4)
        refused = log.submit_splice(LogId(5, 2), [])
        assert refused.splice == conflict(1, 1)
        log.flush()
        assert receipt.done()
        assert ids(log.entries(4)) == [LogId(2, 4)]


class TruncatePromises(LogPromises):
    def test_truncate_drops_start_and_everything_after_it(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 101))
            log.truncate(76)
            assert (log.last_index, log.next_index, log.durable_index) == (75, 76, 75)
        with self.open(path) as log:
            assert log.entries(1) == span(1, 76)

    def test_truncating_above_the_end_does_nothing(self, log: RaftLog) -> None:
        log.append(span(1, 4))
        log.truncate(4)
        log.truncate(400)
        log.flush()
        assert log.last_index == 3

    def test_truncating_an_empty_log_above_its_end_does_nothing(self, log: RaftLog) -> None:
        log.truncate(1)
        assert log.is_empty

    def test_truncating_what_is_purged_is_refused(self, log: RaftLog) -> None:
        log.append(span(1, 10))
        log.purge(5)
        for start in (1, 5):
            with pytest.raises(PurgedError):
                log.truncate(start)
        assert log.last_index == 9

    def test_truncating_what_is_committed_is_refused(self, log: RaftLog) -> None:
        log.append(span(1, 10))
        log.commit_to(5)
        with pytest.raises(CommittedError):
            log.truncate(5)
        log.truncate(6)
        assert log.last_index == 5

    def test_the_whole_log_can_be_truncated(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 10))
            log.truncate(1)
            assert log.is_empty
            assert log.last == NO_ENTRY
            log.append([entry(1, 9)])
        with self.open(path) as log:
            assert log.entries(1) == [entry(1, 9)]

    def test_what_is_appended_after_a_truncation_replaces_the_old_entries(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 31))
            log.truncate(11)
            log.append(run(11, [2] * 5))
            log.flush()
            assert log.durable_index == 15
        with self.open(path) as log:
            assert log.entries(1) == span(1, 11) + run(11, [2] * 5)
