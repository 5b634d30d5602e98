"""Adds up reports of the crash tests, of bit rot and of the fuzzers, and writes the page about reliability.

    python -m raftstore.testing.crash.page REPORT.json… --rot ROT.json… --fuzz FUZZ.json… --output PAGE.md

What is not a number stands in `reliability.md` beside this file. Exit status 1 if a report tells of a promise
that was broken, or of a planted bug that was not caught: then that stands on the page, too.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template
from typing import Final

import msgspec

from raftstore.testing.arguments import file_to_write
from raftstore.testing.crash.methods import METHODS
from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.report import Report, load
from raftstore.testing.crash.tables import bullets, number, table
from raftstore.testing.crash.tally import Tally
from raftstore.testing.fuzz.report import Report as FuzzReport
from raftstore.testing.fuzz.report import Result as FuzzResult
from raftstore.testing.fuzz.report import load as load_fuzz
from raftstore.testing.rot.judge import Outcome as RotOutcome
from raftstore.testing.rot.run import Result

TEMPLATE: Final = Path(__file__).with_name("reliability.md")
STRATEGIES: Final = ("DiskFirst", "MemFirst")


class Sum:
    """All reports added up; an image that several runs opened counts once."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.rot: list[Result] = []
        self.fuzz: list[FuzzReport] = []
        self.tallies: dict[str, Tally] = {}

    def take(self, path: Path) -> None:
        """Add a report of the crash tests."""
        report, images = load(path)
        self.reports.append(report)
        for outcome in report.outcomes:
            tally = self.tallies.setdefault(outcome.backend, Tally())
            tally.merge(outcome.tally)
            tally.merge(Tally(images={kind: set(names) for kind, names in images[outcome.backend].items()}))

    def take_rot(self, path: Path) -> None:
        """Add a report of bit rot."""
        self.rot.append(msgspec.json.decode(path.read_bytes(), type=Result))

    def take_fuzz(self, path: Path) -> None:
        """Add a report of the fuzzers."""
        self.fuzz.append(load_fuzz(path))

    @property
    def backends(self) -> list[str]:
        """In the order in which reports named them first."""
        return list(self.tallies)

    @property
    def has_failed(self) -> bool:
        broken = any(tally.has_failed for tally in self.tallies.values())
        found = any(report.has_failed for report in self.fuzz)
        return broken or found or any(result.bad for result in self.rot)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m raftstore.testing.crash.page", description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path, help="written by `--report` of the crash tests")
    parser.add_argument("--rot", nargs="*", type=Path, default=[], help="what `--json` of bit rot printed")
    parser.add_argument("--fuzz", nargs="*", type=Path, default=[], help="written by `--json` of the fuzzers")
    parser.add_argument("--output", type=file_to_write, help="where to write the page; default: print it")
    given = parser.parse_args()
    try:
        whole = _sum(given)
    except (OSError, msgspec.MsgspecError) as error:
        parser.error(f"a report cannot be read: {error}")
    if given.output is None:
        print(page(whole), end="")
    else:
        given.output.write_text(page(whole))
    return int(whole.has_failed)


def _sum(given: argparse.Namespace) -> Sum:
    whole = Sum()
    for path in given.reports:
        whole.take(path)
    for path in given.rot:
        whole.take_rot(path)
    for path in given.fuzz:
        whole.take_fuzz(path)
    return whole


def page(whole: Sum) -> str:
    """The page."""
    return Template(TEMPLATE.read_text()).substitute(
        summary=_summary(whole),
        images=_images(whole),
        verdicts=_verdicts(whole),
        done=_done(whole),
        faults=_faults(whole),
        rot=_rot(whole),
        fuzz=_fuzz(whole),
        plants=_plants(whole),
        methods=_methods(),
        refused=_refused(whole),
        runs=_runs(whole),
        failures=_failures(whole),
        notes=_notes(whole),
    )


def _row(whole: Sum, title: str, count: Callable[[Tally], int]) -> list[str]:
    return [title, *[number(count(tally)) for tally in _all(whole)]]


def _rows(whole: Sum, names: Iterable[str], count: Callable[[Tally, str], int]) -> list[list[str]]:
    return [[name, *[number(count(tally, name)) for tally in _all(whole)]] for name in names]


def _names(whole: Sum, counts: Callable[[Tally], Iterable[str]]) -> list[str]:
    return sorted({name for tally in _all(whole) for name in counts(tally)})


def _summary(whole: Sum) -> str:
    bad = [verdict for verdict in Verdict if verdict not in (Verdict.OK, Verdict.REFUSED)]
    rows = [
        _row(whole, "different images after a crash, each opened", lambda tally: tally.unique),
        _row(whole, "SIGKILLs", lambda tally: tally.kills),
        _row(whole, "I/O calls that were made to fail", lambda tally: sum(tally.faults.values())),
        ["damaged stores", *[number(sum(r.cases for r in _rot_of(whole, b))) for b in whole.backends]],
        *_rows(whole, bad, lambda tally, name: tally.total(Verdict(name))),
        _row(whole, "REFUSED, and not explained below", lambda tally: tally.unexplained),
        ["planted bugs caught", *[_caught(tally) for tally in _all(whole)]],
    ]
    return table(["", *whole.backends], rows)


def _images(whole: Sum) -> str:
    kinds = sorted({kind.rpartition(", ")[0] for kind in _names(whole, lambda tally: tally.images)})
    rows = [
        _row(whole, "**different, all together**", lambda tally: tally.unique),
        *_rows(whole, [*STRATEGIES, *kinds], Tally.unique_of),
        _row(whole, "as often as they came up", lambda tally: tally.generated),
        _row(whole, "instants at which the power was cut", lambda tally: tally.instants),
    ]
    return table(["images", *whole.backends], rows)


