"""What a power cut leaves of a disk: an image, and how it comes out of what was pending."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from raftstore.testing.crash.changes import (
    SECTOR,
    Change,
    Data,
    File,
    Folder,
    Keep,
    Length,
    Node,
    put,
    rename,
    sum_of,
)
from raftstore.testing.crash.disk import Disk

_NEVER: Final = 1 << 62


class Image(msgspec.Struct, frozen=True):
    """What a power cut left, ready to be written down."""

    name: int
    """64 bits. Images are equal if their names are, in every process; see `changes.sum_of`."""
    folders: Sequence[str]
    files: Sequence[tuple[str, bytes, int]]
    """Path, content, size."""

    def write(self, directory: Path) -> None:
        """Make it real below `directory`, which is empty."""
        for path in self.folders:
            (directory / path).mkdir(mode=0o700)
        for path, content, size in self.files:
            with (directory / path).open("wb", buffering=0) as stream:
                stream.write(content)
                stream.truncate(size)


def left_by(disk: Disk, keep: Keep) -> Image:
    """What a power cut leaves that keeps the pending changes for which `keep` holds, as far as the model
    allows: the versions of a sector or of a length follow each other, and `ext4` has an order."""
    if disk.model == "ext4":
        keep = _ordered(disk, keep)
    folders: list[str] = []
    files: list[tuple[str, bytes, int]] = []
    parts: list[object] = []
    for path, node in _walk(disk.root, "", _names(disk, keep)):
        if isinstance(node, Folder):
            folders.append(path)
            parts.append(path)
        else:
            content, size, total = _content(node, keep)
            files.append((path, content, size))
            parts.append((path, size, total % (1 << 64)))
    name = blake2b(msgspec.msgpack.encode(parts), digest_size=8).digest()
    return Image(int.from_bytes(name), folders, files)


def _ordered(disk: Disk, keep: Keep) -> Keep:
    """Names and lengths up to the first that is not kept, and the data that ordered mode implies."""
    metadata = [c for c in disk.pending() if not isinstance(c, Data)]
    edge = next((c.order for c in metadata if not keep(c)), _NEVER)
    implied: set[int] = set()
    for file in disk.dirty:
        lengths = [c for c in file.pending if isinstance(c, Length) and c.order < edge]
        if lengths:
            implied |= {c.order for c in file.pending if _is_implied(c, file, edge)}
    return lambda c: (c.order in implied or keep(c)) if isinstance(c, Data) else c.order < edge


def _is_implied(change: Change, file: File, edge: int) -> bool:
    """Whether this is data below a length that is kept, so that it is kept, too."""
    return (
        isinstance(change, Data)
        and change.order < edge
        and change.sector >= file.size // SECTOR
        and not change.orphan
    )


def _names(disk: Disk, keep: Keep) -> dict[Folder, dict[str, Node]]:
    """The names in the folders that are not as the disk has them."""
    names: dict[Folder, dict[str, Node]] = {}
    for naming in disk.namings:
        if keep(naming):
            rename(naming, lambda folder: names.setdefault(folder, dict(folder.durable)))
    return names


def _walk(folder: Folder, path: str, names: dict[Folder, dict[str, Node]]) -> Iterator[tuple[str, Node]]:
    for name, node in sorted(names.get(folder, folder.durable).items()):
        yield f"{path}{name}", node
        if isinstance(node, Folder):
            yield from _walk(node, f"{path}{name}/", names)


def _content(file: File, keep: Keep) -> tuple[bytes, int, int]:
    """Content, size and sum of the file in an image."""
    if not file.pending:
        return bytes(file.content), file.size, file.total
    content, size, stopped, touched = bytearray(file.content), file.size, set[int](), set[int]()
    for change in file.pending:
        place = -1 if isinstance(change, Length) else change.sector
        if place in stopped or not keep(change):
            stopped.add(place)
        elif isinstance(change, Data):
            put(content, change.offset, change.data)
            touched.add(place)
        else:
            size = change.length
            touched |= _cut(content, size)
    touched |= _cut(content, size)
    changed = (sum_of(sector, content) - file.sums.get(sector, 0) for sector in touched)
    return bytes(content), size, file.total + sum(changed)


def _cut(content: bytearray, size: int) -> set[int]:
    """Drop what is beyond `size`; the sectors that this changes."""
    if size > len(content):
        return set()
    cut = set(range(size // SECTOR, len(content) // SECTOR + 1))
    del content[size:]
    return cut
