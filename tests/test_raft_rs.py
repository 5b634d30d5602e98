"""The storage for raft-rs, against rraft-py's own classes where they can be imported, else against copies."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import rraft_stand_in

import raftstore
from raftstore.adapters.raft_rs import RaftRsStorage
from raftstore.entry import Entry, HardState, LogId
from raftstore.errors import BackendMissingError, StoreFullError
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import close_broken, open_log

Open = Callable[..., RaftRsStorage]


MISSING = [] if find_spec("rraft") else [pytest.mark.skip(reason="rraft-py cannot be imported here")]


@pytest.fixture(params=["rraft_stand_in", pytest.param("rraft", marks=MISSING)])
def rraft(request: pytest.FixtureRequest) -> Any:
    return import_module(request.param)


@pytest.fixture
def open_storage(disk: MemoryDisk, rraft: Any, request: pytest.FixtureRequest) -> Open:
    """Opens the storage on `disk`."""

    def open_it(strategy: Strategy = DiskFirst(), *, make_snapshot: Any = None) -> RaftRsStorage:  # noqa: B008
        log = open_log(disk, strategy)
        request.addfinalizer(log.close)
        return RaftRsStorage(log, rraft=rraft, make_snapshot=make_snapshot)

    return open_it


class Ready:
    """What the adapter asks of raft-rs's `Ready`."""

    def __init__(self, rraft: Any, entries: Sequence[Any] = (), hs: Any = None, snapshot: Any = None) -> None:
        self._entries, self._hs = list(entries), hs
        self._snapshot = rraft.Snapshot.default() if snapshot is None else snapshot

    def entries(self) -> list[Any]:
        return [entry.make_ref() for entry in self._entries]

    def hs(self) -> Any:
        return None if self._hs is None else self._hs.make_ref()

    def snapshot(self) -> Any:
        return self._snapshot.make_ref()


def entry(rraft: Any, term: int, index: int, data: bytes = b"", *, context: bytes = b"") -> Any:
    made = rraft.Entry.default()
    made.set_term(term)
    made.set_index(index)
    made.set_data(data)
    made.set_context(context)
    return made


def hard_state(rraft: Any, term: int, vote: int = 0, commit: int = 0) -> Any:
    made = rraft.HardState.default()
    made.set_term(term)
    made.set_vote(vote)
    made.set_commit(commit)
    return made


def vote(storage: RaftRsStorage) -> Any:
    """In two steps: what a getter returns is dead once its owner is gone."""
    state = storage.hard_state()
    return state.get_vote()


def snapshot(rraft: Any, term: int, index: int, voters: list[int]) -> Any:
    metadata, made = rraft.SnapshotMetadata.default(), rraft.Snapshot.default()
    metadata.set_term(term)
    metadata.set_index(index)
    metadata.set_conf_state(rraft.ConfState(voters=voters, learners=[]))
    made.set_metadata(metadata)
    return made


def filled(rraft: Any, storage: RaftRsStorage) -> RaftRsStorage:
    """Entries 1..10, the last five in term 2, of which 1..4 are compacted and 1..8 committed."""
    storage.append([entry(rraft, 1 if index <= 5 else 2, index, b"x" * index) for index in range(1, 11)])
    storage.set_hardstate(hard_state(rraft, 2, 3, 8))
    storage.compact(5)
    return storage


def refused(rraft: Any, kind: str, call: Callable[..., object], *arguments: object) -> BaseException | None:
    """The cause of the `StoreError` that `call` raises."""
    with pytest.raises(rraft.StoreError) as caught:
        call(*arguments)
    assert type(caught.value.args[0]) is getattr(rraft, kind)
    cause: BaseException | None = caught.value.__cause__
    return cause


# --- what raft-rs reads -------------------------------------------------------------------------------------


def test_a_new_storage_is_empty_and_not_initialized(rraft: Any, open_storage: Open) -> None:
    storage = open_storage()
    state = storage.initial_state()
    assert not storage.is_initialized()
    assert (storage.first_index(), storage.last_index(), storage.term(0)) == (1, 0, 0)
    assert state.get_hard_state().encode() == hard_state(rraft, 0).encode()
    assert state.get_conf_state().encode() == rraft.ConfState.default().encode()


