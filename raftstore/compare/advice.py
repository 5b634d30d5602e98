"""A recommendation in one paragraph, computed from the rows and from what is needed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean
from typing import Final

from raftstore.compare.keeping import ENTRY_BYTES
from raftstore.compare.need import JUDGED_BY, Cell, Misfit, Need, judge
from raftstore.compare.summary import Row

APPENDS: Final = ("append-", "threads-", "asyncio-")
CLOSE: Final = 1.1
"""Two cells whose scores differ by less than this factor are told apart by chance."""


def advise(rows: Sequence[Row], need: Need = Need(), *, entries: int = 0) -> str:  # noqa: B008 (immutable)
    """Which cell to take on this disk: where nothing may be lost, and where a crash may cost the newest.

    `entries` were in the log whose size on disk was measured.
    """
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
        _size_advice(suited, need.log_bytes, entries * ENTRY_BYTES),
        _unjudged(suited, need),
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
    text = (
        f"If a power cut may lose nothing acknowledged: {_name(cell)},"
        f" over all appends {best:.2f} of the bare disk"
    )
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
        f"If a power cut may cost the newest entries: {_name(cell)}, which keeps up best with what memory"
        f" acknowledges; over all appends a call returns in {geometric_mean(waits):.3f} ms."
    )


def _size_advice(rows: Sequence[Row], log_bytes: int | None, measured_bytes: int) -> str:
    """How much disk the measured log took; a larger one takes less than in proportion, by nobody knows how
    much."""
    ratios = {row.backend: row.disk_ratio for row in rows if row.disk_ratio is not None}
    if log_bytes is None or not ratios or not measured_bytes:
        return ""
    sizes = ", ".join(
        f"{_size(measured_bytes * ratio)} with {backend}"
        for backend, ratio in sorted(ratios.items(), key=lambda found: found[1])
    )
    text = (
        f"{_size(measured_bytes)} of entries of {ENTRY_BYTES} bytes took {sizes}, with the space that is"
        " prepared ahead"
    )
    if measured_bytes >= log_bytes:
        return f"{text}."
    return f"{text}, which weighs less in {_size(log_bytes)} (--entries measures a larger log)."


def _size(size: float) -> str:
    return f"{size / (1 << 30):,.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):,.1f} MiB"


def _unjudged(rows: Sequence[Row], need: Need) -> str:
    """What was wished for and not measured."""
    wishes: list[str] = []
    if need.p99_ms is not None and all(row.workload != JUDGED_BY for row in rows):
        wishes.append(f"the latency ({JUDGED_BY})")
    if need.log_bytes is not None and all(row.disk_ratio is None for row in rows):
        wishes.append("the size on disk (fill)")
    return f"Not judged, for it was not measured: {', '.join(wishes)}." if wishes else ""


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
