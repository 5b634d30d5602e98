"""`raftstore compare`: it measures what it says, cleans up, and its numbers can be trusted."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

import raftstore
from raftstore.cli import main
from raftstore.compare.advice import advise, scores
from raftstore.compare.appending import Append, Tasks, Threads
from raftstore.compare.budget import CALLS_MIN, Budget
from raftstore.compare.cells import Cell, cells_of
from raftstore.compare.keeping import KEEPING, KeptStore, read_anywhere, read_forward
from raftstore.compare.limit import FILE_BYTES, BareDisk
from raftstore.compare.machine import Machine, filesystem_of, processor_in
from raftstore.compare.measurement import Measurement, measure_writes, quantiles_ms
from raftstore.compare.payloads import Payloads
from raftstore.compare.report import VERSION
from raftstore.compare.rounds import Plan, Sample, run
from raftstore.compare.summary import Row, bare_times, summarize
from raftstore.compare.workloads import STANDARD, WORKLOADS, choose
from raftstore.errors import ConfigError, RaftStoreError
from raftstore.meter import quantile
from raftstore.policy import Batch, Immediate
from raftstore.registry import backend_names
from raftstore.strategy import DiskFirst, MemFirst

needs_cli = pytest.mark.skipif(find_spec("typer") is None, reason="the command needs the extra cli")

BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in backend_names()]
SHORT = Budget(0.01)


class Steps:
    """Remembers what a run told."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str]] = []

    def step(self, share: float, what: str) -> None:
        self.told.append((share, what))


def disk_cells() -> list[Cell]:
    return cells_of(["segmented"], ["DiskFirst", "MemFirst"], ["Immediate"])


def plan(*names: str, rounds: int = 1, cells: list[Cell] | None = None) -> Plan:
    return Plan(cells or disk_cells(), choose(names), rounds, seconds=600, entries=1000, budget=SHORT)


def measured(seconds: float = 1.0, ideal_writes: float | None = 100.0, **changes: float) -> Measurement:
    counts = {"calls": 100, "entries": 100, "writes": 100} | changes
    return Measurement(
        calls=int(counts["calls"]),
        entries=int(counts["entries"]),
        seconds=seconds,
        durable_s=changes.get("durable_s", seconds),
        p50_ms=seconds * 10,
        p99_ms=seconds * 20,
        writes=int(counts["writes"]),
        ideal_writes=ideal_writes,
    )


def sample(number: int, backend: str, done: Measurement, bare_s: float | None = 0.005) -> Sample:
    return Sample(number, "append-1x64B", backend, "DiskFirst", "Immediate", done, bare_s)


# --- what is run --------------------------------------------------------------------------------------------


def test_every_combination_is_a_cell() -> None:
    cells = cells_of(["segmented"], ["DiskFirst", "MemFirst:sync_on_commit"], ["Immediate", "Batch:5:6"])
    assert cells == [
        Cell("segmented", strategy, policy)
        for strategy in (DiskFirst(), MemFirst(sync_on_commit=True))
        for policy in (Immediate(), Batch(5, 6))
    ]
    assert cells[-1].names == ("segmented", "MemFirst:sync_on_commit", "Batch:5:6")


@pytest.mark.parametrize(
    ("backend", "strategy", "policy"),
    [
        ("nothing", "DiskFirst", "Immediate"),
        ("segmented", "Fast", "Immediate"),
        ("segmented", "DiskFirst", "Batch:0:1"),
    ],
)
def test_a_misspelled_cell_is_refused(backend: str, strategy: str, policy: str) -> None:
    with pytest.raises(ConfigError, match=r"nothing|Fast|threshold"):
        cells_of([backend], [strategy], [policy])


def test_workloads_are_chosen_by_name_or_pattern_in_the_order_of_the_catalogue() -> None:
    names = [workload.name for workload in choose(["read-*", "append-64x1KiB"])]
    assert names == ["append-64x1KiB", "read-forward", "read-random"]
    assert choose([]) == list(STANDARD)


def test_a_pattern_that_matches_no_workload_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="append-1x64B"):
        choose(["append-*", "write-*"])


def test_names_of_workloads_are_unique() -> None:
    names = [workload.name for workload in WORKLOADS]
    assert len(set(names)) == len(names)


# --- one slice of work --------------------------------------------------------------------------------------


