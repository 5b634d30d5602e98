"""Backends that are right as long as nobody pulls the plug."""

from __future__ import annotations

from raftstore.backend import Recovery
from raftstore.batch import WriteBatch
from raftstore.testing.broken.base import BrokenBackend
from raftstore.testing.model import Model


class TruncatesThenAppendsInTwoWrites(BrokenBackend):
    caught_by = ("test_a_kill_leaves_old_or_new_entries_and_never_a_mix",)

    def _perform(self, batch: WriteBatch) -> None:
        if batch.truncate_from is not None and batch.entries:
            self._done(batch, entries=(), hard_state=None)
            self._done(batch, truncate_from=None)
        else:
            self._done(batch)


class WritesHardStateAfterEntries(BrokenBackend):
    caught_by = ("test_a_kill_leaves_old_or_new_entries_and_never_a_mix",)

    def _perform(self, batch: WriteBatch) -> None:
        if batch.entries and batch.hard_state is not None:
            self._done(batch, hard_state=None)
            self._done(batch, truncate_from=None, entries=())
        else:
            self._done(batch)


class AcknowledgesBeforeDurable(BrokenBackend):
    caught_by = (
        "test_every_write_that_returned_survives_a_kill",
        "test_a_kill_at_any_instant_leaves_the_result_of_a_prefix_of_the_writes",
        "test_any_sequence_of_operations_and_kills_matches_the_model",
    )

    def _perform(self, batch: WriteBatch) -> None:
        if self.disk.writes:
            self.disk.sync(self)
        self.disk.apply(self, batch)


class SyncsHardStateAlone(BrokenBackend):
    """Only a write with hard state is synced."""

    caught_by = ("test_a_kill_at_any_instant_leaves_the_result_of_a_prefix_of_the_writes",)

    def _perform(self, batch: WriteBatch) -> None:
        self.disk.apply(self, batch)
        if batch.hard_state is not None:
            self.disk.sync(self)


class LosesOrder(BrokenBackend):
    """Two logs on disk, each synced on its own: a power cut may keep the later write and lose the earlier."""

    caught_by = ("test_a_kill_at_any_instant_leaves_the_result_of_a_prefix_of_the_writes",)

    def _cut_power(self, *, keeps: bool) -> None:
        super()._cut_power(keeps=keeps)
        if len(self.disk.writes) > 1:
            del self.disk.writes[-2]
            self.disk.durable -= 1
            self.disk.state = Model.after(self.disk.writes)


class ClaimsAWriteNumberItHasNot(BrokenBackend):
    """The number is stored before the write that it belongs to."""

    caught_by = ("test_a_kill_at_any_instant_leaves_the_result_of_a_prefix_of_the_writes",)

    def _cut_power(self, *, keeps: bool) -> None:
        begun = self.disk.begun
        super()._cut_power(keeps=keeps)
        if begun is not None:
            self.disk.state.number = begun.number


class ResetsInTwoWrites(BrokenBackend):
    """Empties the log first, and then moves the anchor."""

    caught_by = ("test_a_purge_and_a_reset_survive_a_kill_as_a_whole",)

    def _perform(self, batch: WriteBatch) -> None:
        if batch.truncate_from is not None and batch.anchor is not None:
            self._done(batch, anchor=None, entries=(), meta=None)
        self._done(batch)


class RepairsInTwoWrites(BrokenBackend):
    """After a crash it empties the log, and then writes what it has found."""

    caught_by = ("test_a_kill_while_opening_changes_nothing",)

    def _recover(self) -> Recovery:
        state = self.disk.state.copy()
        if state.entries and not self.disk.end_is_proved:
            number, first = state.number, state.first_index
            for entries in ((), list(state.entries.values())):
                self.disk.apply(self, WriteBatch(number, truncate_from=first, entries=entries))
                self.disk.sync(self)
        return self._recovered()


class AppendsAtTheOldEndAfterACrash(BrokenBackend):
    """The first append after a crash is lost."""

    caught_by = ("test_appending_goes_on_after_every_kill",)
    _crashed = False

    def _recover(self) -> Recovery:
        self._crashed = bool(self.disk.writes) and not self.disk.end_is_proved
        return self._recovered()

    def _perform(self, batch: WriteBatch) -> None:
        self._done(batch, entries=() if self._crashed else batch.entries)
        self._crashed = self._crashed and not batch.entries
