"""Prints what `raftstore compare --json` measured as the tables of the README, without what it did not.

raftstore compare --json > compare.json
python benchmarks/tables.py compare.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

MODES = (
    ("DiskFirst", "Immediate"),
    ("DiskFirst", "Batch:1000:10"),
    ("MemFirst", "Immediate"),
    ("MemFirst", "Batch:1000:10"),
)
BACKENDS = ("segmented", "lmdb", "rocksdb")
APPENDS = tuple(f"append-{batch}x{size}" for size in ("64B", "1KiB", "64KiB") for batch in (1, 64))
NOT_MEASURED = "–"


def milliseconds(row: Row) -> str:
    value = row["p50_ms"]
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def thousands(row: Row) -> str:
    value = row["durable_entries_per_s"] or row["entries_per_s"]
    return f"{value / 1000:,.1f}" if value < 10_000 else f"{value / 1000:,.0f}"


COLUMNS: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
    ("one append of 1 KiB, ms", "append-1x1KiB", milliseconds),
    ("64 × 1 KiB a call, k/s", "append-64x1KiB", thousands),
    ("64 asyncio proposers, k/s", "asyncio-64x256B", thousands),
    ("read forward, k/s", "read-forward", thousands),
    ("open, ms", "open", milliseconds),
)


def print_table(rows: list[Row]) -> None:
    """Medians over the rounds; entries per second until they are durable, whatever the strategy."""
    cells = {(row["workload"], row["backend"], row["strategy"], row["flush_policy"]): row for row in rows}
    columns = [column for column in COLUMNS if column[1] in {row["workload"] for row in rows}]
    print("| strategy | policy | backend |" + "".join(f" {title} |" for title, _, _ in columns))
    print("|---|---|---|" + "---:|" * len(columns))
    for strategy, policy in MODES:
        for backend in BACKENDS:
            found = [(show, cells.get((name, backend, strategy, policy))) for _, name, show in columns]
            if any(row for _, row in found):
                values = [NOT_MEASURED if row is None else show(row) for show, row in found]
                print(f"| {strategy} | {policy} | {backend} | {' | '.join(values)} |")


def print_ratios(rows: list[Row]) -> None:
    """Durable appends as a part of what the bare disk did in the same round."""
    ratios = {
        (row["workload"], row["backend"]): row["ratio"]
        for row in rows
        if (row["strategy"], row["flush_policy"]) == MODES[0] and row["ratio"] is not None
    }
    names = [name for name in APPENDS if name in {workload for workload, _ in ratios}]
    print("| DiskFirst + Immediate |" + "".join(f" {name.removeprefix('append-')} |" for name in names))
    print("|---|" + "---:|" * len(names))
    for backend in BACKENDS:
        found = [ratios.get((name, backend)) for name in names]
        if any(ratio is not None for ratio in found):
            values = [NOT_MEASURED if ratio is None else f"{ratio:.2f}" for ratio in found]
            print(f"| {backend} | {' | '.join(values)} |")


def print_conditions(rows: list[Row]) -> None:
    """What the words around the tables say of the run."""
    print(f"Rounds: {max(row['rounds'] for row in rows)}.", end="")
    for row in rows:
        if row["workload"] == APPENDS[2] and row["bare_ms"] is not None:
            print(f" One bare write and sync of 1 KiB took {row['bare_ms']:.3f} ms.", end="")
            break
    print()


if __name__ == "__main__":
    measured: list[Row] = json.loads(Path(sys.argv[1]).read_text())["rows"]
    print_table(measured)
    print()
    print_ratios(measured)
    print()
    print_conditions(measured)
