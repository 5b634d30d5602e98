"""An open RocksDB: the few calls we make of it, and the settings that our promises rest on.

Measured of rocksdict: `write`, `get` and iterators hold the interpreter's lock, `flush_wal`, `flush` and
`compact_range` do not. Hence no write is synced by itself, and none waits inside RocksDB for a memtable.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
import weakref
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from raftstore_rocksdb.failures import StalledError, raise_translated, translated
from raftstore_rocksdb.rows import Rows

MEMTABLES_MAX: Final = 3
LEVEL_MEMTABLES: Final = 4
"""How many memtables the first level below the newest files holds. RocksDB compacts by itself wherever more
than a level's size was dropped."""

STALL_S_MAX: Final = 60.0
_STALL_POLL_S: Final = 0.002
_BLOCK_CACHE_BYTES: Final = 8 << 20
_READAHEAD_BYTES: Final = 1 << 20
_OPEN_FILES_MAX: Final = 256
_WAL_STEP_BYTES: Final = 4 << 20
_NO_TRIGGER: Final = 1 << 20


class SortedFile(msgspec.Struct, frozen=True):
    """One of RocksDB's sorted files: its size in bytes and its smallest and largest key."""

    size: int
    first_key: bytes
    last_key: bytes


class Engine:
    """One open RocksDB. Failures are those of `failures.translate`.

    One thread at a time may call `apply`, `sync`, `flush`, `compact` and `close`; `get`, `scan` and `files`
    may run beside all of them but `close`.
    """

    def __init__(self, db: Path, *, write_buffer_bytes: int, create: bool = False) -> None:
        """Open the store at `db` for writing. What its write-ahead log held is durable afterwards.

        Holds the interpreter's lock for as long as RocksDB replays its write-ahead log.
        """
        options = _options(write_buffer_bytes)
        options.create_if_missing(create)
        with translated():
            self._db = Rdict(os.fspath(db), options)
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True
        _engines.add(self)

    @classmethod
    def read_only(cls, db: Path) -> Engine:
        """Open the store at `db` without writing; only `get`, `scan`, `files` and `close` may be called.

        What the write-ahead log holds is read too, but not made durable. RocksDB writes files of its own
        beside the store.
        """
        self = cls.__new__(cls)
        with translated():
            access = AccessType.read_only(error_if_log_file_exist=False)
            self._db = Rdict(os.fspath(db), _options(0), access_type=access)
        _engines.add(self)
        return self

    def apply(self, rows: Rows) -> None:
        """Write all of `rows` atomically; not durable yet. Waits, with the interpreter running, for room in
        the memtables; `OSError(ETIMEDOUT)` after `STALL_S_MAX`."""
        give_up = None
        while not self._is_applied(rows):
            now = time.monotonic()
            give_up = now + STALL_S_MAX if give_up is None else give_up
            if now > give_up:
                raise OSError(errno.ETIMEDOUT, "RocksDB's memtables stay full")
            time.sleep(_STALL_POLL_S)

    def _is_applied(self, rows: Rows) -> bool:
        """Write all of `rows`. False if RocksDB would have made it wait: then nothing was written."""
        try:
            self._db.write(_batch(rows), self._write_options)
        except Exception as error:  # noqa: BLE001
            with suppress(StalledError):
                raise_translated(error)
            return False
        return True

    def sync(self) -> None:
        """Make durable what was applied."""
        try:
            self._db.flush_wal(True)
        except Exception as error:  # noqa: BLE001
            raise_translated(error)

    def get(self, key: bytes) -> bytes | None:
        """The value at `key`."""
        with translated():
            value: bytes | None = self._db.get(key)
            return value

    def scan(self, start: bytes, stop: bytes) -> Generator[tuple[bytes, bytes]]:
        """The records of [start, stop) as of now, in key order. Raises where one cannot be read.

        To be closed before the engine: `with closing(engine.scan(...)) as records`.
        """
        bounds = ReadOptions()
        bounds.set_iterate_lower_bound(start)
        bounds.set_iterate_upper_bound(stop)
        bounds.set_readahead_size(_READAHEAD_BYTES)
        with translated():
            rows = self._db.iter(bounds)
            try:
                rows.seek(start)
                while rows.valid():
                    yield rows.key(), rows.value()
                    rows.next()
                rows.status()
            finally:
                del rows  # else a kept traceback keeps it alive, and with it RocksDB's lock after `close`

    def flush(self) -> None:
        """Move what the memtables hold to sorted files."""
        with translated():
            self._db.flush()

    def compact(self, start: bytes, stop: bytes) -> None:
        """Rewrite the sorted files that touch [start, stop) without what was dropped."""
        with translated():
            self._db.compact_range(start, stop)

    def files(self) -> list[SortedFile]:
        """The sorted files that are in use, in the order of their first keys."""
        found: list[dict[str, Any]] = self._db.live_files()
        files = [SortedFile(file["size"], file["start_key"], file["end_key"]) for file in found]
        return sorted(files, key=lambda file: file.first_key)

    def memtable_bytes(self) -> int:
        """What RocksDB holds in memory and has yet to write to sorted files."""
        return self._db.property_int_value("rocksdb.cur-size-all-mem-tables") or 0

    def close(self) -> None:
        """Release everything: files, memory, RocksDB's lock. Twice is fine.

        rocksdict flushes the memtables first, and raises if that fails; RocksDB is closed all the same, and
        what was synced is in its log.
        """
        with suppress(Exception):
            self._db.close()
        _engines.discard(self)

    def abandon(self) -> None:
        """In a forked child: keep RocksDB from ever closing there, for it would wait for threads that were
        not forked, and write."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))


def _options(write_buffer_bytes: int) -> Options:
    options = Options(raw_mode=True)
    _set_log(options)
    _set_memtables(options, write_buffer_bytes)
    _set_files(options)
    return options


def _set_log(options: Options) -> None:
    """Point in time: the stricter modes refuse the torn tail of an ordinary crash. Recycled: writing into
    blocks that exist already saves the file system a journal commit on every append."""
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_recycle_log_file_num(1)
    options.set_max_total_wal_size(_WAL_STEP_BYTES)  # with one column family it only sets the allocation step
    options.set_manifest_preallocation_size(64 << 10)


def _set_memtables(options: Options, write_buffer_bytes: int) -> None:
    """Never make a write wait for the number of files: it would wait with the interpreter's lock held."""
    if write_buffer_bytes:
        options.set_write_buffer_size(write_buffer_bytes)
        options.set_target_file_size_base(write_buffer_bytes)
        options.set_max_bytes_for_level_base(LEVEL_MEMTABLES * write_buffer_bytes)
        options.set_max_compaction_bytes(2 * LEVEL_MEMTABLES * write_buffer_bytes)
    options.set_max_write_buffer_number(MEMTABLES_MAX)
    options.set_level_zero_slowdown_writes_trigger(_NO_TRIGGER)
    options.set_level_zero_stop_writes_trigger(_NO_TRIGGER)
    options.set_soft_pending_compaction_bytes_limit(0)
    options.set_hard_pending_compaction_bytes_limit(0)
    options.set_max_background_jobs(2)


def _set_files(options: Options) -> None:
    """A bounded number of open files, so that opening does not touch every one of them."""
    table = BlockBasedOptions()
    table.set_block_cache(Cache(_BLOCK_CACHE_BYTES))
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.none())
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_skip_stats_update_on_db_open(True)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)


def _batch(rows: Rows) -> WriteBatch:
    batch = WriteBatch(raw_mode=True)
    for start, stop in rows.drops:
        batch.delete_range(start, stop)
    for key, value in rows.puts:
        batch.put(key, value)
    return batch


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _abandon_all() -> None:
    for engine in _engines:
        engine.abandon()


os.register_at_fork(after_in_child=_abandon_all)
