"""What the rocksdb backend must hold beside the contract: the ways in which RocksDB and rocksdict err."""

from __future__ import annotations

import errno
import threading
import time
from contextlib import closing
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("rocksdict")

from raftstore_rocksdb.engine import Engine
from raftstore_rocksdb.failures import StalledError, translate
from raftstore_rocksdb.layout import (
    entry_key,
)
from raftstore_rocksdb.rows import Rows
from rocksdb_tools import (
    SMALL,
    append,
    assert_holds,
    assert_recovered,
    failing_engine,
    fill,
    noting,
    opened,
    store_with_a_damaged_block,
)

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.errors import CorruptionError, StoreClosedError, StoreLockedError
from raftstore.testing.batches import next_batch
from raftstore.testing.model import Model
from raftstore.testing.tools import eventually

pytestmark = pytest.mark.backend("rocksdb")


@pytest.mark.parametrize("seed", range(6))
def test_after_any_writes_and_reopenings_the_store_holds_what_the_model_holds(seed: int, path: Path) -> None:
    random, model, backend = Random(seed), Model(), opened(path)
    for step in range(120):
        batch = next_batch(random, model)
        backend.write(batch)
        model.apply(batch)
        if step % 10 == 0:
            backend.maintain()
            backend.close()
            backend = opened(path)
            assert_recovered(backend, model)
    assert_holds(backend, model)
    backend.close()


def test_a_write_is_one_unsynced_batch_and_one_sync_and_never_begins_before_the_last_was_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("apply", "sync"):
        honest = getattr(Engine, name)
        monkeypatch.setattr(Engine, name, noting(calls, name, honest))
    with closing(opened(path)) as backend:
        calls.clear()
        backend.write(append(1, 1, 2, 3))
        backend.write(WriteBatch(2, truncate_from=2, entries=[Entry(2, 2, b"")], hard_state=b"h", meta=b"m"))
    assert calls == ["apply", "sync"] * 2


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", ["apply", "sync"])
def test_a_write_that_an_interrupt_cut_short_is_done_once_when_repeated(
    call: str, after: bool, path: Path
) -> None:
    backend, model = opened(path), Model()
    batches = [append(1, 1, 2, 3), WriteBatch(2, truncate_from=2, entries=[Entry(2, 2, b"new")], meta=b"m")]
    for batch in batches:
        with (
            failing_engine(backend, call, KeyboardInterrupt(), after=after),
            pytest.raises(KeyboardInterrupt),
        ):
            backend.write(batch)
        backend.write(batch)
        backend.write(batch)
        model.apply(batch)
        assert_holds(backend, model)
    backend.close()
    with closing(opened(path)) as backend:
        assert_recovered(backend, model)


def test_an_interrupted_write_is_not_refused_for_lack_of_room_when_repeated(path: Path) -> None:
    with closing(opened(path)) as backend:
        with failing_engine(backend, "sync", KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
            backend.write(append(1, 1))
        backend._room.has = lambda size: False  # type: ignore[method-assign]
        backend._room.surely_has = lambda size: False  # type: ignore[method-assign]
        backend.write(append(1, 1))
        with pytest.raises(OSError, match="No space left"):
            backend.write(append(2, 2))


class Clock:
    """Python's time, which counts how often somebody waited."""

    monotonic = staticmethod(time.monotonic)
    waits = 0

    def sleep(self, seconds: float) -> None:
        self.waits += 1
        time.sleep(seconds)


def test_a_full_memtable_makes_a_write_wait_outside_of_rocksdb(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stall is RocksDB's own: writes that are faster than three tiny memtables can be flushed."""
    clock = Clock()
    monkeypatch.setattr("raftstore_rocksdb.engine.time", clock)
    with closing(opened(path)) as backend:
        for number in count(1):
            backend.write(append(number, number, size=90_000))
            if number >= 400 and clock.waits:
                break
            assert number < 20_000, "RocksDB never stalled"
        assert len(backend.read(1, number + 1, None)) == number


def test_a_stall_that_does_not_end_is_an_error_and_not_a_hang(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftstore_rocksdb.engine.STALL_S_MAX", 0.05)
    monkeypatch.setattr("raftstore_rocksdb.engine._batch", _stalled)
    with closing(Engine(path / "x", write_buffer_bytes=SMALL, create=True)) as engine:
        with pytest.raises(OSError) as caught:
            engine.apply(Rows([], []))
        assert caught.value.errno == errno.ETIMEDOUT


def _stalled(rows: Rows) -> Any:
    raise StalledError("Result incomplete: Write stall")


def test_after_a_failed_sync_nothing_more_is_written_and_a_new_opening_decides(path: Path) -> None:
    backend = opened(path)
    backend.write(append(1, 1))
    with failing_engine(backend, "sync", OSError(errno.EIO, "lost")), pytest.raises(OSError) as caught:
        backend.write(append(2, 2))
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError, match="an earlier write failed"):
        backend.write(append(3, 2))
    assert backend.read(1, 2, None)[0].index == 1
    backend.close()
    with closing(opened(path)) as backend:
        assert not backend.recovery.end_is_proved
        assert backend.recovery.number in (1, 2)


def test_a_full_disk_that_only_the_sync_meets_is_not_reported_as_a_refused_write(path: Path) -> None:
    backend = opened(path)
    with failing_engine(backend, "sync", OSError(errno.ENOSPC, "full")), pytest.raises(OSError) as caught:
        backend.write(append(1, 1))
    assert caught.value.errno == errno.EIO
    backend.close()


def test_a_refused_write_that_rocksdb_kept_after_all_counts_as_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(path)) as backend, monkeypatch.context() as patch:
        patch.setattr(backend._room, "restore", lambda: False)
        patch.setattr(backend, "_admit", lambda *_: None)
        with failing_engine(backend, "apply", OSError(errno.ENOSPC, "full"), after=True):
            backend.write(append(1, 1))
        assert backend.read(1, 2, None) == list(append(1, 1).entries)
        backend.write(append(2, 2))
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 2)


