"""What one lane of a run does: each method on one workload after the other, until the time is up.

Lanes are processes beside each other; lane k of n takes every nth piece of work.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, Literal

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.disk import Disk, Image, Model
from raftstore.testing.crash.faults import KINDS, fail_at, failed_sync, sweep
from raftstore.testing.crash.kill import kill_at_calls, kill_at_random
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.plants import Plant, plants_for
from raftstore.testing.crash.powercut import Explorer, Instant
from raftstore.testing.crash.recovery import cut_again
from raftstore.testing.crash.tally import Planted, Tally

Method = Literal["power cut", "kill", "fault", "plants"]
METHODS: Final[tuple[Method, ...]] = ("power cut", "kill", "fault", "plants")
IMAGES_A_RUN: Final = 2500
CREATION_EVERY: Final = 4
"""One recorded run in so many is also cut short while the store is being made: that hardly differs."""
SECOND_CUTS: Final = 3
"""Recoveries of one recorded run that are cut short in turn."""
PLANT_ROUNDS: Final = 12
"""Workloads that may pass before a planted bug counts as not caught."""
SWEEP_SHARE: Final = 0.6
"""Of the time, at most so much is for failing every single call."""
SWEEP_STEPS: Final = 18
"""Calls in the workload whose every I/O call is failed."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One run on one backend."""

    backend: str
    methods: tuple[Method, ...] = METHODS
    seconds: float
    """How long a lane may begin new work. Plants and the sweep of every call come first."""
    images: int | None = None
    """End after so many different images."""
    seed: int = 1
    lane: int = 0
    lanes: int = 1
    keep_in: str | None = None
    full_sweep: bool = True
    """Fail every call of one workload once and for good; else, only some of many."""


