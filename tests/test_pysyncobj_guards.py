"""What PySyncObj does to a journal when a disk is full, a dump is missing or a leader sends one: guarded."""

# ruff: noqa: E402 (what the adapter needs is looked for first)
from __future__ import annotations

import contextlib
import gc
import gzip
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pysyncobj: Any = pytest.importorskip("pysyncobj", reason="the adapter needs PySyncObj")

from pysyncobj_tools import DEADLINE_S, StoreWords, Words, free_addresses, tick_until

import raftstore
from raftstore.adapters.pysyncobj import RaftStoreJournal, full_disk, install, wiring
from raftstore.adapters.pysyncobj.wiring import journal_of
from raftstore.entry import Entry
from raftstore.errors import ConfigError, RaftStoreError, StoreFullError
from raftstore.log import RaftLog
from raftstore.testing.memory import MemoryDisk
from raftstore.testing.open_log import open_log

NO_OP = b"\x01"
ACK = {"type": "next_node_idx"}
MESSAGE = {"type": "append_entries", "term": 1, "commit_index": 50}


Make = Callable[..., Any]


@pytest.fixture
def addresses() -> list[str]:
    return free_addresses(3)


@pytest.fixture
def log(disk: MemoryDisk) -> Iterator[RaftLog]:
    with open_log(disk) as opened:
        yield opened


@pytest.fixture(params=["installed", "without a patch"])
def make(request: pytest.FixtureRequest, tmp_path: Path, log: RaftLog) -> Iterator[Make]:
    """Makes a node on `log`, in either of the two ways; all are destroyed at the end, before the log is."""
    nodes: list[Any] = []
    is_installed = request.param == "installed"
    undo = install() if is_installed else None

    def make_it(addresses: list[str]) -> Any:
        fast = {"raftMinTimeout": 0.1, "raftMaxTimeout": 0.2, "appendEntriesPeriod": 0.01, "useFork": False}
        settings = {"autoTick": False, "fullDumpFile": str(tmp_path / "dump"), **fast}
        conf = pysyncobj.SyncObjConf(**settings, journalFile=log if is_installed else None)
        keywords = {} if is_installed else {"store": log}
        kind = Words if is_installed else StoreWords
        nodes.append(kind(addresses[0], addresses[1:], conf, **keywords))
        return nodes[-1]

    yield make_it
    for node in nodes:
        node.destroy()
    if undo is not None:
        undo()


def test_a_tick_on_a_full_disk_ends_early_and_later_all_goes_on(
    make: Make, addresses: list[str], disk: MemoryDisk
) -> None:
    """A program that ticks by itself, as Patroni's, would lose its thread on an exception."""
    node = make(addresses[:1])
    tick_until([node], node._isLeader)
    acknowledged: list[int] = []
    disk.full = True
    node.put("a", callback=lambda _, error: acknowledged.append(error))
    for _ in range(5):
        node.doTick(0.0)
    assert (acknowledged, node.words) == ([], [])
    disk.full = False
    tick_until([node], lambda: acknowledged == [pysyncobj.FAIL_REASON.SUCCESS])
    assert node.words == ["a"]


