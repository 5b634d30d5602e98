"""Backends that lose, spoil or keep too much of what is written."""

from __future__ import annotations

import threading
import time
from typing import ClassVar

from raftstore.backend import BackendStats, Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import NO_ENTRY, Entry
from raftstore.testing.broken.base import BrokenBackend
from raftstore.testing.memory import MemoryDisk


class ForgetsKind(BrokenBackend):
    caught_by = ("test_the_kind_of_an_entry_is_kept_from_0_to_255",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, entries=[Entry(e.term, e.index, e.data) for e in batch.entries])


class KeepsSevenBitsOfKind(BrokenBackend):
    caught_by = ("test_the_kind_of_an_entry_is_kept_from_0_to_255",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, entries=[Entry(e.term, e.index, e.data, e.kind & 127) for e in batch.entries])


class DropsEmptyPayloads(BrokenBackend):
    caught_by = ("test_an_empty_payload_is_an_entry", "test_entries_without_payload_fit_any_bytes_max")

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, entries=[e for e in batch.entries if e.data])


class StripsTrailingZeros(BrokenBackend):
    caught_by = ("test_every_byte_of_a_payload_is_kept",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(
            batch, entries=[Entry(e.term, e.index, e.data.rstrip(b"\0"), e.kind) for e in batch.entries]
        )


class StoresLengthsInTwoBytes(BrokenBackend):
    caught_by = (
        "test_payloads_of_a_mebibyte_are_kept",
        "test_every_byte_of_a_payload_is_kept",
        "test_entries_of_many_sizes_are_read_at_random",
        "test_at_least_one_entry_is_read_whatever_bytes_max",
    )

    def _perform(self, batch: WriteBatch) -> None:
        short = [Entry(e.term, e.index, e.data[: len(e.data) & 0xFFFF], e.kind) for e in batch.entries]
        self._done(batch, entries=short)


class StoresIndexesAsFloats(BrokenBackend):
    caught_by = ("test_indexes_and_terms_up_to_the_highest_are_kept",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, entries=[Entry(int(float(e.term)), e.index, e.data, e.kind) for e in batch.entries])


class WritesAtMostAThousandEntries(BrokenBackend):
    caught_by = ("test_thousands_of_entries_in_one_write_are_kept",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, entries=batch.entries[:1000])


class LosesTheLastEntryOfEveryWrite(BrokenBackend):
    caught_by = (
        "test_written_entries_are_read_and_found_again",
        "test_a_recovered_store_takes_writes_at_once",
        "test_upkeep_between_any_two_writes_changes_nothing",
        "test_appending_goes_on_after_every_kill",
        "test_any_sequence_of_operations_matches_the_model",
    )

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, entries=batch.entries[:-1])


class TakesTermZeroForNoEntry(BrokenBackend):
    caught_by = ("test_term_0_is_a_term",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, entries=[e for e in batch.entries if e.term])


class IgnoresTheHardState(BrokenBackend):
    caught_by = (
        "test_hard_state_and_metadata_are_kept_without_entries",
        "test_every_write_that_returned_survives_a_kill",
        "test_any_sequence_of_operations_matches_the_model",
    )

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, hard_state=None)


class KeepsStateOnlyBesideEntries(BrokenBackend):
    caught_by = ("test_hard_state_and_metadata_are_kept_without_entries",)

    def _perform(self, batch: WriteBatch) -> None:
        state = {} if batch.entries else {"hard_state": None, "meta": None}
        self._done(batch, **state)


class KeepsTheFirstMetadata(BrokenBackend):
    caught_by = ("test_each_is_replaced_and_leaves_the_other_alone",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, meta=self.disk.state.meta or batch.meta)


class TakesEmptyMetadataForNone(BrokenBackend):
    caught_by = ("test_empty_bytes_are_kept_and_are_not_none",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, meta=batch.meta or None)


