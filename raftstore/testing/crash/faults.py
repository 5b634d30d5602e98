"""The Nth call fails, for every N: an error, a full disk, a write that is too short, once or for good."""

from __future__ import annotations

import errno
import itertools
from random import Random
from typing import Final

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.disk import Disk
from raftstore.testing.crash.events import (
    ALLOCATE,
    MKDIR,
    OPEN,
    RENAME,
    SYNC,
    TRUNCATE,
    UNLINK,
    WRITE,
    Kind,
)
from raftstore.testing.crash.lab import Fault
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.powercut import Explorer
from raftstore.testing.crash.tally import add

KINDS: Final = {
    "write EIO": Fault(WRITE, 0, "fail", errno.EIO),
    "write ENOSPC": Fault(WRITE, 0, "fail", errno.ENOSPC),
    "write short": Fault(WRITE, 0, "short"),
    "sync EIO": Fault(SYNC, 0, "fail", errno.EIO),
    "sync ENOSPC": Fault(SYNC, 0, "fail", errno.ENOSPC),
    "open EIO": Fault(OPEN, 0, "fail", errno.EIO),
    "open ENOSPC": Fault(OPEN, 0, "fail", errno.ENOSPC),
    "rename EIO": Fault(RENAME, 0, "fail", errno.EIO),
    "unlink EIO": Fault(UNLINK, 0, "fail", errno.EIO),
    "allocate ENOSPC": Fault(ALLOCATE, 0, "fail", errno.ENOSPC),
    "allocate EIO": Fault(ALLOCATE, 0, "fail", errno.EIO),
    "truncate EIO": Fault(TRUNCATE, 0, "fail", errno.EIO),
    "rename ENOSPC": Fault(RENAME, 0, "fail", errno.ENOSPC),
    "mkdir EIO": Fault(MKDIR, 0, "fail", errno.EIO),
    "mkdir ENOSPC": Fault(MKDIR, 0, "fail", errno.ENOSPC),
}
ANY: Final = {
    "any ENOSPC": Fault(WRITE | ALLOCATE | OPEN | RENAME | MKDIR, 0, "fail", errno.ENOSPC),
    "any EIO": Fault(255, 0, "fail", errno.EIO),
}

WAYS: Final = (*itertools.product(KINDS, (False, True)), *((name, True) for name in ANY))
"""Every kind, once and for good; any of them once is one of them once."""
EVERY_CALL_STEPS: Final = 18
"""Calls in the workloads whose every I/O call is failed."""
EVERY_CALL_ROUNDS: Final = 2 * len(WAYS)
"""Each way on a workload of `DiskFirst` and on one of `MemFirst`."""
SOME_CALLS: Final = 7


def fail_every_call(round_: Round) -> None:
    """One way of failing, at each call of one of two short workloads."""
    again, number = divmod(round_.number, EVERY_CALL_ROUNDS)
    which, way = divmod(number, len(WAYS))
    if round_.plant is not None:
        _find(round_)
        return
    plan = Plan(
        backend=round_.backend,
        seed=round_.seed + again,
        steps=EVERY_CALL_STEPS,
        strategy=("DiskFirst", "MemFirst")[which],
        policy=("Immediate", "Batch")[which],
        mix="plain",
    )
    name, sticky = WAYS[way]
    if sweep(round_.bench, plan, name, sticky=sticky):
        round_.bench.tally.sweep("every call", f"{plan.strategy}, {name}{', from then on' if sticky else ''}")


def _find(round_: Round) -> None:
    """The planted bug, soon: at some calls, by what it most likely falls over."""
    plan = msgspec.structs.replace(round_.plan(plain=True), mix="plain")
    for name in ("write short", "write EIO", "sync EIO"):
        sweep(round_.bench, plan, name, sticky=False, step=7, first=15 + round_.number)


def fail_some_calls(round_: Round) -> None:
    """Three ways of failing, at every few calls of one workload."""
    random = round_.random
    plan = round_.plan(plain=round_.number % 3 != 0)
    for name in random.sample([*KINDS, *ANY], 3):
        first = random.randint(1, SOME_CALLS)
        sweep(round_.bench, plan, name, sticky=random.random() < 0.5, step=SOME_CALLS, first=first)


def fail_a_sync(round_: Round) -> None:
    """One workload, in which one sync fails in turn and its pages are lost."""
    first = round_.random.randint(1, SOME_CALLS)
    for number in itertools.count(first, SOME_CALLS):
        if round_.is_over or not failed_sync(
            round_.bench, round_.explorer, round_.plan(), number, round_.random
        ):
            return


def sweep(bench: Bench, plan: Plan, name: str, *, sticky: bool, step: int = 1, first: int = 1) -> bool:
    """Let every `step`th call of the kind fail, from the `first` on, until the workload passes untouched.

    Whether it came to that.
    """
    for number in itertools.count(first, step):
        if bench.is_over:
            return False
        if not fail_at(bench, plan, name, number, sticky=sticky):
            return True
    raise AssertionError("unreachable")


def fail_at(bench: Bench, plan: Plan, name: str, number: int, *, sticky: bool) -> bool:
    """One run with one fault, and then an opening without. False if it never came to the fault."""
    kind = KINDS.get(name) or ANY[name]
    fault = Fault(kind.kinds, number, kind.action, kind.error, sticky)
    run = bench.lab.run(plan, bench.lab.arena(), fault=fault)
    where = f"{name} at call {number}{', and from then on' if sticky else ''}"
    verdict, history = bench.judge(plan, run, "fault", where, killed=False)
    fired = Kind.FIRED in history.told
    add(bench.tally.faults, name, int(fired))
    ended = {Kind.CLOSED, Kind.FAILED} if plan.retries else {Kind.CLOSED, Kind.FAILED, Kind.REFUSED}
    if verdict is Verdict.OK and not sticky and not ended.intersection(event.kind for event in run.events):
        words = f"after one fault the log did not go on\n{run.words[-1500:]}"
        bench.tally.fail(Verdict.REFUSED, f"{plan.title}; {where}", words)
    return fired


def failed_sync(bench: Bench, explorer: Explorer, plan: Plan, number: int, random: Random) -> bool:
    """A sync fails, and its pages may be lost, though later syncs succeed; then the power fails.

    False if it never came to the fault. Needs the shim.
    """
    run, records = bench.record(plan, Fault(SYNC, number, "fail", errno.EIO))
    if Kind.FIRED not in {event.kind for event in run.events}:
        return False
    add(bench.tally.faults, "sync EIO, pages dropped")
    explorer.explore(
        plan,
        records,
        Disk("posix"),
        random,
        per_instant=2 if plan.plant is None else None,
        from_error=True,
        method="failed sync, power cut",
        until=lambda: bench.is_over,
    )
    return True
