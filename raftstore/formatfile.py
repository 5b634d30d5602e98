"""FORMAT: which engine a store belongs to, and which version of the store's layout this is.

One line of JSON: `{"store":{"version":1,"backend":"lmdb"},"crc32":2774363478}`. The checksum (zlib) is over
the bytes of the value of `store`, and stays so in every version.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import msgspec

from raftstore.durable import read_small, replace_file
from raftstore.errors import CorruptionError, FormatError
from raftstore.storeconfig import BackendName

VERSION: Final = 1
BYTES_MAX: Final = 4096


class Format(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What FORMAT says."""

    version: int = VERSION
    backend: BackendName


class _Versioned(msgspec.Struct, frozen=True):
    version: int


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    store: msgspec.Raw
    crc32: int


def write_format(path: Path, backend: str) -> None:
    """Replace the file, all or nothing. Its name is not durable yet."""
    store = msgspec.json.encode(Format(backend=backend))
    replace_file(path, msgspec.json.encode(_Envelope(msgspec.Raw(store), zlib.crc32(store))) + b"\n")


def read_format(path: Path) -> Format:
    """Read and check the file.

    Raises `FormatError` for another version, `CorruptionError` for anything that was never written,
    `FileNotFoundError`.
    """
    data = read_small(path, BYTES_MAX)
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        store = bytes(envelope.store)
        if zlib.crc32(store) != envelope.crc32:
            raise CorruptionError("the checksum does not match", file=path)
        _check_version(msgspec.json.decode(store, type=_Versioned).version)
        return msgspec.json.decode(store, type=Format)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptionError(f"not a store's FORMAT: {error}", file=path) from error


def _check_version(version: int) -> None:
    if version != VERSION:
        message = (
            f"the store has version {version}, this raftstore reads {VERSION}: use one that reads {version}"
        )
        raise FormatError(message)
