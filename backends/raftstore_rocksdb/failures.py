"""RocksDB's failures in Python's terms. They arrive as bare `Exception("IO error: ...")`: only text tells."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from rocksdict import DbClosedError

from raftstore.errors import CorruptionError, FormatError, StoreLockedError

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What a disk says that has no room left."""

CLOSED: Final = errno.EBADF
"""What an engine says that is closed: an interrupt may leave one so while it is opened again."""

_NAMED: Final = {
    os.strerror(code): code
    for code in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOENT,
        errno.EFBIG,
    )
}
_PLACE: Final = re.compile(r"(/\S+?\.(?:sst|log)|/\S*/(?:MANIFEST-\d+|CURRENT))(?:\s+offset\s+(\d+))?")
_STALLED: Final = ("Incomplete", "Result incomplete")
_LOCKED: Final = ("lock hold by current process", os.strerror(errno.EAGAIN))
_CORRUPT: Final = ("Corruption", "Invalid argument", "Not found", "NotFound")
_NEWER: Final = ("Not implemented", "Operation not supported")


class StalledError(Exception):
    """RocksDB would have made a write wait. Nothing was written."""


@contextmanager
def translated() -> Generator[None]:
    """Raise RocksDB's failures inside as `CorruptionError`, `FormatError`, `OSError` or `StalledError`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        raise_translated(error)


def raise_translated(error: Exception) -> NoReturn:
    """Raise what `error`, out of a call of rocksdict, means. To be called where it is handled."""
    if isinstance(error, DbClosedError):
        raise OSError(CLOSED, "RocksDB is closed") from error
    if type(error) is not Exception:
        raise error
    raise translate(str(error)) from error


def translate(text: str) -> Exception:
    """The exception that RocksDB's message `text` stands for. What is not known is `OSError(EIO)`."""
    if text.startswith(_STALLED):
        return StalledError(text)
    if any(mark in text for mark in _LOCKED):
        return StoreLockedError(f"RocksDB: {text}")
    if text.startswith(_NEWER):
        return FormatError(f"RocksDB cannot read this store: {text}")
    if text.startswith(_CORRUPT):
        return _corruption(text)
    code = next((code for words, code in _NAMED.items() if words in text), errno.EIO)
    return OSError(code, f"RocksDB: {text}")


def _corruption(text: str) -> CorruptionError:
    place = _PLACE.search(text)
    file = Path(place.group(1)) if place else None
    offset = int(place.group(2)) if place and place.group(2) else None
    return CorruptionError(f"RocksDB: {text}", file=file, offset=offset)
