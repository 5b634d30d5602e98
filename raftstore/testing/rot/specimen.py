"""Stores to damage: the states they went through, and how they came to rest.

closed: the log was closed. idle: the process was killed after the log had done its upkeep. killed: it was
killed within a busy time, so that the last few writes have no witness.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, cast

import msgspec

from raftstore.log import open as open_log
from raftstore.testing.crash.driver import IDLE_S
from raftstore.testing.crash.plan import SMALL_OPTIONS, Plan
from raftstore.testing.crash.workload import Step, apply
from raftstore.testing.log_model import LogModel
from raftstore.testing.rot.damage import Files
from raftstore.witness import read_witness

Rest = Literal["closed", "idle", "killed"]

STEPS: Final = 80
UNWITNESSED_MAX: Final = 6
"""Up to so many steps are made after the last note of the witness, in a killed store."""
OPEN_TIMEOUT_S: Final = 10
OPTIONS: Final = {**SMALL_OPTIONS, "rocksdb": {**SMALL_OPTIONS["rocksdb"], "open_timeout_s": OPEN_TIMEOUT_S}}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A store to make: `path/now`, and copies of it at earlier times, `path/earlier-N`."""

    backend: str
    seed: int
    rest: Rest
    path: str

    @property
    def name(self) -> str:
        return f"{self.backend}-{self.seed}-{self.rest}"

    @property
    def unwitnessed(self) -> int:
        """How many steps are made after the last note of the witness."""
        return 1 + self.seed % UNWITNESSED_MAX if self.rest == "killed" else 0

    @property
    def plan(self) -> Plan:
        options = cast("dict[str, int]", dict(OPTIONS.get(self.backend, {})))
        return Plan(backend=self.backend, seed=self.seed, steps=STEPS, mix="plain", options=options)


class Specimen:
    """A store at rest, in memory, and all that is known of it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.steps = steps_of(order.plan)
        self.files = read_tree(Path(order.path, "now"))
        self.earlier = [read_tree(place) for place in sorted(Path(order.path).glob("earlier-*"))]

    @property
    def last(self) -> int:
        return len(self.steps) - 1

    @property
    def safe(self) -> int:
        """The step that no fault may undo without being refused: what came after it had no witness."""
        return self.last - self.order.unwitnessed


def steps_of(plan: Plan) -> Sequence[Step]:
    """The steps of a plan, up to one in the last third after which there are many entries."""
    steps = plan.workload().steps
    late = range(2 * len(steps) // 3, len(steps))
    best = max(late, key=lambda n: (steps[n].changed and bool(steps[n].wrote), len(steps[n].state.entries)))
    return steps[: best + 1]


def read_tree(path: Path) -> Files:
    """Every regular file below `path`."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def write_tree(path: Path, files: Files) -> None:
    """Make the store `path` of these files."""
    path.mkdir(mode=0o700, parents=True)
    for name, data in files.items():
        (path / name).parent.mkdir(mode=0o700, exist_ok=True, parents=True)
        (path / name).write_bytes(data)
        (path / name).chmod(0o600)


def build(order: Order) -> NoReturn:
    """Make the store in this process, and end it, as the order says."""
    path = Path(order.path, "now")
    steps, config = steps_of(order.plan), order.plan.config(path)
    last = len(steps) - 1
    witnessed = last - order.unwitnessed
    log = open_log(config)
    for number in range(1, last + 1):
        apply(cast("LogModel", log), steps[number].call, steps[number].arguments)
        if number in (last // 3, last // 2, last - UNWITNESSED_MAX - 3):
            log.close()
            shutil.copytree(path, Path(order.path, f"earlier-{number:04d}"))
            log = open_log(config)
        if number == witnessed and order.rest != "closed":
            _wait_for_the_witness(log, path)
    if order.rest == "closed":
        log.close()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _wait_for_the_witness(log: Any, path: Path) -> None:
    """Until the log has found itself idle, and has done what it does then."""
    number = log._session.pipeline.ledger.written_number
    time.sleep(IDLE_S)
    while (note := read_witness(path / "WITNESS").note) is None or note.number < number:
        time.sleep(0.02)
