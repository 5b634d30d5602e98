"""From the rows and samples of a comparison to the points of a chart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from statistics import median

import msgspec

from raftstore.compare.measurement import LADDER
from raftstore.compare.need import Cell
from raftstore.compare.rounds import Sample
from raftstore.compare.summary import Row

Value = Callable[[Row], float | None]


class Curve(msgspec.Struct, frozen=True):
    """One line of a chart."""

    cell: Cell
    x: Sequence[float]
    y: Sequence[float]


def ladders(samples: Iterable[Sample], workload: str) -> list[Curve]:
    """Of each cell the latency, in milliseconds, at each quantile of `LADDER`: the median over the rounds."""
    rounds: dict[Cell, list[Sequence[float]]] = {}
    for sample in samples:
        if sample.workload == workload and len(sample.measured.ladder_ms) == len(LADDER):
            cell = (sample.backend, sample.strategy, sample.flush_policy)
            rounds.setdefault(cell, []).append(sample.measured.ladder_ms)
    return [
        Curve(cell, [median(step) for step in zip(*found, strict=True)], LADDER)
        for cell, found in rounds.items()
    ]


def throughput(rows: Iterable[Row], names: str) -> list[Curve]:
    """Durable entries a second of each cell, over the number in the workload's name: `names` is a pattern
    with one group for that number."""
    return _over_number(rows, names, lambda row: row.durable_entries_per_s)


def opening(rows: Iterable[Row]) -> list[Curve]:
    """Milliseconds to open, over the entries in the log."""
    return _over_number(rows, r"open-(\d+)", lambda row: row.p50_ms)


def _over_number(rows: Iterable[Row], names: str, value: Value) -> list[Curve]:
    points: dict[Cell, list[tuple[float, float]]] = {}
    for row in rows:
        named, found = re.fullmatch(names, row.workload), value(row)
        if named is not None and found is not None:
            points.setdefault(row.cell, []).append((int(named[1]), found))
    return [
        Curve(cell, *map(list, zip(*sorted(found), strict=True)))
        for cell, found in points.items()
        if len(found) > 1
    ]
