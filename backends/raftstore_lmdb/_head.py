"""Looks at LMDB's two meta pages and the bounds records they lead to, by plain reads.

LMDB trusts its file: a damaged meta page or a short file can kill the process, and it takes the meta page
with the higher transaction id without asking whether that id is true. So this is done before LMDB is let
near the file. The layout is that of LMDB's data version 1, in the byte order of the machine.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

import msgspec

from raftstore.errors import CorruptionError, FormatError
from raftstore_lmdb._records import BOUNDS, Bounds, decode_bounds

_PAGE = struct.Struct("=QHHHH")  # number, unused, flags, end of the offsets, start of the nodes
_META = struct.Struct("=IIQQ48s48sQQ")  # magic, version, address, map size, free db, main db, last page, txn
_TREE = struct.Struct("=IHHQQQQQ")  # page size or pad, flags, depth, branch, leaf, overflow, entries, root
_NODE = struct.Struct("=HHHH")  # size or page number, low and high; flags; key size

_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1
_BRANCH, _LEAF, _META_PAGE = 0x01, 0x02, 0x08
_BIG_VALUE = 0x01
_DEPTH_MAX: Final = 8
"""Far more than a tree of five records can have."""
_UNPROVED: Final = (
    "the older of LMDB's meta pages is not what it claims to be: the last transaction failed while it was "
    "written, or the page was damaged and the last write is lost"
)


class Head(msgspec.Struct, frozen=True):
    """What the beginning of a data file says, once it was found to be sound."""

    page_size: int
    pages_used: int
    """Pages up to the highest that was ever used; the file has at least as many."""
    transaction: int
    bounds: Bounds
    end_is_proved: bool
    """The older meta page was looked at too: the newer one is truly the last that was written."""
    bytes_read: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know of it."""
        return () if self.end_is_proved else (_UNPROVED,)


class _Meta(msgspec.Struct, frozen=True):
    page: int
    page_size: int
    pages_used: int
    transaction: int
    root: int


def read_head(file: Path) -> Head:
    """Check the head of the data file. Raises `CorruptionError`, `FormatError` if the format is not ours."""
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _Reader(fd, file).head()
    finally:
        os.close(fd)


class _Reader:
    def __init__(self, fd: int, file: Path) -> None:
        self._fd, self._file = fd, file
        self._size = os.fstat(fd).st_size
        self._bytes_read = 0

    def head(self) -> Head:
        first = self._meta(0, 0)
        second = self._meta(1, first.page_size)
        if first.page_size != second.page_size:
            raise self._damage("the meta pages disagree about the page size", 0)
        newer, older = (first, second) if first.transaction > second.transaction else (second, first)
        if newer.transaction != older.transaction + 1:
            raise self._damage(
                f"the meta pages name the transactions {newer.transaction} and {older.transaction}, "
                "which do not follow each other",
                0,
            )
        bounds = self._bounds(newer)
        if bounds.transaction != newer.transaction:
            raise self._damage(
                f"the meta page of transaction {newer.transaction} leads to what transaction "
                f"{bounds.transaction} wrote",
                newer.page * newer.page_size,
            )
        proved = self._is_older(older)
        return Head(newer.page_size, newer.pages_used, newer.transaction, bounds, proved, self._bytes_read)

    def _is_older(self, meta: _Meta) -> bool:
        """Whether the older meta page leads to what its own transaction wrote.

        It does not if its transaction id was changed by damage, and then it may have been the newer one. It
        does not either if writing it failed last time: LMDB then puts the old id back, not the old roots.
        """
        if meta.transaction == 0:
            return True
        try:
            return self._bounds(meta).transaction == meta.transaction
        except CorruptionError:
            return False

    def _meta(self, number: int, page_size: int) -> _Meta:
        offset = number * page_size
        page, _, flags, _, _ = _PAGE.unpack(self._read(offset, _PAGE.size))
        magic, version, _, _, free, main, last_page, transaction = _META.unpack(
            self._read(offset + _PAGE.size, _META.size)
        )
        if magic != _MAGIC or not flags & _META_PAGE:
            raise self._damage(f"meta page {number} is no meta page of LMDB", offset)
        if version != _DATA_VERSION:
            raise FormatError(f"{self._file} has LMDB's data version {version}; {_DATA_VERSION} is known")
        size = int(_TREE.unpack(free)[0])
        if size not in (2**power for power in range(9, 17)):
            raise self._damage(f"meta page {number} gives a page size of {size} bytes", offset)
        if page != number or (transaction % 2 != number and transaction > 0):
            raise self._damage(f"meta page {number} holds page {page}, transaction {transaction}", offset)
        if (last_page + 1) * size > self._size:
            raise self._damage(f"{self._size} bytes are left of {(last_page + 1) * size} or more", self._size)
        return _Meta(number, size, last_page + 1, transaction, int(_TREE.unpack(main)[7]))

    def _bounds(self, meta: _Meta) -> Bounds:
        """The bounds record that `meta` leads to: the first record of its main tree."""
        number = meta.root
        for _ in range(_DEPTH_MAX):
            page = self._page(number, meta)
            flags, node = self._first_node(page, number * meta.page_size)
            if flags & _LEAF:
                return self._record(page, node, number * meta.page_size)
            low, high, highest, _ = _NODE.unpack_from(page, node)
            number = low | high << 16 | highest << 32
        raise self._damage("the main tree is too deep", meta.page * meta.page_size)

    def _page(self, number: int, meta: _Meta) -> bytes:
        if not 2 <= number < meta.pages_used:
            raise self._damage(f"there is no page {number}", meta.page * meta.page_size)
        return self._read(number * meta.page_size, meta.page_size)

    def _first_node(self, page: bytes, offset: int) -> tuple[int, int]:
        """The flags of a tree page, and where its first node begins."""
        number, _, flags, lower, _ = _PAGE.unpack_from(page)
        if number * len(page) != offset or flags not in (_BRANCH, _LEAF) or lower < _PAGE.size + 2:
            raise self._damage("a page of the main tree is damaged", offset)
        (node,) = struct.unpack_from("=H", page, _PAGE.size)
        if not _PAGE.size < node <= len(page) - _NODE.size:
            raise self._damage("a page of the main tree is damaged", offset)
        return flags, node

    def _record(self, page: bytes, node: int, offset: int) -> Bounds:
        low, high, flags, key_size = _NODE.unpack_from(page, node)
        start = node + _NODE.size + key_size
        stop = start + (low | high << 16)
        if flags & _BIG_VALUE or page[node + _NODE.size : start] != BOUNDS or stop > len(page):
            raise self._damage("the main tree does not begin with the bounds record", offset)
        try:
            return decode_bounds(page[start:stop])
        except CorruptionError as error:
            raise self._damage(str(error), offset) from None

    def _read(self, offset: int, size: int) -> bytes:
        found = os.pread(self._fd, size, offset)
        self._bytes_read += len(found)
        if len(found) < size:
            raise self._damage("the file is too short", offset + len(found))
        return found

    def _damage(self, message: str, offset: int) -> CorruptionError:
        return CorruptionError(message, file=self._file, offset=offset)
