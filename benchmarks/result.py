"""What is wanted, what was measured, and how the two are kept in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec


class Target(msgspec.Struct, frozen=True):
    """A bound that the median of the rounds should keep."""

    kind: Literal["at least", "at most"]
    bound: float
    unit: str = ""

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.kind == "at least" else value <= self.bound


class Outcome(msgspec.Struct, frozen=True):
    """The values of the rounds, in the unit of the target, and numbers to be shown beside them."""

    values: Sequence[float]
    beside: Mapping[str, float | str] = {}


class Result(msgspec.Struct, frozen=True):
    """One row as it was measured; `skipped` says why it was not, `failed` what went wrong instead."""

    name: str
    target: Target
    values: Sequence[float] = ()
    beside: Mapping[str, float | str] = {}
    command: str = ""
    seconds: float = 0.0
    skipped: str | None = None
    failed: str | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def is_met(self) -> bool | None:
        """None if it was not measured."""
        return self.target.is_met(self.median) if self.values else None


class Run(msgspec.Struct, frozen=True):
    """Results that were taken together: one machine, one time, one disk."""

    when: str
    machine: Mapping[str, str]
    quick: bool
    results: Sequence[Result]


class Report(msgspec.Struct, frozen=True):
    """The newest result of every row, with the run it comes from."""

    runs: Sequence[Run] = ()

    def with_run(self, run: Run) -> Report:
        """`run` added; its results replace older ones of the same rows."""
        new = {result.name for result in run.results}
        kept = [_without(old, new) for old in self.runs]
        return Report([*(old for old in kept if old.results), run])


def read_report(path: Path) -> Report:
    """The report in `path`; an empty one if there is none."""
    if not path.exists():
        return Report()
    return msgspec.json.decode(path.read_bytes(), type=Report)


def write_report(path: Path, report: Report) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def _without(run: Run, names: set[str]) -> Run:
    left = [result for result in run.results if result.name not in names]
    return msgspec.structs.replace(run, results=left)
