"""What others could read for a moment: the mode of every file and directory, when it is made.

A umask of 0 takes nothing away, so that the modes are those that were asked for. RocksDB's library asks for
more than it should, and has no option for that: there only the directory keeps everybody else out, and it
does so before anything is put into it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from raftstore.registry import backend_names

BACKENDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in backend_names()]
CALLS: Final = "open,openat,creat,mkdir,mkdirat"
USE: Final = """
import os, sys
os.umask(0)
from pathlib import Path
import test_hostile_stores as stores
store, backend = Path(sys.argv[1]), sys.argv[2]
stores.use(store, backend, 1)
stores.copy_living(store, store.with_name("copy"))
stores.use(store, backend, 2)
(store / backend / "CLEAN").unlink(missing_ok=True)  # as after a kill
stores.use(store, backend, 3)
stores.examine(store, backend, 0)
"""
_CALL: Final = re.compile(
    r'(openat|open|creat|mkdirat|mkdir)\((?:AT_FDCWD[^,]*|\d+<([^>]*)>)?,? ?"([^"]*)"(.*)\) = \d'
)
_MODE: Final = re.compile(r", (0\d*)$")


def made(output: Path) -> Iterator[tuple[Path, bool, int]]:
    """Every file and directory, whether it is a directory, and its mode; in the order of their making."""
    for line in output.read_text(errors="replace").splitlines():
        call = _CALL.search(line)
        mode = _MODE.search(call[4]) if call is not None else None
        if call is None or mode is None:
            continue
        yield Path(call[2] or "/", call[3]), call[1].startswith("mkdir"), int(mode[1], 8)


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("needs strace: apt-get install strace")
    if subprocess.run([found, "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not watch a process here")
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_open_to_others_for_a_moment_after_it_was_made(
    backend: str, strace: str, tmp_path: Path
) -> None:
    store, output = tmp_path / "parent" / "store", tmp_path / "calls"
    command = [strace, "-f", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", os.fspath(output)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.fspath(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [*command, sys.executable, "-B", "-c", USE, os.fspath(store), backend],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [one for one in made(output) if one[0].is_relative_to(tmp_path / "parent")]
    assert {store / "FORMAT.new", store / "LOCK"} <= {one[0] for one in found}, "nothing was seen"
    private = set[Path]()
    for path, is_directory, mode in found:
        if mode == (0o700 if is_directory else 0o600):
            private |= {path} if is_directory else set()
        elif not path.is_relative_to(store.with_name("copy")):
            inside = path.relative_to(store)
            assert backend == "rocksdb", f"{inside} was made with mode {mode:o}"
            assert store / "rocksdb.new" in private, f"{inside} was made with mode {mode:o} in the open"
            assert inside.parts[0] in ("rocksdb", "rocksdb.new"), f"{inside} was made with mode {mode:o}"
