"""Room on the disk: a ballast file that appends never take, and how much is free beside it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Final

SLACK_BYTES: Final = 1 << 20
"""Left free beside what a write needs: RocksDB's manifest and settings, the file system's own blocks."""

_SHARE_MAX: Final = 8


class Room:
    """The reserve of one store: `ballast_bytes` of its disk, at most an eighth of it, in the file `ballast`.

    While it is there a write without entries always has somewhere to go: `release` it first.
    """

    def __init__(self, path: Path, ballast_bytes: int) -> None:
        self._path = path
        self._ballast = path / "ballast"
        self._ballast_bytes = ballast_bytes

    def restore(self) -> bool:
        """Put the ballast back. False if there is no room for it."""
        size = min(self._ballast_bytes, _disk_bytes(self._path) // _SHARE_MAX)
        if self._held() == size:
            return True
        self.release()
        if _free_bytes(self._path) < size + SLACK_BYTES:
            return False
        return _allocate(self._ballast, size)

    def release(self) -> None:
        """Give the ballast's room to whoever needs it."""
        self._ballast.unlink(missing_ok=True)

    def has(self, size: int) -> bool:
        """Whether `size` bytes and the slack fit beside what is there, the ballast included."""
        return _free_bytes(self._path) >= size + SLACK_BYTES

    def _held(self) -> int | None:
        try:
            return self._ballast.stat().st_size
        except FileNotFoundError:
            return None


def no_room(path: Path, why: str) -> OSError:
    """The error that promises: nothing of the write will ever appear."""
    return OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {why}", os.fspath(path))


def _free_bytes(path: Path) -> int:
    """Without bounds on a file system that does not tell its size, as some of FUSE and of the network do."""
    disk = shutil.disk_usage(path)
    return disk.free if disk.total else sys.maxsize


def _disk_bytes(path: Path) -> int:
    return shutil.disk_usage(path).total


def _allocate(file: Path, size: int) -> bool:
    if size == 0:
        file.touch(mode=0o600)
        return True
    fd = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        file.unlink()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return False
        raise
    finally:
        os.close(fd)
    return True
