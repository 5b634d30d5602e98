"""What is on a disk in memory, and what was changed there and is not durable yet."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec

SECTOR: Final = 512
PAGE: Final = 4096


class Change(msgspec.Struct):
    """Something that is not durable yet. `order` grows from change to change, on the whole disk."""

    order: int
    call: int
    """Changes of one system call have the same number."""
    orphan: bool = False
    """A sync of it failed: it is durable only when its page is written and synced again."""


class Data(Change):
    """A part of one sector was written."""

    offset: int = 0
    data: bytes = b""

    @property
    def sector(self) -> int:
        return self.offset // SECTOR


class Length(Change):
    """The length of a file was changed; what lies beyond it is gone."""

    length: int = 0


class Naming(Change):
    """Names were taken away and given, in one or two directories, all at once."""

    removed: tuple[tuple[Folder, str], ...] = ()
    added: tuple[tuple[Folder, str, Node], ...] = ()


class File:
    """The durable content of a file, and what was done to it since."""

    def __init__(self) -> None:
        self.content = bytearray()
        """Up to the last byte that was written; zeros follow up to `size`."""
        self.size = 0
        self.pending: list[Data | Length] = []
        self.now_size = 0
        self.sums: dict[int, int] = {}
        """For each sector that is not all zeros, `sum_of` it."""
        self.total = 0
        """The sum of `sums`."""
        self.is_new = True
        """No sync committed its existence yet."""


class Folder:
    """A directory: its names as the running system sees them, and as the disk has them."""

    def __init__(self) -> None:
        self.now: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}


Node = File | Folder
Keep = Callable[[Change], bool]


def rename(naming: Naming, names: Callable[[Folder], dict[str, Node]]) -> None:
    """Let the names be as after `naming`, in the folders' names that `names` gives."""
    for folder, name in naming.removed:
        names(folder).pop(name, None)
    for folder, name, node in naming.added:
        names(folder)[name] = node


def put(content: bytearray, offset: int, data: bytes) -> None:
    """Let `data` be at `offset`, zeros before it if `content` ends sooner."""
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def sum_of(sector: int, content: bytearray) -> int:
    """A hash of 64 bits of one sector and its place, the same in every process; 0 for a sector of zeros."""
    data = bytes(content[sector * SECTOR : (sector + 1) * SECTOR]).rstrip(b"\0")
    return int.from_bytes(blake2b(sector.to_bytes(8) + data, digest_size=8).digest()) if data else 0