class CutsMetadataToAPage(BrokenBackend):
    caught_by = ("test_large_metadata_is_kept",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, meta=batch.meta[:4096] if batch.meta is not None else None)


class ForgetsStateOnReset(BrokenBackend):
    caught_by = ("test_truncation_purge_and_reset_keep_hard_state_and_metadata",)

    def _perform(self, batch: WriteBatch) -> None:
        if batch.truncate_from == 1 and batch.anchor is not None:
            self.disk.state.hard_state = self.disk.state.meta = None
        self._done(batch)


class DoesNotStoreTheNumberOfAWriteWithoutEntries(BrokenBackend):
    caught_by = (
        "test_the_number_of_the_last_write_is_found_again",
        "test_a_write_that_changes_nothing_still_has_its_number",
        "test_a_purge_of_everything_keeps_anchor_and_number",
    )

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, number=batch.number if batch.entries else self.disk.state.number)


class StoresTheNumberInFourBytes(BrokenBackend):
    caught_by = ("test_the_number_of_the_last_write_is_found_again",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, number=batch.number & 0xFFFFFFFF)


class AppliesARepeatedWriteTwice(BrokenBackend):
    caught_by = ("test_repeating_a_write_that_was_done_changes_nothing",)

    def write(self, batch: WriteBatch) -> None:
        if batch.number == self.disk.state.number:
            after = self.disk.state.last.index + 1
            again = [Entry(e.term, i, e.data, e.kind) for i, e in enumerate(batch.entries, after)]
            self._done(batch, entries=again)
        else:
            super().write(batch)


class TakesAnInterruptedWriteForDone(BrokenBackend):
    caught_by = ("test_a_write_that_an_interrupt_cut_short_can_be_repeated",)

    def _perform(self, batch: WriteBatch) -> None:
        self.disk.state.number = batch.number
        time.sleep(0.005)
        self._done(batch)


class WritesOnlyOnTheThreadThatOpenedIt(BrokenBackend):
    caught_by = ("test_another_thread_may_write_each_time",)

    def _recover(self) -> Recovery:
        self._opened_by = threading.get_ident()
        return super()._recover()

    def _perform(self, batch: WriteBatch) -> None:
        if self._opened_by == threading.get_ident():
            self._done(batch)


class TruncatesAfterItsIndex(BrokenBackend):
    caught_by = ("test_a_truncation_drops_the_index_and_what_follows",)

    def _perform(self, batch: WriteBatch) -> None:
        if batch.truncate_from is not None and not batch.entries:
            self._done(batch, truncate_from=batch.truncate_from + 1)
        else:
            self._done(batch)


class EmptiesTheLogWhenTruncatedAboveItsEnd(BrokenBackend):
    caught_by = ("test_a_truncation_above_the_last_entry_drops_nothing",)

    def _perform(self, batch: WriteBatch) -> None:
        state = self.disk.state
        beyond = batch.truncate_from is not None and batch.truncate_from > state.last.index
        self._done(batch, truncate_from=state.first_index if beyond else batch.truncate_from)


class AppendsWithoutTruncating(BrokenBackend):
    """Later entries stay where the new ones do not reach."""

    caught_by = (
        "test_a_shorter_replacement_leaves_no_stale_tail",
        "test_all_parts_of_one_batch_take_effect_together",
    )

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, truncate_from=None if batch.entries else batch.truncate_from)


class KeepsWhatAnIndexAlreadyHolds(BrokenBackend):
    """Skips in silence what it cannot insert."""

    caught_by = (
        "test_entries_replace_what_the_same_write_truncates",
        "test_replaced_entries_are_never_read_again",
    )

    def _perform(self, batch: WriteBatch) -> None:
        held = self.disk.state.entries
        self._done(batch, entries=[held.get(e.index, e) for e in batch.entries])


class ScrapDisk(MemoryDisk):
    """Remembers what was dropped, as old blocks on a disk do."""

    def __init__(self) -> None:
        super().__init__()
        self.scrap: dict[int, Entry] = {}


