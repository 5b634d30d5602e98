"""A disk in memory that a recorded process wrote to, and what of it is durable; `image` cuts its power.

Two models. `posix`: what was not synced is there or not, each sector of 512 bytes, each file's length and
each change of a name by itself, whatever the order. `ext4`: as a journal in ordered mode has it, where
changes of names and lengths become durable in their order, a sync commits all of them, and a length is not
durable before the data below it. In both, a rename happens or does not, and a sync that failed makes nothing
durable, while a later one that succeeds covers only pages that were written again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from raftstore.testing.crash.changes import (
    PAGE,
    SECTOR,
    Change,
    Data,
    File,
    Folder,
    Keep,
    Length,
    Naming,
    Node,
    put,
    rename,
    sum_of,
)
from raftstore.testing.crash.record import CREATED, DATA_ONLY, DIRECTORY, EMPTIED, SYNCED, Op, Record

Model = Literal["posix", "ext4"]
_NEVER: Final = 1 << 62


class Disk:
    """Takes the records of a process in their order; knows what is durable and what is pending."""

    def __init__(self, model: Model) -> None:
        self.model: Model = model
        self.root = Folder()
        self.namings: list[Naming] = []
        self.dirty: dict[File, None] = {}
        """Files with pending changes, in the order in which they became so."""
        self.sync_failed = False
        """Some sync so far did."""
        self._inodes: dict[int, Node] = {}
        self._order = 0
        self._call = 0

    # --- what a process does -----------------------------------------------------------------------------

    def load(self, directory: Path) -> None:
        """Begin with what is in `directory`, all of it durable."""
        self._load(directory, self.root)

    def _load(self, directory: Path, folder: Folder) -> None:
        self._inodes[directory.stat().st_ino] = folder
        for child in sorted(directory.iterdir()):
            node = Folder() if child.is_dir() else File()
            if isinstance(node, Folder):
                self._load(child, node)
            else:
                self._inodes[child.stat().st_ino] = node
                data = child.read_bytes()
                self._apply_data(node, 0, data.rstrip(b"\0"))
                node.size = node.now_size = len(data)
                node.is_new = False
            folder.now[child.name] = folder.durable[child.name] = node

    def changes(self, record: Record) -> bool:
        """Whether `record` changes what a power cut may leave."""
        if record.op is Op.SYNC:
            return record.error == 0 or bool(self.dirty)
        if record.op is Op.OPEN:
            return bool(record.flags & (CREATED | EMPTIED))
        return record.op is not Op.EVENT and (record.error == 0)

    def apply(self, record: Record) -> None:
        """Take the next record in, but not what is done to a name that an unrecorded process gave."""
        self._call += 1
        if record.op is Op.SYNC:
            self._sync(record)
        elif record.error == 0:
            with suppress(KeyError):
                self._done(record)

    def _done(self, record: Record) -> None:
        match record.op:
            case Op.OPEN:
                self._open(record)
            case Op.WRITE:
                self._write(record)
            case Op.TRUNCATE | Op.ALLOCATE:
                file = self._file(record)
                length = record.offset + record.length
                if file is not None and (record.op is Op.TRUNCATE or length > file.now_size):
                    self._set_length(file, length)
            case Op.MKDIR:
                folder = self._inodes[record.inode] = Folder()
                self._name([], [(*self._place(record.path), folder)])
            case Op.UNLINK | Op.RMDIR:
                self._name([self._place(record.path)], [])
            case Op.RENAME:
                place = self._place(record.path)
                self._name([place], [(*self._place(record.new_path), place[0].now[place[1]])])
            case Op.LINK:
                folder, name = self._place(record.path)
                self._name([], [(*self._place(record.new_path), folder.now[name])])
            case _:
                pass

    def _open(self, record: Record) -> None:
        if record.flags & DIRECTORY:
            self._inodes.setdefault(record.inode, self.root if not record.path else self._find(record.path))
        elif record.flags & CREATED:
            file = self._inodes[record.inode] = File()
            self._name([], [(*self._place(record.path), file)])
        elif record.flags & EMPTIED:
            node = self._find(record.path)
            assert isinstance(node, File)
            self._set_length(node, 0)

    def _file(self, record: Record) -> File | None:
        node = self._inodes.get(record.inode)
        return node if isinstance(node, File) else None

    def _find(self, path: str) -> Node:
        folder, name = self._place(path)
        return folder.now[name]

    def _place(self, path: str) -> tuple[Folder, str]:
        *parents, name = [part for part in path.split("/") if part not in ("", ".")]
        node: Node = self.root
        for part in parents:
            assert isinstance(node, Folder)
            node = node.now[part]
        assert isinstance(node, Folder)
        return node, name

    def _name(self, removed: list[tuple[Folder, str]], added: list[tuple[Folder, str, Node]]) -> None:
        for folder, name in removed:
            del folder.now[name]
        for folder, name, node in added:
            folder.now[name] = node
        self._order += 1
        self.namings.append(Naming(self._order, self._call, False, tuple(removed), tuple(added)))

    def _write(self, record: Record) -> None:
        file = self._file(record)
        if file is None:
            return
        at, data = record.offset, record.data
        written: list[Data] = []
        while data:
            part = data[: SECTOR - at % SECTOR]
            if not self._is_there(file, at, part):
                self._order += 1
                written.append(Data(self._order, self._call, False, at, part))
            at, data = at + len(part), data[len(part) :]
        if at > file.now_size:
            self._set_length(file, at)
        file.pending += written
        if record.flags & SYNCED:
            sectors = {change.sector for change in written}
            self._fold(file, lambda change: isinstance(change, Length) or _sector(change) in sectors)
        elif file.pending:
            self.dirty[file] = None

    def _is_there(self, file: File, at: int, part: bytes) -> bool:
        """Whether the write changes nothing, neither now nor after a power cut."""
        sector = at // SECTOR
        if any(isinstance(change, Length) or change.sector == sector for change in file.pending):
            return False
        return bytes(file.content[at : at + len(part)]).ljust(len(part), b"\0") == part

    def _set_length(self, file: File, length: int) -> None:
        if length != file.now_size:
            self._order += 1
            file.pending.append(Length(self._order, self._call, False, length))
            file.now_size = length
            self.dirty[file] = None

    # --- what becomes durable ----------------------------------------------------------------------------

    def _sync(self, record: Record) -> None:
        node = self._inodes.get(record.inode)
        if record.error:
            self.sync_failed = True
            if isinstance(node, File):
                for change in node.pending:
                    change.orphan = True
            return
        if self.model == "ext4" and self._commits(node, record):
            self._commit()
        if isinstance(node, File):
            self._fold(node, lambda change: True)
        elif node is not None:
            self._fold_names(lambda naming: _touches(naming, node))

    def _commits(self, node: Node | None, record: Record) -> bool:
        """Whether this sync commits the journal: fdatasync of unchanged metadata does not."""
        if not isinstance(node, File) or not record.flags & DATA_ONLY:
            return True
        return node.is_new or any(isinstance(change, Length) for change in node.pending)

    def _commit(self) -> None:
        """All changes of names and lengths so far, and the data below new lengths, are durable."""
        self._fold_names(lambda naming: True)
        for file in list(self.dirty):
            grows = any(isinstance(change, Length) for change in file.pending)
            self._fold(file, _from_sector(file.size // SECTOR if grows else _NEVER))

    def _fold_names(self, which: Callable[[Naming], bool]) -> None:
        rest: list[Naming] = []
        for naming in self.namings:
            if which(naming):
                rename(naming, lambda folder: folder.durable)
                for _, _, node in naming.added:
                    if isinstance(node, File) and self.model == "ext4":
                        node.is_new = False
            else:
                rest.append(naming)
        self.namings = rest

    def _fold(self, file: File, which: Keep) -> None:
        """Changes for which `which` holds are durable, but for those whose earlier sync failed."""
        written = [change for change in file.pending if isinstance(change, Data)]
        covered = {change.offset // PAGE for change in written if not change.orphan}
        rest: list[Data | Length] = []
        for change in file.pending:
            lost = isinstance(change, Data) and change.orphan and change.offset // PAGE not in covered
            if lost or not which(change):
                rest.append(change)
            elif isinstance(change, Data):
                self._apply_data(file, change.offset, change.data)
            else:
                self._apply_length(file, change.length)
        file.pending = rest
        if rest:
            self.dirty[file] = None
        else:
            self.dirty.pop(file, None)

    def _apply_data(self, file: File, offset: int, data: bytes) -> None:
        put(file.content, offset, data)
        for sector in range(offset // SECTOR, (offset + len(data) + SECTOR - 1) // SECTOR):
            self._count(file, sector)

    def _apply_length(self, file: File, length: int) -> None:
        if length < len(file.content):
            first = length // SECTOR
            last = len(file.content) // SECTOR
            del file.content[length:]
            for sector in range(first, last + 1):
                self._count(file, sector)
        file.size = length

    def _count(self, file: File, sector: int) -> None:
        new = sum_of(sector, file.content)
        file.total += new - file.sums.pop(sector, 0)
        if new:
            file.sums[sector] = new

    def pending(self) -> list[Change]:
        """Everything that is not durable, in order."""
        changes: list[Change] = [*self.namings]
        for file in self.dirty:
            changes += file.pending
        return sorted(changes, key=lambda change: change.order)


def _from_sector(edge: int) -> Keep:
    """Changes of the length, and of data from the sector `edge` on."""
    return lambda change: isinstance(change, Length) or _sector(change) >= edge


def _sector(change: Change) -> int:
    return change.sector if isinstance(change, Data) else -1


def _touches(naming: Naming, folder: Node) -> bool:
    return any(place[0] is folder for place in (*naming.removed, *naming.added))
