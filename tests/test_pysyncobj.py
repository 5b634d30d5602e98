"""PySyncObj itself on our journal: what leaves a node, how it starts again, and how it is wired."""

from __future__ import annotations

import functools
import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("pysyncobj")

import pysyncobj  # type: ignore[import-untyped,unused-ignore]
from pysyncobj.transport import TCPTransport  # type: ignore[import-untyped,unused-ignore]
from pysyncobj_tools import DEADLINE_S, StoreWords, Words, free_addresses, tick_until

from raftstore.adapters.pysyncobj import (
    DurableTransportMixin,
    RaftStoreJournal,
    install,
    patch,
)
from raftstore.adapters.pysyncobj.wiring import journal_of
from raftstore.config import StoreConfig
from raftstore.errors import ConfigError, StoreLockedError
from raftstore.registry import backend_names
from raftstore.strategy import DiskFirst, MemFirst

BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in backend_names()]
STRATEGIES = [DiskFirst(), MemFirst(sync_on_commit=True)]
PYSYNCOBJ_LEAVES_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
PYSYNCOBJ_FORKS_WITH_THREADS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
PROMISES = {"next_node_idx", "response_vote", "request_vote"}
"""Messages that tell a peer what the sender stores."""


def conf(**settings: Any) -> Any:
    fast = {
        "autoTick": False,
        "raftMinTimeout": 20.0,
        "raftMaxTimeout": 30.0,
        "appendEntriesPeriod": 0.01,
        "connectionTimeout": 60.0,
        "connectionRetryTime": 0.05,
        "bindAddress": None,
    }
    return pysyncobj.SyncObjConf(**fast | settings)


@pytest.fixture
def addresses() -> list[str]:
    return free_addresses(3)


@pytest.fixture
def nodes() -> Iterator[list[Any]]:
    """What is put here is destroyed at the end."""
    running: list[Any] = []
    yield running
    while running:
        running.pop().destroy()


@pytest.fixture
def installed() -> Iterator[Callable[..., None]]:
    """`install`, undone at the end."""
    undo: list[Callable[[], None]] = []

    def install_it(*arguments: Any, **keywords: Any) -> None:
        gc.collect()
        undo.append(install(*arguments, **keywords))

    yield install_it
    for each in undo:
        each()


def put_all(nodes: list[Any], words: list[str], leader: Any = None) -> list[str]:
    """Write `words` through the leader; the acknowledged ones."""
    tick_until(nodes, lambda: any(node._isLeader() for node in nodes))
    writer = leader or next(node for node in nodes if node._isLeader())
    acknowledged: list[str] = []

    def note(word: str, _: object, error: int) -> None:
        if error == pysyncobj.FAIL_REASON.SUCCESS:
            acknowledged.append(word)

    for word in words:
        writer.put(word, callback=functools.partial(note, word))
    tick_until(nodes, lambda: len(acknowledged) == len(words))
    return acknowledged


def start_three(nodes: list[Any], addresses: list[str], make: Callable[[str, list[str], int], Any]) -> None:
    for number, address in enumerate(addresses):
        nodes.append(make(address, [other for other in addresses if other != address], number))


class Watched(TCPTransport):  # type: ignore[misc]
    """Counts messages by type, and those that leave before what they promise is durable."""

    def __init__(self, *arguments: Any) -> None:
        self.left: Counter[str] = Counter()
        self.too_early: Counter[str] = Counter()
        super().__init__(*arguments)

    def send(self, node: Any, message: Any) -> bool:
        journal = journal_of(self._syncObj)
        assert journal is not None
        self.left[message["type"]] += 1
        if journal.log.durable_index < journal[-1][1] or journal.log.hard_state.term < message.get("term", 0):
            self.too_early[message["type"]] += 1
        return bool(super().send(node, message))


class DurableWatched(DurableTransportMixin, Watched):
    pass


