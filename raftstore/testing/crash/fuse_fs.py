"""The FUSE file system of the crash tests: records what happens in it, and lets chosen calls fail.

Serves one run after the other, each in a directory of its own below the root. Nothing here is imported from
a FUSE library: `fuse_server` hands the methods to one, and they can be called without.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

import msgspec

from raftstore.testing.crash.events import RECORD, Kind
from raftstore.testing.crash.faults import ALLOCATE, MKDIR, OPEN, RENAME, SYNC, TRUNCATE, UNLINK, WRITE
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

KEPT: Final = 32
"""A flag of a record: a sync that failed kept its pages dirty."""
FILLER: Final = "filler"
"""The file in the directory of a run that takes all space, when a disk is full."""
OWN: Final = "lock.mdb"
"""LMDB's table of readers: a mapping in memory that the kernel writes back when it likes, never synced."""

_OPS: Final = {
    WRITE: Op.WRITE,
    SYNC: Op.SYNC,
    OPEN: Op.OPEN,
    RENAME: Op.RENAME,
    UNLINK: Op.UNLINK,
    ALLOCATE: Op.ALLOCATE,
    TRUNCATE: Op.TRUNCATE,
    MKDIR: Op.MKDIR,
}

Damage = Literal["fail", "drop", "short", "full"]


class FuseFault(msgspec.Struct, frozen=True):
    """What happens to the `nth` call of the kinds in the mask `kinds`; `sticky`: to all later too.

    `fail`: the call fails with `error`, and a failed sync keeps its pages dirty. `drop`: the sync fails, and
    its pages count as clean from then on. `short`: half of a write is done. `full`: there are only `nth`
    blocks, and what others free, until the file `FILLER` is removed.
    """

    kinds: int
    nth: int
    damage: Damage
    error: int = errno.EIO
    sticky: bool = False


class Order(msgspec.Struct, frozen=True):
    """Begin a run: in the directory `name`; the driven process tells its events in the file `events`."""

    name: str
    events: str
    fault: FuseFault | None = None


