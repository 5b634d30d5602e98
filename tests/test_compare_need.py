"""`raftstore compare`: what is needed shapes the advice; two runs are told apart only beyond noise."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from raftstore.cli import main
from raftstore.compare.advice import advise
from raftstore.compare.against import Change, compare, differences
from raftstore.compare.machine import Machine
from raftstore.compare.measurement import LADDER, Measurement, ladder_ms
from raftstore.compare.need import Need, judge
from raftstore.compare.page.curves import ladders
from raftstore.compare.report import VERSION, Report, as_json, load
from raftstore.compare.rounds import Sample
from raftstore.compare.summary import Row, summarize
from raftstore.compare.written import bytes_written
from raftstore.errors import ConfigError

needs_cli = pytest.mark.skipif(find_spec("typer") is None, reason="the command needs the extra cli")

HERE = Machine("Linux", 2, "3.11", {"raftstore": "1"}, "ext4 rw")
BARE_S = 0.001


def samples_of(cell: tuple[str, str, str], workload: str, seconds: Sequence[float]) -> list[Sample]:
    """One round for each of `seconds`, in which a hundred calls of one entry became durable."""
    return [
        Sample(
            number,
            workload,
            *cell,
            Measurement(
                100, 100, took, took, took * 10, took * 20, writes=100, ideal_writes=100.0, disk_ratio=2.0
            ),
            BARE_S,
        )
        for number, took in enumerate(seconds)
    ]


def report_of(samples: list[Sample], machine: Machine = HERE) -> Report:
    rows = summarize(samples)
    return Report(machine, 1.0, 1000, rows, samples, advise(rows))


FAST, SAFE, SLOW = (
    ("a", "MemFirst", "Immediate"),
    ("b", "DiskFirst", "Immediate"),
    ("c", "DiskFirst", "Batch:9:9"),
)


def rows() -> list[Row]:
    return summarize(
        [
            *samples_of(FAST, "append-1x1KiB", [0.01, 0.01]),
            *samples_of(SAFE, "append-1x1KiB", [0.1, 0.1]),
            *samples_of(SLOW, "append-1x1KiB", [1.0, 1.0]),
        ]
    )


# --- what is needed -----------------------------------------------------------------------------------------


def test_nothing_may_be_lost_leaves_out_what_acknowledges_from_memory() -> None:
    text = advise(rows(), Need(may_lose="nothing"))
    assert text.startswith("If a power cut may lose nothing acknowledged: b + DiskFirst")
    assert "Left out, because a power cut may cost what it acknowledged: a + MemFirst + Immediate." in text
    assert "may cost the newest" not in text


def test_if_the_newest_may_be_lost_only_the_fast_cell_is_named() -> None:
    text = advise(rows(), Need(may_lose="newest"))
    assert text.startswith("If a power cut may cost the newest entries: a + MemFirst")


def test_a_latency_that_a_cell_does_not_reach_leaves_it_out_with_what_it_reached() -> None:
    fitting, misfits = judge(rows(), Need(p99_ms=5.0))
    assert fitting == [FAST, SAFE]
    assert [(misfit.cell, misfit.reason) for misfit in misfits] == [(SLOW, "p99 of an append is 20.00 ms")]


def test_a_log_larger_than_memory_leaves_out_what_holds_it_there() -> None:
    fitting, misfits = judge(rows(), Need(log_bytes=100 << 30))
    assert fitting == [SAFE, SLOW]
    assert misfits[0].reason == "it holds the log in memory"


def test_the_disk_that_a_small_log_took_is_not_multiplied_to_that_of_a_large_one() -> None:
    text = advise(rows(), Need(log_bytes=100 << 30), entries=1 << 20)
    assert "100.0 MiB of entries of 100 bytes took 200.0 MiB with b" in text
    assert "weighs less in 100.0 GiB" in text
    assert "weighs less" not in advise(rows(), Need(log_bytes=1 << 20), entries=1 << 20)


def test_a_wish_that_nothing_measured_is_said_not_to_be_judged() -> None:
    others = [msgspec.structs.replace(row, workload="append-1x64B", disk_ratio=None) for row in rows()]
    text = advise(others, Need(p99_ms=0.001, log_bytes=1 << 20), entries=1000)
    assert (
        "Not judged, for it was not measured: the latency (append-1x1KiB), the size on disk (fill)." in text
    )
    assert "Not judged" not in advise(rows(), Need(p99_ms=5.0, log_bytes=1 << 20), entries=1000)


def test_where_nothing_fits_that_is_said_with_every_reason() -> None:
    text = advise(rows(), Need(may_lose="nothing", p99_ms=0.001))
    assert text.startswith("Nothing measured here does what is needed.")
    assert "c + DiskFirst" in text
    assert "p99 of an append is 2.00 ms: b + DiskFirst" in text


# --- two runs -----------------------------------------------------------------------------------------------


def changes(before: Sequence[float], after: Sequence[float]) -> dict[str, Change]:
    old = report_of(samples_of(SAFE, "append-1x64B", before))
    new = report_of(samples_of(SAFE, "append-1x64B", after))
    return {change.measure: change for change in compare(old, new)}


def test_rounds_that_do_not_overlap_and_lie_far_apart_are_a_change() -> None:
    found = changes([1.0, 1.1, 1.05], [0.5, 0.55, 0.52])
    assert {change.verdict for change in found.values()} == {"faster"}
    assert found["time"].factor == pytest.approx(1.05 / 0.52)
    assert found["x bare"].before == pytest.approx(0.1 / 1.05)


def test_slower_is_told_from_faster() -> None:
    assert changes([0.5, 0.55], [1.0, 1.1])["time"].verdict == "slower"


def test_a_small_change_of_steady_rounds_is_told() -> None:
    assert changes([1.0, 1.01, 1.02], [1.15, 1.16, 1.17])["time"].verdict == "slower"


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ([1.0, 2.0], [1.9, 0.5], "the rounds overlap"),
        ([1.0, 1.0, 2.2], [2.1, 2.1, 2.1], "one round was as slow, though the medians lie far apart"),
        ([1.0, 1.01], [1.05, 1.06], "less than ten percent"),
        ([1.0, 1.6], [1.61, 2.0], "no more than the rounds differ among themselves"),
    ],
)
def test_what_may_be_chance_is_called_noise(before: list[float], after: list[float], why: str) -> None:
    assert changes(before, after)["time"].verdict == "noise", why


def test_one_round_cannot_be_judged() -> None:
    assert changes([1.0], [0.1, 0.1])["time"].verdict == "one round only"


def test_a_run_does_not_differ_from_itself() -> None:
    report = report_of(samples_of(SAFE, "append-1x64B", [1.0, 3.0, 0.2]))
    assert {change.verdict for change in compare(report, report)} == {"noise"}


def test_what_only_one_run_measured_is_not_compared() -> None:
    old = report_of(samples_of(SAFE, "append-1x64B", [1.0, 1.0]))
    new = report_of(samples_of(FAST, "append-1x64B", [1.0, 1.0]))
    assert compare(old, new) == []


def test_what_only_one_run_measured_is_named() -> None:
    both = [*samples_of(SAFE, "append-1x64B", [1.0]), *samples_of(SLOW, "open", [1.0])]
    old, new = report_of(both), report_of(samples_of(SAFE, "append-1x64B", [1.0]))
    named = ["workload only {}: open", "backend only {}: c", "policy only {}: Batch:9:9"]
    assert differences(old, new) == [line.format("before") for line in named]
    assert differences(new, old) == [line.format("after") for line in named]


def test_another_machine_is_told() -> None:
    old = report_of(samples_of(SAFE, "append-1x64B", [1.0]))
    new = msgspec.structs.replace(old, machine=msgspec.structs.replace(HERE, filesystem="xfs rw"), entries=5)
    assert differences(old, new) == ["filesystem: ext4 rw → xfs rw", "entries: 1000 → 5"]


# --- numbers of a slice -------------------------------------------------------------------------------------


def test_the_ladder_climbs_from_the_fastest_call_to_the_slowest() -> None:
    ladder = ladder_ms([step / 1000 for step in range(1000)])
    assert len(ladder) == len(LADDER)
    assert ladder == sorted(ladder)
    assert (ladder[0], ladder[LADDER.index(0.5)], ladder[-1]) == (0, 499, 999)
    assert ladder_ms([1.0]) == []


def test_a_write_beside_which_no_bare_disk_was_measured_has_no_ratio() -> None:
    (sample,) = samples_of(SAFE, "append-1x64B", [1.0])
    (row,) = summarize([msgspec.structs.replace(sample, bare_s=None)])
    assert row.ratio is None


def test_a_ladder_of_other_quantiles_is_not_drawn() -> None:
    (sample,) = samples_of(SAFE, "append-1x64B", [1.0])
    for length, curves in ((2, 0), (len(LADDER), 1)):
        measured = msgspec.structs.replace(sample.measured, ladder_ms=[1.0] * length)
        drawn = ladders([msgspec.structs.replace(sample, measured=measured)], "append-1x64B")
        assert len(drawn) == curves


def test_bytes_written_grow_by_what_is_written(tmp_path: Path) -> None:
    if not bytes_written():
        pytest.skip("this system does not count what a process writes")
    before = bytes_written()
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    grown = bytes_written() - before
    assert grown >= 1 << 20


def test_a_small_write_counts_as_what_it_is_also_in_a_file_that_is_cached_in_large_pieces(
    tmp_path: Path,
) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        for _ in range(8):
            file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        before = bytes_written()
        for number in range(40):
            os.pwrite(file.fileno(), b"x" * 1024, number * 1024)
            os.fdatasync(file.fileno())
        assert bytes_written() - before < 20 << 20


# --- saved runs and the command -----------------------------------------------------------------------------


def save(report: Report, path: Path) -> Path:
    path.write_text(as_json(report))
    return path


def test_a_saved_run_loads_as_it_was(tmp_path: Path) -> None:
    report = report_of(samples_of(SAFE, "append-1x64B", [1.0, 2.0]))
    loaded = load(save(report, tmp_path / "a.json"))
    assert as_json(loaded) == as_json(report)


@pytest.mark.parametrize(
    ("text", "said"), [("", "no report"), ("{}", "no report"), ("[1]", "no report"), ("\xff", "no report")]
)
def test_what_is_no_saved_run_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ((), {"rows": []}),
        (("rows", 0), {"ratio": -1.0}),
        (("rows", 0), {"p50_ms": 0.0}),
        (("samples", 0), {"bare_s": 0.0}),
        (("samples", 0, "measured"), {"durable_s": 0.0}),
        (("samples", 0, "measured"), {"calls": 0}),
    ],
)
def test_numbers_that_no_run_can_have_measured_are_refused(
    tmp_path: Path, where: tuple[str | int, ...], change: dict[str, object]
) -> None:
    report = json.loads(as_json(report_of(samples_of(SAFE, "append-1x64B", [1.0, 2.0]))))
    place = report
    for step in where:
        place = place[step]
    place.update(change)
    (tmp_path / "a.json").write_text(json.dumps(report))
    with pytest.raises(ConfigError, match="no report"):
        load(tmp_path / "a.json")


def test_a_run_of_another_version_is_refused_with_both_versions(tmp_path: Path) -> None:
    report = msgspec.structs.replace(report_of(samples_of(SAFE, "append-1x64B", [1.0])), version=VERSION + 1)
    with pytest.raises(ConfigError, match=f"version {VERSION + 1}; this raftstore reads {VERSION}"):
        load(save(report, tmp_path / "a.json"))


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raftstore", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capsys.readouterr()

    return call


@needs_cli
def test_the_command_shows_what_changed(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    old = save(report_of(samples_of(SAFE, "append-1x64B", [1.0, 1.1])), tmp_path / "old.json")
    new = save(report_of(samples_of(SAFE, "append-1x64B", [0.3, 0.31])), tmp_path / "new.json")
    code, out, err = command("--against", old, new)
    assert (code, err) == (0, "")
    assert "faster" in out
    assert "2 of 2 numbers changed beyond noise" in out
    code, out, _ = command("--against", old, old)
    assert "0 of 2 numbers changed beyond noise" in out


@needs_cli
def test_what_changed_is_one_object_with_json(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    old = save(report_of(samples_of(SAFE, "append-1x64B", [1.0, 1.1])), tmp_path / "old.json")
    new = save(report_of(samples_of(SAFE, "append-1x64B", [0.3, 0.31])), tmp_path / "new.json")
    code, out, err = command("--against", old, new, "--json")
    assert (code, err) == (0, "")
    assert [change["verdict"] for change in json.loads(out)["changes"]] == ["faster", "faster"]


@needs_cli
@pytest.mark.parametrize("more", [["--csv"], ["--report", "page"]], ids=" ".join)
def test_what_two_runs_cannot_be_written_as_is_refused(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, more: list[str]
) -> None:
    saved = save(report_of(samples_of(SAFE, "append-1x64B", [1.0])), tmp_path / "a.json")
    code, out, err = command("--against", saved, saved, *more)
    assert (code, out) == (2, "")
    assert more[0] in err


@needs_cli
def test_two_runs_with_nothing_in_common_are_said_to_be_that(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    old = save(report_of(samples_of(SAFE, "append-1x64B", [1.0])), tmp_path / "old.json")
    new = save(report_of(samples_of(FAST, "append-1x64B", [1.0])), tmp_path / "new.json")
    code, out, _ = command("--against", old, new)
    assert code == 0
    assert "measured nothing in common" in out


@needs_cli
def test_names_in_a_saved_run_are_shown_as_they_are(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    odd = [
        msgspec.structs.replace(sample, backend="odd[/bold]", workload="append-of-a-later-version")
        for sample in samples_of(SAFE, "append-1x64B", [1.0])
    ]
    code, out, err = command(save(report_of(odd), tmp_path / "a.json"))
    assert (code, err) == (0, "")
    assert "odd[/bold]" in out


@needs_cli
def test_a_saved_run_is_advised_on_by_another_need(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    saved = save(report_of(samples_of(FAST, "append-1x64B", [1.0, 1.1])), tmp_path / "a.json")
    code, out, _ = command(saved, "--may-lose", "nothing", "--json")
    assert code == 0
    assert json.loads(out)["recommendation"].startswith("Nothing measured here")


@needs_cli
@pytest.mark.parametrize(
    "wrong",
    [
        ["--against", "absent.json"],
        ["--log-size", "many"],
        ["--may-lose", "all"],
        ["--p99-ms", "-1"],
        ["absent"],
    ],
    ids=" ".join,
)
def test_a_wrong_wish_is_refused_before_anything_is_measured(
    command: Callable[..., tuple[int, str, str]], wrong: list[str], tmp_path: Path
) -> None:
    code, out, err = command(*wrong, "--path", tmp_path)
    assert (code, out) == (2, "")
    assert err
    assert list(tmp_path.iterdir()) == []
