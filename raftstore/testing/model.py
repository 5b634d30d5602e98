"""What a store holds after a list of writes, said as plainly as possible. The judge of every backend.

It shares no code with `raftstore.batch` and knows nothing of merging, files or speed.
"""

from __future__ import annotations

from collections.abc import Iterable

from raftstore.backend import Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import NO_ENTRY, Entry, LogId


class ContractViolationError(AssertionError):
    """The caller of a backend broke the contract: an invalid batch, two writes at a time, and so on."""


class Model:
    """The state of a store: apply one batch after the other, and look.

    Applying a batch that the contract does not allow raises `ContractViolationError` and changes nothing.
    """

    def __init__(self) -> None:
        self.anchor: LogId = NO_ENTRY
        self.entries: dict[int, Entry] = {}
        """By index, ascending, without holes."""
        self.hard_state: bytes | None = None
        self.meta: bytes | None = None
        self.number = 0

    @classmethod
    def after(cls, batches: Iterable[WriteBatch]) -> Model:
        """A store that was fresh, and took `batches` in their order, whatever they are."""
        model = cls()
        for batch in batches:
            model.force(batch)
        return model

    def copy(self) -> Model:
        """An independent copy; the entries themselves are shared, they never change."""
        twin = Model()
        twin.anchor, twin.entries = self.anchor, dict(self.entries)
        twin.hard_state, twin.meta, twin.number = self.hard_state, self.meta, self.number
        return twin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"<Model number={self.number} anchor={self.anchor} last={self.last} runs={self.term_runs()}>"

    @property
    def last(self) -> LogId:
        """The id of the last entry, or the anchor."""
        for entry in reversed(self.entries.values()):
            return LogId(entry.term, entry.index)
        return self.anchor

    @property
    def first_index(self) -> int:
        """The lowest index that an entry has or would have."""
        return self.anchor.index + 1

    def term_runs(self) -> list[LogId]:
        """The id of each entry whose term differs from that of the entry before it."""
        runs: list[LogId] = []
        for entry in self.entries.values():
            if not runs or runs[-1].term != entry.term:
                runs.append(LogId(entry.term, entry.index))
        return runs

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        """What `DiskBackend.read` must return."""
        found: list[Entry] = []
        size = 0
        for index in range(start, stop):
            entry = self.entries[index]
            size += len(entry.data)
            if found and bytes_max is not None and size > bytes_max:
                break
            found.append(entry)
        return found

    def recovery(self) -> Recovery:
        """What opening must report, as far as the contract settles it."""
        return Recovery(
            self.anchor, self.last, self.term_runs(), self.hard_state, self.meta, number=self.number
        )

    def apply(self, batch: WriteBatch) -> None:
        """Check `batch`, and do what it says."""
        self.check(batch)
        self.force(batch)

    def force(self, batch: WriteBatch) -> None:
        """Do what `batch` says, part by part, in the order that the contract gives. Unchecked."""
        self.number = batch.number
        if batch.truncate_from is not None:
            self._drop_from(batch.truncate_from)
        if batch.anchor is not None:
            self.anchor = batch.anchor
            self.entries = {i: entry for i, entry in self.entries.items() if i > batch.anchor.index}
        for entry in batch.entries:
            self.entries[entry.index] = entry
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state
        if batch.meta is not None:
            self.meta = batch.meta

    def _drop_from(self, start: int) -> None:
        while self.entries and self.last.index >= start:
            self.entries.popitem()

    def check(self, batch: WriteBatch) -> None:
        """Raise `ContractViolationError` if a caller that keeps the contract cannot write `batch` now."""
        _demand(batch.number > self.number, f"write {batch.number} after write {self.number}")
        left = self._left_below(batch.truncate_from)
        if batch.anchor is not None:
            self._check_anchor(batch.anchor, left, batch.truncate_from)
        elif batch.truncate_from is not None:
            _demand(batch.truncate_from > self.anchor.index, f"{batch} truncates below the anchor of {self}")
        last = self.anchor if batch.anchor is None else batch.anchor
        if left is not None and left.index > last.index:
            last = left.id
        for entry in batch.entries:
            _demand(entry.index == last.index + 1, f"entry {entry.index} after entry {last.index}")
            _demand(entry.term >= last.term, f"term {entry.term} after term {last.term}")
            last = LogId(entry.term, entry.index)

    def _left_below(self, truncate_from: int | None) -> Entry | None:
        """The last entry that a truncation leaves."""
        stop = self.last.index + 1
        return self.entries.get((stop if truncate_from is None else min(truncate_from, stop)) - 1)

    def _check_anchor(self, anchor: LogId, left: Entry | None, truncate_from: int | None) -> None:
        if truncate_from == 1:
            return
        _demand(anchor.index >= self.anchor.index, f"the anchor goes from {self.anchor} down to {anchor}")
        covered = self.entries.get(anchor.index)
        if covered is not None and left is not None and anchor.index <= left.index:
            _demand(covered.term == anchor.term, f"{anchor} is not the id of {covered}")


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ContractViolationError(otherwise)
