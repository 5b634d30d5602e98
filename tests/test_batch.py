"""Batches that follow each other become one batch that does the same."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftstore.batch import WriteBatch, merge
from raftstore.entry import NO_ENTRY, Entry, LogId
from raftstore.testing.batches import next_batch, next_singles
from raftstore.testing.model import ContractViolationError, Model

randoms = st.randoms(use_true_random=False)


def entries(start: int, stop: int, term: int = 1) -> list[Entry]:
    return [Entry(term, index, b"%d@%d" % (index, term)) for index in range(start, stop)]


def some_store(random: Random) -> Model:
    model = Model()
    for _ in range(random.randint(0, 4)):
        model.apply(next_batch(random, model))
    return model


def one_by_one(model: Model, batches: list[WriteBatch]) -> Model:
    model = model.copy()
    for batch in batches:
        model.apply(batch)
    return model


def assert_merging_changes_nothing(before: Model, batches: list[WriteBatch]) -> WriteBatch:
    merged = merge(batches)
    assert one_by_one(before, [merged]) == one_by_one(before, batches)
    return merged


@settings(max_examples=150, deadline=None)
@given(randoms, st.integers(1, 12))
def test_the_merge_of_any_batches_does_what_they_do_one_by_one(random: Random, count: int) -> None:
    before = some_store(random)
    assert_merging_changes_nothing(before, next_singles(random, before, count))


@settings(max_examples=50, deadline=None)
@given(randoms, st.integers(0, 4), st.integers(1, 4), st.integers(1, 4))
def test_it_does_not_matter_in_which_groups_batches_are_merged(
    random: Random, a: int, b: int, c: int
) -> None:
    before = some_store(random)
    batches = next_singles(random, before, a + b + c + 1)
    head, middle, tail = (
        merge(batches[: a + 1]),
        merge(batches[a + 1 : a + b + 1]),
        merge(batches[a + b + 1 :]),
    )
    expected = one_by_one(before, batches)
    assert one_by_one(before, [head.then(middle).then(tail)]) == expected
    assert one_by_one(before, [head.then(middle.then(tail))]) == expected


@settings(max_examples=30, deadline=None)
@given(randoms)
def test_merging_leaves_the_merged_batches_as_they_were(random: Random) -> None:
    batches = next_singles(random, Model(), 5)
    before = msgspec.msgpack.encode(batches)
    merge(batches)
    assert msgspec.msgpack.encode(batches) == before


def test_one_batch_merges_to_itself() -> None:
    batch = WriteBatch(3, 2, LogId(1, 1), entries(2, 4), b"h", b"m")
    assert merge([batch]) == batch


def test_a_merged_batch_has_the_last_number() -> None:
    assert WriteBatch(4).then(WriteBatch(9)).number == 9


def test_a_truncation_inside_pending_entries_leaves_the_disk_alone() -> None:
    batches = [WriteBatch(2, entries=entries(11, 16)), WriteBatch(3, truncate_from=13)]
    merged = assert_merging_changes_nothing(Model.after([WriteBatch(1, entries=entries(1, 11))]), batches)
    assert merged.truncate_from is None
    assert list(merged.entries) == entries(11, 13)


def test_a_truncation_below_pending_entries_drops_them_all() -> None:
    batches = [
        WriteBatch(2, entries=entries(11, 16)),
        WriteBatch(3, truncate_from=9, entries=entries(9, 10, 2)),
    ]
    merged = assert_merging_changes_nothing(Model.after([WriteBatch(1, entries=entries(1, 11))]), batches)
    assert merged.truncate_from == 9
    assert list(merged.entries) == entries(9, 10, 2)


def test_the_lowest_of_two_truncations_wins() -> None:
    batches = [
        WriteBatch(2, truncate_from=5, entries=entries(5, 9, 2)),
        WriteBatch(3, truncate_from=3),
        WriteBatch(4, entries=entries(3, 7, 3)),
        WriteBatch(5, truncate_from=6),
    ]
    merged = assert_merging_changes_nothing(Model.after([WriteBatch(1, entries=entries(1, 11))]), batches)
    assert merged.truncate_from == 3


def test_a_purge_over_pending_entries_leaves_the_covered_ones_out() -> None:
    batches = [WriteBatch(2, entries=entries(11, 16)), WriteBatch(3, anchor=LogId(1, 13))]
    merged = assert_merging_changes_nothing(Model.after([WriteBatch(1, entries=entries(1, 11))]), batches)
    assert merged.anchor == LogId(1, 13)
    assert list(merged.entries) == entries(14, 16)


def test_a_truncation_after_a_purge_over_pending_entries_is_lossless() -> None:
    batches = [
        WriteBatch(2, entries=entries(11, 21)),
        WriteBatch(3, anchor=LogId(1, 15)),
        WriteBatch(4, truncate_from=16),
        WriteBatch(5, entries=entries(16, 18, 2)),
    ]
    assert_merging_changes_nothing(Model.after([WriteBatch(1, entries=entries(1, 11))]), batches)


def test_a_reset_to_a_lower_anchor_brings_no_old_entry_back() -> None:
    before = Model.after([WriteBatch(1, 1, LogId(1, 50), entries(51, 81))])
    batches = [
        WriteBatch(2, entries=entries(81, 83)),
        WriteBatch(3, 1, LogId(1, 20)),
        WriteBatch(4, entries=entries(21, 23)),
    ]
    merged = assert_merging_changes_nothing(before, batches)
    assert (merged.truncate_from, merged.anchor) == (1, LogId(1, 20))
    assert list(merged.entries) == entries(21, 23)


def test_a_reset_down_and_up_again_equals_the_last_one() -> None:
    before = Model.after([WriteBatch(1, entries=entries(1, 11))])
    batches = [
        WriteBatch(2, 1, LogId(3, 100), entries(101, 103, 3)),
        WriteBatch(3, 1, NO_ENTRY, entries(1, 4)),
        WriteBatch(4, 1, LogId(2, 7), entries(8, 9, 2)),
        WriteBatch(5, anchor=LogId(2, 8)),
    ]
    assert_merging_changes_nothing(before, batches)


def test_the_last_hard_state_and_meta_win_and_empty_bytes_count() -> None:
    batches = [
        WriteBatch(1, hard_state=b"a", meta=b"m"),
        WriteBatch(2, meta=b""),
        WriteBatch(3, hard_state=b"b"),
    ]
    merged = assert_merging_changes_nothing(Model(), batches)
    assert (merged.hard_state, merged.meta) == (b"b", b"")


@pytest.mark.parametrize(
    "batch",
    [
        WriteBatch(1, entries=entries(1, 2)),
        WriteBatch(9, entries=entries(5, 6)),
        WriteBatch(9, entries=entries(4, 5, 0)),
        WriteBatch(9, entries=[*entries(4, 5, 2), *entries(5, 6, 1)]),
        WriteBatch(9, anchor=LogId(0, 0)),
        WriteBatch(9, anchor=LogId(2, 2)),
        WriteBatch(9, anchor=LogId(1, 2), entries=entries(2, 3)),
        WriteBatch(9, truncate_from=1),
    ],
)
def test_the_model_refuses_what_no_caller_may_write(batch: WriteBatch) -> None:
    model = Model.after([WriteBatch(1, 1, LogId(1, 1), entries(2, 4))])
    before = model.copy()
    with pytest.raises(ContractViolationError):
        model.apply(batch)
    assert model == before