def store(path: Path, backend: str = "segmented", strategy: Any = DiskFirst()) -> StoreConfig:  # noqa: B008
    return StoreConfig(path=path, backend=backend, strategy=strategy)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=["DiskFirst", "MemFirst+sync_on_commit"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_that_a_peer_relies_on_leaves_before_it_is_durable(
    tmp_path: Path, nodes: list[Any], addresses: list[str], backend: str, strategy: Any
) -> None:
    def make(address: str, others: list[str], number: int) -> Any:
        config = store(tmp_path / str(number), backend, strategy)
        return StoreWords(address, others, conf(), store=config, transportClass=DurableWatched)

    start_three(nodes, addresses, make)
    words = [f"word {number}" for number in range(300)]
    put_all(nodes, words)
    tick_until(nodes, lambda: all(len(node.words) == 300 for node in nodes))
    left, too_early = Counter[str](), Counter[str]()
    for node in nodes:
        left += node._SyncObj__transport.left
        too_early += node._SyncObj__transport.too_early
    assert set(left) >= PROMISES | {"append_entries"}
    assert {kind: too_early[kind] for kind in PROMISES} == dict.fromkeys(PROMISES, 0)
    if isinstance(strategy, DiskFirst):
        assert not too_early
        assert all(journal.log.status().flushes < 200 for journal in map(journal_of, nodes) if journal)
    while nodes:
        nodes.pop().destroy()
    start_three(nodes, addresses, make)
    put_all(nodes, ["one more"])
    tick_until(nodes, lambda: all(node.words == [*words, "one more"] for node in nodes))


def test_the_count_sees_a_transport_that_does_not_wait(
    tmp_path: Path, nodes: list[Any], addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RaftStoreJournal, "before_send", lambda self, message: None)

    def make(address: str, others: list[str], number: int) -> Any:
        return StoreWords(
            address, others, conf(), store=store(tmp_path / str(number)), transportClass=DurableWatched
        )

    start_three(nodes, addresses, make)
    put_all(nodes, [f"word {number}" for number in range(50)])
    assert sum(node._SyncObj__transport.too_early["next_node_idx"] for node in nodes) > 0


def test_installed_every_journal_is_a_store_and_subclasses_of_the_transport_wait(
    tmp_path: Path, nodes: list[Any], addresses: list[str], installed: Callable[..., None]
) -> None:
    """As Patroni does it: a path of its own, and a transport class of its own."""
    installed("segmented://{path}.store?flush_policy=Batch:10:10")

    def make(address: str, others: list[str], number: int) -> Any:
        journal = conf(journalFile=str(tmp_path / f"{number}.journal"))
        return Words(address, others, journal, transportClass=Watched)

    start_three(nodes, addresses, make)
    words = [f"word {number}" for number in range(100)]
    put_all(nodes, words)
    tick_until(nodes, lambda: all(node.words == words for node in nodes))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}.journal.store" for n in range(3)]
    journals = [journal_of(node) for node in nodes]
    assert all(journal is not None and journal.log.durable_index >= 101 for journal in journals)
    assert all(journal is not None and journal.log.status().flushes < 80 for journal in journals)


def test_a_url_as_journal_file_names_the_store(
    tmp_path: Path, nodes: list[Any], addresses: list[str], installed: Callable[..., None]
) -> None:
    installed()
    nodes.append(Words(addresses[0], [], conf(journalFile=f"segmented://{tmp_path}/url")))
    put_all(nodes, ["a", "b"])
    nodes.pop().destroy()
    nodes.append(Words(addresses[0], [], conf(journalFile=tmp_path / "url")))
    tick_until(nodes, lambda: nodes[0].words == ["a", "b"])


def test_a_node_that_moved_is_adopted_when_told(
    tmp_path: Path, nodes: list[Any], addresses: list[str], installed: Callable[..., None]
) -> None:
    installed()
    nodes.append(Words(addresses[0], [], conf(journalFile=tmp_path / "raft")))
    put_all(nodes, ["a"])
    nodes.pop().destroy()
    with pytest.raises(ConfigError, match="is the journal of node"):
        Words(addresses[1], [], conf(journalFile=tmp_path / "raft"))
    installed("segmented://{path}", adopt=True)
    nodes.append(Words(addresses[1], [], conf(journalFile=tmp_path / "raft")))
    tick_until(nodes, lambda: nodes[0].words == ["a"])


def test_without_a_journal_file_nothing_changes(
    nodes: list[Any], addresses: list[str], installed: Callable[..., None]
) -> None:
    installed()
    nodes.append(Words(addresses[0], [], conf()))
    put_all(nodes, ["a"])
    assert journal_of(nodes[0]) is None


