"""Power cuts of another kernel's disk, which logs what it writes: a virtual machine with device mapper runs
workloads on ext4 or xfs over dm-log-writes; disks that a power cut may leave by that log are mounted here.
"""

from __future__ import annotations

from typing import Final

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block import Replay
from raftstore.testing.crash.block_mount import mountable, not_mountable
from raftstore.testing.crash.lab import Run
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.qemu_log import read_log
from raftstore.testing.crash.qemu_machine import Job, Machine, lacking

STORES_A_SESSION: Final = 4
INSTANTS_A_STORE: Final = 24
"""A session takes so long that each of its power cuts is looked at, even if the time is up."""


def needs(_bench: Bench) -> str | None:
    """Why no machine can be started here, or no disk mounted, or None."""
    return lacking() or not_mountable()


def run(round_: Round) -> None:
    """One session, in which there are some workloads, and the power cuts of each."""
    kinds = mountable()
    kind = kinds[round_.number % len(kinds)]
    plans = [round_.plan(other=number) for number in range(1 if round_.plant else STORES_A_SESSION)]
    jobs = [Job(name=f"job{n}", plan=plan, file_system=kind) for n, plan in enumerate(plans)]
    scratch = round_.bench.lab.scratch
    with (
        Replay(round_, kind, "qemu") as replay,
        Machine(scratch / "machine", replay.empty, jobs) as machine,
    ):
        results = machine.run()
        round_.bench.tally.did("sessions of a virtual machine")
        for job, done in zip(jobs, results, strict=True):
            events, writes = read_log(machine.log(job))
            run_, instants = Run(done.status, events, done.words), None if round_.plant else INSTANTS_A_STORE
            replay.judge(job.plan, run_, writes, instants=instants)
