"""The bytes of a store's records, as FORMAT.md tables them, and the checks that every one of them passes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from raftstore.entry import INDEX_MAX, NO_ENTRY, Entry, LogId
from raftstore.errors import CorruptionError, FormatError
from raftstore_lmdb._checksums import Checksum

FORMAT_VERSION: Final = 1

BOUNDS: Final = b"bounds"
HARD_STATE: Final = b"hard_state"
META: Final = b"meta"
ENTRIES: Final = b"entries"
TERMS: Final = b"terms"

_KEY = struct.Struct(">Q")
_SEAL = struct.Struct(">I")
_BOUNDS_SEAL = struct.Struct(">IB")
_BOUNDS_BODY = struct.Struct(">BBBxQQQQQQQQIII")
_ENTRY = struct.Struct(">IQB")
_ENTRY_SEALED = struct.Struct(">QQB")

ENTRY_OVERHEAD: Final = _ENTRY.size
"""Bytes of an entry's value before its payload."""

RUN_BYTES: Final = 2 * _KEY.size
"""Of a term run: its key and its value."""

BOUNDS_BYTES: Final = _SEAL.size + _BOUNDS_BODY.size
"""Of the bounds record."""

_HAS_HARD_STATE, _HAS_META = 1, 2


class Bounds(msgspec.Struct, frozen=True):
    """The record that every transaction replaces: all that opening must know, or can check the rest with."""

    checksum: int
    """Which one the store uses, see `raftstore_lmdb._checksums`."""
    number: int = 0
    """Of the last write."""
    transaction: int = 0
    """LMDB's id of the transaction that wrote this record: it tells whose meta page leads here."""
    anchor: LogId = NO_ENTRY
    last: LogId = NO_ENTRY
    floor: int = 1
    """No key lies below it. Keys from here to the anchor are garbage."""
    runs: int = 0
    """How many term runs there are."""
    runs_check: int = 0
    """Their `runs_check`."""
    hard_state: int | None = None
    """The checksum of the hard state, None if there is none."""
    meta: int | None = None
    """The checksum of the metadata, None if there is none."""


def encode_key(index: int) -> bytes:
    """Big-endian, so that LMDB's byte order of keys is the order of indexes."""
    return _KEY.pack(index)


def decode_key(key: bytes | memoryview) -> int:
    """The index of a key. Raises `CorruptionError` if it is no key of ours."""
    if len(key) != _KEY.size:
        raise CorruptionError(f"a key has {len(key)} bytes instead of {_KEY.size}")
    return int(_KEY.unpack(key)[0])


def encode_bounds(bounds: Bounds) -> bytes:
    flags = _HAS_HARD_STATE * (bounds.hard_state is not None) | _HAS_META * (bounds.meta is not None)
    body = _BOUNDS_BODY.pack(
        FORMAT_VERSION,
        bounds.checksum,
        flags,
        bounds.number,
        bounds.transaction,
        bounds.anchor.term,
        bounds.anchor.index,
        bounds.last.term,
        bounds.last.index,
        bounds.floor,
        bounds.runs,
        bounds.runs_check,
        bounds.hard_state or 0,
        bounds.meta or 0,
    )
    return _SEAL.pack(zlib.crc32(body)) + body


def decode_bounds(record: bytes) -> Bounds:
    """Raises `CorruptionError` if the record is damaged, `FormatError` if its version is not ours."""
    if len(record) < _BOUNDS_SEAL.size:
        raise CorruptionError(f"the bounds record has only {len(record)} bytes")
    seal, version = _BOUNDS_SEAL.unpack_from(record)
    if zlib.crc32(record[4:]) != seal:
        raise CorruptionError("the bounds record does not match its checksum")
    if version != FORMAT_VERSION:
        raise FormatError(f"the store has format version {version}; this version knows {FORMAT_VERSION}")
    if len(record) != BOUNDS_BYTES:
        raise CorruptionError(f"the bounds record has {len(record)} bytes instead of {BOUNDS_BYTES}")
    return _bounds(*_BOUNDS_BODY.unpack_from(record, _SEAL.size)[1:])


