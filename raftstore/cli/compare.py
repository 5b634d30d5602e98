"""`raftstore compare`: which backend, strategy and flush policy suit this disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from raftstore.cli import COULD_NOT_RUN
from raftstore.compare import report
from raftstore.compare.advice import advise
from raftstore.compare.cells import DEFAULT_POLICIES, DEFAULT_STRATEGIES, cells_of, installed_backends
from raftstore.compare.machine import machine_of
from raftstore.compare.report import Report
from raftstore.compare.rounds import Plan, plan_for, run
from raftstore.compare.summary import summarize
from raftstore.compare.workloads import QUICK, choose
from raftstore.errors import ConfigError, RaftStoreError

FREE_BYTES_MIN = 1 << 30
WIDTH_MIN = 120
"""Columns of a table that is not shown on a terminal."""

Path_ = Annotated[
    Path, typer.Option("--path", exists=True, file_okay=False, help="A directory on the disk to judge.")
]
Backends = Annotated[list[str] | None, typer.Option("--backend", help="Default: every installed one.")]
Strategies = Annotated[list[str] | None, typer.Option("--strategy", help="Default: DiskFirst and MemFirst.")]
Policies = Annotated[
    list[str] | None, typer.Option("--flush-policy", help="Default: Immediate and Batch:1000:10.")
]
Workloads = Annotated[
    list[str] | None, typer.Option("--workload", help="A name or shell pattern: append-*, open, read-*, …")
]
Seconds = Annotated[float | None, typer.Option(min=1, help="About how long to run. Default: 110.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="At most so many rounds. Default: 3.")]
Entries = Annotated[
    int | None, typer.Option(min=1000, help="Of the log that is opened and read. Default: 50000.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer workloads, 12 seconds, smaller logs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the rows as CSV and nothing else.")]


def command(
    path: Path_ = Path(),
    backend: Backends = None,
    strategy: Strategies = None,
    flush_policy: Policies = None,
    workload: Workloads = None,
    seconds: Seconds = None,
    rounds: Rounds = None,
    entries: Entries = None,
    quick: Quick = False,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Measure every installed backend with every strategy and flush policy on this disk.

    Everything is written below a new directory in --path, which is removed at the end.
    Exit status: 0 measured, 2 the comparison could not run.
    """
    try:
        if json and csv:
            raise ConfigError("--json and --csv exclude each other")
        installed, missing = installed_backends()
        plan = plan_for(
            cells=cells_of(
                backend or installed, strategy or DEFAULT_STRATEGIES, flush_policy or DEFAULT_POLICIES
            ),
            workloads=choose(workload or (QUICK if quick else ())),
            rounds=rounds or 3,
            seconds=seconds or (12 if quick else 110),
            entries=entries or (10_000 if quick else 50_000),
        )
        outcome = _run(plan, path, [] if backend else missing)
    except (RaftStoreError, OSError) as error:
        _fail(error)
    if json:
        typer.echo(report.as_json(outcome))
    elif csv:
        typer.echo(report.as_csv(outcome.rows), nl=False)
    else:
        _show(outcome)


def _run(plan: Plan, path: Path, missing: list[str]) -> Report:
    if (free := shutil.disk_usage(path).free) < FREE_BYTES_MIN:
        raise OSError(f"{path} has only {free >> 20} MiB free; the comparison needs {FREE_BYTES_MIN >> 20}")
    started = perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="raftstore-compare-", dir=path) as directory,
        report.Show(Console(stderr=True)) as show,
    ):
        samples = run(plan, Path(directory), show)
    rows = summarize(samples)
    return Report(
        machine=machine_of(path),
        seconds=perf_counter() - started,
        entries=plan.entries,
        rows=rows,
        samples=samples,
        recommendation=advise(rows),
        not_installed=missing,
    )


def _show(outcome: Report) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_MIN)
    console.print(report.heading(outcome.machine), highlight=False, markup=False, soft_wrap=True)
    for title, table in report.tables(outcome.rows):
        console.print()
        console.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
        console.print(table)
    console.print()
    rounds = max(row.rounds for row in outcome.rows)
    console.print(
        f"{rounds} rounds in {outcome.seconds:.0f} s. {report.NOTES}", highlight=False, markup=False
    )
    for message in (*outcome.not_installed, *_warnings(outcome)):
        console.print(message, highlight=False, markup=False)
    console.print(outcome.recommendation, style="bold", highlight=False, markup=False)


def _warnings(outcome: Report) -> list[str]:
    if outcome.machine.is_in_memory:
        return ["This file system is memory: it keeps nothing at a power cut. Choose a disk with --path."]
    return []


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"the comparison could not run: {error}", err=True)
    raise typer.Exit(COULD_NOT_RUN)
