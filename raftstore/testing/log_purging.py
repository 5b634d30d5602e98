"""Promises about what drops a prefix or everything: purge, snapshots and reset."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftstore.entry import NO_ENTRY, Entry, HardState, LogId
from raftstore.errors import GapError, RaftStoreError
from raftstore.log import RaftLog
from raftstore.testing.log_base import LogPromises
from raftstore.testing.tools import entry, run, span


class PurgePromises(LogPromises):
    def test_purge_is_inclusive(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 101))
            log.purge(50)
            assert (log.first_index, log.last_index, len(log)) == (51, 100, 50)
            assert log.durable_index == 100
        with self.open(path) as log:
            assert (log.anchor, log.first_index, len(log)) == (LogId(1, 50), 51, 50)

    def test_purge_implies_committed(self, log: RaftLog) -> None:
        log.append(span(1, 11))
        log.purge(5)
        assert log.commit_index == 5
        log.commit_to(8)
        log.purge(7)
        assert log.commit_index == 8

    def test_purging_at_or_below_the_anchor_does_nothing(self, log: RaftLog) -> None:
        log.append(span(1, 11))
        log.purge(5)
        log.purge(5)
        log.purge(2)
        assert log.anchor == LogId(1, 5)

    def test_purging_above_the_last_entry_is_refused(self, log: RaftLog) -> None:
        log.append(span(1, 4))
        with pytest.raises(GapError):
            log.purge(4)
        log.flush()
        assert (log.first_index, log.commit_index) == (1, 0)

    def test_a_log_purged_to_its_end_goes_on_where_it_ended(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(run(1, [1, 2, 3]))
            log.purge(3)
            assert log.is_empty
            assert (log.anchor, log.last) == (LogId(3, 3), LogId(3, 3))
            assert log.durable_index == 3
        with self.open(path) as log:
            assert log.is_empty
            assert (log.anchor, log.next_index, log.durable_index) == (LogId(3, 3), 4, 3)
            with pytest.raises(GapError):
                log.append([entry(1, 3)])
            assert log.append([entry(4, 3)]) == LogId(3, 4)


class SnapshotPromises(LogPromises):
    def test_a_snapshot_at_or_below_the_commit_index_changes_nothing(self, log: RaftLog) -> None:
        log.append(span(1, 11))
        log.commit_to(6)
        for last_included in (LogId(1, 6), LogId(1, 3), LogId(9, 6), NO_ENTRY):
            assert log.install_snapshot(last_included) is False
        log.flush()
        assert log.entries(1) == span(1, 11)

    def test_a_snapshot_at_an_entry_that_the_log_holds_keeps_what_follows(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 11))
            log.install_snapshot(LogId(1, 6))
            assert log.entries(7) == span(7, 11)
            assert (log.anchor, log.commit_index) == (LogId(1, 6), 6)
        with self.open(path) as log:
            assert log.entries(7) == span(7, 11)

    @pytest.mark.parametrize("last_included", [LogId(2, 6), LogId(1, 11), LogId(7, 500)])
    def test_a_snapshot_of_another_log_empties_this_one(self, path: Path, last_included: LogId) -> None:
        with self.open(path) as log:
            log.append(span(1, 11))
            log.save_hard_state(HardState(7, "b"))
            assert log.install_snapshot(last_included) is True
            assert log.is_empty
            assert log.anchor == log.last == last_included
            assert log.commit_index == log.durable_index == last_included.index
        with self.open(path) as log:
            assert log.is_empty
            assert (log.anchor, log.commit_index) == (last_included, last_included.index)
            assert log.hard_state == HardState(7, "b", last_included.index)
            assert log.append([entry(last_included.index + 1, 7)]).index == last_included.index + 1


class ResetPromises(LogPromises):
    @pytest.mark.parametrize("anchor", [NO_ENTRY, LogId(1, 3), LogId(1, 7), LogId(4, 900)])
    def test_reset_empties_the_log_wherever_the_anchor_goes(self, path: Path, anchor: LogId) -> None:
        with self.open(path) as log:
            log.append(span(1, 11))
            log.purge(5)
            log.commit_to(8)
            log.reset(anchor)
            assert log.is_empty
            assert log.anchor == log.last == anchor
            assert log.commit_index == log.durable_index == anchor.index
        with self.open(path) as log:
            assert log.is_empty
            assert (log.anchor, log.commit_index, log.next_index) == (anchor, anchor.index, anchor.index + 1)

    def test_reset_keeps_hard_state_and_metadata(self, path: Path) -> None:
        with self.open(path) as log:
            log.save_hard_state(HardState(4, "me"))
            log.put_meta("peers", b"abc")
            log.append(span(1, 11))
            log.reset(LogId(2, 20))
        with self.open(path) as log:
            assert log.hard_state == HardState(4, "me", 20)
            assert log.get_meta("peers") == b"abc"

    def test_nothing_of_the_old_log_comes_back_under_a_lower_anchor(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 81))
            log.purge(50)
            log.reset(NO_ENTRY)
            log.append(run(1, [3] * 10))
        with self.open(path) as log:
            assert log.entries(1) == run(1, [3] * 10)
            assert log.entry(60) is None

    @pytest.mark.parametrize("anchor", [LogId(-1, 3), LogId(1, -3), LogId(1, 2**63), LogId(2**63, 1)])
    def test_an_anchor_outside_the_numbers_of_a_log_is_refused(self, log: RaftLog, anchor: LogId) -> None:
        log.append(span(1, 3))
        with pytest.raises((RaftStoreError, ValueError)):
            log.reset(anchor)
        with pytest.raises((RaftStoreError, ValueError)):
            log.save(anchor=anchor)
        log.flush()
        assert log.entries(1) == [Entry(1, 1, b"1@1"), Entry(1, 2, b"2@1")]
