"""What the rocksdb backend must hold beside the contract: the ways in which RocksDB and rocksdict err."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("rocksdict")

from raftstore_rocksdb import RocksdbBackend
from raftstore_rocksdb.engine import Engine
from raftstore_rocksdb.failures import StalledError, translate
from raftstore_rocksdb.files import all_files
from raftstore_rocksdb.layout import (
    BOUNDS,
    entry_key,
    key_index,
    pack_bounds,
    pack_entry,
    run_key,
    seal,
    unpack_bounds,
    unpack_entry,
)
from raftstore_rocksdb.rows import Rows, rows_of
from raftstore_rocksdb.shape import Shape

from raftstore.batch import WriteBatch
from raftstore.entry import Entry, LogId
from raftstore.errors import CorruptionError, FormatError, StoreClosedError, StoreLockedError
from raftstore.testing.batches import next_batch
from raftstore.testing.model import Model
from raftstore.testing.tools import eventually

pytestmark = pytest.mark.backend("rocksdb")

KIB = 1 << 10
SMALL = 64 * KIB
"""A memtable that a few writes fill, so that logs are switched and memtables flushed all the time."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    return store


def opened(path: Path, **options: Any) -> RocksdbBackend:
    return RocksdbBackend(path, **{"ballast_bytes": 64 * KIB, "write_buffer_bytes": SMALL, **options})


def append(number: int, *indexes: int, term: int = 1, size: int = 20) -> WriteBatch:
    return WriteBatch(number, entries=[Entry(term, i, Random(i).randbytes(size)) for i in indexes])


def fill(backend: RocksdbBackend, stop: int, size: int = 20) -> None:
    """Writes 1 to stop - 1, each of the entry with its number."""
    for number in range(1, stop):
        backend.write(append(number, number, size=size))


def assert_holds(backend: RocksdbBackend, model: Model) -> None:
    first, stop = model.first_index, model.last.index + 1
    if first < stop:
        assert backend.read(first, stop, None) == list(model.entries.values())


def assert_recovered(backend: RocksdbBackend, model: Model) -> None:
    found = backend.recovery
    assert (found.anchor, found.last, found.number) == (model.anchor, model.last, model.number)
    assert list(found.term_runs) == model.term_runs()
    assert (found.hard_state, found.meta) == (model.hard_state, model.meta)
    assert_holds(backend, model)


def stop_uncleanly(backend: RocksdbBackend) -> None:
    """Leave the files as a SIGKILL does, though RocksDB empties its log: the clean mark is not written."""
    backend._mark_clean = lambda: None  # type: ignore[method-assign]
    backend.close()


@contextmanager
def failing_engine(
    backend: RocksdbBackend, call: str, error: BaseException, *, after: bool = False
) -> Iterator[None]:
    """While inside, the engine's `call` raises `error`: instead of doing its work, or after it."""
    engine: Any = backend._engine
    honest = getattr(engine, call)

    def fail(*arguments: Any) -> None:
        if after:
            honest(*arguments)
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, call, fail)
        yield


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


# --- the stored form


def test_keys_sort_as_their_indexes_do_and_entries_before_all_else() -> None:
    indexes = [0, 1, 255, 256, 2**32, 2**63 - 1]
    keys = [entry_key(i) for i in indexes] + [run_key(i) for i in indexes] + [BOUNDS]
    assert keys == sorted(keys)
    assert [key_index(entry_key(i)) for i in indexes] == indexes


def test_every_flipped_bit_of_a_stored_entry_is_noticed() -> None:
    key, entry = entry_key(7), Entry(3, 7, b"payload", 9)
    value = pack_entry(key, entry)
    assert unpack_entry(7, key, value) == entry
    for bit in range(len(value) * 8):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            unpack_entry(7, key, bytes(damaged))


def test_an_entry_is_not_taken_for_the_one_at_another_index() -> None:
    value = pack_entry(entry_key(7), Entry(3, 7, b"payload"))
    with pytest.raises(CorruptionError):
        unpack_entry(8, entry_key(8), value)


