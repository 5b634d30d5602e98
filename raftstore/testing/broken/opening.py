"""Backends that find something else than what they wrote, or leave something behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from raftstore.backend import BackendStats, Damage, Examination, Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import LogId
from raftstore.testing.broken.base import BrokenBackend
from raftstore.testing.memory import MemoryDisk, found_on


class IsNeverEmpty(BrokenBackend):
    caught_by = ("test_a_new_store_is_empty",)

    def _recover(self) -> Recovery:
        recovery = super()._recover()
        return self._recovered(hard_state=recovery.hard_state or b"term 0, no vote")


class ForgetsTheAnchorsTerm(BrokenBackend):
    caught_by = (
        "test_a_purge_remembers_the_term_of_the_last_dropped_entry",
        "test_any_sequence_of_operations_matches_the_model",
    )

    def _recover(self) -> Recovery:
        return self._recovered(anchor=LogId(0, self.disk.state.anchor.index))


class CountsAnIndexFromTheAnchorAsLast(BrokenBackend):
    caught_by = ("test_a_purge_of_everything_keeps_anchor_and_number",)

    def _recover(self) -> Recovery:
        state = self.disk.state
        return self._recovered(last=state.last if state.entries else LogId(0, 0))


class ForgetsRunsOnlyWhenTheyStartAgain(BrokenBackend):
    """A truncation leaves the runs in the table that it has cut off."""

    caught_by = ("test_the_term_runs_are_exact_after_truncations_and_purges",)

    def _recover(self) -> Recovery:
        runs: dict[int, LogId] = {}
        for batch in self.disk.writes:
            for entry in batch.entries:
                runs.setdefault(entry.term, entry.id)
        return self._recovered(term_runs=list(runs.values()))


class NamesRunsByPurgedEntries(BrokenBackend):
    caught_by = (
        "test_the_term_runs_are_exact_after_truncations_and_purges",
        "test_a_purge_remembers_the_term_of_the_last_dropped_entry",
    )

    def _recover(self) -> Recovery:
        runs = self.disk.state.term_runs()
        if runs and runs[0].index > 1:
            runs[0] = LogId(runs[0].term, runs[0].index - 1)
        return self._recovered(term_runs=runs)


class CountingDisk(MemoryDisk):
    """Remembers how many writes the last opening found."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0


class TakesTheLastWriteForTorn(BrokenBackend):
    """Opening drops the last write if nothing was written since the last opening."""

    caught_by = ("test_opening_again_and_again_finds_the_same",)
    disk_class: ClassVar[type[MemoryDisk]] = CountingDisk
    disk: CountingDisk

    def _recover(self) -> Recovery:
        writes = len(self.disk.writes)
        twice, self.disk.found = writes == self.disk.found > 0, writes
        return self._recovered(number=self.disk.state.number - 1) if twice else self._recovered()


class ReportsTheLiveState(BrokenBackend):
    caught_by = ("test_recovery_never_changes_after_opening",)

    @property
    def recovery(self) -> Recovery:
        return found_on(self.disk)


class CallsACleanEndTorn(BrokenBackend):
    caught_by = ("test_a_clean_stop_leaves_nothing_torn",)

    def _recover(self) -> Recovery:
        return self._recovered(torn_bytes=8 if self.disk.writes else 0)


class ReadsTheWholeLogAtOpening(BrokenBackend):
    caught_by = ("test_opening_reads_the_tail_and_not_the_log",)

    def _recover(self) -> Recovery:
        return self._recovered(bytes_read=sum(len(e.data) for e in self.disk.state.entries.values()))


class FindsDamageInAHealthyStore(BrokenBackend):
    caught_by = (
        "test_examining_a_healthy_store_finds_it_healthy",
        "test_examining_a_store_that_was_never_written_finds_it_healthy",
    )

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        found = super().examine(path, deep=deep)
        return Examination(found.recovery, found.stats, found.entries_checked, [Damage("no magic")])


class ExaminesWithoutLookingAtEntries(BrokenBackend):
    caught_by = ("test_examining_a_healthy_store_finds_it_healthy",)

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        return super().examine(path, deep=False)


class LeavesAFileWhenItExamines(BrokenBackend):
    caught_by = ("test_examining_changes_no_byte",)

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        (path / "examined").write_bytes(b"1")
        return super().examine(path, deep=deep)


class ClearsMetadataInItsUpkeep(BrokenBackend):
    caught_by = ("test_upkeep_between_any_two_writes_changes_nothing",)

    def maintain(self) -> None:
        super().maintain()
        self.disk.state.meta = None


class CompactsOneEntryTooMuch(BrokenBackend):
    """Upkeep frees the first live entry together with the purged ones."""

    caught_by = (
        "test_upkeep_between_any_two_writes_changes_nothing",
        "test_any_sequence_of_operations_matches_the_model",
    )

    def maintain(self) -> None:
        super().maintain()
        state = self.disk.state
        if state.anchor.index:
            state.entries.pop(state.first_index, None)


class CountsReclaimableBytesTwice(BrokenBackend):
    caught_by = ("test_stats_are_plausible",)

    def stats(self) -> BackendStats:
        size = super().stats().bytes_on_disk
        return BackendStats(bytes_on_disk=size, bytes_reclaimable=size, files=1)


class ClosesOnlyOnce(BrokenBackend):
    caught_by = ("test_closing_twice_is_fine",)

    def close(self) -> None:
        assert self.disk.owner is self, "not open"
        super().close()


class LeaksADescriptor(BrokenBackend):
    caught_by = ("test_closing_releases_files_and_threads",)

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch)
        self.disk.__dict__.setdefault("leaked", []).append(_Descriptor())


class _Descriptor:
    """An open file, until the disk that it hangs on is gone."""

    def __init__(self) -> None:
        self._fd = os.open(os.devnull, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._fd)
