"""What one workload did on one cell in one round, and how it is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Annotated, Final

import msgspec

from raftstore.compare.written import bytes_written
from raftstore.log import RaftLog
from raftstore.meter import quantile

LADDER: Final = (*(step / 20 for step in range(20)), 0.98, 0.99, 0.995, 0.999, 1.0)
"""The quantiles that are kept of the latencies of a slice."""


Positive = Annotated[float, msgspec.Meta(gt=0)]
"""A file that says otherwise was not written by a run."""


class Measurement(msgspec.Struct, frozen=True):
    """Counts and times of one slice of work."""

    calls: Annotated[int, msgspec.Meta(gt=0)]
    entries: int
    """Appended or read; 0 where their number is not what takes the time."""
    seconds: float
    """Until the last call had returned: until everything was acknowledged."""
    durable_s: Positive
    """Until everything was durable as well. The same under `DiskFirst`."""
    p50_ms: float
    p99_ms: float
    """How long a call took."""
    ladder_ms: Sequence[float] = ()
    """The same at each quantile of `LADDER`; empty where a slice makes a single call."""
    writes: int = 0
    """Handed to the backend, each with its own sync."""
    ideal_writes: float | None = None
    """How many bare writes would make the same work durable; None for what writes nothing."""
    disk_ratio: float | None = None
    """Bytes that the store takes on disk per payload byte, space prepared ahead included."""
    written_ratio: float | None = None
    """Bytes handed to write calls per payload byte, space prepared ahead included."""


def measure_writes(
    log: RaftLog,
    work: Callable[[], list[float]],
    *,
    entries_a_call: int,
    entry_bytes: int = 0,
    calls_a_write: int = 1,
) -> Measurement:
    """Run `work`, which returns how many seconds each call took, and wait until all of it is durable."""
    log.flush()
    written = bytes_written()
    writes, started = log.status().flushes, perf_counter()
    latencies = work()
    acknowledged = perf_counter()
    log.flush()
    durable = perf_counter()
    payload = len(latencies) * entries_a_call * entry_bytes
    p50, p99 = quantiles_ms(latencies)
    return Measurement(
        calls=len(latencies),
        entries=len(latencies) * entries_a_call,
        seconds=acknowledged - started,
        durable_s=durable - started,
        p50_ms=p50,
        p99_ms=p99,
        ladder_ms=ladder_ms(latencies),
        writes=log.status().flushes - writes,
        ideal_writes=len(latencies) / calls_a_write,
        written_ratio=(bytes_written() - written) / payload or None if payload else None,
    )


def timed(call: Callable[[], object]) -> float:
    """The seconds that `call` took."""
    started = perf_counter()
    call()
    return perf_counter() - started


def quantiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """p50 and p99, in milliseconds."""
    ranked = sorted(seconds)
    return quantile(ranked, 0.5) * 1000, quantile(ranked, 0.99) * 1000


def ladder_ms(seconds: Sequence[float]) -> list[float]:
    """In milliseconds, at each quantile of `LADDER`; nothing for a single call."""
    ranked = sorted(seconds)
    return [quantile(ranked, share) * 1000 for share in LADDER] if len(ranked) > 1 else []
