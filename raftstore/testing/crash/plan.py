"""A plan: everything that two processes must know to make the same calls on the same kind of store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from raftstore.config import load
from raftstore.policy import Batch, FlushPolicy, Immediate
from raftstore.storeconfig import Limits, StoreConfig
from raftstore.strategy import DiskFirst, MemFirst
from raftstore.testing.crash.workload import Mix, Workload, generate
from raftstore.testing.log_model import LogModel

SMALL_OPTIONS: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        "segmented": {"segment_bytes": 8 << 10},
        "lmdb": {"map_bytes": 1 << 20, "ballast_bytes": 64 << 10},
        "rocksdb": {"write_buffer_bytes": 64 << 10, "ballast_bytes": 4 << 10},
    }
)
"""Options that make a store of each backend rotate, grow or switch its files within a short workload."""

RETRIES: Final = 4


class Resume(msgspec.Struct, frozen=True):
    """Where an earlier workload was cut short: begin at the state after one of its steps."""

    step: int
    commit: int
    seed: int
    steps: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One workload on one kind of store. Equal plans give equal steps, in any process."""

    backend: str
    seed: int
    steps: int = 60
    threads: int = 1
    strategy: Literal["DiskFirst", "MemFirst"] = "DiskFirst"
    policy: Literal["Immediate", "Batch"] = "Immediate"
    mix: Mix = "all"
    plant: str | None = None
    """A bug to put into the backend first, by name, see `plants`."""
    options: dict[str, int] | None = None
    """Of the backend; None: those of `SMALL_OPTIONS`."""
    store: str | None = None
    """The URL of a config, for everything but the path, `create` and `strategy`, which must be the same."""
    resumes: tuple[Resume, ...] = ()
    """Each begins in the workload before it."""

    def workload(self) -> Workload:
        """The calls, and the state after each."""
        whole = generate(Random(f"{self.seed}/{self.mix}"), self.steps, self.mix)
        for resume in self.resumes:
            model = LogModel.of(whole.steps[resume.step].state, resume.commit)
            whole = generate(Random(resume.seed), resume.steps, self.mix, model)
        return whole

    def config(self, path: Path) -> StoreConfig:
        """The store's config at `path`."""
        if self.store is not None:
            return msgspec.structs.replace(load(self.store), path=path, create=True)
        options = SMALL_OPTIONS.get(self.backend, {}) if self.options is None else self.options
        policy: FlushPolicy = Immediate() if self.policy == "Immediate" else Batch(5, 4)
        config = StoreConfig(
            path=path,
            backend=self.backend,
            strategy=DiskFirst() if self.strategy == "DiskFirst" else MemFirst(),
            flush_policy=policy,
            limits=Limits(backpressure_timeout_ms=300),
            backends={self.backend: dict(options)},
        )
        return load(config)

    @property
    def retries(self) -> int:
        """How often a step that found no room is tried again."""
        return RETRIES if self.threads == 1 and self.mix == "plain" else 0

    @property
    def title(self) -> str:
        """For people: which workload this was."""
        words = [self.backend, self.strategy, self.policy] if self.store is None else [self.store]
        words += [f"{self.threads} thread(s)", self.mix]
        return f"{' '.join(words)}, seed {self.seed}" + (f", planted: {self.plant}" if self.plant else "")
