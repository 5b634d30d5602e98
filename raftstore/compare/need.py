"""What the log is wanted for, and which cells would do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from raftstore.compare.summary import Row
from raftstore.storeconfig import Limits

JUDGED_BY: Final = "append-1x1KiB"
"""The workload whose p99 is held against the wish."""

Cell = tuple[str, str, str]


class Need(msgspec.Struct, frozen=True):
    """What is asked of a log; None where anything will do."""

    may_lose: Literal["nothing", "newest"] | None = None
    """At a power cut: nothing acknowledged, or the newest entries."""
    p99_ms: float | None = None
    """An append of 1 KiB returns within this, 99 times of 100."""
    log_bytes: int | None = None
    """Payload between two purges."""


class Misfit(msgspec.Struct, frozen=True):
    """A cell that would not do."""

    cell: Cell
    reason: str


def judge(rows: Sequence[Row], need: Need) -> tuple[list[Cell], list[Misfit]]:
    """The cells of `rows` that fit, and the others with the reason."""
    misfits = [
        Misfit(cell, reason) for cell in cells_in(rows) if (reason := _reason(cell, rows, need)) is not None
    ]
    refused = {misfit.cell for misfit in misfits}
    return [cell for cell in cells_in(rows) if cell not in refused], misfits


def cells_in(rows: Iterable[Row]) -> list[Cell]:
    """Each cell once, in the order of the rows."""
    return list(dict.fromkeys(row.cell for row in rows))


def _reason(cell: Cell, rows: Sequence[Row], need: Need) -> str | None:
    is_memory_first = not cell[1].startswith("DiskFirst")
    if need.may_lose == "nothing" and is_memory_first:
        return "a power cut may cost what it acknowledged"
    if need.log_bytes is not None and is_memory_first and need.log_bytes > Limits().memory_bytes_max:
        return "it holds the log in memory"
    p99 = next((row.p99_ms for row in rows if row.cell == cell and row.workload == JUDGED_BY), None)
    if need.p99_ms is not None and p99 is not None and p99 > need.p99_ms:
        return f"p99 of an append is {p99:.2f} ms"
    return None
