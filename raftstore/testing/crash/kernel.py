"""Power cuts by a real kernel: a workload on an ext4 or xfs of its own, which at some instant goes down.

What the file system had not written is gone, and what the workload does from then on fails. After mounting
again, by the file system's own recovery, the store must be as the promises say. Then the workload goes on in
it, and the power is cut again.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Final, Self

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block_mount import mountable, not_mountable
from raftstore.testing.crash.events import RECORD
from raftstore.testing.crash.kernel_power import PowerDisk
from raftstore.testing.crash.lab import STORE, Run
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import History, Observation, Promise, Verdict
from raftstore.testing.crash.plan import Plan, Resume

STORES_A_ROUND: Final = 4
CUTS_A_STORE: Final = 3
EVENTS_A_STEP: Final = 2.5
"""About so many events tells a workload of each of its steps."""
DELAY_S: Final = 0.004
"""The power is cut up to so long after an event."""
POLL_S: Final = 0.0004
TIMEOUT_S: Final = 60.0


def needs(_bench: Bench) -> str | None:
    """Why no power can be cut here, or None."""
    return not_mountable()


def run(round_: Round) -> None:
    """Some stores, one after the other, on one file system."""
    kinds = mountable()
    with PowerDisk(kinds[round_.number % len(kinds)], round_.bench.lab.scratch) as disk:
        for number in range(STORES_A_ROUND):
            if not round_.is_over:
                _Store(round_, disk, round_.plan(other=number)).cut_repeatedly()


class _Store:
    """One store, on a disk whose power is cut again and again."""

    def __init__(self, round_: Round, disk: PowerDisk, plan: Plan) -> None:
        self._bench = round_.bench
        self._random = round_.random
        self._disk = disk
        self._plan = plan
        self._method = f"real power cut, {disk.kind}"
        self._arena = disk.path / "arena"

    def cut_repeatedly(self) -> None:
        """Until there were cuts enough, or something was wrong."""
        self._disk.clear(self._arena)
        plan, earlier = self._plan, frozenset[bytes]()
        for _ in range(CUTS_A_STORE):
            history = History(plan, earlier=earlier)
            run, until = self._drive(plan, history)
            found = self._judge(plan, run, history, until)
            if found is None or self._bench.is_over:
                return
            states = history.allowed(found, history.promise, until)
            if not states.matching:
                return
            resume = Resume(states.matching[0], found.commit, self._random.randrange(1 << 30), plan.steps)
            plan = msgspec.structs.replace(plan, resumes=(*plan.resumes, resume))
            earlier = states.digests

    def _drive(self, plan: Plan, history: History) -> tuple[Run, Promise]:
        """Drive `plan`, cut the power meanwhile or soon after, and switch it on again.

        `history` follows it. The second value is what was promised before the power was cut.
        """
        bench, random = self._bench, self._random
        events, delay_s = random.randint(1, int(EVENTS_A_STEP * plan.steps)), random.uniform(0, DELAY_S)
        with _Switch(self._disk, bench.lab.events_file, events, delay_s) as switch:
            run = bench.lab.run(plan, self._arena, timeout_s=TIMEOUT_S)
        bench.tally.did(f"power cuts of a mounted {self._disk.kind}")
        self._disk.switch_off()
        self._disk.switch_on()
        for event in run.events[: switch.told]:
            history.feed(event)
        until = history.promise
        for event in run.events[switch.told :]:
            history.feed(event)
        return run, until

    def _judge(self, plan: Plan, run: Run, history: History, until: Promise) -> Observation | None:
        """What is there after the power cut, if that is right."""
        bench, found = self._bench, Observation()
        verdict, words = bench.of_process(run, history, killed=True)
        if verdict is Verdict.OK:
            answer = bench.checker.check(plan, self._copy() / STORE)
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
        """The arena as it is now, where looking at it changes nothing on the disk."""
        copy = self._bench.lab.arena("recovered")
        shutil.copytree(self._arena, copy, dirs_exist_ok=True)
        return copy


class _Switch:
    """Cuts the power `delay_s` after so many events were told to `file`, at the latest at the end."""

    def __init__(self, disk: PowerDisk, file: Path, events: int, delay_s: float) -> None:
        self._disk = disk
        self._file = file
        self._events = events
        self._delay_s = delay_s
        self.told = 0
        """Events told before the power was cut.

        Cutting takes milliseconds, in which ext4 may let an fdatasync succeed that has written nothing. So
        what is acknowledged from its beginning on does not count.
        """
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._wait_and_cut, name="raftstore-power")

    def __enter__(self) -> Self:
        self._file.unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _wait_and_cut(self) -> None:
        while not self._ended.wait(POLL_S) and self._count() < self._events:
            pass
        self._ended.wait(self._delay_s)
        self.told = self._count()
        self._disk.cut()

    def _count(self) -> int:
        try:
            return self._file.stat().st_size // RECORD.size
        except FileNotFoundError:
            return 0
