"""Power cuts of another kernel's disk: a virtual machine with device mapper runs workloads on ext4 or xfs.

Below those, dm-log-writes logs what is written, and disks that a power cut may leave by that log are mounted
here. Or dm-flakey drops what is written from some instant on, or fails it, and the disk is mounted here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block import Replay
from raftstore.testing.crash.block_mount import (
    CannotMountError,
    FileSystem,
    mountable,
    mounted,
    not_mountable,
)
from raftstore.testing.crash.kernel import EVENTS_A_STEP
from raftstore.testing.crash.lab import STORE, Run
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import History, Observation, Verdict
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.qemu_log import read_log
from raftstore.testing.crash.qemu_machine import Done, Job, Machine, Way, lacking

WAYS: Final[tuple[Way, ...]] = ("log", "drop_writes", "log", "error_writes")
"""Of the workloads of a session, in their order; that with a planted bug is the first."""
INSTANTS_A_STORE: Final = 24
"""A session takes so long that each of its power cuts is looked at, even if the time is up."""


def needs(_bench: Bench) -> str | None:
    """Why no machine can be started here, or no disk mounted, or None."""
    return lacking() or not_mountable()


def run(round_: Round) -> None:
    """One session, in which there are some workloads, and the power cuts of each."""
    kinds, scratch = mountable(), round_.bench.lab.scratch
    kind, ways = kinds[round_.number % len(kinds)], WAYS[:1] if round_.plant else WAYS
    jobs = [_job(round_, kind, number, way) for number, way in enumerate(ways)]
    with (
        Replay(round_, kind, "qemu") as replay,
        Machine(scratch / "machine", replay.empty, jobs) as machine,
    ):
        results = machine.run()
        round_.bench.tally.did("sessions of a virtual machine")
        for job, done in zip(jobs, results, strict=True):
            if job.way == "log":
                events, writes = read_log(machine.log(job))
                instants = None if round_.plant else INSTANTS_A_STORE
                replay.judge(job.plan, Run(done.status, events, done.words), writes, instants=instants)
            else:
                _judge_what_is_left(round_.bench, kind, machine, job, done)


def _job(round_: Round, kind: FileSystem, number: int, way: Way) -> Job:
    plan = round_.plan(other=number)
    cut_at = round_.random.randint(1, int(EVENTS_A_STEP * plan.steps))
    return Job(name=f"job{number}", plan=plan, file_system=kind, way=way, cut_at=cut_at)


def _judge_what_is_left(bench: Bench, kind: FileSystem, machine: Machine, job: Job, done: Done) -> None:
    """Of a store whose disk lost its writes from some instant on."""
    tally, history, events = bench.tally, History(job.plan), machine.events(job)
    history.feed_all(events[: done.told])
    until = history.promise
    history.feed_all(events[done.told :])
    tally.did(f"disks with {job.way} of dm-flakey")
    verdict, words = bench.of_process(Run(done.status, events, done.words), history, killed=False)
    if verdict is Verdict.OK:
        answer = _look(bench, kind, machine.disk(job), job.plan)
        if isinstance(answer, Observation):
            verdict, words = history.judge(answer, history.promise, until)
        else:
            verdict, words = answer
    method = f"qemu, {job.way}, {kind}"
    tally.count(method, verdict)
    if verdict is not Verdict.OK:
        where = f"{job.plan.title}; {method}, after event {done.told}"
        tally.fail(verdict, where, f"{words}\n{done.words[-1500:]}".strip())


def _look(bench: Bench, kind: FileSystem, disk: Path, plan: Plan) -> Observation | tuple[Verdict, str]:
    """What is found in the store on that disk."""
    place, copy = bench.lab.arena("left"), bench.lab.arena("recovered")
    try:
        with mounted(kind, disk, place):
            shutil.copytree(place / "arena", copy, dirs_exist_ok=True)
    except CannotMountError as error:
        return Verdict.REFUSED, f"the file system itself: {error}"
    return bench.checker.check(plan, copy / STORE)
