"""The suite for logs, on every backend with every strategy and policy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raftstore
from raftstore.config import Limits, StoreConfig
from raftstore.policy import Batch, FlushPolicy, Immediate
from raftstore.registry import backend_names
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.log_durability import DurabilityPromises
from raftstore.testing.log_keeping import CommitPromises, SavePromises
from raftstore.testing.log_killing import KillPromises, MachinePromises
from raftstore.testing.log_suite import LogSuite

POLICIES: dict[str, FlushPolicy] = {"Immediate": Immediate(), "Batch": Batch(4, 2)}
OPTIONS = {"segmented": {"segment_bytes": 64 * 1024}}
"""Small files, so that they roll over within a test."""
MEMORY = Path("/dev/shm")


def cells(**strategies: Strategy) -> list[Any]:
    return [
        pytest.param((backend, strategy, policy), id=f"{backend}-{s}-{p}", marks=pytest.mark.backend(backend))
        for backend in backend_names()
        for s, strategy in strategies.items()
        for p, policy in POLICIES.items()
    ]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is such a place: these tests are about what is written, not about how fast."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


class Configured:
    """Opens a store with the backend, strategy and policy of a cell."""

    backend: str
    strategy: Strategy
    policy: FlushPolicy

    def open(self, path: Path) -> raftstore.RaftLog:
        config = StoreConfig(
            path=path,
            backend=self.backend,
            strategy=self.strategy,
            flush_policy=self.policy,
            limits=Limits(cache_bytes=32 * 1024, entry_bytes_max=256 * 1024, lock_timeout_ms=50),
            backends={self.backend: OPTIONS.get(self.backend, {})},
        )
        return raftstore.open(config)


class TestLog(Configured, LogSuite):
    @pytest.fixture(autouse=True, params=cells(DiskFirst=DiskFirst(), MemFirst=MemFirst()))
    def cell(self, request: pytest.FixtureRequest) -> None:
        self.backend, self.strategy, self.policy = request.param


class TestLogWithSyncOnCommit(
    Configured, CommitPromises, SavePromises, DurabilityPromises, KillPromises, MachinePromises
):
    """What `sync_on_commit` could change, and the state machine for all the rest."""

    @pytest.fixture(autouse=True, params=cells(sync_on_commit=MemFirst(sync_on_commit=True)))
    def cell(self, request: pytest.FixtureRequest) -> None:
        self.backend, self.strategy, self.policy = request.param
