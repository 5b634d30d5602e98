"""A simulated disk under the file layer, for tests: it forgets, tears, refuses and fails as real ones do.

What was written and not synced is, after `power_cut`, there or not, sector by sector; a name that was made,
changed or removed and not synced is there or not. Calls can be made to fail by their number.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from random import Random
from typing import Final

from raftstore_segmented.files import NotRegularError

SECTOR: Final = 512


class PowerCutError(Exception):
    """The simulated machine is off: every call ends so. No `OSError`: no code for failing disks takes it."""


class SimulatedFile:
    """The content of a file: as the running system sees it, and as the disk has it."""

    def __init__(self, durable: bytes = b"") -> None:
        self.data = bytearray(durable)
        self.durable = bytearray(durable)
        self.dirty: set[int] = set()

    def write(self, data: bytes, offset: int) -> None:
        if offset + len(data) > len(self.data):
            self.data.extend(bytes(offset + len(data) - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.dirty.update(range(offset // SECTOR, (offset + len(data) + SECTOR - 1) // SECTOR))

    def truncate(self, length: int) -> None:
        self.dirty.add(length // SECTOR)
        del self.data[length:]
        self.data.extend(bytes(length - len(self.data)))

    def sync(self) -> None:
        del self.durable[len(self.data) :]
        self.durable.extend(bytes(len(self.data) - len(self.durable)))
        for sector in self.dirty:
            start = sector * SECTOR
            self.durable[start : start + SECTOR] = self.data[start : start + SECTOR]
        self.dirty.clear()

    def forget(self) -> None:
        """A sync failed: the system takes the pages for clean, the disk never had them."""
        self.dirty.clear()

    def after_power_cut(self, random: Random) -> SimulatedFile:
        """What the disk has: of every sector that was not synced, the old or the new version."""
        length = random.choice([len(self.durable), len(self.data)])
        kept = bytearray(self.durable.ljust(length, b"\0")[:length])
        chance = random.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for sector in self.dirty:
            if random.random() < chance:
                start = sector * SECTOR
                kept[start : start + SECTOR] = self.data[start : min(start + SECTOR, length)]
        return SimulatedFile(bytes(kept[:length]))


class SimulatedDisk:
    """A `FileLayer` in memory. `before_call` is asked before every call that changes something."""

    def __init__(self, bytes_max: int = 1 << 40) -> None:
        self.bytes_max = bytes_max
        self.files: dict[str, SimulatedFile] = {}
        self.calls: list[str] = []
        """The calls so far that changed something."""
        self.before_call: Callable[[int, str], None] = lambda number, call: None
        self._names: dict[str, SimulatedFile] = {}
        """The directory as the disk has it; what happened since is in the list."""
        self._since: list[tuple[str, str | None, SimulatedFile]] = []
        self._open: dict[int, SimulatedFile] = {}
        self._lock = threading.RLock()
        """Guards everything; a simulated call takes no time."""
        self._next_fd = 1000
        self._off = False

    @classmethod
    def holding(cls, image: dict[str, bytes]) -> SimulatedDisk:
        """A disk with these files, all of them durable."""
        disk = cls()
        disk.files = {name: SimulatedFile(data) for name, data in image.items()}
        disk._names = dict(disk.files)
        return disk

    def image(self) -> dict[str, bytes]:
        """The files as the running system sees them."""
        with self._lock:
            return {name: bytes(file.data) for name, file in self.files.items()}

    @property
    def open_count(self) -> int:
        """Descriptors that were not closed."""
        return len(self._open)

    def switch_off(self) -> None:
        """Every call from now on raises `PowerCutError`."""
        self._off = True

    def power_cut(self, random: Random) -> SimulatedDisk:
        """The disk that the next process finds, after the power went; this one is off."""
        with self._lock:
            self._off = True
            names = dict(self._names)
            ordered = random.random() < 0.5
            keep = random.randint(0, len(self._since))
            for position, (name, old, file) in enumerate(self._since):
                if position < keep if ordered else random.random() < 0.5:
                    _change(names, name, old, file)
            return self._with(names, {file: file.after_power_cut(random) for file in names.values()})

    def killed(self) -> SimulatedDisk:
        """The disk that the next process finds after this one was killed; nothing got synced by that."""
        with self._lock:
            self._off = True
            disk = SimulatedDisk(self.bytes_max)
            disk.files, disk._names, disk._since = self.files, self._names, self._since
            return disk

    def _with(
        self, names: dict[str, SimulatedFile], kept: dict[SimulatedFile, SimulatedFile]
    ) -> SimulatedDisk:
        disk = SimulatedDisk(self.bytes_max)
        disk.files = {name: kept[file] for name, file in names.items()}
        disk._names = dict(disk.files)
        return disk

    def _call(self, call: str) -> None:
        if self._off:
            raise PowerCutError(call)
        self.calls.append(call)
        self.before_call(len(self.calls), call)

    def _record(self, name: str, old: str | None, file: SimulatedFile) -> None:
        _change(self.files, name, old, file)
        self._since.append((name, old, file))

    def names(self) -> list[str]:
        return list(self.files)

    def _find(self, name: str) -> SimulatedFile:
        if self._off:
            raise PowerCutError(name)
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return self.files[name]

    def open(self, name: str, *, writable: bool) -> int:
        with self._lock:
            return self._descriptor(self._find(name))

    def _descriptor(self, file: SimulatedFile) -> int:
        self._next_fd += 1
        self._open[self._next_fd] = file
        return self._next_fd

    def create(self, name: str) -> int:
        with self._lock:
            self._call(f"create {name}")
            if name in self.files:
                raise FileExistsError(errno.EEXIST, "exists", name)
            file = SimulatedFile()
            self._record(name, None, file)
            return self._descriptor(file)

    def close(self, fd: int) -> None:
        with self._lock:
            del self._open[fd]

    def size(self, fd: int) -> int:
        return len(self._open[fd].data)

    def size_of(self, name: str) -> int:
        if name.endswith("/"):
            raise NotRegularError(name)
        return len(self._find(name).data)

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        with self._lock:
            if self._off:
                raise PowerCutError("pread")
            if length < 0 or offset < 0:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return bytes(self._open[fd].data[offset : offset + length])

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int, /) -> int:
        with self._lock:
            file = self._open[fd]
            room = self._room(file, offset + len(data))
            self._call(f"pwrite {fd}")
            length = min(len(data), max(len(file.data) + room - offset, 0))
            if length == 0 and len(data):
                raise OSError(errno.ENOSPC, "disk full")
            file.write(bytes(data[:length]), offset)
            return length

    def _room(self, file: SimulatedFile, stop: int) -> int:
        """How many bytes longer the file may become."""
        used = sum(len(other.data) for other in set(self.files.values()))
        return min(max(stop - len(file.data), 0), max(self.bytes_max - used, 0))

    def fdatasync(self, fd: int, /) -> None:
        with self._lock:
            try:
                self._call(f"fdatasync {fd}")
            except OSError:
                self._open[fd].forget()
                raise
            self._open[fd].sync()

    def allocate(self, fd: int, length: int) -> None:
        """Does nothing: a full disk shows while writing."""

    def truncate(self, fd: int, length: int) -> None:
        with self._lock:
            self._call(f"truncate {fd}")
            self._open[fd].truncate(length)

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            self._call(f"rename {old} {new}")
            self._record(new, old, self._find(old))

    def unlink(self, name: str) -> None:
        with self._lock:
            file = self._find(name)
            self._call(f"unlink {name}")
            self._record("", name, file)

    def sync_directory(self) -> None:
        with self._lock:
            self._call("sync_directory")
            self._names = dict(self.files)
            self._since.clear()

    def release(self) -> None: ...


def _change(names: dict[str, SimulatedFile], name: str, old: str | None, file: SimulatedFile) -> None:
    """Make `name` (unless empty) mean the file, and take `old` away, if that is possible in `names`."""
    if old is not None and names.pop(old, None) is not file:
        return
    if name:
        names[name] = file