@pytest.mark.parametrize("size", range(13))
def test_a_value_cut_short_is_noticed(size: int) -> None:
    value = pack_entry(entry_key(7), Entry(3, 7, b""))
    with pytest.raises(CorruptionError):
        unpack_entry(7, entry_key(7), value[:size])


def test_a_newer_format_is_refused_with_both_versions_named() -> None:
    with pytest.raises(FormatError, match="format 2; this version knows 1"):
        unpack_bounds(seal(BOUNDS, b"\x00\x02" + bytes(48)))


def test_the_bounds_record_is_read_back_as_it_was_written() -> None:
    shape = Shape(2**40, LogId(3, 2**62), LogId(9, 2**63 - 1), [LogId(9, 2**62 + 1)])
    assert unpack_bounds(pack_bounds(shape)) == (2**40, shape.anchor, shape.last, 1)


@pytest.mark.parametrize("seed", range(60))
def test_rows_applied_once_or_twice_hold_what_the_model_holds(seed: int) -> None:
    random, model, shape, records = Random(seed), Model(), Shape(), dict[bytes, bytes]()
    for _ in range(40):
        batch = next_batch(random, model)
        model.apply(batch)
        after = shape.after(batch)
        rows = rows_of(batch, shape, after)
        for _ in range(random.randint(1, 2)):
            _apply(records, rows)
        shape = after
        assert (shape.number, shape.anchor, shape.last) == (model.number, model.anchor, model.last)
        assert list(shape.runs) == model.term_runs()
        assert {k for k in records if k[0] == 1} == {entry_key(i) for i in model.entries}
        assert {k for k in records if k[0] == 2} == {run_key(run.index) for run in model.term_runs()}


def _apply(records: dict[bytes, bytes], rows: Rows) -> None:
    for start, stop in rows.drops:
        for key in [key for key in records if start <= key < stop]:
            del records[key]
    records.update(rows.puts)


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


# --- writing


def test_a_write_is_one_unsynced_batch_and_one_sync_and_never_begins_before_the_last_was_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("apply", "sync"):
        honest = getattr(Engine, name)
        monkeypatch.setattr(Engine, name, _noting(calls, name, honest))
    with closing(opened(path)) as backend:
        calls.clear()
        backend.write(append(1, 1, 2, 3))
        backend.write(WriteBatch(2, truncate_from=2, entries=[Entry(2, 2, b"")], hard_state=b"h", meta=b"m"))
    assert calls == ["apply", "sync"] * 2


def _noting(calls: list[str], name: str, honest: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        calls.append(name)
        honest(*arguments)

    return call


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
        for number in range(1, 401):
            backend.write(append(number, number, size=90_000))
        assert len(backend.read(1, 401, None)) == 400
    assert clock.waits > 0, "RocksDB never stalled"


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


def test_a_refused_write_that_rocksdb_kept_after_all_counts_as_done(path: Path) -> None:
    with closing(opened(path)) as backend:
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


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The directory of a new store on a disk of 48 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", os.fspath(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    store = disk / "store"
    store.mkdir(mode=0o700)
    yield store
    subprocess.run(["umount", "--lazy", os.fspath(disk)], check=True)


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
    small_disk: Path, told: bool
) -> None:
    backend = opened(small_disk, write_buffer_bytes=1 << 20, ballast_bytes=4 << 20)
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
    with closing(opened(small_disk)) as backend:
        assert backend.recovery.last == LogId(1, last + 1)
        assert backend.recovery.number == number + 1
        assert backend.recovery.hard_state == b"h" * 100