class Lane:
    """Does the work of one lane on a `Bench`."""

    def __init__(self, settings: Settings, bench: Bench) -> None:
        self._settings = settings
        self._bench = bench
        keep_in = Path(settings.keep_in) if settings.keep_in is not None else None
        self._explorer = Explorer(bench.lab, bench.checker, bench.tally, keep_in)
        self._has_shim = bench.shim is not None

    def run(self) -> Tally:
        """Until the deadline of the bench, or until there are enough images."""
        methods, bench = self._settings.methods, self._bench
        if "plants" in methods:
            for plant in self._mine(plants_for(self._settings.backend)):
                self.catch(plant)
        bench.deadline = time.monotonic() + self._settings.seconds
        if "fault" in methods and self._has_shim and self._settings.full_sweep:
            self._sweep_all()
        for number in itertools.count(self._settings.lane, self._settings.lanes):
            if bench.is_over or self._has_enough():
                return bench.tally
            for work in self._round(number):
                if not bench.is_over and not self._has_enough():
                    work()
        raise AssertionError("unreachable")

    def _mine(self, things: list[Plant]) -> list[Plant]:
        return things[self._settings.lane :: self._settings.lanes]

    def _has_enough(self) -> bool:
        wanted = self._settings.images
        return wanted is not None and sum(self._bench.tally.unique.values()) * self._settings.lanes >= wanted

    def _plan(self, number: int, *, plain: bool = False, plant: Plant | None = None) -> Plan:
        """The `number`th workload of this run: all strategies, policies and numbers of threads in turn."""
        return Plan(
            backend=self._settings.backend,
            seed=self._settings.seed * 1_000_000 + number,
            steps=24 if plain else (30, 60, 45)[number % 3],
            threads=1 if plain or plant is not None or number % 4 < 2 else 4,
            strategy=plant.strategy if plant is not None else ("DiskFirst", "MemFirst")[number % 2],
            policy=("Immediate", "Batch")[number // 2 % 2],
            mix="plain" if plain else "all" if plant is None else plant.mix,
            plant=None if plant is None else plant.name,
        )

    def _round(self, number: int) -> Iterator[Callable[[], None]]:
        """Pieces of work of a few seconds each."""
        random = Random(f"{self._settings.seed}/{number}")
        methods = self._settings.methods
        if "power cut" in methods and self._bench.can_record:
            yield partial(self._cut, self._plan(number), "posix", random)
            yield partial(self._cut, self._plan(number), "ext4", random)
        if "kill" in methods:
            yield partial(self._kill, number, random)
        if "fault" in methods and self._has_shim:
            yield partial(self._fail, number, random)

    # --- the methods -------------------------------------------------------------------------------------

    def _cut(self, plan: Plan, model: Model, random: Random) -> None:
        """Power cuts of one workload, and of some of the recoveries from them."""
        bench = self._bench
        run, records = bench.record(plan)
        bench.judge(plan, run, "no fault", "recorded", killed=False)
        kept: list[tuple[Image, Instant]] = []
        self._explorer.explore(
            plan,
            records,
            Disk(model),
            random,
            per_instant=10,
            images_max=4 * IMAGES_A_RUN,
            creation=plan.seed % CREATION_EVERY == 0,
            until=lambda: bench.is_over or self._has_enough(),
            keep=kept,
        )
        for image, instant in random.sample(kept, min(SECOND_CUTS, len(kept))):
            if not bench.is_over and self._has_shim:
                cut_again(bench, self._explorer, plan, image, instant, model, random)

    def _kill(self, number: int, random: Random) -> None:
        for some in range(4):
            kill_at_random(self._bench, self._plan(number * 4 + some), random)
        if self._has_shim:
            plan = self._plan(number)
            kill_at_calls(self._bench, plan, "kill", step=9, first=random.randint(1, 9))
            kill_at_calls(self._bench, plan, "kill half", step=9, first=random.randint(1, 9))

    def _fail(self, number: int, random: Random) -> None:
        plan = self._plan(number, plain=number % 3 != 0)
        for name in random.sample(sorted(KINDS), 3):
            sweep(self._bench, plan, name, sticky=random.random() < 0.5, step=7, first=random.randint(1, 7))
        failed_sync(self._bench, self._explorer, plan, random.randint(1, 60), random)

    def _sweep_all(self) -> None:
        """Every call of one short workload fails, once and for good, in every way, if the time is enough."""
        bench, plan = self._bench, msgspec.structs.replace(self._plan(0, plain=True), steps=SWEEP_STEPS)
        pieces = list(itertools.product(KINDS, (False, True)))
        end, bench.deadline = bench.deadline, time.monotonic() + SWEEP_SHARE * self._settings.seconds
        for name, sticky in pieces[self._settings.lane :: self._settings.lanes]:
            sweep(bench, plan, name, sticky=sticky)
            if bench.is_over:
                bench.tally.notes.append("failing every single call of a workload takes longer: not all were")
                break
        bench.deadline = end

    # --- plants ------------------------------------------------------------------------------------------

    def catch(self, plant: Plant) -> None:
        """Run the plant's method until it finds something wrong, on a tally of its own."""
        if not self._has_shim and not (
            plant.method == "kill" or (self._bench.can_record and plant.method == "power cut")
        ):
            return
        self._bench.checker.renew()
        tally, self._bench.tally = self._bench.tally, Tally()
        own = Explorer(self._bench.lab, self._bench.checker, self._bench.tally)
        try:
            for number in range(PLANT_ROUNDS):
                self._try_plant(plant, number, own)
                if self._bench.tally.failures:
                    break
            failures = self._bench.tally.failures
        finally:
            self._bench.tally = tally
            self._bench.checker.renew()
        verdict = failures[0].verdict if failures else None
        print(f"{self._settings.backend}: planted: {plant.name}: {verdict or 'NOT CAUGHT'}", file=sys.stderr)
        tally.planted.append(Planted(plant.name, verdict, failures[0].words[:300] if failures else ""))

    def _can_use(self, method: str) -> bool:
        return self._has_shim or method == "kill" or (method == "power cut" and self._bench.can_record)

    def _try_plant(self, plant: Plant, number: int, explorer: Explorer) -> None:
        plan, random = self._plan(number, plant=plant), Random(number)

        def caught() -> bool:
            return bool(self._bench.tally.failures)

        if plant.method == "power cut":
            _, records = self._bench.record(plan)
            explorer.explore(
                plan,
                records,
                Disk("posix"),
                random,
                per_instant=6,
                images_max=IMAGES_A_RUN,
                until=caught,
                creation=number % 2 == 1,
            )
        elif plant.method == "kill" and self._has_shim:
            kill_at_calls(self._bench, plan, "kill", step=7, first=1 + number)
        elif plant.method == "kill":
            kill_at_random(self._bench, plan, random)
        else:
            self._fail_until(caught, plant, plan, number, explorer)

    def _fail_until(
        self, caught: Callable[[], bool], plant: Plant, plan: Plan, number: int, explorer: Explorer
    ) -> None:
        names = ("write short", "write EIO", "sync EIO") if plant.method == "fault" else ("sync EIO",)
        plan = msgspec.structs.replace(plan, mix="plain" if plant.method == "fault" else plant.mix)
        for name, call in itertools.product(names, range(15 + number, 120, 7)):
            if caught():
                return
            if plant.method == "fault":
                fail_at(self._bench, plan, name, call, sticky=False)
            else:
                failed_sync(self._bench, explorer, plan, call, Random(number))


def run_lane(settings: Settings, shim: Path | None) -> Tally:
    """All that `settings` ask of one lane."""
    with Bench(shim) as bench:
        return Lane(settings, bench).run()
