"""Reads and checks what a store holds, from an open engine."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from itertools import pairwise

import msgspec

from raftstore.entry import Entry, LogId
from raftstore.errors import CorruptionError
from raftstore_rocksdb.engine import Engine
from raftstore_rocksdb.layout import (
    BOUNDS,
    HARD_STATE,
    META,
    entry_key,
    key_index,
    payload_bytes,
    run_key,
    unpack_bounds,
    unpack_entry,
    unpack_run,
    unseal,
)
from raftstore_rocksdb.shape import Shape


class State(msgspec.Struct, frozen=True):
    """What opening reads: everything but the entries."""

    shape: Shape
    hard_state: bytes | None
    meta: bytes | None


def read_state(engine: Engine) -> State:
    """The state of the store, checked for being of one piece; of the entries the first and the last.

    Raises `CorruptionError`, `FormatError`, `OSError`. O(term runs).
    """
    found = engine.get(BOUNDS)
    if found is None:
        raise CorruptionError("the bounds record is missing")
    number, anchor, last, run_count = unpack_bounds(found)
    shape = Shape(number, anchor, last, _read_runs(engine, anchor, last))
    _check_shape(shape, run_count)
    if last.index > anchor.index:
        _check_end(engine, shape.runs[0])
        _check_end(engine, last)
    return State(shape, _read_blob(engine, HARD_STATE), _read_blob(engine, META))


def read_entries(engine: Engine, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
    """The entries of [start, stop), cut where their payloads would exceed `bytes_max`, but at least one.

    Raises `LookupError` if one of them is not there, `CorruptionError` if one is not what was written.
    """
    if stop == start + 1:
        key = entry_key(start)
        value = engine.get(key)
        return [unpack_entry(start, key, value)] if value is not None else _missing(start)
    with closing(engine.scan(entry_key(start), entry_key(stop))) as records:
        entries, complete = _collect(records, start, bytes_max)
    if complete and start + len(entries) != stop:
        _missing(start + len(entries))
    return entries


def _collect(
    records: Iterable[tuple[bytes, bytes]], start: int, bytes_max: int | None
) -> tuple[list[Entry], bool]:
    """The entries from `start`, and whether the records came to their end."""
    entries: list[Entry] = []
    total = 0
    for key, value in records:
        total += payload_bytes(value)
        if entries and bytes_max is not None and total > bytes_max:
            return entries, False
        index = start + len(entries)
        if key_index(key) != index:
            _missing(index)
        entries.append(unpack_entry(index, key, value))
    return entries, True


def _missing(index: int) -> list[Entry]:
    raise LookupError(index)


def _read_runs(engine: Engine, anchor: LogId, last: LogId) -> list[LogId]:
    with closing(engine.scan(run_key(anchor.index + 1), run_key(last.index + 1))) as records:
        return [unpack_run(key, value) for key, value in records]


def _check_shape(shape: Shape, run_count: int) -> None:
    runs, anchor, last = shape.runs, shape.anchor, shape.last
    empty = last.index == anchor.index
    ascending = all(a.term < b.term for a, b in pairwise(runs))
    ends = last == anchor if empty else bool(runs) and runs[0].index == anchor.index + 1
    agree = empty or (bool(runs) and runs[-1].term == last.term)
    if len(runs) != run_count or not (ascending and ends and agree) or last.index < anchor.index:
        raise CorruptionError("the bounds record and the term runs do not agree")


def _check_end(engine: Engine, expected: LogId) -> None:
    key = entry_key(expected.index)
    value = engine.get(key)
    if value is None or unpack_entry(expected.index, key, value).id != expected:
        message = "an entry that the bounds record names is missing or another"
        raise CorruptionError(message, first_index=expected.index, last_index=expected.index)


def _read_blob(engine: Engine, key: bytes) -> bytes | None:
    value = engine.get(key)
    names = {HARD_STATE: "the hard state", META: "the meta record"}
    return None if value is None else unseal(key, value, names[key])
