"""Makes the calls of a plan on a real store, through the public API, and tells of each.

Meant to run in a process of its own, which may be killed, or whose system calls may fail, at any instant.
With several threads each takes the next step, and gets it accepted, under one lock, and then waits for its
receipt without: so the order of acceptance is known, and many callers wait for the disk at a time.
"""

from __future__ import annotations

import errno
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from raftstore.entry import Entry, HardState
from raftstore.errors import (
    BackpressureError,
    GapError,
    RaftStoreError,
    StoreFailedError,
    StoreFullError,
    TruncatedError,
)
from raftstore.log import RaftLog
from raftstore.log import open as open_log
from raftstore.receipt import Receipt
from raftstore.testing.crash.events import Kind, Reporter
from raftstore.testing.crash.patience import PATIENCE_S
from raftstore.testing.crash.plan import Plan
from raftstore.testing.crash.workload import Step

PAUSE_S: Final = 0.003
IDLE_S: Final = 0.25
"""Longer than the log waits before it does its upkeep."""
RETRY_S: Final = 0.02
"""Before a step that found no room is tried again."""
WAIT_S: Final = 1.0
"""For a receipt, before looking whether the disk is full."""


class _StopError(Exception):
    """The workload cannot go on; whoever reads the events knows why."""


def drive(plan: Plan, path: Path, reporter: Reporter) -> None:
    """Open the store at `path`, make the calls of `plan`, close it. Never raises an `Exception`."""
    try:
        _Driver(plan, path, reporter).run()
    except _StopError:
        pass
    except Exception:  # noqa: BLE001  (told, and judged by whoever reads the events)
        reporter.tell(Kind.BROKEN, 0)
        reporter.explain(traceback.format_exc())