def test_a_slice_makes_a_few_calls_however_slow_they_are() -> None:
    assert sum(1 for _ in Budget(0.0).calls(1)) == CALLS_MIN


def test_a_slice_ends_when_its_bytes_are_used_up() -> None:
    assert sum(1 for _ in Budget(60.0, bytes=1000).calls(100)) == 10
    assert sum(1 for _ in Budget(60.0, bytes=1000).share(2).calls(100)) == 5


def test_payloads_of_one_call_differ() -> None:
    payloads = Payloads(64, 64)
    assert len(set(payloads.take() + payloads.take())) == 128
    assert {len(payload) for payload in payloads.take()} == {64}


def test_payloads_never_run_out() -> None:
    payloads = Payloads(64 * 1024, 64)
    assert [len(payloads.take()) for _ in range(3)] == [64, 64, 64]


def test_quantiles_are_taken_from_the_sorted_times() -> None:
    assert quantiles_ms([0.003, 0.001, 0.002]) == (2.0, 3.0)
    assert quantiles_ms([0.001]) == (1.0, 1.0)


def test_a_quantile_is_the_least_time_that_so_many_calls_did_not_exceed() -> None:
    hundred = [float(number) for number in range(1, 101)]
    shares = (0.0, 0.01, 0.5, 0.55, 0.9, 0.99, 0.991, 1.0)
    assert [quantile(hundred, share) for share in shares] == [1, 1, 50, 55, 90, 99, 100, 100]
    assert [quantile([1.0, 2.0], share) for share in (0.5, 0.51)] == [1, 2]


