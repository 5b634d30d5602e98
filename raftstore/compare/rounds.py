"""Rounds: every cell does every workload once a round, in a new order each time."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, Protocol

import msgspec

from raftstore.compare.appending import Append, Appending
from raftstore.compare.budget import Budget
from raftstore.compare.cells import Cell
from raftstore.compare.growing import OpenGrown
from raftstore.compare.keeping import Keeping, KeptStore, fill
from raftstore.compare.limit import BareDisk
from raftstore.compare.measurement import Measurement, Positive
from raftstore.compare.workloads import Workload
from raftstore.log import open

SHARE_OF_SLICES: Final = 0.4
"""Of the whole time; the rest goes into opening, filling, flushing and removing stores."""
SHARE_OF_LIMIT: Final = 0.5
"""The time that the bare loop gets, in slices of the workload beside it."""
WARM_UP: Final = Append(64, 64 << 10)
WARM_UP_SLICES: Final = 4
"""What a store sets up once, with its first megabytes, is not what later appends cost."""
SLICE_MIN_S: Final = 0.03
SLICE_MAX_S: Final = 2.0


class Plan(msgspec.Struct, frozen=True):
    """What is run."""

    cells: Sequence[Cell]
    workloads: Sequence[Workload]
    rounds: int
    """At most."""
    seconds: float
    """About how long the whole run may take. One round is always finished."""
    entries: int
    """Of the log that is opened, read, truncated and purged."""
    budget: Budget
    """For one slice of one workload."""


def plan_for(
    cells: Sequence[Cell], workloads: Sequence[Workload], *, rounds: int, seconds: float, entries: int
) -> Plan:
    """The plan whose slices are as long as `seconds` allows."""
    slices = rounds * len(cells) * len(workloads) * (1 + SHARE_OF_LIMIT)
    budget = Budget(min(max(seconds * SHARE_OF_SLICES / slices, SLICE_MIN_S), SLICE_MAX_S))
    return Plan(cells, workloads, rounds, seconds, entries, budget)


class Sample(msgspec.Struct, frozen=True):
    """One measurement, where it was taken, and what the bare disk gave beside it."""

    round: int
    workload: str
    backend: str
    strategy: str
    flush_policy: str
    measured: Measurement
    bare_s: Positive | None
    """Seconds of one bare durable write of the size that would be ideal; None for what writes nothing."""


class Progress(Protocol):
    """Is told how the run goes on."""

    def step(self, share: float, what: str) -> None:
        """`share` of the planned visits are done; `what` comes next."""
        ...


def run(plan: Plan, directory: Path, progress: Progress, seed: int | None = None) -> list[Sample]:
    """The samples of all rounds that the time allowed. `directory` is as it was before, also after an error.

    Raises `OSError` if the disk fails or is full, and what opening a store may raise.
    """
    order, samples = random.Random(seed), list[Sample]()
    started, longest = perf_counter(), 0.0
    with BareDisk(directory) as bare:
        for number in range(plan.rounds):
            begun = perf_counter()
            if number and begun - started + longest > plan.seconds:
                break
            for position, cell in enumerate(order.sample(plan.cells, len(plan.cells))):
                done = (number + position / len(plan.cells)) / plan.rounds
                progress.step(done, " ".join(cell.names))
                samples += _visit(plan, cell, number, bare, directory / "store")
            longest = max(longest, perf_counter() - begun)
    return samples


def _visit(plan: Plan, cell: Cell, number: int, bare: BareDisk, path: Path) -> Iterator[Sample]:
    """Every workload on one cell, on new stores that are removed afterwards."""
    try:
        for workload, measured, bare_s in _measure(plan, cell, bare, path):
            yield Sample(number, workload.name, *cell.names, measured, bare_s)
    finally:
        if path.exists():
            shutil.rmtree(path)


Measured = tuple[Workload, Measurement, float | None]


def _measure(plan: Plan, cell: Cell, bare: BareDisk, path: Path) -> Iterator[Measured]:
    appending = [workload for workload in plan.workloads if isinstance(workload, Appending)]
    growing = [workload for workload in plan.workloads if isinstance(workload, OpenGrown)]
    keeping = [workload for workload in plan.workloads if isinstance(workload, Keeping)]
    if appending:
        yield from _append(appending, plan.budget, cell, bare, path / "appending")
    if growing:
        yield from _grow(growing, plan.budget, cell, path / "growing")
    if keeping:
        yield from _keep(keeping, plan, cell, bare, path / "keeping")


def _append(
    workloads: Sequence[Appending], budget: Budget, cell: Cell, bare: BareDisk, path: Path
) -> Iterator[Measured]:
    with open(cell.config(path)) as log:
        WARM_UP.run(log, Budget(budget.seconds * WARM_UP_SLICES, budget.bytes))
        for workload in workloads:
            bare_s = bare.seconds_per_write(workload.write_bytes, _of_limit(budget))
            yield workload, workload.run(log, budget), bare_s


def _grow(workloads: Sequence[OpenGrown], budget: Budget, cell: Cell, path: Path) -> Iterator[Measured]:
    with KeptStore(cell, path, entries=0) as store:
        for workload in workloads:
            yield workload, workload.run(store, budget), None


def _keep(
    workloads: Sequence[Keeping], plan: Plan, cell: Cell, bare: BareDisk, path: Path
) -> Iterator[Measured]:
    budget = plan.budget
    with KeptStore(cell, path, plan.entries) as store:
        if all(workload.run is not fill for workload in workloads):
            fill(store, budget)
        for workload in workloads:
            size = workload.write_bytes
            bare_s = bare.seconds_per_write(size, _of_limit(budget)) if size is not None else None
            yield workload, workload.run(store, budget), bare_s


def _of_limit(budget: Budget) -> Budget:
    return Budget(budget.seconds * SHARE_OF_LIMIT, budget.bytes)
