"""How a comparison is shown: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from types import TracebackType
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from raftstore.compare.machine import Machine
from raftstore.compare.rounds import Sample
from raftstore.compare.summary import Row
from raftstore.compare.workloads import WORKLOADS

NOTES: Final = (
    "Medians over the rounds. durable/s: until everything was durable, also what MemFirst acknowledged from"
    " memory. x bare: the time of a loop of one pwrite and one fdatasync (plain Python, a zero-filled file,"
    " the same round) for the same calls, by the time until durable; above 1 where calls share a sync."
    " For groups of callers the loop writes one entry of each at once. syncs/call: durable writes of the"
    " backend. disk/payload: bytes on disk per payload byte, with the space that is prepared ahead."
)

Column = tuple[str, Callable[[Row], float | None], str]

COLUMNS: Final[tuple[Column, ...]] = (
    ("entries/s", lambda row: row.entries_per_s, ",.0f"),
    ("durable/s", lambda row: row.durable_entries_per_s, ",.0f"),
    ("x bare", lambda row: row.ratio, ".2f"),
    ("p50 ms", lambda row: row.p50_ms, ".3f"),
    ("p99 ms", lambda row: row.p99_ms, ".3f"),
    ("syncs/call", lambda row: row.syncs_per_call, ".2f"),
    ("disk/payload", lambda row: row.disk_ratio, ".1f"),
)


class Show:
    """A progress bar on a terminal, nothing elsewhere. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._is_shown = console.is_terminal
        self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> Show:
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


def heading(machine: Machine) -> str:
    """Where the numbers were taken, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{machine.system}, {machine.processors} processors, Python {machine.python}, {versions};"
        f" file system {machine.filesystem}"
    )


def tables(rows: Iterable[Row]) -> Iterator[tuple[str, Table]]:
    """A title and a table for each workload, with the columns that mean something there."""
    for name, grouped in groupby(rows, key=lambda row: row.workload):
        group = list(grouped)
        yield f"{_title(name)} ({name}){_bare(group)}", _table(group)


def _table(rows: Sequence[Row]) -> Table:
    columns = [column for column in COLUMNS if any(column[1](row) is not None for row in rows)]
    table = Table("backend", "strategy", "policy", box=None, pad_edge=False)
    for label, _, _ in columns:
        table.add_column(label, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.cell, *(_text(value(row), form) for _, value, form in columns))
    return table


def _title(name: str) -> str:
    return next(workload.title for workload in WORKLOADS if workload.name == name)


def _bare(rows: Sequence[Row]) -> str:
    bare_ms = rows[0].bare_ms
    return "" if bare_ms is None else f": a bare write takes {bare_ms:.3f} ms"


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def as_csv(rows: Iterable[Row]) -> str:
    """The rows with a header line; an empty field where a number has no meaning."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row.__struct_fields__)
    writer.writerows(msgspec.structs.astuple(row) for row in rows)
    return text.getvalue()


class Report(msgspec.Struct, frozen=True):
    """All of a comparison, as `--json` prints it."""

    machine: Machine
    seconds: float
    """That the run took."""
    entries: int
    """Of the log that was opened, read, truncated and purged."""
    rows: Sequence[Row]
    samples: Sequence[Sample]
    recommendation: str
    not_installed: Sequence[str] = ()
    version: int = 1
    """Of this form."""


def as_json(report: Report) -> str:
    return msgspec.json.encode(report).decode()
