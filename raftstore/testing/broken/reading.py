"""Backends that read something else than what was written."""

from __future__ import annotations

import time

from raftstore.backend import BackendStats
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore.testing.broken.base import BrokenBackend


class ReturnsAShortRead(BrokenBackend):
    caught_by = ("test_any_range_is_read_exactly", "test_written_entries_are_read_and_found_again")

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        found = super()._look_up(start, stop, bytes_max)
        return found[:-1] or found


class ReadsFromTheStartOfAChunk(BrokenBackend):
    """Finds the chunk of an index, and forgets the way inside."""

    caught_by = ("test_any_range_is_read_exactly", "test_entries_of_many_sizes_are_read_at_random")

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        first = max(self.disk.state.first_index, start - start % 16)
        return super()._look_up(first, first + stop - start, bytes_max)


class IgnoresBytesMax(BrokenBackend):
    caught_by = (
        "test_bytes_max_cuts_before_the_entry_that_exceeds_it",
        "test_bytes_max_counts_the_range_that_is_asked_for",
    )

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        return super()._look_up(start, stop, None)


class CutsAfterTheEntryThatExceedsBytesMax(BrokenBackend):
    caught_by = ("test_bytes_max_cuts_before_the_entry_that_exceeds_it",)

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        found = super()._look_up(start, stop, bytes_max)
        return super()._look_up(start, min(stop, start + len(found) + 1), None)


class ReturnsNothingIfOneEntryExceedsBytesMax(BrokenBackend):
    caught_by = ("test_at_least_one_entry_is_read_whatever_bytes_max",)

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        found = super()._look_up(start, stop, bytes_max)
        return found if bytes_max is None or len(found[0].data) <= bytes_max else []


class CountsBytesFromTheStartOfAChunk(BrokenBackend):
    caught_by = ("test_bytes_max_counts_the_range_that_is_asked_for",)

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        first = max(self.disk.state.first_index, start - start % 16)
        found = super()._look_up(first, stop, bytes_max)
        return [entry for entry in found if entry.index >= start] or super()._look_up(start, start + 1, None)


class StopsAtBytesMaxZero(BrokenBackend):
    caught_by = ("test_entries_without_payload_fit_any_bytes_max",)

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        return super()._look_up(start, start + 1 if bytes_max == 0 else stop, bytes_max)


class CachesWhatItReadOnce(BrokenBackend):
    """Truncation leaves the cache alone."""

    caught_by = ("test_replaced_entries_are_never_read_again",)

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        cache: dict[int, Entry] = self.__dict__.setdefault("cache", {})
        found = super()._look_up(start, stop, bytes_max)
        return [cache.setdefault(entry.index, entry) for entry in found]


class ShowsEntriesBeforeTheyAreWhole(BrokenBackend):
    """A read beside an append finds the newest entries without their payload."""

    caught_by = ("test_reads_beside_appends_return_what_was_written",)
    _writing = False

    def _perform(self, batch: WriteBatch) -> None:
        self._writing = True
        time.sleep(0.001)
        self._done(batch)
        self._writing = False

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        found = super()._look_up(start, stop, bytes_max)
        return (
            found[:-1] + [Entry(e.term, e.index, b"", e.kind) for e in found[-1:]] if self._writing else found
        )


class MixesOldAndNewEntries(BrokenBackend):
    """A read beside a replacement finds new terms with old payloads."""

    caught_by = ("test_reads_beside_replacements_and_purges_return_old_or_new_entries",)
    _writing = False

    def _perform(self, batch: WriteBatch) -> None:
        self._writing = batch.truncate_from is not None
        time.sleep(0.001)
        self._done(batch)
        self._writing = False

    def _look_up(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        found = super()._look_up(start, stop, bytes_max)
        return [Entry(e.term + 1, e.index, e.data, e.kind) for e in found] if self._writing else found


class AnswersNoStatsBesideAWrite(BrokenBackend):
    caught_by = ("test_stats_beside_writes_answer",)
    _writing = False

    def _perform(self, batch: WriteBatch) -> None:
        self._writing = True
        time.sleep(0.001)
        self._done(batch)
        self._writing = False

    def stats(self) -> BackendStats:
        assert not self._writing, "busy"
        return super().stats()
