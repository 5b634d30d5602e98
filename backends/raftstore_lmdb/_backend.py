"""The disk backend over LMDB: one transaction a write, durable when the commit returns."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, NoReturn

import lmdb
import msgspec

from raftstore.backend import BackendStats, Examination, Recovery
from raftstore.batch import WriteBatch
from raftstore.entry import Entry
from raftstore_lmdb import _checksums
from raftstore_lmdb._datafile import DATA, check_files, create, open_environment, settle, stats
from raftstore_lmdb._examine import examine
from raftstore_lmdb._failures import raise_translated, translated
from raftstore_lmdb._latch import ReadersLatch
from raftstore_lmdb._room import Room, first_room_bytes
from raftstore_lmdb._tables import State, Tables

_READERS_MAX: Final = 126
"""LMDB's own limit of read transactions at a time."""
_SWEEP_KEYS: Final = 64
"""A write drops at least so many garbage keys, and more than it appends."""
_SWEEP_KEYS_APART: Final = 1024
"""A transaction of its own drops so many. More would make LMDB's records of free pages long, which every
later commit then rewrites."""
_MAINTAIN_S: Final = 0.05
"""A call of `maintain` begins no new transaction after that."""


class LmdbBackend:
    """A Raft log in an LMDB environment. See `raftstore.backend.DiskBackend` for what every member promises.

    `map_bytes` of address space are reserved; the map doubles when it is full. `ballast_bytes` of the disk
    are kept for writes without entries when the disk is full; no new store is made where they find no room.
    """

    def __init__(
        self,
        path: Path,
        *,
        map_bytes: Annotated[int, msgspec.Meta(ge=2**20)] = 64 * 2**30,
        ballast_bytes: Annotated[int, msgspec.Meta(ge=2**16)] = 4 * 2**20,
    ) -> None:
        self._path, self._file = path, path / DATA
        self._latch = ReadersLatch(_READERS_MAX)
        with translated(self._file):
            if not check_files(path):
                create(path, _checksums.preferred(), first_room_bytes(ballast_bytes))
            head = settle(path)
            _checksums.checksum(head.bounds.checksum)
            self._environment = open_environment(path, map_bytes)
            try:
                self._environment.reader_check()
                self._tables = Tables(self._environment, head.bounds, self._file)
                with self._environment.begin(buffers=True) as txn:
                    self._state = self._tables.state(txn)
                    recovery = self._tables.recovery(txn, self._state, head)
                self._room = Room(
                    self._environment,
                    self._file,
                    self._latch,
                    map_bytes=map_bytes,
                    ballast_bytes=ballast_bytes,
                )
                self._room.provide(None)
            except BaseException:
                self._environment.close()
                raise
        self._recovery = recovery

    @property
    def recovery(self) -> Recovery:
        return self._recovery

    def write(self, batch: WriteBatch) -> None:
        try:
            self._write(batch)
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        with self._latch.shared(), translated(self._file), self._environment.begin(buffers=True) as txn:
            return self._tables.read(txn, start, stop, bytes_max)

    def maintain(self) -> None:
        end = time.monotonic() + _MAINTAIN_S
        try:
            with suppress(lmdb.MapFullError):
                self._room.provide(None)
                while self._state.garbage and time.monotonic() < end:
                    self._sweep()
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def stats(self) -> BackendStats:
        with self._latch.shared(), translated(self._file), self._environment.begin(buffers=True) as txn:
            live = self._tables.live_bytes(txn)
        return stats(self._path, live)

    def close(self) -> None:
        with self._latch.alone():
            self._environment.close()

    @classmethod
    def examine(cls, path: Path, *, deep: bool) -> Examination:
        return examine(path, deep=deep)

    def _write(self, batch: WriteBatch) -> None:
        reclaimed = False
        while True:
            roomy = self._room.provide(batch)
            try:
                return self._transact(batch)
            except lmdb.MapFullError as error:
                if roomy:
                    self._room.enlarge_map()
                elif reclaimed:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file)) from error
                else:
                    self._reclaim()
                    reclaimed = True

    def _transact(self, batch: WriteBatch | None) -> None:
        """One transaction: for `batch`, unless it was done already, or for a sweep alone.

        To abort one, py-lmdb waits for a moment in which no other thread is inside LMDB: beside busy readers
        that can take a minute. So they are held off.
        """
        txn = self._environment.begin(write=True, buffers=True)
        try:
            state = self._applied(txn, batch)
            txn.commit()
        except BaseException:
            with self._latch.alone():
                txn.abort()
            raise
        self._state = state

    def _applied(self, txn: lmdb.Transaction[memoryview], batch: WriteBatch | None) -> State:
        """What `txn` leaves behind. An interrupt after the last commit may have kept us from noting that."""
        state = self._state
        if txn.id() != state.bounds.transaction + 1:
            state = self._tables.state(txn)
        if batch is None:
            return self._tables.sweep(txn, state, _SWEEP_KEYS_APART)
        if batch.number <= state.bounds.number:
            return state
        return self._tables.apply(txn, state, batch, max(_SWEEP_KEYS, 2 * len(batch.entries)))

    def _reclaim(self) -> None:
        """Turn garbage into free pages that the next transaction can use.

        LMDB uses a page that a transaction freed again only in the second transaction after it.
        """
        with suppress(lmdb.MapFullError):
            while self._state.garbage:
                self._sweep()
            for _ in range(2):
                self._sweep()

    def _sweep(self) -> None:
        """Drop some garbage. Beside a reader that takes new pages, for none that it may see is used again."""
        self._room.provide(None)
        self._transact(None)

    def _failed(self, error: Exception) -> NoReturn:
        """Raise what `error` means. After one that leaves the outcome unknown, only reading is left."""
        try:
            raise_translated(error, self._file)
        except OSError as failure:
            if failure.errno != errno.ENOSPC:
                self._keep_reading()
            raise
        except Exception:
            self._keep_reading()
            raise

    def _keep_reading(self) -> None:
        """Open the environment again, for reading only: LMDB may refuse even that after a failed write."""
        with self._latch.alone(), suppress(Exception):
            self._environment.close()
            self._environment = open_environment(self._path, 2**20, readonly=True)
            self._tables = Tables(self._environment, self._state.bounds, self._file)
