"""Promises about hard state, the commit index, metadata, and saving all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftstore.entry import NO_ENTRY, HardState, LogId
from raftstore.errors import (
    CommittedError,
    EntryTooLargeError,
    GapError,
    PurgedError,
    RaftStoreError,
    TermError,
    VoteError,
)
from raftstore.log import RaftLog
from raftstore.testing.log_base import LogPromises
from raftstore.testing.tools import entry, run, span


class HardStatePromises(LogPromises):
    def test_a_fresh_log_is_in_term_zero_and_has_voted_for_nobody(self, log: RaftLog) -> None:
        assert log.hard_state == HardState(0, None, 0)

    def test_a_saved_hard_state_is_there_after_opening_again(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 4))
            log.save_hard_state(HardState(3, "node-b", 2))
            assert log.hard_state == HardState(3, "node-b", 2)
        with self.open(path) as log:
            assert log.hard_state == HardState(3, "node-b", 2)

    def test_the_term_never_goes_down(self, log: RaftLog) -> None:
        log.save_hard_state(HardState(5, "a"))
        with pytest.raises(TermError):
            log.save_hard_state(HardState(4))
        assert log.hard_state == HardState(5, "a")

    @pytest.mark.parametrize("other", ["b", None, ""])
    def test_a_vote_never_changes_within_its_term(self, log: RaftLog, other: str | None) -> None:
        log.save_hard_state(HardState(5, "a"))
        with pytest.raises(VoteError):
            log.save_hard_state(HardState(5, other))
        assert log.hard_state == HardState(5, "a")

    def test_a_vote_may_be_cast_once_in_a_term_and_repeated(self, log: RaftLog) -> None:
        log.save_hard_state(HardState(5))
        log.save_hard_state(HardState(5, "a"))
        log.save_hard_state(HardState(5, "a"))
        log.save_hard_state(HardState(6))
        log.save_hard_state(HardState(6, "b"))
        assert log.hard_state == HardState(6, "b")

    def test_a_vote_for_the_empty_name_is_a_vote(self, path: Path) -> None:
        with self.open(path) as log:
            log.save_hard_state(HardState(1, ""))
        with self.open(path) as log:
            assert log.hard_state == HardState(1, "")
            with pytest.raises(VoteError):
                log.save_hard_state(HardState(1, "a"))

    @pytest.mark.parametrize("bad", [HardState(-1), HardState(2**63), HardState(1, "a", -1)])
    def test_a_hard_state_outside_the_numbers_of_a_log_is_refused(self, log: RaftLog, bad: HardState) -> None:
        try:
            log.save_hard_state(bad)
        except (RaftStoreError, ValueError):
            assert log.hard_state == HardState()
        else:
            assert bad.commit < 0, "only a commit index below the present one may be passed over"
            assert log.commit_index == 0

    def test_a_hard_state_with_a_lower_commit_does_not_lower_it(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        log.commit_to(4)
        log.save_hard_state(HardState(2, "a", 1))
        assert log.hard_state == HardState(2, "a", 4)

    def test_a_hard_state_cannot_commit_what_is_not_there(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        with pytest.raises(GapError):
            log.save_hard_state(HardState(2, "a", 6))
        assert log.hard_state == HardState()


class CommitPromises(LogPromises):
    def test_commit_goes_up_and_never_down(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        log.commit_to(3)
        assert log.commit_index == 3
        log.commit_to(2)
        log.commit_to(0)
        assert log.commit_index == 3

    def test_commit_above_the_last_entry_is_refused(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        with pytest.raises(GapError):
            log.commit_to(6)
        assert log.commit_index == 0
        log.commit_to(5)
        assert log.commit_index == 5

    def test_commit_and_the_hard_states_commit_are_one_number(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        log.commit_to(3)
        assert log.hard_state.commit == log.commit_index == 3

    def test_commit_is_there_after_closing_and_opening_again(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 6))
            log.commit_to(4)
        with self.open(path) as log:
            assert log.commit_index == 4
            with pytest.raises(CommittedError):
                log.truncate(4)

    def test_the_majority_index_follows_raft(self, log: RaftLog) -> None:
        log.append(run(1, [1, 2, 2]))
        log.flush()
        log.commit_to(2)
        assert log.majority_index([2, 12], 2) == 3
        assert log.majority_index([2, 2], 2) is None
        assert log.majority_index([3, 3], 3) is None

    def test_an_entry_of_an_older_term_is_not_committed_by_counting(self, log: RaftLog) -> None:
        log.append(run(1, [1, 2]))
        log.flush()
        assert log.majority_index([2, 2], 3) is None
        log.append([entry(3, 3)])
        log.flush()
        assert log.majority_index([3, 2], 3) == 3

    def test_a_majority_counts_every_voter(self, log: RaftLog) -> None:
        log.append(span(1, 11))
        log.flush()
        assert log.majority_index([], 1) == 10
        assert log.majority_index([7], 1) == 7
        assert log.majority_index([7, 6], 1) == 7
        assert log.majority_index([7, 6, 5], 1) == 6
        assert log.majority_index([7, 6, 5, 4], 1) == 6
        assert log.majority_index([7, 0, 0, 0], 1) is None

    def test_a_node_that_does_not_vote_is_not_counted(self, log: RaftLog) -> None:
        log.append(span(1, 11))
        log.flush()
        assert log.majority_index([], 1, voter=False) is None
        assert log.majority_index([7], 1, voter=False) == 7
        assert log.majority_index([7, 5], 1, voter=False) == 5

    def test_a_majority_above_the_log_commits_nothing(self, log: RaftLog) -> None:
        log.append(span(1, 4))
        log.flush()
        assert log.majority_index([9, 9], 1) is None

    def test_a_majority_at_a_purged_index_commits_nothing(self, log: RaftLog) -> None:
        log.append(span(1, 11))
        log.purge(8)
        assert log.majority_index([8, 5], 1) is None
        assert log.majority_index([3, 2], 1) is None


class MetaPromises(LogPromises):
    def test_metadata_is_durable_and_none_deletes_it(self, path: Path) -> None:
        with self.open(path) as log:
            assert log.get_meta("a") is None
            log.put_meta("a", b"\0\xff")
            log.put_meta("b", b"")
            log.put_meta("c", b"gone")
            log.put_meta("c", None)
            log.put_meta("never", None)
        with self.open(path) as log:
            assert [log.get_meta(key) for key in ("a", "b", "c", "never")] == [b"\0\xff", b"", None, None]

    def test_too_much_metadata_is_refused_and_changes_nothing(self, path: Path) -> None:
        with self.open(path) as log:
            log.put_meta("a", b"x" * 60_000)
            with pytest.raises(EntryTooLargeError):
                log.put_meta("b", b"x" * 6_000)
            assert log.get_meta("b") is None
            log.put_meta("a", None)
            log.put_meta("b", b"x" * 60_000)
        with self.open(path) as log:
            assert (log.get_meta("a"), log.get_meta("b")) == (None, b"x" * 60_000)


class SavePromises(LogPromises):
    def test_save_does_all_of_it_in_one(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 11))
            log.save(
                run(6, [4, 4]),
                truncate_from=6,
                hard_state=HardState(4, "a", 7),
                meta={"peers": b"abc", "absent": None},
            )
            assert log.durable_index == 7
            assert log.entries(1) == span(1, 6) + run(6, [4, 4])
        with self.open(path) as log:
            assert log.entries(1) == span(1, 6) + run(6, [4, 4])
            assert log.hard_state == HardState(4, "a", 7)
            assert log.get_meta("peers") == b"abc"

    def test_save_with_an_anchor_empties_the_log_first(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 51))
            log.save(run(21, [6, 6]), anchor=LogId(5, 20), hard_state=HardState(6, None, 21))
            assert (log.anchor, log.last, log.commit_index) == (LogId(5, 20), LogId(6, 22), 21)
        with self.open(path) as log:
            assert log.entries(21) == run(21, [6, 6])
            assert log.entry(40) is None

    def test_saving_nothing_changes_nothing(self, log: RaftLog) -> None:
        log.append(span(1, 3))
        log.save()
        assert log.entries(1) == span(1, 3)

    def test_a_save_of_which_one_part_is_refused_changes_nothing(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        log.save_hard_state(HardState(3, "a"))
        log.commit_to(2)
        good = run(6, [3])
        refusals: list[tuple[type[RaftStoreError], dict[str, object]]] = [
            (GapError, {"entries": run(7, [3])}),
            (TermError, {"entries": good, "hard_state": HardState(2)}),
            (VoteError, {"entries": good, "hard_state": HardState(3, "b")}),
            (GapError, {"entries": good, "hard_state": HardState(4, "b", 7)}),
            (CommittedError, {"truncate_from": 2, "meta": {"k": b"v"}}),
            (PurgedError, {"truncate_from": 0, "meta": {"k": b"v"}}),
            (EntryTooLargeError, {"entries": good, "meta": {"k": b"x" * 70_000}}),
            (GapError, {"anchor": LogId(9, 100), "entries": good}),
            (TermError, {"anchor": LogId(9, 100), "entries": run(101, [8])}),
        ]
        for error, call in refusals:
            with pytest.raises(error):
                log.save(**call)  # type: ignore[arg-type]
        log.flush()
        assert log.entries(1) == span(1, 6)
        assert (log.anchor, log.hard_state) == (NO_ENTRY, HardState(3, "a", 2))
        assert log.get_meta("k") is None

    def test_what_save_commits_may_be_what_it_appends(self, log: RaftLog) -> None:
        log.save(span(1, 4), hard_state=HardState(1, None, 3))
        assert log.commit_index == 3
