"""The few file operations that decide whether a store survives a power cut. Linux and macOS.

Files are made 0600 and directories 0700, whatever the umask. No symbolic link leads out of a store.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path

from raftstore.errors import CorruptionError, RaftStoreError


def check_platform() -> None:
    """Raise `RaftStoreError` where it is not known how to make a file durable."""
    if sys.platform not in ("linux", "darwin"):
        raise RaftStoreError(f"a store can be opened on Linux and macOS, not on {sys.platform}")


def sync_file(fd: int) -> None:
    """Everything written to `fd`, its length included, survives power loss when this returns."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data`, in as many calls as it takes: a call may do a part only."""
    while data:
        written = os.pwrite(fd, data, offset)
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        data, offset = data[written:], offset + written


def sync_directory(path: Path) -> None:
    """The names in `path`, made, renamed or removed, survive power loss when this returns."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Make one directory. Its name is not durable yet."""
    path.mkdir(mode=0o700)
    path.chmod(0o700)


def make_path(path: Path) -> None:
    """Make `path` and its missing parents; the names of all of them are durable when this returns.

    The parents that are there already are synced too, as far as the mount point: an earlier attempt, cut
    short, may have made them.
    """
    missing = [path] if not path.exists() else []
    while missing and not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for directory in reversed(missing):
        with suppress(FileExistsError):  # somebody else makes the same store: the lock will tell who
            make_directory(directory)
    device = path.stat().st_dev
    for parent in path.resolve().parents:
        if parent.stat().st_dev != device:
            break
        with suppress(PermissionError):  # what we may not even read, we did not make
            sync_directory(parent)


def sync_tree(path: Path) -> None:
    """Every file and every name below `path` survives power loss when this returns."""
    for directory, _, files in os.walk(path, topdown=False):
        for name in files:
            _sync_path(Path(directory, name))
        sync_directory(Path(directory))


def _sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        sync_file(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`, all or nothing. The name is durable after `sync_directory`."""
    temporary = path.with_name(f"{path.name}.new")
    if os.path.lexists(temporary):
        remove(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(data)
        stream.flush()
        sync_file(stream.fileno())
    temporary.rename(path)


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of `path`, which must be a regular file and no symbolic link, else `CorruptionError`."""
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink() or path.is_dir():
            raise CorruptionError("not a regular file", file=path) from error
        raise
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise CorruptionError("not a regular file", file=path)
    if flags & os.O_CREAT and not mode & stat.S_IWUSR:
        os.fchmod(fd, 0o600)  # just made, and the umask took the owner's rights
    return fd


def read_small(path: Path, bytes_max: int) -> bytes:
    """The content of a regular file. `CorruptionError` if it is longer than `bytes_max`."""
    fd = open_regular(path, os.O_RDONLY)
    try:
        data = os.read(fd, bytes_max + 1)
    finally:
        os.close(fd)
    if len(data) > bytes_max:
        raise CorruptionError(f"longer than {bytes_max} bytes", file=path)
    return data


def is_real_directory(path: Path) -> bool:
    """True for a directory; a symbolic link to one is none."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a file, a symbolic link or a whole directory."""
    if is_real_directory(path):
        shutil.rmtree(path)
    else:
        path.unlink()
