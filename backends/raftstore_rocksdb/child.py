"""Runs `look` in a child process: a damaged store can kill, or spin holding the interpreter's lock."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from raftstore.backend import Examination

LOOK_BYTES_PER_S: Final = 10 << 20
"""Slower than any disk that a store lives on reads: what bounds a deep look in time."""


class ChildFailedError(Exception):
    """The child did not come back with an answer: it hung, was killed or could not do its work."""

    def __init__(self, message: str, *, by_store: bool) -> None:
        super().__init__(message)
        self.by_store = by_store
        """True if the store is what stopped it: it hung or died of a signal."""


def look_from_child(path: Path, *, deep: bool, timeout_s: float) -> Examination:
    """What `look` finds, from a child that has `timeout_s`. Raises `ChildFailedError`."""
    with tempfile.TemporaryDirectory(prefix="raftstore-look-", ignore_cleanup_errors=True) as links:
        depth = "deep" if deep else "shallow"
        command = [sys.executable, "-m", "raftstore_rocksdb.look", os.fspath(path.absolute()), links, depth]
        try:
            child = subprocess.run(
                command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired as error:
            message = f"RocksDB did not finish reading the store within {timeout_s:g} s"
            raise ChildFailedError(message, by_store=True) from error
    if child.returncode < 0:
        raise ChildFailedError(f"reading the store killed RocksDB, signal {-child.returncode}", by_store=True)
    if child.returncode:
        raise ChildFailedError(child.stderr.decode(errors="replace")[-2000:], by_store=False)
    return msgspec.json.decode(child.stdout, type=Examination)


def _environment() -> dict[str, str]:
    """Ours, with the modules that we can import."""
    places = [os.path.abspath(place) for place in sys.path]  # noqa: PTH100 - the empty string is the cwd
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
