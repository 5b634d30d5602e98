"""The storage for pyraftlog, against its own `State` where it can be imported, else against a copy of it."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import raftstore
from raftstore.adapters.pyraftlog import Storage
from raftstore.entry import Entry, HardState, LogId
from raftstore.errors import CommittedError, StoreFullError, TermError, VoteError
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import close_broken, open_log

MISSING = [] if find_spec("pyraftlog") else [pytest.mark.skip(reason="pyraftlog cannot be imported here")]
Open = Callable[..., Storage]
NewState = Callable[[], Any]


class EntryCopy(NamedTuple):
    term: int
    idx: int
    value: Any


class LogCopy:
    """Positions count from `offset`; an empty log made from nothing begins at 0."""

    def __init__(self, iterable: Iterable[EntryCopy] = ()) -> None:
        self.entries = list(iterable)
        self.cur_idx = self.entries[-1].idx if self.entries else 0
        self.offset = self.entries[0].idx - 1 if self.entries else 0
        self.lock = threading.Lock()

    def append(self, term: int, value: Any) -> int:
        with self.lock:
            self.cur_idx += 1
            self.entries.append(EntryCopy(term, self.cur_idx, value))
            return self.cur_idx

    def reduce(self, index: int) -> None:
        if index > self.cur_idx:
            self.entries, self.offset, self.cur_idx = [], index, index
        else:
            self.entries = self.entries[index - 1 - self.offset :]
            self.offset = index - 1

    def rewind(self, index: int) -> None:
        if index <= self.offset:
            self.entries, self.offset = [], index
        else:
            self.entries = self.entries[: index - self.offset]
        self.cur_idx = index


class StateCopy:
    def __init__(self) -> None:
        self.current_term = 0
        self.voted_for: dict[int, str] = {}
        self.log = LogCopy()
        self.commit_index = 0
        self.last_applied = 0
        self.cluster_applied = {"n1": 0, "n2": 0}
        self.log_reduction = False

    def populate(self, found: dict[str, Any]) -> None:
        self.__dict__.update(found)


@pytest.fixture(params=["copy", pytest.param("pyraftlog", marks=MISSING)])
def new_state(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NewState:
    if request.param == "copy":
        package, log = ModuleType("pyraftlog"), ModuleType("pyraftlog.log")
        log.__dict__.update(Log=LogCopy, Entry=EntryCopy)
        monkeypatch.setitem(sys.modules, "pyraftlog", package)
        monkeypatch.setitem(sys.modules, "pyraftlog.log", log)
        return StateCopy
    module = import_module("pyraftlog.state")
    return lambda: module.State(module.STATE_ROLE_FOLLOWER, "n1", ["n1", "n2"])


@pytest.fixture
def open_storage(disk: MemoryDisk, request: pytest.FixtureRequest) -> Open:
    def open_it(strategy: Strategy = DiskFirst()) -> Storage:  # noqa: B008
        log = open_log(disk, strategy)
        request.addfinalizer(log.close)
        return Storage(log)

    return open_it


def filled(new_state: NewState) -> Any:
    """Entries 1..6, the last two in term 3, in which n2 got the vote; 4 are committed, 3 applied."""
    state = new_state()
    for index in range(1, 7):
        state.log.append(1 if index <= 4 else 3, {"key": index, "list": [index, None, b"\xff"]})
    state.current_term, state.voted_for = 3, {3: "n2"}
    state.commit_index, state.last_applied = 4, 3
    state.cluster_applied, state.log_reduction = {"n1": 3, "n2": 1}, True
    return state


def seen(state: Any) -> tuple[object, ...]:
    entries = [tuple(entry) for entry in state.log.entries]
    bounds = state.log.offset, state.log.cur_idx
    progress = state.last_applied, state.cluster_applied, state.log_reduction
    return state.current_term, state.voted_for, entries, bounds, state.commit_index, progress


def test_nothing_exists_before_something_was_persisted(new_state: NewState, open_storage: Open) -> None:
    storage = open_storage()
    state = new_state()
    assert not storage.exists()
    assert storage.retrieve(state) is state
    assert seen(state) == seen(new_state())


@pytest.mark.parametrize("strategy", [DiskFirst(), MemFirst()], ids=repr)
def test_what_was_persisted_survives_a_power_cut(
    new_state: NewState, open_storage: Open, disk: MemoryDisk, strategy: Strategy
) -> None:
    state, storage = filled(new_state), open_storage(strategy)
    assert storage.persist(state)
    assert len(disk.writes) == 1
    state.log.append(3, "more")
    storage.persist(state)
    disk.crash()
    close_broken(storage.log)
    again = open_storage(strategy)
    assert again.exists()
    assert seen(again.retrieve(new_state())) == seen(state)


def test_a_vote_alone_exists_and_comes_back(new_state: NewState, open_storage: Open) -> None:
    state, storage = new_state(), open_storage()
    state.current_term, state.voted_for = 5, {5: "n2"}
    storage.persist(state)
    storage.log.close()
    again = open_storage()
    assert again.exists()
    assert seen(again.retrieve(new_state())) == seen(state)


def test_the_vote_of_an_older_term_is_none(new_state: NewState, open_storage: Open) -> None:
    state, storage = filled(new_state), open_storage()
    state.current_term = 4
    storage.persist(state)
    assert storage.log.hard_state == HardState(4, None, 4)
    assert storage.retrieve(new_state()).voted_for == {}


def test_persisting_what_is_stored_already_writes_nothing(
    new_state: NewState, open_storage: Open, disk: MemoryDisk
) -> None:
    state, storage = filled(new_state), open_storage()
    storage.persist(state)
    writes = len(disk.writes)
    storage.persist(state)
    state.commit_index = 5
    storage.persist(state)
    assert len(disk.writes) == writes
    assert storage.log.commit_index == 5


def test_only_new_entries_are_written(new_state: NewState, open_storage: Open, disk: MemoryDisk) -> None:
    state, storage = filled(new_state), open_storage()
    storage.persist(state)
    state.log.append(3, "seven")
    storage.persist(state)
    assert [entry.index for entry in disk.writes[-1].entries] == [7]
    assert disk.writes[-1].truncate_from is None
    assert disk.writes[-1].meta is None


@pytest.mark.parametrize(("rewound", "appended"), [(4, [4, 4]), (5, [4]), (4, []), (5, [3])], ids=str)
def test_a_rewound_log_is_truncated_in_the_write_that_replaces(
    new_state: NewState, open_storage: Open, disk: MemoryDisk, rewound: int, appended: list[int]
) -> None:
    state, storage = filled(new_state), open_storage()
    storage.persist(state)
    writes = len(disk.writes)
    state.log.rewind(rewound)
    for term in appended:
        state.log.append(term, "replaced")
    storage.persist(state)
    assert len(disk.writes) == writes + 1
    assert disk.writes[-1].truncate_from == rewound + 1
    assert seen(storage.retrieve(new_state())) == seen(state)


def test_a_reduced_log_is_purged_and_keeps_its_numbers(new_state: NewState, open_storage: Open) -> None:
    state, storage = filled(new_state), open_storage()
    storage.persist(state)
    state.log.reduce(3)
    state.log.append(3, "seven")
    storage.persist(state)
    assert storage.log.anchor == LogId(1, 2)
    assert seen(storage.retrieve(new_state())) == seen(state)


@pytest.mark.parametrize("appended", [[], [5, 5]], ids=str)
def test_a_log_that_was_replaced_by_a_state_goes_on_after_it(
    new_state: NewState, open_storage: Open, appended: list[int]
) -> None:
    state, storage = filled(new_state), open_storage()
    storage.persist(state)
    state.log.reduce(20)
    for term in appended:
        state.log.append(term, "later")
    state.commit_index = 20
    storage.persist(state)
    assert storage.log.anchor.index == 20
    found = storage.retrieve(new_state())
    assert seen(found) == seen(state)
    assert found.log.append(5, "next") == 21 + len(appended)


def test_a_log_that_went_back_behind_what_was_purged_is_stored_so(
    new_state: NewState, open_storage: Open
) -> None:
    state, storage = filled(new_state), open_storage()
    state.log.reduce(4)
    storage.persist(state)
    state.log.rewind(2)
    state.log.append(1, "three")
    state.commit_index = 3
    storage.persist(state)
    assert storage.log.entries(3)[0].term == 1
    assert seen(storage.retrieve(new_state())) == seen(state)


def test_progress_alone_is_durable(new_state: NewState, open_storage: Open, disk: MemoryDisk) -> None:
    state, storage = filled(new_state), open_storage()
    storage.persist(state)
    state.last_applied, state.cluster_applied["n1"] = 4, 4
    storage.persist(state)
    disk.crash()
    close_broken(storage.log)
    assert seen(open_storage().retrieve(new_state())) == seen(state)


def test_what_was_applied_is_committed_after_a_crash(
    new_state: NewState, open_storage: Open, disk: MemoryDisk
) -> None:
    state, storage = filled(new_state), open_storage()
    storage.persist(state)
    state.commit_index = state.last_applied = 6
    storage.persist(state)
    disk.crash()
    close_broken(storage.log)
    assert open_storage().retrieve(new_state()).commit_index == 6


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda state: state.log.rewind(2), CommittedError),
        (lambda state: setattr(state, "current_term", 2), TermError),
        (lambda state: setattr(state, "voted_for", {3: "n1"}), VoteError),
    ],
    ids=["committed", "term", "vote"],
)
def test_what_raft_forbids_is_refused_and_changes_nothing(
    new_state: NewState, open_storage: Open, spoil: Callable[[Any], object], error: type[Exception]
) -> None:
    state, storage = filled(new_state), open_storage()
    storage.persist(state)
    before = seen(storage.retrieve(new_state()))
    spoil(state)
    state.log.append(9, "x")
    with pytest.raises(error):
        storage.persist(state)
    assert seen(storage.retrieve(new_state())) == before


def test_a_full_disk_is_an_error_and_the_same_state_can_be_persisted_later(
    new_state: NewState, open_storage: Open, disk: MemoryDisk
) -> None:
    state, storage = filled(new_state), open_storage()
    disk.fail_next(OSError(errno.ENOSPC, "disk full"))
    with pytest.raises(StoreFullError):
        storage.persist(state)
    assert not storage.exists()
    storage.persist(state)
    assert seen(storage.retrieve(new_state())) == seen(state)


def test_threads_may_persist_while_others_append(new_state: NewState, open_storage: Open) -> None:
    state, storage = new_state(), open_storage()

    def work() -> None:
        for number in range(50):
            state.log.append(1, number)
            storage.persist(state)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.log.last_index == 200
    assert seen(storage.retrieve(new_state())) == seen(state)


def test_a_storage_closes_the_log_it_opened_and_no_other(tmp_path: Path, new_state: NewState) -> None:
    url = f"segmented://{tmp_path}/s?segment_bytes=64KiB"
    storage = Storage(url)
    storage.persist(filled(new_state))
    storage.close()
    storage.close()
    with raftstore.open(url) as log:
        Storage(log).close()
        assert log.entry(6) == Entry(3, 6, log.entries(6)[0].data)
        assert len(log) == 6