def _bounds(checksum: int, flags: int, number: int, transaction: int, *rest: int) -> Bounds:
    anchor_term, anchor_index, last_term, last_index, floor, runs, check, hard_state, meta = rest
    if max(number, anchor_term, anchor_index, last_term, last_index, floor - 1) > INDEX_MAX:
        raise CorruptionError("the bounds record is out of range")
    return Bounds(
        checksum,
        number,
        transaction,
        LogId(anchor_term, anchor_index),
        LogId(last_term, last_index),
        floor,
        runs,
        check,
        hard_state if flags & _HAS_HARD_STATE else None,
        meta if flags & _HAS_META else None,
    )


def encode_entries(entries: Iterable[Entry], checksum: Checksum) -> list[tuple[bytes, bytes]]:
    """The key and the value of each entry."""
    rows: list[tuple[bytes, bytes]] = []
    for entry in entries:
        term, data, kind = entry.term, entry.data, entry.kind
        sealed = _ENTRY_SEALED.pack(entry.index, term, kind)
        seal = checksum(data, checksum(sealed, 0))
        rows.append((sealed[: _KEY.size], _ENTRY.pack(seal, term, kind) + data))
    return rows


def decode_entry(index: int, value: memoryview, checksum: Checksum, file: Path) -> Entry:
    """A copy of the entry that was stored at `index` in `file`. Raises `CorruptionError` if it is not."""
    if len(value) < ENTRY_OVERHEAD:
        raise entry_damage(index, f"has only {len(value)} bytes", file)
    seal, term, kind = _ENTRY.unpack_from(value)
    data = bytes(value[ENTRY_OVERHEAD:])
    if checksum(data, checksum(_ENTRY_SEALED.pack(index, term, kind), 0)) != seal:
        raise entry_damage(index, "does not match its checksum", file)
    return Entry(term, index, data, kind)


def entry_damage(index: int, what: str, file: Path) -> CorruptionError:
    return CorruptionError(f"entry {index} {what}", file=file, first_index=index, last_index=index)


def encode_run(run: LogId) -> tuple[bytes, bytes]:
    """The key and the value of a term run."""
    return _KEY.pack(run.index), _KEY.pack(run.term)


def decode_runs(rows: Iterable[tuple[memoryview, memoryview]], bounds: Bounds) -> list[LogId]:
    """The term runs. Raises `CorruptionError` unless they are exactly those that `bounds` speaks of."""
    runs = [LogId(decode_key(value), decode_key(key)) for key, value in rows]
    if len(runs) != bounds.runs or runs_check(runs) != bounds.runs_check or not _fit(runs, bounds):
        raise CorruptionError("the table of terms is not the one that was written")
    return runs


def _fit(runs: Sequence[LogId], bounds: Bounds) -> bool:
    """Whether the runs ascend and agree with the anchor and the last entry."""
    if not runs:
        return bounds.anchor == bounds.last
    ascending = all(a.index < b.index and a.term < b.term for a, b in pairwise(runs))
    return ascending and runs[0].index == bounds.anchor.index + 1 and runs[-1].term == bounds.last.term


def runs_check(runs: Iterable[LogId]) -> int:
    """A checksum of a set of term runs: that of two disjoint sets together is the sum, modulo 2**32."""
    return sum(zlib.crc32(_KEY.pack(run.index) + _KEY.pack(run.term)) for run in runs) % 2**32


def seal(key: bytes, blob: bytes, checksum: Checksum) -> int:
    """The checksum of the blob that is stored at `key`."""
    return checksum(blob, checksum(key, 0))


def open_blob(key: bytes, value: memoryview | None, sealed: int | None, checksum: Checksum) -> bytes | None:
    """A copy of the blob that was stored at `key`, or None. Raises `CorruptionError` if it is not that."""
    if sealed is None:
        return None
    if value is None or seal(key, blob := bytes(value), checksum) != sealed:
        raise CorruptionError(f"the record {key.decode()!r} is not what was written")
    return blob
