"""A comparison on a terminal, or in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from raftstore.compare.against import Change
from raftstore.compare.report import NOTES, Report, TextTable, heading, text_tables, warnings

WIDTH_MIN: Final = 130
"""Columns of a table that is not shown on a terminal."""


class ProgressBar:
    """A progress bar on standard error if that is a terminal. Use it as a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._is_shown = console.is_terminal
        self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> ProgressBar:
        if self._is_shown:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._bar.stop()

    def step(self, share: float, what: str) -> None:
        self._bar.update(self._task, completed=share, description=what)


def show(report: Report) -> None:
    """Print all of it."""
    console = _console()
    _say(console, heading(report.machine))
    for table in text_tables(report.rows):
        _say(console, f"\n{table.title}", style="bold")
        console.print(_table(table, left=3))
    rounds = max(row.rounds for row in report.rows)
    _say(console, f"\nRounds: {rounds}, in {report.seconds:.0f} s. {NOTES}")
    for message in (*report.not_installed, *warnings(report)):
        _say(console, message)
    _say(console, report.recommendation, style="bold")


def show_changes(changes: Sequence[Change], differences: Sequence[str]) -> None:
    """Print what changed beyond noise, and how much did not."""
    console = _console()
    for difference in differences:
        _say(console, difference)
    if not changes:
        _say(console, "The two runs measured nothing in common.", style="bold")
        return
    told = [change for change in changes if change.verdict in ("faster", "slower")]
    if told:
        columns = ("workload", "backend", "strategy", "policy", "by", "before", "after", "factor", "verdict")
        console.print(_table(TextTable("", columns, [_line(change) for change in told]), left=5))
    unjudged = sum(change.verdict == "one round only" for change in changes)
    if unjudged:
        _say(console, f"{unjudged} of {len(changes)} numbers come from one round and cannot be judged.")
    _say(
        console,
        f"{len(told)} of {len(changes)} numbers changed beyond noise: their rounds do not overlap, and their"
        " medians differ by more than 10 % and by more than rounds of that workload usually do.",
        style="bold",
    )


def _line(change: Change) -> Sequence[str]:
    numbers = (f"{change.before:.4g}", f"{change.after:.4g}", f"{change.factor:.2f}")
    return (*change.key, change.measure, *numbers, change.verdict)


def _table(text: TextTable, *, left: int) -> Table:
    table = Table(*text.columns[:left], box=None, pad_edge=False)
    for label in text.columns[left:]:
        table.add_column(label, justify="right", no_wrap=True)
    for row in text.rows:
        table.add_row(*row)
    return table


def _console() -> Console:
    console = Console(markup=False)
    return console if console.is_terminal else Console(markup=False, width=WIDTH_MIN)


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
