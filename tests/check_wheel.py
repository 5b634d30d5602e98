"""Builds sdist and wheel, installs the wheel in empty environments, and uses it there.

`python check_wheel.py DIRECTORY`: works below DIRECTORY, exits with 0 if all is well. Needs `build`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BARE = """
import pathlib, sys
import raftstore
assert pathlib.Path(raftstore.__file__).is_relative_to(sys.prefix), raftstore.__file__
assert (pathlib.Path(raftstore.__file__).parent / "py.typed").exists()
for name in ("lmdb", "rocksdb"):
    try:
        raftstore.open(f"{name}://{pathlib.Path.cwd()}/{name}")
    except raftstore.BackendMissingError as error:
        assert f"raftstore[{name}]" in str(error), error
    else:
        raise AssertionError(f"{name} opened without its library")
"""
USE = """
import pathlib, sys
import raftstore
for name in sys.argv[1:]:
    url = f"{name}://{pathlib.Path.cwd()}/used-{name}"
    with raftstore.open(url) as log:
        assert log.propose(1, [b"one", b"two"]) == range(1, 3)
        log.save_hard_state(raftstore.HardState(term=1, voted_for="n1"))
    with raftstore.open(url) as log:
        assert [entry.data for entry in log.scan()] == [b"one", b"two"]
        assert log.hard_state.voted_for == "n1"
    print("kept its word:", name)
"""


def main() -> None:
    directory = Path(sys.argv[1]).resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    wheel = build(directory / "dist")
    check_without_extras(directory / "bare", wheel)
    check_with_all_extras(directory / "all", wheel)


def build(directory: Path) -> Path:
    """The wheel, made from the sdist: so both are complete."""
    run(sys.executable, "-m", "build", "--outdir", directory, ROOT, cwd=directory.parent)
    (wheel,) = directory.glob("*.whl")
    return wheel


def check_without_extras(directory: Path, wheel: Path) -> None:
    """It imports, keeps a log in files, and names what to install for the rest."""
    python = environment(directory, str(wheel))
    run(python, "-c", BARE, cwd=directory)
    run(python, "-c", USE, "segmented", cwd=directory)
    left = subprocess.run([python.with_name("raftstore"), "--help"], capture_output=True, text=True)
    assert left.returncode == 2, left
    assert "raftstore[cli]" in left.stderr, left.stderr


def check_with_all_extras(directory: Path, wheel: Path) -> None:
    """Every backend and every command is there."""
    python = environment(directory, f"{wheel}[all]")
    run(python, "-c", USE, "segmented", "lmdb", "rocksdb", cwd=directory)
    command = python.with_name("raftstore")
    run(command, "--help", cwd=directory)
    for name in ("demo", "compare", "inspect", "verify", "import-pysyncobj", "export-pysyncobj"):
        run(command, name, "--help", cwd=directory)
    for name in ("pysyncobj", "patroni", "asyncio"):
        run(command, "demo", "--library", name, "--seconds", "1", "--kills", "0", cwd=directory)
    for name in ("segmented", "lmdb", "rocksdb"):
        run(command, "verify", directory / f"used-{name}", cwd=directory)


def environment(directory: Path, requirement: str) -> Path:
    """The Python of a new environment that holds `requirement` and what it needs, nothing else."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", requirement, cwd=directory)
    return python


def run(*line: str | Path, cwd: Path) -> None:
    subprocess.run(line, check=True, cwd=cwd)


if __name__ == "__main__":
    main()
