"""Files and directories in memory, with blocks that can run out: what the FUSE file system serves.

Pure: nothing here knows of FUSE, faults or records. Errors are `OSError`, as of a real file system.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections.abc import Iterator
from typing import Final, TypeVar

BLOCK: Final = 4096
BLOCKS: Final = 1 << 20
"""What `statvfs` shows as the size of the file system, in blocks."""
NAME_MAX: Final = 255
HIDDEN: Final = ".fuse_hidden"
"""A file that is removed or replaced while somebody has it open, the FUSE library renames so instead."""


def problem(number: int) -> OSError:
    """The error of a call that fails with this errno."""
    return OSError(number, os.strerror(number))


class File:
    """Bytes, and the blocks that are set aside for them."""

    def __init__(self, number: int, mode: int) -> None:
        self.number = number
        self.mode = stat.S_IFREG | stat.S_IMODE(mode)
        self.content = bytearray()
        self.blocks: set[int] = set()
        self.links = 1
        self.opened = 0
        self.changed_ns = time.time_ns()


class Folder:
    """Names of files and directories."""

    def __init__(self, number: int, mode: int) -> None:
        self.number = number
        self.mode = stat.S_IFDIR | stat.S_IMODE(mode)
        self.children: dict[str, Node] = {}
        self.changed_ns = time.time_ns()


Node = File | Folder
_Node = TypeVar("_Node", File, Folder)


class Tree:
    """All of them, below one root. Not for several threads at a time."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.root = Folder(next(self._numbers), 0o700)
        self.free: int | None = None
        """So many blocks are left for new data; None: there is no end of them."""

    def find(self, path: str) -> Node:
        """What is at `path`. `ENOENT`, `ENOTDIR`."""
        node: Node = self.root
        for part in _parts(path):
            if not isinstance(node, Folder):
                raise problem(errno.ENOTDIR)
            if part not in node.children:
                raise problem(errno.ENOENT)
            node = node.children[part]
        return node

    def file(self, path: str) -> File:
        node = self.find(path)
        if not isinstance(node, File):
            raise problem(errno.EISDIR)
        return node

    def folder(self, path: str) -> Folder:
        node = self.find(path)
        if not isinstance(node, Folder):
            raise problem(errno.ENOTDIR)
        return node

    def create(self, path: str, mode: int) -> File:
        return self._add(path, File(next(self._numbers), mode))

    def mkdir(self, path: str, mode: int) -> Folder:
        return self._add(path, Folder(next(self._numbers), mode))

    def link(self, old: str, new: str) -> None:
        """Give the file at `old` the name `new`, too."""
        file = self._add(new, self.file(old))
        file.links += 1

    def unlink(self, path: str) -> None:
        """Take the name of a file away; its blocks are free when nobody has it open."""
        file, (folder, name) = self.file(path), self._place(path)
        del folder.children[name]
        file.links -= 1
        self.let_go(file)

    def rmdir(self, path: str) -> None:
        folder, (parent, name) = self.folder(path), self._place(path)
        if any(not child.startswith(HIDDEN) for child in folder.children):
            raise problem(errno.ENOTEMPTY)
        del parent.children[name]

    def rename(self, old: str, new: str) -> None:
        """Move what is at `old`; what was at `new` is gone."""
        node = self.find(old)
        (folder, name), (new_folder, new_name) = self._place(old), self._place(new)
        target = new_folder.children.get(new_name)
        if target is node:
            return
        if isinstance(target, Folder):
            self.rmdir(new)
        elif target is not None:
            self.unlink(new)
        del folder.children[name]
        new_folder.children[new_name] = node

    def let_go(self, file: File) -> None:
        """Free the blocks of a file that has neither a name nor anybody who has it open."""
        if not file.links and not file.opened:
            self._give_back(len(file.blocks))
            file.blocks.clear()
            file.content.clear()

    def write(self, file: File, data: bytes, offset: int) -> int:
        """As many bytes as there is room for. `ENOSPC` if there is none for the first."""
        room = self.reserve(file, offset, len(data))
        data = data[:room]
        if data:
            _extend(file.content, offset)
            file.content[offset : offset + len(data)] = data
            file.changed_ns = time.time_ns()
        return len(data)

    def reserve(self, file: File, offset: int, size: int) -> int:
        """Take the blocks for a range; how many of its bytes now have one. `ENOSPC` if none has."""
        for block in _blocks(offset, size):
            if block in file.blocks:
                continue
            if self.free is not None:
                if self.free < 1:
                    done = block * BLOCK - offset
                    if done > 0:
                        return done
                    raise problem(errno.ENOSPC)
                self.free -= 1
            file.blocks.add(block)
        return size

    def set_length(self, file: File, length: int) -> None:
        """Cut, or extend with zeros that take no block."""
        last = -(-length // BLOCK)
        beyond = {block for block in file.blocks if block >= last}
        file.blocks -= beyond
        self._give_back(len(beyond))
        _extend(file.content, length)
        del file.content[length:]
        file.changed_ns = time.time_ns()

    def files(self, path: str) -> Iterator[tuple[str, Node]]:
        """Everything below the directory `path`, parents first, by its path below it."""
        yield from _walk(self.folder(path), "")

    def _give_back(self, blocks: int) -> None:
        if self.free is not None:
            self.free += blocks

    def _add(self, path: str, node: _Node) -> _Node:
        folder, name = self._place(path)
        if name in folder.children:
            raise problem(errno.EEXIST)
        if len(name.encode()) > NAME_MAX:
            raise problem(errno.ENAMETOOLONG)
        folder.children[name] = node
        folder.changed_ns = time.time_ns()
        return node

    def _place(self, path: str) -> tuple[Folder, str]:
        parents, _, name = path.rstrip("/").rpartition("/")
        return self.folder(parents), name


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _blocks(offset: int, size: int) -> range:
    return range(offset // BLOCK, -(-(offset + size) // BLOCK))


def _extend(content: bytearray, length: int) -> None:
    if length > len(content):
        content.extend(bytes(length - len(content)))


def _walk(folder: Folder, path: str) -> Iterator[tuple[str, Node]]:
    for name, node in sorted(folder.children.items()):
        yield f"{path}{name}", node
        if isinstance(node, Folder):
            yield from _walk(node, f"{path}{name}/")
