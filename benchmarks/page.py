"""Writes the page of the targets from the results, between words that were written by hand.

`page.md` is the frame, `reasons.toml` says why a row is missed: both survive every regeneration.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.profiled import Profile, read_profile, tables
from benchmarks.result import Report, Result, Run, read_report
from benchmarks.rows import ROWS, Row
from benchmarks.slow_disk import reports_beside

FRAME: Final = Path(__file__).with_name("page.md")
REASONS: Final = Path(__file__).with_name("reasons.toml")

Measured = Mapping[str, tuple[Result, Run]]
SIGNS: Final = {"at least": "≥", "at most": "≤"}


def write_page(path: Path, json: Path, reasons: Path) -> None:
    """The whole page, new, from the results in `json` and what stands beside them.

    Raises `KeyError` if `reasons` names a row that is not there.
    """
    slow = {sync_us: read_report(found) for sync_us, found in reports_beside(json).items()}
    text = make_page(read_report(json), read_reasons(reasons), slow, read_profile(json))
    path.write_text(text)


def read_reasons(path: Path) -> dict[str, str]:
    """Why a row is missed, by its name."""
    found: dict[str, str] = tomllib.loads(path.read_text())
    unknown = set(found) - {row.name for row in ROWS}
    if unknown:
        raise KeyError(f"{path.name} names rows that are not there: {', '.join(sorted(unknown))}")
    return found


def make_page(
    report: Report,
    reasons: Mapping[str, str],
    slow: Mapping[int, Report] | None = None,
    profile: Profile | None = None,
) -> str:
    """`slow` are the results on simulated disks, by the microseconds that a sync takes more."""
    measured = _by_name(report)
    slow_measured = {sync_us: _by_name(one) for sync_us, one in (slow or {}).items()}
    parts = {
        "{table}": "\n".join(_table(measured)),
        "{missed}": "\n".join(_missed(measured, reasons)),
        "{slow}": "\n".join(_slow_disks(measured, slow_measured)),
        "{profile}": "\n".join(_profile(profile)),
        "{details}": "\n".join(_details(measured)),
        "{machines}": "\n".join(_machines(report, slow or {}, profile)),
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


def _by_name(report: Report) -> Measured:
    return {result.name: (result, run) for run in report.runs for result in run.results}


def _slow_disks(measured: Measured, slow: Mapping[int, Measured]) -> list[str]:
    """The ratios on this disk and on those that are simulated, one column each."""
    if not slow:
        return ["Not measured yet."]
    titles = ["this disk", *(f"{sync_us / 1000:g} ms more a sync (simulated)" for sync_us in slow)]
    lines = [f"| what | target | {' | '.join(titles)} |", "|---|---:|" + "---:|" * len(titles)]
    for row in ROWS:
        columns = [found.get(row.name) for found in (measured, *slow.values())]
        if any(found is not None for found in columns[1:]):
            ratios = [_verdict(None if found is None else found[0]) for found in columns]
            lines.append(f"| {row.title} | ≥ {row.target.bound:g} | {' | '.join(ratios)} |")
    return lines


def _verdict(result: Result | None) -> str:
    if result is None or not result.values:
        return ""
    return f"{_number(result.median)} {'met' if result.is_met else '**missed**'}"


def _profile(profile: Profile | None) -> list[str]:
    return ["Not measured yet."] if profile is None else tables(profile)


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


def _machines(report: Report, slow: Mapping[int, Report], profile: Profile | None) -> list[str]:
    lines = [_machine(run, ", a quick run" if run.quick else "") for run in report.runs]
    for sync_us, one in slow.items():
        lines += [_machine(run, f", simulated, {sync_us} µs more a sync") for run in one.runs]
    return lines if profile is None else [*lines, _machine(profile, ", the profile")]


def _machine(run: Run | Profile, kind: str) -> str:
    found = "; ".join(f"{name}: {value}" for name, value in run.machine.items())
    return f"- {run.when}{kind}: {found}."


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    """Three digits that count, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    digits = 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"
