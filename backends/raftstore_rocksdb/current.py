"""`CURRENT`, the file of RocksDB that names the manifest that counts, and how to change it durably."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from raftstore_rocksdb.files import sync_directory

CURRENT: Final = "CURRENT"
_UNFINISHED: Final = "000000.dbtmp"
"""A name of which RocksDB knows that the file is of no use."""
_NAME: Final = re.compile(r"MANIFEST-(\d{6,19})")
_NAME_BYTES_MAX: Final = 64


def named(db: Path) -> tuple[str, int] | None:
    """The manifest that `CURRENT` names, and its number."""
    try:
        with (db / CURRENT).open("rb") as stream:
            found = _NAME.fullmatch(stream.read(_NAME_BYTES_MAX).decode("ascii", "replace").rstrip("\n"))
    except OSError:
        return None
    return None if found is None else (found[0], int(found[1]))


def manifests(db: Path) -> list[tuple[str, int]]:
    """The manifests that are there, and their numbers."""
    found = (_NAME.fullmatch(file.name) for file in db.iterdir() if file.is_file())
    return [(name[0], int(name[1])) for name in found if name is not None]


def let_name(db: Path, manifest: str) -> None:
    """Let `CURRENT` name the manifest, durably."""
    replace(db / CURRENT, f"{manifest}\n".encode())


def replace(file: Path, content: bytes) -> None:
    """Give a file of RocksDB's other content, durably: a power cut leaves the old one or the new one."""
    unfinished = file.with_name(_UNFINISHED)
    unfinished.unlink(missing_ok=True)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as stream:  # noqa: PTH123  (of a descriptor)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.rename(file)
    sync_directory(file.parent)
