"""The journal alone, on a disk in memory: what is written when, and what a crash leaves."""

from __future__ import annotations

import errno
import pickle
import sys
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

pytest.importorskip("pysyncobj")

from log_tools import NEVER
from pysyncobj.journal import MemoryJournal  # type: ignore[import-untyped,unused-ignore]

from raftstore.adapters.pysyncobj import RaftStoreJournal, library, staging
from raftstore.adapters.pysyncobj.library import check_version
from raftstore.adapters.pysyncobj.node_ids import decode_id, encode_id
from raftstore.adapters.pysyncobj.slices import JournalSlice
from raftstore.errors import (
    BackendMissingError,
    CommittedError,
    ConfigError,
    EntryTooLargeError,
    GapError,
    RaftStoreError,
    StoreFailedError,
    StoreFullError,
    VoteError,
)
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import close_broken, open_log

ACK = {"type": "next_node_idx"}
ENTRIES = {"type": "append_entries"}
COMMAND = {"type": "apply_command"}

Open = Callable[..., RaftStoreJournal]


@pytest.fixture
def open_journal(disk: MemoryDisk, request: pytest.FixtureRequest) -> Open:
    """Opens the journal on `disk`, attached to a transport unless told otherwise."""

    def open_it(strategy: Strategy = DiskFirst(), *, attach: bool = True, **limits: int) -> RaftStoreJournal:  # noqa: B008
        log = open_log(disk, strategy, NEVER, startup="lazy", **limits)
        request.addfinalizer(log.close)
        journal = RaftStoreJournal(log)
        if attach:
            journal.attach("n1:1")
        return journal

    return open_it


def fill(journal: RaftStoreJournal, stop: int, term: int = 1) -> None:
    """Add entries up to and without index `stop`."""
    for index in range(len(journal) + 1, stop):
        journal.add(b"command %d" % index, index, term)


def crash(disk: MemoryDisk, journal: RaftStoreJournal) -> None:
    """Power fails: only what is durable stays. The journal and its log are dead."""
    disk.crash()
    close_broken(journal.log)


def test_all_that_was_added_is_one_write_before_a_message_leaves(
    disk: MemoryDisk, open_journal: Open
) -> None:
    journal = open_journal()
    before = disk.calls
    fill(journal, 101)
    assert disk.calls == before
    journal.before_send(ACK)
    assert disk.calls == before + 1
    assert journal.log.durable_index == 100
    journal.before_send(ACK)
    assert disk.calls == before + 1


