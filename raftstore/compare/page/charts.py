"""The charts of the page, each a figure or nothing where its workloads were not run."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, cast

import matplotlib as mpl
import msgspec
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from raftstore.compare.keeping import ENTRY_BYTES
from raftstore.compare.need import Cell, cells_in
from raftstore.compare.page.curves import Curve, ladders, opening, throughput
from raftstore.compare.report import Report
from raftstore.compare.summary import Row

KNOWN_COLOURS: Final = {"segmented": "#2563eb", "lmdb": "#ea7317", "rocksdb": "#0f9d76"}
OTHER_COLOURS: Final = ("#9333ea", "#dc2626", "#ca8a04", "#475569")
DASHES: Final[tuple[Any, ...]] = ("-", "--", ":", "-.")
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raftstore",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
WIDTH_IN: Final = 5.0
HEIGHT_IN: Final = 3.4
FEW_DECADES: Final = 100
APPENDS: Final = tuple(f"append-{batch}x{size}" for size in ("64B", "1KiB", "64KiB") for batch in (1, 64))


class Chart(msgspec.Struct, frozen=True):
    """One figure and what it says."""

    name: str
    title: str
    caption: str
    draw: Callable[[Axes, Report], None]


def style() -> AbstractContextManager[None]:
    """The looks of the charts, while the context lasts."""
    return mpl.rc_context(STYLE)


def figure_of(chart: Chart, report: Report) -> Figure | None:
    """The figure; None where nothing was measured for it. Draw and save it under `style`."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    axes = figure.subplots()
    chart.draw(axes, report)
    for number, artist in enumerate((*axes.lines, *axes.patches)):
        artist.set_gid(f"series-{chart.name}-{number}")
    return figure if axes.has_data() else None


def series_in(figure: Figure) -> int:
    """How many lines and bars it shows."""
    return sum(len(axes.lines) + len(axes.patches) for axes in figure.axes)


# --- drawing ------------------------------------------------------------------------------------------------


def _latencies(strategy: str) -> Callable[[Axes, Report], None]:
    def draw(axes: Axes, report: Report) -> None:
        curves = [
            curve
            for curve in ladders(report.samples, "append-1x1KiB")
            if curve.cell[1].split(":")[0] == strategy
        ]
        _lines(axes, report.rows, curves, marker="")
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds until the call returns")
        axes.set_ylabel("share of the calls")
        axes.set_ylim(0, 1.02)
        _plain_numbers(axes.xaxis)

    return draw


def _throughput(names: str, label: str) -> Callable[[Axes, Report], None]:
    def draw(axes: Axes, report: Report) -> None:
        curves = throughput([row for row in report.rows if row.strategy == "DiskFirst"], names)
        _lines(axes, report.rows, curves, marker="o")
        _log_log(axes, curves, label, "durable entries a second")

    return draw


def _opening(axes: Axes, report: Report) -> None:
    policy = _policy(report.rows)
    curves = opening([row for row in report.rows if row.flush_policy == policy])
    _lines(axes, report.rows, curves, marker="o")
    _log_log(axes, curves, "entries of 100 bytes in the log", "milliseconds to open")


def _ratios(axes: Axes, report: Report) -> None:
    _bars(axes, _of_one_mode(report.rows), APPENDS, lambda row: row.ratio)
    axes.axhline(1, color="#0f172a", linewidth=0.9, linestyle=":")
    axes.set_ylabel("the bare disk = 1")


def _sizes(value: Callable[[Row], float | None], label: str) -> Callable[[Axes, Report], None]:
    def draw(axes: Axes, report: Report) -> None:
        _bars(axes, _of_one_mode(report.rows), ("fill",), value)
        axes.set_xticks([])
        axes.set_xlabel(f"a log of {report.entries:,} entries of {ENTRY_BYTES} bytes")
        axes.set_ylabel(label)

    return draw


def _of_one_mode(rows: Sequence[Row]) -> list[Row]:
    """One bar a backend: DiskFirst where it was measured, with the policy that waits least."""
    strategies = [row.strategy for row in rows]
    mode = ("DiskFirst" if "DiskFirst" in strategies else strategies[0], _policy(rows))
    return [row for row in rows if row.cell[1:] == mode]


def _policy(rows: Sequence[Row]) -> str:
    policies = [row.flush_policy for row in rows]
    return "Immediate" if "Immediate" in policies else policies[0]