class FaultFs:
    """What a FUSE library calls. One call at a time; `begin` and `end` from another thread."""

    use_ns: Final = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held during every call; guards everything below."""
        self._tree = Tree()
        self._open: dict[int, Node] = {}
        self._records: list[Record] = []
        self._order = Order("", "")
        self._events: int | None = None
        self._told = 0
        """How much of the file of events was taken."""
        self._count = 0
        """Calls so far that the fault is about."""
        self._hiding: tuple[str, str] | None = None
        """A file was renamed, from and to, to hide it: it is gone, if the next call does not replace it."""
        self._spared: set[int] = set()
        """Files whose writes come when the kernel likes; they do not count."""

    # --- runs --------------------------------------------------------------------------------------------

    def begin(self, order: Order) -> None:
        """A new run in a new directory; what was there before is forgotten."""
        with self._lock:
            self._forget()
            self._order = order
            arena = self._tree.mkdir(f"/{order.name}", 0o700)
            self._note(Op.OPEN, flags=DIRECTORY, inode=arena.number)
            if order.fault is not None and order.fault.damage == "full":
                self._tree.create(f"/{order.name}/{FILLER}", 0o600)
                self._tree.free = order.fault.nth

    def end(self) -> list[Record]:
        """What happened, in its order."""
        with self._lock:
            self._take_events()
            if self._events is not None:
                os.close(self._events)
                self._events = None
            return self._records

    def _forget(self) -> None:
        self._tree.root.children.clear()
        self._tree.free = None
        self._records = []
        self._told = self._count = 0
        self._hiding = None
        self._spared.clear()

    # --- what changes files ------------------------------------------------------------------------------

    def create(self, path: str, mode: int, flags: int) -> int:
        with self._lock:
            self._strike(OPEN)
            file = self._tree.create(path, mode)
            if path.endswith(f"/{OWN}"):
                self._spared.add(file.number)
            self._note(Op.OPEN, path, flags=CREATED, inode=file.number)
            return self._opened(file)

    def open(self, path: str, flags: int) -> int:
        with self._lock:
            self._strike(OPEN)
            file = self._tree.file(path)
            if flags & os.O_TRUNC:
                self._tree.set_length(file, 0)
                self._note(Op.OPEN, path, flags=EMPTIED, inode=file.number)
            return self._opened(file)

    def write(self, _path: str, data: bytes, offset: int, handle: int) -> int:
        with self._lock:
            file = self._held(handle)
            if handle not in self._spared:
                data = data[: len(data) // 2] if self._strike(WRITE) == "short" else data
            with self._telling_full(WRITE):
                count = self._tree.write(file, data, offset)
            self._note(Op.WRITE, inode=file.number, offset=offset, data=data[:count])
            return count

    def truncate(self, path: str, length: int, _handle: int | None = None) -> None:
        with self._lock:
            self._strike(TRUNCATE)
            file = self._tree.file(path)
            self._tree.set_length(file, length)
            self._note(Op.TRUNCATE, inode=file.number, length=length)

    def fallocate(self, _path: str, mode: int, offset: int, size: int, handle: int) -> None:
        keeps_size = 1
        with self._lock:
            file = self._held(handle)
            self._strike(ALLOCATE)
            if mode & ~keeps_size:
                raise problem(errno.EOPNOTSUPP)
            with self._telling_full(ALLOCATE):
                if self._tree.reserve(file, offset, size) < size:
                    raise problem(errno.ENOSPC)
            if not mode and offset + size > len(file.content):
                file.content.extend(bytes(offset + size - len(file.content)))
                self._note(Op.ALLOCATE, inode=file.number, offset=offset, length=size)

    def mkdir(self, path: str, mode: int) -> None:
        with self._lock:
            self._strike(MKDIR)
            self._note(Op.MKDIR, path, inode=self._tree.mkdir(path, mode).number)

    def unlink(self, path: str) -> None:
        with self._lock:
            if path == f"/{self._order.name}/{FILLER}":
                self._tree.unlink(path)
                self._tree.free = None
            elif HIDDEN in path:
                self._tree.unlink(path)
            else:
                self._strike(UNLINK)
                self._tree.unlink(path)
                self._note(Op.UNLINK, path)

    def rmdir(self, path: str) -> None:
        with self._lock:
            self._strike(UNLINK)
            self._tree.rmdir(path)
            self._note(Op.RMDIR, path)

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            if HIDDEN in new:
                self._strike(UNLINK)
                self._tree.rename(old, new)
                self._hiding = (old, new)
            else:
                self._replace(old, new)

    def _replace(self, old: str, new: str) -> None:
        hidden, self._hiding = self._hiding, None
        try:
            self._strike(RENAME)
        except OSError:
            if hidden is not None and hidden[0] == new:
                self._tree.rename(hidden[1], new)
            raise
        if hidden is not None and hidden[0] != new:
            self._note(Op.UNLINK, hidden[0])
        self._tree.rename(old, new)
        self._note(Op.RENAME, old, new_path=new)

    def link(self, new: str, old: str) -> None:
        with self._lock:
            self._strike(OPEN)
            self._tree.link(old, new)
            self._note(Op.LINK, old, new_path=new)

    def fsync(self, _path: str, data_only: int, handle: int) -> None:
        flags = DATA_ONLY if data_only else 0
        with self._lock:
            self._strike(SYNC, inode=handle)
            self._note(Op.SYNC, inode=handle, flags=flags)

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

    # --- faults and records ------------------------------------------------------------------------------

    def _opened(self, file: File) -> int:
        file.opened += 1
        self._open[file.number] = file
        return file.number

    def _held(self, handle: int) -> File:
        node = self._open[handle]
        if not isinstance(node, File):
            raise problem(errno.EISDIR)
        return node

    def _strike(self, kind: int, *, inode: int = 0) -> Damage | None:
        """Count the call; if it is one to fail, record and fail it, or say what else is to happen to it."""
        fault = self._order.fault
        if fault is None or not fault.kinds & kind or fault.damage == "full":
            return None
        self._count += 1
        if self._count < fault.nth or (self._count > fault.nth and not fault.sticky):
            return None
        if self._count == fault.nth:
            self._tell_fired(kind)
        kept = KEPT if fault.damage == "fail" else 0
        self._note(_OPS[kind], inode=inode, flags=kept, error=fault.error)
        if fault.damage in ("fail", "drop"):
            raise problem(fault.error)
        return fault.damage

    @contextmanager
    def _telling_full(self, kind: int) -> Generator[None]:
        """Tell of the first call that finds no block."""
        try:
            yield
        except OSError as error:
            if not self._count:
                self._tell_fired(kind)
            self._count += 1
            self._note(_OPS[kind], error=error.errno or errno.ENOSPC)
            raise

    def _tell_fired(self, kind: int) -> None:
        """As an event, so that it stands where it happened."""
        self._take_events()
        with suppress(FileNotFoundError):
            fd = os.open(self._order.events, os.O_WRONLY | os.O_APPEND)
            os.write(fd, RECORD.pack(Kind.FIRED, kind, 0))
            os.close(fd)

    def _note(self, op: Op, path: str = "", *, new_path: str = "", **parts: Any) -> None:
        """Record a call, after the events that the process told before it."""
        self._take_events()
        blank: dict[str, Any] = {"flags": 0, "error": 0, "inode": 0, "offset": 0, "length": 0, "data": b""}
        names: dict[str, Any] = {"path": self._within(path), "new_path": self._within(new_path)}
        self._records.append(Record(op=op, **{**blank, **parts, **names}))

    def _take_events(self) -> None:
        hidden, self._hiding = self._hiding, None
        if hidden is not None:
            self._note(Op.UNLINK, hidden[0])
        if self._events is None:
            with suppress(FileNotFoundError):
                self._events = os.open(self._order.events, os.O_RDONLY)
        if self._events is None:
            return
        data = os.pread(self._events, 1 << 20, self._told)
        if data:
            self._told += len(data)
            blank: dict[str, Any] = {"flags": 0, "error": 0, "inode": 0, "offset": 0, "length": 0}
            self._records.append(Record(op=Op.EVENT, path="", new_path="", data=data, **blank))

    def _within(self, path: str) -> str:
        return path.removeprefix(f"/{self._order.name}").lstrip("/")


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
