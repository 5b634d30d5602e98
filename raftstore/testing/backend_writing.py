"""`BackendSuite`: what a write leaves behind, now and after reopening."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest

from raftstore.batch import WriteBatch
from raftstore.entry import INDEX_MAX, NO_ENTRY, Entry, LogId
from raftstore.testing.backend_base import BackendTests
from raftstore.testing.batches import next_batch
from raftstore.testing.checked import run

MIB = 1 << 20


class EntryTests(BackendTests):
    """Every part of an entry is kept."""

    def test_a_new_store_is_empty(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.reopen()

    def test_written_entries_are_read_and_found_again(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(3, term=1)
            store.check()
            store.append(1, term=4)
            store.check()
            store.reopen()

    def test_every_byte_of_a_payload_is_kept(self, tmp_path: Path) -> None:
        random = Random(1)
        sizes = [1, 2, 7, 8, 9, 15, 16, 17, 255, 256, 4095, 4096, 4097, 65535, 65536, 65537]
        payloads = [bytes(range(256)), bytes(64), b"\xff" * 64, *map(random.randbytes, sizes)]
        with self.opened(tmp_path) as store:
            store.write(entries=[Entry(1, i, data) for i, data in enumerate(payloads, 1)])
            for data in payloads:
                store.write(entries=[Entry(1, store.model.last.index + 1, data)])
            store.check()
            store.reopen()

    def test_the_kind_of_an_entry_is_kept_from_0_to_255(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.write(entries=[Entry(1, kind + 1, b"x", kind) for kind in range(256)])
            store.check()
            store.reopen()

    def test_an_empty_payload_is_an_entry(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.write(entries=[Entry(1, 1, b"")])
            store.check()
            store.write(entries=[Entry(1, 2, b""), Entry(1, 3, b"x"), Entry(1, 4, b"")])
            store.check()
            store.reopen()

    def test_term_0_is_a_term(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(2, term=0)
            store.append(2, term=1)
            store.check()
            store.reopen()
            store.purge(1)
            store.reopen()

    def test_payloads_of_a_mebibyte_are_kept(self, tmp_path: Path) -> None:
        random = Random(2)
        with self.opened(tmp_path) as store:
            store.write(entries=[Entry(1, 1, random.randbytes(MIB))])
            store.write(entries=[Entry(1, index, random.randbytes(MIB)) for index in range(2, 6)])
            store.append(1)
            store.check()
            store.reopen()

    def test_thousands_of_entries_in_one_write_are_kept(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(5000, term=3)
            store.check()
            store.reopen()

    def test_indexes_and_terms_up_to_the_highest_are_kept(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.reset(LogId(INDEX_MAX - 1, INDEX_MAX - 6), run(INDEX_MAX - 5, 3, INDEX_MAX - 1))
            store.append(3, term=INDEX_MAX)
            store.check()
            store.reopen()
            store.write(truncate_from=INDEX_MAX - 1)
            store.purge(INDEX_MAX - 4)
            store.check()
            store.reopen()


class StateTests(BackendTests):
    """Hard state, metadata and the number of the last write."""

    def test_hard_state_and_metadata_are_kept_without_entries(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.write(hard_state=b"term 7, voted for n2")
            store.reopen()
            store.write(meta=b"cluster 5")
            store.reopen()

    def test_each_is_replaced_and_leaves_the_other_alone(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.write(hard_state=b"long hard state", meta=b"long metadata")
            store.write(hard_state=b"new")
            store.reopen()
            store.write(meta=b"m")
            store.reopen()
            store.write(entries=run(1, 2, 1))
            store.reopen()

    def test_empty_bytes_are_kept_and_are_not_none(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.write(hard_state=b"")
            store.reopen()
            store.write(hard_state=b"x", meta=b"y")
            store.write(meta=b"")
            store.reopen()

    def test_large_metadata_is_kept(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.write(meta=Random(3).randbytes(65536), hard_state=Random(4).randbytes(300))
            store.append(2, term=1)
            store.reopen()

    def test_truncation_purge_and_reset_keep_hard_state_and_metadata(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.write(entries=run(1, 10, 1), hard_state=b"hard", meta=b"meta")
            store.write(truncate_from=8)
            store.reopen()
            store.purge(3)
            store.reopen()
            store.reset(LogId(5, 50))
            store.reopen()

    def test_the_number_of_the_last_write_is_found_again(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            for number in (1, 2, 17, 2**31, 2**32 + 1, 2**40):
                store.write_batch(WriteBatch(number, entries=run(store.model.last.index + 1, 1, 1)))
                store.reopen()
            store.write(hard_state=b"x")
            store.reopen()
            store.write(truncate_from=2)
            store.reopen()
            store.purge(1)
            store.reopen()

    def test_a_write_that_changes_nothing_still_has_its_number(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(2, term=1)
            store.write(truncate_from=3)
            store.reopen()
            store.write()
            store.reopen()


class RepeatTests(BackendTests):
    """A write that an interrupt cut short is repeated with the same batch."""

    def test_repeating_a_write_that_was_done_changes_nothing(self, tmp_path: Path) -> None:
        random = Random(5)
        with self.opened(tmp_path) as store:
            store.backend.write(store.write(entries=run(1, 3, 1)))
            for _ in range(30):
                store.backend.write(store.write_batch(next_batch(random, store.model)))
                store.check()
            store.reopen()

    def test_a_write_that_an_interrupt_cut_short_can_be_repeated(self, tmp_path: Path) -> None:
        random = Random(6)
        with self.opened(tmp_path) as store, _interruptible():
            for _ in range(40):
                batch = next_batch(random, store.model)
                store.model.apply(batch)
                _write_with_an_interrupt(partial(store.backend.write, batch), random.random() * 2e-3)
                store.check()
            store.reopen()


class OrderTests(BackendTests):
    """The parts of a batch are applied in their order; what is dropped never comes back."""

    def test_a_truncation_drops_the_index_and_what_follows(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(5, term=1)
            store.append(5, term=2)
            store.write(truncate_from=8)
            store.check()
            store.reopen()
            store.write(truncate_from=3)
            store.check()
            store.reopen()
            store.write(truncate_from=1)
            store.reopen()
            store.append(2, term=9)
            store.check()
            store.reopen()

    def test_a_truncation_above_the_last_entry_drops_nothing(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(3, term=1)
            store.write(truncate_from=4)
            store.check()
            store.write(truncate_from=100, entries=run(4, 1, 2))
            store.check()
            store.reopen()

    def test_entries_replace_what_the_same_write_truncates(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(6, term=1)
            store.write(truncate_from=4, entries=run(4, 3, 2))
            store.check()
            store.reopen()
            store.write(truncate_from=5, entries=run(5, 9, 3))
            store.check()
            store.reopen()

    def test_a_shorter_replacement_leaves_no_stale_tail(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(20, term=1)
            store.write(truncate_from=5, entries=run(5, 1, 2))
            store.check()
            store.reopen()
            store.append(1)
            store.check()
            store.reopen()

    def test_a_purge_drops_up_to_its_index_and_keeps_the_rest(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(10, term=1)
            store.purge(4)
            store.check()
            store.reopen()
            store.purge(5)
            store.append(3, term=2)
            store.check()
            store.reopen()

    def test_a_purge_remembers_the_term_of_the_last_dropped_entry(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(3, term=2)
            store.append(3, term=5)
            store.purge(3)
            store.reopen()
            store.purge(4)
            store.reopen()

    def test_a_purge_of_everything_keeps_anchor_and_number(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(4, term=3)
            store.purge(4)
            store.reopen()
            store.append(2, term=4)
            store.check()
            store.reopen()

    def test_a_purge_above_the_last_entry_drops_all_and_new_ones_follow_it(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(4, term=1)
            store.write(anchor=LogId(2, 9), entries=run(10, 3, 2))
            store.check()
            store.reopen()

    def test_a_reset_upwards_leaves_an_empty_log_at_its_anchor(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(10, term=1)
            store.reset(LogId(7, 1000))
            store.reopen()
            store.append(3, term=7)
            store.check()
            store.reopen()

    def test_a_reset_downwards_brings_no_old_entry_back(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.reset(LogId(1, 50), run(51, 30, 1))
            store.reset(LogId(2, 20))
            store.reopen()
            store.append(31, term=2)
            store.check()
            store.reopen()
            store.reset(NO_ENTRY, run(1, 5, 1))
            store.check()
            store.reopen()

    def test_an_empty_log_is_reset_below_its_anchor(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.reset(LogId(7, 1000))
            store.reset(LogId(3, 20))
            store.reopen()
            store.append(2, term=3)
            store.check()
            store.reopen()
            store.purge(22)
            store.reset(NO_ENTRY)
            store.reopen()

    def test_a_reset_to_the_same_anchor_empties_the_log(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(10, term=1)
            store.purge(5)
            store.reset(LogId(1, 5))
            store.reopen()
            store.reset(LogId(1, 5), run(6, 2, 1))
            store.check()
            store.reopen()

    def test_all_parts_of_one_batch_take_effect_together(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(20, term=1)
            store.write(truncate_from=9, anchor=LogId(1, 6), entries=run(9, 8, 2), hard_state=b"h", meta=b"m")
            store.check()
            store.reopen()
            store.write(truncate_from=8, anchor=LogId(3, 10), entries=run(11, 2, 3), hard_state=b"i")
            store.check()
            store.reopen()

    def test_the_term_runs_are_exact_after_truncations_and_purges(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            for term in (1, 2, 2, 5, 6, 9):
                store.append(3, term=term)
            store.reopen()
            store.write(truncate_from=15)
            store.reopen()
            store.write(truncate_from=13, entries=run(13, 2, 5) + run(15, 2, 8))
            store.reopen()
            store.purge(2)
            store.reopen()
            store.purge(3)
            store.reopen()
            store.write(truncate_from=10, anchor=LogId(2, 8), entries=run(10, 2, 2))
            store.reopen()


class _Interrupt(KeyboardInterrupt):
    """A Ctrl-C of our own."""


@contextmanager
def _interruptible() -> Generator[None]:
    """Inside, SIGUSR1 raises `_Interrupt` in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach only the main thread")

    def interrupt(*_: object) -> None:
        raise _Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def _write_with_an_interrupt(write: Callable[[], None], delay_s: float) -> None:
    """Call `write`, interrupt it after `delay_s` or as soon as it is done, and then call it again."""
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(delay_s, signal.pthread_kill, (main, signal.SIGUSR1))
    try:
        timer.start()
        write()
        timer.join()
    except _Interrupt:
        write()
    timer.join()
