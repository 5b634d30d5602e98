"""What a torture found, as one value, as JSON and in words."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from raftstore.compare.machine import Machine
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.tally import Failure, Tally
from raftstore.testing.torture.syncs import Syncs


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. It is good if things were acknowledged, none of them was lost, and every store opened."""

    path: str
    store: str
    """The URL of the config; its path is that of the last run."""
    seed: int
    seconds: float
    machine: Machine
    syncs: Syncs
    warnings: Sequence[str]
    stores: int
    kills: int
    power_cuts: int
    acknowledged: int
    """Operations acknowledged before a kill or a power cut."""
    verdicts: dict[str, int]
    failures: Sequence[Failure]
    notes: Sequence[str] = ()
    """What was not done, and why."""

    @property
    def is_good(self) -> bool:
        return not self.failures and self.acknowledged > 0


def verdicts_of(tally: Tally) -> dict[str, int]:
    """How often each verdict was given, all methods together."""
    return {verdict.value: tally.total(verdict) for verdict in Verdict}


def power_cuts_of(tally: Tally) -> int:
    return sum(count for what, count in tally.done.items() if what.startswith("power cuts"))


def acknowledged_of(tally: Tally) -> int:
    return tally.done.get("operations acknowledged before a crash", 0)


def lines_of(report: Report) -> list[str]:
    """For people."""
    syncs = report.syncs
    lines = [
        f"{report.path}: {report.machine.filesystem}",
        f"{report.machine.system}, Python {report.machine.python}; seed {report.seed}, "
        f"{report.seconds:.0f} s",
        f"a sync of 4 KiB takes {syncs.p50_ms:.3f} ms, nine of ten {syncs.p90_ms:.3f} ms, 99 of 100 "
        f"{syncs.p99_ms:.3f} ms, at most {syncs.max_ms:.3f} ms ({syncs.count} syncs)",
        f"{report.stores} stores, {report.kills} kills, {report.power_cuts} power cuts, after "
        f"{report.acknowledged} acknowledged operations",
        ", ".join(f"{verdict} {count}" for verdict, count in report.verdicts.items()),
        *[f"not done: {note}" for note in report.notes],
        *[f"warning: {warning}" for warning in report.warnings],
    ]
    for failure in report.failures:
        lines += [f"{failure.verdict}: {failure.where}", f"    {failure.words}"]
    return lines


def sentence_of(report: Report) -> str:
    """The result, in one sentence."""
    crashes = report.kills + report.power_cuts
    if not report.failures and not report.acknowledged:
        return "Nothing was acknowledged before a crash, so nothing is shown: give it more time."
    if not report.is_good:
        return f"This disk, or this configuration on it, broke a promise {len(report.failures)} times."
    if report.warnings:
        return f"Nothing was lost in {crashes} crashes; but mind the warnings."
    return f"Nothing was lost in {crashes} crashes."
