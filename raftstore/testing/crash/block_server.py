"""The process that serves one file as a file system, and records what is written to it: the disk of a test.

`python -m raftstore.testing.crash.block_server DIRECTORY IMAGE EVENTS RECORD`. A loop device over the file
`disk` in DIRECTORY is a disk whose every write and flush is appended to RECORD, with the number of events
that EVENTS held by then. It says `ready` when the directory is mounted. It ends when that is unmounted, or
when its input ends; then it unmounts.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from raftstore.testing.crash.block_record import FLUSH, HEAD, WRITE
from raftstore.testing.crash.events import RECORD

DISK: Final = "disk"


def main() -> None:
    """Serve until the input ends, or a signal comes."""
    fuse: Any = importlib.import_module("mfusepy")
    place, image, events, record = sys.argv[1:]
    threading.Thread(target=_leave_with_input, daemon=True).start()
    with open(record, "wb") as stream:  # noqa: PTH123  (a path as it was given)
        disk = _Disk(os.open(image, os.O_RDWR), Path(events), stream)
        with suppress(RuntimeError):  # that is how the library tells of a signal
            fuse.FUSE(disk, place, foreground=True, nothreads=True)


class _Disk:
    """What the FUSE library calls. Paths are `/` and `/disk`."""

    use_ns: Final = True

    def __init__(self, image: int, events: Path, record: IO[bytes]) -> None:
        self._image = image
        self._events = events
        self._record = record
        self._size = os.fstat(image).st_size

    def init(self, _path: str) -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path != f"/{DISK}":
            raise OSError(errno.ENOENT, path)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._size}

    def readdir(self, _path: str, _handle: int) -> list[str]:
        return [".", "..", DISK]

    def open(self, _path: str, _flags: int) -> int:
        return 0

    def read(self, _path: str, size: int, offset: int, _handle: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, _path: str, data: bytes, offset: int, _handle: int) -> int:
        os.pwrite(self._image, data, offset)
        self._record.write(HEAD.pack(WRITE, self._told(), offset, len(data)) + data)
        return len(data)

    def fsync(self, _path: str, _data_only: int, _handle: int) -> int:
        self._record.write(HEAD.pack(FLUSH, self._told(), 0, 0))
        return 0

    def _told(self) -> int:
        try:
            return self._events.stat().st_size // RECORD.size
        except FileNotFoundError:
            return 0


def _leave_with_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)  # the library unmounts then


if __name__ == "__main__":
    main()
