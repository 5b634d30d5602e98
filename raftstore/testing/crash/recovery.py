"""Power cuts while a store recovers from a power cut, and soon after."""

from __future__ import annotations

from random import Random

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.disk import Disk, Model
from raftstore.testing.crash.image import Image
from raftstore.testing.crash.lab import STORE
from raftstore.testing.crash.oracle import History, Observation
from raftstore.testing.crash.plan import Plan, Resume
from raftstore.testing.crash.powercut import Explorer, Instant
from raftstore.testing.crash.record import read_trace

STEPS = 4
"""So many calls are made after recovery."""


def cut_again(
    bench: Bench, explorer: Explorer, plan: Plan, image: Image, instant: Instant, model: Model, random: Random
) -> None:
    """Open the store that a power cut of `plan` left, go on with it, and cut the power at each instant.

    Until opening returned, every state is allowed that the first power cut could leave; from then on, only
    the one that was reported, and what follows it.
    """
    found = explorer.found(plan, image)
    if not isinstance(found, Observation):
        return
    states = History(plan).allowed(found, instant.since, instant.until)
    if not states.matching:
        return
    resume = Resume(states.matching[0], found.commit, random.randrange(1 << 30), STEPS)
    resumed = msgspec.structs.replace(plan, resumes=(*plan.resumes, resume), threads=1)
    arena = bench.lab.arena()
    image.write(arena)
    disk = Disk(model)
    disk.load(arena)
    trace = bench.lab.scratch / "trace"
    run = bench.lab.run(resumed, arena, trace=trace)
    history = History(resumed, earlier=states.digests)
    explorer.explore(
        resumed,
        list(read_trace(trace)),
        disk,
        random,
        per_instant=2,
        history=history,
        method="second power cut",
    )
    bench.judge(resumed, run, "no fault", f"{STORE} recovered from a power cut", killed=False)
