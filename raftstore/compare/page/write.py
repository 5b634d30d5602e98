"""Writes a report into a directory."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path
from typing import Final

import jinja2
import msgspec
from matplotlib.figure import Figure

from raftstore.compare.page.charts import CHARTS, Chart, figure_of, series_in, style
from raftstore.compare.report import NOTES, Report, as_json, heading, text_tables, warnings

PAGE: Final = "index.html"
RAW: Final = "report.json"
DPI: Final = 160


class Drawn(msgspec.Struct, frozen=True):
    """A chart as the page holds it."""

    name: str
    title: str
    caption: str
    series: int
    svg: str


def write_page(report: Report, directory: Path) -> Path:
    """Write the page, each chart as SVG and PNG, and the raw numbers; return the path of the page.

    The page needs nothing but itself. Files of the same names are replaced. Raises `OSError`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / RAW).write_text(as_json(report))
    with style():
        drawn = [_draw(chart, figure, directory) for chart, figure in _figures(report)]
    page = directory / PAGE
    page.write_text(_template().render(_contents(report, drawn)), encoding="utf-8")
    return page


def _figures(report: Report) -> list[tuple[Chart, Figure]]:
    return [(chart, figure) for chart in CHARTS if (figure := figure_of(chart, report)) is not None]


def _draw(chart: Chart, figure: Figure, directory: Path) -> Drawn:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    (directory / f"{chart.name}.svg").write_text(svg, encoding="utf-8")
    figure.savefig(directory / f"{chart.name}.png", dpi=DPI)
    return Drawn(chart.name, chart.title, chart.caption, series_in(figure), svg[svg.index("<svg") :])


def _contents(report: Report, drawn: list[Drawn]) -> dict[str, object]:
    return {
        "report": report,
        "heading": heading(report.machine),
        "rounds": max(row.rounds for row in report.rows),
        "warnings": [*warnings(report), *report.not_installed],
        "charts": drawn,
        "tables": list(text_tables(report.rows)),
        "notes": NOTES,
    }


def _template() -> jinja2.Template:
    source = files("raftstore.compare.page").joinpath("template.html.jinja").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