@pytest.fixture(params=[DiskFirst(), MemFirst()], ids=["DiskFirst", "MemFirst"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[raftstore.RaftLog]:
    with raftstore.open(Cell("segmented", request.param, Immediate()).config(tmp_path / "log")) as log:
        yield log


def test_append_counts_what_it_appended(log: raftstore.RaftLog) -> None:
    done = Append(64, 64).run(log, SHORT)
    assert done.entries == done.calls * 64 == len(log)
    assert done.ideal_writes == done.calls
    assert log.durable_index == log.last_index


@pytest.mark.parametrize("workload", [Threads(8, 256), Tasks(64, 256)], ids=["threads", "asyncio"])
def test_a_group_counts_what_all_its_callers_appended(
    log: raftstore.RaftLog, workload: Threads | Tasks
) -> None:
    done = workload.run(log, SHORT)
    assert done.entries == done.calls == len(log) >= workload.callers * CALLS_MIN
    assert done.ideal_writes == done.calls / workload.callers
    assert log.durable_index == log.last_index


def test_a_durable_append_of_one_caller_is_one_write(tmp_path: Path) -> None:
    with raftstore.open(Cell("segmented", DiskFirst(), Immediate()).config(tmp_path / "log")) as log:
        done = Append(1, 64).run(log, SHORT)
    assert done.writes == done.calls


def test_what_memory_acknowledged_counts_as_durable_only_after_the_flush(tmp_path: Path) -> None:
    cell = Cell("segmented", MemFirst(), Batch(1_000_000, 60_000))
    with raftstore.open(cell.config(tmp_path / "log")) as log:
        done = measure_writes(log, lambda: [float(len(log.propose(1, [b"x"])))], entries_a_call=1)
    assert done.seconds < done.durable_s
    assert done.writes == 1


def test_appends_are_measured_on_a_log_that_is_no_longer_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: dict[str, int] = {}
    honest = Append.run

    def noting(workload: Append, log: raftstore.RaftLog, budget: Budget) -> Measurement:
        held[workload.name] = len(log)
        return honest(workload, log, budget)

    monkeypatch.setattr(Append, "run", noting)
    samples = run(plan("append-1x64B", cells=disk_cells()[:1]), tmp_path, Steps())
    assert [sample.workload for sample in samples] == ["append-1x64B"]
    assert held["append-1x64B"] >= CALLS_MIN * 64


def test_writes_before_a_slice_are_not_counted_in_it(tmp_path: Path) -> None:
    cell = Cell("segmented", MemFirst(), Batch(1_000_000, 60_000))
    with raftstore.open(cell.config(tmp_path / "log")) as log:
        log.propose(1, [b"earlier"])
        done = measure_writes(log, lambda: [0.0], entries_a_call=1)
    assert done.writes == 0


# --- a log that is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [DiskFirst(), MemFirst()], ids=["DiskFirst", "MemFirst"])
def test_work_on_a_kept_log_does_what_its_name_says(tmp_path: Path, strategy: raftstore.Strategy) -> None:
    work = {workload.name: workload.run for workload in KEEPING}
    with KeptStore(Cell("segmented", strategy, Immediate()), tmp_path / "log", 2000) as store:
        filled = work["fill"](store, SHORT)
        assert (filled.entries, len(store.log)) == (2000, 2000)
        assert filled.disk_ratio is not None
        assert filled.disk_ratio >= 1
        assert work["open"](store, SHORT).calls == 1
        assert work["read-forward"](store, SHORT).entries == 2000
        assert work["read-random"](store, SHORT).calls >= CALLS_MIN
        work["truncate"](store, SHORT)
        assert store.log.last_index == 1800
        work["purge"](store, SHORT)
        assert store.log.first_index == 901


def test_reading_begins_with_nothing_in_memory(tmp_path: Path) -> None:
    with KeptStore(Cell("segmented", DiskFirst(), Immediate()), tmp_path / "log", 1000) as store:
        store.log.propose(1, [b"x" * 100] * 1000)
        read_forward(store, SHORT)
        assert store.log.status().cache_misses > 0


def test_single_reads_never_come_from_the_cache(tmp_path: Path) -> None:
    with KeptStore(Cell("segmented", DiskFirst(), Immediate()), tmp_path / "log", 1000) as store:
        store.log.propose(1, [b"x" * 100] * 1000)
        done = read_anywhere(store, SHORT)
        status = store.log.status()
        assert (status.cache_hits, status.cache_misses) == (0, done.calls)


# --- the limit ----------------------------------------------------------------------------------------------


def test_the_bare_loop_writes_only_into_blocks_that_were_written_before(tmp_path: Path) -> None:
    with BareDisk(tmp_path) as bare:
        before = (tmp_path / "bare").stat()
        assert before.st_blocks * 512 >= FILE_BYTES
        seconds = bare.seconds_per_write(FILE_BYTES // 4 + 1, Budget(0.0))
        again = bare.seconds_per_write(FILE_BYTES // 4 + 1, Budget(0.0))
        assert min(seconds, again) > 0
        assert (tmp_path / "bare").stat().st_size == FILE_BYTES
    assert list(tmp_path.iterdir()) == []


# --- rounds -------------------------------------------------------------------------------------------------


def test_every_cell_does_every_workload_in_every_round(tmp_path: Path) -> None:
    steps = Steps()
    samples = run(plan("append-1x64B", "open", rounds=2), tmp_path, steps, seed=1)
    found = [(one.round, one.workload, one.strategy) for one in samples]
    assert sorted(found) == sorted(
        (number, workload, strategy)
        for number in (0, 1)
        for workload in ("append-1x64B", "open")
        for strategy in ("DiskFirst", "MemFirst")
    )
    assert [share for share, _ in steps.told] == [0.0, 0.25, 0.5, 0.75]


def test_rounds_come_in_different_orders(tmp_path: Path) -> None:
    cells = cells_of(["segmented"], ["DiskFirst"], [f"Batch:{n}:1" for n in range(1, 9)])
    steps = Steps()
    run(plan("append-1x64B", rounds=2, cells=cells), tmp_path, steps, seed=1)
    first, second = [what for _, what in steps.told[:8]], [what for _, what in steps.told[8:]]
    assert first != second
    assert sorted(first) == sorted(second)


def test_a_run_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    run(plan("append-1x64B", "purge"), tmp_path, Steps())
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_leaves_nothing_on_the_disk_either(tmp_path: Path) -> None:
    class Stop:
        def step(self, share: float, what: str) -> None:
            if share:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan("append-1x64B"), tmp_path, Stop(), seed=1)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_opened_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(log: raftstore.RaftLog, payloads: object, *_: object) -> range:
        raise RaftStoreError("planted")

    monkeypatch.setattr(raftstore.RaftLog, "propose", refuse)
    with pytest.raises(RaftStoreError, match="planted"):
        run(plan("append-1x64B"), tmp_path, Steps())
    assert list(tmp_path.iterdir()) == []


def test_no_round_begins_that_would_not_end_in_time(tmp_path: Path) -> None:
    planned = Plan(disk_cells(), choose(["append-1x64B"]), 1000, seconds=0.001, entries=1000, budget=SHORT)
    assert {one.round for one in run(planned, tmp_path, Steps())} == {0}


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.backend(name)) for name in backend_names()]
)
def test_every_workload_runs_on_every_backend(tmp_path: Path, backend: str) -> None:
    cells = cells_of([backend], ["DiskFirst", "MemFirst"], ["Batch:1000:10"])
    samples = run(Plan(cells, WORKLOADS, 1, seconds=600, entries=1000, budget=Budget(0.0)), tmp_path, Steps())
    assert {one.workload for one in samples} == {workload.name for workload in WORKLOADS}
    assert len(samples) == 2 * len(WORKLOADS)


