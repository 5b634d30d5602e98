"""Power cuts by LazyFS, which somebody else wrote: what a killed process had not synced is dropped.

Or a write is torn: only some parts of it are on the disk, and nothing else that was not synced. LazyFS knows
nothing of names and directories, which are durable at once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final

import msgspec

from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.lab import Run
from raftstore.testing.crash.lazyfs_mount import STORES, LazyFs, Torn, lacking
from raftstore.testing.crash.method import Round
from raftstore.testing.crash.oracle import History, Promise
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.repeated import CrashedStore

CUTS_A_STORE: Final = 4
TORN_FILES: Final[Mapping[str, str]] = MappingProxyType({"segmented": "*.seg", "rocksdb": "*.log"})
"""The files in whose un-synced writes any bytes may be missing, by backend. LMDB counts on whole sectors."""
TORN_WRITES: Final = 12
"""Up to the so manieth write to the file is torn."""
NEXT_FILES: Final = 16
"""So many numbers may the next file's name be away from that of the newest one."""


def needs(_bench: Bench) -> str | None:
    """Why LazyFS cannot be mounted here, or None."""
    return lacking()


def run(round_: Round) -> None:
    """Some stores, one after the other, on one LazyFS."""
    with LazyFs(round_.bench.lab.scratch) as disk:
        for number, name in enumerate(STORES):
            if not round_.is_over:
                arena = disk.path / name
                arena.mkdir()
                cuts, plan = _Cuts(round_.bench, round_.random, disk, arena), round_.plan(other=number)
                CrashedStore(
                    round_.bench, round_.random, plan, arena, "lazyfs", cuts.drive, signal.SIGKILL
                ).crash(CUTS_A_STORE)


class _Cuts:
    """Crashes the store in `arena`, in one way or another.

    The first process is killed after its end, the later ones at any time before about that.
    """

    def __init__(self, bench: Bench, random: Random, disk: LazyFs, arena: Path) -> None:
        self._bench = bench
        self._random = random
        self._disk = disk
        self._arena = arena
        self._usual_s: float | None = None

    def drive(self, plan: Plan, history: History) -> tuple[Run, Promise]:
        """Drive `plan` until it is killed, or a write of it torn, and drop what was not synced."""
        torn = choose_torn(self._random, plan.backend, self._disk.root / self._arena.name)
        run = self._kill(plan) if torn is None else self._tear(plan, torn)
        history.feed_all(run.events)
        return run, history.promise

    def _kill(self, plan: Plan) -> Run:
        tally, begin = self._bench.tally, time.monotonic()
        after_s = None if self._usual_s is None else self._random.uniform(0, self._usual_s)
        run = self._bench.lab.run(plan, self._arena, kill_after_s=after_s)
        self._usual_s = self._usual_s or time.monotonic() - begin
        tally.kills += run.status == -signal.SIGKILL
        self._disk.clear()
        tally.did("power cuts by LazyFS")
        return run

    def _tear(self, plan: Plan, torn: Torn) -> Run:
        self._disk.unmount()
        self._disk.mount(torn)
        run = self._bench.lab.run(plan, self._arena)
        if self._disk.is_alive:
            self._bench.tally.did("power cuts by LazyFS")
        else:
            self._bench.tally.did("writes torn by LazyFS")
            if run.status == -signal.SIGBUS:  # it was reading a file that it had mapped
                run = msgspec.structs.replace(run, status=-signal.SIGKILL)
        self._disk.unmount()
        self._disk.mount()
        return run


def choose_torn(random: Random, backend: str, arena: Path) -> Torn | None:
    """A write to be torn, every other time, if there is a file yet that bears it."""
    files = sorted(arena.rglob(TORN_FILES[backend])) if backend in TORN_FILES else []
    if not files or random.random() < 0.5:
        return None
    parts = random.randint(2, 4)
    persist = sorted(random.sample(range(1, parts + 1), random.randint(1, parts - 1)))
    return Torn(_and_the_next(files[-1]), random.randint(1, TORN_WRITES), parts, persist)


def _and_the_next(file: Path) -> list[Path]:
    """The file, and those that the store may make after it: their names are numbers."""
    number, width = int(file.stem), len(file.stem)
    return [file.with_name(f"{n:0{width}}{file.suffix}") for n in range(number, number + NEXT_FILES)]
