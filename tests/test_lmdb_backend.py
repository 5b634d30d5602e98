"""What only the lmdb backend must hold, beside the contract: what LMDB leaves to others, and its traps."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("lmdb")

from lmdb_tools import KIB, MIB, LmdbStore, checked
from raftstore_lmdb import LmdbBackend, _checksums
from raftstore_lmdb._records import encode_key

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.errors import BackendMissingError, CorruptionError
from raftstore.testing.tools import span

pytestmark = pytest.mark.backend("lmdb")


@pytest.fixture
def store(path: Path) -> Iterator[LmdbStore]:
    with checked(path) as made:
        yield made


def info(backend: LmdbBackend) -> dict[str, int]:
    found = backend._environment.info()
    return {"last_pgno": found["last_pgno"], "last_txnid": found["last_txnid"], "map_size": found["map_size"]}


def keys(backend: LmdbBackend) -> int:
    """How many entries the table holds, dead or alive."""
    with backend._environment.begin() as txn:
        return int(txn.stat(backend._tables.entries)["entries"])


def test_lmdb_runs_only_with_settings_that_make_a_commit_durable(store: LmdbStore) -> None:
    flags = store.backend._environment.flags()
    assert flags["sync"]
    assert flags["metasync"]
    assert not flags["writemap"]
    assert not flags["map_async"]


def test_one_write_is_one_transaction(store: LmdbStore) -> None:
    store.append(20)
    store.backend.maintain()
    before = info(store.backend)["last_txnid"]
    store.write(
        truncate_from=11,
        anchor=LogId(store.model.entries[5].term, 5),
        entries=span(11, 30, term=9),
        hard_state=b"vote",
        meta=b"meta",
    )
    assert info(store.backend)["last_txnid"] == before + 1


def test_files_are_for_their_owner_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        LmdbBackend(path).close()
    finally:
        os.umask(before)
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {
        "data.mdb": 0o600,
        "lock.mdb": 0o600,
    }


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> Iterator[None]:
    """Note every sync and every write that this backend does itself, with the file's name."""

    def name(fd: int) -> str:
        return Path(f"/proc/self/fd/{fd}").readlink().name

    def fsync(fd: int) -> None:
        calls.append(f"sync {name(fd)}")

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        calls.append(f"write {name(fd)} {offset}")
        return len(data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "pwrite", pwrite)
        yield


def test_a_new_store_and_its_name_are_synced_before_it_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    with recorded(monkeypatch, calls):
        LmdbBackend(path).close()
    assert calls == [
        "sync data.mdb",
        "write data.mdb 0",
        "write data.mdb 4096",
        "sync data.mdb",
        "sync store",
    ]


def test_opening_makes_durable_what_the_page_cache_shows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill the newer meta page may be in the page cache alone."""
    LmdbBackend(path).close()
    calls: list[str] = []
    with recorded(monkeypatch, calls):
        LmdbBackend(path).close()
    assert calls == ["write data.mdb 0", "write data.mdb 4096", "sync data.mdb", "sync store"]


def test_threads_in_turn_can_write(store: LmdbStore) -> None:
    """A commit from another thread than that of the begin would leak LMDB's writer lock."""
    for _ in range(50):
        thread = threading.Thread(target=store.append, args=[3])
        thread.start()
        thread.join(120)
        assert not thread.is_alive()
    store.reopen()


def test_a_stale_key_above_the_last_entry_is_refused_not_skipped(store: LmdbStore) -> None:
    """LMDB's putmulti(append=True) leaves out what is out of order, and says so only in a count."""
    store.append(5)
    environment, tables = store.backend._environment, store.backend._tables
    with environment.begin(write=True) as txn:
        txn.put(encode_key(9), b"stale", db=tables.entries)
    with pytest.raises(CorruptionError, match="above the last"):
        store.backend.write(WriteBatch(2, entries=span(6, 12)))
    assert store.backend.read(1, 6, None) == list(store.model.entries.values())


def test_truncation_leaves_no_key_behind(store: LmdbStore) -> None:
    store.append(3000)
    store.write(truncate_from=1000)
    assert keys(store.backend) == 999
    store.write(truncate_from=500, entries=span(500, 502, term=7))
    assert keys(store.backend) == 501
    store.write(truncate_from=1)
    assert keys(store.backend) == 0
    store.reopen()


def test_a_reset_below_the_garbage_of_a_purge_leaves_none_of_it(store: LmdbStore) -> None:
    store.append(2000)
    store.write(anchor=store.model.entries[1900].id)
    store.write(truncate_from=1, anchor=LogId(1, 50))
    store.write(entries=span(51, 53, term=2))
    assert keys(store.backend) == 2
    store.reopen()
    assert store.backend.read(51, 53, None) == span(51, 53, term=2)