class KeepsAStaleTail(BrokenBackend):
    """Dropped entries are there again after opening if they follow the last one."""

    caught_by = ("test_a_shorter_replacement_leaves_no_stale_tail",)
    disk_class: ClassVar[type[MemoryDisk]] = ScrapDisk
    disk: ScrapDisk

    def _perform(self, batch: WriteBatch) -> None:
        if batch.truncate_from is not None:
            self.disk.scrap = dict(self.disk.state.entries)
        self._done(batch)

    def _recover(self) -> Recovery:
        entries, last = self.disk.state.entries, self.disk.state.last.index
        while (last := last + 1) in self.disk.scrap:
            entries[last] = self.disk.scrap[last]
        return self._recovered()


class PurgesTheEntryAfterItsIndex(BrokenBackend):
    caught_by = ("test_a_purge_drops_up_to_its_index_and_keeps_the_rest",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch)
        if batch.anchor is not None:
            self.disk.state.entries.pop(batch.anchor.index + 1, None)


class IgnoresAPurgeAboveItsLastEntry(BrokenBackend):
    caught_by = ("test_a_purge_above_the_last_entry_drops_all_and_new_ones_follow_it",)

    def _perform(self, batch: WriteBatch) -> None:
        beyond = batch.anchor is not None and batch.anchor.index > self.disk.state.last.index
        resets = batch.truncate_from == 1
        self._done(batch, anchor=None if beyond and not resets else batch.anchor)


class ForgetsTheAnchorOfAnEmptyLog(BrokenBackend):
    caught_by = (
        "test_a_purge_of_everything_keeps_anchor_and_number",
        "test_a_reset_upwards_leaves_an_empty_log_at_its_anchor",
    )

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch)
        if not self.disk.state.entries:
            self.disk.state.anchor = NO_ENTRY


class ResetsFromTheFirstIndex(BrokenBackend):
    """What was above the first index comes back under a lower anchor."""

    caught_by = ("test_a_reset_downwards_brings_no_old_entry_back",)

    def _perform(self, batch: WriteBatch) -> None:
        resets = batch.truncate_from == 1 and batch.anchor is not None
        kept = dict(self.disk.state.entries) if resets else {}
        self._done(batch)
        self.disk.state.entries = kept | self.disk.state.entries


class KeepsTheHigherAnchorOfAnEmptyLog(BrokenBackend):
    caught_by = ("test_an_empty_log_is_reset_below_its_anchor",)

    def _perform(self, batch: WriteBatch) -> None:
        before = self.disk.state.last
        empty = not self.disk.state.entries
        self._done(batch)
        if empty and batch.anchor is not None and not batch.entries:
            self.disk.state.anchor = max(before, batch.anchor, key=lambda anchor: anchor.index)


class TakesAResetToItsAnchorForAPurge(BrokenBackend):
    caught_by = ("test_a_reset_to_the_same_anchor_empties_the_log",)

    def _perform(self, batch: WriteBatch) -> None:
        same = batch.anchor == self.disk.state.anchor
        self._done(batch, truncate_from=None if same else batch.truncate_from)


class MovesTheAnchorBeforeItTruncates(BrokenBackend):
    """Keeps only the part of a batch that it knows from single operations."""

    caught_by = ("test_all_parts_of_one_batch_take_effect_together",)

    def _perform(self, batch: WriteBatch) -> None:
        purges = batch.anchor is not None and batch.truncate_from != 1
        self._done(batch, truncate_from=None if purges else batch.truncate_from)


class GrowsForEver(BrokenBackend):
    """Gives no space back."""

    caught_by = ("test_a_store_that_appends_and_purges_steadily_does_not_grow",)

    def stats(self) -> BackendStats:
        size = sum(len(entry.data) for batch in self.disk.writes for entry in batch.entries)
        return BackendStats(bytes_on_disk=size, bytes_reclaimable=0, files=1)
