"""Two runs side by side: two disks, or two versions; and what differs by more than noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final, Literal

import msgspec

from raftstore.compare.report import Report
from raftstore.compare.rounds import Sample
from raftstore.compare.summary import bare_times, ratio_of

CHANGE_MIN: Final = 1.1
"""A factor nearer to 1 is called noise, however steady the rounds were."""
ROUNDS_MIN: Final = 2
"""A single round has no spread to judge by."""

Key = tuple[str, str, str, str]
"""Workload, backend, strategy and flush policy."""
Measure = Literal["time", "x bare"]
Verdict = Literal["faster", "slower", "noise", "one round only"]
Times = Mapping[Key, Sequence[float]]
"""Of every round."""


class Change(msgspec.Struct, frozen=True):
    """One workload on one cell, in both runs."""

    key: Key
    measure: Measure
    before: float
    after: float
    """Medians over the rounds: seconds a call, or entries a call where it has them; or the ratio to the bare
    disk."""
    factor: float
    """How many times faster: above 1 is better."""
    verdict: Verdict


def compare(before: Report, after: Report) -> list[Change]:
    """What both runs measured, by time and, for what writes, beside the bare disk of its own run.

    A difference is no noise if the rounds of the two runs do not overlap, and the medians differ by more than
    the usual spread between rounds of that workload, and by more than `CHANGE_MIN`.
    """
    return [
        *_changes("time", _times(before.samples), _times(after.samples)),
        *_changes("x bare", _costs(before.samples), _costs(after.samples)),
    ]


def differences(before: Report, after: Report) -> list[str]:
    """What else is not the same in the two runs."""
    found: list[str] = []
    for name in before.machine.__struct_fields__:
        old, new = getattr(before.machine, name), getattr(after.machine, name)
        if old != new:
            found.append(f"{name}: {old} → {new}")
    if before.entries != after.entries:
        found.append(f"entries: {before.entries} → {after.entries}")
    return [*found, *_only("before", before, after), *_only("after", after, before)]


def _only(when: str, run: Report, other: Report) -> Iterable[str]:
    """What just one of the two runs measured."""
    for place, name in enumerate(("workload", "backend", "strategy", "policy")):
        missing = {_key(sample)[place] for sample in run.samples} - {
            _key(sample)[place] for sample in other.samples
        }
        if missing:
            yield f"{name} only {when}: {', '.join(sorted(missing))}"


def _changes(measure: Measure, before: Times, after: Times) -> Iterable[Change]:
    spreads = _spreads(before, after)
    for key in before:
        if key in after:
            yield _change(key, measure, before[key], after[key], spreads[key[0]])


def _change(
    key: Key, measure: Measure, before: Sequence[float], after: Sequence[float], spread: float
) -> Change:
    factor = median(before) / median(after)
    old, new = median(before), median(after)
    if measure == "x bare":
        old, new = 1 / old, 1 / new
    return Change(key, measure, old, new, factor, _verdict(before, after, factor, spread))


def _verdict(before: Sequence[float], after: Sequence[float], factor: float, spread: float) -> Verdict:
    if min(len(before), len(after)) < ROUNDS_MIN:
        return "one round only"
    overlap = min(before) <= max(after) and min(after) <= max(before)
    if overlap or max(factor, 1 / factor) <= max(CHANGE_MIN, spread):
        return "noise"
    return "faster" if factor > 1 else "slower"


def _spreads(*runs: Times) -> dict[str, float]:
    """Of each workload: the slowest round by the fastest, the median over its cells in both runs."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for key, times in run.items():
            found.setdefault(key[0], []).append(max(times) / min(times))
    return {workload: median(spreads) for workload, spreads in found.items()}


def _times(samples: Sequence[Sample]) -> Times:
    """Seconds of an entry, or of a call that has none, until durable."""
    found: dict[Key, list[float]] = {}
    for sample in samples:
        done = sample.measured
        found.setdefault(_key(sample), []).append(done.durable_s / (done.entries or done.calls))
    return found


def _costs(samples: Sequence[Sample]) -> Times:
    """The time until durable by the time of the bare disk, in the same round."""
    bare, found = bare_times(samples), dict[Key, list[float]]()
    for sample in samples:
        if (ratio := ratio_of(sample, bare)) is not None:
            found.setdefault(_key(sample), []).append(1 / ratio)
    return found


def _key(sample: Sample) -> Key:
    return sample.workload, sample.backend, sample.strategy, sample.flush_policy
