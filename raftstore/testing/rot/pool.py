"""A helper process that forks a child for every store it is asked to make or to look at.

The helper imports everything, and keeps the stores in memory, but never opens one: a fresh interpreter for
each case would take most of the time. `python -m raftstore.testing.rot.pool` is the helper.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final, Self

import msgspec

from raftstore.errors import RaftStoreError
from raftstore.registry import backend_class
from raftstore.testing.rot.damage import Fault, choose
from raftstore.testing.rot.judge import Outcome, judge, judge_writing
from raftstore.testing.rot.plants import plant
from raftstore.testing.rot.quick import forked, make_quick
from raftstore.testing.rot.specimen import Order, Specimen, build, write_tree
from raftstore.testing.rot.trial import WAYS, Answer, GoneOn, Way, go_on, look

TIMEOUT_S: Final = 240.0
"""More than what backends wait for an engine that does not come back, when a store is verified and opened."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One fault in one store. Equal cases on the same store are equal."""

    order: Order
    seed: int
    number: int
    scratch: str
    verify: bool = True
    write: bool = False
    plant: str | None = None
    kinds: list[str] | None = None
    """Of faults; None: all."""
    keep: str | None = None
    """Where to put the damaged store, if it is not to be judged but to be kept."""

    def fault(self, specimen: Specimen) -> Fault:
        random = Random(f"{self.seed}/{self.order.name}/{self.number}")
        return choose(specimen.files, specimen.earlier, random, self.kinds)

    @property
    def way(self) -> Way:
        return WAYS[self.number % len(WAYS)]


class Make(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    order: Order
    plant: str | None = None


class Try(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    case: Case


class Verdict(msgspec.Struct, frozen=True):
    """What came of a case; of a store that was made: `right`, or why not."""

    outcome: Outcome
    kind: str = ""
    words: str = ""


class Pool:
    """The other end of one helper. A context; one call at a time."""

    def __enter__(self) -> Self:
        path = os.pathsep.join(part for part in sys.path if part)
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "raftstore.testing.rot.pool"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._helper.stdin, self._helper.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self._helper.wait(TIMEOUT_S)

    def ask(self, job: Make | Try) -> Verdict:
        stdin, stdout = self._helper.stdin, self._helper.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(msgspec.json.encode(job) + b"\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise RuntimeError("the helper process that damages stores is gone")
        return msgspec.json.decode(answer, type=Verdict)


class _Helper:
    def __init__(self) -> None:
        self._specimens: dict[str, Specimen] = {}

    def do(self, job: Make | Try) -> Verdict:
        order = job.order if isinstance(job, Make) else job.case.order
        with suppress(RaftStoreError):
            backend_class(order.backend)  # imported here, once, and not in every child
        return self._make(job) if isinstance(job, Make) else self._try(job.case)

    def _make(self, job: Make) -> Verdict:
        def body() -> bytes:
            if job.plant is not None:
                plant(job.plant)
            build(job.order)

        gc.freeze()
        status, words = forked(body, TIMEOUT_S)
        wanted = 0 if job.order.rest == "closed" else -signal.SIGKILL
        if status != wanted:
            return Verdict(Outcome.DEATH, "making", f"{status}: {words.decode(errors='replace')}")
        return Verdict(Outcome.RIGHT)

    def _try(self, case: Case) -> Verdict:
        specimen = self._specimens.get(case.order.path)
        if specimen is None:
            specimen = self._specimens[case.order.path] = Specimen(case.order)
            gc.freeze()
        fault = Fault("none", "", {}) if case.number < 0 else case.fault(specimen)
        files = {**specimen.files, **fault.changes}
        place = Path(case.keep or case.scratch)
        shutil.rmtree(place, ignore_errors=True)
        write_tree(place, {name: data for name, data in files.items() if data is not None})
        if case.keep is not None:
            return Verdict(Outcome.RIGHT, fault.kind, fault.words)
        outcome, words = _judged(specimen, case, fault, place)
        return Verdict(outcome, fault.kind, f"{fault.words} ({case.way}): {words}")


def _judged(specimen: Specimen, case: Case, fault: Fault, place: Path) -> tuple[Outcome, str]:
    def body() -> bytes:
        _prepare(case)
        return msgspec.msgpack.encode(look(case.order.plan.config(place), case.way, verify=case.verify))

    status, output = forked(body, TIMEOUT_S)
    if status is None:
        return Outcome.HANG, f"no answer within {TIMEOUT_S} s"
    if status != 0:
        return Outcome.DEATH, f"{status}: {output.decode(errors='replace')[-800:]}"
    outcome, words = judge(specimen, fault, msgspec.msgpack.decode(output, type=Answer))
    return _written(specimen, case, place) if outcome is Outcome.RIGHT and case.write else (outcome, words)


def _written(specimen: Specimen, case: Case, place: Path) -> tuple[Outcome, str]:
    """The store seems whole: what becomes of it when it is written to."""

    def body() -> bytes:
        _prepare(case)
        entries = specimen.steps[-1].state.entries
        return msgspec.msgpack.encode(go_on(case.order.plan.config(place), entries))

    status, output = forked(body, TIMEOUT_S)
    answer = msgspec.msgpack.decode(output, type=GoneOn) if status == 0 else None
    return judge_writing(case.order.backend, status, answer)


def _prepare(case: Case) -> None:
    logging.disable(logging.CRITICAL)
    make_quick()
    if case.plant is not None:
        plant(case.plant)


def main() -> None:
    """Serve until the other end closes."""
    helper = _Helper()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        job: Make | Try = msgspec.json.decode(line, type=Make | Try)
        answers.write(msgspec.json.encode(helper.do(job)) + b"\n")


if __name__ == "__main__":
    main()
