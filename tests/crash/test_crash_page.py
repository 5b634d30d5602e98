"""Reports add up, and the page that is written from them."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from raftstore.testing.crash.oracle import Verdict
from raftstore.testing.crash.page import Sum, _without_directories, main, page
from raftstore.testing.crash.provenance import provenance
from raftstore.testing.crash.report import load, outcome_of, report, save
from raftstore.testing.crash.tally import Planted, Tally
from raftstore.testing.fuzz.report import Report as FuzzReport
from raftstore.testing.fuzz.report import Result as FuzzResult
from raftstore.testing.fuzz.report import save as save_fuzz
from raftstore.testing.rot.judge import Outcome as RotOutcome
from raftstore.testing.rot.run import Result

KIND = "power cut, posix, DiskFirst"


def tally_of(*names: int, verdict: Verdict = Verdict.OK) -> Tally:
    tally = Tally(kills=2, planted=[Planted("power cut", "no fsync", Verdict.LOST)])
    for name in names:
        tally.see(KIND, name)
        tally.count("power cut, posix", verdict)
    return tally


def saved(path: Path, tally: Tally) -> Path:
    outcome = outcome_of("segmented", 7, 1.5, tally)
    save(path, report([outcome]), {"segmented": tally.images})
    return path


def added_up(*paths: Path) -> Sum:
    whole = Sum()
    for path in paths:
        whole.take(path)
    return whole


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    tally = tally_of(1, 2, (1 << 64) - 1)
    whole, images = load(saved(tmp_path / "a.json", tally))
    assert images == {"segmented": tally.images}
    assert whole.outcomes[0].unique == 3
    assert whole.outcomes[0].tally == msgspec.structs.replace(tally, images={})


def test_an_image_that_two_runs_opened_counts_once(tmp_path: Path) -> None:
    whole = added_up(
        saved(tmp_path / "a.json", tally_of(1, 2)), saved(tmp_path / "b.json", tally_of(2, 3, 4))
    )
    assert whole.tallies["segmented"].unique == 4
    assert whole.tallies["segmented"].unique_of("DiskFirst") == 4
    assert whole.tallies["segmented"].unique_of("MemFirst") == 0
    assert whole.tallies["segmented"].total(Verdict.OK) == 5
    assert "| **different, all together** | 4 |" in page(whole)


def test_the_page_of_runs_in_which_all_was_well_says_so(tmp_path: Path) -> None:
    whole = added_up(saved(tmp_path / "a.json", tally_of(1, 2)))
    assert not whole.has_failed
    written = page(whole)
    assert "| LOST | 0 |" in written
    assert "| planted bugs caught | 1/1 |" in written
    assert "$" not in written


def test_what_went_wrong_stands_on_the_page_and_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = tally_of(1, verdict=Verdict.LOST)
    tally.fail(Verdict.LOST, "somewhere", "a vote is missing")
    monkeypatch.setattr(sys, "argv", ["page", str(saved(tmp_path / "a.json", tally))])
    assert main() == 1
    written = capsys.readouterr().out
    assert "| LOST | 1 |" in written
    assert "a vote is missing" in written


def test_a_planted_bug_that_got_through_fails_the_command(tmp_path: Path) -> None:
    tally = tally_of(1)
    tally.planted.append(Planted("power cut", "no checksum", None))
    whole = added_up(saved(tmp_path / "a.json", tally))
    assert whole.has_failed
    assert "| no checksum | power cut | 0/1 |" in page(whole)


def test_a_silent_loss_by_rot_fails_the_command(tmp_path: Path) -> None:
    whole = added_up(saved(tmp_path / "a.json", tally_of(1)))
    result = Result(backend="segmented", seed=3)
    for outcome in (RotOutcome.RIGHT, RotOutcome.LOST):
        result.count(outcome, "bit flip", "closed")
    file = tmp_path / "rot.json"
    file.write_bytes(msgspec.json.encode(result))
    whole.take_rot(file)
    assert whole.has_failed
    assert "| lost | 1 |" in page(whole)


def test_runs_of_the_fuzzers_add_up_by_target_and_what_they_found_fails_the_command(tmp_path: Path) -> None:
    whole = added_up(saved(tmp_path / "a.json", tally_of(1)))
    for count, found in ((1000, None), (500, "a decoder hung")):
        result = FuzzResult("lock", inputs=count, seconds=9.0, cpu_seconds=2.0, guided=True, found=found)
        save_fuzz(tmp_path / "fuzz.json", FuzzReport(7, 9.0, provenance(), [result]))
        assert not whole.has_failed
        whole.take_fuzz(tmp_path / "fuzz.json")
    assert whole.has_failed
    assert "| lock | 1,500 | 4 | 1 |" in page(whole)
    assert page(whole).count("a decoder hung") == 1  # among what was found, not among what was left out


def test_the_page_names_no_directory_of_the_machine() -> None:
    command = "crash --keep /home/me/keep --report /tmp/a/b.json --method 'power cut'"
    assert _without_directories(command) == "crash --keep keep --report b.json --method 'power cut'"
