"""One PySyncObj node, a process of its own: `python -m benchmarks.pysyncobj_node JSON`.

It takes orders on stdin and answers each on stdout, one JSON object a line, and ends when stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from raftstore.adapters.pysyncobj import install, library
from raftstore.adapters.pysyncobj.wiring import journal_of

_pysyncobj: Any = library.load()
_SyncObj: Any = _pysyncobj.SyncObj
_replicated: Any = _pysyncobj.replicated

WAIT_S: Final = 60.0
NEVER: Final = 10**9


class Sink(_SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """A state machine that counts the bytes it is given: what is measured is the journal and the library."""

    def __init__(self, address: str, others: list[str], journal: str) -> None:
        self.bytes = 0
        conf = _pysyncobj.SyncObjConf(
            journalFile=journal,
            connectionRetryTime=0.2,
            logCompactionMinEntries=NEVER,
            logCompactionMinTime=NEVER,
        )
        super().__init__(address, others, conf)  # pyright: ignore[reportUnknownMemberType]

    @_replicated  # type: ignore[untyped-decorator]
    def put(self, data: bytes) -> None:
        self.bytes += len(data)


def run(node: Sink, commands: int, size: int) -> dict[str, float]:
    """Give the node `commands` of `size` bytes at once; how long until the last of them was applied."""
    payload, done = (b"{'key': 'value'} " * size)[:size], threading.Event()
    left, failed = commands, 0

    def applied(_result: object, error: int) -> None:
        nonlocal left, failed
        left -= 1
        failed += error != _pysyncobj.FAIL_REASON.SUCCESS
        if left == 0:
            done.set()

    started = time.perf_counter()
    for _ in range(commands):
        node.put(payload, callback=applied)
    finished = done.wait(WAIT_S)
    return {"seconds": time.perf_counter() - started, "failed": failed + (0 if finished else left)}


def status(node: Sink) -> dict[str, Any]:
    journal = journal_of(node)
    return {
        "leads": node._isLeader(),
        "ready": node.isReady(),
        "applied_bytes": node.bytes,
        "last_applied": node.raftLastApplied,
        "syncs": 0 if journal is None else journal.log.status().flushes,
        "memory_peak_bytes": peak_memory_bytes(),
    }


def peak_memory_bytes() -> int:
    """The most that this process ever had in memory (proc(5), VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Run the node until stdin ends."""
    spec = json.loads(sys.argv[1])
    if "://" in spec["journal"]:
        install()
    started = time.perf_counter()
    node = Sink(spec["address"], spec["others"], spec["journal"])
    opened = time.perf_counter() - started
    for line in sys.stdin:
        order = json.loads(line)
        answer = run(node, **order["run"]) if "run" in order else status(node) | {"open_seconds": opened}
        print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
