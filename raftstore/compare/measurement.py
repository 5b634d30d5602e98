"""What one workload did on one cell in one round, and how it is taken."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import msgspec

from raftstore.log import RaftLog


class Measurement(msgspec.Struct, frozen=True):
    """Counts and times of one slice of work."""

    calls: int
    entries: int
    """Appended or read; 0 where their number is not what takes the time."""
    seconds: float
    """Until the last call had returned: until everything was acknowledged."""
    durable_s: float
    """Until everything was durable as well. The same under `DiskFirst`."""
    p50_ms: float
    p99_ms: float
    """How long a call took."""
    writes: int = 0
    """Handed to the backend, each with its own sync."""
    ideal_writes: float | None = None
    """How many bare writes would make the same work durable; None for what writes nothing."""
    disk_ratio: float | None = None
    """Bytes that the store takes on disk per payload byte, space prepared ahead included."""


def measure_writes(
    log: RaftLog, work: Callable[[], list[float]], *, entries_a_call: int, calls_a_write: int = 1
) -> Measurement:
    """Run `work`, which returns how many seconds each call took, and wait until all of it is durable."""
    log.flush()
    writes, started = log.status().flushes, perf_counter()
    latencies = work()
    acknowledged = perf_counter()
    log.flush()
    durable = perf_counter()
    p50, p99 = quantiles_ms(latencies)
    return Measurement(
        calls=len(latencies),
        entries=len(latencies) * entries_a_call,
        seconds=acknowledged - started,
        durable_s=durable - started,
        p50_ms=p50,
        p99_ms=p99,
        writes=log.status().flushes - writes,
        ideal_writes=len(latencies) / calls_a_write,
    )


def timed(call: Callable[[], object]) -> float:
    """The seconds that `call` took."""
    started = perf_counter()
    call()
    return perf_counter() - started


def quantiles_ms(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99, in milliseconds."""
    ranked = sorted(seconds)
    p50, p99 = (ranked[min(int(len(ranked) * q), len(ranked) - 1)] for q in (0.5, 0.99))
    return p50 * 1000, p99 * 1000