def test_install_can_be_undone(tmp_path: Path, installed: Callable[..., None]) -> None:
    before = pysyncobj.createJournal, TCPTransport.send, TCPTransport.__init__
    undo = install()
    assert pysyncobj.syncobj.createJournal is not before[0]
    install("segmented:///elsewhere/{name}")()
    undo()
    assert (pysyncobj.createJournal, TCPTransport.send, TCPTransport.__init__) == before


def test_install_after_a_node_exists_is_refused(
    tmp_path: Path, nodes: list[Any], addresses: list[str]
) -> None:
    nodes.append(Words(addresses[0], [], conf()))
    with pytest.raises(ConfigError, match="before the first one"):
        install()


def test_a_node_that_is_garbage_does_not_keep_install_away(addresses: list[str]) -> None:
    node = Words(addresses[0], [], conf())
    node.destroy()
    node.itself = node
    del node
    install()()


def test_install_refuses_a_wrong_template_at_once() -> None:
    with pytest.raises(ConfigError):
        install("segmented://{path}?no_such_option=1")


def test_a_template_fills_in_the_path_or_the_name(tmp_path: Path) -> None:
    file = tmp_path / "my node.journal"
    assert patch.fill("segmented://{path}", file).path == file
    assert patch.fill("segmented:///var/raft/{name}", file).path == Path("/var/raft/my node.journal")
    config = StoreConfig(path=Path("/var/raft/{name}"), strategy=MemFirst())
    assert patch.fill(config, file) == msgspec.structs.replace(config, path=Path("/var/raft/my node.journal"))
    toml = tmp_path / "raftstore.toml"
    toml.write_text(config.to_toml())
    assert patch.fill(toml, file).path == Path("/var/raft/my node.journal")


def test_a_journal_of_pysyncobjs_own_is_not_forgotten_in_silence(
    tmp_path: Path, nodes: list[Any], addresses: list[str], installed: Callable[..., None]
) -> None:
    file = tmp_path / "journal"
    nodes.append(Words(addresses[0], [], conf(journalFile=str(file))))
    nodes.pop().destroy()
    gc.collect()
    for template in ("segmented://{path}", "segmented://{path}.store"):
        installed(template)
        with pytest.raises(ConfigError, match="of PySyncObj's own"):
            Words(addresses[0], [], conf(journalFile=str(file)))


def test_a_store_is_given_to_one_node(tmp_path: Path, nodes: list[Any], addresses: list[str]) -> None:
    config = StoreConfig(
        path=tmp_path / "raft", limits=msgspec.structs.replace(store(tmp_path).limits, lock_timeout_ms=50)
    )
    nodes.append(StoreWords(addresses[0], [], conf(), store=config))
    with pytest.raises(StoreLockedError):
        StoreWords(addresses[1], [], conf(), store=config)
    nodes.pop().destroy()
    with pytest.raises(ConfigError, match="is the journal of node"):
        StoreWords(addresses[1], [], conf(), store=config)
    gc.collect()
    nodes.append(StoreWords(addresses[1], [], conf(), store=RaftStoreJournal(config, adopt=True)))


def test_a_store_sync_obj_with_a_journal_file_is_refused(tmp_path: Path, addresses: list[str]) -> None:
    with pytest.raises(ConfigError, match="journalFile"):
        StoreWords(addresses[0], [], conf(journalFile="x"), store=store(tmp_path / "raft"))


def test_a_transport_that_does_not_wait_makes_every_entry_durable_by_itself(
    tmp_path: Path, nodes: list[Any], addresses: list[str]
) -> None:
    nodes.append(
        StoreWords(addresses[0], [], conf(), store=store(tmp_path / "raft"), transportClass=TCPTransport)
    )
    put_all(nodes, ["a", "b", "c"])
    journal = journal_of(nodes[0])
    assert journal is not None
    assert journal.log.status().flushes >= len(journal)


def test_a_node_with_ticks_of_its_own_can_be_destroyed_and_reopened_at_once(
    tmp_path: Path, addresses: list[str]
) -> None:
    for count in range(3):
        node = StoreWords(addresses[0], [], conf(autoTick=True), store=store(tmp_path / "raft"))
        end = time.monotonic() + DEADLINE_S
        while len(node.words) < count or not node._isLeader():
            assert time.monotonic() < end
            time.sleep(0.01)
        node.put(str(count), sync=True, timeout=DEADLINE_S)
        assert node.words == [str(number) for number in range(count + 1)]
        thread = node._SyncObj__thread
        node.destroy()
        del node
    thread.join(DEADLINE_S)


