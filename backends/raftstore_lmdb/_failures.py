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
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.NotFoundError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
)


@contextmanager
def translated(file: Path) -> Generator[None]:
    """Raise `CorruptionError`, `FormatError` or `OSError` in place of LMDB's own errors.

    A `CorruptionError` that does not name a file gets this one.
    """
    try:
        yield
    except CorruptionError as error:
        if error.file is not None:
            raise
        raise CorruptionError(str(error), file=file) from error
    except _DAMAGE as error:
        raise CorruptionError(f"LMDB finds the data file damaged: {error}", file=file) from error
    except lmdb.VersionMismatchError as error:
        raise FormatError(f"{file}: {error}") from error
    except lmdb.Error as error:
        raise OSError(_code(error), str(error), str(file)) from error


def _code(error: lmdb.Error) -> int:
    """Never ENOSPC: out of a commit it would not promise that nothing will appear."""
    return error.code if error.code > 0 and error.code != errno.ENOSPC else errno.EIO
