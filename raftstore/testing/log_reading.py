"""Promises about what reads answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftstore.entry import INDEX_MAX, NO_ENTRY, Entry, LogId
from raftstore.errors import PurgedError
from raftstore.log import RaftLog
from raftstore.testing.log_base import LogPromises
from raftstore.testing.tools import entry, ids, run, span


class ReadingPromises(LogPromises):
    def test_a_fresh_log_is_empty_behind_the_anchor_zero(self, log: RaftLog) -> None:
        assert log.is_empty
        assert len(log) == 0
        assert log.anchor == log.last == NO_ENTRY
        assert (log.first_index, log.last_index, log.next_index) == (1, 0, 1)
        assert (log.commit_index, log.durable_index) == (0, 0)
        assert log.term(0) == 0

    def test_a_log_is_true_even_when_it_is_empty(self, log: RaftLog) -> None:
        assert bool(log) is True

    def test_what_was_appended_is_read_back_byte_for_byte(self, log: RaftLog) -> None:
        payloads = [b"", b"\0", bytes(range(256)), b"x" * 70_000, b"", "ü".encode()]
        written = [Entry(3, index, data, kind=index) for index, data in enumerate(payloads, 1)]
        log.append(written)
        log.flush()
        assert log.entries(1) == written
        assert [log.entry(e.index) for e in written] == written

    def test_every_kind_from_0_to_255_comes_back(self, path: Path) -> None:
        written = [entry(index, kind=index - 1) for index in range(1, 257)]
        with self.open(path) as log:
            log.append(written)
            log.flush()
            assert log.entries(1) == written
        with self.open(path) as log:
            assert log.entries(1) == written

    def test_bounds_follow_the_entries(self, log: RaftLog) -> None:
        log.append(run(1, [1, 1, 2]))
        log.flush()
        assert (log.first_index, log.last_index, log.next_index, len(log)) == (1, 3, 4, 3)
        assert log.last == LogId(2, 3)
        assert not log.is_empty

    def test_an_entry_above_the_last_is_none(self, log: RaftLog) -> None:
        log.append(span(1, 4))
        log.flush()
        assert log.entry(4) is None
        assert log.entry(INDEX_MAX) is None
        assert log.term(4) is None

    def test_an_entry_at_or_below_the_anchor_is_purged(self, log: RaftLog) -> None:
        log.append(span(1, 10))
        log.purge(5)
        for index in (1, 4, 5):
            with pytest.raises(PurgedError):
                log.entry(index)
            with pytest.raises(PurgedError):
                log.entries(index)
        assert log.entry(6) == entry(6)

    def test_purged_is_also_a_lookup_error(self, log: RaftLog) -> None:
        with pytest.raises(LookupError):
            log.entry(0)

    def test_ranges_are_half_open(self, log: RaftLog) -> None:
        log.append(span(1, 21))
        log.flush()
        assert log.entries(3, 6) == span(3, 6)
        assert log.entries(5, 6) == span(5, 6)
        assert log.entries(5, 5) == []

    def test_ranges_are_cut_at_the_last_entry(self, log: RaftLog) -> None:
        log.append(span(1, 11))
        log.flush()
        assert log.entries(9, 2000) == span(9, 11)
        assert log.entries(11) == log.entries(11, 12) == log.entries(5000) == []

    def test_a_range_may_stop_at_the_highest_number_there_is(self, log: RaftLog) -> None:
        log.append(span(1, 4))
        log.flush()
        assert log.entries(1, INDEX_MAX) == log.entries(1, 2**63) == log.entries(1, 2**64) == span(1, 4)

    def test_bytes_max_cuts_before_it_would_be_exceeded(self, log: RaftLog) -> None:
        written = [entry(index, data=b"x" * 100) for index in range(1, 11)]
        log.append(written)
        log.flush()
        assert log.entries(1, bytes_max=300) == written[:3]
        assert log.entries(1, bytes_max=399) == written[:3]
        assert log.entries(4, 6, bytes_max=10_000) == written[3:5]

    def test_at_least_one_entry_comes_whatever_bytes_max(self, log: RaftLog) -> None:
        log.append([entry(1, data=b"x" * 1000), entry(2, data=b"")])
        log.flush()
        assert ids(log.entries(1, bytes_max=1)) == ids(log.entries(1, bytes_max=0)) == [LogId(1, 1)]

    def test_payloads_of_no_bytes_do_not_count_against_bytes_max(self, log: RaftLog) -> None:
        log.append([entry(index, data=b"") for index in range(1, 6)])
        log.flush()
        assert len(log.entries(1, bytes_max=0)) == 5

    def test_the_term_of_the_anchor_is_known_and_below_it_is_purged(self, log: RaftLog) -> None:
        log.append(run(1, [1, 2, 3, 3, 5]))
        log.purge(3)
        assert [log.term(index) for index in (3, 4, 5)] == [3, 3, 5]
        with pytest.raises(PurgedError):
            log.term(2)

    def test_purge_remembers_the_term_of_the_last_dropped_entry(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(run(1, [1, 4, 9]))
            log.purge(2)
        with self.open(path) as log:
            assert log.anchor == LogId(4, 2)
            assert log.term(2) == 4

    def test_the_bounds_of_a_term_are_those_of_its_live_entries(self, log: RaftLog) -> None:
        log.append(run(1, [1, 1, 2, 2, 2, 5]))
        log.flush()
        assert [log.first_index_of_term(t) for t in (1, 2, 5)] == [1, 3, 6]
        assert [log.last_index_of_term(t) for t in (1, 2, 5)] == [2, 5, 6]
        assert log.first_index_of_term(3) is log.last_index_of_term(3) is None
        assert log.first_index_of_term(9) is log.last_index_of_term(0) is None

    def test_a_purged_term_has_no_bounds_and_a_partly_purged_one_starts_later(self, log: RaftLog) -> None:
        log.append(run(1, [1, 1, 2, 2, 2, 5]))
        log.purge(3)
        assert log.first_index_of_term(1) is log.last_index_of_term(1) is None
        assert (log.first_index_of_term(2), log.last_index_of_term(2)) == (4, 5)
        log.purge(5)
        assert log.first_index_of_term(2) is log.last_index_of_term(2) is None

    def test_truncation_shortens_a_term_and_a_new_one_takes_its_place(self, log: RaftLog) -> None:
        log.append(run(1, [1, 2, 2, 2]))
        log.truncate(3)
        assert (log.first_index_of_term(2), log.last_index_of_term(2)) == (2, 2)
        log.append(run(3, [3, 3]))
        log.flush()
        assert (log.last_index_of_term(2), log.first_index_of_term(3)) == (2, 3)
        log.truncate(2)
        assert log.first_index_of_term(2) is log.first_index_of_term(3) is None

    def test_bounds_and_terms_are_exact_right_after_opening(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(run(1, [1, 1, 2, 2, 2, 5, 5]))
            log.purge(3)
        with self.open(path) as log:
            assert not log.is_empty
            assert (log.first_index, log.last_index, log.next_index, len(log)) == (4, 7, 8, 4)
            assert (log.anchor, log.last) == (LogId(2, 3), LogId(5, 7))
            assert (log.first_index_of_term(2), log.last_index_of_term(2)) == (4, 5)
            assert (log.first_index_of_term(5), log.last_index_of_term(5)) == (6, 7)
            assert log.first_index_of_term(1) is None
            assert [log.term(index) for index in range(3, 9)] == [2, 2, 2, 5, 5, None]

    def test_many_terms_are_as_exact_as_few(self, path: Path) -> None:
        terms = range(1, 1501)
        with self.open(path) as log:
            log.append(run(1, terms))
            log.flush()
            assert [log.term(index) for index in terms] == list(terms)
        with self.open(path) as log:
            assert [log.term(index) for index in terms] == list(terms)
            assert log.first_index_of_term(1025) == log.last_index_of_term(1025) == 1025

    def test_scan_yields_the_whole_log_in_order(self, path: Path) -> None:
        written = [entry(index, data=b"x" * 300) for index in range(1, 2001)]
        with self.open(path) as log:
            log.append(written)
            log.flush()
            assert list(log.scan()) == written
            assert list(log.scan(10, 20)) == written[9:19]
        with self.open(path) as log:
            assert list(log.scan()) == written

    def test_scan_begins_at_the_first_live_entry_and_refuses_purged_ones(self, log: RaftLog) -> None:
        log.append(span(1, 11))
        log.purge(4)
        assert list(log.scan()) == span(5, 11)
        with pytest.raises(PurgedError):
            list(log.scan(4))

    def test_scanning_an_empty_log_yields_nothing(self, log: RaftLog) -> None:
        assert list(log.scan()) == []

    def test_reads_beside_each_other_answer_the_same(self, path: Path) -> None:
        with self.open(path) as log:
            log.append(span(1, 401))
        with self.open(path) as log:
            backwards = [log.entry(index) for index in range(400, 0, -1)]
            assert backwards[::-1] == log.entries(1) == span(1, 401)
            assert log.entries(200, 300) == span(200, 300)