class Clock:
    """Stands still."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        pass


def test_a_full_disk_is_told_once_in_a_while_and_once_when_there_is_room(
    make: Make,
    addresses: list[str],
    disk: MemoryDisk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(wiring, "time", clock := Clock())
    node = make(addresses[:1])
    tick_until([node], node._isLeader)
    disk.full = True
    node.put("a")
    told: list[int] = []
    for clock.now in (0.0, 0.1, full_disk.SILENT_S, full_disk.SILENT_S + 0.1):
        for _ in range(5):
            node.doTick(0.0)
        told.append(len(caplog.messages))
    assert told == [1, 1, 2, 2], caplog.messages
    assert "more times since this was said" in caplog.messages[1]
    disk.full = False
    tick_until([node], lambda: node.words == ["a"])
    for _ in range(5):
        node.doTick(0.0)
    assert [words.partition(":")[0] for words in caplog.messages[2:]] == ["there is room on the disk again"]


def test_a_disk_that_is_full_again_and_again_is_told_of_once_in_a_while() -> None:
    full = full_disk.FullDisk()
    lines = [full.refused(0.0, 4, OSError("full")), full.passed(5)]
    for tenth in range(1, 100):
        lines += [full.refused(tenth / 10, 5 + tenth, OSError("full")), full.passed(6 + tenth)]
    assert len(list(filter(None, lines))) == 2
    assert "99 more times" in (full.refused(full_disk.SILENT_S, 200, OSError("full")) or "")


def test_a_tick_with_nothing_to_write_does_not_show_that_there_is_room() -> None:
    full = full_disk.FullDisk()
    assert full.refused(0.0, 7, OSError("full"))
    assert full.passed(7) is None
    assert full.passed(3) is None, "a truncation takes no room"
    assert full.passed(4) == "there is room on the disk again: entry 4 is durable"
    assert full.passed(5) is None


@pytest.mark.backend("segmented")
def test_the_thread_of_patronis_store_outlives_a_full_disk(
    tmp_path: Path, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raft = pytest.importorskip("patroni.dcs.raft", reason="needs Patroni: pip install 'patroni[raft]'")
    undo, refused, flush = install(), [0], RaftStoreJournal.flush

    def refuse(_: object) -> None:
        refused[0] += 1
        raise StoreFullError("no room")

    store = raft.KVStoreTTL(None, None, None, self_addr=addresses[0], data_dir=str(tmp_path / "raft"))
    try:
        monkeypatch.setattr(RaftStoreJournal, "flush", refuse)
        store.startAutoTick()
        end = time.monotonic() + DEADLINE_S
        while refused[0] < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        monkeypatch.setattr(RaftStoreJournal, "flush", flush)
        store.set_retry_timeout(DEADLINE_S)
        assert store.set("key", "value")
        assert store.get("key")["value"] == "value"
    finally:
        monkeypatch.setattr(RaftStoreJournal, "flush", flush)
        store.destroy()
        undo()


def test_a_dump_that_is_on_its_way_commits_nothing_of_a_log_that_was_not_compared(
    make: Make, addresses: list[str], log: RaftLog
) -> None:
    """PySyncObj takes the leader's commit index for its own; no leader could replace those entries again."""
    node = make(addresses)
    journal = journal_of(node)
    assert journal is not None
    for index in range(2, 6):
        journal.add(NO_OP, index, 1)
    journal.before_send(ACK)
    receive, leader = vars(node)["_SyncObj__transport"]._onMessageReceived, next(iter(node.otherNodes))
    message = {"type": "append_entries", "term": 3, "commit_index": 5}
    receive(leader, {**message, "serialized": None})
    assert (node.raftCommitIndex, log.commit_index) == (1, 1)
    replacing = {"prevLogIdx": 1, "prevLogTerm": 0, "entries": [(NO_OP, 2, 3)]}
    receive(leader, message | replacing)
    assert journal[:] == [(NO_OP, 1, 0), (NO_OP, 2, 3)]
    assert (node.raftCommitIndex, log.commit_index) == (2, 2)


def test_a_log_without_its_beginning_is_refused_when_there_is_no_dump(
    make: Make, tmp_path: Path, addresses: list[str], log: RaftLog
) -> None:
    """PySyncObj would start with no state at all, and not say so."""
    node = make(addresses[:1])
    tick_until([node], node._isLeader)
    for word in ("a", "b", "c"):
        node.put(word)
    tick_until([node], lambda: node.words == ["a", "b", "c"])
    node.forceLogCompaction()
    tick_until([node], lambda: log.first_index > 1)
    node.destroy()
    dump = tmp_path / "dump"
    dump.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="the log begins at 4, and there is no dump"):
        make(addresses[:1])
    gc.collect()
    (tmp_path / "elsewhere").rename(dump)
    again = make(addresses[:1])
    tick_until([again], lambda: again.words == ["a", "b", "c"])


def follow_to_50(make: Make, addresses: list[str]) -> tuple[Any, RaftStoreJournal, Callable[..., None]]:
    """A follower that has acknowledged and applied 50 entries, its journal, and how its leader tells it."""
    node = make(addresses)
    journal = journal_of(node)
    assert journal is not None
    leader, receive = next(iter(node.otherNodes)), vars(node)["_SyncObj__transport"]._onMessageReceived

    def tell(**content: Any) -> None:
        receive(leader, MESSAGE | content)

    entries = [(NO_OP, index, 1) for index in range(2, 51)]
    tell(prevLogIdx=1, prevLogTerm=0, entries=entries)
    node.doTick(0.0)
    assert (node.raftLastApplied, journal.log.durable_index) == (50, 50)
    return node, journal, tell


def send_dump(tell: Callable[..., None], dump: object) -> None:
    tell(serialized=(gzip.compress(pickle.dumps(dump)), True, False))
    tell(serialized=(b"", False, True))


def dump_at(index: int, state: object) -> tuple[Any, ...]:
    return state, (NO_OP, index, 1), (NO_OP, index - 1, 1), set[str]()


def test_a_dump_older_than_the_log_takes_nothing_from_a_running_node(
    make: Make, tmp_path: Path, addresses: list[str]
) -> None:
    """A leader sends its dump again, long after; the node has acknowledged more, and purged for its own."""
    node, journal, tell = follow_to_50(make, addresses)
    node.words = ["all"]
    node.forceLogCompaction()
    tick_until([node], lambda: journal.log.first_index == 49)
    before = (tmp_path / "dump").read_bytes()
    send_dump(tell, dump_at(20, {"words": ["old"]}))
    assert (journal.log.first_index, journal.log.last_index, journal.log.commit_index) == (49, 50, 50)
    assert (node.words, node.raftLastApplied, journal[-1][1]) == (["all"], 50, 50)
    assert (tmp_path / "dump").read_bytes() == before
    tell(prevLogIdx=50, prevLogTerm=1, entries=[(NO_OP, 51, 1)])
    assert journal.log.durable_index == 51