def test_appends_resume_when_somebody_else_makes_room(small_disk: Path) -> None:
    other = small_disk.parent / "other"
    with closing(opened(small_disk, write_buffer_bytes=1 << 20, ballast_bytes=4 << 20)) as backend:
        backend.write(append(1, 1))
        with suppress(OSError), other.open("wb") as file:
            while True:
                file.write(bytes(64 * KIB))
        with pytest.raises(OSError, match="No space left"):
            backend.write(append(2, 2))
        backend.write(WriteBatch(3, hard_state=b"voted"))
        with pytest.raises(OSError, match="No space left"):
            backend.write(append(4, 2))
        other.unlink()
        backend.write(append(5, 2))
        assert (small_disk / "ballast").stat().st_size == 4 << 20
    with closing(opened(small_disk)) as backend:
        assert (backend.recovery.last, backend.recovery.hard_state) == (LogId(1, 2), b"voted")


def test_the_ballast_takes_at_most_an_eighth_of_the_disk(small_disk: Path) -> None:
    with closing(opened(small_disk, ballast_bytes=1 << 40)):
        assert (small_disk / "ballast").stat().st_size == 6 << 20


# --- reading


def test_an_entry_that_is_missing_in_the_middle_is_corruption_and_not_a_short_read(path: Path) -> None:
    with closing(opened(path)) as backend:
        fill(backend, 10)
        assert backend._engine is not None
        backend._engine.apply(Rows([(entry_key(4), entry_key(6))], []))
        for start, stop in ((1, 10), (4, 5), (5, 10), (3, 5)):
            with pytest.raises(CorruptionError, match="missing"):
                backend.read(start, stop, None)
        assert len(backend.read(1, 4, None)) == 3


def store_with_a_damaged_block(path: Path) -> Path:
    """300 entries in one sorted file with one damaged block; that file."""
    backend = opened(path, write_buffer_bytes=1 << 20)
    fill(backend, 300, size=500)
    backend.close()
    [table] = [file for file in (path / "db").glob("*.sst") if file.stat().st_size > 100_000]
    flip(table, 50_000)
    return table


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
    done.set()
    for reader in readers:
        reader.join()
    backend.close()
    assert not wrong
    assert reads[0] > 100


def test_a_read_after_close_is_refused(path: Path) -> None:
    backend = opened(path)
    backend.write(append(1, 1))
    backend.close()
    with pytest.raises(StoreClosedError):
        backend.read(1, 2, None)


# --- failures in RocksDB's words


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


def test_a_store_that_is_open_in_this_process_is_locked_and_left_alone(path: Path) -> None:
    with closing(opened(path)) as backend:
        backend.write(append(1, 1))
        with pytest.raises(StoreLockedError):
            opened(path)
        backend.write(append(2, 2))


# --- opening


def test_a_crash_at_any_step_of_creation_leaves_a_new_store_or_a_whole_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("apply", "sync", "flush", "close"):
        honest = getattr(Engine, step)

        def crash(self: Engine, *arguments: Any, honest: Any = honest) -> None:
            honest(self, *arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Engine, step, crash)
            with pytest.raises(KeyboardInterrupt):
                opened(path)
        gc.collect()
        with closing(opened(path)) as backend:
            assert backend.recovery.number == 0
        shutil.rmtree(path)
        path.mkdir(mode=0o700)


def test_a_store_without_its_data_is_refused_and_not_made_anew(path: Path) -> None:
    opened(path).close()
    shutil.rmtree(path / "db")
    with pytest.raises(CorruptionError, match="missing"):
        opened(path)


