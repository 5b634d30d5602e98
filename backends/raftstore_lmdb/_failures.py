"""What LMDB's exceptions mean to the caller of a backend."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from raftstore.errors import CorruptionError, FormatError

_DAMAGE: Final = (
    lmdb.BadTxnError,
    lmdb.BadValsizeError,
    lmdb.CorruptedError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.NotFoundError,
    lmdb.PageNotFoundError,
)


@contextmanager
def translated(file: Path) -> Generator[None]:
    """Raise `CorruptionError`, `FormatError` or `OSError` in place of LMDB's own errors."""
    try:
        yield
    except _DAMAGE as error:
        raise CorruptionError(f"LMDB finds the data file damaged: {error}", file=file) from error
    except lmdb.VersionMismatchError as error:
        raise FormatError(f"{file}: {error}") from error
    except lmdb.Error as error:
        raise OSError(error.code if error.code > 0 else errno.EIO, str(error), str(file)) from error
