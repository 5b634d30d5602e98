"""What a run found, as numbers and as text."""

from __future__ import annotations

import msgspec

from raftstore.demo.messages import JournalKind, Library, Plant
from raftstore.demo.verdict import Verdict as Lines
from raftstore.testing.linearizability import Verdict


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run. With the same seed, settings and number of kills its schedule is the same."""

    library: Library
    store: str
    journal: JournalKind
    plant: Plant | None
    power_cut: bool
    partitions: bool
    seed: int
    kills: int
    """SIGKILLs of nodes."""
    cuts: int
    """Times that a node was cut off."""
    seconds: float
    lines: Lines | None
    """What each node holds in the end of the commands that were acknowledged; None if nobody can tell."""
    history: Verdict
    """Of reads, writes and compare-and-sets."""
    problem: str | None
    """Why the run ended early, if so."""

    @property
    def is_good(self) -> bool:
        """Nothing acknowledged is lost, nothing violated or undecided, and the run had its full length."""
        return (
            self.problem is None
            and self.lines is not None
            and self.lines.is_good
            and self.lines.acknowledged > 0
            and self.history.is_linearizable
            and self.history.operations > 0
        )

    def as_text(self) -> str:
        """For a person: what was done, what was found; the last line says whether it is good."""
        parts = [
            f"{self.kills} SIGKILLs{' with power cuts' if self.power_cut else ''}, {self.cuts} partitions"
            f" in {self.seconds:.0f} s, seed {self.seed}",
            f"history: {self.history.as_text()}",
            f"acknowledged commands: {self._lines_as_text()}",
        ]
        if self.problem is not None:
            parts.append(f"the run ended early: {self.problem}")
        parts.append("good" if self.is_good else "NOT GOOD")
        return "\n".join(parts)

    def _lines_as_text(self) -> str:
        if self.lines is None:
            return "nobody can tell"
        found = self.lines
        wrong = [
            f"{count:,} {what}"
            for count, what in (
                (found.altered, "altered"),
                (found.repeated, "applied twice"),
                (found.invented, "that nobody sent"),
            )
            if count
        ]
        wrong += [f"{name} differs from the others" for name in found.disagreeing]
        wrong += [f"{name} did not catch up" for name in found.behind]
        return ", ".join([f"{found.acknowledged:,}, {found.lost:,} lost", *wrong])
