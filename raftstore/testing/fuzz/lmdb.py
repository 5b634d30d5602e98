"""Targets: the records of `lmdb`, and the head of its data file."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from raftstore_lmdb import _datafile as datafile
from raftstore_lmdb import _head as head
from raftstore_lmdb import _records as records

from raftstore.errors import CorruptionError, FormatError
from raftstore.testing.fuzz.target import Target

REFUSALS: Final = (CorruptionError, FormatError)
BOUNDS: Final = records.Bounds(checksum=1, number=9, runs=2, hard_state=1, meta=2)
PAGE: Final = 4096
HEAD_PAGES: Final = 2
META_BYTES: Final = 168


def targets(scratch: Path) -> list[Target]:
    """All of them; they use files in `scratch`."""
    datafile.create(scratch, 1)
    whole = (scratch / datafile.DATA).read_bytes()
    metas = b"".join(whole[PAGE * page : PAGE * page + META_BYTES] for page in range(HEAD_PAGES))
    copy = scratch / "copy.mdb"

    def check_head(data: bytes) -> None:
        image = bytearray(whole)
        for page in range(HEAD_PAGES):
            piece = data[META_BYTES * page : META_BYTES * (page + 1)]
            image[PAGE * page : PAGE * page + len(piece)] = piece
        rest = data[META_BYTES * HEAD_PAGES :]
        image[PAGE * HEAD_PAGES : PAGE * HEAD_PAGES + len(rest)] = rest
        copy.write_bytes(image)
        head.read_head(copy)

    return [
        Target(
            name="lmdb-record",
            samples=[records.encode_bounds(BOUNDS), records.encode_key(7), bytes(24)],
            check=check_record,
            refusals=(),
            seal=seal,
        ),
        Target(
            name="lmdb-head",
            samples=[metas],
            check=check_head,
            refusals=REFUSALS,
            spare_bytes=1 << 20,
        ),
    ]


def check_record(data: bytes) -> None:
    """Every decoder, whatever the others say."""
    view = memoryview(data)
    calls: list[Callable[[], object]] = [
        lambda: records.decode_bounds(data),
        lambda: records.decode_key(data),
        lambda: records.decode_entry(5, view, zlib.crc32, Path()),
        lambda: records.decode_entry(5, view, _agreeing(data), Path()),
        lambda: records.decode_runs([(view[:8], view[8:])], BOUNDS),
        lambda: records.open_blob(b"meta", view, 7, zlib.crc32),
    ]
    for call in calls:
        with suppress(*REFUSALS):
            call()


def _agreeing(data: bytes) -> Callable[..., int]:
    """A checksum that is what a record of the entry says that it is."""

    def checksum(*_data: object) -> int:
        return int.from_bytes(data[:4])

    return checksum


def seal(data: bytes) -> bytes:
    """As a bounds record."""
    return zlib.crc32(data[4:]).to_bytes(4, "big") + data[4:]
