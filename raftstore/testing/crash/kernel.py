"""Power cuts by a real kernel: a workload on an ext4 or xfs of its own, which at some instant goes down.

What the file system had not written is gone, and what the workload does from then on fails. After mounting
again, by the file system's own recovery, the store must be as the promises say. Then the workload goes on in
it, and the power is cut again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, Self

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block_mount import mountable, not_mountable
from raftstore.testing.crash.events import RECORD, Event
from raftstore.testing.crash.kernel_power import Cut, PowerDisk
from raftstore.testing.crash.lab import Run
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import History, Promise
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.repeated import CrashedStore

STORES_A_ROUND: Final = 4
CUTS_A_STORE: Final = 3
EVENTS_A_STEP: Final = 2.5
"""About so many events tells a workload of each of its steps."""
DELAY_S: Final = 0.004
"""The power is cut up to so long after an event."""
POLL_S: Final = 0.0004


def needs(_bench: Bench) -> str | None:
    """Why no power can be cut here, or None."""
    return not_mountable()


def run(round_: Round) -> None:
    """Some stores, one after the other, on one file system."""
    kinds = mountable()
    with PowerDisk(kinds[round_.number % len(kinds)], round_.bench.lab.scratch) as disk:
        for number in range(STORES_A_ROUND):
            if not round_.is_over:
                cut_repeatedly(round_.bench, round_.random, disk, round_.plan(other=number))


def cut_repeatedly(bench: Bench, random: Random, disk: PowerDisk, plan: Plan) -> None:
    """Cut the power of a new store on `disk`, go on, and cut again, until something is wrong."""
    arena = disk.path / "arena"
    disk.clear(arena)
    method = f"real power cut, {disk.kind}"
    drive = partial(_drive, bench, random, disk, arena)
    CrashedStore(bench, random, plan, arena, method, drive, signal.SIGBUS).crash(CUTS_A_STORE)


def _drive(
    bench: Bench, random: Random, disk: PowerDisk, arena: Path, plan: Plan, history: History
) -> tuple[Run, Promise]:
    """Drive `plan`, cut the power meanwhile or soon after, and switch it on again."""
    events, delay_s = random.randint(1, int(EVENTS_A_STEP * plan.steps)), random.uniform(0, DELAY_S)
    with _Switch(disk, bench.lab.events_file, events, delay_s) as switch:
        run = bench.lab.run(plan, arena)
    bench.tally.did(f"power cuts of a mounted {disk.kind}")
    disk.switch_off()
    disk.switch_on()
    return run, follow(history, run.events, switch.cut)


def follow(history: History, events: Sequence[Event], cut: Cut) -> Promise:
    """Let `history` follow the events of a process whose power was cut. Returns what must be there.

    That is what was acknowledged before the cut began. What may be there, too, had begun before it ended: so
    much `history` promises then. What the process was told later is no promise, but it counts how it took it.
    """
    history.feed_all(event for event in events if event.time_ns < cut.begin_ns)
    until = history.promise
    history.feed_all(event for event in events if cut.begin_ns <= event.time_ns < cut.end_ns)
    history.told |= {event.kind for event in events}
    return until


class _Switch:
    """Cuts the power `delay_s` after so many events were told to `file`, at the latest at the end.

    `cut` is there after it.
    """

    def __init__(self, disk: PowerDisk, file: Path, events: int, delay_s: float) -> None:
        self._disk = disk
        self._file = file
        self._events = events
        self._delay_s = delay_s
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
        self.cut = self._disk.cut()

    def _count(self) -> int:
        try:
            return self._file.stat().st_size // RECORD.size
        except FileNotFoundError:
            return 0
