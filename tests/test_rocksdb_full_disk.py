"""The rocksdb backend on a disk that is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("rocksdict")

from disk_tools import small_disk, take_the_rest
from raftstore_rocksdb import RocksdbBackend
from raftstore_rocksdb.upkeep import worth_compacting
from rocksdb_tools import (
    append,
    failing_engine,
    fill,
    opened,
)

from raftstore.batch import WriteBatch
from raftstore.entry import HardState, LogId
from raftstore.errors import StoreFullError
from raftstore.log import open as open_log

pytestmark = pytest.mark.backend("rocksdb")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """The directory of a new store on a disk of 48 MiB."""
    with small_disk(tmp_path / "disk", "48m"):
        store = tmp_path / "disk" / "store"
        store.mkdir(mode=0o700)
        yield store


def append_until_full(backend: RocksdbBackend, number: int, index: int) -> tuple[int, int]:
    """Append until there is no room. The last write's number and the last index then."""
    with suppress(OSError):  # the last append of the test shows that room was all that it lacked
        while True:
            number += 1
            backend.write(append(number, index + 1, size=50_000))
            index += 1
    return number, index


@pytest.mark.parametrize("told", [True, False], ids=["checked before", "met by RocksDB"])
def test_on_a_full_disk_appends_are_refused_the_rest_goes_on_and_purging_makes_room(
    store: Path, told: bool
) -> None:
    backend = opened(store, write_buffer_bytes=1 << 20, ballast_bytes=4 << 20)
    if not told:
        backend._room.has = lambda size: True  # type: ignore[method-assign]
    number, last = append_until_full(backend, 0, 0)
    backend.write(WriteBatch(number + 1, hard_state=b"voted", meta=b"m"))
    assert backend.read(last, last + 1, None)[0].index == last
    number, last = append_until_full(backend, number + 1, last)
    for step in range(50):
        backend.write(WriteBatch(number + step + 1, hard_state=b"h" * 100))
    number += 51
    backend.write(WriteBatch(number, anchor=LogId(1, last - 2)))
    if not told:
        del backend._room.has
    backend.write(append(number + 1, last + 1, size=50_000))
    assert [entry.index for entry in backend.read(last - 1, last + 2, None)] == [last - 1, last, last + 1]
    backend.close()
    with closing(opened(store)) as backend:
        assert backend.recovery.last == LogId(1, last + 1)
        assert backend.recovery.number == number + 1
        assert backend.recovery.hard_state == b"h" * 100


def test_appends_resume_when_somebody_else_makes_room(store: Path) -> None:
    other = store.parent / "other"
    with closing(opened(store, write_buffer_bytes=1 << 20, ballast_bytes=4 << 20)) as backend:
        backend.write(append(1, 1))
        take_the_rest(other)
        with pytest.raises(OSError, match="No space left"):
            backend.write(append(2, 2))
        backend.write(WriteBatch(3, hard_state=b"voted"))
        assert not (store / "ballast").exists()
        with pytest.raises(OSError, match="No space left"):
            backend.write(append(4, 2))
        other.unlink()
        backend.write(append(5, 2))
        assert (store / "ballast").stat().st_size == 4 << 20
    with closing(opened(store)) as backend:
        assert (backend.recovery.last, backend.recovery.hard_state) == (LogId(1, 2), b"voted")


def test_the_ballast_takes_at_most_an_eighth_of_the_disk(store: Path) -> None:
    with closing(opened(store, ballast_bytes=1 << 40)):
        assert (store / "ballast").stat().st_size == 6 << 20


@pytest.mark.parametrize("mib", [1, 4, 9, 12, 20])
def test_no_store_is_made_where_its_reserve_does_not_fit(store: Path, mib: int) -> None:
    """Else nothing would be left for the first vote when others have taken the rest."""
    others = store.parent / "others"
    others.write_bytes(bytes((48 - mib) << 20))
    place = f"rocksdb://{store.parent}/raft"
    if mib < 12:
        with pytest.raises(StoreFullError, match="nothing was made"):
            open_log(place)
        assert {file.name for file in (store.parent / "raft").iterdir()} == {"LOCK"}
        os.truncate(others, 20 << 20)
    with open_log(place) as log:
        assert log.recovery.created
        take_the_rest(store.parent / "rest")
        for term in range(1, 20):
            log.save_hard_state(HardState(term, "a"))
    with open_log(place) as log:
        assert log.hard_state.term == 19


def test_on_a_file_system_that_does_not_tell_its_size_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some, of FUSE and of the network, know no `statfs`: everything is 0 there."""
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(total=0, used=0, free=0))
    with closing(opened(tmp_path, ballast_bytes=1 << 20)) as backend:
        backend.write(append(1, 1))
    with closing(opened(tmp_path)) as backend:
        assert backend.recovery.last == LogId(1, 1)


def test_an_append_that_rocksdb_refused_does_not_take_the_ballast_instead(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as backend:
        backend.write(append(1, 1))
        backend._room.restore = lambda: False  # type: ignore[method-assign]
        backend._admit = lambda engine, batch: None  # type: ignore[method-assign]
        full = failing_engine(backend, "apply", OSError(errno.ENOSPC, "full"))
        with full, pytest.raises(OSError, match="No space left"):
            backend.write(append(2, 2))
        backend.write(WriteBatch(3, meta=b"m"))
    with closing(opened(tmp_path)) as backend:
        assert (backend.recovery.last, backend.recovery.meta) == (LogId(1, 1), b"m")


def test_a_compaction_that_rocksdb_did_not_even_try_is_tried_again_after_opening_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has found no room, RocksDB skips what could need more than there is, and does not say so."""
    with closing(opened(tmp_path, write_buffer_bytes=4 << 20)) as backend:
        fill(backend, 300, size=20_000)
        backend.write(WriteBatch(300, anchor=LogId(1, 295)))
        engine = backend._open_engine()
        engine.flush()
        monkeypatch.setattr(engine, "compact", lambda start, stop: None)
        dropped = worth_compacting(engine.files(), backend._shape)
        assert dropped is not None
        backend._compact_when_full(dropped)
        assert worth_compacting(backend._open_engine().files(), backend._shape) is None
        assert len(backend.read(296, 300, None)) == 4
