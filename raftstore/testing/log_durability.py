"""Promises about what is durable when, about waiting for it, and about opening and closing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from raftstore.entry import HardState, LogId
from raftstore.errors import GapError, StoreClosedError, StoreLockedError
from raftstore.log import RaftLog
from raftstore.testing.log_base import LogPromises
from raftstore.testing.tools import PATIENCE_S, entry, eventually, run, span


class DurabilityPromises(LogPromises):
    def test_flush_makes_everything_accepted_durable(self, log: RaftLog) -> None:
        log.append(span(1, 4))
        log.submit(span(4, 8))
        log.flush()
        assert log.durable_index == log.last_index == 7

    def test_flushing_an_idle_log_is_fine(self, log: RaftLog) -> None:
        log.flush()
        log.append([entry(1)])
        log.flush()
        log.flush()
        assert log.durable_index == 1

    def test_what_is_accepted_becomes_durable_without_being_asked(self, log: RaftLog) -> None:
        log.submit(span(1, 101))
        eventually(lambda: log.durable_index == 100, "the background flush")
        assert log.last_index == 100

    def test_wait_durable_returns_when_the_entry_is_durable(self, log: RaftLog) -> None:
        log.submit(span(1, 6))
        log.wait_durable(5, PATIENCE_S)
        assert log.durable_index == 5
        log.wait_durable(2, 0)

    def test_waiting_above_the_accepted_end_is_refused(self, log: RaftLog) -> None:
        log.append(span(1, 4))
        with pytest.raises(GapError):
            log.wait_durable(4, PATIENCE_S)

    def test_waiting_at_or_below_the_anchor_returns_at_once(self, log: RaftLog) -> None:
        log.reset(LogId(3, 50))
        assert log.durable_index == 50
        log.wait_durable(50, 0)
        log.wait_durable(7, 0)

    def test_truncation_lowers_the_durable_index_and_what_follows_raises_it_again(self, log: RaftLog) -> None:
        log.append(span(1, 11))
        log.flush()
        log.truncate(4)
        assert log.durable_index == 3
        log.append(run(4, [2] * 4))
        log.flush()
        assert log.durable_index == 7

    def test_the_durable_index_reaches_everybody_who_asked_in_order(self, log: RaftLog) -> None:
        seen: list[int] = []
        unsubscribe = log.on_durable(seen.append)
        for index in range(1, 21):
            log.submit([entry(index)])
        log.flush()
        eventually(lambda: bool(seen) and seen[-1] == 20, "the callback")
        assert seen == sorted(seen)
        unsubscribe()
        count = len(seen)
        log.append([entry(21)])
        log.flush()
        assert len(seen) == count

    def test_a_waiting_call_inside_a_durable_callback_raises(self, log: RaftLog) -> None:
        outcome: list[object] = []
        done = threading.Event()

        def callback(_index: int) -> None:
            for call in (log.flush, lambda: log.wait_durable(1, 1), lambda: log.put_meta("a", b"")):
                try:
                    outcome.append(call())
                except Exception as error:  # noqa: BLE001
                    outcome.append(error)
            done.set()

        log.on_durable(callback)
        log.append([entry(1)])
        log.flush()
        assert done.wait(PATIENCE_S)
        assert all(isinstance(result, Exception) for result in outcome), outcome
        log.append([entry(2)])
        log.flush()

    def test_a_callback_that_raises_harms_nobody(self, log: RaftLog) -> None:
        seen: list[int] = []

        def bad(_index: int) -> None:
            raise RuntimeError("planted")

        log.on_durable(bad)
        log.on_durable(seen.append)
        log.append([entry(1)])
        log.flush()
        log.append([entry(2)])
        log.flush()
        eventually(lambda: bool(seen) and seen[-1] == 2, "the other callback")

    def test_a_timeout_while_waiting_is_a_timeout_error(self, log: RaftLog) -> None:
        log.append([entry(1)])
        receipt = log.submit([entry(2)])
        try:
            receipt.wait(0)
        except TimeoutError:
            receipt.wait(PATIENCE_S)
        assert receipt.done()


class LifePromises(LogPromises):
    def test_closing_keeps_everything_accepted(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 4))
            log.submit(span(4, 9))
            log.commit_to(5)
        with self.open(path) as log:
            assert log.entries(1) == span(1, 9)
            assert (log.commit_index, log.durable_index) == (5, 8)

    def test_closing_twice_is_fine(self, path: Path) -> None:
        log = self.open(path)
        log.append([entry(1)])
        log.close()
        log.close()

    def test_reading_a_closed_log_is_refused(self, path: Path) -> None:
        log = self.open(path)
        log.append([entry(1)])
        log.close()
        for call in (
            lambda: log.entry(1),
            lambda: log.entries(1),
            lambda: list(log.scan()),
            lambda: log.term(1),
        ):
            with pytest.raises(StoreClosedError):
                call()

    def test_opening_again_and_again_changes_nothing(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(run(1, [1, 2, 2, 3]))
            log.purge(1)
            log.save_hard_state(HardState(3, "x", 2))
        for _ in range(3):
            with self.open(path) as log:
                assert log.entries(2) == run(2, [2, 2, 3])
                assert log.hard_state == HardState(3, "x", 2)
                assert log.recovery.acknowledged_missing == "no"

    def test_the_report_tells_whether_the_store_was_made(self, path: Path) -> None:
        with self.open(path) as log:
            assert log.recovery.created
            log.append(span(1, 4))
        with self.open(path) as log:
            assert not log.recovery.created
            assert log.recovery.entries == 3

    def test_missing_parents_are_made(self, tmp_path: Path) -> None:
        with self.open(tmp_path / "a" / "b" / "c") as log:
            log.append([entry(1)])
        with self.open(tmp_path / "a" / "b" / "c") as log:
            assert log.last_index == 1

    def test_a_second_opening_is_refused_while_the_first_lives(self, path: Path) -> None:
        with self.open(path) as log:
            log.append([entry(1)])
            with pytest.raises(StoreLockedError):
                self.open(path)
            log.append([entry(2)])
        with self.open(path) as log:
            assert log.last_index == 2

    def test_two_logs_beside_each_other_do_not_meet(self, tmp_path: Path) -> None:
        with self.open(tmp_path / "one") as one, self.open(tmp_path / "two") as two:
            one.append(span(1, 4))
            two.append(span(1, 9, term=2))
            one.flush()
            two.flush()
            assert (one.entries(1), two.entries(1)) == (span(1, 4), span(1, 9, term=2))

    def test_the_status_is_one_snapshot_of_the_numbers(self, log: RaftLog) -> None:
        log.append(span(1, 6))
        log.flush()
        log.commit_to(2)
        status = log.status()
        assert (status.last_index, status.durable_index, status.commit_index) == (5, 5, 2)
        assert (status.pending_entries, status.pending_bytes) == (0, 0)

    def test_steady_appending_and_purging_goes_on_for_ever(self, path: Path) -> None:
        with self.open(path) as log:
            for start in range(1, 2001, 100):
                log.append(span(start, start + 100))
                log.purge(start + 79)
                assert len(log) == 20
        with self.open(path) as log:
            assert log.entries(1981) == span(1981, 2001)