def test_a_node_is_initialized_once_and_restarts_with_its_configuration(
    rraft: Any, open_storage: Open, disk: MemoryDisk
) -> None:
    conf = rraft.ConfState(voters=[1, 2, 3], learners=[4])
    storage = open_storage()
    storage.initialize_with_conf_state(conf)
    assert len(disk.writes) == 1
    storage.log.close()
    again = open_storage()
    assert again.is_initialized()
    assert again.conf_state() == conf
    assert again.hard_state() == hard_state(rraft, 1)
    refused(rraft, "OtherError", again.initialize_with_conf_state, rraft.ConfState(voters=[9], learners=[]))
    assert again.conf_state() == conf


def test_an_entry_comes_back_with_every_field(rraft: Any, open_storage: Open) -> None:
    change = entry(rraft, 3, 1, b"\0data\xff", context=b"context")
    change.set_entry_type(rraft.EntryType.EntryConfChange)
    storage = open_storage()
    storage.append([change.make_ref()])
    found = storage.entries(1, 2, None, None)
    assert found == [change]
    assert found[0].get_entry_type() == rraft.EntryType.EntryConfChange
    assert found[0].get_context() == b"context"


def test_the_log_knows_term_index_and_type_of_an_entry(rraft: Any, open_storage: Open) -> None:
    change = entry(rraft, 3, 1, b"data")
    change.set_entry_type(rraft.EntryType.EntryConfChange)
    storage = open_storage()
    storage.append([change])
    stored = storage.log.entry(1)
    assert stored == Entry(3, 1, change.encode(), 1)


def test_entries_are_cut_by_their_encoded_size_but_one_always_comes(rraft: Any, open_storage: Open) -> None:
    storage = filled(rraft, open_storage())
    sizes = [len(found.encode()) for found in storage.entries(5, 11, None, None)]
    assert len(sizes) == 6
    assert len(storage.entries(5, 11, None, sum(sizes[:3]))) == 3
    assert len(storage.entries(5, 11, None, sum(sizes[:3]) - 1)) == 2
    assert len(storage.entries(5, 11, None, 0)) == 1
    assert len(storage.entries(5, 8, None, 2**64 - 1)) == 3


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(4, 6, "CompactedError"), (4, 99, "CompactedError"), (9, 12, "UnavailableError")],
)
def test_entries_outside_the_log_are_refused_as_raft_rs_wants_it(
    rraft: Any, open_storage: Open, low: int, high: int, kind: str
) -> None:
    refused(rraft, kind, filled(rraft, open_storage()).entries, low, high, None, None)


def test_terms_reach_from_the_compacted_entry_to_the_last(rraft: Any, open_storage: Open) -> None:
    storage = filled(rraft, open_storage())
    assert (storage.first_index(), storage.last_index()) == (5, 10)
    assert [storage.term(index) for index in range(4, 11)] == [1, 1, 2, 2, 2, 2, 2]
    refused(rraft, "CompactedError", storage.term, 3)
    refused(rraft, "UnavailableError", storage.term, 11)


def test_raft_rs_gets_what_it_can_take(open_storage: Open) -> None:
    """Only here, where the border between the two is a copy in Python, can a panic be seen."""
    rraft = rraft_stand_in
    storage = filled(rraft, open_storage(make_snapshot=lambda: (8, b"all")))
    node = rraft_stand_in.Storage(storage)
    assert (node.first_index(), node.last_index(), node.term(10)) == (5, 10, 2)
    state = node.initial_state()
    assert state.get_hard_state().encode() == hard_state(rraft, 2, 3, 8).encode()
    assert len(node.entries(5, 11, None)) == 6
    made = node.snapshot(0, 2)
    assert made.get_data() == b"all"
    with pytest.raises(rraft.StoreError):
        node.entries(1, 2, None)
    storage.log.close()
    with pytest.raises(rraft.StoreError):
        node.term(5)


def test_damage_and_disk_errors_leave_as_raft_errors_with_their_cause(
    rraft: Any, open_storage: Open, disk: MemoryDisk
) -> None:
    filled(rraft, open_storage()).log.close()
    disk.fail_next_read(OSError(errno.EIO, "bad sector"))
    cause = refused(rraft, "OtherError", open_storage().entries, 5, 11, None, None)
    assert isinstance(cause, OSError)


# --- snapshots ----------------------------------------------------------------------------------------------


