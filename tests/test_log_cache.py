"""What is held in memory, and how often the disk is asked."""

from __future__ import annotations

import pytest
from log_tools import both

from raftstore.entry import LogId
from raftstore.strategy import MemFirst, Strategy
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log
from raftstore.testing.tools import entry, run, span


def fill(disk: MemoryDisk, count: int, size: int = 100) -> None:
    """A closed log of `count` entries of `size` bytes."""
    with open_log(disk) as log:
        log.append([entry(index, data=bytes([index % 256]) * size) for index in range(1, count + 1)])
    disk.reads = 0


def test_a_lazy_opening_reads_no_entry(disk: MemoryDisk) -> None:
    fill(disk, 1000)
    with open_log(disk) as log:
        assert (log.first_index, log.last, len(log)) == (1, LogId(1, 1000), 1000)
        assert (log.term(500), log.first_index_of_term(1), log.last_index_of_term(1)) == (1, 1, 1000)
        assert log.majority_index([1000], 1) == 1000
        assert disk.reads == 0


def test_a_preloaded_log_reads_nothing_afterwards(disk: MemoryDisk) -> None:
    fill(disk, 1000)
    with open_log(disk, startup="preload") as log:
        at_opening = disk.reads
        assert at_opening > 0
        assert len(log.entries(1)) == 1000
        assert disk.reads == at_opening


def test_preloading_keeps_the_newest_entries_that_fit(disk: MemoryDisk) -> None:
    fill(disk, 1000, size=1000)
    with open_log(disk, startup="preload", cache_bytes=100_000) as log:
        at_opening = disk.reads
        assert log.status().memory_bytes <= 120_000
        assert len(log.entries(950)) == 51
        assert disk.reads == at_opening
        assert len(log.entries(1, 10)) == 9
        assert disk.reads > at_opening


def test_mem_first_reads_the_disk_only_while_it_opens(disk: MemoryDisk) -> None:
    fill(disk, 1000)
    with open_log(disk, MemFirst(), cache_bytes=1000) as log:
        at_opening = disk.reads
        log.append(span(1001, 1501))
        log.flush()
        assert len(log.entries(1)) == 1500
        assert disk.reads == at_opening


def test_what_was_read_once_is_in_memory(disk: MemoryDisk) -> None:
    fill(disk, 100)
    with open_log(disk) as log:
        first = log.entries(10, 20)
        reads = disk.reads
        assert log.entries(10, 20) == first
        assert disk.reads == reads


def test_reading_forwards_fetches_ahead(disk: MemoryDisk) -> None:
    fill(disk, 2000)
    with open_log(disk) as log:
        assert [log.entry(index) for index in range(1, 2001)] == log.entries(1)
        assert disk.reads < 200


def test_what_was_just_appended_is_read_from_memory(disk: MemoryDisk) -> None:
    with open_log(disk) as log:
        log.append(span(1, 101))
        assert log.entries(1) == span(1, 101)
        assert disk.reads == 0


def test_the_cache_stays_within_its_limit(disk: MemoryDisk) -> None:
    limit = 50_000
    with open_log(disk, cache_bytes=limit) as log:
        for start in range(1, 2001, 50):
            log.append([entry(index, data=b"x" * 500) for index in range(start, start + 50)])
            assert log.status().memory_bytes <= 1.2 * limit
        for start in range(1, 2001, 50):
            assert len(log.entries(start, start + 50)) == 50
            assert log.status().memory_bytes <= 1.2 * limit


@pytest.mark.parametrize("cache_bytes", [0, 1, 300])
def test_a_tiny_cache_only_costs_reads(disk: MemoryDisk, cache_bytes: int) -> None:
    with open_log(disk, cache_bytes=cache_bytes) as log:
        log.append(span(1, 301))
        log.truncate(251)
        log.append(run(251, [2] * 20))
        log.purge(100)
        expected = span(101, 251) + run(251, [2] * 20)
        assert log.entries(101) == expected
        assert [log.entry(index) for index in range(101, 271)] == expected
        assert list(log.scan()) == expected


def test_what_is_not_durable_is_never_evicted(disk: MemoryDisk) -> None:
    with open_log(disk, MemFirst(), cache_bytes=1) as log, disk.gate.closed():
        log.append([entry(index, data=b"x" * 500) for index in range(1, 101)])
        assert len(log.entries(1)) == 100
        assert disk.reads == 0


@both
def test_bytes_max_holds_across_memory_and_disk(disk: MemoryDisk, strategy: Strategy) -> None:
    fill(disk, 100)
    with open_log(disk, strategy) as log:
        log.append([entry(index, data=b"x" * 100) for index in range(101, 201)])
        assert len(log.entries(90, 60 + 90, bytes_max=2050)) == 20
        assert len(log.entries(90, bytes_max=100_000)) == 111


def test_scanning_holds_a_bounded_part(disk: MemoryDisk) -> None:
    fill(disk, 300, size=20_000)
    with open_log(disk, cache_bytes=100_000) as log:
        for number, found in enumerate(log.scan(), 1):
            assert found.index == number
        assert disk.reads > 3
        assert log.status().memory_bytes <= 120_000


def test_scanning_beside_a_purge_says_so_or_goes_on(disk: MemoryDisk) -> None:
    fill(disk, 3000, size=1000)
    with open_log(disk, cache_bytes=1000) as log:
        scan = log.scan()
        assert next(scan).index == 1
        log.purge(2900)
        try:
            indexes = [found.index for found in scan]
        except LookupError:
            indexes = list(range(2, 3001))
        assert indexes == list(range(2, 3001))
