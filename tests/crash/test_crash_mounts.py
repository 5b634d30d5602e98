"""Real power cuts and block replay, briefly, in processes whose mounts are their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftstore.testing.crash.scratch import Scratch
from raftstore.testing.tools import eventually

METHODS = ("real power cut", "block replay")
BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("segmented", "lmdb", "rocksdb")]
PROGRAM = """
import sys
from raftstore.testing.crash.bench import Bench
from raftstore.testing.crash.block_mount import CannotMountError, enter_private_mounts
from raftstore.testing.crash.lane import Lane, Settings
from raftstore.testing.crash.methods import method_named
from raftstore.testing.crash.schedule import Order
import itertools
import msgspec
import time

method, backend, plant, seconds = sys.argv[1:]
try:
    enter_private_mounts()
except CannotMountError:
    pass
with Bench(None) as bench:
    if (missing := method_named(method).needs(bench)) is not None:
        sys.exit(f"SKIP {missing}")
    lane = Lane(Settings(backend=backend, seed=3), bench)
    if plant:
        lane.do(Order(method, plant=plant))
    until = time.monotonic() + float(seconds)
    for number in itertools.count():
        if time.monotonic() >= until:
            if plant or bench.tally.verdicts:
                break
            seconds = 2 * float(seconds)  # On a machine that is so busy that nothing was looked at yet.
            until = time.monotonic() + seconds
        lane.do(Order(method, number, until=until))
    sys.stdout.buffer.write(msgspec.json.encode(bench.tally))
"""


def run(method: str, backend: str, *, plant: str = "", seconds: float = 0) -> dict[str, Any]:
    """The tally of one lane. Skips the test where the method cannot run."""
    command = [sys.executable, "-c", PROGRAM, method, backend, plant, str(seconds)]
    done = subprocess.run(command, capture_output=True, timeout=600, check=False)
    if (words := done.stderr.decode(errors="replace")).startswith("SKIP"):
        pytest.skip(f"{method} needs {words[5:].strip()}")
    assert done.returncode == 0, words
    tally: dict[str, Any] = msgspec.json.decode(done.stdout)
    return tally


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_power_cut_below_a_mounted_file_system_loses_nothing(method: str, backend: str) -> None:
    tally = run(method, backend, seconds=0.5)
    assert tally["failures"] == []
    assert sum(counts.get("OK", 0) for counts in tally["verdicts"].values()) > 0


@pytest.mark.backend("segmented")
@pytest.mark.parametrize("method", METHODS)
def test_a_store_that_never_syncs_is_caught(method: str) -> None:
    (planted,) = run(method, "segmented", plant="no fsync")["planted"]
    assert planted["verdict"] == "LOST"


@contextmanager
def running(method: str, seconds: str = "60") -> Generator[tuple[subprocess.Popen[bytes], Path]]:
    """A lane at work, when it has something mounted, and the directory of its files."""
    command = [sys.executable, "-c", PROGRAM, method, "segmented", "", seconds]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as lane:
        try:
            found: list[Path] = []

            def has_mounted() -> bool:
                found[:] = mounted_by(lane.pid)
                return bool(found) or lane.poll() is not None

            eventually(has_mounted, "the lane mounted something")
            if not found:
                assert lane.stderr is not None
                words = lane.stderr.read().decode(errors="replace")
                assert words.startswith("SKIP"), words
                pytest.skip(f"{method} needs {words[5:].strip()}")
            yield lane, found[0].parent
        finally:
            lane.kill()


def mounted_by(pid: int) -> list[Path]:
    """What that process sees mounted below a directory of the crash tests."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    except OSError:
        return []
    points = [Path(line.split(" ")[4]) for line in lines]
    return [point for point in points if "raftstore-crash-" in str(point)]


def loops_on(directory: Path) -> list[str]:
    """The loop devices over files below `directory`."""
    files: list[str] = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            files.append(file.read_text().strip())
        except OSError:  # it has just gone
            continue
    return [file for file in files if file.startswith(f"{directory}/")]


def gone(directory: Path) -> Callable[[], bool]:
    return lambda: not loops_on(directory) and not Path(f"{directory}/served/disk").exists()


@pytest.mark.backend("segmented")
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_leaves_no_mount_no_loop_device_and_no_file(method: str) -> None:
    with running(method) as (lane, directory):
        lane.send_signal(signal.SIGINT)
        lane.wait(600)
    eventually(gone(directory), "its loop devices went")
    eventually(removed_by_now(directory), "its files went, if need be with the next run")


def removed_by_now(directory: Path) -> Callable[[], bool]:
    """Whether it is gone, at the latest when the next run begins: a device may let go of its file late."""

    def check() -> bool:
        if directory.exists():
            with Scratch("raftstore-crash-", directory.parent):
                pass
        return not directory.exists()

    return check


@pytest.mark.backend("segmented")
@pytest.mark.parametrize("method", METHODS)
def test_after_sigkill_the_kernel_unmounts_and_the_next_run_removes_the_files(method: str) -> None:
    with running(method) as (lane, directory):
        lane.kill()
        lane.wait(600)
    assert directory.exists()
    eventually(gone(directory), "its loop devices went")
    with Scratch("raftstore-crash-", directory.parent):
        assert not directory.exists()
