"""What the tests of the lmdb backend share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raftstore_lmdb import LmdbBackend
from raftstore_lmdb._checksums import Checksum
from raftstore_lmdb._records import encode_entries

from raftstore.entry import Entry
from raftstore.testing.checked import CheckedStore

KIB = 1 << 10
MIB = 1 << 20

LmdbStore = CheckedStore[LmdbBackend]


def value_of(entry: Entry, checksum: Checksum) -> bytes:
    """What is stored of `entry` under its key."""
    return encode_entries([entry], checksum)[0][1]


def opened(path: Path, **options: Any) -> LmdbBackend:
    """With a small reserve, which is written when a store is made."""
    return LmdbBackend(path, **{"ballast_bytes": 64 * KIB, **options})


def checked(path: Path, **options: Any) -> LmdbStore:
    return CheckedStore(lambda: opened(path, **options))