def test_a_snapshot_has_data_term_and_configuration(rraft: Any, open_storage: Open) -> None:
    storage = open_storage(make_snapshot=lambda: (7, b"machine"))
    filled(rraft, storage).set_conf_state(rraft.ConfState(voters=[1, 2], learners=[]))
    made = storage.snapshot(7, 2)
    metadata = made.get_metadata()
    conf = metadata.get_conf_state()
    assert (made.get_data(), metadata.get_index(), metadata.get_term()) == (b"machine", 7, 2)
    assert conf.get_voters() == [1, 2]


@pytest.mark.parametrize(("applied", "requested"), [(7, 8), (3, 0)], ids=["too early", "compacted"])
def test_a_snapshot_that_would_not_help_is_not_given_yet(
    rraft: Any, open_storage: Open, applied: int, requested: int
) -> None:
    storage = filled(rraft, open_storage(make_snapshot=lambda: (applied, b"")))
    refused(rraft, "SnapshotTemporarilyUnavailableError", storage.snapshot, requested, 2)


def test_without_a_state_machine_no_snapshot_pretends_to_be_one(rraft: Any, open_storage: Open) -> None:
    refused(rraft, "SnapshotTemporarilyUnavailableError", filled(rraft, open_storage()).snapshot, 0, 2)


def test_a_received_snapshot_replaces_log_and_configuration(
    rraft: Any, open_storage: Open, disk: MemoryDisk
) -> None:
    storage = filled(rraft, open_storage())
    writes = len(disk.writes)
    storage.apply_snapshot(snapshot(rraft, 4, 20, [1, 5]))
    assert len(disk.writes) == writes + 1
    disk.crash()
    close_broken(storage.log)
    again = open_storage()
    assert (again.first_index(), again.last_index(), again.term(20)) == (21, 20, 4)
    assert again.conf_state() == rraft.ConfState(voters=[1, 5], learners=[])
    assert again.hard_state() == hard_state(rraft, 4, 0, 20)


def test_a_snapshot_of_the_current_term_keeps_the_vote(rraft: Any, open_storage: Open) -> None:
    storage = filled(rraft, open_storage())
    storage.apply_snapshot(snapshot(rraft, 2, 20, [1]))
    assert storage.hard_state() == hard_state(rraft, 2, 3, 20)


@pytest.mark.parametrize("index", [4, 7], ids=["compacted", "committed"])
def test_an_old_snapshot_is_out_of_date_and_changes_nothing(
    rraft: Any, open_storage: Open, index: int
) -> None:
    storage = filled(rraft, open_storage())
    refused(rraft, "SnapshotOutOfDateError", storage.apply_snapshot, snapshot(rraft, 1, index, [9]))
    assert storage.last_index() == 10
    assert storage.conf_state() == rraft.ConfState.default()


# --- what the Ready loop writes -----------------------------------------------------------------------------


def test_a_whole_ready_is_one_write(rraft: Any, open_storage: Open, disk: MemoryDisk) -> None:
    storage = open_storage()
    entries = [entry(rraft, 2, 21, b"a"), entry(rraft, 3, 22, b"b")]
    ready = Ready(rraft, entries, hard_state(rraft, 3, 2, 21), snapshot(rraft, 2, 20, [1, 2, 3]))
    storage.save(ready)
    assert len(disk.writes) == 1
    disk.crash()
    close_broken(storage.log)
    again = open_storage()
    assert again.entries(21, 23, None, None) == entries
    assert again.term(20) == 2
    assert again.hard_state() == hard_state(rraft, 3, 2, 21)
    assert again.conf_state() == rraft.ConfState(voters=[1, 2, 3], learners=[])


@pytest.mark.parametrize("strategy", [DiskFirst(), MemFirst()], ids=repr)
def test_a_saved_ready_survives_a_power_cut_under_every_strategy(
    rraft: Any, open_storage: Open, disk: MemoryDisk, strategy: Strategy
) -> None:
    storage = open_storage(strategy)
    storage.save(Ready(rraft, [entry(rraft, 1, 1, b"a")], hard_state(rraft, 1, 2)))
    storage.append([entry(rraft, 1, 2, b"b")])
    disk.crash()
    close_broken(storage.log)
    again = open_storage(strategy)
    assert again.last_index() == 2
    assert vote(again) == 2


def test_conflicting_entries_are_replaced_in_the_same_write(
    rraft: Any, open_storage: Open, disk: MemoryDisk
) -> None:
    storage = filled(rraft, open_storage())
    writes = len(disk.writes)
    storage.save(Ready(rraft, [entry(rraft, 3, 9, b"new")], hard_state(rraft, 3, 0, 8)))
    assert len(disk.writes) == writes + 1
    assert disk.writes[-1].truncate_from == 9
    assert (storage.last_index(), storage.term(9)) == (9, 3)