def _verdicts(whole: Sum) -> str:
    methods = _names(whole, lambda tally: tally.verdicts)
    rows = [
        [method, verdict.value, *[number(t.verdicts.get(method, {}).get(verdict, 0)) for t in _all(whole)]]
        for method in methods
        for verdict in Verdict
        if any(tally.verdicts.get(method, {}).get(verdict) for tally in _all(whole))
    ]
    return table(["after", "verdict", *whole.backends], rows)


def _faults(whole: Sum) -> str:
    names = _names(whole, lambda tally: tally.faults)
    rows = _rows(whole, names, lambda tally, name: tally.faults.get(name, 0))
    swept = [
        [
            f"**{m.name}**: parts of going through every call",
            *[f"{t.swept_by(m.name)} of {m.rounds}" for t in _all(whole)],
        ]
        for m in METHODS
        if m.rounds is not None
    ]
    return table(["fault", *whole.backends], [*rows, *swept])


def _all(whole: Sum) -> list[Tally]:
    return list(whole.tallies.values())


def _done(whole: Sum) -> str:
    names = _names(whole, lambda tally: tally.done)
    return table(["", *whole.backends], _rows(whole, names, lambda tally, name: tally.done.get(name, 0)))


def _rot_of(whole: Sum, backend: str) -> list[Result]:
    return [result for result in whole.rot if result.backend == backend]


def _rot(whole: Sum) -> str:
    def total(backend: str, outcome: RotOutcome) -> str:
        return number(sum(r.outcomes.get(outcome, 0) for r in _rot_of(whole, backend)))

    rows = [[outcome.value, *[total(b, outcome) for b in whole.backends]] for outcome in RotOutcome]
    return table(["what a damaged store did", *whole.backends], rows)


def _fuzz(whole: Sum) -> str:
    """All runs added up, by target."""
    by_target: dict[str, list[FuzzResult]] = {}
    for report in whole.fuzz:
        for result in report.results:
            by_target.setdefault(result.target, []).append(result)
    if not by_target:
        return "No run of the fuzzers is among the runs here."
    rows = [
        [
            target,
            number(sum(result.inputs for result in results)),
            number(round(sum(result.cpu_seconds for result in results))),
            number(sum(result.found is not None for result in results)),
        ]
        for target, results in by_target.items()
    ]
    return table(["target", "inputs", "processor seconds", "found"], rows)


def _plants(whole: Sum) -> str:
    pairs = sorted({(p.name, p.method) for tally in _all(whole) for p in tally.planted})
    rows = [[name, method, *[_found(tally, name, method) for tally in _all(whole)]] for name, method in pairs]
    return table(["planted bug", "found by", *whole.backends], rows)


def _found(tally: Tally, name: str, method: str) -> str:
    found = [p.verdict for p in tally.planted if (p.name, p.method) == (name, method)]
    caught = [verdict.value for verdict in found if verdict is not None]
    return f"{', '.join(sorted(set(caught)))} {len(caught)}/{len(found)}".strip() if found else "–"


def _caught(tally: Tally) -> str:
    return f"{sum(p.verdict is not None for p in tally.planted)}/{len(tally.planted)}"


def _methods() -> str:
    return bullets(f"**{method.name}**. {method.about}" for method in METHODS)


def _refused(whole: Sum) -> str:
    reasons = [
        f"{backend}, {number(count)} times: {reason}"
        for backend, tally in whole.tallies.items()
        for reason, count in tally.explained.items()
    ]
    return bullets(reasons) if reasons else "None."


def _runs(whole: Sum) -> str:
    rows = [
        [
            f"`{_without_directories(report.command)}`",
            outcome.backend,
            report.made_with.commit or "",
            f"{outcome.seconds:.0f}",
        ]
        for report in whole.reports
        for outcome in report.outcomes
    ]
    rows += [
        [f"`{_rot_command(result)}`", result.backend, result.made_with.commit or "", f"{result.seconds:.0f}"]
        for result in whole.rot
    ]
    made_with = [run.made_with for run in whole.reports] + [run.made_with for run in whole.rot]
    made_with += [run.made_with for run in whole.fuzz]
    made = sorted({one.text for one in made_with})
    return f"{table(['command', 'backend', 'commit', 'seconds'], rows)}\n\n{bullets(made)}"


def _without_directories(command: str) -> str:
    """Where the files of a run lay says nothing to anybody else."""
    return re.sub(r"(?<= )/(?:[^/ ]+/)*", "", command)


def _rot_command(result: Result) -> str:
    wanted = f"--backend {result.backend} --cases {result.cases} --seed {result.seed}"
    return f"python -m raftstore.testing.rot {wanted} --json"


def _failures(whole: Sum) -> str:
    found = [
        f"{backend}: {failure.verdict}: {failure.where}: {failure.words}"
        for backend, tally in whole.tallies.items()
        for failure in tally.failures
    ]
    found += [
        f"{result.backend}: rot: {failure.outcome}: {failure.kind}: {failure.words}"
        for result in whole.rot
        for failure in result.failures
    ]
    found += [
        f"fuzzing: {result.target}: {result.found}"
        for report in whole.fuzz
        for result in report.results
        if result.found is not None
    ]
    return bullets(found) if found else "Nothing."


def _notes(whole: Sum) -> str:
    """What every run on a backend left out."""
    runs = [(outcome.backend, outcome.tally.notes) for report in whole.reports for outcome in report.outcomes]
    left_out = {
        backend: set[str].intersection(*[set(notes) for name, notes in runs if name == backend])
        for backend in whole.backends
    }
    found = [f"{backend}: {note}" for backend, notes in left_out.items() for note in sorted(notes)]
    return bullets(found) if found else "Nothing."


if __name__ == "__main__":
    sys.exit(main())
