"""What costs processor time or memory and no disk: `MemFirst` appends, cached entries."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Final

from benchmarks.bench import ENTRY_BYTES, TERM, Bench
from benchmarks.child import run_child
from benchmarks.result import Outcome
from raftstore import Batch, MemFirst
from raftstore.compare.payloads import Payloads

ROUNDS: Final = 10
ENTRIES: Final = 50_000
"""Of a round: their pending bytes stay below the limit, so that nobody waits for the disk."""


def mem_first(batch: int) -> Callable[[Bench], Outcome]:
    """Microseconds of processor time that an entry costs the caller, `batch` entries a call."""

    def run(bench: Bench) -> Outcome:
        callers: list[float] = []
        wholes: list[float] = []
        payloads = Payloads(ENTRY_BYTES, batch)
        with bench.new_log(strategy=MemFirst(), flush_policy=Batch(1000, 10)) as log:
            for _ in range(bench.rounds(ROUNDS)):
                calls = [payloads.take() for _ in range(ENTRIES // batch)]
                gc.collect()
                thread, process = time.thread_time(), time.process_time()
                for payload in calls:
                    log.propose(TERM, payload)
                callers.append((time.thread_time() - thread) * 1e6 / ENTRIES)
                log.flush()
                wholes.append((time.process_time() - process) * 1e6 / ENTRIES)
                log.purge(log.last_index)
        return Outcome(callers, {"whole process until durable, µs an entry": median(wholes)})

    return run


def cached_entry(bench: Bench) -> Outcome:
    """Bytes that the process grows by for each entry that is read into the cache."""
    path = str(bench.million_path())
    grown = [run_child("cache", path) for _ in range(bench.rounds(3))]
    return Outcome(
        [found["rss_bytes_per_entry"] for found in grown],
        {"objects (tracemalloc), B": run_child("cache-traced", path)["bytes_per_entry"]},
    )
