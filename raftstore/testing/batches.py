"""Random batches that the contract allows, for a store in a given state."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from raftstore.batch import WriteBatch, merge
from raftstore.entry import NO_ENTRY, Entry, LogId
from raftstore.testing.model import Model

FEW = 6
"""Indexes and terms stay small, so that operations meet each other."""


def next_batch(random: Random, model: Model) -> WriteBatch:
    """A batch that may follow on `model`, which is not changed: one operation, or several merged into one."""
    if random.random() < 0.7:
        return next_single(random, model)
    return merge(next_singles(random, model, random.randint(2, 6)))


def next_batches(random: Random, model: Model, count: int) -> list[WriteBatch]:
    """`count` batches, merged ones among them, that may follow on each other; `model` is not changed."""
    return _in_a_row(next_batch, random, model, count)


def next_singles(random: Random, model: Model, count: int) -> list[WriteBatch]:
    """`count` batches of one operation each that may follow on each other; `model` is not changed."""
    return _in_a_row(next_single, random, model, count)


def _in_a_row(
    make: Callable[[Random, Model], WriteBatch], random: Random, model: Model, count: int
) -> list[WriteBatch]:
    ahead, found = model.copy(), list[WriteBatch]()
    for _ in range(count):
        found.append(make(random, ahead))
        ahead.apply(found[-1])
    return found


def next_single(random: Random, model: Model) -> WriteBatch:
    """A batch of one operation, sometimes with hard state or metadata beside it."""
    operation = random.choice(_OPERATIONS)
    number = model.number + random.choice((1, 1, 1, 2, 1000))
    batch = msgspec.structs.replace(operation(random, model), number=number)
    if random.random() < 0.2:
        batch = msgspec.structs.replace(batch, hard_state=_data(random))
    if random.random() < 0.1:
        batch = msgspec.structs.replace(batch, meta=_data(random))
    return batch


def entries_after(random: Random, last: LogId, count: int) -> list[Entry]:
    """`count` entries that may follow `last`: now and then a higher term, no payload, a strange kind."""
    found: list[Entry] = []
    for index in range(last.index + 1, last.index + 1 + count):
        term = found[-1].term if found else last.term
        if random.random() < 0.3:
            term += random.randint(1, 3)
        found.append(Entry(term, index, _data(random), random.choice((0, 0, 1, 255))))
    return found


def _data(random: Random) -> bytes:
    size = random.choice((0, 1, 8, 8, 40, 300))
    return bytes([random.randrange(256)]) * size


def _append(random: Random, model: Model) -> WriteBatch:
    return WriteBatch(0, entries=entries_after(random, model.last, random.randint(1, FEW)))


def _truncate(random: Random, model: Model) -> WriteBatch:
    return WriteBatch(0, truncate_from=random.randint(model.first_index, model.last.index + 1))


def _replace(random: Random, model: Model) -> WriteBatch:
    start = random.randint(model.first_index, model.last.index + 1)
    before = model.entries.get(start - 1)
    after = model.anchor if before is None else before.id
    entries = entries_after(
        random, LogId(after.term + random.randint(0, 1), after.index), random.randint(1, FEW)
    )
    return WriteBatch(0, truncate_from=start, entries=entries)


def _purge(random: Random, model: Model) -> WriteBatch:
    if not model.entries:
        return _state(random, model)
    upto = model.entries[random.randint(model.first_index, model.last.index)]
    keeps = random.random() < 0.5
    return WriteBatch(0, anchor=upto.id, entries=entries_after(random, model.last, 1) if keeps else ())


def _reset(random: Random, model: Model) -> WriteBatch:
    anchor = LogId(random.randint(0, FEW), random.randint(1, 3 * FEW))
    anchor = random.choice((NO_ENTRY, anchor, anchor, LogId(model.last.term, model.last.index + FEW)))
    return WriteBatch(
        0, truncate_from=1, anchor=anchor, entries=entries_after(random, anchor, random.randint(0, 3))
    )


def _state(random: Random, model: Model) -> WriteBatch:
    return random.choice((WriteBatch(0, hard_state=_data(random)), WriteBatch(0, meta=_data(random))))


_OPERATIONS: list[Callable[[Random, Model], WriteBatch]] = [
    *(_append, _append, _append, _append),
    *(_replace, _replace, _truncate),
    *(_purge, _purge, _reset, _state),
]
