"""File systems of a test's own, each in one file, mounted where only this process and its children see them.

Root only. The mounts are in a mount namespace of this process, and every loop device frees itself when it is
unmounted: whatever ends the process, SIGKILL included, the kernel takes both away.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from secrets import token_hex
from tempfile import gettempdir
from typing import Final, Literal

FileSystem = Literal["ext4", "xfs"]
FILE_SYSTEMS: Final[tuple[FileSystem, ...]] = ("ext4", "xfs")

_SIZES: Final[dict[FileSystem, int]] = {"ext4": 32 << 20, "xfs": 304 << 20}
"""In bytes: enough for a short workload; xfs cannot be smaller."""
_MKFS: Final[dict[FileSystem, tuple[str, ...]]] = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
_PACKAGES: Final[dict[FileSystem, str]] = {"ext4": "e2fsprogs", "xfs": "xfsprogs"}
_OPTIONS: Final[dict[FileSystem, str]] = {"ext4": "loop", "xfs": "loop,nouuid"}
_NEW_MOUNTS: Final = 0x00020000
"""The flag CLONE_NEWNS of `unshare`."""
_MOUNTS: Final = Path("/proc/self/mountinfo")
COMMAND_S: Final = 240.0
BUSY_S: Final = 60.0
"""How long `unmount` waits for those who still have a file open there."""
_private: Final[list[int]] = []
"""The process that has called `enter_private_mounts`; its children have its mounts."""


class CannotMountError(Exception):
    """File systems cannot be mounted here, or this one cannot; says why."""


def enter_private_mounts() -> None:
    """From here on mounts of this process are its own, and go with it and its children.

    Call it once, before there are threads or children. Raises `CannotMountError`.
    """
    if os.geteuid() != 0:
        raise CannotMountError("mounting a file system needs root")
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_NEW_MOUNTS):
        raise CannotMountError(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    _command("mount", "--make-rprivate", "/")
    _private.append(os.getpid())


def _check_private() -> None:
    if os.geteuid() != 0:
        raise CannotMountError("mounting a file system needs root")
    if os.getpid() not in _private:
        raise CannotMountError("mounting needs a process with mounts of its own, as the command's are")
    if not Path("/dev/loop-control").exists():
        raise CannotMountError("there are no loop devices (/dev/loop-control)")


def make(kind: FileSystem, image: Path, size: int = 0) -> None:
    """Write an empty file system of that kind into the file `image`. Raises `CannotMountError`.

    `size`: at least so many bytes.
    """
    if shutil.which(_MKFS[kind][0]) is None:
        raise CannotMountError(f"there is no {_MKFS[kind][0]}: install {_PACKAGES[kind]}")
    with image.open("wb") as stream:
        stream.truncate(max(size, _SIZES[kind]))
    _command(*_MKFS[kind], str(image))


def mount(kind: FileSystem, image: Path, place: Path) -> None:
    """Mount it at the directory `place`, as after a power cut: its journal is replayed."""
    _command("mount", "-t", kind, "-o", _OPTIONS[kind], str(image), str(place))


def is_mounted(place: Path) -> bool:
    """Whether something is mounted there, which a file system that went down does not deny."""
    name = str(place).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
    return any(line.split(" ")[4] == name for line in _MOUNTS.read_text().splitlines())


def unmount(place: Path) -> None:
    """Undo `mount`, if that was done, when the last file there is closed. An interrupt waits for that.

    Raises `CannotMountError` after `BUSY_S`.
    """
    try:
        _unmount(place)
    except (KeyboardInterrupt, SystemExit):
        _unmount(place)
        raise


def _unmount(place: Path) -> None:
    end = time.monotonic() + BUSY_S
    while is_mounted(place):
        try:
            _command("umount", str(place))
        except CannotMountError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


@contextmanager
def mounted(kind: FileSystem, image: Path, place: Path) -> Generator[Path]:
    """Mounted inside the block, and not after it, whatever happened."""
    try:
        mount(kind, image, place)
        yield place
    finally:
        unmount(place)


@contextmanager
def _scratch() -> Generator[Path]:
    """A new directory, gone after the block, though an interrupt may come at any time, once."""
    path = Path(gettempdir(), f"raftstore-mount-{token_hex(8)}")
    try:
        try:
            path.mkdir(mode=0o700)
            yield path
        finally:
            shutil.rmtree(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@cache
def lacking(kind: FileSystem) -> str | None:
    """Why file systems of that kind cannot be mounted by this process, found by trying, or None."""
    try:
        _check_private()
        with _scratch() as scratch:
            image, place = scratch / "image", scratch / "place"
            place.mkdir()
            make(kind, image)
            with mounted(kind, image, place):
                return None
    except (CannotMountError, OSError) as error:
        return f"{kind}: {error}"


def mountable() -> list[FileSystem]:
    """The kinds that this process can mount."""
    return [kind for kind in FILE_SYSTEMS if lacking(kind) is None]


def not_mountable() -> str | None:
    """Why none of them can be mounted, with what to install or to be, or None."""
    return None if mountable() else "; ".join(sorted({lacking(kind) or "" for kind in FILE_SYSTEMS}))


def _command(*arguments: str) -> None:
    try:
        done = subprocess.run(arguments, capture_output=True, timeout=COMMAND_S, check=False, text=True)
    except OSError as error:
        reason = "is not installed" if error.errno == errno.ENOENT else str(error)
        raise CannotMountError(f"{arguments[0]} {reason}") from error
    if done.returncode:
        raise CannotMountError(f"{' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
