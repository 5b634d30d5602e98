"""Many cases on one backend: makes the stores, damages them, counts the outcomes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from raftstore.testing.crash.provenance import Provenance, provenance
from raftstore.testing.rot.judge import GOOD, Outcome
from raftstore.testing.rot.pool import Case, Make, Pool, Try
from raftstore.testing.rot.specimen import Order, Rest

RESTS: Final[tuple[Rest, ...]] = ("closed", "closed", "idle", "killed")
CASES_PER_STORE: Final = 250
"""More cases than that get stores of their own."""
WRITE_EVERY: Final = 5
"""Every so manieth store, if nothing is wrong with it, is also written to."""
FAILURES_MAX: Final = 20


class Failure(msgspec.Struct, frozen=True):
    """A case that was not as promised, and how to repeat it."""

    outcome: Outcome
    kind: str
    words: str
    rest: str
    store: int
    number: int


class Result(msgspec.Struct, kw_only=True):
    """The numbers of a run."""

    backend: str
    seed: int
    cases: int = 0
    seconds: float = 0.0
    plant: str | None = None
    made_with: Provenance = msgspec.field(default_factory=provenance)
    outcomes: dict[str, int] = {}
    by_kind: dict[str, dict[str, int]] = {}
    by_rest: dict[str, dict[str, int]] = {}
    failures: list[Failure] = []
    """The first few."""

    @property
    def bad(self) -> int:
        return sum(count for name, count in self.outcomes.items() if Outcome(name) not in GOOD)

    def count(self, outcome: Outcome, kind: str, rest: str) -> None:
        self.cases += 1
        for table in (
            self.outcomes,
            self.by_kind.setdefault(kind, {}),
            self.by_rest.setdefault(rest, {}),
        ):
            table[outcome.value] = table.get(outcome.value, 0) + 1


def examine_rot(
    backend: str,
    *,
    cases: int,
    seed: int = 0,
    jobs: int = 1,
    plant: str | None = None,
    verify_every: int = 1,
    keep: Path | None = None,
    kinds: Sequence[str] | None = None,
    until_bad: bool = False,
) -> Result:
    """Damage stores of `backend` in `cases` ways, each alone, and judge what becomes of each.

    `verify_every`: only every so manieth store is verified too. `keep`: a directory for the damaged stores
    of the first failures. `kinds`: of faults, see `damage.KINDS`. `until_bad`: stop at the first failure.
    """
    with ExitStack() as stack:
        scratch = Path(tempfile.mkdtemp(prefix="raftstore-rot-", dir=_memory()))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        pools = [stack.enter_context(Pool()) for _ in range(jobs)]
        run = _Run(scratch, Result(backend=backend, seed=seed, plant=plant), verify_every, keep, kinds)
        begin = time.monotonic()
        run.go(pools, cases, until_bad=until_bad)
        run.result.seconds = round(time.monotonic() - begin, 1)
        return run.result


def _memory() -> Path | None:
    place = Path("/dev/shm")
    return place if place.is_dir() and os.access(place, os.W_OK) else None


class _Run:
    def __init__(
        self,
        scratch: Path,
        result: Result,
        verify_every: int,
        keep: Path | None,
        kinds: Sequence[str] | None,
    ) -> None:
        self._scratch = scratch
        self._verify_every = verify_every
        self._keep = keep
        self._kinds = None if kinds is None else list(kinds)
        self.result = result

    def go(self, pools: Sequence[Pool], cases: int, *, until_bad: bool) -> None:
        stores = max(len(RESTS), -(-cases // CASES_PER_STORE))
        shares = [range(store, cases, stores) for store in range(stores)]
        with ThreadPoolExecutor(len(pools)) as executor:
            lanes = [
                executor.submit(self._lane, pool, lane, shares[lane :: len(pools)], until_bad)
                for lane, pool in enumerate(pools)
            ]
            for lane in lanes:
                lane.result()

    def _lane(self, pool: Pool, lane: int, shares: Sequence[range], until_bad: bool) -> None:
        for share in shares:
            order = self._store(pool, share.start)
            for number in share:
                if until_bad and self.result.bad:
                    return
                self._one(pool, lane, order, number)
            shutil.rmtree(order.path, ignore_errors=True)

    def _store(self, pool: Pool, number: int) -> Order:
        result, rest = self.result, RESTS[number % len(RESTS)]
        order = Order(
            backend=result.backend,
            seed=result.seed * 1000 + number,
            rest=rest,
            path=str(self._scratch / f"store-{number}"),
        )
        Path(order.path).mkdir()
        made = pool.ask(Make(order=order, plant=result.plant))
        if made.outcome is not Outcome.RIGHT:
            raise RuntimeError(f"the store {order.name} could not be made: {made.words}")
        case = self._case(order, -1, f"untouched-{number}")
        untouched = pool.ask(Try(case=case))
        if untouched.outcome is not Outcome.RIGHT:
            raise RuntimeError(f"the store {order.name} is {untouched.outcome} untouched: {untouched.words}")
        return order

    def _case(self, order: Order, number: int, place: str) -> Case:
        return Case(
            order=order,
            seed=self.result.seed,
            number=number,
            scratch=str(self._scratch / place),
            verify=number % self._verify_every == 0,
            write=number % WRITE_EVERY == 0,
            plant=self.result.plant,
            kinds=self._kinds,
        )

    def _one(self, pool: Pool, lane: int, order: Order, number: int) -> None:
        case = self._case(order, number, f"lane-{lane}")
        verdict = pool.ask(Try(case=case))
        self.result.count(verdict.outcome, verdict.kind, order.rest)
        if verdict.outcome in GOOD or len(self.result.failures) >= FAILURES_MAX:
            return
        failure = Failure(verdict.outcome, verdict.kind, verdict.words, order.rest, order.seed, number)
        self.result.failures.append(failure)
        if self._keep is not None:
            place = self._keep / f"{order.name}-{number}"
            pool.ask(Try(case=msgspec.structs.replace(case, keep=str(place))))
