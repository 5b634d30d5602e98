"""A disk of N blocks fills up, for every few N, and later has room again: what a log does all the while.

`fuse_story` is the process that fills it. Here is judged what that says, and what power cuts leave at every
instant at which no call is under way: just what was done, and nothing of what was refused.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.changes import Change
from raftstore.testing.crash.events import Kind, decode
from raftstore.testing.crash.fuse_diary import FuseFault
from raftstore.testing.crash.fuse_disk import FaultyDisk
from raftstore.testing.crash.fuse_mount import Mount
from raftstore.testing.crash.fuse_story import Told
from raftstore.testing.crash.image import Image, left_by
from raftstore.testing.crash.lab import STORE
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import Observation, Verdict
from raftstore.testing.crash.patience import PATIENCE_S, hang
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.record import Op, Record
from raftstore.testing.crash.tally import add

STEP: Final = 37
SIZES_A_ROUND: Final = 2
BLOCKS_MAX: Final = 700
"""So many are enough for every backend."""
METHOD: Final = "fuse, full disk"


def run(round_: Round) -> None:
    """Disks of a few sizes; over the rounds, of all up to one that is large enough."""
    plan = msgspec.structs.replace(round_.plan(plain=True), policy="Immediate")
    bench = round_.bench
    first = round_.number * STEP % BLOCKS_MAX
    for blocks in range(first, first + SIZES_A_ROUND):
        if bench.is_over or not fill(bench, bench.opened(Mount), plan, blocks):
            return


def fill(bench: Bench, mount: Mount, plan: Plan, blocks: int, *, looks_max: int = 1 << 30) -> bool:
    """One run on a disk of so many blocks, and the last `looks_max` images. False if they were enough."""
    arena = mount.begin(bench.lab.events_file, FuseFault(0, blocks, "full"))
    where = f"{plan.title}; a disk of {blocks} blocks"
    told = _drive(plan, arena / STORE, bench.lab.events_file)
    records = mount.end()
    if isinstance(told, str):
        bench.tally.count(METHOD, Verdict.CRASH)
        bench.tally.fail(Verdict.CRASH, where, told)
        return True
    if told.wrong:
        bench.tally.count(METHOD, Verdict.REFUSED)
        bench.tally.fail(Verdict.REFUSED, where, told.wrong)
    for image, number in _images(records)[-looks_max:]:
        _look(bench, plan, image, told.digests[number], f"{where}, after call {number}")
    if told.filled:
        add(bench.tally.faults, "fuse: disk full, then not")
    return told.filled


def _drive(plan: Plan, path: Path, events: Path) -> Told | str:
    command = [sys.executable, "-m", "raftstore.testing.crash.fuse_story", msgspec.json.encode(plan).decode()]
    command += [str(path), str(events)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return hang("the process did not end", PATIENCE_S)
    try:
        return msgspec.json.decode(done.stdout, type=Told)
    except msgspec.DecodeError:
        return f"the process ended with {done.returncode}: {done.stderr[-1500:].decode(errors='replace')}"


def _images(records: list[Record]) -> list[tuple[Image, int]]:
    """Whenever no call was under way: what a power cut leaves, and after which call. Each once."""
    disk, settled = FaultyDisk("posix"), 0
    found: dict[tuple[int, int], tuple[Image, int]] = {}
    for record in records:
        if record.op is not Op.EVENT:
            disk.apply(record)
            continue
        for event in decode(record.data):
            refused = event.kind is Kind.REFUSED and event.step == settled + 1
            settled = event.step if event.kind is Kind.RETURNED else settled
            if refused or event.kind is Kind.RETURNED:
                for image in (left_by(disk, _nothing), left_by(disk, _everything)):
                    found.setdefault((image.name, settled), (image, settled))
    return list(found.values())


def _nothing(_change: Change) -> bool:
    return False


def _everything(_change: Change) -> bool:
    return True


def _look(bench: Bench, plan: Plan, image: Image, wanted: bytes, where: str) -> None:
    image.write(bench.lab.arena())
    bench.tally.see(METHOD, image.name)
    found = bench.checker.check(plan, bench.lab.scratch / "arena" / STORE)
    verdict, words = _compare(found, wanted)
    bench.tally.count(METHOD, verdict)
    if verdict is not Verdict.OK:
        bench.tally.fail(verdict, where, words)


def _compare(found: Observation | tuple[Verdict, str], wanted: bytes) -> tuple[Verdict, str]:
    if not isinstance(found, Observation):
        return found
    if found.refused is not None:
        return Verdict.REFUSED, found.refused
    if found.digest != wanted:
        return Verdict.MIXED, f"{found.summary} is not the state after it"
    return (Verdict.MIXED, found.trouble) if found.trouble else (Verdict.OK, "")
