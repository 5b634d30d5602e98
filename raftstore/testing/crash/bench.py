"""A lab, somebody who checks, and a tally: what every method works with."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from raftstore.testing.crash import straced
from raftstore.testing.crash.check import Checker
from raftstore.testing.crash.events import Kind
from raftstore.testing.crash.lab import STORE, Fault, Lab, Run
from raftstore.testing.crash.oracle import History, Observation, Verdict
from raftstore.testing.crash.patience import hang
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.record import Record, read_trace
from raftstore.testing.crash.tally import Tally

Context = TypeVar("Context", bound=AbstractContextManager[Any])


class Bench:
    """A context: at its end no process and no file is left."""

    def __init__(self, shim: Path | None, place: Path | None = None) -> None:
        """`place`: where stores are made, see `Lab`."""
        self.shim = shim
        self.deadline = float("inf")
        """By `time.monotonic`: after it, methods begin nothing more."""
        self.is_enough: Callable[[Tally], bool] = lambda tally: False
        """Whether what was counted is enough: then, too, methods begin nothing more."""
        self.tally = Tally()
        self.lab = Lab(shim, place)
        self.checker = Checker()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.lab)
            stack.enter_context(self.checker)
            self._open = stack.pop_all()
        self._opened: dict[type, Any] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def opened(self, kind: type[Context]) -> Context:
        """The one `kind()`: a context that is entered when it is first asked for, and left with the bench."""
        if kind not in self._opened:
            self._opened[kind] = self._open.enter_context(kind())
        return cast("Context", self._opened[kind])

    @property
    def is_over(self) -> bool:
        """Whether to begin nothing more."""
        return time.monotonic() >= self.deadline or self.is_enough(self.tally)

    @property
    def can_record(self) -> bool:
        """Whether there is anything to record with."""
        return self.shim is not None or shutil.which("strace") is not None

    def record(self, plan: Plan, fault: Fault | None = None) -> tuple[Run, list[Record]]:
        """Drive `plan` on a new store; what happened on its disk. Without the shim no `fault` happens."""
        trace, arena = self.lab.scratch / "trace", self.lab.arena()
        if self.shim is None:
            run = self.lab.run_under(straced.command(trace), plan, arena)
            return run, list(straced.read_strace(trace, arena, self.lab.events_file))
        run = self.lab.run(plan, arena, trace=trace, fault=fault)
        return run, list(read_trace(trace)) if trace.exists() else []

    def judge(
        self, plan: Plan, run: Run, method: str, where: str, *, killed: bool
    ) -> tuple[Verdict, History]:
        """How the driven process ended, and what is found in its store, which is opened for that."""
        history = History(plan)
        for event in run.events:
            history.feed(event)
        verdict, words = self.of_process(run, history, killed=killed)
        if verdict is Verdict.OK:
            found = self.checker.check(plan, self.lab.scratch / "arena" / STORE)
            if isinstance(found, Observation):
                verdict, words = history.judge(found, history.promise, history.promise)
            else:
                verdict, words = found
        self.tally.count(method, verdict)
        if verdict is not Verdict.OK:
            self.tally.fail(verdict, f"{plan.title}; {where}", f"{words}\n{run.words[-1500:]}".strip())
        return verdict, history

    def of_process(self, run: Run, history: History, *, killed: bool) -> tuple[Verdict, str]:
        """How the process itself ended, whatever is found in its store."""
        if run.status is None:
            return Verdict.HANG, hang("the process did not end", run.timeout_s)
        if Kind.BROKEN in history.told or (run.status != 0 and not killed):
            return Verdict.CRASH, f"the process ended with {run.status}"
        if Kind.LIED in history.told:
            return Verdict.LOST, "a write was acknowledged after a failure, without opening again"
        return Verdict.OK, ""
