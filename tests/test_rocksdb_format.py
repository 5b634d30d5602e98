"""The stored form of the rocksdb backend: keys, values, and the records that a write drops and puts."""

from __future__ import annotations

from random import Random

import pytest

pytest.importorskip("rocksdict")

from raftstore_rocksdb.layout import (
    BOUNDS,
    entry_key,
    key_index,
    pack_bounds,
    run_key,
    seal,
    unpack_bounds,
    unpack_entry,
)
from raftstore_rocksdb.rows import Rows, rows_of
from raftstore_rocksdb.shape import Shape
from rocksdb_tools import value_of

from raftstore.entry import Entry, LogId
from raftstore.errors import CorruptionError, FormatError
from raftstore.testing.batches import next_batch
from raftstore.testing.model import Model

pytestmark = pytest.mark.backend("rocksdb")


def test_keys_sort_as_their_indexes_do_and_entries_before_all_else() -> None:
    indexes = [0, 1, 255, 256, 2**32, 2**63 - 1]
    keys = [entry_key(i) for i in indexes] + [run_key(i) for i in indexes] + [BOUNDS]
    assert keys == sorted(keys)
    assert [key_index(entry_key(i)) for i in indexes] == indexes


def test_every_flipped_bit_of_a_stored_entry_is_noticed() -> None:
    key, entry = entry_key(7), Entry(3, 7, b"payload", 9)
    value = value_of(entry)
    assert unpack_entry(7, key, value) == entry
    for bit in range(len(value) * 8):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            unpack_entry(7, key, bytes(damaged))


def test_an_entry_is_not_taken_for_the_one_at_another_index() -> None:
    value = value_of(Entry(3, 7, b"payload"))
    with pytest.raises(CorruptionError):
        unpack_entry(8, entry_key(8), value)


@pytest.mark.parametrize("size", range(13))
def test_a_value_cut_short_is_noticed(size: int) -> None:
    value = value_of(Entry(3, 7, b""))
    with pytest.raises(CorruptionError):
        unpack_entry(7, entry_key(7), value[:size])


def test_a_newer_format_is_refused_with_both_versions_named() -> None:
    with pytest.raises(FormatError, match="format 2; this version knows 1"):
        unpack_bounds(seal(BOUNDS, b"\x00\x02" + bytes(48)))


def test_the_bounds_record_is_read_back_as_it_was_written() -> None:
    shape = Shape(2**40, LogId(3, 2**62), LogId(9, 2**63 - 1), [LogId(9, 2**62 + 1)])
    assert unpack_bounds(pack_bounds(shape)) == (2**40, shape.anchor, shape.last, 1)


@pytest.mark.parametrize("seed", range(60))
def test_rows_applied_once_or_twice_hold_what_the_model_holds(seed: int) -> None:
    random, model, shape, records = Random(seed), Model(), Shape(), dict[bytes, bytes]()
    for _ in range(40):
        batch = next_batch(random, model)
        model.apply(batch)
        after = shape.after(batch)
        rows = rows_of(batch, shape, after)
        for _ in range(random.randint(1, 2)):
            _apply(records, rows)
        shape = after
        assert (shape.number, shape.anchor, shape.last) == (model.number, model.anchor, model.last)
        assert list(shape.runs) == model.term_runs()
        assert {k for k in records if k[0] == 1} == {entry_key(i) for i in model.entries}
        assert {k for k in records if k[0] == 2} == {run_key(run.index) for run in model.term_runs()}


def _apply(records: dict[bytes, bytes], rows: Rows) -> None:
    for start, stop in rows.drops:
        for key in [key for key in records if start <= key < stop]:
            del records[key]
    records.update(rows.puts)
