"""Room on the disk: a ballast file that appends never take, and how much is free beside it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

SLACK_BYTES: Final = 1 << 20
"""Left free beside what a write needs: RocksDB's manifest and settings, the file system's own blocks."""

SURE_BYTES: Final = 1 << 30
SURE_S: Final = 0.1
"""A look that finds so much more room than is needed holds for so long: nobody fills a disk at 10 GB/s."""

_SHARE_MAX: Final = 8


class Room:
    """The reserve of one store: `ballast_bytes` of its disk, at most an eighth of it, in the file `ballast`.

    While it is there a write without entries always has somewhere to go: `release` it first.
    """

    def __init__(self, path: Path, ballast_bytes: int) -> None:
        self._path = path
        self._ballast = path / "ballast"
        self._ballast_bytes = ballast_bytes
        self._is_whole = False
        """The ballast was there when we last saw to it."""
        self._sure_bytes = 0  # may be written, until the moment below, without another look
        self._sure_until = 0.0

    def restore(self) -> bool:
        """Put the ballast back. False if there is no room for it."""
        size = self._size()
        if self._held() != size:
            self.release()
            if _free_bytes(self._path) < size + SLACK_BYTES or not _allocate(self._ballast, size):
                return False
        self._is_whole = True
        return True

    def has_for_ballast(self, beside: int) -> bool:
        """Whether the ballast, which is not there yet, would fit beside so many bytes more."""
        return self.has(self._size() + beside)

    def release(self) -> None:
        """Give the ballast's room to whoever needs it."""
        self._is_whole, self._sure_until = False, 0.0
        self._ballast.unlink(missing_ok=True)

    def has(self, size: int) -> bool:
        """Whether `size` bytes and the slack fit beside what is there, the ballast included."""
        spare = _free_bytes(self._path) - size - SLACK_BYTES
        self._sure_bytes = spare - SURE_BYTES
        self._sure_until = time.monotonic() + SURE_S if self._is_whole else 0.0
        return spare >= 0

    def surely_has(self, size: int) -> bool:
        """Whether the last look, a moment ago, tells that `size` bytes more fit beside the ballast.

        No system call. On a disk that is nearly full the answer is always no.
        """
        if size > self._sure_bytes or time.monotonic() >= self._sure_until:
            return False
        self._sure_bytes -= size
        return True

    def _size(self) -> int:
        return min(self._ballast_bytes, _disk_bytes(self._path) // _SHARE_MAX)

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
