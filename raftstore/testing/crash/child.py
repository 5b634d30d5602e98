"""The helper process of a `Lab`: forks a child for each job, waits for it, and says how it ended."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from raftstore.errors import RaftStoreError
from raftstore.registry import backend_class
from raftstore.testing.crash.crowd_driver import drive_crowd
from raftstore.testing.crash.driver import drive
from raftstore.testing.crash.events import Reporter, explanation_of
from raftstore.testing.crash.lab import STORE, Ending, Fault, Job
from raftstore.testing.crash.plants import plant

POLL_S: Final = 0.0005
DUMP: Final = signal.SIGUSR1
"""Makes a driven process say what its threads do. That may end it: so it is sent to one that hangs only."""
DUMP_S: Final = 1.0
_ACTIONS: Final = {"fail": 1, "short": 2, "kill": 3, "kill half": 4, "stop": 5}
_NO_FAULT: Final = Fault(0, 0, "fail")


def main() -> None:
    """Do the one job that the argument gives, or serve until the other end closes, or SIGTERM comes."""
    for argument in sys.argv[1:]:
        _live(msgspec.json.decode(argument, type=Job))
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit())
    for line in sys.stdin.buffer:
        job = msgspec.json.decode(line, type=Job)
        with suppress(RaftStoreError):
            backend_class(job.plan.backend)  # imported here, once, and not in every child
        sys.stdout.buffer.write(msgspec.json.encode(_run(job)) + b"\n")
        sys.stdout.buffer.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway


def _run(job: Job) -> Ending:
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        _live(job)
    try:
        return _await(pid, job)
    except SystemExit:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _await(pid: int, job: Job) -> Ending:
    killed_at = None if job.kill_after_s is None else time.monotonic() + job.kill_after_s
    gives_up_at = time.monotonic() + job.timeout_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return Ending(os.waitstatus_to_exitcode(status))
        now = time.monotonic()
        if killed_at is not None and now >= killed_at:
            os.kill(pid, signal.SIGKILL)
            killed_at = None
        if now >= gives_up_at:
            _end(pid)
            return Ending(None)
        time.sleep(POLL_S)


def _end(pid: int) -> None:
    """Let it say where it hangs, then kill it. However it ends now, it hung."""
    os.kill(pid, DUMP)
    give_up_at = time.monotonic() + DUMP_S
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() >= give_up_at:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(POLL_S)
    os.waitpid(pid, 0)


def _live(job: Job) -> NoReturn:
    """The whole life of a driven process."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        events = Path(job.events)
        words = os.open(explanation_of(events), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        silent = os.open(os.devnull, os.O_RDWR)
        for fd, target in ((silent, 0), (silent, 1), (words, 2)):
            os.dup2(fd, target)
        faulthandler.register(DUMP, all_threads=True)
        reporter = Reporter(events)
        if job.plan.plant is not None:
            plant(job.plan.plant)
        _arm(job, reporter.fd)
        live = drive_crowd if job.plan.mix == "crowd" else drive
        live(job.plan, Path(job.arena, STORE), reporter)
    except BaseException as error:  # noqa: BLE001
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)


def _arm(job: Job, events: int) -> None:
    """Let the shim record and fail what happens from here on."""
    if job.trace is None and job.fault is None:
        return
    trace = -1
    if job.trace is not None:
        trace = os.open(job.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    fault = job.fault or _NO_FAULT
    arm = ctypes.CDLL(None).crash_arm
    arm.argtypes = [
        ctypes.c_char_p,
        *[ctypes.c_int] * 2,
        ctypes.c_uint32,
        ctypes.c_uint64,
        *[ctypes.c_int] * 3,
    ]
    arm.restype = None
    arm(
        os.fsencode(job.arena),
        trace,
        events,
        fault.kinds,
        fault.nth,
        _ACTIONS[fault.action],
        fault.error,
        int(fault.sticky),
    )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # who started this one was interrupted, too
        main()