def test_a_message_that_promises_nothing_does_not_wait(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    before = disk.calls
    fill(journal, 9)
    journal.before_send(COMMAND)
    assert disk.calls == before


def test_without_a_transport_that_waits_every_add_is_durable(open_journal: Open) -> None:
    journal = open_journal(attach=False)
    for index in range(1, 5):
        journal.add(b"x", index, 0)
        assert journal.log.durable_index == index


def test_the_commit_index_counts_only_what_is_durable(open_journal: Open) -> None:
    for strategy in (DiskFirst(), MemFirst(sync_on_commit=True)):
        journal = open_journal(strategy)
        fill(journal, len(journal) + 10)
        journal.setRaftCommitIndex(len(journal))
        assert journal.log.durable_index == len(journal) == journal.getRaftCommitIndex()
        journal.log.close()


def test_a_fresh_journal_says_commit_index_1_as_pysyncobj_expects(open_journal: Open) -> None:
    journal = open_journal()
    assert (journal.getRaftCommitIndex(), journal.getCurrentTerm(), journal.getVotedForNodeId()) == (
        1,
        0,
        None,
    )


def test_a_lower_commit_index_is_ignored(open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 11)
    journal.setRaftCommitIndex(7)
    journal.setRaftCommitIndex(3)
    assert journal.getRaftCommitIndex() == 7


def test_mem_first_with_sync_on_commit_sends_entries_early_and_acknowledgements_late(
    open_journal: Open,
) -> None:
    journal = open_journal(MemFirst(sync_on_commit=True))
    fill(journal, 11)
    journal.before_send(ENTRIES)
    assert (journal.log.last_index, journal.log.durable_index) == (10, 0)
    journal.before_send(ACK)
    assert journal.log.durable_index == 10


def test_plain_mem_first_waits_for_term_and_vote_alone(open_journal: Open) -> None:
    journal = open_journal(MemFirst())
    fill(journal, 11)
    journal.before_send(ACK)
    assert (journal.log.last_index, journal.log.durable_index) == (10, 0)
    journal.setCurrentTerm(2, "n2:1")
    assert journal.log.hard_state.term == 2


def test_entries_that_come_back_unchanged_are_not_written(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 21)
    journal.before_send(ACK)
    before, entries = disk.calls, list(journal[5:20])
    journal.deleteEntriesFrom(5)
    assert (len(journal), journal[-1][1]) == (5, 5)
    for entry in entries:
        journal.add(*entry)
        assert journal[-1] == entry
    journal.before_send(ACK)
    assert disk.calls == before


def test_a_conflict_is_one_atomic_write(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 21)
    journal.before_send(ACK)
    before = len(disk.writes)
    journal.deleteEntriesFrom(5)
    journal.add(b"command 6", 6, 1)
    journal.add(b"other", 7, 2)
    journal.add(b"more", 8, 2)
    journal.before_send(ACK)
    (write,) = disk.writes[before:]
    assert write.truncate_from == 7
    assert [(entry.index, entry.data) for entry in write.entries] == [(7, b"other"), (8, b"more")]
    assert [index for _, index, _ in journal] == [*range(1, 9)]


def test_no_crash_between_deleting_and_adding_again_takes_an_acknowledged_entry(
    disk: MemoryDisk, open_journal: Open
) -> None:
    journal = open_journal()
    fill(journal, 21)
    journal.before_send(ACK)
    journal.deleteEntriesFrom(5)
    journal.before_send(ACK)
    crash(disk, journal)
    assert len(open_journal()) == 20


def test_what_is_committed_is_not_replaced(open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 11)
    journal.setRaftCommitIndex(8)
    journal.deleteEntriesFrom(5)
    journal.add(b"other", 6, 2)
    with pytest.raises(CommittedError):
        journal.before_send(ACK)


def test_destroying_keeps_what_was_acknowledged_and_then_deleted_by_a_repeated_message(
    open_journal: Open,
) -> None:
    """Nothing differed from it: the leader may have counted it, so that only a conflict may take it."""
    journal = open_journal()
    fill(journal, 21)
    journal.before_send(ACK)
    journal.deleteEntriesFrom(5)
    journal._destroy()
    journal.log.close()
    assert len(open_journal()) == 20


def test_term_and_vote_survive_a_crash(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    journal.setCurrentTerm(7, "n2:4321")
    crash(disk, journal)
    journal = open_journal()
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (7, "n2:4321")


def test_a_second_vote_in_a_term_is_refused(open_journal: Open) -> None:
    journal = open_journal()
    journal.setCurrentTerm(7, "n2:4321")
    with pytest.raises(VoteError):
        journal.setCurrentTerm(7, "n3:4321")


def test_no_message_leaves_under_a_term_that_could_not_be_saved(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    disk.fail_next(OSError(errno.EIO, "bad sector"))
    with pytest.raises(StoreFailedError):
        journal.setCurrentTerm(7, None)
    with pytest.raises(StoreFailedError):
        journal.before_send(ACK)


def test_a_vote_is_saved_while_the_disk_is_full(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 9)
    disk.full = True
    journal.setCurrentTerm(7, "n2:1")
    assert journal.log.hard_state.voted_for == "n2:1"
    with pytest.raises(StoreFullError):
        journal.before_send(ACK)
    disk.full = False


def test_a_vote_leaves_while_the_disk_is_full_and_entries_wait(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 9)
    disk.full = True
    journal.setCurrentTerm(7, "n2:1")
    journal.before_send({"type": "response_vote"})
    crash(disk, journal)
    disk.full = False
    assert open_journal().getVotedForNodeId() == "n2:1"


def test_no_piece_of_a_dump_is_left_out_while_the_disk_is_full(disk: MemoryDisk, open_journal: Open) -> None:
    """PySyncObj goes on with the next piece, whatever became of the one before; entries have to wait."""
    journal = open_journal()
    fill(journal, 3)
    disk.full = True
    journal.before_send(ENTRIES | {"serialized": (b"piece", True, False)})
    with pytest.raises(StoreFullError):
        journal.before_send(ENTRIES)
    disk.full = False


def test_nothing_is_read_to_be_applied_before_a_commit_index_that_failed_is_durable(
    disk: MemoryDisk, open_journal: Open
) -> None:
    """PySyncObj does not repeat the call: it would apply, and tell its client that all is well."""
    journal = open_journal()
    fill(journal, 9)
    disk.full = True
    with pytest.raises(StoreFullError):
        journal.setRaftCommitIndex(5)
    for _ in range(2):
        with pytest.raises(StoreFullError):
            journal[0:5]
    disk.full = False
    assert [index for _, index, _ in journal[0:5]] == [1, 2, 3, 4, 5]
    assert (journal.log.durable_index, journal.getRaftCommitIndex()) == (8, 5)


@pytest.mark.parametrize(
    "node_id", ["10.0.0.1:4321", "", "literal:x", 7, b"\x00\xff", ("a", 1), 2.5, None, True]
)
def test_node_ids_come_back_as_they_were(node_id: object) -> None:
    assert decode_id(encode_id(node_id)) == node_id


def test_a_node_id_that_text_cannot_say_is_refused() -> None:
    with pytest.raises(TypeError, match="a node id is"):
        encode_id(object())


def test_the_startup_clear_keeps_what_follows_the_dump(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 101)
    journal.before_send(ACK)
    dump = journal[49], journal[50]
    journal.log.close()
    journal = open_journal()
    journal.clear()
    journal.add(*dump[0])
    journal.add(*dump[1])
    assert [index for _, index, _ in journal] == [*range(50, 101)]
    assert journal[0] == dump[0]
    assert journal.log.first_index == 50


def test_the_startup_clear_keeps_what_follows_a_dump_of_large_entries(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "TAIL_BYTES_MAX", 10)
    journal = open_journal()
    fill(journal, 101)
    journal.before_send(ACK)
    dump = journal[49], journal[50]
    journal.log.close()
    journal = open_journal()
    journal.clear()
    for entry in dump:
        journal.add(*entry)
    assert [index for _, index, _ in journal] == [*range(50, 101)]


def test_a_snapshot_of_large_entries_is_installed_whole(
    open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "TAIL_BYTES_MAX", 10)
    journal = open_journal()
    fill(journal, 9)
    journal.before_send(ACK)
    journal.clear()
    journal.add(b"x" * 100, 50, 2)
    journal.add(b"y" * 100, 51, 2)
    journal.before_send(ACK)
    assert list(journal) == [(b"x" * 100, 50, 2), (b"y" * 100, 51, 2)]


def test_a_dump_older_than_the_log_stops_the_node_and_leaves_the_log(
    disk: MemoryDisk, open_journal: Open
) -> None:
    """Started with it, the node would have forgotten what it acknowledged between the two."""
    journal = open_journal()
    fill(journal, 101)
    old = journal[9], journal[10]
    journal.before_send(ACK)
    journal.deleteEntriesTo(49)
    journal.log.close()
    journal = open_journal()
    journal.clear()
    journal.add(*old[0])
    with pytest.raises(GapError, match="dump is of index 10, and the log begins at 50"):
        journal.add(*old[1])
    with pytest.raises(GapError, match="newer dump"):
        journal.before_send(ACK)
    with pytest.raises(GapError, match="newer dump"):
        journal.setCurrentTerm(9, None)
    journal.log.close()
    assert [index for _, index, _ in open_journal()] == [*range(50, 101)]


def test_the_startup_clear_drops_a_log_that_is_not_the_dumps(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 101)
    journal.before_send(ACK)
    journal.log.close()
    journal = open_journal()
    journal.clear()
    journal.add(b"another", 50, 2)
    journal.add(b"one", 51, 2)
    journal.before_send(ACK)
    assert list(journal) == [(b"another", 50, 2), (b"one", 51, 2)]
    assert journal.log.first_index == 50


@pytest.mark.parametrize(
    "begin",
    [
        lambda journal: journal.onOneSecondTimer(),
        lambda journal: journal.before_send(ACK),
        lambda journal: journal.setCurrentTerm(9, None),
    ],
)
def test_a_clear_of_a_running_node_drops_everything(
    open_journal: Open, begin: Callable[[RaftStoreJournal], None]
) -> None:
    journal = open_journal()
    fill(journal, 101)
    journal.before_send(ACK)
    journal.log.close()
    journal = open_journal()
    begin(journal)
    journal.clear()
    journal.add(b"of the leader", 50, 2)
    journal.add(b"of the leader too", 51, 2)
    assert [index for _, index, _ in journal] == [50, 51]
    journal.before_send(ACK)
    assert (journal.log.first_index, journal.log.last_index) == (50, 51)


def install_again(journal: RaftStoreJournal, position: int) -> None:
    """As PySyncObj does it when a leader sends a dump that ends with the entry after `position`."""
    dump = journal[position], journal[position + 1]
    journal.onOneSecondTimer()
    journal.clear()
    journal.add(*dump[0])
    journal.add(*dump[1])


def test_a_dump_that_the_log_holds_takes_nothing_acknowledged_after_it(
    disk: MemoryDisk, open_journal: Open
) -> None:
    """Raft §7: what follows is kept. PySyncObj acknowledges its last entry, so it must not see that."""
    journal = open_journal()
    fill(journal, 101)
    journal.setRaftCommitIndex(80)
    journal.before_send(ACK)
    install_again(journal, 49)
    assert [index for _, index, _ in journal] == [50, 51]
    assert journal.getRaftCommitIndex() == 51
    journal.before_send(ACK)
    crash(disk, journal)
    journal = open_journal()
    assert [index for _, index, _ in journal] == [*range(50, 101)]
    assert journal.getRaftCommitIndex() == 80


def test_what_follows_a_dump_that_came_again_is_not_written_again(
    disk: MemoryDisk, open_journal: Open
) -> None:
    journal = open_journal()
    fill(journal, 101)
    journal.before_send(ACK)
    entries = journal[50:100][:50]
    install_again(journal, 49)
    before = len(disk.writes)
    for entry in entries[1:]:
        journal.add(*entry)
    journal.before_send(ACK)
    assert len(disk.writes) == before
    assert [index for _, index, _ in journal] == [*range(50, 101)]


def test_what_follows_a_dump_that_came_again_gives_way_to_the_leaders_entries(open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 101)
    journal.before_send(ACK)
    install_again(journal, 49)
    journal.add(b"other", 52, 2)
    journal.before_send(ACK)
    assert journal[2:] == [(b"other", 52, 2)]
    assert journal.log.last_index == 52


def test_no_crash_leaves_a_snapshot_half_installed(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 11)
    journal.before_send(ACK)
    before = len(disk.writes)
    journal.clear()
    journal.add(b"a", 500, 3)
    journal.add(b"b", 501, 3)
    assert len(disk.writes) == before
    journal.before_send(ACK)
    assert len(disk.writes) == before + 1
    assert list(journal) == [(b"a", 500, 3), (b"b", 501, 3)]


def test_half_a_dump_never_replaces_the_log(disk: MemoryDisk, open_journal: Open) -> None:
    """Its second entry could not be added; PySyncObj only logs that, and goes on to acknowledge the dump."""
    journal = open_journal(entry_bytes_max=1000)
    fill(journal, 11)
    journal.before_send(ACK)
    journal.onOneSecondTimer()
    journal.clear()
    journal.add(b"x", 50, 2)
    with pytest.raises(EntryTooLargeError):
        journal.add(bytes(2000), 51, 2)
    with pytest.raises(RaftStoreError, match="could not be loaded"):
        journal.before_send(ACK)
    crash(disk, journal)
    assert [index for _, index, _ in open_journal()] == [*range(1, 11)]


def test_an_interrupt_while_a_dump_is_compared_takes_nothing_from_the_log(
    disk: MemoryDisk, open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PySyncObj swallows it, and goes on to acknowledge the dump."""
    journal = open_journal()
    fill(journal, 101)
    journal.before_send(ACK)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RaftStoreJournal, "_is_stored", interrupt)
    with pytest.raises(KeyboardInterrupt):
        install_again(journal, 49)
    with pytest.raises(RaftStoreError, match="could not be loaded"):
        journal.before_send(ACK)
    crash(disk, journal)
    assert [index for _, index, _ in open_journal()] == [*range(1, 101)]


def test_a_dump_older_than_the_log_of_a_running_node_leaves_the_log(
    disk: MemoryDisk, open_journal: Open
) -> None:
    """A dump that the node's own deserializer loads is known only when its entries are added."""
    journal = open_journal()
    fill(journal, 101)
    old = journal[9], journal[10]
    journal.before_send(ACK)
    journal.deleteEntriesTo(49)
    journal.onOneSecondTimer()
    journal.clear()
    journal.add(*old[0])
    with pytest.raises(GapError, match="dump is of index 10, and the log begins at 50"):
        journal.add(*old[1])
    with pytest.raises(GapError, match="newer dump"):
        journal.before_send(ACK)
    crash(disk, journal)
    assert [index for _, index, _ in open_journal()] == [*range(50, 101)]


def test_a_snapshot_at_the_same_indexes_shows_its_own_entries(open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 3)
    journal.before_send(ACK)
    assert (journal[0], journal[-1]) == ((b"command 1", 1, 1), (b"command 2", 2, 1))
    journal.clear()
    journal.add(b"a", 1, 2)
    journal.add(b"b", 2, 2)
    journal.before_send(ACK)
    assert (journal[0], journal[-1]) == ((b"a", 1, 2), (b"b", 2, 2))


def test_a_journal_may_begin_anywhere(open_journal: Open) -> None:
    journal = open_journal()
    journal.add(b"x", 500, 3)
    journal.before_send(ACK)
    assert (list(journal), journal.log.first_index) == ([(b"x", 500, 3)], 500)


def test_a_clear_without_entries_after_it_leaves_the_log_on_disk(open_journal: Open) -> None:
    """The dump that should have followed could not be added: without it the log is all there is."""
    journal = open_journal(entry_bytes_max=1000)
    fill(journal, 11)
    journal.before_send(ACK)
    journal.onOneSecondTimer()
    journal.clear()
    with pytest.raises(EntryTooLargeError):
        journal.add(bytes(2000), 50, 2)
    assert len(journal) == 0
    journal._destroy()
    journal.log.close()
    assert len(open_journal()) == 10


def test_deleting_a_prefix_is_durable_at_once(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 21)
    journal.deleteEntriesTo(15)
    crash(disk, journal)
    journal = open_journal()
    assert [index for _, index, _ in journal] == [*range(16, 21)]
    assert journal.getRaftCommitIndex() >= 15


def test_a_prefix_can_be_deleted_while_the_disk_is_full(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 21)
    journal.before_send(ACK)
    fill(journal, 31)
    disk.full = True
    with pytest.raises(StoreFullError):
        journal.before_send(ACK)
    journal.deleteEntriesTo(15)
    assert (journal.log.first_index, len(journal)) == (16, 15)
    disk.full = False
    journal.before_send(ACK)
    assert [index for _, index, _ in journal] == [*range(16, 31)]


def test_an_entry_that_does_not_follow_is_refused(open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 5)
    with pytest.raises(GapError):
        journal.add(b"x", 9, 1)


def test_a_command_above_the_limit_is_refused_and_does_not_block_the_next(open_journal: Open) -> None:
    journal = open_journal(entry_bytes_max=1000)
    fill(journal, 3)
    with pytest.raises(EntryTooLargeError, match="entry_bytes_max"):
        journal.add(b"x" * 1001, 3, 1)
    journal.add(b"x" * 1000, 3, 1)
    journal.before_send(ACK)
    assert journal.log.durable_index == 3


def test_what_waits_for_a_message_is_bounded(
    disk: MemoryDisk, open_journal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "TAIL_BYTES_MAX", 10_000)
    journal = open_journal()
    before = disk.calls
    for index in range(1, 101):
        journal.add(b"x" * 1000, index, 1)
    assert disk.calls == before + 9
    assert len(journal) == 100


def test_on_a_full_disk_no_message_leaves_and_later_all_goes_on(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 11)
    disk.full = True
    for _ in range(3):
        with pytest.raises(StoreFullError):
            journal.before_send(ACK)
    disk.full = False
    journal.before_send(ACK)
    assert journal.log.durable_index == 10
    assert len(journal) == 10


def test_a_slice_is_a_list_of_plain_tuples_or_reads_as_it_goes(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal(cache_bytes=0)
    fill(journal, 2001)
    journal.before_send(ACK)
    expected = [(b"command %d" % index, index, 1) for index in range(1, 2001)]
    assert journal[3:9] == expected[3:9]
    assert journal[0:0] == []
    assert journal[5:2] == []
    reads = disk.reads
    tail = journal[7:]
    assert disk.reads == reads
    assert isinstance(tail, JournalSlice)
    assert len(tail) == 1993
    message = tail[:5]
    assert pickle.loads(pickle.dumps(message)) == expected[7:12]
    assert type(message) is list
    assert (tail[0], tail[-1], tail[1:][0]) == (expected[7], expected[-1], expected[8])
    assert list(tail) == expected[7:]
    assert [*reversed(tail[1900:])] == expected[:1906:-1]


def test_a_slice_covers_what_is_not_written_yet(open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 51)
    journal.before_send(ACK)
    fill(journal, 101)
    assert [index for _, index, _ in journal[40:60]] == [*range(41, 61)]
    assert [index for _, index, _ in journal] == [*range(1, 101)]


def test_a_position_outside_is_an_index_error(open_journal: Open) -> None:
    journal = open_journal()
    fill(journal, 4)
    for position in (3, -4):
        with pytest.raises(IndexError):
            journal[position]


def test_the_ends_are_not_read_from_the_disk_again(disk: MemoryDisk, open_journal: Open) -> None:
    journal = open_journal(cache_bytes=0)
    fill(journal, 101)
    journal.before_send(ACK)
    assert journal[0][1] == 1
    reads = disk.reads
    for _ in range(10):
        assert (journal[0][1], journal[-1][1], len(journal)) == (1, 100, 100)
    assert disk.reads == reads


def test_a_journal_has_one_owner(open_journal: Open) -> None:
    journal = open_journal()
    with pytest.raises(ConfigError, match="another SyncObj"):
        journal.attach("n1:1")
    again = RaftStoreJournal(journal.log)
    with pytest.raises(ConfigError, match="'n1:1', not of 'n2:1'"):
        again.attach("n2:1")
    RaftStoreJournal(journal.log, adopt=True).attach("n2:1")
    RaftStoreJournal(journal.log).attach("n2:1")


@pytest.mark.parametrize(
    ("version", "good"), [("0.3.15", False), ("0.3.16", True), ("0.4", True), ("1.0rc1", True)]
)
def test_a_pysyncobj_that_forgets_term_and_vote_is_refused(version: str, good: bool) -> None:
    if good:
        check_version(version)
    else:
        with pytest.raises(BackendMissingError, match=r"0\.3\.16 or newer"):
            check_version(version)


def test_without_pysyncobj_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysyncobj", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'raftstore\[pysyncobj\]'"):
        library.load()


class JournalMachine(RuleBasedStateMachine):
    """Any sequence of operations, reopenings and crashes; PySyncObj's own journal in memory is the judge."""

    strategy: Strategy = DiskFirst()

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.judge: Any = MemoryJournal()
        self.term = 0
        self.durable = 0
        self.committed = 0
        self.open()

    def open(self) -> None:
        self.journal = RaftStoreJournal(open_log(self.disk, self.strategy, NEVER, cache_bytes=64))
        self.journal.attach("n1:1")

    def teardown(self) -> None:
        self.journal.log.close()

    @property
    def next_index(self) -> int:
        return self.judge[-1][1] + 1 if len(self.judge) else 1

    @rule(count=st.integers(1, 30), newer=st.booleans())
    def add(self, count: int, newer: bool) -> None:
        self.term += newer
        for index in range(self.next_index, self.next_index + count):
            entry = (b"%d in %d" % (index, self.term), index, self.term)
            self.judge.add(*entry)
            self.journal.add(*entry)

    @precondition(lambda self: len(self.judge) > 1)
    @rule(data=st.data(), again=st.integers(0, 40), differing=st.booleans())
    def add_again(self, data: st.DataObject, again: int, differing: bool) -> None:
        """A follower's path: delete what follows, add some of it again, perhaps with a conflict after it."""
        position = data.draw(st.integers(max(1, self.committed - self.judge[0][1] + 1), len(self.judge)))
        back = self.judge[position : position + again]
        for journal in (self.judge, self.journal):
            journal.deleteEntriesFrom(position)
            for entry in back:
                journal.add(*entry)
        if differing:
            self.add(2, True)

    @rule(later=st.integers(0, 8) | st.integers(0, 10**6))
    def install_snapshot(self, later: int) -> None:
        """None that is older than the log's beginning: that is refused."""
        at = self.journal.log.first_index + later
        self.term += 1
        self.journal.onOneSecondTimer()
        for journal in (self.judge, self.journal):
            journal.clear()
            journal.add(b"snapshot %d" % at, at, self.term)
            journal.add(b"snapshot %d" % (at + 1), at + 1, self.term)
        self.committed = at - 1

    @precondition(lambda self: len(self.judge) > 1)
    @rule(data=st.data())
    def install_snapshot_that_it_holds(self, data: st.DataObject) -> None:
        first = max(0, self.committed - self.judge[0][1] - 1)
        position = data.draw(st.integers(first, len(self.judge) - 2))
        dump = self.judge[position : position + 2]
        self.journal.onOneSecondTimer()
        for journal in (self.judge, self.journal):
            journal.clear()
            for entry in dump:
                journal.add(*entry)

    @precondition(lambda self: len(self.judge) > 2)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.judge) - 1))
        self.committed = max(self.committed, self.judge[position][1] - 1)
        self.judge.deleteEntriesTo(position)
        self.journal.deleteEntriesTo(position)

    @precondition(lambda self: len(self.judge) > 0)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.judge[0][1], self.judge[-1][1]))
        self.journal.setRaftCommitIndex(index)
        self.committed = max(self.committed, index)

    @rule(voted_for=st.sampled_from(["n1:1", None]))
    def new_term(self, voted_for: str | None) -> None:
        self.term += 1
        self.journal.setCurrentTerm(self.term, voted_for)
        self.judge.setCurrentTerm(self.term, voted_for)

    @rule()
    def send_entries(self) -> None:
        self.journal.before_send(ENTRIES)

    @rule()
    def reopen(self) -> None:
        self.journal._destroy()
        self.journal.log.close()
        self.open_again()

    @rule()
    def acknowledge_and_crash(self) -> None:
        self.journal.before_send(ACK)
        crash(self.disk, self.journal)
        self.open_again()

    def open_again(self) -> None:
        """Everything is there. What PySyncObj deleted may follow it; it was in the log once."""
        self.open()
        if len(self.judge):
            self.journal.deleteEntriesFrom(len(self.judge))

    @invariant()
    def holds_what_the_judge_holds(self) -> None:
        assert len(self.journal) == len(self.judge)
        assert list(self.journal) == self.judge[:]
        assert self.journal.getCurrentTerm() == self.judge.getCurrentTerm()
        assert self.journal.getVotedForNodeId() == self.judge.getVotedForNodeId()
        if len(self.judge):
            assert (self.journal[0], self.journal[-1]) == (self.judge[0], self.judge[-1])
            assert self.journal.getRaftCommitIndex() <= max(1, self.judge[-1][1])


class MemFirstJournalMachine(JournalMachine):
    strategy = MemFirst(sync_on_commit=True)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestMemFirstJournal = MemFirstJournalMachine.TestCase
TestMemFirstJournal.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