class _Driver:
    def __init__(self, plan: Plan, path: Path, reporter: Reporter) -> None:
        self._plan = plan
        self._config = plan.config(path)
        self._tell = reporter.tell
        self._explain = reporter.explain
        self._steps = plan.workload().steps
        self._accepting = threading.Lock()
        """Guards the three below."""
        self._next = 1
        self._watermark = -1
        self._receipts: list[tuple[int, Receipt]] = []
        self._stopped = threading.Event()
        self._is_full = False
        """The disk was full, and stayed so."""

    def run(self) -> None:
        self._log = self._open()
        try:
            if self._plan.threads == 1:
                self._work()
            else:
                self._work_in_threads()
        except BaseException:
            self._stopped.set()
            raise
        finally:
            self._close()

    def _open(self) -> RaftLog:
        try:
            log = open_log(self._config)
        except (OSError, RaftStoreError) as error:
            self._stopped.set()
            self._tell(Kind.FAILED, 0)
            self._explain(f"opening: {error!r}\n")
            raise _StopError from error
        self._tell(Kind.OPENED, self._next - 1)
        return log

    def _close(self) -> None:
        number, well = self._next - 1, not self._stopped.is_set()
        try:
            if self._is_closed(number) and well:
                self._tell(Kind.CLOSED, number)
        except StoreFailedError as error:
            if well:
                self._fail(number, error)

    def _is_closed(self, number: int) -> bool:
        """Close it, and again while the disk is full: what was acknowledged keeps it open."""
        for _ in range(self._plan.retries + 1):
            try:
                self._log.close()
            except StoreFullError:
                self._tell(Kind.REFUSED, number)
                time.sleep(RETRY_S)
            else:
                return True
        return False

    def _work_in_threads(self) -> None:
        def body() -> None:
            with suppress(_StopError):
                try:
                    self._work()
                except _StopError:
                    raise
                except Exception as error:  # noqa: BLE001
                    if isinstance(error, GapError) and self._waits_until_full():
                        return
                    self._stopped.set()
                    self._tell(Kind.BROKEN, self._next - 1)
                    self._explain(traceback.format_exc())

        threads = [threading.Thread(target=body) for _ in range(self._plan.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _waits_until_full(self) -> bool:
        """Whether another thread learns that the disk is full: what it added is gone, and leaves a gap."""
        end = time.monotonic() + PATIENCE_S / 4
        while not self._is_full and time.monotonic() < end:
            time.sleep(RETRY_S)
        return self._is_full

    def _work(self) -> None:
        while True:
            with self._accepting:
                number = self._next
                if number >= len(self._steps) or self._stopped.is_set():
                    break
                self._next += 1
                receipt = self._perform(number, self._steps[number])
                self._look()
            if self._plan.threads > 1 and receipt is not None:
                self._await(number, receipt)
        for number, receipt in self._receipts:
            self._await(number, receipt)

    def _perform(self, number: int, step: Step) -> Receipt | None:
        """One step, and again while the disk is full. With several threads, what can be pipelined is."""
        attempts = 0
        while True:
            self._tell(Kind.STARTED, number)
            try:
                result = self._call(step)
                break
            except (StoreFullError, BackpressureError) as error:
                self._tell(Kind.REFUSED, number)
                attempts += 1
                if attempts > self._plan.retries:
                    self._stop(error)
                time.sleep(RETRY_S)
            except StoreFailedError as error:
                self._fail(number, error)
        self._tell(Kind.RETURNED, number)
        if isinstance(result, Receipt):
            if self._plan.threads > 1:
                return result
            self._receipts.append((number, result))
        return None

    def _call(self, step: Step) -> Any:
        match step.call:
            case "reopen":
                self._log.flush()
                self._look()
                self._log.close()
                self._log = self._open()
            case "pause":
                time.sleep(PAUSE_S)
            case "idle":
                time.sleep(IDLE_S)
            case "save":
                self._log.save(**step.arguments[0])
            case "append" | "propose" | "splice" if self._plan.threads > 1:
                name = {"append": "submit"}.get(step.call, f"submit_{step.call}")
                return getattr(self._log, name)(*step.arguments)
            case _:
                return getattr(self._log, step.call)(*step.arguments)
        return None

    def _look(self) -> None:
        """Tell the watermark, if it moved, and which receipts are complete. Under the lock."""
        watermark, number = self._log.durable_index, self._next - 1
        if watermark != self._watermark:
            self._watermark = watermark
            self._tell(Kind.WATERMARK, number, watermark)
        waiting = self._receipts
        self._receipts = []
        for number, receipt in waiting:
            if receipt.done():
                self._await(number, receipt)
            else:
                self._receipts.append((number, receipt))

    def _await(self, number: int, receipt: Receipt) -> None:
        try:
            self._wait(receipt)
        except TruncatedError:
            return
        except (StoreFullError, BackpressureError) as error:
            self._tell(Kind.REFUSED, number)
            self._stop(error)
        except StoreFailedError as error:
            self._fail(number, error)
        self._tell(Kind.RECEIPT, number)

    def _wait(self, receipt: Receipt) -> None:
        """Wait for it; not for an entry that `MemFirst` keeps in memory because the disk stays full."""
        while True:
            try:
                receipt.wait(WAIT_S)
            except TimeoutError as error:
                if self._is_full or self._log.status().state == "full":
                    raise _StopError from error
            else:
                return

    def _stop(self, error: Exception) -> NoReturn:
        self._is_full = True
        self._stopped.set()
        self._explain(f"{error!r}\n")
        raise _StopError from error

    def _fail(self, number: int, error: Exception) -> NoReturn:
        """The log must be latched: nothing is acknowledged any more."""
        self._stopped.set()
        self._tell(Kind.FAILED, number, int(had_no_room(error)))
        self._explain(f"step {number}: {error!r}\n")
        log, late = self._log, HardState(10**6, "late")
        calls: list[Callable[[], object]] = [lambda: log.save_hard_state(late), self._append_late, log.flush]
        for call in calls:
            with suppress(RaftStoreError):
                call()
                self._tell(Kind.LIED, number)
        raise _StopError from error

    def _append_late(self) -> None:
        index = self._log.next_index
        self._log.append([Entry(10**6, index, b"acknowledged after a failure")])


def had_no_room(error: BaseException | None) -> bool:
    """Whether a full disk is among its causes. An error that was raised again may be one of its own."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False
