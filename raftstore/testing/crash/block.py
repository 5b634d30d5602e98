"""Power cuts of a disk, block by block: what an ext4 or xfs of its own writes below a store is recorded, and
disks that a power cut may leave are mounted, which replays the file system's journal, and looked at.

The disk is a loop device over a file that a FUSE file system serves: its process sees every write and flush.
Of what was written after the last flush any part may be lost, each sector by itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block_disk import BlockDisk, BlockImage
from raftstore.testing.crash.block_mount import (
    CannotMountError,
    FileSystem,
    make,
    mountable,
    mounted,
    not_mountable,
    unmount,
)
from raftstore.testing.crash.block_record import BlockWrite, read_record
from raftstore.testing.crash.block_server import DISK
from raftstore.testing.crash.lab import STORE, Run
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import History, Observation, Promise, Verdict
from raftstore.testing.crash.patience import PATIENCE_S
from raftstore.testing.crash.plan import Plan

INSTANTS_A_RUN: Final = 60
IMAGES_AN_INSTANT: Final = 3
READY_S: Final = PATIENCE_S

Found = Observation | tuple[Verdict, str]


def needs(_bench: Bench) -> str | None:
    """Why no disk can be recorded here, or None."""
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy: pip install 'raftstore[crash]'"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse, and to be allowed to open it"
    return not_mountable()


def run(round_: Round) -> None:
    """One workload on a recorded disk, and some of the disks that power cuts may leave of it."""
    kinds = mountable()
    plan = round_.plan()
    with Replay(round_, kinds[round_.number % len(kinds)], "block replay") as replay:
        replay.judge(plan, *replay.record(plan))


class Replay:
    """Workloads on equal disks. A context, in which there is the empty disk; after it no file is left."""

    def __init__(self, round_: Round, kind: FileSystem, method: str) -> None:
        self._round = round_
        self._bench = round_.bench
        self._kind: FileSystem = kind
        self._method = f"{method}, {kind}"
        scratch = round_.bench.lab.scratch
        self.empty = scratch / "empty-disk"
        """The disk before a workload, with the directory `arena`."""
        self._image = scratch / "left-disk"
        self._place = scratch / "left"

    def __enter__(self) -> Self:
        self._place.mkdir(exist_ok=True)
        try:
            make(self._kind, self.empty)
            with mounted(self._kind, self.empty, self._place):
                (self._place / "arena").mkdir()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.empty, self._image):
            file.unlink(missing_ok=True)
        self._place.rmdir()

    def judge(self, plan: Plan, run: Run, writes: list[BlockWrite], *, instants: int | None = None) -> None:
        """The driven process, and some of the disks that power cuts may leave of it.

        `instants`: so many, even if the time is up; by default `INSTANTS_A_RUN`, while there is time.
        """
        self._plan = plan
        self._seen: dict[bytes, Found] = {}
        """What looking at a store showed, by what was in its files."""
        self._judge_process(run)
        self._cut(run, writes, instants or INSTANTS_A_RUN, to_end=instants is not None)

    def record(self, plan: Plan) -> tuple[Run, list[BlockWrite]]:
        """Drive `plan` on the disk, which is served by a process that sees every write."""
        scratch, lab = self._bench.lab.scratch, self._bench.lab
        disk, record = scratch / "recorded-disk", scratch / "record"
        shutil.copyfile(self.empty, disk)
        lab.events_file.unlink(missing_ok=True)
        try:
            with (
                _served(scratch, disk, lab.events_file, record) as served,
                mounted(self._kind, served, self._place),
            ):
                run = lab.run(plan, self._place / "arena", timeout_s=PATIENCE_S)
            return run, read_record(record)
        finally:
            disk.unlink(missing_ok=True)
            record.unlink(missing_ok=True)

    def _judge_process(self, run: Run) -> None:
        if self._plan.plant is not None:
            return
        history = History(self._plan)
        history.feed_all(run.events)
        verdict, words = self._bench.of_process(run, history, killed=False)
        self._bench.tally.count("no fault", verdict)
        if verdict is not Verdict.OK:
            where = f"{self._plan.title}; {self._method}, recorded"
            self._bench.tally.fail(verdict, where, f"{words}\n{run.words[-1500:]}")

    def _cut(self, run: Run, writes: list[BlockWrite], instants: int, *, to_end: bool) -> None:
        """Cut the power at some instants: each is after a write or flush and before the next one."""
        random, tally = self._round.random, self._bench.tally
        wanted = set(random.sample(range(len(writes)), min(instants, len(writes))))
        disk, history, told = BlockDisk(self.empty), History(self._plan), 0
        for number, write in enumerate(writes):
            if not to_end and self._round.is_over:
                return
            disk.apply(write)
            history.feed_all(run.events[told : write.told])
            since = history.promise
            told = writes[number + 1].told if number + 1 < len(writes) else len(run.events)
            history.feed_all(run.events[write.told : told])
            if number in wanted:
                tally.instants += 1
                for kept in disk.choices(random, IMAGES_AN_INSTANT):
                    self._try(disk.left_by(kept), history, since, number)

    def _try(self, image: BlockImage, history: History, since: Promise, number: int) -> None:
        tally, words = self._bench.tally, ""
        tally.generated += 1
        tally.see(f"{self._method}, {self._plan.strategy}", image.name)
        found = self._found(image)
        if isinstance(found, Observation):
            verdict, words = history.judge(found, since, history.promise)
        else:
            verdict, words = found
        tally.count(self._method, verdict)
        if verdict is not Verdict.OK:
            where = f"{self._plan.title}; {self._method}, after write {number}"
            tally.fail(verdict, where, words)

    def _found(self, image: BlockImage) -> Found:
        """What is in the store when the file system was mounted; equal stores are looked at once."""
        image.write(self._image)
        copy = self._bench.lab.arena("image")
        try:
            with mounted(self._kind, self._image, self._place):
                shutil.copytree(self._place / "arena", copy, dirs_exist_ok=True)
        except CannotMountError as error:
            return Verdict.REFUSED, f"the file system itself: {error}"
        key = _digest(copy)
        if key not in self._seen:
            self._seen[key] = self._bench.checker.check(self._plan, copy / STORE)
        return self._seen[key]


@contextmanager
def _served(scratch: Path, image: Path, events: Path, record: Path) -> Generator[Path]:
    """`image`, as a file whose changes are recorded. The record is complete after the block."""
    place = scratch / "served"
    place.mkdir()
    command = [sys.executable, "-m", "raftstore.testing.crash.block_server"]
    server = subprocess.Popen(
        [*command, *map(str, (place, image, events, record))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
        start_new_session=True,  # an interrupt from the keyboard is for us: we unmount first
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        if server.stdout.readline() != b"ready\n":
            raise CannotMountError(f"the file system of the recorder ended with {server.wait(READY_S)}")
        yield place / DISK
    finally:
        unmount(place)
        server.stdin.close()
        server.wait(READY_S)
        server.stdout.close()
        place.rmdir()


def _digest(arena: Path) -> bytes:
    """Of the names and contents of all files."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(arena.rglob("*")):
        digest.update(os.fsencode(file.relative_to(arena)) + b"\0")
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.digest()
