"""Writes the page of the targets from the results, between words that were written by hand.

`page.md` is the frame, `reasons.toml` says why a row is missed: both survive every regeneration.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.result import Report, Result, Run
from benchmarks.rows import ROWS, Row

FRAME: Final = Path(__file__).with_name("page.md")
REASONS: Final = Path(__file__).with_name("reasons.toml")

Measured = Mapping[str, tuple[Result, Run]]
SIGNS: Final = {"at least": "≥", "at most": "≤"}


def write_page(path: Path, report: Report, reasons: Path) -> None:
    """The whole page, new. Raises `KeyError` if `reasons` names a row that is not there."""
    path.write_text(make_page(report, read_reasons(reasons)))


def read_reasons(path: Path) -> dict[str, str]:
    """Why a row is missed, by its name."""
    found: dict[str, str] = tomllib.loads(path.read_text())
    unknown = set(found) - {row.name for row in ROWS}
    if unknown:
        raise KeyError(f"{path.name} names rows that are not there: {', '.join(sorted(unknown))}")
    return found


def make_page(report: Report, reasons: Mapping[str, str]) -> str:
    measured = {result.name: (result, run) for run in report.runs for result in run.results}
    parts = {
        "{table}": "\n".join(_table(measured)),
        "{missed}": "\n".join(_missed(measured, reasons)),
        "{details}": "\n".join(_details(measured)),
        "{machines}": "\n".join(_machines(report)),
    }
    text = FRAME.read_text()
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


def _table(measured: Measured) -> list[str]:
    head = ["| what | `--only` | target | measured | spread | |", "|---|---|---:|---:|---:|---|"]
    return head + [_line(row, measured.get(row.name)) for row in ROWS]


def _line(row: Row, found: tuple[Result, Run] | None) -> str:
    target = f"{SIGNS[row.target.kind]} {row.target.bound:g} {row.target.unit}".rstrip()
    if found is None or not found[0].values:
        reason = "not measured yet" if found is None else f"not measured: {found[0].skipped or 'failed'}"
        return f"| {row.title} | `{row.name}` | {target} | | | {reason} |"
    result, run = found
    spread = (
        f"{_number(min(result.values))} to {_number(max(result.values))}" if len(result.values) > 1 else ""
    )
    verdict = "met" if result.is_met else "**missed**"
    quick = " (quick)" if run.quick else ""
    measured = _number(result.median)
    return f"| {row.title} | `{row.name}` | {target} | {measured} | {spread} | {verdict}{quick} |"


def _missed(measured: Measured, reasons: Mapping[str, str]) -> list[str]:
    """One paragraph a missed row: from where on it would be met, and the reason that was written down."""
    lines: list[str] = []
    for row in ROWS:
        result = measured[row.name][0] if row.name in measured else None
        if result is not None and result.is_met is False:
            parts = [reasons.get(row.name, "No reason is written down yet."), _needed(row, result)]
            lines.append(f"- **{row.title}**: {' '.join(part for part in parts if part)}")
    return lines or ["None."]


def _needed(row: Row, result: Result) -> str:
    """A ratio to the limit is met by a fixed cost on a disk that is slow enough."""
    added = result.beside.get("added, µs")
    if not isinstance(added, float) or row.target.bound >= 1:
        return ""
    needed = added * row.target.bound / (1 - row.target.bound)
    return f"With the {added:.0f} µs we add it would be met where the limit takes {needed:.0f} µs a write."


def _details(measured: Measured) -> list[str]:
    lines: list[str] = []
    for row in ROWS:
        if row.name not in measured:
            continue
        result, run = measured[row.name]
        beside = "; ".join(f"{name}: {_shown(value)}" for name, value in result.beside.items())
        rounds = f"{len(result.values)} rounds" if len(result.values) > 1 else "one count"
        lines += [
            f"- **{row.title}** (`{row.name}`): {row.how}; {rounds}."
            + (f" Beside: {beside}." if beside else "")
            + f" `{result.command}`, {run.when}."
        ]
    return lines


def _machines(report: Report) -> list[str]:
    return [f"- {run.when}{', a quick run' if run.quick else ''}: {_described(run)}." for run in report.runs]


def _described(run: Run) -> str:
    return "; ".join(f"{name}: {value}" for name, value in run.machine.items())


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    """Three digits that count, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    digits = 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"