def _lines(axes: Axes, rows: Sequence[Row], curves: Iterable[Curve], marker: str) -> None:
    """Colour by backend; dashes by what else differs among the curves, in the same order in every chart."""
    curves = sorted(curves, key=lambda curve: curve.cell)
    colours = _colours(rows)
    others = sorted({curve.cell[1:] for curve in curves}, key=lambda other: (other[1] != "Immediate", other))
    for curve in curves:
        dash = DASHES[others.index(curve.cell[1:]) % len(DASHES)]
        label = _label(curve.cell, others)
        axes.plot(curve.x, curve.y, dash, color=colours[curve.cell[0]], marker=marker, label=label)
    if curves:
        _legend(axes, columns=len({curve.cell[0] for curve in curves}))


def _label(cell: Cell, others: Sequence[tuple[str, ...]]) -> str:
    differing = [1 + place for place in (0, 1) if len({other[place] for other in others}) > 1]
    return " ".join(cell[place] for place in (0, *differing))


def _bars(
    axes: Axes, rows: Sequence[Row], names: Sequence[str], value: Callable[[Row], float | None]
) -> None:
    found = {(row.workload, row.backend): number for row in rows if (number := value(row)) is not None}
    shown = [name for name in names if any(name == workload for workload, _ in found)]
    backends = list(dict.fromkeys(row.backend for row in rows))
    width = 0.8 / max(len(backends), 1)
    for shift, backend in enumerate(backends):
        bars = [(place, found[name, backend]) for place, name in enumerate(shown) if (name, backend) in found]
        axes.bar(
            [place + (shift - (len(backends) - 1) / 2) * width for place, _ in bars],
            [number for _, number in bars],
            width * 0.92,
            color=_colours(rows)[backend],
            label=backend,
        )
    labels = [name.removeprefix("append-").replace("x", " × ") for name in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=20 if len(shown) > 3 else 0)
    axes.grid(visible=False, axis="x")
    if shown:
        _legend(axes, columns=len(backends))


def _legend(axes: Axes, columns: int) -> None:
    """Above the chart, where it hides nothing; in fewer columns than asked for if the labels are long."""
    figure = cast("Figure", axes.figure)
    while True:
        legend = figure.legend(loc="outside upper center", ncols=columns, columnspacing=1.2, handlelength=3)
        figure.draw_without_rendering()
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()
        columns -= 1


def _colours(rows: Iterable[Row]) -> dict[str, str]:
    backends = dict.fromkeys(cell[0] for cell in cells_in(rows))
    spare = iter(OTHER_COLOURS * len(backends))
    return {name: KNOWN_COLOURS.get(name) or next(spare) for name in backends}


def _log_log(axes: Axes, curves: Sequence[Curve], x: str, y: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    axes.set_xticks(sorted({point for curve in curves for point in curve.x}))
    axes.xaxis.set_minor_locator(NullLocator())


def _plain_numbers(axis: Any) -> None:
    """10,000 instead of a power of ten; and more than one or two of them."""
    low, high = axis.get_view_interval()
    if 0 < low < high < FEW_DECADES * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _position: int) -> str:
    return f"{value:,.10g}"


CHARTS: Final = (
    Chart(
        "ratios",
        "Durable appends beside the bare disk",
        "Entries a call × size. 1: a loop of one pwrite and one fdatasync on this disk, in the same round.",
        _ratios,
    ),
    Chart(
        "latency-disk-first",
        "How long an append takes: DiskFirst",
        "One entry of 1 KiB a call. The further left and the steeper, the better.",
        _latencies("DiskFirst"),
    ),
    Chart(
        "latency-mem-first",
        "How long an append takes: MemFirst",
        "The same, acknowledged from memory.",
        _latencies("MemFirst"),
    ),
    Chart(
        "batches",
        "Larger calls",
        "DiskFirst, one caller, entries of 1 KiB.",
        _throughput(r"append-(\d+)x1KiB", "entries a call"),
    ),
    Chart(
        "tasks",
        "More proposers: asyncio",
        "DiskFirst, 256 bytes each; every task awaits its own entry, and they share syncs.",
        _throughput(r"asyncio-(\d+)x256B", "tasks"),
    ),
    Chart(
        "threads",
        "More proposers: threads",
        "The same, from threads.",
        _throughput(r"threads-(\d+)x256B", "threads"),
    ),
    Chart("opening", "Opening", "After a clean close, as the log grows.", _opening),
    Chart(
        "written",
        "Write amplification",
        "Bytes handed to write calls per payload byte while filling. Space prepared ahead counts; the larger"
        " the log, the less.",
        _sizes(lambda row: row.written_ratio, "bytes per payload byte"),
    ),
    Chart(
        "disk",
        "Disk use",
        "Bytes on disk per payload byte after filling, the same way.",
        _sizes(lambda row: row.disk_ratio, "bytes per payload byte"),
    ),
)
