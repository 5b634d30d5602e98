"""The numbers of a run, for people: as text, and as a Markdown table."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import msgspec

from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.tally import Counts, Tally

LIBRARIES = ("raftstore", "lmdb", "rocksdict", "crc32c", "msgspec")


class Outcome(msgspec.Struct, frozen=True):
    """One backend's part of a run."""

    backend: str
    seed: int
    seconds: float
    tally: Tally


class Report(msgspec.Struct, frozen=True):
    """A whole run: what `--json` prints."""

    outcomes: Sequence[Outcome]
    kernel: str
    python: str
    versions: dict[str, str]

    @property
    def has_failed(self) -> bool:
        return any(outcome.tally.has_failed for outcome in self.outcomes)


def report(outcomes: Sequence[Outcome]) -> Report:
    """What was done here and now, with what it was done."""
    return Report(outcomes, platform.release(), sys.version.split()[0], _versions())


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def as_text(whole: Report) -> str:
    """Everything, one line a number."""
    lines: list[str] = []
    for outcome in whole.outcomes:
        lines += _text_of(outcome)
    versions = ", ".join(f"{name} {number}" for name, number in whole.versions.items())
    return "\n".join([*lines, f"Linux {whole.kernel}, Python {whole.python}, {versions}"])


def _text_of(outcome: Outcome) -> list[str]:
    tally = outcome.tally
    lines = [
        f"{outcome.backend}: seed {outcome.seed}, {outcome.seconds:.0f} s",
        f"  images: {tally.generated} generated, {sum(tally.unique.values())} different and checked "
        f"({_listed(tally.unique)}), at {tally.instants} instants",
        f"  kills: {tally.kills}; faults: {sum(tally.faults.values())} ({_listed(tally.faults)})",
    ]
    if tally.done:
        lines.append(f"  {_listed(tally.done)}")
    lines += [f"  {method}: {_listed(counts)}" for method, counts in sorted(tally.verdicts.items())]
    if tally.planted:
        caught = [planted for planted in tally.planted if planted.verdict is not None]
        lines.append(f"  planted bugs caught: {len(caught)}/{len(tally.planted)}")
        lines += [f"  NOT CAUGHT by {p.method}: {p.name}" for p in tally.planted if p.verdict is None]
    lines += [f"  refused, as explained, {count} times: {why}" for why, count in tally.explained.items()]
    lines += [f"  SKIPPED: {note}" for note in tally.notes]
    for failure in tally.failures:
        where = f" (image in {failure.kept})" if failure.kept is not None else ""
        lines.append(f"  {failure.verdict}: {failure.where}{where}\n    {failure.words}")
    return lines


def as_markdown(whole: Report) -> str:
    """The table for a page about reliability."""
    rows = [("", *[outcome.backend for outcome in whole.outcomes])]
    tallies = [outcome.tally for outcome in whole.outcomes]
    methods = sorted({method for tally in tallies for method in tally.unique})
    rows += [
        (f"different images, {method}", *[_number(t.unique.get(method, 0)) for t in tallies])
        for method in methods
    ]
    rows.append(("images generated", *[_number(t.generated) for t in tallies]))
    rows.append(("instants at which power was cut", *[_number(t.instants) for t in tallies]))
    rows.append(("SIGKILLs", *[_number(t.kills) for t in tallies]))
    kinds = sorted({kind for tally in tallies for kind in tally.faults})
    rows += [(f"faults: {kind}", *[_number(t.faults.get(kind, 0)) for t in tallies]) for kind in kinds]
    things = sorted({thing for tally in tallies for thing in tally.done})
    rows += [(thing, *[_number(t.done.get(thing, 0)) for t in tallies]) for thing in things]
    rows += [(verdict.value, *[_number(t.total(verdict)) for t in tallies]) for verdict in Verdict]
    rows.append(("planted bugs caught", *[_caught(t) for t in tallies]))
    rows.append(("seed", *[str(outcome.seed) for outcome in whole.outcomes]))
    rows.append(("seconds", *[f"{outcome.seconds:.0f}" for outcome in whole.outcomes]))
    table = [f"| {' | '.join(row)} |" for row in rows]
    table.insert(1, f"|{'---|' * len(rows[0])}")
    versions = ", ".join(f"{name} {number}" for name, number in whole.versions.items())
    reasons = sorted({f"{o.backend}: {why}" for o in whole.outcomes for why in o.tally.explained})
    skipped = sorted({note for tally in tallies for note in tally.notes})
    made_with = f"Linux {whole.kernel}, Python {whole.python}, {versions}."
    return "\n".join([*table, "", made_with, *_notes("Refused", reasons), *_notes("Skipped", skipped), ""])


def _notes(title: str, notes: Sequence[str]) -> list[str]:
    return [f"\n{title}: {note}" for note in notes]


def _caught(tally: Tally) -> str:
    return f"{sum(planted.verdict is not None for planted in tally.planted)}/{len(tally.planted)}"


def _number(count: int) -> str:
    return f"{count:,}"


def _listed(counts: Counts) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
