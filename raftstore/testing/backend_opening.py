"""`BackendSuite`: what opening, examining, upkeep and closing do and do not."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from random import Random
from typing import ClassVar

from raftstore.backend import DiskBackend, Examination
from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.testing.backend_base import BackendTests
from raftstore.testing.batches import next_batch
from raftstore.testing.checked import CheckedStore, assert_recovered, run
from raftstore.testing.tools import eventually

KIB = 1 << 10


class OpeningTests(BackendTests):
    """Recovery."""

    tail_bytes: ClassVar[int] = 1 << 20
    """What opening may read at most, however long the log is."""

    def test_recovery_never_changes_after_opening(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            fresh = store.model.copy()
            store.write(entries=run(1, 3, 1), hard_state=b"h", meta=b"m")
            store.backend.maintain()
            assert_recovered(store.backend.recovery, fresh)
            store.reopen()
            before = store.model.copy()
            store.write(truncate_from=2, entries=run(2, 4, 7), hard_state=b"i", meta=b"n")
            assert_recovered(store.backend.recovery, before)

    def test_opening_again_and_again_finds_the_same(self, tmp_path: Path) -> None:
        random = Random(1)
        with self.opened(tmp_path) as store:
            for _ in range(12):
                store.write_batch(next_batch(random, store.model))
                store.reopen()
                store.reopen()

    def test_a_recovered_store_takes_writes_at_once(self, tmp_path: Path) -> None:
        random = Random(2)
        with self.opened(tmp_path) as store:
            for _ in range(25):
                store.reopen()
                store.write_batch(next_batch(random, store.model))
                store.check()

    def test_a_clean_stop_leaves_nothing_torn(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(5, term=1)
            store.reopen()
            assert store.backend.recovery.torn_bytes == 0
            assert store.backend.recovery.kept_at is None

    def test_opening_reads_the_tail_and_not_the_log(self, tmp_path: Path) -> None:
        random = Random(3)
        with self.opened(tmp_path) as store:
            for _ in range(4 * self.tail_bytes // (64 * KIB)):
                start = store.model.last.index + 1
                store.write(entries=[Entry(1, start + i, random.randbytes(4 * KIB)) for i in range(16)])
            store.reopen()
            assert store.backend.recovery.bytes_read <= self.tail_bytes


class ExaminingTests(BackendTests):
    """`examine` looks at a closed store, reports what opening would, and changes nothing."""

    def test_examining_a_healthy_store_finds_it_healthy(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            _fill(store)
            store.backend.close()
            for deep in (False, True):
                found = type(store.backend).examine(tmp_path / "store", deep=deep)
                _assert_healthy(found, store)
                assert found.stats.bytes_on_disk > 0
            assert found.entries_checked == len(store.model.entries)

    def test_examining_changes_no_byte(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            _fill(store)
            store.backend.close()
            before = _bytes_of(tmp_path / "store")
            for deep in (False, True):
                type(store.backend).examine(tmp_path / "store", deep=deep)
                assert _bytes_of(tmp_path / "store") == before
            store.open_again()

    def test_examining_a_store_that_was_never_written_finds_it_healthy(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.backend.close()
            found = type(store.backend).examine(tmp_path / "store", deep=True)
            _assert_healthy(found, store)
            assert found.entries_checked == 0


class UpkeepTests(BackendTests):
    """`maintain`, `stats` and `close`."""

    steady_bytes: ClassVar[int] = 12 << 20
    """What a store may hold on disk at most when there are never more than 512 KiB of live entries."""

    def test_upkeep_between_any_two_writes_changes_nothing(self, tmp_path: Path) -> None:
        random = Random(4)
        with self.opened(tmp_path) as store:
            store.backend.maintain()
            for _ in range(40):
                store.write_batch(next_batch(random, store.model))
                store.backend.maintain()
                store.check()
            store.reopen()
            store.backend.maintain()
            store.backend.maintain()
            store.reopen()

    def test_a_store_that_appends_and_purges_steadily_does_not_grow(self, tmp_path: Path) -> None:
        random = Random(5)
        with self.opened(tmp_path) as store:
            for _ in range(4 * self.steady_bytes // (256 * KIB)):
                start = store.model.last.index + 1
                store.write(entries=[Entry(1, start + i, random.randbytes(16 * KIB)) for i in range(16)])
                if start > 32:
                    store.purge(start - 1)
                store.backend.maintain()
            eventually(lambda: _size_after_upkeep(store) <= self.steady_bytes, "purged room comes back")
            store.check()
            store.reopen()

    def test_stats_are_plausible(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.write(entries=[Entry(1, i, Random(i).randbytes(64 * KIB)) for i in range(1, 17)])
            stats = store.backend.stats()
            assert stats.bytes_on_disk >= 1024 * KIB
            assert 0 <= stats.bytes_reclaimable <= stats.bytes_on_disk - 1024 * KIB
            assert stats.files >= 1

    def test_closing_twice_is_fine(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(2, term=1)
            store.backend.close()
            store.backend.close()
            store.open_again()

    def test_closing_releases_files_and_threads(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(20, term=1)
            store.backend.close()
            before = _held_by_the_process()
            for _ in range(4):
                store.open_again()
                store.append(1)
                store.backend.maintain()
                store.backend.close()
            descriptors, threads = _held_by_the_process()
            assert descriptors <= before[0]
            assert threads <= before[1]


def _assert_healthy(found: Examination, store: CheckedStore[DiskBackend]) -> None:
    assert list(found.damage) == []
    assert found.recovery is not None, "opening would refuse"
    assert_recovered(found.recovery, store.model)


def _fill(store: CheckedStore[DiskBackend]) -> None:
    """A bit of everything."""
    store.append(30, term=1, size=300)
    store.write(truncate_from=21, entries=run(21, 20, 3), hard_state=b"hard", meta=b"meta")
    store.write(anchor=LogId(1, 7))
    store.append(3, size=100_000)
    store.write_batch(WriteBatch(100, hard_state=b"state"))


def _bytes_of(path: Path) -> dict[str, bytes]:
    """Every file below `path`, with its content."""
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def _size_after_upkeep(store: CheckedStore[DiskBackend]) -> int:
    """On disk. An engine may leave upkeep to threads of its own, which are done with it some time later."""
    store.backend.maintain()
    return store.backend.stats().bytes_on_disk


def _held_by_the_process() -> tuple[int, int]:
    """Open file descriptors, and running threads."""
    gc.collect()
    descriptors = Path("/proc/self/fd")
    opened = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    return opened, threading.active_count()
