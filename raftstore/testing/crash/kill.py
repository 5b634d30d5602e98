"""SIGKILL, at any time and at every call that changes a file."""

from __future__ import annotations

import itertools
import signal
import time
from random import Random
from typing import Final

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.events import OPEN, WRITE
from raftstore.testing.crash.lab import Action, Fault, Run
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.plan import Plan

KINDS: Final[dict[Action, int]] = {"kill": 255 - OPEN, "kill half": WRITE}
"""At which calls: all but opening; in the middle of writes."""
STEP: Final = 9
"""Of the calls of a workload, every so manieth is one to be killed at."""


def at_any_time(round_: Round) -> None:
    """Four workloads, each killed once."""
    for other in range(4):
        if not round_.is_over:
            kill_at_random(round_.bench, round_.plan(other=other), round_.random)


def at_calls(round_: Round) -> None:
    """One workload, killed at every few calls, and in the middle of every few writes."""
    for action in KINDS:
        first = round_.random.randint(1, STEP)
        kill_at_calls(round_.bench, round_.plan(), action, step=STEP, first=first)


def kill_at_random(bench: Bench, plan: Plan, random: Random) -> None:
    """Drive `plan` and kill it at some time before it would end."""
    begin = time.monotonic()
    run = bench.lab.run(plan, bench.lab.arena())
    bench.judge(plan, run, "no fault", "not killed", killed=False)
    usual_s = time.monotonic() - begin
    after_s = random.uniform(0, usual_s)
    run = bench.lab.run(plan, bench.lab.arena(), kill_after_s=after_s)
    bench.tally.kills += _is_killed(run)
    bench.judge(plan, run, "kill", f"killed after {after_s:.4f} s", killed=_is_killed(run))


def kill_at_calls(bench: Bench, plan: Plan, action: Action, *, step: int = 1, first: int = 1) -> None:
    """Kill at every `step`th call, from the `first` on, until the workload gets through. Needs the shim."""
    for number in itertools.count(first, step):
        if bench.is_over:
            return
        run = bench.lab.run(plan, bench.lab.arena(), fault=Fault(KINDS[action], number, action))
        bench.judge(plan, run, "kill", f"{action} at call {number}", killed=_is_killed(run))
        if not _is_killed(run):
            return
        bench.tally.kills += 1


def _is_killed(run: Run) -> bool:
    """By us. It may have ended before that; any other end is a crash of its own."""
    return run.status == -signal.SIGKILL
