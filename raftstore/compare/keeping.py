"""Workloads on a log that holds entries: filling, opening, reading, truncating, purging.

What is read is in the page cache of the system by then: these numbers compare engines, not disks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from raftstore.compare.budget import Budget
from raftstore.compare.cells import Cell
from raftstore.compare.measurement import Measurement, ladder_ms, measure_writes, quantiles_ms, timed
from raftstore.compare.payloads import Payloads
from raftstore.log import RaftLog, open

FILL_BATCH: Final = 1000
ENTRY_BYTES: Final = 100
STEPS: Final = 5
"""Calls in which a part of the log is dropped."""
SMALL_WRITE_BYTES: Final = 64
"""What a bare write that only moves a bound would take."""


class KeptStore:
    """A store of one cell and the log that is open on it. Use it as a context manager."""

    def __init__(self, cell: Cell, path: Path, entries: int) -> None:
        self.entries = entries
        self._cell = cell
        self._path = path
        self.log = open(cell.config(path))

    def __enter__(self) -> KeptStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.log.close()

    def reopen(self, *, cache_bytes: int | None = None) -> RaftLog:
        """Close the log cleanly and open it again, with nothing of it in memory but what opening loads."""
        self.log.close()
        self.log = open(self._cell.config(self._path, cache_bytes=cache_bytes))
        return self.log


class Keeping(msgspec.Struct, frozen=True):
    """One piece of work on a filled store."""

    name: str
    title: str
    run: Callable[[KeptStore, Budget], Measurement]
    write_bytes: int | None = None
    """What an ideal log would write at a time; None for what writes nothing."""


def fill(store: KeptStore, budget: Budget) -> Measurement:
    """Append all entries, whatever the budget: the other workloads need them."""
    log, payloads = store.log, Payloads(ENTRY_BYTES, FILL_BATCH)

    def work() -> list[float]:
        calls = -(-store.entries // FILL_BATCH)
        return [timed(lambda: log.propose(1, payloads.take())) for _ in range(calls)]

    done = measure_writes(log, work, entries_a_call=FILL_BATCH, entry_bytes=ENTRY_BYTES)
    disk_ratio = log.status().bytes_on_disk / (len(log) * ENTRY_BYTES)
    return msgspec.structs.replace(done, disk_ratio=disk_ratio)


def grow(store: KeptStore, entries: int) -> None:
    """Append until the log holds `entries`."""
    payloads = Payloads(ENTRY_BYTES, FILL_BATCH)
    while len(store.log) < entries:
        store.log.propose(1, payloads.take()[: entries - len(store.log)])


def open_lazily(store: KeptStore, budget: Budget) -> Measurement:
    """Open after a clean close."""
    return _once(store.reopen().recovery.seconds, entries=0)


def read_forward(store: KeptStore, budget: Budget) -> Measurement:
    """Read the whole log once, from its beginning."""
    log = store.reopen()
    seconds = timed(lambda: sum(1 for _ in log.scan()))
    return _once(seconds, entries=len(log))


def read_anywhere(store: KeptStore, budget: Budget) -> Measurement:
    """Read single entries in no order, keeping none in a cache."""
    log, order = store.reopen(cache_bytes=0), random.Random(len(store.log))
    last = log.last_index
    latencies = [timed(lambda: log.entry(order.randint(1, last))) for _ in budget.calls(ENTRY_BYTES)]
    p50, p99 = quantiles_ms(latencies)
    seconds = sum(latencies)
    return Measurement(len(latencies), len(latencies), seconds, seconds, p50, p99, ladder_ms(latencies))


def truncate_tail(store: KeptStore, budget: Budget) -> Measurement:
    """Drop the newest tenth, in a few steps."""
    log = store.log
    step = len(log) // (10 * STEPS)
    return _steps(log, lambda: log.truncate(log.next_index - step))


def purge_half(store: KeptStore, budget: Budget) -> Measurement:
    """Drop the older half of what there is, in a few steps."""
    log = store.log
    step = len(log) // (2 * STEPS)
    return _steps(log, lambda: log.purge(log.anchor.index + step))


def _once(seconds: float, entries: int) -> Measurement:
    return Measurement(1, entries, seconds, seconds, seconds * 1000, seconds * 1000)


def _steps(log: RaftLog, call: Callable[[], object]) -> Measurement:
    return measure_writes(log, lambda: [timed(call) for _ in range(STEPS)], entries_a_call=0)


KEEPING: Final = (
    Keeping("fill", f"fill, {FILL_BATCH} × {ENTRY_BYTES}B a call", fill, FILL_BATCH * ENTRY_BYTES),
    Keeping("open", "open lazily after a clean close", open_lazily),
    Keeping("read-forward", "read forward, from disk", read_forward),
    Keeping("read-random", "read single entries at random, from disk", read_anywhere),
    Keeping("truncate", f"truncate the newest tenth in {STEPS} calls", truncate_tail, SMALL_WRITE_BYTES),
    Keeping("purge", f"purge the older half in {STEPS} calls", purge_half, SMALL_WRITE_BYTES),
)
"""In the order in which they are run on one store."""