@pytest.mark.parametrize("lost", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_a_store_that_lost_a_file_is_refused(lost: str, path: Path) -> None:
    backend = opened(path)
    fill(backend, 50)
    backend.close()
    for file in (path / "db").glob(lost):
        file.unlink()
    with pytest.raises(CorruptionError):
        opened(path)


def test_a_cleanly_closed_store_that_ends_at_another_write_is_refused(path: Path) -> None:
    backend = opened(path)
    fill(backend, 5)
    backend.close()
    old = path.with_name("old")
    shutil.copytree(path / "db", old)
    backend = opened(path)
    backend.write(append(5, 5))
    backend.close()
    shutil.rmtree(path / "db")
    old.rename(path / "db")
    for _ in range(2):
        with pytest.raises(CorruptionError, match="closed cleanly after write 5, but write 4"):
            opened(path)
    assert RocksdbBackend.examine(path, deep=False).damage


@pytest.mark.parametrize(
    "rows",
    [
        Rows([(entry_key(9), entry_key(10))], []),
        Rows([(entry_key(1), entry_key(2))], []),
        Rows([(run_key(0), run_key(99))], []),
        Rows([], [(BOUNDS, b"short")]),
        Rows([], [(run_key(5), b"damaged")]),
        Rows([], [(entry_key(9), pack_entry(entry_key(9), Entry(7, 9, b"")))]),
    ],
    ids=["no last entry", "no first entry", "no term runs", "bounds", "a term run", "another last term"],
)
def test_a_store_whose_records_contradict_each_other_is_refused(rows: Rows, path: Path) -> None:
    backend = opened(path)
    fill(backend, 10)
    assert backend._engine is not None
    backend._engine.apply(rows)
    backend.close()
    with pytest.raises(CorruptionError):
        opened(path)
    assert RocksdbBackend.examine(path, deep=False).recovery is None


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"raw_mode": false}'])
def test_rocksdicts_own_unsynced_settings_file_does_not_matter(content: bytes | None, path: Path) -> None:
    backend = opened(path)
    fill(backend, 5)
    backend.close()
    settings = path / "db" / "rocksdict-config.json"
    settings.unlink()
    if content is not None:
        settings.write_bytes(content)
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 4)


def test_only_a_clean_close_proves_the_end(path: Path) -> None:
    backend = opened(path)
    assert backend.recovery.end_is_proved
    backend.write(append(1, 1))
    stop_uncleanly(backend)
    backend = opened(path)
    assert not backend.recovery.end_is_proved
    backend.close()
    backend = opened(path)
    assert not backend.recovery.end_is_proved, "closing proved what opening could not"
    backend.write(append(2, 2))
    backend.close()
    with closing(opened(path)) as backend:
        assert backend.recovery.end_is_proved


def test_what_opening_reads_does_not_grow_with_the_log(path: Path) -> None:
    backend = opened(path)
    fill(backend, 5)
    backend.close()
    backend = opened(path)
    small = backend.recovery.bytes_read
    for number in range(5, 300):
        backend.write(append(number, number, size=20_000))
    backend.close()
    with closing(opened(path)) as backend:
        assert backend.stats().bytes_on_disk > 5_000_000
        assert backend.recovery.bytes_read < small + 4 * SMALL


def test_opening_after_an_unclean_stop_gives_up_on_a_store_that_rocksdb_does_not_come_back_from(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(path)
    backend.write(append(1, 1))
    stop_uncleanly(backend)
    with pytest.raises(CorruptionError, match="did not finish reading"):
        opened(path, open_timeout_s=0.001)
    killed = path.with_name("killed")
    killed.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killed.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", os.fspath(killed))
        with pytest.raises(CorruptionError, match="killed RocksDB, signal 11"):
            opened(path)
        assert "signal 11" in RocksdbBackend.examine(path, deep=True).damage[0].message
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 1)


def test_opening_does_not_depend_on_a_child_process_that_cannot_work(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(path)
    backend.write(append(1, 1))
    stop_uncleanly(backend)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 1)
        assert "without a trial" in backend.recovery.notes[0]


# --- kills

VICTIM = """
import sys
from pathlib import Path
from random import Random
from raftstore.testing.batches import next_batch
from raftstore.testing.model import Model
from raftstore.testing.tools import eventually
from raftstore_rocksdb import RocksdbBackend

path, seed, done = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random, model = Random(seed), Model()
backend = RocksdbBackend(Path(path), write_buffer_bytes=65536, ballast_bytes=65536)
for count in range(100_000):
    batch = next_batch(random, model)
    model.apply(batch)
    if batch.number > done:
        backend.write(batch)
        print(count + 1, flush=True)
        if count % 50 == 0:
            backend.maintain()
"""


def run_and_kill(path: Path, seed: int, done: int, writes: int) -> int:
    """Let a child do the writes of `seed` above `done`, kill it after `writes`; how many are acknowledged."""
    command = [sys.executable, "-c", VICTIM, os.fspath(path), str(seed), str(done)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(writes)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout if line.endswith("\n")]
    return acknowledged[-1]