def test_a_node_that_is_collected_without_destroy_gives_its_store_back(
    tmp_path: Path, nodes: list[Any], addresses: list[str]
) -> None:
    node = StoreWords(addresses[0], [], conf(), store=store(tmp_path / "raft"))
    put_all([node], ["a", "b"])
    node._SyncObj__transport.destroy()
    del node
    gc.collect()
    nodes.append(StoreWords(addresses[0], [], conf(), store=store(tmp_path / "raft")))
    tick_until(nodes, lambda: nodes[0].words == ["a", "b"])


@PYSYNCOBJ_FORKS_WITH_THREADS
@pytest.mark.parametrize("backend", BACKENDS)
def test_compaction_by_fork_harms_nothing(
    tmp_path: Path, nodes: list[Any], addresses: list[str], backend: str
) -> None:
    settings = conf(fullDumpFile=str(tmp_path / "dump"))
    nodes.append(StoreWords(addresses[0], [], settings, store=store(tmp_path / "raft", backend)))
    expected: list[str] = []
    for round_ in range(3):
        words = [f"{round_}-{number}" for number in range(100)]
        expected += put_all(nodes, words)
        nodes[0].forceLogCompaction()
        tick_until(nodes, lambda: len(journal_of(nodes[0]) or []) < 50)
    assert len(journal_of(nodes[0]) or []) < 10
    expected += put_all(nodes, ["last"])
    nodes.pop().destroy()
    nodes.append(StoreWords(addresses[0], [], settings, store=store(tmp_path / "raft", backend)))
    tick_until(nodes, lambda: nodes[0].words == expected)


@pytest.fixture
def disk_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was synced, and what was put in the place of what, by path."""
    calls: list[tuple[str, str]] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def note_sync(descriptor: int) -> None:
        calls.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def note(call: Callable[..., None], source: Any, target: Any, **directories: Any) -> None:
        calls.append(("replace", str(target)))
        call(source, target, **directories)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", functools.partial(note, replace))
    monkeypatch.setattr(os, "rename", functools.partial(note, rename))
    return calls


def assert_durable_before_it_counts(calls: list[tuple[str, str]], temporary: Path, dump: Path) -> None:
    replaced = calls.index(("replace", str(dump)))
    assert ("sync", str(temporary)) in calls[:replaced]
    assert ("sync", str(dump.parent)) in calls[replaced:]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see what is synced")
@pytest.mark.parametrize("way", ["installed", "without a patch"])
def test_a_dump_is_durable_before_it_replaces_the_one_before(
    tmp_path: Path,
    nodes: list[Any],
    addresses: list[str],
    installed: Callable[..., None],
    disk_calls: list[tuple[str, str]],
    way: str,
) -> None:
    """Else a power cut leaves an empty dump, and a log from which what it held is purged."""
    dump = tmp_path / "dump"
    if way == "installed":
        installed()
        settings = conf(fullDumpFile=str(dump), useFork=False, journalFile=str(tmp_path / "raft"))
        nodes.append(Words(addresses[0], [], settings))
    else:
        settings = conf(fullDumpFile=str(dump), useFork=False)
        nodes.append(StoreWords(addresses[0], [], settings, store=store(tmp_path / "raft")))
    put_all(nodes, [str(number) for number in range(30)])
    nodes[0].forceLogCompaction()
    tick_until(nodes, lambda: len(journal_of(nodes[0]) or []) < 10)
    assert_durable_before_it_counts(disk_calls, tmp_path / "dump.tmp", dump)
    disk_calls.clear()
    serializer = nodes[0]._SyncObj__serializer
    assert not serializer.setTransmissionData((dump.read_bytes(), True, False))
    assert serializer.setTransmissionData((b"", False, True))
    assert_durable_before_it_counts(disk_calls, tmp_path / "dump.1.tmp", dump)


@PYSYNCOBJ_FORKS_WITH_THREADS
@pytest.mark.parametrize("way", ["installed", "without a patch"])
def test_a_node_without_a_dump_file_of_its_own_keeps_what_compaction_took_from_its_log(
    tmp_path: Path, nodes: list[Any], addresses: list[str], installed: Callable[..., None], way: str
) -> None:
    """PySyncObj's dump is in memory then, and the journal is purged all the same."""
    if way == "installed":
        installed()
    shared = conf() if way == "without a patch" else conf(journalFile=str(tmp_path / "raft"))

    def make() -> Any:
        if way == "installed":
            return Words(addresses[0], [], shared)
        return StoreWords(addresses[0], [], shared, store=store(tmp_path / "raft"))

    nodes.append(make())
    words = put_all(nodes, [str(number) for number in range(30)])
    nodes[0].forceLogCompaction()
    tick_until(nodes, lambda: len(journal_of(nodes[0]) or []) < 10)
    nodes.pop().destroy()
    nodes.append(make())
    tick_until(nodes, lambda: nodes[0].words == words)
    assert shared.fullDumpFile is None
    assert (tmp_path / "raft.dump").is_file()


