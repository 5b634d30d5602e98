"""Kills, and where that is possible power cuts, of a workload on a file system of the user's."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from raftstore.storeconfig import StoreConfig
from raftstore.strategy import MemFirst
from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block_mount import mountable
from raftstore.testing.crash.kernel import cut_repeatedly
from raftstore.testing.crash.kernel_power import PowerDisk
from raftstore.testing.crash.lab import Run
from raftstore.testing.crash.oracle import History, Promise
from raftstore.testing.crash.plan import SMALL_OPTIONS, Plan
from raftstore.testing.crash.repeated import CrashedStore
from raftstore.testing.crash.tally import Tally
from raftstore.testing.torture.report import acknowledged_of

DISK_BYTES: Final = 1 << 30
"""Of a file system whose power is cut: sparse, in a file."""
STEPS: Final = (60, 150, 400)
KILLS_A_STORE: Final = 4
STORES_MIN: Final = 4
"""One of each kind, however short the time."""
STORES_WITHOUT: Final = 40
"""So many, until one has acknowledged something before a crash: a busy machine has little time for that."""
PLANS_MAX: Final = 1_000_000
FIRST_S: Final = 0.5
"""How long a workload is thought to take, until that is known."""

Tell = Callable[[Tally], None]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to torture, and how long."""

    path: Path
    """An existing directory; everything happens in a new one below it."""
    store: StoreConfig
    """Its path does not count."""
    seconds: float
    seed: int
    power_cuts: bool = False
    """Cut the power of file systems in files below `path`, too. Needs private mounts."""
    plant: str | None = None


def torture(settings: Settings, tell: Tell) -> Tally:
    """Crash one store after the other, and look what is left of each. `tell` hears of the tally so far.

    Half of the stores have the user's own options; the others have small files, which rotate.
    """
    with Bench(None, settings.path) as bench, ExitStack() as stack:
        bench.deadline = time.monotonic() + settings.seconds
        kills = _Kills(bench)
        kinds = mountable() if settings.power_cuts else []
        disks = [stack.enter_context(PowerDisk(kind, bench.lab.scratch, DISK_BYTES)) for kind in kinds]
        number = 0
        while not bench.tally.failures and _goes_on(bench, number):
            plan, random = plan_of(settings, number), Random(f"torture {settings.seed}/{number}")
            if disks and number % 2:
                cut_repeatedly(bench, random, disks[number // 2 % len(disks)], plan)
            else:
                kills.kill_repeatedly(plan, random, times=KILLS_A_STORE if _is_small(number) else 1)
            number += 1
            bench.tally.did("stores")
            tell(bench.tally)
        return bench.tally


def _goes_on(bench: Bench, number: int) -> bool:
    wanted = STORES_MIN if acknowledged_of(bench.tally) else STORES_WITHOUT
    return number < wanted or not bench.is_over


def plan_of(settings: Settings, number: int) -> Plan:
    """The `number`th workload."""
    store, random = settings.store, Random(f"plan {settings.seed}/{number}")
    if _is_small(number):
        small = {store.backend: {**store.backends.get(store.backend, {}), **_small(store.backend)}}
        store = msgspec.structs.replace(store, backends={**store.backends, **small})
    return Plan(
        backend=store.backend,
        seed=settings.seed * PLANS_MAX + number,
        steps=random.choice(STEPS),
        threads=random.choice((1, 4)),
        strategy="MemFirst" if isinstance(store.strategy, MemFirst) else "DiskFirst",
        plant=settings.plant,
        store=store.to_url(),
    )


def _is_small(number: int) -> bool:
    """Whether that store has small files: with and without power cuts, every other one."""
    return number // 2 % 2 == 0


def _small(backend: str) -> dict[str, object]:
    return dict(SMALL_OPTIONS.get(backend, {}))


class _Kills:
    """SIGKILLs at random times, spread over the time that a workload takes."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._usual_s = FIRST_S

    def kill_repeatedly(self, plan: Plan, random: Random, *, times: int) -> None:
        arena = self._bench.lab.arena()

        def drive(plan: Plan, history: History) -> tuple[Run, Promise]:
            run = self._drive(plan, arena, random)
            history.feed_all(run.events)
            return run, history.promise

        CrashedStore(self._bench, random, plan, arena, "kill", drive).crash(times)

    def _drive(self, plan: Plan, arena: Path, random: Random) -> Run:
        begin, after_s = time.monotonic(), random.uniform(0, self._usual_s)
        run = self._bench.lab.run(plan, arena, kill_after_s=after_s)
        if run.status == -signal.SIGKILL:
            self._bench.tally.kills += 1
            self._usual_s *= 1.1
        else:
            self._usual_s = time.monotonic() - begin
        return run
