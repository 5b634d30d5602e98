"""A place where driven processes run, one at a time: on a file system in memory if there is one.

A helper process imports everything once and forks a child for each run, because a fresh interpreter for each
would take most of the time. Where the shim could be built, it is loaded into the helper, and thus into
every child.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from raftstore.testing.crash.events import Event, decode, explanation_of
from raftstore.testing.crash.patience import PATIENCE_S
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.scratch import Scratch

Action = Literal["fail", "short", "kill", "kill half", "stop"]


class Fault(msgspec.Struct, frozen=True):
    """What the shim does to the `nth` call of the kinds in the mask `kinds`; `sticky`: to all later too."""

    kinds: int
    nth: int
    action: Action
    error: int = 0
    sticky: bool = False


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a driven process: `drive(plan, arena/store)`."""

    plan: Plan
    arena: str
    """The directory that the store's own directory is in; what happens below it is recorded."""
    events: str
    trace: str | None = None
    """The file for the record of what happened, if the shim is there."""
    fault: Fault | None = None
    kill_after_s: float | None = None
    timeout_s: float = PATIENCE_S


class Ending(msgspec.Struct, frozen=True):
    """How a driven process ended: its exit status, negative for a signal; None if it hung and was killed."""

    status: int | None


class Run(msgspec.Struct, frozen=True):
    """What is known of a driven process that is gone."""

    status: int | None
    events: list[Event]
    words: str
    """What it, or a library in it, said."""
    timeout_s: float = PATIENCE_S
    """How long it was waited for."""


STORE = "store"


class Lab:
    """Runs jobs. A context: at its end no process and no file is left."""

    def __init__(self, shim: Path | None = None, place: Path | None = None) -> None:
        """`place`: where stores are made; by default `/dev/shm`, else the directory for temporary files."""
        self._shim = shim
        memory = Path("/dev/shm")
        self._place = place or (memory if memory.is_dir() and os.access(memory, os.W_OK) else None)

    def __enter__(self) -> Self:
        self._held = Scratch("raftstore-crash-", self._place)
        self.scratch = self._held.__enter__()
        (self.scratch / "tmp").mkdir()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        environment["TMPDIR"] = str(self.scratch / "tmp")
        if self._shim is not None:
            environment["LD_PRELOAD"] = str(self._shim)
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "raftstore.testing.crash.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._helper.stdin, self._helper.stdout):
            if stream is not None:
                stream.close()
        self._helper.terminate()
        self._helper.wait()
        self._held.__exit__(None, None, None)

    def arena(self, name: str = "arena") -> Path:
        """An empty directory, for the directory of one store."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        return path

    def run(
        self,
        plan: Plan,
        arena: Path,
        *,
        trace: Path | None = None,
        fault: Fault | None = None,
        kill_after_s: float | None = None,
        timeout_s: float = PATIENCE_S,
    ) -> Run:
        """Drive `plan` on the store in `arena` and wait for the end of that process."""
        events = self.scratch / "events"
        for old in (events, explanation_of(events), *([trace] if trace is not None else [])):
            old.unlink(missing_ok=True)
        job = Job(
            plan=plan,
            arena=str(arena),
            events=str(events),
            trace=None if trace is None else str(trace),
            fault=fault,
            kill_after_s=kill_after_s,
            timeout_s=timeout_s,
        )
        ending = self._ask(job)
        words = explanation_of(events)
        return Run(
            ending.status,
            list(decode(events.read_bytes())) if events.exists() else [],
            words.read_text(errors="replace") if words.exists() else "",
            timeout_s,
        )

    def run_under(self, tracer: list[str], plan: Plan, arena: Path) -> Run:
        """As `run`, in a fresh process that is started by the command `tracer`."""
        events = self.scratch / "events"
        for old in (events, explanation_of(events)):
            old.unlink(missing_ok=True)
        job = msgspec.json.encode(Job(plan=plan, arena=str(arena), events=str(events))).decode()
        command = [*tracer, sys.executable, "-m", "raftstore.testing.crash.child", job]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        done = subprocess.run(command, env=environment, check=False, timeout=600)
        words = explanation_of(events)
        return Run(done.returncode, list(decode(events.read_bytes())), words.read_text(errors="replace"))

    @property
    def events_file(self) -> Path:
        """Where a driven process writes its events."""
        return self.scratch / "events"

    def _ask(self, job: Job) -> Ending:
        stdin, stdout = self._helper.stdin, self._helper.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(msgspec.json.encode(job) + b"\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise RuntimeError("the helper process that runs crash tests is gone")
        return msgspec.json.decode(answer, type=Ending)
