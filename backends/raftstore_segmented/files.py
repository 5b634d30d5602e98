"""The file layer: every system call of this backend, in one replaceable object.

Nothing here retries, buffers or decides. Tests put a simulated disk in place of `OsFiles`; nothing else in
this package calls the operating system.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from pathlib import Path
from typing import Final, Protocol

ZEROS: Final = bytes(1 << 20)
"""A MiB of zeros, to write and to compare with."""


class NotRegularError(OSError):
    """The name is a symbolic link, a directory or a device: nothing that this package made."""


class FileLayer(Protocol):
    """One directory of regular files, and its system calls. All of them may raise `OSError`."""

    def names(self) -> list[str]:
        """What is in the directory, in no order."""
        ...

    def open(self, name: str, *, writable: bool) -> int:
        """A descriptor of an existing regular file. Raises `NotRegularError` for anything else."""
        ...

    def create(self, name: str) -> int:
        """A descriptor, to read and write, of a new file with mode 0600. Raises if the name exists."""
        ...

    def close(self, fd: int) -> None: ...

    def size(self, fd: int) -> int: ...

    def size_of(self, name: str) -> int:
        """The size of the regular file `name`. Raises `NotRegularError` for anything else."""
        ...

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        """At most `length` bytes; fewer are no error."""
        ...

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int, /) -> int:
        """Write some of `data`; returns how many bytes."""
        ...

    def fdatasync(self, fd: int, /) -> None:
        """What was written to the file, and its length, survive power loss when this returns."""
        ...

    def allocate(self, fd: int, length: int) -> None:
        """Reserve blocks up to `length`, where the system can: a full disk shows before work is done."""
        ...

    def truncate(self, fd: int, length: int) -> None: ...

    def rename(self, old: str, new: str) -> None: ...

    def unlink(self, name: str) -> None: ...

    def sync_directory(self) -> None:
        """Names made, changed and removed so far survive power loss when this returns."""
        ...

    def release(self) -> None:
        """Let the directory go. Descriptors of files are the caller's to close."""
        ...


def _fdatasync(fd: int, /) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync there stops at the drive's cache
    else:
        os.fdatasync(fd)


class OsFiles:
    """The real files of the directory at `path`. Names are resolved in the directory that was opened."""

    def __init__(self, path: Path) -> None:
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    pread = staticmethod(os.pread)
    pwrite = staticmethod(os.pwrite)
    fdatasync = staticmethod(_fdatasync)

    def names(self) -> list[str]:
        return os.listdir(self._directory)  # noqa: PTH208  (a descriptor has no Path)

    def open(self, name: str, *, writable: bool) -> int:
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self.size_of(name)  # first: opening a device may already do something
        return os.open(name, flags, dir_fd=self._directory)

    def size_of(self, name: str) -> int:
        status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError(f"{name} is not a regular file")
        return status.st_size

    def create(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._directory)
        os.fchmod(fd, 0o600)  # whatever the umask took
        return fd

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def allocate(self, fd: int, length: int) -> None:
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(fd, 0, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self._directory)

    def sync_directory(self) -> None:
        os.fsync(self._directory)

    def release(self) -> None:
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def size_of(files: FileLayer, name: str) -> int:
    """The size of the file; -1 if it is not there. Raises `NotRegularError` if it is no file."""
    try:
        return files.size_of(name)
    except FileNotFoundError:
        return -1


def write_all(files: FileLayer, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data`, in as many calls as it takes: normally one."""
    written = files.pwrite(fd, data, offset)
    while written < len(data):
        written += files.pwrite(fd, memoryview(data)[written:], offset + written)


def read_all(files: FileLayer, fd: int, length: int, offset: int) -> bytes:
    """`length` bytes, or fewer where the file ends."""
    data = files.pread(fd, length, offset)
    while 0 < len(data) < length:
        more = files.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def write_zeros(files: FileLayer, fd: int, start: int, stop: int) -> None:
    """Make the bytes [start, stop) zero; nothing is synced."""
    while start < stop:
        length = min(stop - start, len(ZEROS))
        write_all(files, fd, memoryview(ZEROS)[:length], start)
        start += length
