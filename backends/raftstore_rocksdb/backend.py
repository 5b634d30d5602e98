"""`RocksdbBackend`: the contract of `raftstore.backend.DiskBackend`, kept on RocksDB."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from raftstore.backend import BackendStats, Damage, Examination, Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore.errors import CorruptionError, StoreClosedError
from raftstore_rocksdb.child import LOOK_BYTES_PER_S, ChildFailedError, look_from_child
from raftstore_rocksdb.engine import LEVEL_MEMTABLES, Engine
from raftstore_rocksdb.failures import CLOSED, FULL
from raftstore_rocksdb.files import DB, forget_wal, tighten, write_clean
from raftstore_rocksdb.layout import ENTRY_OVERHEAD
from raftstore_rocksdb.opening import open_engine, open_store
from raftstore_rocksdb.room import Room, no_room
from raftstore_rocksdb.rows import Rows, rows_of
from raftstore_rocksdb.shape import Shape
from raftstore_rocksdb.state import read_entries, read_state
from raftstore_rocksdb.upkeep import Dropped, stats_of, worth_compacting

OPEN_TIMEOUT_S: Final = 60.0
FLUSH_BYTES_MIN: Final = 2 << 20
"""Less in memtables is not worth a sorted file of its own: empty ones count for some of it."""


class RocksdbBackend:
    """One Raft log in one RocksDB. Keeps the contract of `DiskBackend`.

    A write is one unsynced RocksDB batch and one sync of its write-ahead log, and the next write starts only
    after that sync has returned: two unsynced batches can survive a power cut without the first.

    `write_buffer_bytes`: a memtable, of which there are up to three, each with its write-ahead log.
    `ballast_bytes`: room that appends never take, at most an eighth of the disk; best four memtables, which
    RocksDB may have to write out on a disk that is full. `open_timeout_s`: how long
    RocksDB may take to read the store after an unclean stop before the store counts as damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        write_buffer_bytes: int = 8 << 20,
        ballast_bytes: int = 32 << 20,
        open_timeout_s: float = OPEN_TIMEOUT_S,
    ) -> None:
        self._path = path
        self._pid = os.getpid()
        self._write_buffer_bytes = write_buffer_bytes
        self._room = Room(path, ballast_bytes)
        opened = open_store(
            path, self._room, write_buffer_bytes=write_buffer_bytes, open_timeout_s=open_timeout_s
        )
        self._engine: Engine | None = opened.engine
        self._shape = opened.shape
        self._recovery = opened.recovery
        self._reading = threading.Lock()  # held by whoever reads, and while the engine is replaced or closed
        self._drops = 0  # writes that dropped entries
        self._dropping = False
        self._tried = -1  # `_drops` when room was last looked for in what was dropped
        self._begun: int | None = None  # the write that may have reached RocksDB, though it did not return
        self._failed: Exception | None = None
        self._proved = opened.recovery.end_is_proved
        self._room.restore()
        tighten(path)

    @property
    def recovery(self) -> Recovery:
        """What opening found; it never changes afterwards."""
        return self._recovery

    def write(self, batch: WriteBatch) -> None:
        """Make the batch durable, as one atomic change. See `DiskBackend.write`."""
        engine = self._writable()
        if batch.number == self._shape.number:
            return
        after = self._shape.after(batch)
        rows = rows_of(batch, self._shape, after)
        if self._begun != batch.number:
            self._admit(engine, batch)
            self._begun = batch.number
        try:
            self._dropping = batch.truncate_from is not None or batch.anchor is not None
            self._drops += self._dropping
            taken = self._store(batch, rows)
            self._shape = after if taken else self._shape
        except Exception as error:
            self._failed = error
            _check_known(error)
            raise
        finally:
            self._dropping = False
        if not taken:
            self._begun = None
            raise no_room(self._path, "RocksDB took nothing of this write")
        self._proved = True

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        """The entries of [start, stop), every byte checked. See `DiskBackend.read`."""
        with self._reading:
            drops, dropping = self._drops, self._dropping
            try:
                return read_entries(self._open_engine(), start, stop, bytes_max)
            except LookupError as missing:
                if dropping or drops != self._drops or not self._shape.holds(start, stop):
                    raise
                raise self._missing(missing.args[0]) from None

    def maintain(self) -> None:
        """Give back room of what was dropped, and restore the ballast. See `DiskBackend.maintain`.

        Much of it is left to RocksDB, which compacts in threads of its own once the drops are in its files.
        """
        engine = self._writable()
        dropped = worth_compacting(engine.files(), self._shape)
        if dropped is not None and not self._room.restore():
            self._compact_when_full(dropped)
        elif dropped is not None and dropped.size > LEVEL_MEMTABLES * self._write_buffer_bytes:
            engine.flush()
        elif dropped is not None:
            engine.compact(dropped.start, dropped.stop)
        self._room.restore()
        tighten(self._path)

    def stats(self) -> BackendStats:
        """The size of the store now, the ballast included."""
        with self._reading:
            return stats_of(self._path, self._open_engine(), self._shape)

    def close(self) -> None:
        """Release everything; what was written stays. Never raises for a failed disk. Twice is fine.

        In a forked child it does nothing: the store is the parent's.
        """
        if os.getpid() != self._pid:
            return
        with self._reading:
            engine, self._engine = self._engine, None
        if engine is None:
            return
        engine.close()
        with suppress(OSError):
            self._mark_clean()
            tighten(self._path)

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        """Look at a store that nobody has open, without changing a byte of it. See `DiskBackend.examine`."""
        stats = stats_of(path, None, Shape())
        timeout_s = OPEN_TIMEOUT_S + (stats.bytes_on_disk / LOOK_BYTES_PER_S if deep else 0)
        try:
            return look_from_child(path, deep=deep, timeout_s=timeout_s)
        except ChildFailedError as error:
            if not error.by_store:
                raise OSError(errno.EIO, f"the store could not be looked at: {error}") from error
            return Examination(None, stats, 0, [Damage(str(error), str(path / DB))])

    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise StoreClosedError("the rocksdb backend is closed")
        return self._engine

    def _missing(self, index: int) -> Exception:
        """Why a live entry that no write drops now is not there."""
        if self._failed is not None:
            return OSError(errno.EIO, f"the write that failed may have dropped entry {index}")
        message = "an entry is missing"
        return CorruptionError(message, file=self._path / DB, first_index=index, last_index=index)

    def _writable(self) -> Engine:
        if self._failed is not None:
            raise OSError(errno.EIO, f"an earlier write failed: {self._failed}") from self._failed
        return self._open_engine()

    def _admit(self, engine: Engine, batch: WriteBatch) -> None:
        """See that the batch, and the sorted files that RocksDB will make of all it holds, fit on the disk.

        Raises `OSError(ENOSPC)` if not; a batch without entries may have the ballast instead.
        """
        payload = sum([len(entry.data) for entry in batch.entries]) + ENTRY_OVERHEAD * len(batch.entries)
        if batch.entries and self._room.surely_has(2 * payload):
            return
        size = 2 * payload + engine.memtable_bytes()
        if not batch.entries:
            if not self._room.has(size):
                self._room.release()
        elif not (self._room.restore() and self._room.has(size)) and not self._regained(payload):
            raise no_room(self._path, f"{size} bytes and the reserve do not fit")

    def _regained(self, payload: int) -> bool:
        """Whether there is room for `payload` once what was dropped is off the disk."""
        engine = self._open_engine()
        if engine.memtable_bytes() > FLUSH_BYTES_MIN and self._room.has(engine.memtable_bytes()):
            engine.flush()
        dropped = worth_compacting(engine.files(), self._shape)
        if dropped is not None:
            self._compact_when_full(dropped)
        return self._room.restore() and self._room.has(2 * payload + self._open_engine().memtable_bytes())

    def _compact_when_full(self, dropped: Dropped) -> None:
        """Compact with the ballast's room, once after each write that drops entries: it can take seconds.

        RocksDB does not tell how it went, and once a compaction has found no room it tries none that could
        need more than there is, whatever would be left of it. Opened again it does.
        """
        if self._tried == self._drops:
            return
        self._tried = self._drops
        self._room.release()
        engine = self._open_engine()
        engine.compact(dropped.start, dropped.stop)
        if worth_compacting(engine.files(), self._shape) is not None:
            self._reopen()
            self._open_engine().compact(dropped.start, dropped.stop)

    def _store(self, batch: WriteBatch, rows: Rows) -> bool:
        """Write `rows` durably. False if the disk is full and nothing of them is there or will be."""
        for _ in range(2):
            try:
                self._open_engine().apply(rows)
            except OSError as error:
                if error.errno not in (*FULL, CLOSED):
                    raise
                if self._reopen() == batch.number:
                    return True
                if batch.entries and not self._room.restore():
                    return False
            else:
                self._open_engine().sync()
                return True
        return False

    def _reopen(self) -> int:
        """Open RocksDB again after a full disk failed it, on the ballast's room, and say which write is the
        last one there. What is there is durable, and what is not will not appear: its log is gone."""
        with self._reading:
            self._open_engine().close()
            forget_wal(self._path)
            self._room.release()
            try:
                self._engine = open_engine(self._path, self._room, self._write_buffer_bytes)
            except Exception as error:
                self._failed = error
                with suppress(Exception):
                    self._engine = Engine.read_only(self._path / DB)  # reads of what was durable go on
                _check_known(error)
                raise
            return read_state(self._engine).shape.number

    def _mark_clean(self) -> None:
        """Unless a write failed, or opening could not prove the end and nothing was written since."""
        if self._failed is None and self._proved:
            write_clean(self._path, self._shape.number)
            forget_wal(self._path)


def _check_known(error: Exception) -> None:
    """`error` leaves `write` when the outcome is unknown: raise what it means if it tells of a full disk."""
    if isinstance(error, OSError) and error.errno in FULL:
        raise OSError(errno.EIO, f"the outcome is unknown: {error}") from error
