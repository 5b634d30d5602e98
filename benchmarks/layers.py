"""Where the interpreter spends its time while it appends, by py-spy; and what it asks the system for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.child import MEASURED
from benchmarks.counts import traced
from benchmarks.native import UnavailableError

SECONDS: Final = 4
TRACED_SECONDS: Final = 1
SAMPLES_PER_S: Final = 200
ROOT: Final = Path(__file__).parent.parent

PROPOSER: Final = "proposer"
LIBRARY: Final = "asyncio, threading"
ASYNC: Final = "`AsyncRaftLog`"
CHECKS: Final = "checks, objects"
PIPELINE: Final = "pipeline, ledger"
SEGMENTED: Final = "`segmented`"
LAYERS: Final = (PROPOSER, LIBRARY, ASYNC, CHECKS, PIPELINE, SEGMENTED)
_COUNTED: Final = (f"{MEASURED} (", "_in_threads.<locals>.caller (", "Pipeline.lead (")
_ASYNC: Final = frozenset({"aio.py", "gathering.py"})
_CHECKING: Final = frozenset({"operations.py", "write.py", "shape.py", "entry.py", "room.py"})


def layer_of(file: str) -> str:
    """The layer that the code in `file` belongs to."""
    path = Path(file)
    if path.parent.name == "raftstore_segmented":
        return SEGMENTED
    if path.parent.name == "raftstore":
        return ASYNC if path.name in _ASYNC else CHECKS if path.name in _CHECKING else PIPELINE
    return PROPOSER if "benchmarks" in path.parts or path.name == "payloads.py" else LIBRARY


def shares_by_layer(bench: Bench, row: str) -> dict[str, float]:
    """The parts of the time in which the interpreter's lock was held, by the layer that ran."""
    if shutil.which("py-spy") is None:
        raise UnavailableError("py-spy is not installed: pip install 'raftstore[profile]'")
    with bench.new_path_removed() as path:
        path.mkdir()
        samples = path / "samples"
        spy = ["py-spy", "record", "--gil", "--full-filenames", "--format", "raw"]
        spy += ["--rate", str(SAMPLES_PER_S), "--output", str(samples), "--"]
        child = [sys.executable, "-m", "benchmarks.child", "append-for", str(path / "store"), str(SECONDS)]
        command = [*spy, *child, row]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
        if done.returncode != 0 or not samples.exists():
            raise UnavailableError(f"py-spy cannot look into a process here: {done.stderr.strip()[-200:]}")
        counts = samples_by_layer(samples.read_text().splitlines())
    return {layer: counts[layer] / (SAMPLES_PER_S * SECONDS) for layer in LAYERS}


def samples_by_layer(lines: Iterable[str]) -> Counter[str]:
    """The samples of the measured part, from py-spy's raw form: `outer (file:line);inner (file:line) COUNT`.

    What counts is what is measured, in the main thread and those of proposers, and the flusher's leading.
    """
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if any(frame.startswith(_COUNTED) for frame in frames):
            file = frames[-1].rpartition(" (")[2].rpartition(":")[0]
            counts[layer_of(file)] += int(count)
    return counts


def system_calls(bench: Bench, row: str) -> dict[str, float]:
    """System calls of all threads a durable write, by strace, of those made at least every fifth time."""
    (mine, others), done = traced(bench, "append-for", str(TRACED_SECONDS), row, calls="all")
    calls, flushes = mine + others, done["flushes"]
    return {name: count / flushes for name, count in calls.most_common() if count > flushes / 5}