def test_the_log_is_not_purged_for_a_dump_that_another_has_replaced(make: Make, addresses: list[str]) -> None:
    """Between the dump's rename and the next tick, which purges for it, the leader's older dump came."""
    node, journal, tell = follow_to_50(make, addresses)
    node.forceLogCompaction()
    node.doTick(0.0)
    assert journal.log.first_index == 1, "not purged yet"
    send_dump(tell, dump_at(20, {"words": ["old"]}))
    node.doTick(0.0)
    assert [index for _, index, _ in journal] == [19, 20]
    assert (journal.log.first_index, journal.log.last_index) == (19, 50)


class Refuses:
    """A consumer, or a class of a newer version, that cannot be loaded here."""

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("no number",)


@pytest.mark.parametrize("state", [Refuses(), 7], ids=["not loaded", "not taken"])
def test_a_dump_that_cannot_be_loaded_acknowledges_nothing(
    make: Make, addresses: list[str], monkeypatch: pytest.MonkeyPatch, state: object
) -> None:
    """PySyncObj answers as if the leader's log and its own were the same, up to its own last entry."""
    node, _, tell = follow_to_50(make, addresses)
    sent: list[str] = []
    monkeypatch.setattr(wiring, "wait_until_durable", note_what_leaves(sent, wiring.wait_until_durable))
    with contextlib.suppress(RaftStoreError):
        send_dump(tell, dump_at(80, state))
    assert sent == []
    assert node.raftLastApplied == 50


def note_what_leaves(sent: list[str], wait: Callable[..., None]) -> Callable[..., None]:
    def waits(node: Any, message: dict[str, Any]) -> None:
        wait(node, message)
        sent.append(message["type"])

    return waits


def test_a_dump_that_is_loaded_is_acknowledged(make: Make, addresses: list[str]) -> None:
    node, journal, tell = follow_to_50(make, addresses)
    send_dump(tell, dump_at(80, {"words": ["new"]}))
    assert (journal.log.first_index, journal.log.durable_index) == (79, 80)
    assert (node.words, node.raftLastApplied) == (["new"], 80)


@pytest.fixture(params=["installed", "without a patch"])
def refused(request: pytest.FixtureRequest) -> Iterator[Callable[[str, Path], ConfigError]]:
    """Makes a node on a store of its own, in either of the two ways, and keeps why it was refused."""
    undo = install() if request.param == "installed" else None

    def refuse(address: str, store: Path) -> ConfigError:
        journal_file = store if undo is not None else None
        conf = pysyncobj.SyncObjConf(autoTick=False, journalFile=journal_file)
        keywords = {} if undo is not None else {"store": f"segmented://{store}"}
        with pytest.raises(ConfigError) as raised:
            (Words if undo is not None else StoreWords)(address, [], conf, **keywords)
        return raised.value

    yield refuse
    if undo is not None:
        undo()


def test_a_store_can_be_opened_at_once_after_another_node_was_refused(
    tmp_path: Path, refused: Callable[[str, Path], ConfigError], addresses: list[str]
) -> None:
    """The error, which whoever mends the reason may hold, keeps the refused node from being garbage."""
    with raftstore.open(f"segmented://{tmp_path}/store") as log:
        RaftStoreJournal(log).attach(addresses[0])
    why = refused(addresses[1], tmp_path / "store")
    with raftstore.open(f"segmented://{tmp_path}/store?lock_timeout_ms=0") as log:
        assert log.config.path == tmp_path / "store"
    assert "is the journal of node" in str(why)


def test_a_store_can_be_opened_at_once_after_a_node_without_its_dump_was_refused(
    tmp_path: Path, refused: Callable[[str, Path], ConfigError], addresses: list[str]
) -> None:
    with raftstore.open(f"segmented://{tmp_path}/store") as log:
        log.append([Entry(1, index, NO_OP) for index in range(1, 4)])
        log.purge(2)
    why = refused(addresses[0], tmp_path / "store")
    with raftstore.open(f"segmented://{tmp_path}/store?lock_timeout_ms=0") as log:
        assert log.first_index == 3
    assert "there is no dump" in str(why)


def test_a_journal_stays_open_for_its_node_when_a_second_one_is_refused(
    make: Make, addresses: list[str]
) -> None:
    node = make(addresses[:1])
    journal = journal_of(node)
    assert journal is not None
    with pytest.raises(ConfigError, match="in use by another SyncObj"):
        StoreWords(addresses[1], [], pysyncobj.SyncObjConf(autoTick=False), store=journal)
    tick_until([node], node._isLeader)
    node.put("a")
    tick_until([node], lambda: node.words == ["a"])
