"""A full disk under LMDB, which would report it as EIO out of a commit: refused before, or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("lmdb")

from disk_tools import small_disk, take_the_rest
from lmdb_tools import KIB, MIB, LmdbStore, checked, opened
from raftstore_lmdb import LmdbBackend, _backend, _datafile, _room

from raftstore.batch import WriteBatch
from raftstore.entry import HardState, LogId
from raftstore.errors import StoreFullError
from raftstore.log import open as open_log
from raftstore.testing.batches import next_batch
from raftstore.testing.checked import run

pytestmark = pytest.mark.backend("lmdb")


@pytest.fixture
def store(path: Path) -> Iterator[LmdbStore]:
    with checked(path, ballast_bytes=256 * KIB) as made:
        yield made


@contextmanager
def full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No block can be allocated any more; at the end it is made sure that none was."""
    before = (path / "data.mdb").stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(_room, "extend", lambda *_: False)
        yield
    assert (path / "data.mdb").stat().st_size == before, "LMDB wrote behind what was allocated"


def fill(store: LmdbStore, size: int) -> None:
    """Append until it is refused; what was refused has left no trace."""
    while refusal(store, batch := appending(store, max(4, 20_000 // size), size)) is None:
        store.model.apply(batch)
    store.check()


def appending(store: LmdbStore, count: int, size: int) -> WriteBatch:
    last = store.model.last
    return WriteBatch(store.model.number + 1, entries=run(last.index + 1, count, max(1, last.term), size))


def refusal(store: LmdbStore, batch: WriteBatch) -> OSError | None:
    """Why the batch was refused for want of room, or None if it was written."""
    try:
        store.backend.write(batch)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return error
        raise
    return None


@pytest.mark.parametrize("size", [30, 1000, 6000, 100_000])
def test_on_a_full_disk_appends_are_refused_and_all_else_goes_on(
    path: Path, store: LmdbStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    with full_disk(path, monkeypatch):
        fill(store, size)
        for turn in range(20):
            store.write(hard_state=b"vote %d" % turn)
        store.write(meta=bytes(60_000))
        store.write(truncate_from=store.model.last.index - 2)
        store.purge(store.model.first_index + 3)
        assert refusal(store, appending(store, 100, 10 * size + 9000)) is not None
        store.reopen()
    store.append(8, size=size)
    store.reopen()


@pytest.mark.parametrize("size", [30, 1000, 6000])
def test_appends_resume_on_a_full_disk_when_a_purge_made_room_inside_the_file(
    path: Path, store: LmdbStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """LMDB's file never shrinks, and a page that was freed can be used only two transactions later."""
    with full_disk(path, monkeypatch):
        fill(store, size)
        for _ in range(5):
            first, last = store.model.first_index, store.model.last.index
            store.purge(last - (last - first) // 4)
            for _ in range(5):
                store.append(2, size=size)
            fill(store, size)
        store.reopen()


def test_what_a_purge_freed_can_be_used_by_the_very_next_append(
    path: Path, store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB uses the pages that a transaction freed in the second one after it."""
    with full_disk(path, monkeypatch):
        fill(store, 30_000)
        store.purge(store.model.last.index)
        assert not store.backend._state.garbage
        store.append(4, size=30_000)
        store.reopen()


def test_a_reset_on_a_full_disk_frees_the_whole_file(
    path: Path, store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_disk(path, monkeypatch):
        fill(store, 3000)
        store.reset(LogId(5, 3))
        fill(store, 3000)
        assert store.model.first_index == 4
        store.reopen()


def test_a_refused_append_can_be_repeated_with_the_same_number_when_there_is_room(
    path: Path, store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = WriteBatch(1, entries=run(1, 64, 1, 100_000))
    with full_disk(path, monkeypatch), pytest.raises(OSError, match="No space"):
        store.backend.write(batch)
    store.write_batch(batch)
    store.reopen()


def test_what_a_transaction_may_need_is_never_less_than_what_it_takes(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it took more, a disk that fills up at that moment would be an EIO out of the commit."""
    random = Random(3)
    environment, room = store.backend._environment, store.backend._room
    page = environment.stat()["psize"]
    for _ in range(250):
        batch = next_batch(random, store.model)
        if batch.entries and random.random() < 0.5:
            size = random.choice((900, 1000, 1100, 1500, 2100, 4100, 50_000))
            last, count = batch.entries[0].index, random.choice((1, 10, 300 if size < 2200 else 20))
            batch = WriteBatch(batch.number, batch.truncate_from, batch.anchor, run(last, count, 99, size))
            if store.model.last.term > 99:
                break
        used = room._used()
        need = room._need(batch, used)
        store.write_batch(batch)
        assert room._used() - used <= need
        assert environment.info()["last_pgno"] < (store.backend._file.stat().st_size // page)


def test_small_appends_ask_lmdb_what_it_uses_only_when_they_could_have_used_up_what_is_allocated(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(1)
    room, looks, extensions = store.backend._room, list[int](), list[int]()
    used, extend = room._used, _datafile.extend

    def looking() -> int:
        looks.append(used())
        return looks[-1]

    def extending(file: Path, start: int, stop: int) -> bool:
        extensions.append(stop)
        return extend(file, start, stop)

    monkeypatch.setattr(room, "_used", looking)
    monkeypatch.setattr(_room, "extend", extending)
    for _ in range(30):
        store.append(1, size=100)
    assert 0 < len(looks) <= 20
    assert len(extensions) <= 2
    assert used() <= room._used_max
    store.check()


def test_upkeep_beside_a_long_read_does_not_write_behind_what_is_allocated(
    path: Path, store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sweep frees cannot be used again while the read lasts: each one takes new pages."""
    monkeypatch.setattr(_backend, "_MAINTAIN_S", 60.0)
    monkeypatch.setattr(_backend, "_SWEEP_KEYS_APART", 64)
    for _ in range(40):
        store.append(200, size=900)
    with full_disk(path, monkeypatch), store.backend._environment.begin():
        store.purge(store.model.last.index - 1)
        store.backend.maintain()
    store.append(1)
    assert store.backend._room._used() <= store.backend._room._used_max
    store.backend.maintain()
    store.reopen()


def test_a_half_done_extension_is_undone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems leave what they could allocate, and the next attempt began behind its own end."""
    file = path / "file"
    file.write_bytes(bytes(1000))

    def half(fd: int, offset: int, count: int) -> None:
        os.ftruncate(fd, offset + count // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", half)
    assert not _datafile.extend(file, 1000, 9000)
    assert file.stat().st_size == 1000


def test_room_is_made_of_blocks_not_of_a_length(store: LmdbStore) -> None:
    found = store.backend._file.stat()
    assert found.st_blocks * 512 >= found.st_size >= 256 * KIB


def test_the_reserve_of_a_copied_store_is_allocated_again(path: Path) -> None:
    """A copy has holes where nothing was written yet."""
    opened(path, ballast_bytes=256 * KIB).close()
    file = path / "data.mdb"
    length = file.stat().st_size
    os.truncate(file, 8 * 4096)
    os.truncate(file, length)
    with closing(opened(path, ballast_bytes=256 * KIB)):
        assert file.stat().st_blocks * 512 >= length


def test_an_allocation_that_fails_otherwise_leaves_only_reading(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise OSError(errno.EIO, "bad sector")

    store.append(5)
    with monkeypatch.context() as patch:
        patch.setattr(_room, "extend", broken)
        with pytest.raises(OSError, match="bad sector"):
            store.backend.write(WriteBatch(2, entries=run(6, 1, 1, 5 * MIB)))
    store.check()
    with pytest.raises(OSError):
        store.backend.write(WriteBatch(2, hard_state=b"vote"))
    store.reopen()


def test_a_really_full_file_system_is_never_an_io_error(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "12m"):
        use_up(tmp_path / "disk")


@pytest.mark.parametrize("kib", [8, 24, 60, 1200, 5000])
def test_no_store_is_made_where_the_first_votes_would_find_no_room(tmp_path: Path, kib: int) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, f"{kib}k"):
        for _ in range(2):
            with pytest.raises(StoreFullError, match="nothing was made"):
                open_log(f"lmdb://{disk}/store")
            assert {file.name for file in (disk / "store").iterdir()} == {"LOCK"}
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        with open_log(f"lmdb://{disk}/store") as log:
            assert log.recovery.created
            take_the_rest(disk / "others")
            log.save_hard_state(HardState(1, "a"))


def test_a_new_store_without_room_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_datafile, "extend", lambda *_: False)
        with pytest.raises(OSError, match="No space left") as refused:
            LmdbBackend(path)
    assert refused.value.errno == errno.ENOSPC
    assert not any(path.iterdir())
    opened(path).close()


def use_up(mount: Path) -> None:
    random, others = Random(1), mount / "others"
    (mount / "store").mkdir()
    with checked(mount / "store", ballast_bytes=512 * KIB) as store:
        for _ in range(4):
            fill(store, random.choice((100, 3000, 40_000)))
            take_the_rest(others)
            store.write(hard_state=random.randbytes(50))
            store.purge(random.randint(store.model.first_index, store.model.last.index))
            if random.random() < 0.5:
                others.unlink()
            fill(store, 500)
            store.backend.maintain()
        store.reopen()
