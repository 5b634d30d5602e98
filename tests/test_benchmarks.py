"""`python -m benchmarks.targets`: what it measures is what it says, and what was written by hand stays."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import pytest

from raftstore.testing.tools import PATIENCE_S, background, eventually, in_threads, outcome

ROOT = Path(__file__).parent.parent
NEEDS_CC = pytest.mark.skipif(shutil.which("cc") is None, reason="the limit needs a C compiler: install gcc")
NEEDS_STRACE = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


pytestmark = pytest.mark.usefixtures("benchmarks_are_importable")


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


def result(name: str, *values: float, bound: float = 1.0, **beside: float) -> Any:
    results = module("result")
    return results.Result(name, results.Target("at least", bound), values, beside, f"measure {name}", 1.0)


def report(*runs: tuple[str, list[Any]]) -> Any:
    results, found = module("result"), module("result").Report()
    for when, rows in runs:
        found = found.with_run(results.Run(when=when, machine={"disk": when}, quick=False, results=rows))
    return found


@NEEDS_CC
@NEEDS_STRACE
def test_the_limit_is_one_write_and_one_sync_of_all_that_is_offered(tmp_path: Path) -> None:
    native = module("native")
    program = native.compile_program("limit.c", tmp_path, ["-pthread"], needs="gcc")
    trace = tmp_path / "trace"
    command = ["strace", "-qq", "-e", "trace=pwrite64,fdatasync", "-o", str(trace), str(program)]
    done = subprocess.run(
        [*command, str(tmp_path / "file")],
        input="batch 8 256 1\n",
        capture_output=True,
        text=True,
        check=True,
    )
    entries = int(done.stdout.splitlines()[-1].split()[0])
    calls = [line for line in trace.read_text().splitlines() if "4194304" not in line]  # not the zeros
    assert [line.split("(")[0] for line in calls] == ["pwrite64", "fdatasync"] * (entries // 8)
    assert all(line.endswith(" = 2048") for line in calls[::2])


@NEEDS_STRACE
def test_a_durable_write_is_two_system_calls_one_way_and_one_the_other(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=pwrite64,pwritev2,fdatasync", "-o", str(trace)]
    line = [
        sys.executable,
        "-m",
        "benchmarks.dsync",
        "--path",
        str(tmp_path),
        "--rounds",
        "2",
        "--writes",
        "3",
    ]
    done = subprocess.run([*command, *line], cwd=ROOT, capture_output=True, text=True, check=True)
    written = [call for call in trace.read_text().splitlines() if "1048576" not in call]  # not the zeros
    for size in (64, 1024, 4096, 65536):
        assert sum(f" = {size}" in call and "pwrite64" in call for call in written) == 6, size
        assert sum(f" = {size}" in call and "RWF_DSYNC" in call for call in written) == 6, size
    assert sum("fdatasync" in call for call in written) == 4 * 6
    assert [row.split()[0] for row in done.stdout.splitlines()[1:]] == ["64", "1,024", "4,096", "65,536"]
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


@NEEDS_CC
def test_the_limit_says_how_many_entries_threads_made_durable(tmp_path: Path) -> None:
    native = module("native")
    limit, kind = native.open_limit(tmp_path)
    try:
        assert kind.startswith("C ")
        assert limit.threads(4, 256, 0.02) > 0
        assert limit.batch(4, 256, 0.02) > 0
    finally:
        limit.close()


def test_without_a_compiler_a_loop_in_python_stands_in_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    limit, kind = module("native").open_limit(tmp_path)
    try:
        assert "Python" in kind
        assert "install" in kind
        assert limit.batch(4, 256, 0.02) > 0
        assert limit.threads(4, 256, 0.02) is None
    finally:
        limit.close()


def test_calls_are_counted_between_the_marks_only() -> None:
    counts = module("counts")
    trace = "\n".join(
        [
            "1 fdatasync(3) = 0",
            '1 write(1, "begin of the measurement\\n", 25) = 25',
            "1 pwrite64(3, ...) = 100",
            "2 fdatasync(3 <unfinished ...>",
            "2 <... fdatasync resumed>) = 0",
            '1 write(1, "end of the measurement\\n", 23) = 23',
            "1 fdatasync(3) = 0",
        ]
    )
    assert counts.between_marks(trace) == ({"pwrite64": 1}, {"fdatasync": 1})


def test_a_new_run_replaces_its_rows_and_keeps_the_others(tmp_path: Path) -> None:
    results = module("result")
    found = report(("monday", [result("a", 1), result("b", 2)]), ("tuesday", [result("b", 3)]))
    results.write_report(tmp_path / "r.json", found)
    kept = results.read_report(tmp_path / "r.json")
    assert {r.name: (run.when, r.median) for run in kept.runs for r in run.results} == {
        "a": ("monday", 1),
        "b": ("tuesday", 3),
    }


def test_the_median_of_the_rounds_decides() -> None:
    assert result("a", 0.5, 1.2, 1.1).is_met
    assert not result("a", 0.5, 0.9, 5.0).is_met
    assert result("a").is_met is None


def test_a_reason_stands_under_a_missed_row_and_not_under_one_that_is_met() -> None:
    page, rows = module("page"), module("rows").ROWS
    missed, met = rows[0], rows[1]
    found = report(
        ("monday", [result(missed.name, 0.5, bound=0.95, **{"added, µs": 10.0}), result(met.name, 2.0)])
    )
    text = page.make_page(found, {missed.name: "Physics.", met.name: "Luck."})
    assert "Physics. With the 10 µs we add it would be met where the limit takes 190 µs a write." in text
    assert "Luck." not in text


def test_a_reason_for_a_row_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "reasons.toml").write_text('append-1x3B = "?"\n')
    with pytest.raises(KeyError, match="append-1x3B"):
        module("page").read_reasons(tmp_path / "reasons.toml")


def test_the_tables_of_the_readme_say_of_how_many_rounds_and_of_which_disk_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables, row = module("tables"), {"rounds": 3, "bare_ms": 0.0364}
    tables.print_conditions(
        [{"workload": "open", "rounds": 2, "bare_ms": None}, {"workload": "append-1x1KiB", **row}]
    )
    assert capsys.readouterr().out == "Rounds: 3. One bare write and sync of 1 KiB took 0.036 ms.\n"


def test_rows_have_names_of_their_own() -> None:
    names = [row.name for row in module("rows").ROWS]
    assert len(set(names)) == len(names)


def test_the_page_is_what_the_command_writes_from_the_results(tmp_path: Path) -> None:
    assert module("targets").main(["--page-only", "--report", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == (ROOT / "docs/PERFORMANCE.md").read_text()


@pytest.fixture
def can_preload(tmp_path: Path) -> None:
    """By its path, or the test is skipped."""
    try:
        module("slow_disk").compile_shim(tmp_path)
    except module("native").UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["a b", "a:b"])
def test_where_nothing_can_be_preloaded_no_disk_is_simulated(tmp_path: Path, name: str) -> None:
    with pytest.raises(module("native").UnavailableError, match="set TMPDIR"):
        module("slow_disk").compile_shim(tmp_path / name)


def test_without_a_compiler_no_disk_is_simulated_and_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="install gcc or clang"):
        module("targets").main(["--sync-us", "10"])


@NEEDS_CC
@NEEDS_STRACE
@pytest.mark.usefixtures("can_preload")
def test_on_a_simulated_disk_each_sync_of_any_program_takes_the_delay_once(tmp_path: Path) -> None:
    slow_disk = module("slow_disk")
    environment = slow_disk.environment(slow_disk.compile_shim(tmp_path), 123)
    trace = tmp_path / "trace"
    program = "import os; fd = os.open('f', os.O_CREAT | os.O_RDWR); os.fdatasync(fd); os.fsync(fd)"
    command = ["strace", "-qq", "-e", "trace=fdatasync,fsync,clock_nanosleep", "-o", str(trace)]
    subprocess.run([*command, sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path)
    lines = trace.read_text().splitlines()
    calls = [line.split("(")[0] for line in lines]
    assert calls == ["fdatasync", "clock_nanosleep", "fsync", "clock_nanosleep"]
    assert all("tv_nsec=123000" in line for line in lines[1::2])


@NEEDS_CC
@pytest.mark.backend("segmented")
@pytest.mark.usefixtures("can_preload")
def test_a_run_on_a_simulated_disk_keeps_its_results_apart_and_only_those_of_appends(tmp_path: Path) -> None:
    home, kept = tmp_path / "disk", tmp_path / "r.json"
    home.mkdir()
    arguments = ["--quick", "--sync-us", "10", "--only", "append-1x64B", "memfirst-100"]
    assert module("targets").main([*arguments, "--path", str(home), "--json", str(kept)]) == 0
    found = json.loads((tmp_path / "r-10us.json").read_text())["runs"]
    assert [row["name"] for run in found for row in run["results"]] == ["append-1x64B"]
    assert not kept.exists()
    assert module("slow_disk").reports_beside(kept) == {10: tmp_path / "r-10us.json"}
    assert not list(home.iterdir())


def test_the_page_shows_what_was_measured_on_simulated_disks_beside_this_one() -> None:
    page, row = module("page"), module("rows").ROWS[0]
    here = report(("monday", [result(row.name, 0.5, bound=0.95)]))
    slow = report(("tuesday", [result(row.name, 0.97, bound=0.95)]))
    text = page.make_page(here, {}, {1000: slow})
    assert "1 ms more a sync (simulated)" in text
    assert f"| {row.title} | ≥ 0.95 | 0.500 **missed** | 0.970 met |" in text


def test_the_tables_of_a_quick_comparison_have_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """It leaves out workloads, and the last round may end before all backends had their turn."""
    tables = module("tables")
    immediate = {"strategy": "DiskFirst", "flush_policy": "Immediate", "ratio": 0.5, "p50_ms": 2.0}
    rows = [
        {"workload": "append-1x1KiB", "backend": "segmented", **immediate},
        {"workload": "append-1x1KiB", "backend": "lmdb", **immediate},
        {"workload": "open", "backend": "segmented", **immediate, "ratio": None, "p50_ms": 0.25},
    ]
    tables.print_table(rows)
    tables.print_ratios(rows)
    assert capsys.readouterr().out.splitlines() == [
        "| strategy | policy | backend | one append of 1 KiB, ms | open, ms |",
        "|---|---|---|---:|---:|",
        "| DiskFirst | Immediate | segmented | 2.0 | 0.250 |",
        "| DiskFirst | Immediate | lmdb | 2.0 | – |",
        "| DiskFirst + Immediate | 1x1KiB |",
        "|---|---:|",
        "| segmented | 0.50 |",
        "| lmdb | 0.50 |",
    ]


@pytest.mark.parametrize(
    ("file", "layer"),
    [
        ("/x/raftstore/aio.py", "ASYNC"),
        ("/x/raftstore/operations.py", "CHECKS"),
        ("/x/raftstore/pipeline.py", "PIPELINE"),
        ("/x/backends/raftstore_segmented/frame.py", "SEGMENTED"),
        ("/usr/lib/python3.11/asyncio/events.py", "LIBRARY"),
        ("/x/benchmarks/appends.py", "PROPOSER"),
        ("/x/raftstore/compare/payloads.py", "PROPOSER"),
    ],
)
def test_a_file_belongs_to_its_layer(file: str, layer: str) -> None:
    layers = module("layers")
    assert layers.layer_of(file) == getattr(layers, layer)


def test_samples_count_by_their_innermost_frame_and_only_those_of_what_is_measured() -> None:
    layers = module("layers")
    samples = [
        "_run_module_as_main (x.py:1);measured (child.py:3);propose (/r/raftstore/aio.py:9) 5",
        "_run_module_as_main (x.py:1);open (/r/raftstore/log.py:9) 7",
        "Thread._bootstrap (t.py:1);Pipeline.lead (/r/raftstore/pipeline.py:1);f (/r/raftstore/view.py:2) 2",
        "Thread._bootstrap (t.py:1);Flusher._sleep (/r/raftstore/flusher.py:90) 11",
    ]
    assert layers.samples_by_layer(samples) == {layers.ASYNC: 5, layers.PIPELINE: 2}


def test_a_profile_that_cannot_be_taken_here_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, native = module("profile"), module("native")

    def unavailable(*_: object, **__: object) -> NoReturn:
        raise native.UnavailableError("py-spy is not installed: pip install it")

    monkeypatch.setattr(profile, "shares_by_layer", unavailable)
    monkeypatch.setattr(profile, "describe", unavailable)
    with pytest.raises(SystemExit, match="cannot be profiled here: py-spy is not installed: pip install it"):
        profile.main(["--only", "append-1x64B", "--path", str(tmp_path), "--json", str(tmp_path / "r.json")])
    assert not list(tmp_path.iterdir())


def test_bare_threads_write_together_what_was_proposed_while_another_wrote() -> None:
    written, go_on = list[bytes](), Event()

    def write(data: bytes) -> None:
        written.append(data)
        go_on.wait(PATIENCE_S)

    group = module("bare_threads").BareGroup(write)
    calls = [background(lambda: group.propose(b"a"))]
    eventually(lambda: bool(written), "the first writes")
    calls += [background(lambda: group.propose(b"b")) for _ in range(3)]
    eventually(lambda: len(group._pending) == 3, "the others wait")
    go_on.set()
    for call in calls:
        outcome(call)
    assert written == [b"a", b"bbb"]


def test_a_bare_thread_goes_on_when_its_entry_is_written() -> None:
    written = list[bytes]()
    group = module("bare_threads").BareGroup(written.append)

    def propose(number: int) -> bool:
        for count in range(1, 51):
            group.propose(b"%d" % number)
            if b"".join(written).count(b"%d" % number) != count:
                return False
        return True

    assert all(in_threads(8, propose))


def test_every_module_that_is_compiled_is_there(tmp_path: Path) -> None:
    compiled = module("compiled")
    code = compiled.copy_code(tmp_path)
    assert [name for name in compiled.HOT if not (code / name).is_file()] == []
    assert not any(compiled.is_compiled(code, name) for name in compiled.HOT)


def test_a_profile_says_what_is_left_beside_the_disk_and_the_interpreter(tmp_path: Path) -> None:
    profiled, results = module("profiled"), module("result")
    target = results.Target("at least", 0.9)
    row = profiled.Profiled("append-1x64B", target, {"checks": 3.0}, {"pwrite64": 1.0}, 40, 50, 44, 0.8, 0.91)
    profiled.write_profile(tmp_path / "r.json", profiled.Profile("monday", {}, [row]))
    found = profiled.read_profile(tmp_path / "r.json")
    assert found.rows[0].rest_us == 7.0
    text = "\n".join(profiled.tables(found))
    assert "| `append-1x64B` | 50.0 | 40.0 | 3.0 | 7.0 |" in text
    assert "| `append-1x64B` | ≥ 0.9 | 0.800 | 0.910 | 44.0 | yes |" in text
    assert "pwrite64 1.0" in text


@pytest.mark.backend("segmented")
def test_a_quick_run_measures_says_on_what_and_leaves_nothing_behind(tmp_path: Path) -> None:
    home, kept = tmp_path / "disk", tmp_path / "r.json"
    home.mkdir()
    names = ["append-1x64B", "asyncio-8", "bytes-appended", "memfirst-100"]
    arguments = ["--quick", "--only", *names, "--path", str(home), "--json", str(kept)]
    assert module("targets").main(arguments) == 0
    run = json.loads(kept.read_text())["runs"][0]
    assert [row["name"] for row in run["results"]] == names
    assert all(value > 0 for row in run["results"] for value in row["values"])
    assert run["quick"]
    assert {"system", "file system", "limit", "versions"} <= set(run["machine"])
    assert not list(home.iterdir())


def test_what_cannot_be_measured_here_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    targets = module("targets")
    (row,) = targets._chosen(["syncs-alone"])
    run = targets.measure([row], tmp_path, quick=True)
    assert run.results[0].skipped == "strace is not installed"
    assert run.results[0].is_met is None


def test_a_row_that_fails_does_not_take_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_bench: object) -> None:
        raise RuntimeError("no leader")

    targets, rows = module("targets"), module("rows")
    failing = rows.Row("bad", "a bad row", rows.at_least(1), "never", fail)
    found = targets.measure([failing, *targets._chosen(["memfirst-100"])], tmp_path, quick=True)
    assert [(result.name, result.failed) for result in found.results] == [
        ("bad", "RuntimeError('no leader')"),
        ("memfirst-100", None),
    ]
    assert not list(tmp_path.iterdir())
