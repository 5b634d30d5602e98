"""`BackendSuite`: what `read` returns, alone and beside writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

from raftstore.backend import DiskBackend
from raftstore.entry import Entry
from raftstore.testing.backend_base import BackendTests
from raftstore.testing.checked import CheckedStore, assert_same, payload, run


class ReadingTests(BackendTests):
    """Exactly the asked-for entries, cut only where the contract says."""

    def test_any_range_is_read_exactly(self, tmp_path: Path) -> None:
        random = Random(1)
        with self.opened(tmp_path) as store:
            for term, count in enumerate((1, 30, 3, 7)):
                store.append(count, term=term)
                store.append(count + 1)
            _read_at_random(store, random, 60)
            store.purge(9)
            store.write(truncate_from=40, entries=run(40, 20, 50))
            _read_at_random(store, random, 60)
            store.reopen()
            _read_at_random(store, random, 60)

    def test_entries_of_many_sizes_are_read_at_random(self, tmp_path: Path) -> None:
        random = Random(2)
        with self.opened(tmp_path) as store:
            for index in range(1, 121):
                size = random.choice((0, 1, 100, 5_000, 70_000))
                store.write(entries=[Entry(index, index, payload(index, index, size), index % 256)])
            _read_at_random(store, random, 40)
            store.reopen()
            _read_at_random(store, random, 40)

    def test_bytes_max_cuts_before_the_entry_that_exceeds_it(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(10, term=1, size=100)
            for bytes_max, count in ((199, 1), (200, 2), (201, 2), (999, 9), (1000, 10), (5000, 10)):
                found = store.backend.read(1, 11, bytes_max)
                assert len(found) == count, f"{count} entries of 100 bytes fit {bytes_max}, got {len(found)}"
                assert_same(found, store.model.read(1, 11, bytes_max))
            store.reopen()
            assert_same(store.backend.read(3, 9, 250), store.model.read(3, 9, 250))

    def test_at_least_one_entry_is_read_whatever_bytes_max(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(2, term=1, size=100_000)
            for bytes_max in (0, 1, 99_999, 100_000, 100_001):
                found = store.backend.read(1, 3, bytes_max)
                assert_same(found, [store.model.entries[1]])

    def test_bytes_max_counts_the_range_that_is_asked_for(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(64, term=1, size=1000)
            assert_same(store.backend.read(60, 65, 3500), store.model.read(60, 65, 3500))
            assert_same(store.backend.read(60, 62, 1_000_000), store.model.read(60, 62, None))

    def test_entries_without_payload_fit_any_bytes_max(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(5, term=1, size=0)
            store.append(1, term=1, size=10)
            assert_same(store.backend.read(1, 7, 0), store.model.read(1, 7, 0))

    def test_replaced_entries_are_never_read_again(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            for term in range(1, 30):
                start = 1 if term == 1 else store.model.last.index - 3
                store.write(truncate_from=start, entries=run(start, 7, term))
                store.check()
            store.reopen()


class ConcurrentReadingTests(BackendTests):
    """`read` and `stats` run beside the one writer, from several threads."""

    def test_reads_beside_appends_return_what_was_written(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(1, term=1, size=200)
            live = _Live(store)
            with _Readers(live.read_the_last):
                for _ in range(60):
                    store.append(8, size=200)
                    live.update()
            store.check()

    def test_reads_beside_replacements_and_purges_return_old_or_new_entries(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            store.append(100, term=1, size=200)
            live = _Live(store)
            with _Readers(live.read_what_changes):
                for term in range(2, 42):
                    last = store.model.last.index
                    store.write(truncate_from=last - 5, entries=run(last - 5, 16, term, 200))
                    live.update()
                    store.purge(store.model.last.index - 60)
                    live.update()
                    store.backend.maintain()
            store.check()
            store.reopen()

    def test_stats_beside_writes_answer(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            with _Readers(store.backend.stats):
                for _ in range(40):
                    store.append(4, term=1)
            store.check()

    def test_another_thread_may_write_each_time(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as store:
            for count in range(1, 9):
                thread = threading.Thread(target=store.append, args=(count,), kwargs={"term": count})
                thread.start()
                thread.join()
            store.check()
            maintainer = threading.Thread(target=store.backend.maintain)
            maintainer.start()
            maintainer.join()
            store.reopen()


class _Readers:
    """Three threads that do `work` again and again during the block; the first error is raised at its end."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for error in self._errors:
            raise error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._work()
        except BaseException as error:  # noqa: BLE001  # raised again in the test's thread
            self._errors.append(error)


def _read_at_random(store: CheckedStore[DiskBackend], random: Random, times: int) -> None:
    model = store.model
    for _ in range(times):
        start = random.randint(model.first_index, model.last.index)
        stop = random.randint(start + 1, model.last.index + 1)
        bytes_max = random.choice((None, None, 0, 100, 1000, 10_000))
        assert_same(store.backend.read(start, stop, bytes_max), model.read(start, stop, bytes_max))


class _Live:
    """The bounds of the log when the last write returned, for threads that read beside the next one."""

    def __init__(self, store: CheckedStore[DiskBackend]) -> None:
        self._store = store
        self.update()

    def update(self) -> None:
        model = self._store.model
        self._bounds = (model.first_index, model.last.index + 1)

    def read_the_last(self) -> None:
        """Entries that nobody drops are read exactly."""
        first, stop = self._bounds
        start = max(first, stop - 20)
        assert_same(self._store.backend.read(start, stop, None), run(start, stop - start, 1, 200))

    def read_what_changes(self) -> None:
        """What comes back is, entry by entry, something that was written at that index."""
        first, stop = self._bounds
        for start in (first, (first + stop) // 2, stop - 10):
            try:
                found = self._store.backend.read(start, stop, 8000)
            except LookupError:
                continue
            assert found, "at least one entry"
            for place, entry in enumerate(found):
                assert entry.index == start + place
                assert entry.data == payload(entry.term, entry.index, 200)