def test_a_ready_that_only_commits_costs_no_write(rraft: Any, open_storage: Open, disk: MemoryDisk) -> None:
    storage = filled(rraft, open_storage())
    writes = len(disk.writes)
    storage.save(Ready(rraft, hs=hard_state(rraft, 2, 3, 9)))
    storage.save(Ready(rraft))
    storage.append([])
    storage.commit_to(10)
    storage.commit_to(2)
    assert len(disk.writes) == writes
    assert storage.hard_state() == hard_state(rraft, 2, 3, 10)


def test_a_failed_ready_changes_nothing_and_can_be_saved_again(
    rraft: Any, open_storage: Open, disk: MemoryDisk
) -> None:
    storage = filled(rraft, open_storage())
    ready = Ready(rraft, [entry(rraft, 3, 9, b"new")], hard_state(rraft, 3, 1, 8))
    disk.fail_next(OSError(errno.ENOSPC, "disk full"))
    cause = refused(rraft, "OtherError", storage.save, ready)
    assert isinstance(cause, StoreFullError)
    assert (storage.last_index(), storage.term(9)) == (10, 2)
    assert storage.hard_state() == hard_state(rraft, 2, 3, 8)
    storage.save(ready)
    assert (storage.last_index(), vote(storage)) == (9, 1)


@pytest.mark.parametrize(
    ("kind", "first"), [("CompactedError", 4), ("OtherError", 8), ("OtherError", 12)], ids=str
)
def test_entries_that_are_compacted_committed_or_leave_a_gap_are_refused(
    rraft: Any, open_storage: Open, kind: str, first: int
) -> None:
    storage = filled(rraft, open_storage())
    refused(rraft, kind, storage.append, [entry(rraft, 9, first)])
    assert (storage.first_index(), storage.last_index()) == (5, 10)


def test_a_term_without_a_vote_leaves_the_vote_open(rraft: Any, open_storage: Open) -> None:
    storage = open_storage()
    storage.set_hard_state(hard_state(rraft, 2))
    assert storage.log.hard_state.voted_for is None
    storage.set_hard_state(hard_state(rraft, 2, 7))
    assert vote(storage) == 7


def test_a_second_vote_in_a_term_is_refused(rraft: Any, open_storage: Open) -> None:
    storage = filled(rraft, open_storage())
    refused(rraft, "OtherError", storage.set_hard_state, hard_state(rraft, 2, 1))
    assert vote(storage) == 3


def test_compacting_everything_leaves_the_last_term(rraft: Any, open_storage: Open) -> None:
    storage = filled(rraft, open_storage())
    storage.compact(3)
    assert storage.first_index() == 5
    storage.compact(11)
    assert (storage.first_index(), storage.last_index(), storage.term(10)) == (11, 10, 2)
    refused(rraft, "OtherError", storage.compact, 13)


def test_the_locks_of_the_memory_storage_are_the_storage(rraft: Any, open_storage: Open) -> None:
    storage = open_storage()
    storage.wl().append([entry(rraft, 1, 1)])
    assert storage.rl().last_index() == 1


def test_a_changed_configuration_is_durable_when_set(
    rraft: Any, open_storage: Open, disk: MemoryDisk
) -> None:
    storage = open_storage()
    storage.set_conf_state(rraft.ConfState(voters=[1, 2], learners=[3]))
    disk.crash()
    close_broken(storage.log)
    assert open_storage().conf_state() == rraft.ConfState(voters=[1, 2], learners=[3])


# --- opening ------------------------------------------------------------------------------------------------


def test_a_storage_closes_the_log_it_opened_and_no_other(tmp_path: Path, rraft: Any) -> None:
    url = f"segmented://{tmp_path}/s?segment_bytes=64KiB"
    storage = RaftRsStorage(url, rraft=rraft)
    storage.append([entry(rraft, 1, 1)])
    storage.close()
    storage.close()
    with raftstore.open(url) as log:
        RaftRsStorage(log, rraft=rraft).close()
        assert log.last == LogId(1, 1)
        assert log.hard_state == HardState()


def test_without_rraft_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "rraft", None)
    with pytest.raises(BackendMissingError, match="pip install rraft-py"):
        RaftRsStorage(f"segmented://{tmp_path}/s")
    assert not (tmp_path / "s").exists()
