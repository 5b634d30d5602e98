"""Putting a file in the place of another: durably, one at a time, and never in the place of a newer one.

The file of a name is replaced by several: a node, which has received a file, and its forked children, which
write one, may take long, and may outlive their killed parent. So whoever does it holds the directory's lock
(flock), and a child looks under it whether its parent still lives and the file is still the one before.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LOCK_S: Final = 10.0
"""How long to wait for another process that puts a dump in its place: it renames and syncs."""
LOCK_POLL_S: Final = 0.001

Version = tuple[int, int] | None
"""Tells one file of a name from the next; None if there is none."""


def replace_durably(temporary: str, name: str) -> None:
    """Rename the file `temporary` to `name`, over what was there; durable on return.

    After a crash at any moment `name` is the file that was there or the new one, complete. Takes the place of
    PySyncObj's `atomicReplace`.
    """
    _sync(Path(temporary))
    with _locked(Path(name).parent):
        _sync(Path(temporary).replace(name).parent)


def take_turn(file: Path) -> Version:
    """Which dump is there now. A half-written one is put away: a killed parent's child may still write it."""
    with _locked(file.parent):
        Path(f"{file}.tmp").unlink(missing_ok=True)
        return _version(file)


def replacing_only(before: Version, parent: int) -> Callable[[str, str], None]:
    """`replace_durably`, but of the version `before` alone, by `parent` or by a child of it that lives."""

    def replace(temporary: str, name: str) -> None:
        _sync(Path(temporary))
        with _locked(Path(name).parent):
            if _version(Path(name)) != before:
                raise FileExistsError(f"{name} was replaced while this dump of it was written")
            if parent not in (os.getpid(), os.getppid()):
                raise ProcessLookupError(f"{name} is another process's by now: {parent} has ended")
            _sync(Path(temporary).replace(name).parent)

    return replace


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    """Nobody else replaces a dump in `directory` meanwhile. Raises `OSError` if somebody does for long.

    A child that is forked meanwhile has the lock too: so it is given back, not only closed.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        _lock(descriptor, directory)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    give_up = time.monotonic() + LOCK_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise TimeoutError(f"another process is at the dumps in {directory}") from None
            time.sleep(LOCK_POLL_S)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(file: Path) -> Version:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