def test_purge_moves_the_anchor_and_leaves_the_keys_for_later(store: LmdbStore) -> None:
    store.append(6000)
    store.write(anchor=store.model.entries[5000].id)
    assert keys(store.backend) > 5900
    for _ in range(20):
        store.backend.maintain()
    assert keys(store.backend) == 1000
    store.reopen()


def test_garbage_below_a_gap_that_no_loop_could_walk_is_dropped(store: LmdbStore) -> None:
    store.append(100)
    store.write(anchor=LogId(1, 2**62))
    store.write(entries=span(2**62 + 1, 2**62 + 4))
    store.backend.maintain()
    assert keys(store.backend) == 3
    assert not store.backend._state.garbage
    store.reopen()


@pytest.mark.parametrize("size", [10, 1500, 20_000])
def test_append_and_purge_do_not_grow_the_file_even_if_maintain_is_never_called(
    store: LmdbStore, size: int
) -> None:
    def turn() -> None:
        for _ in range(40):
            store.append(8, size=size)
        store.write(anchor=store.model.entries[store.model.last.index - 50].id)

    for _ in range(4):
        turn()
    settled = info(store.backend)["last_pgno"], store.backend.stats().bytes_on_disk
    for _ in range(8):
        turn()
    assert info(store.backend)["last_pgno"] <= settled[0] * 1.1
    assert store.backend.stats().bytes_on_disk <= settled[1] * 1.1 + MIB


def test_no_read_transaction_outlives_its_read(store: LmdbStore) -> None:
    """A pinned one keeps every page that is freed after it from being used again."""
    store.append(10)
    store.backend.read(1, 11, None)
    store.backend.stats()
    with pytest.raises(LookupError):
        store.backend.read(9, 12, None)
    assert "no active readers" in store.backend._environment.readers()


def test_a_read_beside_a_truncation_gives_way_but_a_lost_entry_is_damage(
    store: LmdbStore,
) -> None:
    store.append(10)
    store.write(truncate_from=8)
    with pytest.raises(LookupError):
        store.backend.read(5, 10, None)
    with store.backend._environment.begin(write=True) as txn:
        txn.delete(encode_key(6), db=store.backend._tables.entries)
    with pytest.raises(CorruptionError, match="entry 6 is missing") as caught:
        store.backend.read(5, 8, None)
    assert (caught.value.first_index, caught.value.file) == (6, store.backend._file)


def test_a_repeated_write_is_recognized_after_an_interrupt_behind_the_commit(
    store: LmdbStore,
) -> None:
    """The transaction is done, but nothing in memory knows of it."""
    store.append(5)
    known = store.backend._state
    batch = store.write(truncate_from=4, entries=span(4, 9, term=5))
    store.backend._state = known
    done = info(store.backend)["last_txnid"]
    store.backend.write(batch)
    assert info(store.backend)["last_txnid"] == done
    store.append(3)
    store.write(anchor=store.model.entries[6].id)
    store.reopen()


@pytest.mark.timeout(90)
def test_a_full_map_doubles_while_readers_run(path: Path) -> None:
    """A full map poisons the transaction; aborting that, and growing the map, must hold off busy readers:

    py-lmdb waited half a minute for a moment in which none of them was at work.
    """
    with checked(path, map_bytes=MIB) as store:
        store.append(100)
        done, failures = threading.Event(), list[BaseException]()

        def read() -> None:
            try:
                while not done.is_set():
                    assert store.backend.read(1, 101, None)[-1].index == 100
            except Exception as error:
                failures.append(error)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for _ in range(12):
            store.append(4, size=250 * KIB)
        done.set()
        for reader in readers:
            reader.join(120)
        assert not failures
        assert info(store.backend)["map_size"] == 16 * MIB
        store.reopen()
        assert info(store.backend)["map_size"] > 11 * MIB


@pytest.mark.parametrize(
    "size", [0, 1, 1997, 1998, 2004, 2005, 2006, 4050, 4062, 4063, 4064, 4065, 9000, MIB]
)
def test_payloads_on_both_sides_of_every_page_limit_come_back(store: LmdbStore, size: int) -> None:
    store.write(entries=[Entry(1, 1, Random(size).randbytes(size), 255)])
    store.append(1)
    store.reopen()


def test_the_checksum_of_a_store_is_the_one_it_was_made_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "crc32c", None)
        store = checked(path)
        store.append(5)
        store.backend.close()
    with store:
        store.open_again()
        assert store.backend._state.bounds.checksum == _checksums.CRC32
        store.append(5)
        store.reopen()


def test_a_store_whose_checksum_library_is_missing_says_what_to_install(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("crc32c")
    LmdbBackend(path).close()
    monkeypatch.setitem(sys.modules, "crc32c", None)
    with pytest.raises(BackendMissingError, match="pip install crc32c"):
        LmdbBackend(path)
    with pytest.raises(BackendMissingError):
        LmdbBackend.examine(path, deep=False)
