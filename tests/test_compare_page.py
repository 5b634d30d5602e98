"""The page of `raftstore compare --report`, in a real browser: every chart shows data, nothing overflows."""

# ruff: noqa: E402 (what the page needs is looked for first)
from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

for library in ("matplotlib", "jinja2", "typer"):
    pytest.importorskip(library, reason=f"the page needs {library}: the extras report and cli")

from raftstore.compare.advice import advise
from raftstore.compare.budget import Budget
from raftstore.compare.cells import cells_of
from raftstore.compare.machine import machine_of
from raftstore.compare.measurement import LADDER
from raftstore.compare.page.charts import CHARTS, figure_of, style
from raftstore.compare.page.write import write_page
from raftstore.compare.report import Report, as_json
from raftstore.compare.rounds import Plan, run
from raftstore.compare.summary import summarize
from raftstore.compare.workloads import choose

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 375, 1280
PATIENCE_MS = 120_000
NEEDED = (
    "append-1x64B",
    "append-*x1KiB",
    "threads-[18]x*",
    "asyncio-[18]x*",
    "open-1000",
    "open-10000",
    "fill",
)

SERIES = """figure => {
    const series = [...figure.querySelectorAll("[id^='series-']")];
    return series.map(one => { const box = one.getBoundingClientRect(); return box.width + box.height; });
}"""
OVERFLOWING = """() => {
    const width = document.documentElement.clientWidth;
    const scrolled = element => element.closest(".scroll") !== null;
    return [...document.querySelectorAll("body *")]
        .filter(element => !scrolled(element) && element.getBoundingClientRect().right > width + 1)
        .map(element => element.outerHTML.slice(0, 80));
}"""


class Silent:
    def step(self, share: float, what: str) -> None:
        """Shows nothing."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A real run, very short."""
    directory = tmp_path_factory.mktemp("measured")
    cells = cells_of(["segmented"], ["DiskFirst", "MemFirst"], ["Immediate"])
    samples = run(Plan(cells, choose(NEEDED), 1, 600, 1000, Budget(0.0)), directory, Silent())
    rows = summarize(samples)
    return Report(machine_of(directory), 1.0, 1000, rows, samples, advise(rows))


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(report, tmp_path_factory.mktemp("page") / "new")


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    """After the page was made: its event loop would be in the way of the measuring."""
    if BROWSER is None:
        pytest.skip("no browser: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield browser
        browser.close()


@contextmanager
def look(browser: Browser, page: Path, width: int) -> Iterator[Page]:
    shown = browser.new_page(viewport={"width": width, "height": 900})
    shown.set_default_timeout(PATIENCE_MS)
    try:
        shown.goto(page.as_uri(), timeout=PATIENCE_MS)
        yield shown
    finally:
        shown.close()


# --- in a browser -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_every_chart_shows_all_its_series(browser: Browser, page: Path, width: int) -> None:
    with look(browser, page, width) as shown:
        figures = shown.query_selector_all("figure")
        assert [figure.get_attribute("id") for figure in figures] == [
            f"chart-{chart.name}" for chart in CHARTS
        ]
        for figure in figures:
            sizes: list[float] = figure.evaluate(SERIES)
            assert len(sizes) == int(figure.get_attribute("data-series") or 0) > 0
            assert all(size > 2 for size in sizes), figure.get_attribute("id")


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, width: int) -> None:
    with look(browser, page, width) as shown:
        shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert shown.evaluate(OVERFLOWING) == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_something_too_wide_would_be_noticed(browser: Browser, page: Path) -> None:
    with look(browser, page, PHONE) as shown:
        shown.evaluate("document.querySelector('h1').style.width = '900px'")
        assert shown.evaluate(OVERFLOWING)


def test_a_chart_without_data_would_be_noticed(browser: Browser, page: Path) -> None:
    with look(browser, page, PHONE) as shown:
        shown.evaluate("document.querySelector('[id^=series-]').replaceChildren()")
        figure: Any = shown.query_selector("figure")
        assert not all(size > 2 for size in figure.evaluate(SERIES))


def test_the_page_loads_nothing_from_anywhere_and_says_no_error(browser: Browser, page: Path) -> None:
    asked: list[str] = []
    errors: list[str] = []
    with browser.new_page() as shown:
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.goto(page.as_uri(), timeout=PATIENCE_MS)
    assert (asked, errors) == ([page.as_uri()], [])


