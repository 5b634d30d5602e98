"""The names in a store's directory, and the small files that are not RocksDB's.

`db/` is RocksDB's own. `CLEAN` exists from a clean close to the next opening and holds the number of the last
write. `kept/` holds the write-ahead log as an unclean stop left it. `ballast` is the reserve for a full disk.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

DB: Final = "db"
CREATING: Final = "creating"
CLEAN: Final = "CLEAN"
KEPT: Final = "kept"

_KEPT_MAX: Final = 4
_MARK: Final = Struct(">QI")


def is_new(path: Path) -> bool:
    """Whether the directory holds nothing but what a crash while a store is made may leave."""
    return {file.name for file in path.iterdir()} <= {CREATING}


def data_is_missing(path: Path) -> str:
    """The complaint about a directory that is not new but has no `db`."""
    found = sorted(file.name for file in path.iterdir())
    return f"the store's data is missing: there is {', '.join(found)}, but no {DB!r}"


def symbolic_link(path: Path) -> Path | None:
    """A symbolic link among the store's files, if there is one. We make none that outlives an opening."""
    folders = (path, path / DB, path / KEPT)
    files = (file for folder in folders if folder.is_dir() for file in folder.iterdir())
    return next((file for file in files if file.is_symlink()), None)


def read_clean(path: Path) -> int | None:
    """The write number that the last clean close left, or None after an unclean stop."""
    try:
        with (path / CLEAN).open("rb") as file:
            found = file.read(_MARK.size + 1)
    except OSError:
        return None
    if len(found) != _MARK.size or crc32(found[:8]) != _MARK.unpack(found)[1]:
        return None
    return int(_MARK.unpack(found)[0])


def write_clean(path: Path, number: int) -> None:
    """Say durably that everything up to write `number` is there and RocksDB is closed."""
    body = number.to_bytes(8, "big")
    new = path / f"{CLEAN}.new"
    fd = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, body + crc32(body).to_bytes(4, "big"))
        os.fsync(fd)
    finally:
        os.close(fd)
    new.rename(path / CLEAN)
    sync_directory(path)


def remove_clean(path: Path) -> None:
    """Take the mark away, durably: after a crash from now on the stop counts as unclean."""
    if (path / CLEAN).exists():
        (path / CLEAN).unlink()
        sync_directory(path)


def keep_wal(path: Path) -> bool:
    """Keep the write-ahead log as it is now under `kept/`, by hard links, the newest few files.

    RocksDB reads it, drops what it takes for a torn tail, and deletes it: a tail that it should not have
    dropped is found here. RocksDB never writes into a log of an earlier opening. False if there is none.
    """
    logs = sorted(file for file in (path / DB).glob("*.log") if file.stat().st_size)
    kept = path / KEPT
    with suppress(OSError):
        kept.mkdir(mode=0o700, exist_ok=True)
        for log in logs:
            with suppress(FileExistsError):
                os.link(log, kept / log.name, follow_symlinks=False)
        for old in sorted(kept.iterdir())[:-_KEPT_MAX]:
            old.unlink()
        return any(kept.iterdir())
    return False


def forget_wal(path: Path) -> None:
    """Remove what `keep_wal` kept."""
    shutil.rmtree(path / KEPT, ignore_errors=True)


def all_files(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every regular file under `path`, with what was known of it. Files may come and go meanwhile."""
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                yield Path(folder, name), Path(folder, name).lstat()


def tighten(path: Path) -> None:
    """Take group's and others' rights from what RocksDB created under the process's umask."""
    for file, known in all_files(path):
        if stat.S_ISREG(known.st_mode) and known.st_mode & 0o077:
            with suppress(OSError):
                file.chmod(0o600)


def sync_directory(path: Path) -> None:
    """Make the names in the directory `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
