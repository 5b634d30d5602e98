"""What a PySyncObj journal keeps of its newest entries: within its limits, and what is in the log."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given
from interrupting import interrupt

pytest.importorskip("pysyncobj")

from raftstore.adapters.pysyncobj import RaftStoreJournal
from raftstore.adapters.pysyncobj import recent as recent_module
from raftstore.adapters.pysyncobj.recent import Recent
from raftstore.adapters.pysyncobj.slices import JournalEntry
from raftstore.log import RaftLog
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log

WRITES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(0, 30)), max_size=30)


@pytest.fixture(autouse=True, scope="module")
def small() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_module, "RECENT_BYTES_MAX", 100)
        patch.setattr(recent_module, "RECENT_MAX", 10)
        patch.setattr(recent_module, "AT_ONCE", 5)
        yield


@given(WRITES)
def test_what_is_kept_is_what_the_log_holds(writes: list[tuple[int, int, int]]) -> None:
    log: dict[int, JournalEntry] = {}
    recent = Recent()
    for term, (start, count, size) in enumerate(writes):
        entries = [(bytes(size), index, term) for index in range(start, start + count)]
        log = {index: entry for index, entry in log.items() if index < start}
        log.update((entry[1], entry) for entry in entries)
        recent.extend(entries, sum(len(entry[0]) for entry in entries))
        for index in range(1, 80):
            found = recent.read(index, 80)
            assert found == [log[index + at] for at in range(len(found))]
        kept = [recent.read(index, index + 1) for index in range(1, 80)]
        assert sum(map(len, kept)) <= 10
        assert sum(len(entry[0]) for found in kept for entry in found) <= 100


def test_the_newest_entries_are_read_without_asking_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the log was asked")

    with open_log(MemoryDisk()) as log:
        journal = RaftStoreJournal(log)
        for index in range(1, 8):
            journal.add(b"x", index, 1)
        monkeypatch.setattr(RaftLog, "entries", refuse)
        assert list(journal[3:7]) == [(b"x", index, 1) for index in range(4, 8)]


def test_an_entry_that_a_conflict_replaced_is_not_read_again() -> None:
    with open_log(MemoryDisk()) as log:
        journal = RaftStoreJournal(log)
        for index in range(1, 8):
            journal.add(b"old", index, 1)
        journal.deleteEntriesFrom(3)
        journal.add(b"new", 4, 2)
        assert journal[2:] == [(b"old", 3, 1), (b"new", 4, 2)]
        journal.deleteEntriesFrom(3)
        journal.add(b"new", 4, 2)  # a repeated message: known, and not written again
        assert journal[-1] == (b"new", 4, 2)
        assert log.last_index == 4


def test_what_was_kept_before_a_snapshot_is_forgotten() -> None:
    with open_log(MemoryDisk()) as log:
        journal = RaftStoreJournal(log)
        for index in range(1, 6):
            journal.add(b"old", index, 1)
        journal.onOneSecondTimer()
        journal.clear()
        journal.add(b"new", 3, 2)
        assert journal[0] == (b"new", 3, 2)
        assert len(journal) == 1
        assert journal[:] == [(b"new", 3, 2)]


@pytest.mark.parametrize("start", [1, 3, 6, 9], ids=["all", "some", "none", "a hole"])
def test_an_interrupt_leaves_no_entry_under_the_index_of_another(start: int) -> None:
    """A program that ticks by itself may go on after one; the entries are sent and applied by index."""
    for step in itertools.count(1):
        recent = Recent()
        recent.extend([(b"old", index, 1) for index in range(1, 6)], 15)
        added = [(b"new", index, 2) for index in range(start, start + 3)]
        with interrupt(step, lambda file: file == recent_module.__file__) as where:
            recent.extend(added, 9)
        for index in range(1, 13):
            found = recent.read(index, 13)
            assert [entry[1] for entry in found] == list(range(index, index + len(found))), where
        if not where:
            assert step > 5
            return
