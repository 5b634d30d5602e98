"""Directories for temporary files that no run leaves behind for good, not even one that SIGKILL ended."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_LOCK: Final = ".lock"
"""Its lock is held by whoever uses the directory; the kernel lets go of it when that process ends."""


class Scratch:
    """A new directory below `place` whose name begins with `prefix`. A context: it is gone at the end.

    It first removes those that an earlier process left there when it died.
    """

    def __init__(self, prefix: str, place: Path | None = None) -> None:
        self._prefix = prefix
        self._place = Path(tempfile.gettempdir()) if place is None else place

    def __enter__(self) -> Path:
        for old in self._place.glob(f"{self._prefix}*"):
            _remove_abandoned(old)
        self._path = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._place)).resolve()
        made = self._path / f"{_LOCK}.new"
        self._lock = os.open(made, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        made.rename(self._path / _LOCK)
        return self._path

    def __exit__(self, *_: object) -> None:
        _remove(self._path)
        os.close(self._lock)


def _remove_abandoned(directory: Path) -> None:
    try:
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # not ours, not yet locked, or gone
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        _remove(directory)
    finally:
        os.close(lock)


def _remove(directory: Path) -> None:
    """The lock goes last: what cannot be removed now is tried again by a later run."""
    for entry in [entry for entry in directory.iterdir() if entry.name != _LOCK]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if [entry.name for entry in directory.iterdir()] == [_LOCK]:
        shutil.rmtree(directory, ignore_errors=True)
