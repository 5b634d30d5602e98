"""A disk whose syncs take longer, simulated: for the limit program and for raftstore alike."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.native import UnavailableError, compile_program

DELAY: Final = "RAFTSTORE_SYNC_US"
SHARE: Final = 4
"""How many times fewer rounds are taken: the slower the disk, the less they differ."""


def compile_shim(directory: Path) -> Path:
    """What delays the syncs of a process that preloads it. Raises `UnavailableError`."""
    if set(str(directory)) & set(" :"):  # they separate the names in LD_PRELOAD
        raise UnavailableError(f"from {directory} nothing can be preloaded: set TMPDIR without ' ' and ':'")
    return compile_program("slow_sync.c", directory, ["-shared", "-fPIC", "-ldl"], needs="gcc or clang")


def environment(shim: Path, sync_us: int) -> dict[str, str]:
    """In which every sync of a process and of its children takes `sync_us` microseconds more."""
    return {
        **os.environ,
        "LD_PRELOAD": str(shim),
        DELAY: str(sync_us),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def is_simulated(sync_us: int) -> bool:
    """Whether this process runs in such an environment."""
    return os.environ.get(DELAY) == str(sync_us)


def run_again(sync_us: int, arguments: Sequence[str]) -> int:
    """The status of `benchmarks.targets` with `arguments` in such an environment."""
    with tempfile.TemporaryDirectory(prefix="raftstore-slow-disk-") as name:
        shim = compile_shim(Path(name))
        command = [sys.executable, "-m", "benchmarks.targets", *arguments]
        with subprocess.Popen(command, env=environment(shim, sync_us)) as child:
            try:
                return child.wait()
            except BaseException:
                child.terminate()  # It removes what it made.
                raise


def report_path(json: Path, sync_us: int) -> Path:
    """Where results with that delay are kept, beside those without."""
    return json.with_name(f"{json.stem}-{sync_us}us.json")


def reports_beside(json: Path) -> dict[int, Path]:
    """The reports that are there, by their delay in microseconds, ascending."""
    head, tail = f"{json.stem}-", "us.json"
    found = {path.name[len(head) : -len(tail)]: path for path in json.parent.glob(f"{head}*{tail}")}
    return {int(text): found[text] for text in sorted(found, key=int)}
