"""The files of a store: how they come to be, and the room in the data file that is taken ahead of use."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from raftstore.backend import BackendStats
from raftstore.errors import CorruptionError
from raftstore_lmdb._head import Head, read_head
from raftstore_lmdb._records import BOUNDS, ENTRIES, TERMS, Bounds, encode_bounds

DATA: Final = "data.mdb"
LOCK: Final = "lock.mdb"
_NEW: Final = "new"
"""Where a store is built. It is renamed into place when it is complete and durable."""
_TRIAL: Final = "room"
"""In `new`: a file that shows that there is room for a store."""
_FILES: Final = (DATA, LOCK)

DATABASES: Final = 2
_LMDB_0_9: Final = 0
"""The engine whose data format is used, whatever this build's default is."""
_CREATION_MAP_BYTES: Final = 2**20
_ZEROS: Final = 2**20


def check_files(path: Path) -> bool:
    """Whether there is a store in `path`. Raises `CorruptionError` if a file of ours is no plain file."""
    for name in _FILES:
        if os.path.lexists(path / name) and not stat.S_ISREG((path / name).lstat().st_mode):
            raise CorruptionError(f"{name} is not a plain file", file=path / name)
    if (path / DATA).exists():
        return True
    if (path / LOCK).exists():
        raise CorruptionError(f"{DATA} is missing", file=path / DATA)
    return False


def create(path: Path, checksum: int, room_bytes: int = 0) -> None:
    """Make an empty store in `path`, durably, with blocks on the disk for `room_bytes` more.

    It is built aside: a crash at any moment leaves either no store, or a complete one. Raises
    `OSError(ENOSPC)`, having left nothing, if there is no room for that.
    """
    new = path / _NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    _build(new, checksum, room_bytes)
    sync(new / DATA)
    (new / DATA).rename(path / DATA)
    shutil.rmtree(new)


def _build(new: Path, checksum: int, room_bytes: int) -> None:
    """The data file in the directory `new`. LMDB, which does not tell of a full disk, finds room there."""
    _make_room(new / _TRIAL, room_bytes + _CREATION_MAP_BYTES)
    (new / _TRIAL).unlink()
    with (
        open_environment(new, _CREATION_MAP_BYTES) as environment,
        environment.begin(write=True) as txn,
    ):
        for name in (ENTRIES, TERMS):
            environment.open_db(name, txn=txn)
        txn.put(BOUNDS, encode_bounds(Bounds(checksum, transaction=txn.id())))
    _make_room(new / DATA, room_bytes)


def _make_room(file: Path, room_bytes: int) -> None:
    """Have `room_bytes` more in the file, which may have to be made; or remove its directory, and raise."""
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    size = file.stat().st_size
    if room_bytes and not extend(file, size, size + room_bytes):
        shutil.rmtree(file.parent)
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {room_bytes} bytes are needed", str(file))


def open_environment(path: Path, map_bytes: int, *, readonly: bool = False) -> lmdb.Environment:
    """LMDB with the only settings under which a returned commit is durable and never undone.

    `readonly` changes nothing on disk, not even the lock file: nobody else may have the store open.
    """
    return lmdb.Environment(
        str(path),
        map_size=map_bytes,
        mode=0o600,
        max_dbs=DATABASES,
        create=not readonly,
        readonly=readonly,
        lock=not readonly,
        sync=True,
        metasync=True,
        writemap=False,
        map_async=False,
        lib_version=_LMDB_0_9,
    )


def settle(path: Path) -> Head:
    """Check the head of the data file, and make durable what it leads to.

    After a kill, or a failed sync, the page cache may show a meta page that the disk does not have. What a
    meta page leads to was synced before it was written; so the two meta pages are written again as they
    are, and synced. Each lies within one sector.
    """
    head = read_head(path / DATA)
    shutil.rmtree(path / _NEW, ignore_errors=True)
    with _opened(path / DATA) as fd:
        for offset in (0, head.page_size):
            os.pwrite(fd, os.pread(fd, 512, offset), offset)
        os.fsync(fd)
    sync(path)
    return head


def extend(file: Path, start: int, stop: int) -> bool:
    """Have blocks on the disk for the bytes from `start` to `stop`, and make the file at least that long.

    False if there is no room for that; then the file is as long as before.
    """
    with _opened(file) as fd:
        length = os.fstat(fd).st_size
        try:
            _allocate(fd, start, stop - start)
        except OSError as error:
            os.ftruncate(fd, length)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            return False
    return True


def _allocate(fd: int, offset: int, count: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, count)
        return
    zeros = bytes(_ZEROS)
    for start in range(offset, offset + count, _ZEROS):
        os.pwrite(fd, zeros[: offset + count - start], start)


def stats(path: Path, live_bytes: int) -> BackendStats:
    """The sizes of the files that are there, of whose bytes in the data file `live_bytes` are needed."""
    found = {name: (path / name).lstat().st_blocks * 512 for name in _FILES if (path / name).exists()}
    reclaimable = max(0, found.get(DATA, 0) - live_bytes)
    return BackendStats(bytes_on_disk=sum(found.values()), bytes_reclaimable=reclaimable, files=len(found))


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a directory, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _opened(file: Path) -> Generator[int]:
    fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