# --- numbers ------------------------------------------------------------------------------------------------


def test_the_ratio_is_taken_from_the_limit_of_the_same_round() -> None:
    fast, slow = sample(0, "a", measured(1.0), bare_s=0.005), sample(1, "a", measured(4.0), bare_s=0.02)
    (row,) = summarize([fast, slow])
    assert (row.ratio, row.ratio_min, row.ratio_max) == (0.5, 0.5, 0.5)
    assert (row.rounds, row.entries_per_s, row.p50_ms) == (2, 62.5, 25.0)


def test_the_limit_of_a_round_is_the_median_of_what_all_cells_saw() -> None:
    seen = [
        sample(0, backend, measured(1.0), bare_s=bare_s)
        for backend, bare_s in zip("abc", (1, 2, 90), strict=True)
    ]
    assert bare_times(seen) == {(0, "append-1x64B"): 2}
    assert [row.ratio for row in summarize(seen)] == [200, 200, 200]
    assert {row.bare_ms for row in summarize(seen)} == {2000}


def test_the_ratio_counts_the_time_until_durable() -> None:
    done = measured(0.1, durable_s=1.0)
    (row,) = summarize([sample(0, "a", done)])
    assert row.ratio == 0.5
    assert row.entries_per_s == 1000
    assert row.durable_entries_per_s == 100


def test_medians_ignore_one_good_round() -> None:
    samples = [sample(number, "a", measured(seconds)) for number, seconds in enumerate((0.1, 1.0, 1.0))]
    (row,) = summarize(samples)
    assert (row.ratio, row.ratio_max) == (0.5, 5.0)


def test_medians_ignore_one_bad_round() -> None:
    samples = [sample(number, "a", measured(seconds)) for number, seconds in enumerate((50.0, 1.0, 1.0))]
    (row,) = summarize(samples)
    assert row.entries_per_s == 100
    assert (row.ratio, row.ratio_max) == (0.5, 0.5)
    assert row.ratio_min == pytest.approx(0.01)


def test_what_writes_nothing_has_no_ratio() -> None:
    (row,) = summarize([sample(0, "a", measured(ideal_writes=None, calls=1), bare_s=None)])
    assert (row.ratio, row.syncs_per_call, row.durable_entries_per_s, row.p99_ms) == (None, None, None, None)
    assert row.entries_per_s == 100


def rows_of(*cells: tuple[str, str, float]) -> list[Row]:
    return [
        Row(
            "append-1x64B",
            backend,
            strategy,
            "Immediate",
            1,
            1,
            1,
            ratio,
            ratio,
            ratio,
            0.5,
            1,
            1,
            None,
            None,
            1,
        )
        for backend, strategy, ratio in cells
    ]


def test_the_recommendation_for_durability_never_names_memory_first() -> None:
    text = advise(rows_of(("a", "DiskFirst", 0.4), ("b", "DiskFirst", 0.8), ("c", "MemFirst", 90.0)))
    durable, fast = text.split(". ", 1)
    assert "b + DiskFirst + Immediate, over all appends 0.80 of the bare disk, ahead of a + Disk" in durable
    assert "c + MemFirst + Immediate" in fast


def test_one_round_is_said_to_be_one() -> None:
    (row,) = rows_of(("a", "DiskFirst", 0.8))
    assert "one round only" in advise([row])
    assert "one round only" not in advise([msgspec.structs.replace(row, rounds=2)])


def test_a_difference_within_the_noise_is_called_one() -> None:
    assert "about as fast as b" in advise(rows_of(("a", "DiskFirst", 0.80), ("b", "DiskFirst", 0.79)))


