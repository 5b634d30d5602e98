"""The targets of the fuzzers, each for a moment: samples are read, and inputs that were found before pass.

`python -m raftstore.testing.fuzz` is the whole of it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hostile_tools import edited, edits, many
from hypothesis import given
from hypothesis import strategies as st

from raftstore.errors import BackendMissingError, CorruptionError
from raftstore.testing.fuzz.report import load as load_report
from raftstore.testing.fuzz.target import SEAL, Guard, Target, WrongError
from raftstore.testing.fuzz.targets import MODULES, NAMES, target_named

CASES = Path(__file__).with_name("fuzz")
"""`TARGET-what-it-did`: inputs that once broke something."""
ENGINES = ("segmented", "lmdb", "rocksdb")


def marked(name: str) -> object:
    """The target, with the mark of its backend if it is of one."""
    module = next(module for module, names in MODULES.items() if name in names)
    return pytest.param(name, marks=[pytest.mark.backend(module)] if module in ENGINES else [])


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """One for all: it listens as long as the process lives."""
    return Guard(tmp_path_factory.getbasetemp())


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Target]:
    def loaded(name: str) -> Target:
        try:
            return target_named(name, tmp_path)
        except (ImportError, BackendMissingError) as error:
            pytest.skip(str(error))

    return loaded


@pytest.mark.parametrize("name", [marked(name) for name in NAMES])
def test_whatever_the_bytes_a_target_reads_or_refuses(
    name: str, guard: Guard, load: Callable[[str], Target]
) -> None:
    target = load(name)
    guard.warm_up(target)

    @many(25)
    @given(st.sampled_from(list(target.seeds())), edits)
    def look(seed: bytes, changes: list[tuple[int, bytes, bool]]) -> None:
        guard.run(target, edited(seed, changes, None))

    look()


def cases() -> Iterator[object]:
    for case in sorted(CASES.iterdir()):
        name = next(name for name in sorted(NAMES, key=len, reverse=True) if case.name.startswith(f"{name}-"))
        yield pytest.param(*(name, case), id=case.name, marks=marked(name).marks)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "case"), list(cases()))
def test_what_was_found_once_is_not_found_again(
    name: str, case: Path, guard: Guard, load: Callable[[str], Target]
) -> None:
    target = load(name)
    guard.warm_up(target)
    guard.run(target, case.read_bytes())


def planted(check: Callable[[bytes], object]) -> Target:
    return Target(name="planted", samples=[b"x"], check=check, refusals=(CorruptionError,))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda data: bytearray(1 << 20), "bytes of memory"),
        (lambda data: Path(os.devnull).read_bytes(), "was opened"),
        (lambda data: os.system("true"), r"os\.system"),
    ],
    ids=["memory", "a file elsewhere", "a command"],
)
def test_a_guard_notices(guard: Guard, check: Callable[[bytes], object], message: str) -> None:
    with pytest.raises(WrongError, match=message):
        guard.run(planted(check), b"\0")


def test_a_traceback_that_cannot_be_shown_in_full_is_no_file_that_a_decoder_opens(guard: Guard) -> None:
    def check(data: bytes) -> None:
        with suppress(SyntaxError):
            ast.parse("f(")  # as Python does with the first of two lines

    guard.run(planted(check), b"\0")


def test_any_other_error_goes_through(guard: Guard) -> None:
    def check(data: bytes) -> object:
        return [][1]

    with pytest.raises(IndexError):
        guard.run(planted(check), b"\0")


def test_what_is_refused_as_documented_is_well(guard: Guard) -> None:
    def check(data: bytes) -> None:
        raise CorruptionError("as it should")

    guard.run(planted(check), b"\0")


@pytest.mark.backend("segmented")
def test_a_sealed_frame_gets_past_its_checksums(load: Callable[[str], Target]) -> None:
    target = load("segment-frame")
    frame = bytearray(target.samples[0])
    frame[24] ^= 1  # the number of the write
    with pytest.raises(target.refusals):
        target.check(bytes(frame))
    target.check(target.seal(bytes(frame)))
    assert SEAL == 1


def test_the_command_says_what_it_did_and_keeps_the_inputs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raftstore.testing.fuzz", "--target", "lock", "--seconds", "1"]
    command += ["--seed", "3", "--corpus", str(tmp_path / "corpus"), "--json", str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lock: " in done.stdout
    [result] = load_report(tmp_path / "report.json").results
    assert result.inputs > 0
    assert result.cpu_seconds > 0
