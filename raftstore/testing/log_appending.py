"""Promises about appending: the leader's path, pipelined writes, and what is refused at the door."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from raftstore.entry import INDEX_MAX, Entry, HardState, LogId
from raftstore.errors import EntryTooLargeError, GapError, RaftStoreError, StoreClosedError, TermError
from raftstore.log import RaftLog
from raftstore.testing.log_base import LogPromises
from raftstore.testing.tools import PATIENCE_S, entry, run, span

BAD_ENTRIES = {
    "term below zero": Entry(-1, 3, b""),
    "term above 2**63-1": Entry(2**63, 3, b""),
    "kind below zero": Entry(1, 3, b"", -1),
    "kind above 255": Entry(1, 3, b"", 256),
    "data is text": Entry(1, 3, "text"),  # type: ignore[arg-type]
    "data is missing": Entry(1, 3, None),  # type: ignore[arg-type]
    "index is missing": Entry(1, None, b""),  # type: ignore[arg-type]
    "term is text": Entry("1", 3, b""),  # type: ignore[arg-type]
}


class AppendingPromises(LogPromises):
    def test_append_returns_the_id_of_the_last_entry(self, log: RaftLog) -> None:
        assert log.append(run(1, [1, 2])) == LogId(2, 2)
        assert log.append([entry(3, 2)]) == LogId(2, 3)

    def test_appending_nothing_does_nothing(self, log: RaftLog) -> None:
        log.append([])
        assert log.is_empty
        log.append(span(1, 3))
        assert log.append([]) == LogId(1, 2)
        assert log.next_index == 3

    @pytest.mark.parametrize("start", [1, 2, 4, 5, INDEX_MAX])
    def test_a_run_that_does_not_start_at_next_index_is_refused(self, log: RaftLog, start: int) -> None:
        log.append(span(1, 3))
        with pytest.raises(GapError):
            log.append([entry(start)])
        log.flush()
        assert log.entries(1) == span(1, 3)

    def test_a_run_with_a_hole_or_a_repetition_is_refused_whole(self, log: RaftLog) -> None:
        for indexes in ([1, 2, 4], [1, 1], [1, 2, 1], [1, 3, 2]):
            with pytest.raises(GapError):
                log.append([entry(index) for index in indexes])
        assert log.is_empty
        assert log.next_index == 1

    def test_terms_never_decrease(self, log: RaftLog) -> None:
        log.append(run(1, [2, 3]))
        with pytest.raises(TermError):
            log.append([entry(3, 2)])
        with pytest.raises(TermError):
            log.append(run(3, [4, 3]))
        assert log.next_index == 3

    def test_terms_never_fall_below_that_of_the_anchor(self, log: RaftLog) -> None:
        log.reset(LogId(5, 10))
        with pytest.raises(TermError):
            log.append([entry(11, 4)])
        assert log.append([entry(11, 5)]) == LogId(5, 11)

    def test_entry_terms_are_not_compared_with_the_current_term(self, log: RaftLog) -> None:
        log.save_hard_state(HardState(7))
        assert log.append([entry(1, 3)]) == LogId(3, 1)
        assert log.append([entry(2, 9)]) == LogId(9, 2)

    @pytest.mark.parametrize("bad", list(BAD_ENTRIES.values()), ids=list(BAD_ENTRIES))
    def test_an_entry_that_cannot_be_stored_is_refused_with_its_call(self, log: RaftLog, bad: Entry) -> None:
        log.append([entry(1)])
        with pytest.raises((RaftStoreError, TypeError, ValueError)):
            log.append([entry(2), bad])
        log.flush()
        assert (log.next_index, log.entries(1)) == (2, [entry(1)])

    def test_the_highest_index_and_term_can_be_stored_and_nothing_above(self, path: Path) -> None:
        with self.open(path) as log:
            log.reset(LogId(INDEX_MAX - 1, INDEX_MAX - 2))
            log.append([Entry(INDEX_MAX - 1, INDEX_MAX - 1, b"a"), Entry(INDEX_MAX, INDEX_MAX, b"b")])
            with pytest.raises(RaftStoreError):
                log.append([Entry(INDEX_MAX, INDEX_MAX + 1, b"c")])
            with pytest.raises(RaftStoreError):
                log.propose(INDEX_MAX, [b"c"])
        with self.open(path) as log:
            assert log.last == LogId(INDEX_MAX, INDEX_MAX)
            assert [e.data for e in log.entries(INDEX_MAX - 1)] == [b"a", b"b"]

    def test_the_same_payload_twice_is_two_entries(self, log: RaftLog) -> None:
        assert log.propose(1, [b"same"]) == range(1, 2)
        assert log.propose(1, [b"same", b"same"]) == range(2, 4)
        log.flush()
        assert [e.data for e in log.entries(1)] == [b"same"] * 3

    def test_propose_allocates_consecutive_indexes(self, log: RaftLog) -> None:
        assert log.propose(2, [b"a", b"b", b"c"], kind=7) == range(1, 4)
        log.flush()
        assert log.entries(1) == [Entry(2, 1, b"a", 7), Entry(2, 2, b"b", 7), Entry(2, 3, b"c", 7)]

    def test_proposing_nothing_consumes_no_index(self, log: RaftLog) -> None:
        assert list(log.propose(1, [])) == []
        assert log.next_index == 1
        assert log.propose(1, [b"a"]) == range(1, 2)

    def test_a_deposed_leader_cannot_propose(self, log: RaftLog) -> None:
        log.save_hard_state(HardState(5))
        with pytest.raises(TermError):
            log.propose(4, [b"old"])
        assert log.next_index == 1
        assert log.propose(5, [b"new"]) == range(1, 2)

    def test_proposals_of_many_threads_get_disjoint_indexes_without_holes(self, log: RaftLog) -> None:
        taken: list[range] = []

        def proposer() -> None:
            taken.extend(log.propose(1, [b"x"] * size) for size in (1, 3, 2, 1, 4))

        threads = [threading.Thread(target=proposer) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert sorted(index for part in taken for index in part) == list(range(1, 67))
        log.flush()
        assert log.last_index == 66

    def test_a_submitted_run_knows_its_indexes_at_once(self, log: RaftLog) -> None:
        log.append([entry(1)])
        receipts = [
            log.submit(run(2, [1, 1])),
            log.submit_propose(3, [b"a", b"b"]),
            log.submit([entry(6, 4)]),
        ]
        assert [(r.first, r.last) for r in receipts] == [(2, 3), (4, 5), (6, 6)]
        assert log.next_index == 7
        log.flush()
        assert all(r.done() for r in receipts)
        assert [e.term for e in log.entries(2)] == [1, 1, 3, 3, 4]

    def test_a_receipt_completes_when_its_entries_are_durable(self, log: RaftLog) -> None:
        receipt = log.submit(span(1, 4))
        receipt.wait(PATIENCE_S)
        assert receipt.done()
        assert log.durable_index >= 3

    def test_a_receipt_can_be_awaited_from_any_loop(self, log: RaftLog) -> None:
        receipt = log.submit(span(1, 4))

        async def wait() -> None:
            await asyncio.wait_for(_awaited(receipt), PATIENCE_S)

        asyncio.run(wait())
        asyncio.run(wait())
        assert log.durable_index == 3

    def test_a_receipt_calls_back_also_when_it_is_done_already(self, log: RaftLog) -> None:
        called = threading.Semaphore(0)
        receipt = log.submit(span(1, 4))
        receipt.add_done_callback(lambda _: called.release())
        assert called.acquire(timeout=PATIENCE_S)
        receipt.add_done_callback(lambda _: called.release())
        assert called.acquire(timeout=PATIENCE_S)

    def test_what_submit_refuses_changes_nothing(self, log: RaftLog) -> None:
        with pytest.raises(GapError):
            log.submit([entry(2)])
        log.save_hard_state(HardState(2))
        with pytest.raises(TermError):
            log.submit_propose(1, [b"a"])
        assert log.next_index == 1

    def test_a_proposal_that_names_its_index_gets_that_one_or_none(self, log: RaftLog) -> None:
        assert log.submit_propose(1, [b"a", b"b"], start=1).last == 2
        for start in (1, 2, 4):
            with pytest.raises(GapError):
                log.submit_propose(1, [b"c"], start=start)
        assert log.next_index == 3
        assert log.submit_propose(1, [b"c"], 5, start=3).first == 3
        log.flush()
        assert log.entries(1) == [Entry(1, 1, b"a"), Entry(1, 2, b"b"), Entry(1, 3, b"c", 5)]

    def test_the_last_accepted_entry_is_known_at_once(self, log: RaftLog) -> None:
        assert log.last_accepted == LogId(0, 0)
        log.submit(run(1, [1, 2]))
        assert log.last_accepted == LogId(2, 2)
        log.truncate(2)
        assert log.last_accepted == log.last == LogId(1, 1)
        log.reset(LogId(3, 9))
        assert log.last_accepted == LogId(3, 9)

    def test_an_entry_over_the_limit_is_refused_and_changes_nothing(self, log: RaftLog) -> None:
        too_much = b"x" * (log.config.limits.entry_bytes_max + 1)
        for call in (
            lambda: log.append([entry(1), entry(2, data=too_much)]),
            lambda: log.propose(1, [too_much]),
            lambda: log.submit([entry(1, data=too_much)]),
            lambda: log.splice(LogId(0, 0), [entry(1, data=too_much)]),
            lambda: log.save([entry(1, data=too_much)]),
        ):
            with pytest.raises(EntryTooLargeError):
                call()
        assert log.next_index == 1

    def test_after_close_every_write_is_refused(self, path: Path) -> None:
        log = self.open(path)
        log.append([entry(1)])
        log.close()
        for call in (
            lambda: log.append([entry(2)]),
            lambda: log.propose(1, [b"a"]),
            lambda: log.submit([entry(2)]),
            lambda: log.splice(LogId(1, 1), [entry(2)]),
            lambda: log.save([entry(2)]),
            lambda: log.save_hard_state(HardState(9)),
            lambda: log.put_meta("a", b""),
            lambda: log.truncate(1),
            lambda: log.purge(1),
            lambda: log.reset(LogId(1, 1)),
            lambda: log.install_snapshot(LogId(1, 9)),
            lambda: log.flush(),
        ):
            with pytest.raises(StoreClosedError):
                call()
        with self.open(path) as log:
            assert log.entries(1) == [entry(1)]


async def _awaited(receipt: object) -> object:
    return await receipt  # type: ignore[misc]
