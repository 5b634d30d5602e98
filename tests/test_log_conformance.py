"""The suite for logs, on every backend with every strategy and policy."""

from __future__ import annotations

from pathlib import Path

import pytest

import raftstore
from raftstore.config import Limits, StoreConfig
from raftstore.policy import Batch, FlushPolicy, Immediate
from raftstore.registry import backend_names
from raftstore.strategy import DiskFirst, MemFirst, Strategy
from raftstore.testing.log_suite import LogSuite

STRATEGIES = {
    "DiskFirst": DiskFirst(),
    "MemFirst": MemFirst(),
    "MemFirst+sync_on_commit": MemFirst(sync_on_commit=True),
}
POLICIES: dict[str, FlushPolicy] = {"Immediate": Immediate(), "Batch": Batch(4, 2)}
OPTIONS = {"segmented": {"segment_bytes": 64 * 1024}}
"""Small files, so that they roll over within a test."""

CELLS = [
    pytest.param((backend, strategy, policy), id=f"{backend}-{s}-{p}", marks=pytest.mark.backend(backend))
    for backend in backend_names()
    for s, strategy in STRATEGIES.items()
    for p, policy in POLICIES.items()
]


class TestLog(LogSuite):
    @pytest.fixture(autouse=True, params=CELLS)
    def cell(self, request: pytest.FixtureRequest) -> None:
        self.backend, self.strategy, self.policy = request.param

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
