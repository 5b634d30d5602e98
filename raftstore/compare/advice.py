"""A recommendation in one paragraph, computed from the rows and from what is needed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean
from typing import Final

from raftstore.compare.need import Cell, Misfit, Need, judge
from raftstore.compare.summary import Row

APPENDS: Final = ("append-", "threads-", "asyncio-")
CLOSE: Final = 1.1
"""Two cells whose scores differ by less than this factor are told apart by chance."""


def advise(rows: Sequence[Row], need: Need = Need()) -> str:  # noqa: B008 (immutable)
    """Which cell to take on this disk: where nothing may be lost, and where a crash may cost the newest."""
    if not any(row.workload.startswith(APPENDS) for row in rows):
        return "No recommendation: no append workload was run."
    fitting, misfits = judge(rows, need)
    if not fitting:
        return _nothing_fits(misfits)
    suited = [row for row in rows if row.cell in fitting]
    appends = [row for row in suited if row.workload.startswith(APPENDS)]
    parts = [
        _durable_advice(appends) if need.may_lose != "newest" else "",
        _fast_advice(appends) if need.may_lose != "nothing" else "",
        _size_advice(suited, need.log_bytes),
        _left_out(misfits),
        "Judged by one round only." if min(row.rounds for row in appends) == 1 else "",
    ]
    return " ".join(part for part in parts if part)


def scores(rows: Sequence[Row]) -> list[tuple[float, Cell]]:
    """Of each cell the geometric mean of its ratios to the bare disk, best first."""
    cells = dict.fromkeys(row.cell for row in rows)
    ratios = {cell: [row.ratio for row in rows if row.cell == cell and row.ratio] for cell in cells}
    return sorted(((geometric_mean(ratios[cell]), cell) for cell in cells if ratios[cell]), reverse=True)


def _durable_advice(appends: Sequence[Row]) -> str:
    """Of the cells that acknowledge only what survives a power cut."""
    ranked = scores([row for row in appends if row.strategy == "DiskFirst"])
    if not ranked:
        return ""
    best, cell = ranked[0]
    text = f"If a power cut may lose nothing acknowledged: {_name(cell)}, {best:.2f} of the bare disk"
    other = next((entry for entry in ranked if entry[1][0] != cell[0]), None)
    if other is None:
        return f"{text}."
    against = "about as fast as" if best < other[0] * CLOSE else "ahead of"
    return f"{text}, {against} {_name(other[1])} at {other[0]:.2f}."


def _fast_advice(appends: Sequence[Row]) -> str:
    """Of the cells that acknowledge from memory, by what becomes durable: memory alone is fast with all."""
    rows = [row for row in appends if row.strategy.startswith("MemFirst")]
    ranked = scores(rows)
    if not ranked:
        return ""
    _, cell = ranked[0]
    waits = [row.p50_ms for row in rows if row.cell == cell]
    return (
        f"If it may cost the newest entries: {_name(cell)}, a call is acknowledged in"
        f" {geometric_mean(waits):.3f} ms."
    )


def _size_advice(rows: Sequence[Row], log_bytes: int | None) -> str:
    """How much disk a log of that size would take, where that was measured."""
    ratios = {row.backend: row.disk_ratio for row in rows if row.disk_ratio is not None}
    if log_bytes is None or not ratios:
        return ""
    sizes = ", ".join(
        f"{log_bytes * ratio / (1 << 30):,.1f} GiB with {backend}" for backend, ratio in ratios.items()
    )
    return f"{log_bytes / (1 << 30):,.1f} GiB of entries of 100 bytes take {sizes}."


def _left_out(misfits: Sequence[Misfit]) -> str:
    """Each reason once, with the cells that it concerns."""
    reasons: dict[str, list[str]] = {}
    for misfit in misfits:
        reasons.setdefault(misfit.reason, []).append(_name(misfit.cell))
    return " ".join(f"Left out, because {reason}: {', '.join(names)}." for reason, names in reasons.items())


def _nothing_fits(misfits: Sequence[Misfit]) -> str:
    return f"Nothing measured here does what is needed. {_left_out(misfits)}"


def _name(cell: Cell) -> str:
    return " + ".join(cell)
