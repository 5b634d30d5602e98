"""What a manifest of RocksDB says: which sorted files there are, and from where on the logs count."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Final

import msgspec

from raftstore_rocksdb.records import HEADER_BYTES, has_fragment, stated_bytes, whole_records

MANIFEST_BYTES_MAX: Final = 16 << 20
"""None that is longer is read: it would take too long."""
TORN_BYTES_MAX: Final = 8 << 10
"""Nor is an end taken for one torn write that is longer."""

_LOG_NUMBER, _NEXT_FILE, _LAST_SEQUENCE, _CURSOR, _DELETED, _PREVIOUS_LOG, _ADDED = 2, 3, 4, 5, 6, 9, 103
_NUMBERS: Final = (_PREVIOUS_LOG, 10, 200, 203, 300)
_STRINGS: Final = (1, 201)
_IGNORABLE: Final = 1 << 13
"""Tags with this bit are followed by a string that an older RocksDB may skip."""
_NO_MORE_FIELDS: Final = 1
_NUMBER_BITS: Final = 64


class UnreadableError(Exception):
    """The manifest is not one that we understand."""


class Manifest(msgspec.Struct):
    """The state after the last whole record of a manifest."""

    log_number: int = 0
    """Logs with lower numbers do not count: what they held is in sorted files."""
    last_sequence: int = 0
    """Every change up to this one is in sorted files."""
    next_file: int = 0
    """The number of the next file of any kind. RocksDB says it in the last record of a new manifest."""
    files: set[int] = msgspec.field(default_factory=set[int])
    """The numbers of the sorted files."""
    ever: set[int] = msgspec.field(default_factory=set[int])
    """The numbers of these and of those that were there before."""
    stop: int = 0
    """Where the last whole record ends."""
    size: int = 0
    torn_moves_only: bool = False
    """The torn record after that is the last one, and begins like one of a compaction: it names no change
    that was not in sorted files before."""

    @property
    def is_torn(self) -> bool:
        """Whether something that is no record follows the last one."""
        return self.stop < self.size

    @property
    def is_begun_only(self) -> bool:
        """Whether records that RocksDB needs are missing: a power cut came before its first sync."""
        return self.next_file == 0


def read_manifest(file: Path) -> Manifest:
    """Read it up to its end, or to one torn record at its end. Raises `UnreadableError`, `OSError`.

    RocksDB syncs what it appends before it appends more. So no record can be whole after a torn one: if one
    is, the file is damaged.
    """
    if file.stat().st_size > MANIFEST_BYTES_MAX:
        raise UnreadableError("it is too long")
    data = file.read_bytes()
    found = Manifest(size=len(data))
    for stop, record in whole_records(BytesIO(data)):
        _Edit(record).apply(found)
        found.stop = stop
    torn = data[found.stop :].rstrip(b"\0")
    if len(torn) > TORN_BYTES_MAX:
        raise UnreadableError("too much follows the last whole record")
    if has_fragment(data[: found.stop + len(torn)], found.stop + 1):
        raise UnreadableError("a whole record follows one that is damaged")
    found.torn_moves_only = (
        len(data) <= found.stop + stated_bytes(torn)  # else another record may follow
        and _Edit(torn[HEADER_BYTES:]).moves_only(found.last_sequence)
    )
    return found


class _Edit:
    """One record of a manifest: a change of the state before it."""

    def __init__(self, record: bytes) -> None:
        self._record = record
        self._offset = 0

    def apply(self, to: Manifest) -> None:
        while self._offset < len(self._record):
            self._apply_field(to)

    def moves_only(self, last_sequence: int) -> bool:
        """Whether this begins like the record of a compaction, which has no log number and names the last
        change again."""
        begin = [self._number_or_none() for _ in range(6)]
        return begin[:3] == [_PREVIOUS_LOG, 0, _NEXT_FILE] and begin[4:] == [_LAST_SEQUENCE, last_sequence]

    def _number_or_none(self) -> int | None:
        try:
            return self._number()
        except UnreadableError:
            return None

    def _apply_field(self, to: Manifest) -> None:
        tag = self._number()
        if tag == _LOG_NUMBER:
            to.log_number = self._number()
        elif tag == _LAST_SEQUENCE:
            to.last_sequence = self._number()
        elif tag == _NEXT_FILE:
            to.next_file = self._number()
        elif tag == _DELETED:
            self._number()
            to.files.discard(self._number())
        elif tag == _ADDED:
            to.files.add(number := self._added())
            to.ever.add(number)
        elif tag in _NUMBERS:
            self._number()
        elif tag in _STRINGS or tag & _IGNORABLE:
            self._string()
        elif tag == _CURSOR:
            self._number()
            self._string()
        else:
            raise UnreadableError(f"tag {tag} is not known")

    def _added(self) -> int:
        self._number()
        number = self._number()
        self._number()
        for skip in (self._string, self._string, self._number, self._number):
            skip()
        while self._number() != _NO_MORE_FIELDS:
            self._string()
        return number

    def _number(self) -> int:
        number, shift = 0, 0
        while self._offset < len(self._record) and shift < _NUMBER_BITS:
            byte = self._record[self._offset]
            self._offset += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number
        raise UnreadableError("a number does not end")

    def _string(self) -> None:
        length = self._number()
        self._offset += length
        if self._offset > len(self._record):
            raise UnreadableError("a record ends too early")