# --- as files -----------------------------------------------------------------------------------------------


def test_each_chart_is_also_a_picture_of_its_own(page: Path) -> None:
    for chart in CHARTS:
        assert (page.parent / f"{chart.name}.svg").read_text().rstrip().endswith("</svg>")
        assert (page.parent / f"{chart.name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_raw_numbers_lie_beside_the_page(page: Path, report: Report) -> None:
    assert (page.parent / "report.json").read_text() == as_json(report)
    assert report.recommendation in re.sub(r"&#\d+;", "'", page.read_text())


def test_names_from_a_config_cannot_become_markup(report: Report, tmp_path: Path) -> None:
    sneaky = msgspec.structs.replace(report, recommendation="<script>alert(1)</script>")
    assert "<script>" not in write_page(sneaky, tmp_path).read_text()


@pytest.mark.parametrize("name", ["lmdb", "a_backend_with_a_name_that_is_longer_than_usual"])
def test_a_legend_hides_nothing_and_is_not_cut_off(report: Report, name: str) -> None:
    more = [msgspec.structs.replace(sample, backend=name + end) for sample in report.samples for end in "xyz"]
    several = msgspec.structs.replace(report, samples=more, rows=summarize(more))
    for chart in CHARTS:
        with style():
            figure = figure_of(chart, several)
            assert figure is not None
            figure.draw_without_rendering()
        (legend,), (axes,) = figure.legends, figure.axes
        box, width = legend.get_window_extent(), figure.bbox.width
        assert 0 <= box.x0 < box.x1 <= width, chart.name
        assert box.y0 >= axes.get_window_extent().y1, chart.name


def test_the_same_line_means_the_same_policy_in_every_chart(report: Report) -> None:
    other = [msgspec.structs.replace(sample, flush_policy="Batch:1:1") for sample in report.samples]
    for samples in ([*report.samples, *other], [*other, *report.samples]):
        both = msgspec.structs.replace(report, samples=samples, rows=summarize(samples))
        for chart in CHARTS:
            with style():
                figure = figure_of(chart, both)
            assert figure is not None
            for line in figure.axes[0].lines:
                if "Immediate" in str(line.get_label()):
                    assert line.get_linestyle() == "-", chart.name


def test_an_axis_of_less_than_a_decade_has_ticks_too(report: Report) -> None:
    ladder = [0.15 + step / 50 for step in range(len(LADDER))]
    narrow = [
        msgspec.structs.replace(sample, measured=msgspec.structs.replace(sample.measured, ladder_ms=ladder))
        for sample in report.samples
    ]
    chart = next(chart for chart in CHARTS if chart.name == "latency-disk-first")
    with style():
        figure = figure_of(chart, msgspec.structs.replace(report, samples=narrow))
        assert figure is not None
        figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert [round(tick, 3) for tick in axes.get_xticks() if low <= tick <= high] == [0.2, 0.5]


def test_every_measured_number_of_callers_has_its_tick(report: Report) -> None:
    chart = next(chart for chart in CHARTS if chart.name == "tasks")
    with style():
        figure = figure_of(chart, report)
    assert figure is not None
    assert list(figure.axes[0].get_xticks()) == [1, 8]


def test_a_chart_whose_workloads_were_not_run_is_left_out(report: Report, tmp_path: Path) -> None:
    kept = [sample for sample in report.samples if not sample.workload.startswith("open-")]
    page = write_page(msgspec.structs.replace(report, samples=kept, rows=summarize(kept)), tmp_path)
    assert 'id="chart-opening"' not in page.read_text()
    assert 'id="chart-ratios"' in page.read_text()


def test_the_command_writes_the_page_of_a_saved_run(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from raftstore.cli import main

    (tmp_path / "saved.json").write_text(as_json(report))
    line = [
        "raftstore",
        "compare",
        str(tmp_path / "saved.json"),
        "--report",
        str(tmp_path / "page"),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capsys.readouterr()
    assert not left.value.code
    assert json.loads(out)["rows"]
    assert "index.html" in err
    assert (tmp_path / "page" / "index.html").exists()
