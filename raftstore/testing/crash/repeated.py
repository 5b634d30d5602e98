"""A store that crashes, is judged, and goes on from what was found, again and again."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.lab import STORE, Run
from raftstore.testing.crash.oracle import History, Observation, Promise, Verdict
from raftstore.testing.crash.plan import Plan, Resume

Drive = Callable[[Plan, History], tuple[Run, Promise]]
"""Drives a plan, crashes it, and lets the history follow it to its end. Returns what was promised when it
crashed, too: what was told later may be wrong."""


class CrashedStore:
    """The store in the directory `arena`, which must be empty. A crash may end its process by `fatal`."""

    def __init__(
        self,
        bench: Bench,
        random: Random,
        plan: Plan,
        arena: Path,
        method: str,
        drive: Drive,
        fatal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self._bench = bench
        self._random = random
        self._plan = plan
        self._arena = arena
        self._method = method
        self._drive = drive
        self._fatal = fatal

    def crash(self, times: int) -> None:
        """So often, or until something is wrong. After the last time the store is changed where it is."""
        plan, earlier = self._plan, frozenset[bytes]()
        for left in reversed(range(times)):
            history = History(plan, earlier=earlier)
            run, until = self._drive(plan, history)
            found = self._judge(plan, run, history, until, is_last=left == 0)
            if found is None or self._bench.is_over:
                return
            states = history.allowed(found, history.promise, until)
            if not states.matching:
                return
            resume = Resume(states.matching[0], found.commit, self._random.randrange(1 << 30), plan.steps)
            plan = msgspec.structs.replace(plan, resumes=(*plan.resumes, resume))
            earlier = states.digests

    def _judge(
        self, plan: Plan, run: Run, history: History, until: Promise, *, is_last: bool
    ) -> Observation | None:
        """What is there after the crash, if that is right."""
        bench, found = self._bench, Observation()
        bench.tally.did("operations acknowledged before a crash", until.acknowledged)
        verdict, words = bench.of_process(run, history, killed=run.status == -self._fatal)
        if verdict is Verdict.OK:
            arena = self._arena if is_last else self._copy()
            answer = bench.checker.check(plan, arena / STORE)
            if isinstance(answer, Observation):
                found = answer
                verdict, words = history.judge(found, history.promise, until)
            else:
                verdict, words = answer
        bench.tally.count(self._method, verdict)
        if verdict is Verdict.OK:
            return found
        where = f"{plan.title}; {self._method}, the {len(plan.resumes) + 1}. of this store"
        bench.tally.fail(verdict, where, f"{words}\n{run.words[-1500:]}".strip())
        return None

    def _copy(self) -> Path:
        """The arena as it is now, where looking at it changes nothing of the store."""
        copy = self._bench.lab.arena("recovered")
        shutil.copytree(self._arena, copy, dirs_exist_ok=True)
        return copy
