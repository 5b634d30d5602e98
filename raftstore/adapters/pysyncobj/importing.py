"""Moving a journal of PySyncObj's own into a store: log, term, vote and commit index."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

import msgspec

from raftstore.adapters.pysyncobj.journal_file import meta_path, read_entries, read_hard_state
from raftstore.config import load
from raftstore.durable import make_directory, make_path, sync_directory
from raftstore.entry import NO_ENTRY, Entry, HardState, LogId
from raftstore.errors import ConfigError, CorruptionError, StoreLockedError
from raftstore.log import open as open_log
from raftstore.storeconfig import StoreConfig

CHUNK_BYTES: Final = 4 << 20
"""Payload bytes of one write."""
CHUNK_ENTRIES: Final = 10_000


class Imported(msgspec.Struct, frozen=True):
    """What was moved: the ids of the entry before the first and of the last, and Raft's state."""

    path: Path
    anchor: LogId
    last: LogId
    hard_state: HardState

    @property
    def entries(self) -> int:
        """How many."""
        return self.last.index - self.anchor.index


def import_journal(journal: str | os.PathLike[str], target: str | os.PathLike[str] | StoreConfig) -> Imported:
    """Make the store `target` of the journal that PySyncObj kept in the file `journal` and its `.meta`.

    The node must be stopped. The store appears under its name only when all of it was written, read back and
    compared; before, it is built beside, in `NAME.importing`. The journal's files are only read. A dump file
    stays what it is: give it to the node as before.

    Raises, and leaves no store, `ConfigError` if there is something at the target already, `FormatError`
    if `journal` is none, `CorruptionError` if it is damaged (which entry, what is missing),
    `StoreLockedError` if it changed meanwhile, and what `raftstore.open` and `RaftLog.save` raise.
    """
    source, config = Path(journal), load(target)
    _refuse_used(config.path)
    before = _fingerprint(source)
    found = _examine(source, config.path)
    building = _make_beside(config.path)
    staged = msgspec.structs.replace(config, path=building, create=True)
    try:
        _fill(staged, source, found)
        _verify(staged, source, found)
        if _fingerprint(source) != before:
            raise StoreLockedError(f"{source} changed while it was read: stop its node, then try again")
        building.rename(config.path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync_directory(config.path.parent)
    return found


def _refuse_used(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise ConfigError(f"there is something at {path} already: a journal becomes a new store", key="path")


def _make_beside(path: Path) -> Path:
    building = path.with_name(path.name + ".importing")
    make_path(path.parent)
    try:
        make_directory(building)
    except FileExistsError:
        raise ConfigError(
            f"{building} is there: another import is running, or one was interrupted; then remove it",
            key="path",
        ) from None
    return building


def _fingerprint(source: Path) -> list[tuple[int, int, int] | None]:
    return [_stat(file) for file in (source, meta_path(source))]


def _stat(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _examine(source: Path, path: Path) -> Imported:
    """Read all of the journal once, so that damage is found before anything is made."""
    anchor, last = NO_ENTRY, NO_ENTRY
    for entry in read_entries(source):
        if last == NO_ENTRY:
            anchor = LogId(0, entry.index - 1)
        last = entry.id
    state = read_hard_state(source, last.term)
    if state.commit > max(last.index, 1):  # 1 is what PySyncObj takes for none
        raise CorruptionError(
            f"entries up to {state.commit} are committed, but those after {last.index} are missing",
            file=source,
            first_index=last.index + 1,
            last_index=state.commit,
        )
    commit = max(anchor.index, min(state.commit, last.index))
    return Imported(path, anchor, last, msgspec.structs.replace(state, commit=commit))


def _fill(staged: StoreConfig, source: Path, found: Imported) -> None:
    chunk_bytes = min(CHUNK_BYTES, staged.limits.write_bytes_max)
    with open_log(staged) as log:
        if found.anchor != NO_ENTRY:
            log.reset(found.anchor)
        for chunk in _chunks(read_entries(source), chunk_bytes):
            log.save(chunk)
        log.save_hard_state(found.hard_state)


def _chunks(entries: Iterable[Entry], bytes_max: int) -> Iterator[list[Entry]]:
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        if chunk and (size + len(entry.data) > bytes_max or len(chunk) == CHUNK_ENTRIES):
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += len(entry.data)
    if chunk:
        yield chunk


def _verify(staged: StoreConfig, source: Path, found: Imported) -> None:
    """Open the store again and compare all of it with the journal."""
    with open_log(staged) as log:
        for stored, wanted in zip_longest(log.scan(), read_entries(source)):
            if stored != wanted:
                index = (stored or wanted or Entry(0, 0, b"")).index
                raise CorruptionError(f"entry {index} was read back otherwise", file=log.config.path)
        if (log.anchor, log.last, log.hard_state) != (found.anchor, found.last, found.hard_state):
            raise CorruptionError(f"read back was {log.hard_state}, {log.anchor}..{log.last}", file=source)
