"""Looks at stores in a process of its own, which may hang or die of them."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import select
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from raftstore import config, registry
from raftstore.options import option_types
from raftstore.testing.crash.observe import observe
from raftstore.testing.crash.oracle import Observation, Verdict
from raftstore.testing.crash.patience import PATIENCE_S, hang
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.plants import plant

TRIAL_EVERY: Final = 64
"""The `rocksdb` backend tries a store in a child process first. That takes longer than all the rest and
guards against what the process here guards against, so it is left out but for one opening in so many."""
RENEW_EVERY: Final = 4000
"""Stores are opened so often in one process, before a fresh one takes over."""


class Order(msgspec.Struct, frozen=True):
    plan: Plan
    path: str


class Checker:
    """Calls `observe` in another process. A context: at its end that process is gone.

    The plant of the first plan stays in that process.
    """

    def __init__(self, timeout_s: float = PATIENCE_S) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._checked = 0
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (as long as this object)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._words.close()

    def renew(self) -> None:
        """The next check is in a new process: that of a plan with another plant."""
        self._end()

    def check(self, plan: Plan, path: Path) -> Observation | tuple[Verdict, str]:
        """What is found at `path`, or CRASH or HANG with what is known of it."""
        process = self._running()
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(msgspec.json.encode(Order(plan, str(path))) + b"\n")
        stdin.flush()
        ready, _, _ = select.select([stdout], [], [], self._timeout_s)
        if not ready:
            self._end()
            return Verdict.HANG, hang("no answer", self._timeout_s)
        answer = stdout.readline()
        if not answer:
            status = process.wait()
            self._end()
            return Verdict.CRASH, f"the process ended with {status}: {self._said()}"
        return msgspec.json.decode(answer, type=Observation)

    def _running(self) -> subprocess.Popen[bytes]:
        self._checked += 1
        if self._checked % RENEW_EVERY == 0:
            self._end()
        if self._process is None:
            self._words.truncate(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "raftstore.testing.crash.check"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
            )
        return self._process

    def _said(self) -> str:
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - 800))
        return self._words.read().decode(errors="replace")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def main() -> None:
    """The other process: serves until its input ends."""
    logging.disable(logging.CRITICAL)
    _remember_backends()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for number, line in enumerate(sys.stdin.buffer):
        order = msgspec.json.decode(line, type=Order)
        _try_first(order.plan.backend, number % TRIAL_EVERY == 0)
        if number == 0 and order.plan.plant is not None:
            plant(order.plan.plant)
        found = observe(order.plan.config(Path(order.path)), crowd=order.plan.mix == "crowd")
        answers.write(msgspec.json.encode(found) + b"\n")


def _remember_backends() -> None:
    """Looking for them among all that is installed takes longer than opening a store."""
    registry.backend_class = cache(registry.backend_class)
    registry.backend_names = cache(registry.backend_names)
    setattr(config, "option_types", cache(option_types))  # noqa: B010  (for the type checkers it is not there)
    gc.freeze()


def _try_first(backend: str, wanted: bool) -> None:
    if backend != "rocksdb":
        return
    opening: Any = importlib.import_module("raftstore_rocksdb.opening")
    if not hasattr(opening, "_raftstore_look_first"):
        opening._raftstore_look_first = opening._look_first
    opening._look_first = opening._raftstore_look_first if wanted else _no_trial


def _no_trial(_path: Path, _timeout_s: float) -> list[str]:
    return []


if __name__ == "__main__":
    main()