class OwnJournalWords(Words):
    """On PySyncObj's own journal, for comparison."""

    def __init__(self, address: str, others: list[str], settings: Any, *, store: StoreConfig) -> None:
        settings.journalFile = str(store.path)
        super().__init__(address, others, settings)


def run_until_killed_between_dump_and_trim(kind: Any, tmp_path: Path, address: str) -> tuple[list[str], Any]:
    """The dump is written, more commands are acknowledged, then the process dies: what was acknowledged."""
    config = store(tmp_path / "raft")
    settings = {"fullDumpFile": str(tmp_path / "dump"), "useFork": False}
    node = kind(address, [], conf(**settings), store=config)
    acknowledged = put_all([node], [f"before {number}" for number in range(50)])
    serializer = node._SyncObj__serializer
    serializer.checkSerializing = lambda: (pysyncobj.SERIALIZER_STATE.NOT_SERIALIZING, None)
    node.forceLogCompaction()
    tick_until([node], lambda: (tmp_path / "dump").exists())
    serializer.checkSerializing = lambda: (pysyncobj.SERIALIZER_STATE.SERIALIZING, None)
    acknowledged += put_all([node], [f"after {number}" for number in range(50)])
    node._SyncObj__transport.destroy()
    del serializer.checkSerializing
    return acknowledged, lambda: kind(address, [], conf(**settings), store=config)


@PYSYNCOBJ_LEAVES_FILES_OPEN
def test_a_kill_between_dump_and_trim_loses_commands_on_pysyncobjs_own_journal_and_none_on_ours(
    tmp_path: Path, addresses: list[str]
) -> None:
    found: dict[str, tuple[int, int]] = {}
    for name, kind in {"own": OwnJournalWords, "ours": StoreWords}.items():
        (tmp_path / name).mkdir()
        acknowledged, reopen = run_until_killed_between_dump_and_trim(kind, tmp_path / name, addresses[0])
        gc.collect()
        node = reopen()
        put_all([node], ["end"])
        found[name] = (len(acknowledged), len(set(acknowledged) & set(node.words)))
        node.destroy()
    assert found["ours"] == (100, 100)
    assert found["own"] == (100, 50)


@PYSYNCOBJ_LEAVES_FILES_OPEN
def test_a_snapshot_replaces_the_log_of_a_node_that_fell_behind(
    tmp_path: Path, nodes: list[Any], addresses: list[str]
) -> None:
    def make(address: str, others: list[str], number: int) -> Any:
        settings = conf(fullDumpFile=str(tmp_path / f"dump{number}"), useFork=False)
        return StoreWords(address, others, settings, store=store(tmp_path / str(number)))

    start_three(nodes, addresses, make)
    expected = put_all(nodes, [f"a{number}" for number in range(50)])
    tick_until(nodes, lambda: all(len(node.words) == 50 for node in nodes))
    late = next(node for node in nodes if not node._isLeader())
    nodes.remove(late)
    number = addresses.index(late.selfNode.address)
    late.destroy()
    expected += put_all(nodes, [f"b{number}" for number in range(50)])
    tick_until(nodes, lambda: all(node.words == expected for node in nodes))
    for node in nodes:
        node.forceLogCompaction()
    tick_until(nodes, lambda: all(len(journal_of(node) or []) < 20 for node in nodes))
    nodes.append(
        make(late.selfNode.address, [other for other in addresses if other != late.selfNode.address], number)
    )
    expected += put_all(nodes, ["end"])
    tick_until(nodes, lambda: all(node.words == expected for node in nodes))
    journal = journal_of(nodes[-1])
    assert journal is not None
    assert journal.log.first_index > 50
