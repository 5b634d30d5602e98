"""The stored form of every record, as FORMAT.md tables it: keys, values, and what proves a value.

A key is a byte that names its key space, and for entries and term runs a big-endian index, so that byte order
is index order. Entries sort first and the records that every write replaces sort last: a flushed memtable
then overlaps the newest entries only, and merging it rewrites no others.

A value is a CRC-32 over its key and its body, and the body. RocksDB checks its blocks, but neither the way
through the memtable nor that the record found is the record asked for. Pure functions, no I/O.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from struct import Struct
from typing import Final

from raftstore.entry import INDEX_MAX, Entry, LogId
from raftstore.errors import CorruptionError, FormatError
from raftstore_rocksdb.shape import Shape

FORMAT_VERSION: Final = 1

HARD_STATE: Final = b"\x03"
META: Final = b"\x04"
BOUNDS: Final = b"\x05"

KEY_INDEX_END: Final = 2**64 - 1
"""Above every index that a key can hold: indexes end at 2**63 - 1."""

_ENTRY: Final = 1
_RUN: Final = 2
_KEY: Final = Struct(">BQ")
_CRC: Final = Struct(">I")
_TERM: Final = Struct(">Q")
_CRC_TERM_KIND: Final = Struct(">IQB")
_KEY_TERM_KIND: Final = Struct(">BQQB")
_VERSION: Final = Struct(">H")
_BOUNDS: Final = Struct(">HQQQQQQ")

ENTRY_OVERHEAD: Final = _KEY.size + _CRC_TERM_KIND.size
"""Stored bytes of an entry beside its payload."""


def entry_key(index: int) -> bytes:
    """Where the entry at `index` is, or would be."""
    return _KEY.pack(_ENTRY, index)


def run_key(index: int) -> bytes:
    """Where the run of equal terms that begins at `index` is, or would be."""
    return _KEY.pack(_RUN, index)


def key_index(key: bytes) -> int:
    """The index in a key of an entry or a run."""
    return int(_KEY.unpack(key)[1])


def is_entry_key(key: bytes) -> bool:
    """Whether the key belongs to the entries."""
    return len(key) == _KEY.size and key[0] == _ENTRY


def entry_rows(entries: Iterable[Entry]) -> list[tuple[bytes, bytes]]:
    """The key and the value of each entry."""
    rows: list[tuple[bytes, bytes]] = []
    for entry in entries:
        term, data, kind = entry.term, entry.data, entry.kind
        sealed = _KEY_TERM_KIND.pack(_ENTRY, entry.index, term, kind)
        crc = zlib.crc32(data, zlib.crc32(sealed))
        rows.append((sealed[: _KEY.size], _CRC_TERM_KIND.pack(crc, term, kind) + data))
    return rows


def unpack_entry(index: int, key: bytes, value: bytes) -> Entry:
    """The entry at `index`, checked. Raises `CorruptionError`."""
    if len(value) < _CRC_TERM_KIND.size or _proof(key, value) != _CRC.unpack_from(value)[0]:
        raise CorruptionError("an entry's checksum is wrong", first_index=index, last_index=index)
    _, term, kind = _CRC_TERM_KIND.unpack_from(value)
    return Entry(term, index, value[_CRC_TERM_KIND.size :], kind)


def payload_bytes(value: bytes) -> int:
    """The length of the payload in an entry's value."""
    return len(value) - _CRC_TERM_KIND.size


def pack_run(run: LogId) -> bytes:
    """The value of a term run under its key."""
    return seal(run_key(run.index), _TERM.pack(run.term))


def unpack_run(key: bytes, value: bytes) -> LogId:
    """A term run, checked. Raises `CorruptionError`."""
    body = unseal(key, value, "a term run")
    if len(body) != _TERM.size or len(key) != _KEY.size:
        raise CorruptionError("a term run has a wrong length")
    return LogId(_TERM.unpack(body)[0], key_index(key))


def pack_bounds(shape: Shape) -> bytes:
    """The value of the bounds record: what every write replaces."""
    anchor, last = shape.anchor, shape.last
    numbers = (shape.number, anchor.term, anchor.index, last.term, last.index, len(shape.runs))
    return seal(BOUNDS, _BOUNDS.pack(FORMAT_VERSION, *numbers))


def unpack_bounds(value: bytes) -> tuple[int, LogId, LogId, int]:
    """Write number, anchor, last and the number of term runs. Raises `CorruptionError`, `FormatError`."""
    body = unseal(BOUNDS, value, "the bounds record")
    version = _VERSION.unpack_from(body)[0] if len(body) >= _VERSION.size else None
    if version != FORMAT_VERSION:
        raise FormatError(f"the store has rocksdb format {version}; this version knows {FORMAT_VERSION}")
    if len(body) != _BOUNDS.size:
        raise CorruptionError("the bounds record has a wrong length")
    _, number, anchor_term, anchor_index, last_term, last_index, runs = _BOUNDS.unpack(body)
    if max(number, anchor_term, anchor_index, last_term, last_index) > INDEX_MAX:
        raise CorruptionError("the bounds record is out of range")
    return number, LogId(anchor_term, anchor_index), LogId(last_term, last_index), runs


def seal(key: bytes, body: bytes) -> bytes:
    """A value that proves to be `body` under `key`."""
    return _CRC.pack(zlib.crc32(body, zlib.crc32(key))) + body


def unseal(key: bytes, value: bytes, what: str) -> bytes:
    """The body of a sealed value. Raises `CorruptionError`, which calls it `what`."""
    if len(value) < _CRC.size or _proof(key, value) != _CRC.unpack_from(value)[0]:
        raise CorruptionError(f"the checksum of {what} is wrong")
    return value[_CRC.size :]


def _proof(key: bytes, value: bytes) -> int:
    return zlib.crc32(memoryview(value)[_CRC.size :], zlib.crc32(key))
