"""The directory of one run, and what is left of runs that were killed before they could remove theirs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PREFIX: Final = "raftstore-demo-"
IN_USE: Final = "in-use"
"""A file that a run keeps locked. It appears under this name locked, so who finds it free may clean up."""
RELEASE_S: Final = 60.0
"""For the nodes of a killed demo to end: they do when their stdin does."""

_ESCAPES: Final = {r"\040": " ", r"\011": "\t", r"\012": "\n", r"\134": "\\"}
"""How the kernel's table of mounts writes what separates its columns and lines."""


@contextmanager
def workplace() -> Generator[Path]:
    """A new directory for temporary files, removed at the end; leftovers of killed runs are removed first."""
    remove_leftovers(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, _locked(Path(name)):
        yield Path(name)


def remove_leftovers(parent: Path) -> list[Path]:
    """Unmount and remove the directories in `parent` of our own runs that no longer run; those removed.

    What cannot be removed stays, and says nothing: another run, or another user, may be at it.
    """
    found = sorted(parent.resolve().glob(f"{PREFIX}*"))
    return [path for path in found if _is_ours(path) and _remove(path)]


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.lstat().st_uid == os.getuid() and path.is_dir() and not path.is_symlink()
    return False


def _remove(path: Path) -> bool:
    try:
        lock = os.open(path / IN_USE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not all(_unmount(mount) for mount in _mounts_below(path)):
            return False
        shutil.rmtree(path)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _mounts_below(path: Path) -> list[str]:
    """The mount points in `path`, the newest first."""
    found: list[str] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mount = line.split(" ")[1]
        for written, meant in _ESCAPES.items():
            mount = mount.replace(written, meant)
        if Path(mount).is_relative_to(path):
            found.insert(0, mount)
    return found


def _unmount(mount: str) -> bool:
    """As soon as nobody uses it. Its loop device goes with it."""
    end = time.monotonic() + RELEASE_S
    while subprocess.run(["umount", mount], capture_output=True, check=False).returncode:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    beginning = directory / f"{IN_USE}.new"
    lock = os.open(beginning, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        beginning.rename(directory / IN_USE)
        yield
    finally:
        os.close(lock)
