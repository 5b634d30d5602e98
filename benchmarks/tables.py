"""Prints what `raftstore compare --json` measured as the tables of the README.

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
    print("| strategy | policy | backend |" + "".join(f" {title} |" for title, _, _ in COLUMNS))
    print("|---|---|---|" + "---:|" * len(COLUMNS))
    for strategy, policy in MODES:
        for backend in BACKENDS:
            values = [show(cells[name, backend, strategy, policy]) for _, name, show in COLUMNS]
            print(f"| {strategy} | {policy} | {backend} | {' | '.join(values)} |")


def print_ratios(rows: list[Row]) -> None:
    """Durable appends as a part of what the bare disk did in the same round."""
    names = [f"append-{batch}x{size}" for size in ("64B", "1KiB", "64KiB") for batch in (1, 64)]
    print("| DiskFirst + Immediate |" + "".join(f" {name.removeprefix('append-')} |" for name in names))
    print("|---|" + "---:|" * len(names))
    for backend in BACKENDS:
        mine = {
            row["workload"]: row
            for row in rows
            if (row["backend"], row["strategy"], row["flush_policy"]) == (backend, *MODES[0])
        }
        print(f"| {backend} | " + " | ".join(f"{mine[name]['ratio']:.2f}" for name in names) + " |")


if __name__ == "__main__":
    measured: list[Row] = json.loads(Path(sys.argv[1]).read_text())["rows"]
    if {name for _, name, _ in COLUMNS} <= {row["workload"] for row in measured}:
        print_table(measured)
        print()
    print_ratios(measured)
