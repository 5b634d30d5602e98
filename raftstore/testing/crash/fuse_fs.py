"""The FUSE file system of the crash tests: records what happens in it, and lets chosen calls fail.

Serves one run after the other, each in a directory of its own below the root. Nothing here is imported from
a FUSE library: `fuse_server` hands the methods to one, and they can be called without.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import Any, Final

from raftstore.testing.crash.events import ALLOCATE, MKDIR, OPEN, RENAME, SYNC, TRUNCATE, UNLINK, WRITE
from raftstore.testing.crash.fuse_diary import FILLER, Diary, Order
from raftstore.testing.crash.fuse_tree import (
    BLOCK,
    BLOCKS,
    HIDDEN,
    NAME_MAX,
    File,
    Folder,
    Node,
    Tree,
    problem,
)
from raftstore.testing.crash.record import CREATED, DATA_ONLY, DIRECTORY, EMPTIED, Op, Record

OWN: Final = "lock.mdb"
"""LMDB's table of readers: a mapping in memory that the kernel writes back when it likes, never synced."""


class FaultFs:
    """What a FUSE library calls. One call at a time; `begin` and `end` from another thread."""

    use_ns: Final = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held during every call; guards everything below."""
        self._tree = Tree()
        self._open: dict[int, Node] = {}
        self._order = Order("", "")
        self._diary = Diary(self._order)
        self._spared: set[int] = set()
        """Files whose writes come when the kernel likes; they do not count."""

    # --- runs --------------------------------------------------------------------------------------------

    def begin(self, order: Order) -> None:
        """A new run in a new directory; what was there before is forgotten."""
        with self._lock:
            self._forget()
            self._order, self._diary = order, Diary(order)
            arena = self._tree.mkdir(f"/{order.name}", 0o700)
            self._diary.note(Op.OPEN, flags=DIRECTORY, inode=arena.number)
            if order.fault is not None and order.fault.damage == "full":
                self._tree.create(f"/{order.name}/{FILLER}", 0o600)
                self._tree.free = order.fault.nth

    def end(self) -> list[Record]:
        """What happened, in its order."""
        with self._lock:
            return self._diary.end()

    def _forget(self) -> None:
        self._tree.root.children.clear()
        self._tree.free = None
        self._spared.clear()

    # --- what changes files ------------------------------------------------------------------------------

    def create(self, path: str, mode: int, flags: int) -> int:
        with self._lock:
            self._diary.strike(OPEN)
            file = self._tree.create(path, mode)
            if path.endswith(f"/{OWN}"):
                self._spared.add(file.number)
            self._diary.note(Op.OPEN, path, flags=CREATED, inode=file.number)
            return self._opened(file)

    def open(self, path: str, flags: int) -> int:
        with self._lock:
            self._diary.strike(OPEN)
            file = self._tree.file(path)
            if flags & os.O_TRUNC:
                self._tree.set_length(file, 0)
                self._diary.note(Op.OPEN, path, flags=EMPTIED, inode=file.number)
            return self._opened(file)

    def write(self, _path: str, data: bytes, offset: int, handle: int) -> int:
        with self._lock:
            file = self._held(handle)
            if handle not in self._spared:
                data = data[: len(data) // 2] if self._diary.strike(WRITE) == "short" else data
            with self._diary.telling_full(WRITE):
                count = self._tree.write(file, data, offset)
            self._diary.note(Op.WRITE, inode=file.number, offset=offset, data=data[:count])
            return count

    def truncate(self, path: str, length: int, _handle: int | None = None) -> None:
        with self._lock:
            self._diary.strike(TRUNCATE)
            file = self._tree.file(path)
            self._tree.set_length(file, length)
            self._diary.note(Op.TRUNCATE, inode=file.number, length=length)

    def fallocate(self, _path: str, mode: int, offset: int, size: int, handle: int) -> None:
        keeps_size = 1
        with self._lock:
            file = self._held(handle)
            self._diary.strike(ALLOCATE)
            if mode & ~keeps_size:
                raise problem(errno.EOPNOTSUPP)
            with self._diary.telling_full(ALLOCATE):
                if self._tree.reserve(file, offset, size) < size:
                    raise problem(errno.ENOSPC)
            if not mode and offset + size > len(file.content):
                file.content.extend(bytes(offset + size - len(file.content)))
                self._diary.note(Op.ALLOCATE, inode=file.number, offset=offset, length=size)

    def mkdir(self, path: str, mode: int) -> None:
        with self._lock:
            self._diary.strike(MKDIR)
            self._diary.note(Op.MKDIR, path, inode=self._tree.mkdir(path, mode).number)

    def unlink(self, path: str) -> None:
        with self._lock:
            if path == f"/{self._order.name}/{FILLER}":
                self._tree.unlink(path)
                self._tree.free = None
            elif HIDDEN in path:
                self._tree.unlink(path)
            else:
                self._diary.strike(UNLINK)
                self._tree.unlink(path)
                self._diary.note(Op.UNLINK, path)

    def rmdir(self, path: str) -> None:
        with self._lock:
            self._diary.strike(UNLINK)
            self._tree.rmdir(path)
            self._diary.note(Op.RMDIR, path)

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            if HIDDEN in new:
                self._diary.strike(UNLINK)
                self._tree.rename(old, new)
                self._diary.hiding = (old, new)
            else:
                self._replace(old, new)

    def _replace(self, old: str, new: str) -> None:
        hidden, self._diary.hiding = self._diary.hiding, None
        try:
            self._diary.strike(RENAME)
        except OSError:
            if hidden is not None and hidden[0] == new:
                self._tree.rename(hidden[1], new)
            raise
        if hidden is not None and hidden[0] != new:
            self._diary.note(Op.UNLINK, hidden[0])
        self._tree.rename(old, new)
        self._diary.note(Op.RENAME, old, new_path=new)

    def link(self, new: str, old: str) -> None:
        with self._lock:
            self._diary.strike(OPEN)
            self._tree.link(old, new)
            self._diary.note(Op.LINK, old, new_path=new)

    def fsync(self, _path: str, data_only: int, handle: int) -> None:
        flags = DATA_ONLY if data_only else 0
        with self._lock:
            self._diary.strike(SYNC, inode=handle)
            self._diary.note(Op.SYNC, inode=handle, flags=flags)

    fsyncdir = fsync

    # --- what does not -----------------------------------------------------------------------------------

    def init_with_config(self, _connection: Any, config: Any) -> None:
        """The numbers of inodes are ours."""
        config.use_ino = 1

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        with self._lock:
            return _status(self._tree.find(path))

    def read(self, _path: str, size: int, offset: int, handle: int) -> bytes:
        with self._lock:
            return bytes(self._held(handle).content[offset : offset + size])

    def opendir(self, path: str) -> int:
        with self._lock:
            folder = self._tree.folder(path)
            self._open[folder.number] = folder
            return folder.number

    def readdir(self, _path: str, handle: int) -> list[tuple[str, dict[str, int], int]]:
        with self._lock:
            node = self._open[handle]
            assert isinstance(node, Folder)
            seen = {name: child for name, child in node.children.items() if HIDDEN not in name}
            names: dict[str, Node] = {".": node, "..": node, **seen}
            return [(name, {"st_mode": n.mode, "st_ino": n.number}, 0) for name, n in names.items()]

    def release(self, _path: str, handle: int) -> None:
        with self._lock:
            file = self._held(handle)
            file.opened -= 1
            if not file.opened:
                del self._open[handle]
                self._tree.let_go(file)

    def chmod(self, path: str, mode: int) -> None:
        with self._lock:
            node = self._tree.find(path)
            node.mode = node.mode & ~0o7777 | mode & 0o7777

    def chown(self, _path: str, _user: int, _group: int) -> None:
        pass

    def utimens(self, _path: str, _times: tuple[int, int] | None = None) -> None:
        pass

    def statfs(self, _path: str) -> dict[str, int]:
        with self._lock:
            free = BLOCKS if self._tree.free is None else self._tree.free
            sizes = {"f_bsize": BLOCK, "f_frsize": BLOCK, "f_namemax": NAME_MAX}
            return {**sizes, "f_blocks": 2 * BLOCKS, "f_bfree": free, "f_bavail": free}

    def _opened(self, file: File) -> int:
        file.opened += 1
        self._open[file.number] = file
        return file.number

    def _held(self, handle: int) -> File:
        node = self._open[handle]
        if not isinstance(node, File):
            raise problem(errno.EISDIR)
        return node


def _status(node: Node) -> dict[str, int]:
    size, blocks, links = 0, 0, 2
    if isinstance(node, File):
        size, blocks, links = len(node.content), len(node.blocks), node.links
    return {
        "st_mode": node.mode,
        "st_ino": node.number,
        "st_nlink": links,
        "st_size": size,
        "st_blocks": blocks * (BLOCK // 512),
        "st_uid": os.getuid(),
        "st_gid": os.getgid(),
        "st_mtime": node.changed_ns,
        "st_ctime": node.changed_ns,
        "st_atime": node.changed_ns,
    }
