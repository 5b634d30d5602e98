"""What is wrong in the command line of a long run is said before the run begins, with a status of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

Say = Callable[..., str]

CRASH = ["crash", "--backend", "segmented", "--seconds", "0", "--no-plants", "--method", "crowd"]
ROT = ["rot", "--cases", "1"]
FUZZ = ["fuzz", "--target", "url", "--seconds", "0"]
CLUSTER = ["cluster", "--library", "asyncio", "--kills", "1"]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Gives a command of `raftstore.testing` its arguments, and returns why it refuses them."""

    def call(command: str, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        module = import_module(f"raftstore.testing.{command}{'' if '.' in command else '.__main__'}")
        with pytest.raises(SystemExit) as left:
            module.main()
        out, err = capsys.readouterr()
        assert (left.value.code, out) == (2, "")
        return err

    return call


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([*CRASH, "--report"], marks=pytest.mark.backend("segmented")),
        pytest.param([*ROT, "--report"], marks=pytest.mark.backend("segmented")),
        [*FUZZ, "--json"],
        [*CLUSTER, "--json"],
        [*CLUSTER, "--history"],
        ["crash.page", "report.json", "--output"],
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_anything_begins(
    tmp_path: Path, refusal: Say, command: list[str]
) -> None:
    assert "there is no directory" in refusal(*command, tmp_path / "absent" / "report")
    assert "is a directory" in refusal(*command, tmp_path)


@pytest.mark.parametrize("command", ["crash", "rot"])
def test_a_backend_that_nobody_registered_is_refused_before_anything_begins(
    refusal: Say, command: str
) -> None:
    assert "no backend 'nope'; registered are" in refusal(command, "--backend", "nope")


@pytest.mark.parametrize(
    "command",
    [
        [*CRASH, "--lanes", "0"],
        ["rot", "--cases", "0"],
        [*ROT, "--jobs", "0"],
        [*ROT, "--plant", "nope"],
        ["cluster", "--library", "asyncio", "--kills", "0"],
        [*CLUSTER, "--clients", "0"],
        [*CLUSTER, "--compact-every", "-1"],
        ["crash.page", "absent.json"],
    ],
)
def test_a_run_that_would_do_nothing_is_refused(refusal: Say, command: list[str]) -> None:
    assert "error: " in refusal(*command)


def test_a_page_is_not_made_of_what_is_no_report(tmp_path: Path, refusal: Say) -> None:
    for name in ("report.json", "report.json.images"):
        (tmp_path / name).write_bytes(b"nothing")
    assert "a report cannot be read" in refusal("crash.page", tmp_path / "report.json")