def test_a_score_is_the_geometric_mean_over_the_workloads() -> None:
    rows = rows_of(("a", "DiskFirst", 0.2), ("a", "DiskFirst", 0.8))
    ((score, cell),) = scores(rows)
    assert score == pytest.approx(0.4)
    assert cell == ("a", "DiskFirst", "Immediate")


def test_nothing_is_recommended_from_reads_alone() -> None:
    assert advise([]).startswith("No recommendation")


# --- where it runs ------------------------------------------------------------------------------------------

MOUNTS = """\
1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
2 1 8:2 / /data rw,noatime - xfs /dev/sdb rw,attr2
3 1 0:5 / /with\\040space rw - tmpfs tmpfs rw
4 1 0:6 / /database rw - btrfs none rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home", "ext4 rw,relatime,rw"),
        ("/data/x", "xfs rw,noatime,rw,attr2"),
        ("/with space/x", "tmpfs rw,rw"),
        ("/datastore", "ext4 rw,relatime,rw"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path: str, expected: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == expected


def test_a_file_system_in_memory_is_known_as_one() -> None:
    assert Machine("", 1, "", {}, filesystem_of(Path("/with space"), MOUNTS)).is_in_memory
    assert not Machine("", 1, "", {}, filesystem_of(Path("/data"), MOUNTS)).is_in_memory
    assert not Machine("", 1, "", {}, filesystem_of(Path("/data"), "")).is_in_memory


def test_the_model_of_the_processor_is_told() -> None:
    assert processor_in("processor\t: 0\nmodel name\t: Some 3: fast\n\nprocessor\t: 1\n") == "Some 3: fast"
    assert processor_in("processor\t: 0\n") == "unknown"


# --- the command --------------------------------------------------------------------------------------------


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    def call(*more: str) -> tuple[int, str, str]:
        chosen = ["--backend", "segmented", "--workload", "append-1x64B", "--workload", "open"]
        size = ["--rounds", "1", "--seconds", "1", "--entries", "1000"]
        line = ["raftstore", "compare", "--path", str(tmp_path), *chosen, *size, *more]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capsys.readouterr()

    return call


@needs_cli
def test_the_command_prints_tables_and_a_recommendation(command: Command, tmp_path: Path) -> None:
    code, out, err = command()
    assert (code, err) == (0, "")
    assert "append, 1 × 64B a call (append-1x64B): a bare write takes" in out
    assert "x bare" in out
    assert "If a power cut may lose nothing acknowledged: segmented + DiskFirst" in out
    assert max(len(line) for line in out.splitlines() if line.startswith("segmented")) <= 130
    assert list(tmp_path.iterdir()) == []


@needs_cli
def test_json_holds_rows_samples_and_the_machine(command: Command) -> None:
    code, out, err = command("--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert len(report["rows"]) == len(report["samples"]) == 2 * 2 * 2
    assert report["machine"]["filesystem"]
    assert report["version"] == VERSION


@needs_cli
def test_csv_has_a_header_and_a_line_for_each_row(command: Command) -> None:
    _, out, _ = command("--csv", "--strategy", "DiskFirst", "--flush-policy", "Immediate")
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["workload"] for row in rows] == ["append-1x64B", "open"]
    assert float(rows[0]["ratio"]) > 0
    assert rows[1]["ratio"] == ""


@needs_cli
@pytest.mark.parametrize(
    "wrong",
    [
        ["--backend", "nothing"],
        ["--strategy", "Fast"],
        ["--flush-policy", "Batch:x:1"],
        ["--workload", "none-*"],
        ["--path", "/nowhere/at/all"],
        ["--json", "--csv"],
    ],
    ids=lambda wrong: str(wrong[0]),
)
def test_what_cannot_run_says_why_and_exits_with_2(command: Command, wrong: list[str]) -> None:
    code, out, err = command(*wrong)
    assert (code, out) == (2, "")
    assert err


@needs_cli
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_measured(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="the page needs the extra report")
    monkeypatch.setattr("raftstore.cli.compare.run", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").touch()
    code, out, err = command("--report", str(tmp_path / "file" / "page"))
    assert (code, out) == (2, "")
    assert "file" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@needs_cli
def test_a_full_disk_is_refused_before_anything_is_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    code, _, err = command()
    assert code == 2
    assert "1 MiB free" in err
