"""Draws what `raftstore compare --json` measured, for the README.

    raftstore compare --json > compare.json
    python benchmarks/picture.py compare.json docs/compare.svg

Needs matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "raftstore", "font.size": 9})

from matplotlib import pyplot as plt  # noqa: E402

COLOURS = {"segmented": "#2b6cb0", "lmdb": "#dd8452", "rocksdb": "#55a868"}
APPENDS = ("append-1x64B", "append-1x1KiB", "append-1x64KiB", "append-64x64B", "append-64x1KiB")

Row = dict[str, Any]


def draw(report: dict[str, Any], target: Path) -> None:
    """Left: durable appends beside the bare disk. Right: how long one call takes, by strategy and policy."""
    rows: list[Row] = report["rows"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    _draw_ratios(left, [row for row in rows if _mode(row) == "DiskFirst + Immediate"])
    _draw_latencies(right, [row for row in rows if row["workload"] == "append-1x1KiB"])
    figure.savefig(target, metadata={"Date": None})


def _mode(row: Row) -> str:
    return f"{row['strategy']} + {row['flush_policy']}"


def _draw_ratios(axes: Any, rows: list[Row]) -> None:
    workloads = [name for name in APPENDS if any(row["workload"] == name for row in rows)]
    width = 0.8 / len(COLOURS)
    for shift, (backend, colour) in enumerate(COLOURS.items()):
        found = {row["workload"]: row["ratio"] for row in rows if row["backend"] == backend}
        places = [position + shift * width for position in range(len(workloads))]
        axes.bar(places, [found.get(name, 0) for name in workloads], width, color=colour, label=backend)
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(
        [position + width for position in range(len(workloads))],
        [name.removeprefix("append-").replace("x", " × ") for name in workloads],
    )
    axes.set_title("DiskFirst + Immediate: entries/s, bare disk = 1")
    axes.set_xlabel("entries a call × entry size")
    axes.legend(frameon=False)


def _draw_latencies(axes: Any, rows: list[Row]) -> None:
    modes = sorted({_mode(row) for row in rows})
    width = 0.8 / len(COLOURS)
    for shift, (backend, colour) in enumerate(COLOURS.items()):
        found = {_mode(row): row["p50_ms"] for row in rows if row["backend"] == backend}
        places = [position + shift * width for position in range(len(modes))]
        axes.bar(places, [found.get(mode, 0) for mode in modes], width, color=colour)
    axes.set_yscale("log")
    axes.set_xticks(
        [position + width for position in range(len(modes))], [mode.replace(" + ", "\n") for mode in modes]
    )
    axes.set_title("append of 1 KiB: median ms until acknowledged")


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
