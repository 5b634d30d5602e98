"""What a way to test crashes or faults is: an entry of the table `methods.METHODS`, and what it works with.

A new method is a module with a function `run(round)` and one line in that table; the campaign then gives it
its share of the time and its planted bugs, and the report and the page show what it counted.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, Literal

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.plants import Plant
from raftstore.testing.crash.powercut import Explorer

STEPS: Final = (24, 30, 45, 60)
STRATEGIES: Final[tuple[Literal["DiskFirst"], Literal["MemFirst"]]] = ("DiskFirst", "MemFirst")
POLICIES: Final[tuple[Literal["Immediate"], Literal["Batch"]]] = ("Immediate", "Batch")
PLANS_A_ROUND: Final = 16


class Round:
    """One piece of work of a method, of a few seconds: what it is about, and what it may use.

    Equal backend, seed, number and plant give the same plans and random choices. What is found is counted in
    `bench.tally`: `count` a verdict for whatever was opened, `fail` with the details of one that is not OK,
    `see` an image, `did` anything else that the report should show as a number.
    """

    def __init__(
        self,
        bench: Bench,
        explorer: Explorer,
        backend: str,
        seed: int,
        number: int,
        plant: Plant | None = None,
    ) -> None:
        self.bench = bench
        self.explorer = explorer
        self.backend = backend
        self.seed = seed
        self.number = number
        self.plant = plant
        """The bug that this round is to find; None: there should be none."""
        self.random = Random(f"{seed}/{number}")

    def plan(self, *, plain: bool = False, other: int = 0) -> Plan:
        """A workload for this round: over the rounds, all strategies, policies and numbers of threads.

        `plain`: only calls that return when they are acknowledged, one thread. `other`: one of
        `PLANS_A_ROUND` different ones. With the planted bug in it, if there is one.
        """
        seed = (self.seed * 1_000_000 + self.number) * PLANS_A_ROUND + other
        random, plant = Random(f"plan {seed}"), self.plant
        strategy, policy, threads = random.choice(STRATEGIES), random.choice(POLICIES), random.choice((1, 4))
        return Plan(
            backend=self.backend,
            seed=seed,
            steps=24 if plain else random.choice(STEPS),
            threads=1 if plain or plant is not None else threads,
            strategy=strategy if plant is None else plant.strategy,
            policy=policy,
            mix="plain" if plain else "all" if plant is None else plant.mix,
            plant=None if plant is None else plant.name,
        )

    @property
    def is_over(self) -> bool:
        """Begin nothing more: the time is up, there are images enough, or the planted bug was found."""
        return self.bench.is_over


def nothing(_bench: Bench) -> str | None:
    """The method runs wherever the library does."""
    return None


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One way to test. To be named in `methods.METHODS`."""

    name: str
    about: str
    """What it does to a store, in one sentence, for the report and the page."""
    run: Callable[[Round], None]
    """One piece of work of a few seconds; ends soon after `round.is_over`, and leaves nothing behind."""
    needs: Callable[[Bench], str | None] = nothing
    """Why it cannot run here, with what to install; None: it can. Quick: it is asked before every run."""
    share: float = 1.0
    """Of the time, in proportion to the other methods'."""
    rounds: int | None = None
    """So many go through every call of a workload, in every way; the next ones do that with another workload.
    Each that came to its end is told to `tally.sweep`. None: it does not go through every call."""
    serves: Literal["images", "kills"] | None = None
    """Of what it makes most."""
    plants: tuple[str, ...] = ()
    """Names of planted bugs that it must find, on every backend that can have them: `run` is called with
    `round.plant` until it notes a failure that the bug must produce."""
    soak: bool = False
    """Too slow for every run: only in a soak, or when it is asked for by name."""
    tries: int = 24
    """Rounds that may pass before a planted bug counts as not caught. Almost all take one, a few three."""
