"""What has to be looked at in a process of its own: `python -m benchmarks.child WHAT PATH`, one JSON line.

`cache`: how much the process grows when a store is read into the cache. `cache-traced`: the same, counted
by tracemalloc. `fill-and-die ENTRIES`: make a store and be killed. `append-alone`, `append-together`: calls
between two marks on stdout, for strace. `append-for SECONDS ROW`: those of a row, for strace and py-spy.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.appends import APPENDS, Workload, propose_in_tasks
from benchmarks.bench import ENTRY_BYTES, TERM, fill, open_log, wait_quiet
from raftstore import RaftLog
from raftstore.aio import AsyncRaftLog
from raftstore.compare.payloads import Payloads

CACHE_BYTES: Final = 1 << 30
CALLS: Final = 500
PROPOSERS: Final = 64
TOGETHER_S: Final = 1.0
WARM_S: Final = 0.1
MEASURED: Final = "measured"
"""The function whose time a sampling profiler counts."""
BEGIN: Final = b"begin of the measurement\n"
END: Final = b"end of the measurement\n"


def run_child(*arguments: str, prefix: Sequence[str] = (), dies: bool = False) -> dict[str, Any]:
    """What a child says last. With `dies` it says nothing and must have been killed."""
    command = [*prefix, sys.executable, "-m", "benchmarks.child", *arguments]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=root, timeout=300, check=not dies)
    if dies:
        if done.returncode != -signal.SIGKILL:
            raise RuntimeError(f"{arguments[0]} ended with {done.returncode}")
        return {}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def cache(path: Path) -> dict[str, float]:
    with open_log(path):
        pass  # Whatever opening needs is imported now.
    gc.collect()
    before = _resident_bytes()
    with open_log(path, cache_bytes=CACHE_BYTES, startup="preload") as log:
        gc.collect()
        return {"rss_bytes_per_entry": (_resident_bytes() - before) / len(log)}


def cache_traced(path: Path) -> dict[str, float]:
    tracemalloc.start()
    with open_log(path, cache_bytes=CACHE_BYTES, startup="preload") as log:
        gc.collect()
        return {"bytes_per_entry": tracemalloc.get_traced_memory()[0] / len(log)}


def fill_and_die(path: Path, entries: str) -> None:
    log = open_log(path)
    fill(log, int(entries))
    os.kill(os.getpid(), signal.SIGKILL)


def append_alone(path: Path) -> dict[str, int]:
    payloads = Payloads(ENTRY_BYTES, 1)
    with open_log(path) as log:
        log.propose(TERM, payloads.take())
        wait_quiet(log)
        os.write(1, BEGIN)
        for _ in range(CALLS):
            log.propose(TERM, payloads.take())
        os.write(1, END)
    return {"calls": CALLS}


def append_together(path: Path) -> dict[str, int]:
    with open_log(path) as log:
        asyncio.run(propose_in_tasks(AsyncRaftLog(log), PROPOSERS, TOGETHER_S / 4))
        wait_quiet(log)
        entries, flushes = log.last_index, log.status().flushes
        os.write(1, BEGIN)
        asyncio.run(propose_in_tasks(AsyncRaftLog(log), PROPOSERS, TOGETHER_S))
        os.write(1, END)
        return {"calls": log.last_index - entries, "flushes": log.status().flushes - flushes}


def append_for(path: Path, seconds: str, row: str) -> dict[str, int]:
    """The workload of a row."""
    workload = APPENDS[row]
    with open_log(path) as log:
        workload.work(log, WARM_S)
        wait_quiet(log)
        flushes = log.status().flushes
        os.write(1, BEGIN)
        measured(workload, log, float(seconds))
        os.write(1, END)
        return {"flushes": log.status().flushes - flushes}


def measured(workload: Workload, log: RaftLog, seconds: float) -> None:
    workload.work(log, seconds)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(what: str, path: str, *arguments: str) -> None:
    children: dict[str, Callable[..., object]] = {
        "cache": cache,
        "cache-traced": cache_traced,
        "fill-and-die": fill_and_die,
        "append-alone": append_alone,
        "append-together": append_together,
        "append-for": append_for,
    }
    print(json.dumps(children[what](Path(path), *arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
