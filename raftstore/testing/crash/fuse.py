"""The Nth call to a mounted file system fails, for every N: of each kind, once or from then on.

What a process does is seen by the file system itself, whichever library did it, and a sync that fails either
keeps its pages dirty or drops them. After each run the store is opened as it is, and as power cuts soon after
the fault, and at the end, leave it.
"""

from __future__ import annotations

import errno
import itertools
from random import Random
from typing import Final

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.events import ALLOCATE, MKDIR, OPEN, RENAME, SYNC, TRUNCATE, UNLINK, WRITE, Kind
from raftstore.testing.crash.fuse_diary import FuseFault
from raftstore.testing.crash.fuse_disk import FaultyDisk
from raftstore.testing.crash.fuse_mount import CannotMountError, Mount, check_can_mount
from raftstore.testing.crash.image import left_by
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.powercut import Explorer
from raftstore.testing.crash.record import Record
from raftstore.testing.crash.tally import add

NEEDING_SPACE: Final = WRITE | ALLOCATE | OPEN | RENAME | MKDIR

KINDS: Final = {
    "sync EIO, pages kept": FuseFault(SYNC, 0, "fail"),
    "sync EIO, pages dropped": FuseFault(SYNC, 0, "drop"),
    "write EIO": FuseFault(WRITE, 0, "fail"),
    "write ENOSPC": FuseFault(WRITE, 0, "fail", errno.ENOSPC),
    "write short": FuseFault(WRITE, 0, "short"),
    "open EIO": FuseFault(OPEN, 0, "fail"),
    "open ENOSPC": FuseFault(OPEN, 0, "fail", errno.ENOSPC),
    "rename EIO": FuseFault(RENAME, 0, "fail"),
    "unlink EIO": FuseFault(UNLINK, 0, "fail"),
    "allocate ENOSPC": FuseFault(ALLOCATE, 0, "fail", errno.ENOSPC),
    "truncate EIO": FuseFault(TRUNCATE, 0, "fail"),
    "mkdir EIO": FuseFault(MKDIR, 0, "fail"),
    "rename ENOSPC": FuseFault(RENAME, 0, "fail", errno.ENOSPC),
    "mkdir ENOSPC": FuseFault(MKDIR, 0, "fail", errno.ENOSPC),
    "any ENOSPC": FuseFault(NEEDING_SPACE, 0, "fail", errno.ENOSPC),
}
WAYS: Final = tuple(way for way in itertools.product(KINDS, (False, True)) if way != ("any ENOSPC", False))
"""Every kind, once and for good; any of them once is one of them once."""
STEPS: Final = 18
STEP: Final = 7
"""A round fails every so many calls; as many rounds, all of them."""
PIECES: Final = tuple(itertools.product(WAYS, ("DiskFirst", "MemFirst"), range(1, STEP + 1)))
"""Each way, on a workload of each strategy, from each of the first calls on."""
STRIDE: Final = 165
"""Has no factor in common with the number of pieces: few rounds see a bit of everything."""
IMAGES_A_FAULT: Final = 16
"""After a sync that failed. After other calls half as many: with nothing and all of what is not synced."""
IMAGES_WITHOUT: Final = 400


def needs(_bench: Bench) -> str | None:
    """What is missing for a mount."""
    try:
        check_can_mount()
    except CannotMountError as error:
        return str(error)
    return None


def run(round_: Round) -> None:
    """One of the `PIECES`, or what may find the planted bug."""
    faults = Faults(round_.bench, round_.bench.opened(Mount), round_.explorer)
    if round_.plant is not None:
        _find(round_, faults)
        return
    (name, sticky), strategy, first = PIECES[round_.number * STRIDE % len(PIECES)]
    plan = Plan(
        backend=round_.backend,
        seed=round_.seed + round_.number // len(PIECES),
        steps=STEPS,
        strategy="DiskFirst" if strategy == "DiskFirst" else "MemFirst",
        policy="Immediate" if strategy == "DiskFirst" else "Batch",
        mix="plain",
    )
    if faults.sweep(plan, name, sticky=sticky, step=STEP, first=first):
        part = f"{strategy}, {name}{', from then on' if sticky else ''}, calls {first}, {first + STEP}, …"
        round_.bench.tally.sweep("fuse", part)


