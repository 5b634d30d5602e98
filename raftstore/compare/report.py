"""What a comparison found, as tables of text, JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Final

import msgspec

from raftstore.compare.machine import Machine
from raftstore.compare.rounds import Sample
from raftstore.compare.summary import Row
from raftstore.compare.workloads import WORKLOADS
from raftstore.errors import ConfigError

NOTES: Final = (
    "Medians over the rounds. durable/s: until everything was durable, also what MemFirst acknowledged from"
    " memory. x bare: the time of a loop of one pwrite and one fdatasync (plain Python, a zero-filled file,"
    " the same round) for the same calls, by the time until durable; above 1 where calls share a sync."
    " For groups of callers the loop writes one entry of each at once. syncs/call: durable writes of the"
    " backend. disk/payload and written/payload: bytes on disk, and bytes that this process handed to write"
    " calls, per payload byte, with the space that is prepared ahead."
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
    ("written/payload", lambda row: row.written_ratio, ".1f"),
)


def heading(machine: Machine) -> str:
    """Where the numbers were taken, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{machine.system}, {machine.processors} processors ({machine.processor}), Python {machine.python},"
        f" {versions}; file system {machine.filesystem}"
    )


class TextTable(msgspec.Struct, frozen=True):
    """One workload: a title, the columns that mean something there, and a line for each cell."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def text_tables(rows: Iterable[Row]) -> Iterator[TextTable]:
    """One for each workload, in order."""
    for name, grouped in groupby(rows, key=lambda row: row.workload):
        group = list(grouped)
        columns = [column for column in COLUMNS if any(column[1](row) is not None for row in group)]
        yield TextTable(
            f"{_title(name)} ({name}){_bare(group)}",
            ("backend", "strategy", "policy", *(label for label, _, _ in columns)),
            [(*row.cell, *(_text(value(row), form) for _, value, form in columns)) for row in group],
        )


def _title(name: str) -> str:
    return next((workload.title for workload in WORKLOADS if workload.name == name), name)


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


VERSION: Final = 2


class Report(msgspec.Struct, frozen=True):
    """All of a comparison, as `--json` prints it."""

    machine: Machine
    seconds: float
    """That the run took."""
    entries: int
    """Of the log that was opened, read, truncated and purged."""
    rows: Annotated[Sequence[Row], msgspec.Meta(min_length=1)]
    samples: Sequence[Sample]
    recommendation: str
    not_installed: Sequence[str] = ()
    version: int = VERSION
    """Of this form."""


def warnings(report: Report) -> list[str]:
    """What a reader must know before believing the numbers."""
    if report.machine.is_in_memory:
        return ["This file system is memory: it keeps nothing at a power cut. Choose a disk with --path."]
    return []


def as_json(report: Report) -> str:
    return msgspec.json.encode(report).decode()


def load(path: Path) -> Report:
    """The report that `--json` or `--report` left at `path`.

    Raises `ConfigError` for a file that is none, or is of another version.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Report)
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(f"{path} is no report of raftstore compare: {error}") from error
    if found.version != VERSION:
        raise ConfigError(f"{path} is a report of version {found.version}; this raftstore reads {VERSION}")
    return found