def model_at(seed: int, number: int) -> tuple[Model, int]:
    """The model of the writes of `seed` up to the one with `number`, and how many these are."""
    random, model, count = Random(seed), Model(), 0
    while model.number < number:
        model.apply(next_batch(random, model))
        count += 1
    return model, count


@pytest.mark.parametrize("seed", range(2))
def test_what_a_kill_leaves_is_the_result_of_a_prefix_with_every_write_that_returned(
    seed: int, path: Path
) -> None:
    done = 0
    for round_ in range(3):
        acknowledged = run_and_kill(path, seed, done, writes=40 + 60 * round_)
        with closing(opened(path)) as backend:
            done = backend.recovery.number
            model, count = model_at(seed, done)
            assert acknowledged <= count <= acknowledged + 1
            assert_recovered(backend, model)


def kill_with_a_log(path: Path, writes: int) -> None:
    """Leave a store whose last writes are only in RocksDB's log."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom raftstore.batch import WriteBatch\n"
        "from raftstore.entry import Entry\nfrom raftstore_rocksdb import RocksdbBackend\n"
        "backend = RocksdbBackend(Path(sys.argv[1]), ballast_bytes=65536)\n"
        "for n in range(1, int(sys.argv[2]) + 1):\n"
        "    backend.write(WriteBatch(n, entries=[Entry(1, n, b'x' * 100)]))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", script, os.fspath(path), str(writes)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_what_opening_recovered_is_no_longer_in_rocksdbs_log_alone(path: Path) -> None:
    """After a kill the log may be in the page cache only: what is reported must have been written again."""
    kill_with_a_log(path, 20)
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 20)
        copy = path.with_name("copy")
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns("*.log"))
    with closing(opened(copy)) as backend:
        assert backend.recovery.last == LogId(1, 20)


def test_a_log_that_rots_after_a_kill_is_kept_until_the_store_is_accepted_by_a_write(path: Path) -> None:
    kill_with_a_log(path, 20)
    [log] = [file for file in (path / "db").glob("*.log") if file.stat().st_size]
    flip(log, log.stat().st_size // 2)
    rotten = log.read_bytes()
    for _ in range(2):
        with closing(opened(path)) as backend:
            assert 0 < backend.recovery.number < 20
            assert backend.recovery.last.index == backend.recovery.number
            assert not backend.recovery.end_is_proved
            number = backend.recovery.number
        assert (path / "kept" / log.name).read_bytes() == rotten
    with closing(opened(path)) as backend:
        assert backend.recovery.kept_at == path / "kept"
        backend.write(append(number + 1, number + 1))
    assert not (path / "kept").exists()


def test_kept_logs_do_not_pile_up(path: Path) -> None:
    for _ in range(6):
        backend = opened(path)
        backend.write(append(backend.recovery.number + 1, backend.recovery.last.index + 1, size=100_000))
        stop_uncleanly(backend)
    opened(path).close()
    assert len(list((path / "kept").iterdir())) <= 4


# --- looking from outside


def snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    return {str(file): (known.st_mtime_ns, file.read_bytes()) for file, known in all_files(path)}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_examining_changes_nothing_and_finds_what_opening_reports(
    clean: bool, deep: bool, path: Path
) -> None:
    kill_with_a_log(path, 50)
    if clean:
        with closing(opened(path)) as backend:
            backend.write(append(51, 51))
    before = snapshot(path)
    found = RocksdbBackend.examine(path, deep=deep)
    assert snapshot(path) == before
    assert not found.damage
    assert found.recovery is not None
    assert found.entries_checked == (found.recovery.last.index if deep else 0)
    with closing(opened(path)) as backend:
        assert found.recovery.number == backend.recovery.number == (51 if clean else 50)
        assert found.recovery.last == backend.recovery.last
        assert found.recovery.end_is_proved == backend.recovery.end_is_proved == clean


def test_a_deep_look_names_every_place_that_is_not_as_written(path: Path) -> None:
    backend = opened(path)
    fill(backend, 40)
    backend.write(WriteBatch(40, anchor=LogId(1, 2)))
    wrong = [
        (entry_key(5), pack_entry(entry_key(6), Entry(1, 6, b"misdirected"))),
        (entry_key(9), pack_entry(entry_key(9), Entry(3, 9, b"another term"))),
        (entry_key(60), pack_entry(entry_key(60), Entry(1, 60, b"beyond"))),
    ]
    assert backend._engine is not None
    backend._engine.apply(Rows([(entry_key(20), entry_key(25))], wrong))
    backend.close()
    shallow = RocksdbBackend.examine(path, deep=False)
    assert not shallow.damage
    found = RocksdbBackend.examine(path, deep=True)
    places = [(damage.first_index, damage.last_index) for damage in found.damage]
    assert places == [(5, 5), (9, 9), (20, 24), (60, 60)]
    assert found.entries_checked == 37 - 2 - 5


def test_a_deep_look_names_the_damaged_file_of_the_store_and_stops_there(path: Path) -> None:
    table = store_with_a_damaged_block(path)
    before = snapshot(path)
    found = RocksdbBackend.examine(path, deep=True)
    assert snapshot(path) == before
    [damage] = found.damage
    assert damage.file == os.fspath(table)
    assert damage.first_index is not None
    assert 50 < damage.first_index < 150
    assert found.recovery is None


def test_a_symbolic_link_is_not_followed_out_of_the_store(path: Path) -> None:
    backend = opened(path)
    fill(backend, 50)
    backend.close()
    [table, *_] = (path / "db").glob("*.sst")
    elsewhere = path.with_name("elsewhere")
    table.rename(elsewhere)
    table.symlink_to(elsewhere)
    assert RocksdbBackend.examine(path, deep=True).recovery is None


# --- upkeep and the life of a process


def test_steady_appending_and_purging_does_not_grow_the_store(path: Path) -> None:
    sizes: list[int] = []
    with closing(opened(path)) as backend:
        for number in range(1, 1201):
            first = number * 10 - 9
            anchor = LogId(1, first - 200) if first > 200 else None
            entries = append(number, *range(first, first + 10), size=1000).entries
            backend.write(WriteBatch(number, anchor=anchor, entries=entries))
            if number % 100 == 0:
                backend.maintain()
                sizes.append(backend.stats().bytes_on_disk)
    assert max(sizes) < 3_000_000, f"{sizes} for 200 kB that are live"


@pytest.mark.parametrize("gone", ["purged", "truncated", "reset"])
def test_maintain_gives_back_what_was_dropped(gone: str, path: Path) -> None:
    batches = {
        "purged": WriteBatch(401, anchor=LogId(1, 395)),
        "truncated": WriteBatch(401, truncate_from=5),
        "reset": WriteBatch(401, truncate_from=1, anchor=LogId(9, 5)),
    }
    with closing(opened(path)) as backend:
        fill(backend, 401, size=20_000)
        assert backend.stats().bytes_on_disk > 8_000_000
        backend.write(batches[gone])
        for _ in range(3):
            backend.maintain()
        eventually(lambda: backend.stats().bytes_on_disk < 1_500_000, "RocksDB deletes its old files")
        assert backend.stats().bytes_reclaimable < 200_000


@pytest.mark.parametrize(("buffer", "calls"), [(SMALL, ["flush"]), (4 << 20, ["compact"])])
def test_much_that_was_dropped_is_left_to_rocksdbs_own_threads_and_little_is_compacted_at_once(
    buffer: int, calls: list[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(path, write_buffer_bytes=buffer)) as backend:
        fill(backend, 401, size=20_000)
        backend.write(WriteBatch(401, anchor=LogId(1, 395)))
        done: list[str] = []
        for name in ("flush", "compact"):
            monkeypatch.setattr(Engine, name, _noting(done, name, getattr(Engine, name)))
        backend.maintain()
        assert done == calls
        eventually(lambda: backend.stats().bytes_reclaimable < 1 << 20, "RocksDB compacts")


def test_files_belong_to_their_owner_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        backend = opened(path)
        fill(backend, 200, size=1000)
        backend.maintain()
        modes = {file.name: known.st_mode & 0o777 for file, known in all_files(path)}
        stop_uncleanly(backend)
        opened(path).close()
    finally:
        os.umask(before)
    folders = [path / "db", path / "kept"]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert set(modes.values()) == {0o600}
    assert {known.st_mode & 0o777 for _, known in all_files(path)} == {0o600}


LIFE = """
import os, sys, threading
from pathlib import Path
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore_rocksdb import RocksdbBackend