def _find(round_: Round, faults: Faults) -> None:
    """The planted bug, soon, by what it most likely falls over."""
    plan = msgspec.structs.replace(round_.plan(plain=True), mix="plain")
    faults.cut(plan, IMAGES_WITHOUT)
    for name in ("write short", "sync EIO, pages dropped", "write EIO"):
        faults.sweep(plan, name, sticky=False, step=5, first=15 + round_.number)


class Faults:
    """Runs on a mount in which a call fails, and what they leave. `bench.tally` counts them."""

    def __init__(
        self, bench: Bench, mount: Mount, explorer: Explorer, *, images_max: int = IMAGES_A_FAULT
    ) -> None:
        """After each fault about `images_max` images are looked at."""
        self._images_max = images_max
        self._bench = bench
        self._mount = mount
        self._explorer = explorer

    def sweep(self, plan: Plan, name: str, *, sticky: bool, step: int = 1, first: int = 1) -> bool:
        """Let every `step`th call of the kind fail, from the `first` on, until the workload passes.

        Whether it came to that.
        """
        for number in itertools.count(first, step):
            if self._bench.is_over:
                return False
            if not self.fail_at(plan, name, number, sticky=sticky):
                return True
        raise AssertionError("unreachable")

    def fail_at(self, plan: Plan, name: str, number: int, *, sticky: bool) -> bool:
        """One run with one fault, and the power cuts after it. False if it never came to the fault."""
        kind = KINDS[name]
        fault = FuseFault(kind.kinds, number, kind.damage, kind.error, sticky)
        where = f"{name} at call {number}{', and from then on' if sticky else ''}"
        fired, ended, records = self._run(plan, fault, where)
        if not fired:
            return False
        bench = self._bench
        add(bench.tally.faults, f"fuse: {name}{', sticky' if sticky else ''}")
        if not sticky and not ended:
            bench.tally.fail(
                Verdict.REFUSED, f"{plan.title}; {where}", "after one fault the log did not go on"
            )
        if kind.kinds == SYNC:
            self._cut(plan, records, where, from_error=True, images_max=self._images_max)
        else:
            images_max = self._images_max // 2
            self._cut(plan, records, where, from_error=True, images_max=images_max, per_instant=None)
        return True

    def cut(self, plan: Plan, images_max: int) -> None:
        """Power cuts of a run without any fault, as the file system recorded it."""
        _, _, records = self._run(plan, None, "no fault")
        self._cut(plan, records, "no fault", images_max=images_max)

    def _run(self, plan: Plan, fault: FuseFault | None, where: str) -> tuple[bool, bool, list[Record]]:
        """Whether the fault happened, whether the log then said so or went on to the end, and all records."""
        bench = self._bench
        arena = self._mount.begin(bench.lab.events_file, fault)
        run = bench.lab.run(plan, arena)
        records = self._mount.end()
        disk = FaultyDisk("posix")
        for record in records:
            disk.apply(record)
        left_by(disk, lambda change: True).write(bench.lab.arena())
        verdict, history = bench.judge(plan, run, "fuse", where, killed=False)
        if verdict is Verdict.OK:
            left_by(disk, lambda change: False).write(bench.lab.arena())
            what = f"{where}, then what was not synced is lost"
            verdict, _ = bench.judge(plan, run, "fuse, power cut at the end", what, killed=False)
        told = {event.kind for event in run.events}
        ended = bool(told & {Kind.CLOSED, Kind.FAILED}) or verdict is not Verdict.OK
        return Kind.FIRED in history.told, ended, records

    def _cut(
        self,
        plan: Plan,
        records: list[Record],
        where: str,
        *,
        images_max: int,
        from_error: bool = False,
        per_instant: int | None = 1,
    ) -> None:
        self._explorer.explore(
            plan,
            records,
            FaultyDisk("posix"),
            Random(where),
            per_instant=per_instant,
            from_error=from_error,
            images_max=images_max,
            method="fuse, power cut",
        )
