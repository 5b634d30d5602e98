"""Slices of a journal that read as they go, so that asking for the whole log does not load it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import overload

JournalEntry = tuple[bytes, int, int]
"""Command, Raft index, term: as PySyncObj has it in its messages and dumps."""

Read = Callable[[int, int], list[JournalEntry]]
"""The first entries of [start, stop), Raft indexes: at least one."""


class JournalSlice(Sequence[JournalEntry]):
    """The entries of [start, stop), Raft indexes, in bounded memory. Valid until the journal changes.

    A slice of it from its beginning (`view[:9]`) is a list, fit for a message; any other is a view again.
    """

    def __init__(self, read: Read, start: int, stop: int) -> None:
        self._read = read
        self._indexes = range(start, stop)
        self._chunk: list[JournalEntry] = []

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, item: int) -> JournalEntry: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[JournalEntry]: ...
    def __getitem__(self, item: int | slice) -> JournalEntry | Sequence[JournalEntry]:
        indexes = self._indexes[item]
        if isinstance(indexes, int):
            return self._at(indexes)
        if indexes.step != 1:
            raise ValueError(f"journal slices have no step, got {indexes.step}")
        if indexes.start == self._indexes.start:
            return list(islice(self, len(indexes)))
        return JournalSlice(self._read, indexes.start, max(indexes.start, indexes.stop))

    def __iter__(self) -> Iterator[JournalEntry]:
        return chain.from_iterable(self._chunks())

    def _chunks(self) -> Iterator[list[JournalEntry]]:
        index = self._indexes.start
        while index < self._indexes.stop:
            chunk = self._chunk_of(index)
            yield chunk[index - chunk[0][1] :]
            index = chunk[-1][1] + 1

    def _at(self, index: int) -> JournalEntry:
        chunk = self._chunk_of(index)
        return chunk[index - chunk[0][1]]

    def _chunk_of(self, index: int) -> list[JournalEntry]:
        """Entries that were read together, `index` among them."""
        if not self._chunk or not self._chunk[0][1] <= index <= self._chunk[-1][1]:
            self._chunk = self._read(index, self._indexes.stop)
        return self._chunk
