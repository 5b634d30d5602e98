"""`raftstore compare`: which backend, strategy and flush policy suit this disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Annotated, NoReturn

import typer
from msgspec.json import encode
from msgspec.structs import replace

from raftstore.cli import COULD_NOT_RUN
from raftstore.compare import terminal
from raftstore.compare.advice import advise
from raftstore.compare.against import compare, differences
from raftstore.compare.cells import DEFAULT_POLICIES, DEFAULT_STRATEGIES, cells_of, installed_backends
from raftstore.compare.machine import machine_of
from raftstore.compare.need import Need
from raftstore.compare.report import Report, as_csv, as_json, load
from raftstore.compare.rounds import Plan, plan_for, run
from raftstore.compare.summary import summarize
from raftstore.compare.workloads import QUICK, STANDARD, SWEEPS, Workload, choose
from raftstore.errors import ConfigError, RaftStoreError
from raftstore.spelling import parse_size

FREE_BYTES_MIN = 1 << 30
SECONDS = {(False, False): 110.0, (True, False): 12.0, (False, True): 240.0, (True, True): 100.0}
"""By default; of a run that is quick, or not, with the curves of a page, or without."""


class MayLose(Enum):
    """What a power cut may cost."""

    NOTHING = "nothing"
    NEWEST = "newest"


Saved = Annotated[
    Path | None,
    typer.Argument(dir_okay=False, help="Measure nothing: show this saved run."),
]
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
Seconds = Annotated[
    float | None, typer.Option(min=1, help="About how long to run. Default: 110, with --report 240.")
]
Rounds = Annotated[int | None, typer.Option(min=1, help="At most so many rounds. Default: 3.")]
Entries = Annotated[
    int | None, typer.Option(min=1000, help="Of the log that is opened and read. Default: 50000.")
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Fewer workloads, 12 seconds, with --report 100; smaller logs.")
]
Lose = Annotated[MayLose | None, typer.Option("--may-lose", help="At a power cut, of what was acknowledged.")]
P99 = Annotated[
    float | None, typer.Option("--p99-ms", min=0, help="An append of 1 KiB returns within this, 99 of 100.")
]
LogSize = Annotated[str | None, typer.Option("--log-size", help="Payload between two purges: 10GiB.")]
PageIn = Annotated[
    Path | None,
    typer.Option("--report", file_okay=False, help="Also write a page with charts there."),
]
Against = Annotated[
    Path | None,
    typer.Option("--against", dir_okay=False, help="Show what changed from this run to SAVED."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the rows as CSV and nothing else.")]


def command(
    saved: Saved = None,
    path: Path_ = Path(),
    backend: Backends = None,
    strategy: Strategies = None,
    flush_policy: Policies = None,
    workload: Workloads = None,
    seconds: Seconds = None,
    rounds: Rounds = None,
    entries: Entries = None,
    quick: Quick = False,
    may_lose: Lose = None,
    p99_ms: P99 = None,
    log_size: LogSize = None,
    report: PageIn = None,
    against: Against = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Measure every installed backend with every strategy and flush policy on this disk.

    Everything is written below a new directory in --path, which is removed at the end. --may-lose, --p99-ms
    and --log-size say what is needed; they shape the recommendation.
    Exit status: 0 measured or shown, 2 the comparison could not run.
    """
    try:
        if json and csv:
            raise ConfigError("--json and --csv exclude each other")
        if against is not None:
            if csv or report is not None:
                raise ConfigError("--against prints a table, or with --json an object: no --csv, no --report")
            _show_changes(against, saved, json=json)
            return
        need = _need(may_lose, p99_ms, log_size)
        write_page = None if report is None else _page_writer(report)
        if saved is None:
            installed, missing = installed_backends()
            plan = plan_for(
                cells=cells_of(
                    backend or installed, strategy or DEFAULT_STRATEGIES, flush_policy or DEFAULT_POLICIES
                ),
                workloads=_chosen(workload or [], quick=quick, curves=report is not None),
                rounds=rounds or 3,
                seconds=seconds or SECONDS[quick, report is not None],
                entries=entries or (10_000 if quick else 50_000),
            )
            outcome = _measure(plan, path, need, [] if backend else missing)
        else:
            outcome = load(saved)
            outcome = replace(outcome, recommendation=advise(outcome.rows, need, entries=outcome.entries))
        page = write_page(outcome, report) if write_page and report else None
    except (RaftStoreError, OSError) as error:
        _fail(error)
    if json:
        typer.echo(as_json(outcome))
    elif csv:
        typer.echo(as_csv(outcome.rows), nl=False)
    else:
        terminal.show(outcome)
    if page is not None:
        typer.echo(f"the page with the charts: {page}", err=True)


def _need(may_lose: MayLose | None, p99_ms: float | None, log_size: str | None) -> Need:
    try:
        log_bytes = None if log_size is None else parse_size(log_size)
    except ValueError as error:
        raise ConfigError(f"--log-size: {error}") from error
    return Need(may_lose=None if may_lose is None else may_lose.value, p99_ms=p99_ms, log_bytes=log_bytes)


def _chosen(patterns: Sequence[str], *, quick: bool, curves: bool) -> list[Workload]:
    more = [workload.name for workload in SWEEPS] if curves else []
    standard = QUICK if quick else [workload.name for workload in STANDARD]
    return choose(patterns or [*standard, *more])


def _page_writer(directory: Path) -> Callable[[Report, Path], Path]:
    """Before anything is measured: what is missing, and where nothing can be written, is said at once."""
    nearest = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    with tempfile.TemporaryFile(dir=nearest):
        pass
    try:
        from raftstore.compare.page.write import write_page
    except ModuleNotFoundError as error:
        raise ConfigError(f"--report needs {error.name}: pip install 'raftstore[report]'") from error
    return write_page


def _show_changes(before: Path, after: Path | None, *, json: bool) -> None:
    if after is None:
        raise ConfigError("--against needs a second saved run: --against BEFORE.json AFTER.json")
    old, new = load(before), load(after)
    changes, others = compare(old, new), differences(old, new)
    if json:
        typer.echo(encode({"differences": others, "changes": changes}).decode())
    else:
        terminal.show_changes(changes, others)


def _measure(plan: Plan, path: Path, need: Need, missing: list[str]) -> Report:
    if (free := shutil.disk_usage(path).free) < FREE_BYTES_MIN:
        raise OSError(f"{path} has only {free >> 20} MiB free; the comparison needs {FREE_BYTES_MIN >> 20}")
    started = perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="raftstore-compare-", dir=path) as directory,
        terminal.ProgressBar() as bar,
    ):
        samples = run(plan, Path(directory), bar)
    rows = summarize(samples)
    return Report(
        machine=machine_of(path),
        seconds=perf_counter() - started,
        entries=plan.entries,
        rows=rows,
        samples=samples,
        recommendation=advise(rows, need, entries=plan.entries),
        not_installed=missing,
    )


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"the comparison could not run: {error}", err=True)
    raise typer.Exit(COULD_NOT_RUN)
