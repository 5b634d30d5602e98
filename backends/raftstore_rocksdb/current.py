"""`CURRENT`, the file of RocksDB that names the manifest that counts, after a power cut.

To replace its manifest, at every opening for one, RocksDB makes a new one, lets `CURRENT` name it by a
rename, syncs the directory, once, and only then removes what is older. A file system that keeps changes of
names out of their order may lose the new manifest and keep the rename. All that the older manifest names is
then still there, and nothing was acknowledged on account of the new one: so `CURRENT` may name the older one
again.
"""

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


def mend_current(db: Path) -> str | None:
    """If `CURRENT` names a manifest that is not there, let it name the newest older one, durably.

    Says what was done; None if there was nothing to do, or nothing that can be done.
    """
    wanted = _named(db / CURRENT)
    if wanted is None or (db / wanted[0]).exists():
        return None
    found = (_NAME.fullmatch(file.name) for file in db.iterdir())
    numbers = ((int(name[1]), name[0]) for name in found if name is not None)
    older = max((pair for pair in numbers if pair[0] < wanted[1]), default=None)
    if older is None:
        return None
    _let_name(db, older[1])
    return f"A power cut had left CURRENT naming {wanted[0]}, which is not there: it names {older[1]} again."


def _named(file: Path) -> tuple[str, int] | None:
    """The manifest that the file names, and its number."""
    try:
        with file.open("rb") as stream:
            found = _NAME.fullmatch(stream.read(_NAME_BYTES_MAX).decode("ascii", "replace").rstrip("\n"))
    except OSError:
        return None
    return None if found is None else (found[0], int(found[1]))


def _let_name(db: Path, manifest: str) -> None:
    unfinished = db / _UNFINISHED
    unfinished.unlink(missing_ok=True)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as stream:  # noqa: PTH123  (of a descriptor)
        stream.write(f"{manifest}\n".encode())
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.rename(db / CURRENT)
    sync_directory(db)
