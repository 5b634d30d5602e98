"""A crowd of threads that is killed, and whose power is cut: the order of its calls is found, not known."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from random import Random
from typing import Final

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.crowd_judge import CrowdHistory, CrowdPromise
from raftstore.testing.crash.disk import Disk
from raftstore.testing.crash.events import Event, Kind, decode
from raftstore.testing.crash.image import left_by
from raftstore.testing.crash.kill import KINDS
from raftstore.testing.crash.lab import STORE, Fault, Run
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import Observation, Verdict
from raftstore.testing.crash.patience import hang
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.powercut import Explorer, choices
from raftstore.testing.crash.record import Op, Record

STEPS: Final = 12
"""Of each thread."""
IMAGES_A_RUN: Final = 3000
KILLS_A_ROUND: Final = 6
CALLS_MAX: Final = 150


def run(round_: Round) -> None:
    """One workload whose power is cut, and some that are killed."""
    bench, random = round_.bench, round_.random
    plan = msgspec.structs.replace(round_.plan(), mix="crowd", steps=STEPS)
    driven, records = bench.record(plan)
    history = CrowdHistory(plan)
    _judge(bench, plan, driven, history, killed=False)
    _cut(bench, plan, records, random)
    for _ in range(KILLS_A_ROUND):
        if bench.is_over:
            return
        fault = Fault(KINDS["kill"], random.randint(1, CALLS_MAX), "kill")
        driven = bench.lab.run(plan, bench.lab.arena(), fault=fault)
        bench.tally.kills += driven.status == -signal.SIGKILL
        _judge(bench, plan, driven, CrowdHistory(plan), killed=True)


def _judge(bench: Bench, plan: Plan, run: Run, history: CrowdHistory, *, killed: bool) -> None:
    """How the process ended, and what is in its store."""
    endings = (0, -signal.SIGKILL) if killed else (0,)
    for event in run.events:
        history.feed(event)
    found = bench.checker.check(plan, bench.lab.scratch / "arena" / STORE)
    verdict, words = _verdict(found, history, history.promise, history.promise)
    if run.status is None:
        verdict, words = Verdict.HANG, hang("the process did not end", run.timeout_s)
    elif history.told & {Kind.BROKEN, Kind.FAILED} or run.status not in endings:
        verdict, words = Verdict.CRASH, f"the process ended with {run.status}"
    bench.tally.count("crowd, kill" if killed else "crowd, no fault", verdict)
    if verdict is not Verdict.OK:
        bench.tally.fail(verdict, plan.title, f"{words}\n{run.words[-1500:]}".strip())


def _cut(bench: Bench, plan: Plan, records: list[Record], random: Random) -> None:
    """What power cuts of the run may leave."""
    explorer, disk, history = (
        Explorer(bench.lab, bench.checker, bench.tally),
        Disk("posix"),
        CrowdHistory(plan),
    )
    stop = bench.tally.generated + IMAGES_A_RUN
    for since, until in _instants(records, disk, history):
        if bench.is_over or bench.tally.generated >= stop:
            return
        bench.tally.instants += 1
        for keep in choices(disk.pending(), random, 3):
            image = left_by(disk, keep)
            bench.tally.generated += 1
            bench.tally.see(f"crowd, power cut, posix, {plan.strategy}", image.name)
            verdict, words = _verdict(explorer.found(plan, image), history, since, until)
            bench.tally.count("crowd, power cut, posix", verdict)
            if verdict is not Verdict.OK:
                bench.tally.fail(verdict, f"{plan.title}; power cut", words)


def _instants(
    records: Iterable[Record], disk: Disk, history: CrowdHistory
) -> Iterator[tuple[CrowdPromise, CrowdPromise]]:
    """Each time between two calls that change the disk, after the store was opened."""
    since = history.promise
    for record in records:
        if record.op is Op.EVENT:
            _feed(history, decode(record.data))
        else:
            if disk.changes(record):
                if since.opened:
                    yield since, history.promise
                since = history.promise
            disk.apply(record)
    yield since, history.promise


def _feed(history: CrowdHistory, events: Iterable[Event]) -> None:
    for event in events:
        history.feed(event)


def _verdict(
    found: Observation | tuple[Verdict, str], history: CrowdHistory, since: CrowdPromise, until: CrowdPromise
) -> tuple[Verdict, str]:
    return history.judge(found, since, until) if isinstance(found, Observation) else found
