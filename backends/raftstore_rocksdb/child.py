"""Runs `look` in a child process: a damaged store can kill, or spin holding the interpreter's lock."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from math import ceil
from pathlib import Path
from typing import Final

import msgspec

from raftstore.backend import Examination

LINKS_PREFIX: Final = "raftstore-look-"

NO_ROOM_STATUS: Final = 3
"""What the child ends with if the disk has no room for what it writes beside the links."""

LOOK_BYTES_PER_S: Final = 10 << 20
"""Slower than any disk that a store lives on reads: what bounds a deep look in time."""


_LOOK: Final = "import sys; from raftstore_rocksdb.look import main; main(sys.argv[1:])"


class ChildFailedError(Exception):
    """The child did not come back with an answer: it hung, was killed or could not do its work."""

    def __init__(self, message: str, *, by_store: bool) -> None:
        super().__init__(message)
        self.by_store = by_store
        """True if the store is what stopped it: it hung or died of a signal."""


def look_from_child(path: Path, *, deep: bool, timeout_s: float, scratch: Path | None = None) -> Examination:
    """What `look` finds, from a child that has `timeout_s`. Raises `ChildFailedError`, `OSError(ENOSPC)`.

    A directory of links is made in `scratch`, or where temporary files go, and removed at the end. Should we
    be killed, the child ends by itself a second later than its time.
    """
    with tempfile.TemporaryDirectory(prefix=LINKS_PREFIX, dir=scratch, ignore_cleanup_errors=True) as links:
        order = [os.fspath(path.absolute()), links, "deep" if deep else "shallow", str(ceil(timeout_s) + 1)]
        command = [sys.executable, "-c", _LOOK, *order]
        try:
            child = subprocess.run(
                command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired as error:
            message = f"RocksDB did not finish reading the store within {timeout_s:g} s"
            raise ChildFailedError(message, by_store=True) from error
    if child.returncode < 0:
        raise ChildFailedError(f"reading the store killed RocksDB, signal {-child.returncode}", by_store=True)
    if child.returncode == NO_ROOM_STATUS:
        raise OSError(errno.ENOSPC, "no room to look at the store", links)
    if child.returncode:
        raise ChildFailedError(child.stderr.decode(errors="replace")[-2000:], by_store=False)
    return msgspec.json.decode(child.stdout, type=Examination)


def _environment() -> dict[str, str]:
    """Ours, with the modules that we can import."""
    places = [os.path.abspath(place) for place in sys.path]  # noqa: PTH100 - the empty string is the cwd
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
