"""Logs for tests that no user opens this way: on a disk in memory, and such as can be killed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from errno import EIO
from pathlib import Path
from typing import Literal, cast

import msgspec

from raftstore.backend import DiskBackend, Recovery
from raftstore.batch import WriteBatch
from raftstore.config import Limits, StoreConfig
from raftstore.entry import Entry
from raftstore.errors import RaftStoreError
from raftstore.log import RaftLog
from raftstore.policy import FlushPolicy, Immediate
from raftstore.session import Session
from raftstore.store import Store, open_store
from raftstore.strategy import DiskFirst, Strategy
from raftstore.testing.memory import MemoryBackend, MemoryDisk


class MemoryStore:
    """As `raftstore.store.Store`, without a directory: a `MemoryBackend`, no lock, no witness."""

    acknowledged_missing: Literal["no", "unknown", "yes"] = "no"
    notes: tuple[str, ...] = ()

    def __init__(self, disk: MemoryDisk) -> None:
        self.path = Path("/nonexistent/memory")
        self.created = not disk.writes
        self.backend: DiskBackend = MemoryBackend(disk=disk)

    def witness(self, number: int, *, clean: bool = False) -> None:
        """Nothing to note: this disk forgets nothing that was durable."""

    def close(self) -> None:
        self.backend.close()

    def abandon_in_child(self) -> None:
        """Nothing is held."""


def open_log(
    disk: MemoryDisk,
    strategy: Strategy = DiskFirst(),  # noqa: B008
    policy: FlushPolicy = Immediate(),  # noqa: B008
    *,
    startup: str = "lazy",
    **limits: int,
) -> RaftLog:
    """A log on `disk`, whose backend the test can stop, fail and crash."""
    config = StoreConfig(
        path=Path("/nonexistent/memory"),
        strategy=strategy,
        flush_policy=policy,
        startup=cast("Literal['lazy', 'preload']", startup),
        limits=msgspec.structs.replace(Limits(), **limits),
    )
    return RaftLog(Session(config, cast("Store", MemoryStore(disk))))


class KillableBackend:
    """Passes everything on to another backend, until it is killed: then nothing reaches the disk any more."""

    def __init__(self, inner: DiskBackend) -> None:
        self._inner = inner
        self._writing = threading.Lock()  # held while something may change the disk
        self._dead = False

    def kill(self) -> None:
        """No further change reaches the disk. One that has begun is finished first."""
        with self._writing:
            self._dead = True

    @property
    def recovery(self) -> Recovery:
        return self._inner.recovery

    def write(self, batch: WriteBatch) -> None:
        with self._writing:
            self._check()
            self._inner.write(batch)

    def maintain(self) -> None:
        with self._writing:
            self._check()
            self._inner.maintain()

    def read(self, start: int, stop: int, bytes_max: int | None) -> list[Entry]:
        return self._inner.read(start, stop, bytes_max)

    def stats(self) -> object:
        return self._inner.stats()

    def close(self) -> None:
        with self._writing:
            self._inner.close()

    def _check(self) -> None:
        if self._dead:
            raise OSError(EIO, "this process was killed, as far as its disk knows")


class Killable:
    """Opens the store of `config` again and again; between two openings it can be killed."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._backend: KillableBackend | None = None

    def open(self) -> RaftLog:
        store = open_store(self._config)
        self._backend = KillableBackend(store.backend)
        store.backend = cast("DiskBackend", self._backend)
        return RaftLog(Session(self._config, store))

    def kill(self, log: RaftLog) -> None:
        """Nothing that is not on disk yet gets there; what `log` holds in memory is lost."""
        assert self._backend is not None
        self._backend.kill()
        close_broken(log)


class KillableMemory:
    """A log on a disk in memory, whose power fails when it is killed."""

    def __init__(self, opener: Callable[[MemoryDisk], RaftLog]) -> None:
        self._disk = MemoryDisk()
        self._opener = opener

    def open(self) -> RaftLog:
        return self._opener(self._disk)

    def kill(self, log: RaftLog) -> None:
        """The disk keeps what was durable; a write that was under way is lost."""
        self._disk.crash()
        close_broken(log)

    def clean(self) -> None:
        """Nothing is left of a disk in memory."""


def close_broken(log: RaftLog) -> None:
    """Close a log that has failed, or will while it closes."""
    try:
        log.close()
    except RaftStoreError:
        log.close()
