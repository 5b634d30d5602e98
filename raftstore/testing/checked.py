"""A store beside its model: whatever is done is done to both, and then they are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from raftstore.backend import Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.testing.killing import Store
from raftstore.testing.model import Model

AnyStore = TypeVar("AnyStore", bound=Store)


class CheckedStore(Generic[AnyStore]):
    """Opened by `opener`, closed at the end of the `with` block. Every difference is an `AssertionError`."""

    def __init__(self, opener: Callable[[], AnyStore]) -> None:
        self._opener = opener
        self.model = Model()
        """What the store must hold."""
        self.backend = opener()
        try:
            self.assert_recovered()
        except AssertionError:
            self.backend.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.backend.close()

    def write(
        self,
        *,
        truncate_from: int | None = None,
        anchor: LogId | None = None,
        entries: Sequence[Entry] = (),
        hard_state: bytes | None = None,
        meta: bytes | None = None,
    ) -> WriteBatch:
        """Write a batch of these parts with the next number."""
        number = self.model.number + 1
        return self.write_batch(WriteBatch(number, truncate_from, anchor, entries, hard_state, meta))

    def write_batch(self, batch: WriteBatch) -> WriteBatch:
        """Write `batch`."""
        self.model.apply(batch)
        self.backend.write(batch)
        return batch

    def append(self, count: int, *, term: int | None = None, size: int | None = None) -> None:
        """Append `count` entries in one write, of the last term if none is given."""
        last = self.model.last
        self.write(entries=run(last.index + 1, count, last.term if term is None else term, size))

    def purge(self, upto: int) -> None:
        """Drop everything up to and including `upto`."""
        self.write(anchor=self.model.entries[upto].id)

    def reset(self, anchor: LogId, entries: Sequence[Entry] = ()) -> None:
        """Drop everything, and go on after `anchor`."""
        self.write(truncate_from=1, anchor=anchor, entries=entries)

    def check(self) -> None:
        """All entries, read at once and, if they are few, one by one."""
        model = self.model
        if not model.entries:
            return
        start, stop = model.first_index, model.last.index + 1
        assert_same(self.backend.read(start, stop, None), model.read(start, stop, None))
        for index in range(start, stop if stop - start <= 40 else start):
            assert_same(self.backend.read(index, index + 1, None), [model.entries[index]])

    def reopen(self) -> None:
        """Close, open, and compare all that was recovered."""
        self.backend.close()
        self.open_again()

    def open_again(self) -> None:
        """Open what was closed or killed, and compare all that was recovered."""
        self.backend = self._opener()
        self.assert_recovered()
        self.check()

    def open_as_one_of(self, legal: Sequence[Model]) -> None:
        """Open after a crash: what is found is one of the `legal` states, told by the number of its write."""
        self.backend = self._opener()
        found, numbers = self.backend.recovery.number, [state.number for state in legal]
        assert found in numbers, f"write {found} is the last that was found; legal are {numbers}"
        self.model = legal[numbers.index(found)]
        self.assert_recovered()
        self.check()

    def assert_recovered(self) -> None:
        """What the last opening found is what the model holds."""
        assert_recovered(self.backend.recovery, self.model)


def run(start: int, count: int, term: int, size: int | None = None) -> list[Entry]:
    """`count` entries from index `start` on, each with a payload of its own."""
    return [Entry(term, index, payload(term, index, size)) for index in range(start, start + count)]


def payload(term: int, index: int, size: int | None = None) -> bytes:
    """Bytes that tell which entry they belong to, `size` of them if that is given."""
    name = b"entry %d of term %d." % (index, term)
    return name if size is None else (name * (size // len(name) + 1))[:size]


def assert_recovered(recovery: Recovery, model: Model) -> None:
    """`recovery` reports the state that `model` is in."""
    assert recovery.number == model.number, "the number of the last write"
    assert recovery.anchor == model.anchor, "the anchor"
    assert recovery.last == model.last, "the last id"
    assert list(recovery.term_runs) == model.term_runs(), "the term runs"
    assert recovery.hard_state == model.hard_state, "the hard state"
    assert recovery.meta == model.meta, "the metadata"


def assert_same(found: Sequence[Entry], expected: Sequence[Entry]) -> None:
    """The same entries; says where they begin to differ without showing megabytes."""
    if list(found) == list(expected):
        return
    pairs = zip(found, expected, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found), len(expected)))
    ours, theirs = (_short(entries[place : place + 1]) for entries in (found, expected))
    raise AssertionError(f"entry {place} of {len(found)} is {ours}, not {theirs} of {len(expected)}")


def _short(entries: Sequence[Entry]) -> str:
    return ", ".join(f"Entry({e.term}, {e.index}, {e.data[:40]!r}, {e.kind})" for e in entries) or "missing"
