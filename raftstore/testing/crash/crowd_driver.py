"""Several threads that call at once, in no order: each does its own steps, and tells of each."""

from __future__ import annotations

import threading
import traceback
from contextlib import suppress
from pathlib import Path
from random import Random

from raftstore.entry import HardState
from raftstore.errors import BackpressureError, RaftStoreError, StoreFailedError, StoreFullError
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.receipt import Receipt
from raftstore.testing.crash.crowd import META, SAVER, TERM, THREADS, VOTER, name_of, payload
from raftstore.testing.crash.events import Kind, Reporter
from raftstore.testing.crash.patience import PATIENCE_S
from raftstore.testing.crash.plan import Plan


def drive_crowd(plan: Plan, path: Path, reporter: Reporter) -> None:
    """Open the store at `path`, let `THREADS` threads make `plan.steps` calls each, close it."""
    try:
        log = open_log(plan.config(path))
    except (OSError, RaftStoreError) as error:
        reporter.tell(Kind.FAILED, 0)
        reporter.explain(f"opening: {error!r}\n")
        return
    reporter.tell(Kind.OPENED, 0)
    threads = [threading.Thread(target=_Member(plan, log, reporter, n).run) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with suppress(StoreFailedError, StoreFullError):
        log.close()
        reporter.tell(Kind.CLOSED, 0)


class _Member:
    """One thread of the crowd."""

    def __init__(self, plan: Plan, log: RaftLog, reporter: Reporter, thread: int) -> None:
        self._plan = plan
        self._log = log
        self._reporter = reporter
        self._thread = thread
        self._random = Random(f"{plan.seed}/{thread}")
        self._receipts: list[tuple[int, Receipt]] = []

    def run(self) -> None:
        try:
            for number in range(1, self._plan.steps + 1):
                self._step(number)
            self._wait()
        except (StoreFailedError, StoreFullError, BackpressureError):
            self._reporter.tell(Kind.FAILED, 0)
        except Exception:  # noqa: BLE001  (told, and judged by whoever reads the events)
            self._reporter.tell(Kind.BROKEN, 0)
            self._reporter.explain(traceback.format_exc())

    def _step(self, number: int) -> None:
        step, log, tell = name_of(self._thread, number), self._log, self._reporter.tell
        tell(Kind.STARTED, step)
        if self._thread == VOTER:
            log.save_hard_state(HardState(number, f"n{number}"))
        elif self._thread == SAVER:
            log.put_meta(META, b"%d" % number)
        else:
            self._receipts.append((step, log.submit_propose(TERM, [payload(self._plan.seed, step)])))
        tell(Kind.RETURNED, step)
        if self._random.random() < 0.5:
            self._wait()

    def _wait(self) -> None:
        """For all receipts of this thread."""
        for step, receipt in self._receipts:
            receipt.wait(PATIENCE_S)
            self._reporter.tell(Kind.RECEIPT, step)
        self._receipts = []
