"""Power cuts of recorded workloads, in both models of a disk, and of some of the recoveries from them."""

from __future__ import annotations

from typing import Final

from raftstore.testing.crash.disk import Disk, Model
from raftstore.testing.crash.image import Image
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.powercut import Instant
from raftstore.testing.crash.record import Record
from raftstore.testing.crash.recovery import cut_again

MODELS: Final[tuple[Model, ...]] = ("posix", "ext4")
IMAGES_A_RUN: Final = 3_000
IMAGES_A_RECORD: Final = 15
"""About so many come of one; where that makes too many, the power is cut at fewer instants."""
IMAGES_A_PLANT: Final = 2_500
CREATION_EVERY: Final = 4
"""One recorded run in so many is also cut short while the store is being made: that hardly differs."""
SECOND_CUTS: Final = 3
"""Recoveries of one recorded run and model that are cut short in turn."""


def run(round_: Round) -> None:
    """One recorded workload."""
    plan, bench = round_.plan(), round_.bench
    run, records = bench.record(plan)
    if plan.plant is None:
        bench.judge(plan, run, "no fault", "recorded", killed=False)
    for model in MODELS if plan.plant is None else MODELS[:1]:
        if not round_.is_over:
            _explore(round_, plan, records, model)


def _explore(round_: Round, plan: Plan, records: list[Record], model: Model) -> None:
    bench, random, planted = round_.bench, round_.random, plan.plant is not None
    kept: list[tuple[Image, Instant]] = []
    round_.explorer.explore(
        plan,
        records,
        Disk(model),
        random,
        per_instant=6 if planted else 10,
        images_max=IMAGES_A_PLANT if planted else 2 * IMAGES_A_RUN,
        share=1.0 if planted else IMAGES_A_RUN / IMAGES_A_RECORD / (1 + len(records)),
        creation=round_.number % 2 == 1 if planted else random.randrange(CREATION_EVERY) == 0,
        until=lambda: bench.is_over,
        keep=kept,
    )
    if planted or bench.shim is None:
        return
    for image, instant in random.sample(kept, min(SECOND_CUTS, len(kept))):
        if not bench.is_over:
            cut_again(bench, round_.explorer, plan, image, instant, model, random)
