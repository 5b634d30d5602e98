"""The faults and the records of the FUSE file system: which call fails, and what is written down of each."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

import msgspec

from raftstore.testing.crash.events import (
    ALLOCATE,
    MKDIR,
    OPEN,
    RENAME,
    SYNC,
    TRUNCATE,
    UNLINK,
    WRITE,
    Kind,
    encode,
)
from raftstore.testing.crash.fuse_tree import problem
from raftstore.testing.crash.record import Op, Record

KEPT: Final = 32
"""A flag of a record: a sync that failed kept its pages dirty."""
FILLER: Final = "filler"
"""The file in the directory of a run that takes all space, when a disk is full."""

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


class Diary:
    """Of one run. Not for several threads at a time."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._records: list[Record] = []
        self._events: int | None = None
        self._told = 0
        """How much of the file of events was taken."""
        self._count = 0
        """Calls so far that the fault is about."""
        self.hiding: tuple[str, str] | None = None
        """A file was renamed, from and to, to hide it: it is gone, if the next call does not replace it."""

    def end(self) -> list[Record]:
        """What happened, in its order. Twice is fine."""
        self._take_events()
        if self._events is not None:
            os.close(self._events)
            self._events = None
        return self._records

    def strike(self, kind: int, *, inode: int = 0) -> Damage | None:
        """Count the call; if it is one to fail, record and fail it, or say what else is to happen to it."""
        fault = self._order.fault
        if fault is None or not fault.kinds & kind or fault.damage == "full":
            return None
        self._count += 1
        if self._count < fault.nth or (self._count > fault.nth and not fault.sticky):
            return None
        if self._count == fault.nth:
            self._tell_fired(kind, 0 if fault.damage == "short" else fault.error)
        kept = KEPT if fault.damage == "fail" else 0
        self.note(_OPS[kind], inode=inode, flags=kept, error=fault.error)
        if fault.damage in ("fail", "drop"):
            raise problem(fault.error)
        return fault.damage

    @contextmanager
    def telling_full(self, kind: int) -> Generator[None]:
        """Tell of the first call that finds no block."""
        try:
            yield
        except OSError as error:
            if not self._count:
                self._tell_fired(kind, errno.ENOSPC)
            self._count += 1
            self.note(_OPS[kind], error=error.errno or errno.ENOSPC)
            raise

    def _tell_fired(self, kind: int, error: int) -> None:
        """As an event, so that it stands where it happened."""
        self._take_events()
        with suppress(FileNotFoundError):
            fd = os.open(self._order.events, os.O_WRONLY | os.O_APPEND)
            os.write(fd, encode(Kind.FIRED, kind, error))
            os.close(fd)

    def note(self, op: Op, path: str = "", *, new_path: str = "", **parts: Any) -> None:
        """Record a call, after the events that the process told before it."""
        self._take_events()
        blank: dict[str, Any] = {"flags": 0, "error": 0, "inode": 0, "offset": 0, "length": 0, "data": b""}
        names: dict[str, Any] = {"path": self._within(path), "new_path": self._within(new_path)}
        self._records.append(Record(op=op, **{**blank, **parts, **names}))

    def _take_events(self) -> None:
        hidden, self.hiding = self.hiding, None
        if hidden is not None:
            self.note(Op.UNLINK, hidden[0])
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
