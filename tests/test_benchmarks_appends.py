"""The appends that are measured on a log that is purged steadily."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytestmark = [pytest.mark.usefixtures("benchmarks_are_importable"), pytest.mark.backend("segmented")]

SIZE = 100


def test_a_log_that_is_purged_steadily_keeps_what_it_is_to_keep_and_little_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appends, bench = (
        importlib.import_module("benchmarks.appends"),
        importlib.import_module("benchmarks.bench"),
    )
    monkeypatch.setattr(appends, "KEPT_BYTES", 40 * SIZE)
    monkeypatch.setattr(appends, "PURGE_BYTES", 20 * SIZE)
    work = appends.one_caller_beside_purges(4, SIZE)
    with bench.open_log(tmp_path / "log") as log:
        while log.last_index < 200:
            work(log, 0.01)
        assert 40 <= len(log) < 64
        assert log.anchor.index % 4 == 0


def test_rows_with_large_writes_are_measured_beside_purges_too() -> None:
    rows, appends = importlib.import_module("benchmarks.rows"), importlib.import_module("benchmarks.appends")
    beside = {row.name for row in rows.ROWS if getattr(row.run, "func", None) is appends.beside_purges}
    assert beside == {"append-1x64KiB", "append-64x1KiB"}
