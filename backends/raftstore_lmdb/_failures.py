"""What LMDB's exceptions mean to the caller of a backend."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import lmdb

from raftstore.errors import CorruptionError, FormatError

_DAMAGE: Final = (
    lmdb.BadTxnError,
    lmdb.BadValsizeError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.NotFoundError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
)


@contextmanager
def translated(file: Path) -> Generator[None]:
    """Raise an error inside as `raise_translated` does."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        raise_translated(error, file)


def raise_translated(error: Exception, file: Path) -> NoReturn:
    """Raise `CorruptionError`, `FormatError` or `OSError` in place of LMDB's own errors, others as they are.

    A `CorruptionError` that does not name a file gets this one. To be called where `error` is handled.
    """
    meant = _translate(error, file)
    if meant is error:
        raise error
    raise meant from error


def _translate(error: Exception, file: Path) -> Exception:
    if isinstance(error, CorruptionError) and error.file is None:
        return CorruptionError(str(error), file=file)
    if isinstance(error, _DAMAGE):
        return CorruptionError(f"LMDB finds the data file damaged: {error}", file=file)
    if isinstance(error, lmdb.VersionMismatchError):
        return FormatError(f"{file}: {error}")
    if isinstance(error, lmdb.Error):
        return OSError(_code(error), str(error), str(file))
    return error


def _code(error: lmdb.Error) -> int:
    """Never ENOSPC: out of a commit it would not promise that nothing will appear."""
    return error.code if error.code > 0 and error.code != errno.ENOSPC else errno.EIO
