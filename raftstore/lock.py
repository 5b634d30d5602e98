"""One process at a time: the lock of a store.

`flock` decides; it goes when its holder dies, however it dies. The text in the file is information for
people and error messages.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from raftstore.durable import open_regular
from raftstore.errors import CorruptionError, StoreLockedError

POLL_S: Final = 0.02
TEXT_BYTES_MAX: Final = 4096


class Holder(msgspec.Struct, frozen=True):
    """What the last process that took the lock wrote about itself."""

    pid: int
    host: str
    started: float
    """Seconds since the epoch."""


class StoreLock:
    """A held lock. Another open of the same store, in this process too, is refused while it is held."""

    def __init__(self, path: Path, timeout_ms: int) -> None:
        """Take the lock, making the file if it is absent.

        Waits up to `timeout_ms` for a holder that may be dying, then raises `StoreLockedError`.
        """
        deadline = time.monotonic() + timeout_ms / 1000
        while (fd := _try_lock(path, os.O_RDWR | os.O_CREAT, shared=False)) is None:
            if time.monotonic() >= deadline:
                raise _locked_error(path)
            time.sleep(POLL_S)
        self._fd = fd
        try:
            _describe(fd)
        except OSError:
            pass  # a full disk takes nothing but the information
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let the next one in, even while a forked child has a copy of the descriptor. Twice is fine."""
        import fcntl

        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                fcntl.flock(fd, fcntl.LOCK_UN)
            finally:
                os.close(fd)

    def abandon(self) -> None:
        """In a forked child: close this process's copy. The parent goes on holding the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@contextmanager
def held_shared(path: Path) -> Generator[None]:
    """Keep writers out while looking, changing nothing: no file is made, no text written.

    Raises `StoreLockedError` at once if a process has the store open. Without a lock file, nobody has.
    """
    try:
        fd = _try_lock(path, os.O_RDONLY, shared=True)
    except FileNotFoundError:
        yield
        return
    if fd is None:
        raise _locked_error(path)
    try:
        yield
    finally:
        os.close(fd)


def _try_lock(path: Path, flags: int, *, shared: bool) -> int | None:
    """A descriptor that holds the lock of the file now called `path`, or None if somebody else does."""
    import fcntl

    fd = open_regular(path, flags)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        if _is_named(fd, path):
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _is_named(fd: int, path: Path) -> bool:
    """False if the file was removed or replaced since it was opened: its lock then guards nothing."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _describe(fd: int) -> None:
    text = msgspec.json.encode(Holder(os.getpid(), socket.gethostname(), time.time()))
    os.ftruncate(fd, 0)
    os.pwrite(fd, text + b"\n", 0)


def _locked_error(path: Path) -> StoreLockedError:
    holder = read_holder(path)
    if holder is None:
        return StoreLockedError(f"{path.parent} is open in another process")
    place = "this process" if holder.pid == os.getpid() else f"process {holder.pid} on {holder.host}"
    return StoreLockedError(f"{path.parent} is open in {place}: close it there first", pid=holder.pid)


def read_holder(path: Path) -> Holder | None:
    """Who says in the file that he holds the lock, unless that process is known to be gone."""
    try:
        fd = open_regular(path, os.O_RDONLY)
    except (OSError, CorruptionError):
        return None
    try:
        holder = msgspec.json.decode(os.pread(fd, TEXT_BYTES_MAX, 0), type=Holder)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    finally:
        os.close(fd)
    return None if _is_gone(holder) else holder


def _is_gone(holder: Holder) -> bool:
    """A process of this host that does not exist: the lock is held by somebody who only looks."""
    if holder.host != socket.gethostname() or not 0 < holder.pid < 2**31:
        return holder.pid <= 0
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
