"""A real kernel's power cut: a mounted file system is told to forget all that it has not written."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Final, Self

import msgspec

from raftstore.testing.crash.block_mount import FileSystem, make, mount, unmount

_SHUTDOWN: Final = 0x8004587D
"""The ioctl EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN …"""
_NO_LOG_FLUSH: Final = 2
"""… which drops what is in memory, the file system's own journal too. Calls on open files there then fail."""


class Cut(msgspec.Struct, frozen=True):
    """When the power was cut, by `time.monotonic_ns`.

    Cutting takes milliseconds, in which ext4 may let an fdatasync succeed that has written nothing. So what
    is acknowledged in that time may be lost; what begins after it cannot be on the disk.
    """

    begin_ns: int
    end_ns: int


def cut_power(mounted_at: Path) -> Cut:
    """End that file system as a power cut does. For any thread, once."""
    directory = os.open(mounted_at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        begin_ns = time.monotonic_ns()
        fcntl.ioctl(directory, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        return Cut(begin_ns, time.monotonic_ns())
    finally:
        os.close(directory)


class PowerDisk:
    """A file system in a file, mounted, whose power can be cut. A context: not mounted after it."""

    def __init__(self, kind: FileSystem, scratch: Path, size: int = 0) -> None:
        """To be made below `scratch`, with at least `size` bytes."""
        self.kind: FileSystem = kind
        self.path = scratch / f"disk-{kind}"
        self._image = scratch / f"disk.{kind}"
        self._size = size

    def __enter__(self) -> Self:
        """Make and mount it. Raises `CannotMountError`."""
        try:
            make(self.kind, self._image, self._size)
            self.path.mkdir(exist_ok=True)
            self.switch_on()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.switch_off()
        self._image.unlink(missing_ok=True)

    def clear(self, directory: Path) -> None:
        """Make the directory on this disk, or make it empty. That is durable."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(root)
        finally:
            os.close(root)

    def cut(self) -> Cut:
        """What was not synced is gone. What runs there fails; nothing can be opened until `switch_on`."""
        return cut_power(self.path)

    def switch_on(self) -> None:
        """Mount it: the file system recovers by its journal."""
        mount(self.kind, self._image, self.path)

    def switch_off(self) -> None:
        """Unmount it; after `cut` nothing more is written."""
        unmount(self.path)