backend = RocksdbBackend(Path(sys.argv[1]), write_buffer_bytes=65536, ballast_bytes=65536)
for n in range(1, 101):
    backend.write(WriteBatch(n, entries=[Entry(1, n, b"x" * 5000)]))
"""


def live(path: Path, script: str) -> None:
    command = [sys.executable, "-W", "error", "-c", LIFE + script, os.fspath(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "script",
    ["", "del backend", "keep = backend; threading.Thread(target=lambda: keep.read(1, 90, None)).start()"],
    ids=["exit", "collected", "exit with a reader"],
)
def test_a_process_that_ends_without_closing_ends_and_loses_nothing(script: str, path: Path) -> None:
    live(path, script)
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 100)


@pytest.mark.parametrize("child", ["sys.exit()", "backend.close(); sys.exit()", "del backend; sys.exit()"])
def test_a_forked_child_ends_without_touching_the_parents_store(child: str, path: Path) -> None:
    script = f"""
pid = os.fork()
if pid == 0:
    {child}
assert os.waitpid(pid, 0)[1] == 0
assert not (Path(sys.argv[1]) / "CLEAN").exists()
for n in range(101, 201):
    backend.write(WriteBatch(n, entries=[Entry(1, n, b"x" * 5000)]))
assert len(backend.read(1, 201, None)) == 200
backend.close()
"""
    live(path, script)
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 200)
        assert backend.recovery.end_is_proved


def test_closing_leaves_no_file_open_and_no_lock_held(path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    backend = opened(path)
    fill(backend, 100, size=5000)
    with pytest.raises(LookupError) as caught:
        backend.read(50, 300, None)
    backend.close()
    assert caught.value.args == (100,)
    assert set(Path("/proc/self/fd").iterdir()) == before
    opened(path).close()


def test_a_process_killed_while_it_tries_a_store_leaves_nothing_but_what_the_next_opening_removes(
    path: Path, tmp_path: Path
) -> None:
    kill_with_a_log(path, 20)
    script = "import sys\nfrom pathlib import Path\nfrom raftstore_rocksdb import RocksdbBackend\n"
    command = [sys.executable, "-c", f"{script}RocksdbBackend(Path(sys.argv[1]))", os.fspath(path)]
    environment = {**os.environ, "TMPDIR": os.fspath(tmp_path)}
    with subprocess.Popen(command, env=environment) as opening:
        eventually(lambda: any(path.glob("raftstore-look-*")), "the trial begins")
        opening.kill()
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    with closing(opened(path)) as backend:
        assert backend.recovery.last == LogId(1, 20)
    assert not any(path.glob("raftstore-look-*"))


def test_a_child_that_hangs_dies_even_if_nobody_is_left_to_kill_it(path: Path, tmp_path: Path) -> None:
    opened(path).close()
    links = tmp_path / "links"
    links.mkdir()
    hang = "import raftstore_rocksdb.look as l, sys\nl.look = lambda *a, **k: exec('while True: pass')\n"
    command = [
        sys.executable,
        "-c",
        f"{hang}l.main(sys.argv[1:])",
        os.fspath(path),
        os.fspath(links),
        "deep",
        "1",
    ]
    assert subprocess.run(command, timeout=30, check=False).returncode == -signal.SIGALRM