def test_a_backend_that_cannot_be_opened_again_on_a_full_disk_still_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Engine:
        raise OSError(errno.ENOSPC, "full")

    backend = opened(path)
    backend.write(append(1, 1))
    monkeypatch.setattr("raftstore_rocksdb.backend.open_engine", fails)
    with failing_engine(backend, "apply", OSError(errno.ENOSPC, "full")), pytest.raises(OSError) as caught:
        backend.write(append(2, 2))
    assert caught.value.errno == errno.EIO
    assert backend.read(1, 2, None)[0].index == 1
    backend.close()


def test_an_entry_that_is_missing_in_the_middle_is_corruption_and_not_a_short_read(path: Path) -> None:
    with closing(opened(path)) as backend:
        fill(backend, 10)
        assert backend._engine is not None
        backend._engine.apply(Rows([(entry_key(4), entry_key(6))], []))
        for start, stop in ((1, 10), (4, 5), (5, 10), (3, 5)):
            with pytest.raises(CorruptionError, match="missing"):
                backend.read(start, stop, None)
        with pytest.raises(CorruptionError, match="missing"):
            backend.read(2, 10, 60)
        assert len(backend.read(1, 4, None)) == 3


def test_a_damaged_block_is_corruption_that_names_the_file_and_not_an_early_end(path: Path) -> None:
    table, backend = store_with_a_damaged_block(path), opened(path)
    caught: list[CorruptionError] = []
    for start, stop in [(1, 300), *((i, i + 1) for i in range(1, 300)), (80, 110)]:
        try:
            assert len(backend.read(start, stop, None)) == stop - start
        except CorruptionError as error:
            caught.append(error)
    backend.close()
    assert len(caught) > 3
    assert {error.file for error in caught} == {table}
    opened(path).close()  # the caught errors keep nothing of RocksDB alive


def test_reads_beside_writes_that_drop_give_old_or_new_entries_or_ask_to_be_repeated(path: Path) -> None:
    backend, done, wrong, reads = opened(path), threading.Event(), list[BaseException](), [0]
    bounds = [1, 2]

    def read() -> None:
        random = Random(1)
        while not done.is_set():
            first, stop = bounds
            start = random.randrange(first, stop)
            try:
                found = backend.read(start, random.randrange(start, stop) + 1, None)
                assert [entry.index for entry in found] == list(range(start, start + len(found)))
                reads[0] += 1
            except LookupError:
                continue
            except BaseException as error:
                wrong.append(error)
                return

    backend.write(append(1, 1))
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    random, model = Random(2), Model.after([append(1, 1)])
    for _ in range(400):
        batch = next_batch(random, model)
        backend.write(batch)
        model.apply(batch)
        if model.entries:
            bounds[:] = [model.first_index, model.last.index + 1]
    try:
        eventually(lambda: reads[0] > 0 or bool(wrong), "something was read")
    finally:
        done.set()
        for reader in readers:
            reader.join()
        backend.close()
    assert not wrong


def test_a_read_after_close_is_refused(path: Path) -> None:
    backend = opened(path)
    backend.write(append(1, 1))
    backend.close()
    with pytest.raises(StoreClosedError):
        backend.read(1, 2, None)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("IO error: No space left on device: While appending to file: /x/000004.log: ...", errno.ENOSPC),
        ("IO error: Disk quota exceeded: While appending", errno.EDQUOT),
        ("IO error: Input/output error: While fdatasync", errno.EIO),
        ("IO error: Too many open files: While open a file", errno.EMFILE),
        ("IO error: Read-only file system: While open", errno.EROFS),
        ("Busy: nobody knows", errno.EIO),
        ("Shutdown in progress: ", errno.EIO),
    ],
)
def test_a_failure_of_the_disk_keeps_its_number(text: str, code: int) -> None:
    error = translate(text)
    assert isinstance(error, OSError)
    assert error.errno == code


def test_what_rocksdb_calls_corruption_names_file_and_offset() -> None:
    text = (
        "Corruption: block checksum mismatch: stored = 1, computed = 2  in /a/b/000012.sst offset 99 size 7"
    )
    error = translate(text)
    assert isinstance(error, CorruptionError)
    assert (error.file, error.offset) == (Path("/a/b/000012.sst"), 99)


def test_an_options_file_that_rocksdb_cannot_make_sense_of_is_corruption() -> None:
    assert isinstance(translate("NotFound: Missing configurable object: table_factory"), CorruptionError)


def test_a_store_that_is_open_in_this_process_is_locked_and_left_alone(path: Path) -> None:
    with closing(opened(path)) as backend:
        backend.write(append(1, 1))
        with pytest.raises(StoreLockedError):
            opened(path)
        backend.write(append(2, 2))


def test_an_entry_that_a_failed_write_may_have_dropped_is_neither_corruption_nor_to_be_asked_for_again(
    path: Path,
) -> None:
    backend = opened(path)
    fill(backend, 5)
    with failing_engine(backend, "sync", OSError(errno.EIO, "lost")), pytest.raises(OSError, match="lost"):
        backend.write(WriteBatch(5, truncate_from=3))
    assert len(backend.read(1, 3, None)) == 2
    with pytest.raises(OSError, match="may have dropped entry 3"):
        backend.read(1, 5, None)
    backend.close()
