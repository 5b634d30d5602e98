"""The hot path compiled, in a copy: how far a compiled helper would bring the rows, by running them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.native import UnavailableError
from benchmarks.result import Result, read_report

ROOT: Final = Path(__file__).parent.parent
BUILD_S: Final = 900
RUN_S: Final = 900
HOT: Final = (
    "raftstore/aio.py",
    "raftstore/batch.py",
    "raftstore/entry.py",
    "raftstore/flusher.py",
    "raftstore/ledger.py",
    "raftstore/log.py",
    "raftstore/meter.py",
    "raftstore/operations.py",
    "raftstore/pipeline.py",
    "raftstore/policy.py",
    "raftstore/room.py",
    "raftstore/shape.py",
    "raftstore/view.py",
    "raftstore/waiting.py",
    "raftstore/window.py",
    "raftstore/write.py",
    "raftstore_segmented/backend.py",
    "raftstore_segmented/catalog.py",
    "raftstore_segmented/counters.py",
    "raftstore_segmented/files.py",
    "raftstore_segmented/frame.py",
    "raftstore_segmented/index.py",
    "raftstore_segmented/state.py",
)
"""Every module that runs in an append, as it is: nothing is rewritten, no type is added."""


def copy_code(directory: Path) -> Path:
    """The code of this working tree in `directory`, ready to be run there."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.json")
    for source in (ROOT / "raftstore", ROOT / "backends" / "raftstore_segmented", ROOT / "benchmarks"):
        shutil.copytree(source, directory / source.name, ignore=ignore)
    return directory


def compile_hot_path(code: Path) -> None:
    """Compile `HOT` in the copy `code` with Cython. Raises `UnavailableError`."""
    if importlib.util.find_spec("Cython") is None:
        raise UnavailableError("Cython is not installed: pip install 'raftstore[profile]'")
    command = [sys.executable, "-m", "Cython.Build.Cythonize", "--inplace", "--quiet", "-3", "-j", "2"]
    command += ["-X", "annotation_typing=False", *HOT]
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, timeout=BUILD_S, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"the hot path cannot be compiled: {done.stderr.strip()[-500:]}")
    for module in HOT:
        if not is_compiled(code, module):
            raise UnavailableError(f"{module} was not compiled")


def is_compiled(code: Path, module: str) -> bool:
    """Whether Python will load a compiled `module` of the copy `code`."""
    return any((code / module).parent.glob(f"{Path(module).stem}.*.so"))


def run_rows(code: Path, rows: Sequence[str], home: Path) -> dict[str, Result]:
    """A quick run of `rows` with the copy `code`, on the disk of `home`."""
    found = code / "results.json"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.targets", "--quick", "--json", str(found)]
    command += ["--path", str(home), "--only", *rows]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    subprocess.run(command, cwd=code, env=environment, timeout=RUN_S, check=True, stderr=subprocess.DEVNULL)
    return {result.name: result for run in read_report(found).runs for result in run.results}
