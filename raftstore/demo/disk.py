"""Where a node keeps its files, and what a kill does to them.

A SIGKILL alone takes nothing from a disk: what a process wrote is in the kernel's page cache and gets
there in the end. A power cut takes what was not synced. Both are here: `Directory` for the one, and
`OwnDisk`, an ext4 of the node's own whose power is really cut, for the other.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Final, Protocol

DISK_BYTES: Final = 1 << 30
_SHUTDOWN: Final = 0x8004587D
"""The ioctl EXT4_IOC_SHUTDOWN …"""
_NO_LOG_FLUSH: Final = 2
"""… which drops even the file system's own journal from memory, as a power cut does."""
COMMAND_S: Final = 60.0


class DiskError(Exception):
    """A disk of a node's own cannot be made here; says why."""


class Disk(Protocol):
    """A place for the files of one node."""

    path: Path

    def node_was_killed(self) -> None:
        """Do to the files what the death of their process means here. Nobody has them open."""
        ...

    def close(self) -> None:
        """Give everything back. Twice is fine."""
        ...


class Directory:
    """A directory of this machine. A kill takes nothing from it."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path

    def node_was_killed(self) -> None:
        pass

    def close(self) -> None:
        pass


class OwnDisk:
    """An ext4 in a file, mounted through a loop device: root only. A kill is also a power cut."""

    def __init__(self, path: Path) -> None:
        """Make it and mount it at `path`. Raises `DiskError`."""
        self.path = path
        self._image = path.with_name(path.name + ".ext4")
        path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(DISK_BYTES)
        _command("mkfs.ext4", "-q", "-F", str(self._image))
        self._mount()

    def node_was_killed(self) -> None:
        """Cut the power: what was not synced is gone. Then mount it again, with ext4's own recovery."""
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(directory)
        self.close()
        self._leave_the_image()
        self._mount()

    def close(self) -> None:
        """Unmount it, as soon as nobody has a file there: not even who looks in for a moment."""
        end = time.monotonic() + COMMAND_S
        while self.path.is_mount():
            try:
                _command("umount", str(self.path))
            except DiskError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def _leave_the_image(self) -> None:
        """Go on with a copy. The mount before can live on: whoever made a mount namespace meanwhile holds it.

        When that ends, what it still has in memory gets into its image, under what was written since.
        """
        copy = self._image.with_suffix(".copy")
        _command("cp", "--sparse=always", str(self._image), str(copy))
        copy.replace(self._image)

    def _mount(self) -> None:
        """Through a new loop device every time, which goes with its mount."""
        device = _command("losetup", "--find", "--show", str(self._image))
        try:
            _command("mount", device, str(self.path))
        finally:
            _command("losetup", "--detach", device)


def _command(*arguments: str) -> str:
    """Run it; what it printed."""
    try:
        done = subprocess.run(arguments, capture_output=True, timeout=COMMAND_S, check=False, text=True)
    except FileNotFoundError as error:
        raise DiskError(f"a power cut needs the command {arguments[0]}") from error
    if done.returncode:
        raise DiskError(
            f"a power cut needs root and loop devices: {' '.join(arguments)}: {done.stderr.strip()}"
        )
    return done.stdout.strip()
