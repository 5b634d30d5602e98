"""From samples to rows: the median over the rounds, for each workload on each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

import msgspec

from raftstore.compare.measurement import Positive
from raftstore.compare.rounds import Sample

BareTimes = Mapping[tuple[int, str], float]
"""Seconds of a bare write, by round and workload."""


class Row(msgspec.Struct, frozen=True):
    """One workload on one cell. Every number is the median over the rounds; None where it has no meaning."""

    workload: str
    backend: str
    strategy: str
    flush_policy: str
    rounds: int
    entries_per_s: float | None
    """Until acknowledged, or read."""
    durable_entries_per_s: float | None
    """Until durable."""
    ratio: Positive | None
    """The time that the bare disk takes for the same work, by the time until durable: 1 is the bare disk."""
    ratio_min: float | None
    ratio_max: float | None
    """Of the rounds."""
    p50_ms: Positive
    p99_ms: float | None
    """How long a call takes; no p99 where a round makes a single call."""
    syncs_per_call: float | None
    """Writes handed to the backend, each with its own sync."""
    disk_ratio: float | None
    """Bytes on disk per payload byte, space prepared ahead included."""
    written_ratio: float | None
    """Bytes handed to write calls per payload byte, space prepared ahead included."""
    bare_ms: float | None
    """One bare durable write of the size that would be ideal."""

    @property
    def cell(self) -> tuple[str, str, str]:
        return self.backend, self.strategy, self.flush_policy


def summarize(samples: Sequence[Sample]) -> list[Row]:
    """A row for each workload on each cell, sorted by cell; workloads stay in the order of the samples."""
    bare = bare_times(samples)
    groups: dict[tuple[str, str, str, str], list[Sample]] = {}
    for sample in samples:
        key = (sample.workload, sample.backend, sample.strategy, sample.flush_policy)
        groups.setdefault(key, []).append(sample)
    order = {name: position for position, name in enumerate(dict.fromkeys(key[0] for key in groups))}
    return [_row(groups[key], bare) for key in sorted(groups, key=lambda key: (order[key[0]], key[1:]))]


def bare_times(samples: Iterable[Sample]) -> BareTimes:
    """What a bare write of a workload took in a round: the median of what was measured beside its cells."""
    found: dict[tuple[int, str], list[float]] = {}
    for sample in samples:
        if sample.bare_s is not None:
            found.setdefault((sample.round, sample.workload), []).append(sample.bare_s)
    return {key: median(times) for key, times in found.items()}


def ratio_of(sample: Sample, bare: BareTimes) -> float | None:
    """How near the bare disk a sample came, in its round."""
    ideal = sample.measured.ideal_writes
    bare_s = bare.get((sample.round, sample.workload))
    if ideal is None or bare_s is None:
        return None
    return bare_s * ideal / sample.measured.durable_s


def _row(samples: Sequence[Sample], bare: BareTimes) -> Row:
    first = samples[0]
    ratios = [ratio for sample in samples if (ratio := ratio_of(sample, bare)) is not None]
    bare_s = [bare[key] for sample in samples if (key := (sample.round, sample.workload)) in bare]

    def middle(value: Callable[[Sample], float | None]) -> float | None:
        values = [number for sample in samples if (number := value(sample)) is not None]
        return median(values) if values else None

    return Row(
        workload=first.workload,
        backend=first.backend,
        strategy=first.strategy,
        flush_policy=first.flush_policy,
        rounds=len(samples),
        entries_per_s=middle(_rate),
        durable_entries_per_s=middle(_durable_rate),
        ratio=median(ratios) if ratios else None,
        ratio_min=min(ratios, default=None),
        ratio_max=max(ratios, default=None),
        p50_ms=median(sample.measured.p50_ms for sample in samples),
        p99_ms=middle(lambda sample: sample.measured.p99_ms if sample.measured.calls > 1 else None),
        syncs_per_call=middle(_syncs_per_call),
        disk_ratio=middle(lambda sample: sample.measured.disk_ratio),
        written_ratio=middle(lambda sample: sample.measured.written_ratio),
        bare_ms=median(bare_s) * 1000 if bare_s else None,
    )


def _rate(sample: Sample) -> float | None:
    done = sample.measured
    return done.entries / done.seconds if done.entries else None


def _durable_rate(sample: Sample) -> float | None:
    done = sample.measured
    return done.entries / done.durable_s if done.entries and done.ideal_writes is not None else None


def _syncs_per_call(sample: Sample) -> float | None:
    done = sample.measured
    return done.writes / done.calls if done.ideal_writes is not None else None
